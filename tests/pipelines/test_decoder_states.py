"""Decoding in threads, forked processes and torch's modes; bounds; NaN; what the loop asks of a device."""

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchgen
import yaml
from diffusers import DDIMScheduler, RSICDecoderPipeline
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from rsic_diffusers import HSVLC, Bitstream, WeightMap
from rsic_diffusers.hub import resolve_model


LATENTS = {"output_type": "latent"}
# Each of another kind, so that a shared scheduler would mix them up.
SETTINGS = [
    {"preset": "fast", "num_inference_steps": 4},
    {"preset": "balanced", "num_inference_steps": 7, "guidance_scale": 1.5},
    {"preset": "paper", "num_inference_steps": 3, "num_recurrence_steps": 2},
    {"preset": "fast", "num_inference_steps": 9, "guidance_target": "clean", "num_recurrence_steps": 2},
]


@pytest.fixture(scope="module")
def file(toy):
    torch.manual_seed(1)
    levels = np.array([[0, 7], [3, 1]], np.uint8)
    codes = toy.hsvlc.compress(torch.randn(1, 4, 16, 16), torch.from_numpy(levels / np.float32(7))[None, None]).data
    return Bitstream(128, 128, WeightMap(levels, 8), "a dog", codes, toy.hsvlc.fingerprint).to_bytes()


@pytest.fixture(scope="module")
def expected(toy, file):
    return [toy(file, **settings, **LATENTS).images for settings in SETTINGS]


def test_four_threads_with_four_settings(toy, file, expected):
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            found = list(pool.map(lambda settings: toy(file, **settings, **LATENTS).images, SETTINGS))
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert toy.scheduler.num_inference_steps is None


@pytest.mark.parametrize("i", [0, 2, 3])
def test_inference_mode(toy, file, expected, i):
    with torch.inference_mode():
        # As after loading there: parameters that no gradient may go through.
        parts = {**toy.components, "hsvlc": copy.deepcopy(toy.hsvlc)}
        assert next(parts["hsvlc"].parameters()).is_inference()
        pipeline = RSICDecoderPipeline(**parts)
        pipeline.set_progress_bar_config(disable=True)
        ours = pipeline(file, **SETTINGS[i], **LATENTS).images
    torch.testing.assert_close(ours, expected[i], atol=1e-5, rtol=1e-5)
    assert not ours.is_inference()


def test_a_default_device_that_holds_nothing(toy, file, expected):
    torch.set_default_device("meta")
    try:
        # Loading there too.
        loaded = RSICDecoderPipeline.from_pretrained("rsic-tiny")
        ours = [toy(file, **settings, **LATENTS).images for settings in SETTINGS[:3]]
    finally:
        torch.set_default_device(None)
    assert not any(parameter.is_meta for parameter in loaded.unet.parameters())
    for found, theirs in zip(ours, expected, strict=False):
        torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("i", [0, 2])
def test_autocast_gives_nearly_the_same(toy, file, expected, i):
    with torch.autocast("cpu", torch.bfloat16):
        ours = toy(file, **SETTINGS[i], **LATENTS).images
    assert ours.dtype == torch.float32
    error = (ours - expected[i]).abs().max() / expected[i].abs().max()
    assert 0 < error < 0.05


def test_autocast_leaves_the_codec_out(toy, file, expected):
    """C of the guidance is float32 as the codec is: with the UNet's part alone in low precision, the same latents."""
    pipeline = RSICDecoderPipeline(**{**toy.components, "unet": copy.deepcopy(toy.unet)})
    pipeline.set_progress_bar_config(disable=True)
    forward = pipeline.unet.forward

    def without_autocast(*args, **kwargs):
        with torch.autocast("cpu", enabled=False):
            return forward(*args, **kwargs)

    pipeline.unet.forward = without_autocast
    text = toy.encode_texts(["a dog", ""], torch.device("cpu"))
    options = {**SETTINGS[0], **LATENTS, "prompt_embeds": text[:1], "negative_prompt_embeds": text[1:]}
    plain = pipeline(file, **options).images
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pipeline(file, **options).images, plain, atol=1e-6, rtol=1e-6)


def test_another_sampler_is_named(toy, file):
    pipeline = RSICDecoderPipeline(**toy.components)
    pipeline.scheduler = DDIMScheduler()
    for preset in (None, "paper"):
        with pytest.raises(ValueError, match="not with a DDIMScheduler"):
            pipeline(file, preset=preset)


def test_a_pipeline_without_a_part_is_named(toy):
    with pytest.raises(ValueError, match="got no text_encoder, unet"):
        RSICDecoderPipeline(**{**toy.components, "unet": None, "text_encoder": None})


def test_what_has_no_effect_on_decoding_is_told(toy, file, caplog):
    toy(file, **SETTINGS[0], **LATENTS, inversion_guidance_scale=7.0)
    assert "inversion_guidance_scale has no effect" in caplog.text


FORK = """
import os, sys, torch
from rsic_diffusers import RSICDecoderPipeline
torch.set_num_threads(2)
decoder = RSICDecoderPipeline.from_pretrained("rsic-tiny")
decoder.set_progress_bar_config(disable=True)
def decode(path):
    return decoder(path, preset="fast", num_inference_steps=1, output_type="np").images
if __name__ == "__main__":
    import multiprocessing, numpy
    expected = decode(sys.argv[1])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.map_async(decode, [sys.argv[1]]).get(timeout=240)[0]
    print(numpy.abs(found - expected).max())
"""


def test_a_forked_pool_decodes(encoder, photo, run_python, tmp_path):
    """OpenMP's threads do not survive a fork; waiting for them would never end."""
    encoder(photo.crop((200, 80, 264, 144)), weight=0.3).save(tmp_path / "photo.rsic")
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    run = (
        f"import runpy, sys; sys.argv = ['fork.py', sys.argv[1]]; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    assert float(run_python(run, tmp_path / "photo.rsic", OMP_NUM_THREADS="2")) < 1e-3


def test_evaluations_are_counted_before_decoding(toy, file, caplog):
    caplog.set_level(logging.INFO, "rsic_diffusers")
    calls = []
    hook = toy.unet.register_forward_hook(lambda *_: calls.append(None))
    for settings in SETTINGS:
        planned = toy.count_unet_evaluations(file, **settings)
        assert not calls
        assert toy(file, **settings, **LATENTS).num_unet_evaluations == len(calls) == planned > 0
        assert f"UNet evaluations planned: {planned}." in caplog.text
        calls.clear()
    hook.remove()


def huge(toy):
    """64 x 64 pixels coded, 8192 x 8192 returned: 22 bytes and a caption's length."""
    codes = toy.hsvlc.compress(torch.randn(1, 4, 16, 16), torch.zeros(1, 1, 2, 2)).data
    weight_map = WeightMap.constant(0, 128, 128)
    return Bitstream(8192, 8192, weight_map, "", codes, toy.hsvlc.fingerprint, coded_side=128).to_bytes()


def test_max_pixels_bounds_what_is_coded_and_what_is_returned(toy, file):
    calls = []
    hook = toy.hsvlc.register_forward_pre_hook(lambda *_: calls.append(None))
    with pytest.raises(ValueError, match="8192 x 8192 pixels, more than max_pixels"):
        toy(huge(toy), max_pixels=1 << 20)
    with pytest.raises(ValueError, match="coded at 128 x 128 pixels, more than max_pixels = 16383"):
        toy(file, max_pixels=128 * 128 - 1)
    with pytest.raises(ValueError, match="whole number above 0"):
        toy(file, max_pixels=0)
    hook.remove()
    assert not calls
    steps = {"num_inference_steps": 0, "strength": 1.0, "guidance_target": "posterior"}
    assert toy(huge(toy), **steps, max_pixels=1 << 20, upscale=False).images[0].size == (128, 128)
    assert toy(file, **steps, max_pixels=128 * 128).images[0].size == (128, 128)


def test_pictures_are_enlarged_in_8_bits(toy):
    codes = toy.hsvlc.compress(torch.randn(1, 4, 16, 12), torch.zeros(1, 1, 2, 2)).data
    weight_map = WeightMap.constant(0, 128, 96)
    data = Bitstream(300, 400, weight_map, "", codes, toy.hsvlc.fingerprint, coded_side=128).to_bytes()
    steps = {"num_inference_steps": 0, "strength": 1.0, "guidance_target": "posterior"}
    small = toy(data, **steps, upscale=False).images[0]
    assert small.size == (96, 128)
    large = toy(data, **steps).images[0]
    np.testing.assert_array_equal(large, small.resize((300, 400), Image.Resampling.BICUBIC))
    # In floats, for those who ask for floats: the same but for the rounding, which overshoots add to.
    floats = 255 * toy(data, **steps, output_type="np").images[0]
    assert np.abs(floats - np.asarray(large)).mean() < 1


class Overflowing(torch.nn.Module):
    """A VAE decoder's last layer whose values float16 cannot hold."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * 1e7 * 1e-7


def test_nan_of_the_vae_is_decoded_again_in_float32(toy, file, caplog):
    steps = {"num_inference_steps": 0, "strength": 1.0, "guidance_target": "posterior", "output_type": "np"}
    vae = copy.deepcopy(toy.vae).half()
    vae.decoder.layers[-1] = Overflowing(vae.decoder.layers[-1])
    pipeline = RSICDecoderPipeline(**{**toy.components, "vae": vae})
    expected = toy(file, **steps).images
    caplog.clear()
    ours = pipeline(file, **steps).images
    assert np.abs(ours - expected).max() < 0.02 and np.ptp(ours) > 0.1
    assert sum("in float16; the picture is decoded again in float32" in r.getMessage() for r in caplog.records) == 1
    assert vae.dtype == torch.float16
    with torch.no_grad():
        vae.decoder.layers[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite values in float32"):
        pipeline(file, **steps)


def test_nan_of_the_unet_is_named(toy, file):
    unet = copy.deepcopy(toy.unet)
    with torch.no_grad():
        unet.conv_out.bias.fill_(float("nan"))
    pipeline = RSICDecoderPipeline(**{**toy.components, "unet": unet})
    with pytest.raises(ValueError, match="latents became NaN"):
        pipeline(file, **SETTINGS[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sees_the_streams_m(toy, dtype):
    levels = torch.arange(8).float().view(1, 1, 2, 4) / 7
    hsvlc = copy.deepcopy(toy.hsvlc).to(dtype)
    conditions = hsvlc.condition(levels, 16, 32)
    assert torch.equal(conditions.maps[1].double() * 256, torch.round(levels.double() * 256))
    # And so do the priors, which compute as in float32.
    assert hsvlc.dtype == dtype
    ours, theirs = hsvlc.prior(0, conditions.maps[0]), toy.hsvlc.prior(0, conditions.maps[0].float())
    assert all(torch.equal(found, expected) for found, expected in zip(ours, theirs, strict=True))


def test_a_codec_loaded_in_half_precision_has_its_priors_in_float32():
    loaded, whole = (
        HSVLC.from_pretrained(resolve_model("rsic-tiny"), subfolder="hsvlc", torch_dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert loaded.dtype == torch.bfloat16 and loaded.out.weight.dtype == torch.bfloat16
    for ours, theirs in zip(loaded.prior.parameters(), whole.prior.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == torch.float32


class Operators(TorchDispatchMode):
    """The names of the operators that run, by the kind of number that they make."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function._schema.name.removeprefix("aten::") + "." + function._overloadname)
        return function(*args, **(kwargs or {}))


def operators_of_mps():
    """By torch's own table: those with a kernel for MPS, or made of others."""
    table = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = {entry["func"].split("(")[0]: entry for entry in yaml.safe_load(table.read_text())}
    found = set()
    for name, entry in entries.items():
        delegate = entries.get(entry.get("structured_delegate"), {})
        dispatch = {**entry.get("dispatch", {}), **delegate.get("dispatch", {})}
        keys = {key.strip() for keys in dispatch for key in keys.split(",")}
        if (
            not dispatch
            or keys & {"MPS", "CompositeImplicitAutograd", "CompositeExplicitAutograd"}
            or any(key.startswith("CompositeExplicit") for key in keys)
        ):
            found.add(name if "." in name else name + ".default")
    return found


@pytest.mark.parametrize("i", range(len(SETTINGS)))
def test_the_loop_runs_operators_that_mps_has(toy, file, i):
    """From the first call of the UNet to the last; what comes before and reads the file is the CPU's anyway."""
    modes = []

    def watch(*_):
        if not modes:
            modes.append(Operators())
            modes[0].__enter__()

    def stop(*_):
        if modes:
            modes[0].__exit__(None, None, None)
            return {}

    settings = {**SETTINGS[i], "num_inference_steps": 3}
    last = []

    def callback(pipeline, step, timestep, tensors):
        last.append(step)
        if step == pipeline.num_timesteps - 1:
            stop()

    hook = toy.unet.register_forward_pre_hook(watch)
    toy(file, **settings, **LATENTS, callback_on_step_end=callback)
    hook.remove()
    missing = modes[0].names - operators_of_mps()
    assert len(modes[0].names) > 20 and "convolution.default" in modes[0].names
    # Attention is asked for by one operator, which each device replaces by its own.
    assert not {name for name in missing if not name.startswith("_scaled_dot_product")}


def test_the_table_of_mps_is_read_right():
    found = operators_of_mps()
    assert {"add.Tensor", "index_select.default", "convolution.default", "where.self"} <= found
    assert not {"take.default", "linalg_eig.default", "_fft_r2c.default"} & (found - {"_fft_r2c.default"})


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"guidance_scale": "7"}, "guidance_scale must be a number"),
        ({"guidance_scale": -3}, "guidance_scale must be a number"),
        ({"num_recurrence_steps": 10**9}, "num_recurrence_steps must be a whole number"),
        ({"generator": 0}, "torch.Generator"),
        ({"strength": float("nan")}, "strength must be a number"),
        ({"output_type": "jpg"}, "output_type"),
        ({"preset": "quick"}, "preset must be one of"),
    ],
)
def test_unusable_arguments_are_named(toy, file, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        toy(file, **arguments)
