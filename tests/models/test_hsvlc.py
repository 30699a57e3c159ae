"""The codec: bytes decode to what was coded, on any machine, at the rate the model says."""

import numpy as np
import pytest
import torch

from rsic_diffusers import HSVLC
from rsic_diffusers.pipelines.latents import encode_image


SHAPES = [(8, 8), (21, 26), (47, 63), (64, 48)]


def random_map(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, (1, 1, -(-shape[0] // 8), -(-shape[1] // 8)), generator=generator) / 7


def latents_of_shape(photo_latents, shape):
    """Real latents, mirrored outwards to the shape."""
    rows = np.pad(np.arange(photo_latents.shape[-2]), (0, 64), mode="symmetric")[: shape[0]]
    columns = np.pad(np.arange(photo_latents.shape[-1]), (0, 64), mode="symmetric")[: shape[1]]
    return photo_latents[:, :, rows][:, :, :, columns].contiguous()


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_decode_to_what_forward_gives(hsvlc, photo_latents, shape):
    latents, weight_map = latents_of_shape(photo_latents, shape), random_map(shape)
    data = hsvlc.compress(latents, weight_map).data
    decoded = hsvlc.decompress(data, weight_map, shape)
    with torch.no_grad():
        expected = hsvlc(latents, weight_map).sample
    assert decoded.shape == latents.shape
    # The fixed-point and the floating-point prior differ by less than a quantisation step of their own; a symbol may
    # then round the other way, and a coarse one moves a whole region, but as often for the better.
    error, expected_error = ((sample - latents).square().mean() for sample in (decoded, expected))
    assert error == pytest.approx(float(expected_error), rel=0.02)
    assert (decoded - expected).square().mean() < error / 4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, None])
def test_rate_is_the_models_own_estimate(hsvlc, photo_latents, shape, weight):
    latents = latents_of_shape(photo_latents, shape)
    weight_map = random_map(shape) if weight is None else torch.full_like(random_map(shape), weight)
    coded = hsvlc.compress(latents, weight_map)
    data, bits = coded.data, coded.bits_per_scale
    assert sum(bits) / 8 <= len(data) <= 1.02 * sum(bits) / 8 + 8


def test_rate_estimate_equals_gaussian_probabilities(hsvlc):
    """The integer tables against scipy's Gaussian, for symbols within four deviations."""
    from scipy.stats import norm

    for index in (5, 30, 63):
        scale = float(hsvlc.tables.scale(torch.tensor(float(index))))
        for symbol in range(-int(4 * scale), int(4 * scale) + 1):
            expected = -np.log2(norm.cdf((symbol + 0.5) / scale) - norm.cdf((symbol - 0.5) / scale))
            if expected < 9:
                ours = hsvlc.tables.bits(torch.tensor([symbol]), torch.tensor([index]))
                assert ours == pytest.approx(expected, abs=0.05)


def test_closed_gates_cost_nothing(hsvlc, photo_latents):
    latents, weight_map = latents_of_shape(photo_latents, (48, 64)), torch.zeros(1, 1, 6, 8)
    weight_map[..., 2:4, 3:5] = 1
    coded = hsvlc.compress(latents, weight_map)
    data, bits = coded.data, coded.bits_per_scale
    symbols = hsvlc.decode_symbols(data, weight_map, (48, 64))
    for i, factor in ((2, 2), (3, 4)):
        inside = weight_map[0].bool().repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        assert not symbols[i][:, ~inside[0]].any()
    closed = hsvlc.compress(latents, torch.zeros_like(weight_map)).bits_per_scale
    assert closed[2:] == [0, 0] and min(closed[:2]) > 0
    # Bits outside the region: a change of M inside it leaves the rest's symbols of f2 and f3 at zero.
    assert bits[3] > 0


@pytest.mark.parametrize("level, open_scales", [(0.0, 2), (1 / 7, 3), (2 / 7, 4), (1.0, 4)])
def test_gates_open_at_their_thresholds(hsvlc, photo_latents, level, open_scales):
    weight_map = torch.full((1, 1, 3, 4), level)
    bits = hsvlc.compress(photo_latents, weight_map).bits_per_scale
    assert [b > 0 for b in bits] == [True] * open_scales + [False] * (4 - open_scales)


def test_more_weight_more_bytes_less_error(hsvlc, photo_latents):
    sizes, errors = [], []
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        weight_map = torch.full((1, 1, 3, 4), weight)
        data = hsvlc.compress(photo_latents, weight_map).data
        sizes.append(len(data))
        errors.append(float((hsvlc.decompress(data, weight_map, (21, 26)) - photo_latents).square().mean()))
    assert sizes == sorted(sizes) and sizes[-1] > 3 * sizes[0]
    assert errors == sorted(errors, reverse=True)


DECODE = """
import itertools, sys, hashlib, torch
torch.set_num_threads(int(sys.argv[2]))
from rsic_diffusers import HSVLC
from rsic_diffusers.hub import resolve_model
data, weight_map = torch.load(sys.argv[1])
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    codec = HSVLC.from_pretrained(resolve_model("rsic-tiny"), subfolder="hsvlc", dtype=dtype)
    for torch.backends.mkldnn.enabled, deterministic in itertools.product((True, False), repeat=2):
        torch.use_deterministic_algorithms(deterministic)
        symbols = codec.decode_symbols(data, weight_map, (47, 63))
        print(hashlib.sha256(b"".join(s.numpy().tobytes() for s in symbols)).hexdigest())
"""


def test_symbols_are_the_same_everywhere(hsvlc, photo_latents, run_python, tmp_path):
    """Other processes, with 1 and 2 threads; in each oneDNN and deterministic algorithms on and off, and 3 dtypes."""
    import hashlib

    latents, weight_map = latents_of_shape(photo_latents, (47, 63)), random_map((47, 63))
    data = hsvlc.compress(latents, weight_map).data
    torch.save((data, weight_map), tmp_path / "file.pt")
    symbols = hsvlc.decode_symbols(data, weight_map, (47, 63))
    expected = hashlib.sha256(b"".join(s.numpy().tobytes() for s in symbols)).hexdigest()
    for threads in (1, 2):
        assert run_python(DECODE, tmp_path / "file.pt", threads).split() == [expected] * 12


def test_forward_is_differentiable_where_gates_are_open(hsvlc, photo_latents):
    latents = photo_latents.clone().requires_grad_()
    hsvlc(latents, torch.ones(1, 1, 3, 4)).sample.square().sum().backward()
    assert (latents.grad.abs().amax(dim=1) > 0).float().mean() > 0.95


def test_a_batch_is_its_members(hsvlc, photo_latents):
    latents = torch.cat([photo_latents, photo_latents.flip(-1)])
    weight_map = torch.cat([random_map((21, 26)), torch.ones(1, 1, 3, 4)])
    with torch.no_grad():
        together = hsvlc(latents, weight_map).sample
        each = [hsvlc(latents[i : i + 1], weight_map[i : i + 1]).sample for i in range(2)]
    torch.testing.assert_close(together, torch.cat(each), atol=1e-4, rtol=1e-4)


def test_hostile_streams_do_not_crash(hsvlc):
    """Bytes that no encoder wrote: a ValueError, never a read outside memory, an endless loop, or latents."""
    generator = np.random.default_rng(0)
    for i in range(40):
        data = generator.bytes(int(generator.integers(8, 600)))
        data = b"\xff" * len(data) if i == 0 else bytes(len(data)) if i == 1 else data
        with pytest.raises(ValueError, match="damaged"):
            hsvlc.decode_symbols(data, torch.ones(1, 1, 3, 4), (21, 26))


def test_saving_keeps_every_bit(hsvlc, photo_latents, tmp_path):
    hsvlc.save_pretrained(tmp_path)
    again = HSVLC.from_pretrained(tmp_path)
    weight_map = random_map((21, 26))
    data = hsvlc.compress(photo_latents, weight_map).data
    assert again.fingerprint == hsvlc.fingerprint
    assert again.compress(photo_latents, weight_map).data == data
    assert torch.equal(again.decompress(data, weight_map, (21, 26)), hsvlc.decompress(data, weight_map, (21, 26)))


def test_a_codec_is_made_ready_in_any_dtype(photo_latents):
    torch.manual_seed(0)
    codec = HSVLC().eval().to(torch.bfloat16)
    same = HSVLC().eval()
    same.load_state_dict(codec.state_dict())  # the same numbers, in float32
    for made in (codec, same):
        made.update()
    weight_map = random_map((21, 26))
    data = codec.compress(photo_latents.bfloat16(), weight_map).data
    ours, theirs = (made.decode_symbols(data, weight_map, (21, 26)) for made in (codec, same))
    assert any(symbols.any() for symbols in ours)
    for symbols, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(symbols, expected, atol=0, rtol=0)


def test_single_layer_ablation_codes_and_decodes(photo_latents):
    torch.manual_seed(0)
    codec = HSVLC(single_layer=True).eval()
    codec.update()
    coded = codec.compress(photo_latents, random_map((21, 26)))
    data = coded.data
    assert len(coded.bits_per_scale) == 1
    with torch.no_grad():
        expected = codec(photo_latents, random_map((21, 26))).sample
    torch.testing.assert_close(codec.decompress(data, random_map((21, 26)), (21, 26)), expected, atol=0.05, rtol=0.05)


def test_bad_input_is_named(hsvlc, photo_latents):
    good = random_map((21, 26))
    with pytest.raises(ValueError, match="weight_map has shape"):
        hsvlc.compress(photo_latents, good[..., :2])
    with pytest.raises(ValueError, match="NaN"):
        hsvlc.compress(photo_latents, good * float("nan"))
    with pytest.raises(ValueError, match="bfloat16; give M in float32"):
        hsvlc.compress(photo_latents, good.bfloat16())
    with pytest.raises(ValueError, match="NaN"):
        hsvlc.compress(photo_latents * float("nan"), good)
    with pytest.raises(ValueError, match="one latent at a time"):
        hsvlc.compress(photo_latents.repeat(2, 1, 1, 1), good)
    with pytest.raises(ValueError, match="CDF tables"):
        HSVLC().compress(photo_latents, good)
    with pytest.raises(ValueError, match="quantization"):
        hsvlc(photo_latents, good, quantization="noise")


def test_padding_is_coded_as_zeros(hsvlc, photo_latents, monkeypatch):
    """A column and a row more than fill the grid of f_0, so most of its cells are padding."""
    z, weight_map = photo_latents[..., :17, :17], torch.full(hsvlc.map_shape(17, 17), 6 / 7)
    out = hsvlc.compress(z, weight_map)
    symbols = hsvlc.decode_symbols(out.data, weight_map, (17, 17))
    for used, scale in zip((2, 3, 5, 9), symbols, strict=True):
        assert not scale[..., used:, :].any() and not scale[..., used:].any() and scale[..., :used, :used].any()
    decoded = hsvlc.decompress(out.data, weight_map, (17, 17))
    torch.testing.assert_close(hsvlc(z, weight_map).sample, decoded, atol=0.02, rtol=0)
    monkeypatch.setattr(type(hsvlc), "_without_padding", staticmethod(lambda i, residual, height, width: residual))
    assert len(out.data) < len(hsvlc.compress(z, weight_map).data)


def test_a_size_just_above_a_multiple_costs_little_more(encoder, photo):
    """321 x 257 pixels take 30 cells of M where 320 x 256 take 20; their code should not be as much larger."""
    weight, sizes, errors = 0.857, [], []
    for width, height in ((320, 256), (321, 257)):
        with torch.no_grad():
            tensor = encoder.image_processor.preprocess(photo.crop((100, 20, 100 + width, 20 + height)))
            latents = encode_image(encoder.vae, tensor)
        shape = tuple(latents.shape[-2:])
        weight_map = torch.full(encoder.hsvlc.map_shape(*shape), weight)
        data = encoder.hsvlc.compress(latents, weight_map).data
        sizes.append(len(data))
        errors.append(float((encoder.hsvlc.decompress(data, weight_map, shape) - latents).square().mean()))
    assert sizes[1] < 1.2 * sizes[0]
    assert errors[1] < 1.05 * errors[0]
