"""M turned into modulations once, for many calls."""

import pytest
import torch


@pytest.mark.parametrize("finest", [None, 2])
def test_conditions_stand_for_m(hsvlc, finest):
    torch.manual_seed(0)
    latents, weight_map = torch.randn(2, 4, 21, 26), torch.rand(2, 1, 3, 4)
    options = {"return_bits": True, "finest": None if finest is None else torch.tensor([finest, 3])}
    with torch.no_grad():
        expected = hsvlc(latents, weight_map, **options)
        ours = hsvlc(latents, hsvlc.condition(weight_map, 21, 26), **options)
    assert torch.equal(ours.sample, expected.sample)
    assert all(torch.equal(ours_bits, bits) for ours_bits, bits in zip(ours.bits, expected.bits, strict=True))
    with pytest.raises(ValueError, match="expected \\(2, 1, 3, 5\\)"):
        hsvlc.condition(weight_map, 21, 33)
