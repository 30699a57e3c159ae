"""The codec's own account of what it costs: lambda(M), R(M) and D(M) from its config."""

import math

import numpy as np
import pytest
import torch

from rsic_diffusers import HSVLC
from rsic_diffusers.models.measurement import measure_codec
from rsic_diffusers.models.rate import PAPER_PROFILE, distortion_weight
from rsic_diffusers.pipelines.latents import encode_image


TINY = {"hidden_channels": (8, 8, 8, 8), "code_channels": (4, 4, 4, 4), "prior_channels": 8}


def test_the_default_codec_is_the_papers():
    """Gates 0, 1/2, 3/4, 7/8, and lambda(M) = 0.01 exp(7 M) against bits per pixel, 64 pixels a latent position."""
    config = HSVLC(**TINY).config
    assert tuple(config.gates) == (0, 1 / 2, 3 / 4, 7 / 8)
    for weight in (0.0, 0.3, 1.0):
        per_pixel = 0.01 * math.exp(7 * weight)
        assert distortion_weight(weight, config.rate_lambda, config.lambda_growth) == pytest.approx(64 * per_pixel)
    assert PAPER_PROFILE["gates"] == config.gates


def test_distortion_weight_takes_numbers_arrays_and_tensors():
    weights = [0.0, 0.25, 1.0]
    expected = [0.2 * math.exp(6 * weight) for weight in weights]
    np.testing.assert_allclose(distortion_weight(np.array(weights), 0.2, 6.0), expected)
    torch.testing.assert_close(distortion_weight(torch.tensor(weights), 0.2, 6.0), torch.tensor(expected))


def test_error_and_rate_are_interpolated_between_the_levels():
    errors, rates = [1 / 2**k for k in range(8)], [0.001 * 3**k for k in range(8)]
    codec = HSVLC(**TINY, level_error=errors, level_bpp=rates, latent_variance=[1.0, 2.0, 3.0, 2.0])
    weight_map = torch.tensor([[0.0, 1 / 7, 3.5 / 7], [6.25 / 7, 1.0, 0.0]])
    expected = torch.tensor([[1, 1 / 2, 2**-3.5], [2**-6.25, 2**-7, 1]])
    torch.testing.assert_close(codec.error_at(weight_map), expected)
    torch.testing.assert_close(codec.rate_at(weight_map), 0.001 * 3 ** (7 * weight_map))
    assert codec.error_at(weight_map.bfloat16()).dtype == torch.float32
    # Per squared unit of the latents, whose mean variance is 2.
    torch.testing.assert_close(codec.lambda_at(weight_map), 0.64 * torch.exp(7 * weight_map) / 2)


def test_a_codec_that_was_never_measured_says_what_to_do():
    with pytest.raises(ValueError, match="no level_error.*measure_codec"):
        HSVLC(**TINY).error_at(torch.zeros(1))
    with pytest.raises(ValueError, match="no latent_variance.*measure_codec"):
        HSVLC(**TINY).lambda_at(torch.zeros(1))


def test_rsic_tiny_was_measured_on_photos_like_others(encoder, photo):
    """Its error on a whole photo that it was not measured on, within a factor of two (a wrong unit would be four times
    off); and lambda as its training had it, 0.14085 exp(8.2 M) / 0.99205."""
    hsvlc = encoder.hsvlc
    with torch.no_grad():
        latents = encode_image(encoder.vae, encoder.image_processor.preprocess(photo))
    for weight in (0.0, 1.0):
        weight_map = torch.full(hsvlc.map_shape(*latents.shape[-2:]), weight)
        data = hsvlc.compress(latents, weight_map).data
        error = (hsvlc.decompress(data, weight_map, latents.shape[-2:]) - latents).square().mean()
        assert 0.5 < float(hsvlc.error_at(weight_map).mean() / error) < 2
        expected = 0.14085 * math.exp(8.2 * weight) / 0.99205
        assert float(hsvlc.lambda_at(weight_map).mean()) == pytest.approx(expected, rel=1e-3)


def test_measuring_finds_what_streams_cost(hsvlc, photo_latents, tmp_path):
    """A copy measured on one photo has that photo's error, variance and bpp in its config, saved and loaded."""
    hsvlc.save_pretrained(tmp_path)
    codec = HSVLC.from_pretrained(tmp_path)
    measure_codec(codec, [photo_latents])
    codec.save_pretrained(tmp_path)
    config = HSVLC.load_config(tmp_path)
    torch.testing.assert_close(
        torch.tensor(config["latent_variance"]),
        photo_latents.var(dim=(0, 2, 3), unbiased=False),
        rtol=1e-3,
        atol=0,
    )
    for k in (0, 4, 7):
        weight_map = torch.full((1, 1, 3, 4), k / 7)
        data = hsvlc.compress(photo_latents, weight_map).data
        decoded = hsvlc.decompress(data, weight_map, (21, 26))
        assert config["level_bpp"][k] == pytest.approx(8 * len(data) / (64 * 21 * 26), rel=1e-3)
        assert config["level_error"][k] == pytest.approx(float((decoded - photo_latents).square().mean()), rel=1e-3)
