"""Checkpoints that are damaged, altered or hostile: a sentence when they are loaded or coded with, never a crash."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rsic_diffusers
from rsic_diffusers import HSVLC


GOLDEN = Path(__file__).parent.parent / "golden" / "codec"
TINY = Path(rsic_diffusers.__file__).parent / "checkpoints" / "rsic-tiny" / "hsvlc"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = {"hidden_channels": (8, 8, 8, 8), "code_channels": (4, 4, 4, 4), "prior_channels": 8}


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the golden codec that may be spoilt; `edit(tensors, config)` does so and loads it."""
    shutil.copytree(GOLDEN, tmp_path / "codec")

    def edit(change):
        tensors, config = load_file(tmp_path / "codec" / WEIGHTS), json.loads((GOLDEN / "config.json").read_text())
        change(tensors, config)
        save_file(tensors, tmp_path / "codec" / WEIGHTS)
        (tmp_path / "codec" / "config.json").write_text(json.dumps(config))
        return HSVLC.from_pretrained(tmp_path / "codec")

    return edit


@pytest.mark.parametrize("folder", [GOLDEN, TINY], ids=["golden", "rsic-tiny"])
def test_stored_digests_are_those_of_the_weights(folder):
    assert len(HSVLC.load_config(folder)["coding_digest"]) == 64
    HSVLC.from_pretrained(folder, torch_dtype=torch.bfloat16).require_tables()


@pytest.mark.parametrize(
    "name", ["prior.head.3.weight_integer", "prior.body.0.1.bias_integer", "tables.offset", "codec_id"]
)
def test_one_altered_integer_is_noticed(checkpoint, name):
    def change(tensors, config):
        tensors[name].view(-1)[0] += 1

    with pytest.raises(ValueError, match="coding_digest"):
        checkpoint(change)


def test_altered_gates_are_noticed(checkpoint):
    """They leave every tensor as it is, and yet say which symbols are in a file."""

    def change(tensors, config):
        config["gates"][1] = 0.5

    with pytest.raises(ValueError, match="coding_digest"):
        checkpoint(change)


@pytest.mark.parametrize("name", ["tables.cdf", "prior.body.2.0.weight_integer", "codec_id", "up.0.up.0.weight"])
def test_missing_tensors_are_named(checkpoint, name):
    with pytest.raises(ValueError, match=f"lack 1 tensors, {name}"):
        checkpoint(lambda tensors, config: tensors.pop(name))


def set_zero_frequency(tables):
    tables.cdf[3, 2] = tables.cdf[3, 1]


def set_decreasing(tables):
    tables.cdf[3, 2] = -70000


def set_beyond_one(tables):
    tables.cdf[3, tables.cdf_length[3] - 1] = 70000


def set_long(tables):
    tables.cdf_length[3] = 1 << 30


def set_short(tables):
    tables.cdf_length[3] = 1


def set_negative(tables):
    tables.cdf_length[3] = -5


def set_far_offset(tables):
    tables.offset[3] = -(1 << 31)


def set_nonzero_start(tables):
    tables.cdf[3, 0] = 1


@pytest.mark.parametrize(
    "spoil",
    [
        set_zero_frequency,
        set_decreasing,
        set_beyond_one,
        set_long,
        set_short,
        set_negative,
        set_far_offset,
        set_nonzero_start,
    ],
)
def test_hostile_tables_never_reach_the_coder(spoil):
    """Without a digest to give them away: with these the compiled coder divides by zero or leaves its memory."""
    torch.manual_seed(0)
    codec = HSVLC(**SMALL).eval()
    codec.update()
    codec.register_to_config(coding_digest=None)
    spoil(codec.tables)
    with pytest.raises(ValueError, match="CDF tables"):
        codec.compress(torch.randn(1, 4, 8, 8), torch.ones(1, 1, 1, 1))
    with pytest.raises(ValueError, match="CDF tables"):
        codec.decode_symbols(bytes(8), torch.ones(1, 1, 1, 1), (8, 8))


def test_integers_of_another_type_are_refused(checkpoint):
    def change(tensors, config):
        config["coding_digest"] = None
        tensors["tables.cdf"] = tensors["tables.cdf"].float() * float("nan")

    with pytest.raises(ValueError, match="CDF tables"):
        checkpoint(change)  # diffusers casts it to integers
    codec = HSVLC.from_pretrained(GOLDEN)
    codec.tables.cdf = codec.tables.cdf.double()
    with pytest.raises(ValueError, match="tables.cdf as torch.float64"):
        codec.require_tables()


def test_any_integer_weights_code_and_decode():
    """A prior of extreme weights picks extreme means and scales, which are still codable."""
    torch.manual_seed(0)
    codec = HSVLC(**SMALL).eval()
    codec.update()
    codec.register_to_config(coding_digest=None)
    for buffer in codec.prior.buffers():
        limit = torch.iinfo(buffer.dtype)
        buffer.copy_(torch.randint(limit.min, limit.max, buffer.shape, dtype=torch.int64).to(buffer.dtype))
    latents, weight_map = torch.randn(1, 4, 17, 9), torch.ones(1, 1, 3, 2)
    data = codec.compress(latents, weight_map).data
    assert len(codec.decode_symbols(data, weight_map, (17, 9))) == 4


def test_no_symbol_at_all():
    """Gates above M everywhere: the stream is the coder's first state, and the latents are the priors' means."""
    torch.manual_seed(0)
    codec = HSVLC(**SMALL, gates=(0.5, 0.5, 0.5, 0.5)).eval()
    codec.update()
    latents, weight_map = torch.randn(1, 4, 20, 12), torch.full((1, 1, 3, 2), 0.25)
    coded = codec.compress(latents, weight_map)
    assert coded.data == (1 << 31).to_bytes(8, "little") and coded.bits_per_scale == [0, 0, 0, 0]
    decoded = codec.decompress(coded.data, weight_map, (20, 12))
    with torch.no_grad():
        torch.testing.assert_close(decoded, codec(latents, weight_map).sample, atol=1e-2, rtol=1e-2)
    with pytest.raises(ValueError, match="damaged"):
        codec.decompress(bytes(8), weight_map, (20, 12))


def test_numbers_beyond_the_transforms_are_a_sentence(hsvlc, photo_latents):
    with pytest.raises(ValueError, match=r"go up to 3e\+38 .* NaN or infinite"):
        hsvlc.compress(torch.full_like(photo_latents, 3e38), torch.ones(1, 1, 3, 4))


def test_weights_that_are_nan_are_a_sentence():
    torch.manual_seed(0)
    codec = HSVLC(**SMALL).eval()
    codec.update()
    latents, weight_map = torch.randn(1, 4, 8, 8), torch.ones(1, 1, 1, 1)
    data = codec.compress(latents, weight_map).data
    symbols = codec.decode_symbols(data, weight_map, (8, 8))
    for name, parameter in codec.named_parameters():
        if not name.startswith("prior"):
            parameter.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        codec.compress(latents, weight_map)
    with pytest.raises(ValueError, match="NaN or infinite"):
        codec.decompress(data, weight_map, (8, 8))
    # What is in the file does not depend on them.
    for again, before in zip(codec.decode_symbols(data, weight_map, (8, 8)), symbols, strict=True):
        assert torch.equal(again, before)


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_scales", 1),
        ("num_scales", 10**9),
        ("num_scales", "64"),
        ("latent_channels", 10**12),
        ("latent_channels", [4]),
        ("latent_channels", True),
        ("hidden_channels", [10**9] * 4),
        ("hidden_channels", [8, 8, 8]),
        ("hidden_channels", 8),
        ("code_channels", [0, 0, 0, 0]),
        ("code_channels", [-1, 6, 6, 6]),
        ("code_channels", {"a": 1}),
        ("prior_channels", 2.5),
        ("gates", [0, 1, 2]),
        ("gates", ["0", 0, 0, 0]),
        ("gates", [float("nan")] * 4),
        ("scale_min", 0),
        ("scale_max", 1e9),
        ("scale_max", 0.1),
        ("scaling_factor", "0.18"),
        ("rate_lambda", -1),
        ("lambda_growth", None),
        ("lambda_growth", 0),
        ("lambda_growth", 800),
        ("rate_lambda", 10**400),
        ("latent_variance", [1.0]),
        ("level_error", [0.0] * 8),
        ("level_bpp", "abcdefgh"),
        ("single_layer", "no"),
        ("conditional_prior", 1),
        ("coding_digest", ["a"]),
    ],
)
def test_hostile_configs_are_named_before_any_allocation(checkpoint, name, value):
    with pytest.raises(ValueError, match=f"HSVLC's .*{name}"):
        checkpoint(lambda tensors, config: config.update({name: value}))
