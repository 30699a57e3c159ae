"""The decoder on the embedded default and a real photo."""

import copy
import hashlib
import json

import numpy as np
import pytest
import torch

from rsic_diffusers import Bitstream, BitstreamError, RSICDecoderPipeline, RSICEncoderPipeline
from rsic_diffusers.evaluation.metrics import psnr


# For what does not depend on how good the picture is.
QUICK = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0}
BOX = (50, 20, 150, 140)


def digest(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def test_same_file_same_picture(decoder, encoded, decoded):
    assert digest(decoder(encoded.bitstream, **QUICK).images[0]) == digest(decoded)
    other = decoder(encoded.bitstream, **QUICK, generator=torch.Generator().manual_seed(5)).images[0]
    assert digest(other) != digest(decoded)


def test_a_fresh_process_decodes_the_file_alone(encoded, decoded, run_python, tmp_path):
    encoded.save(tmp_path / "photo.rsic")
    code = """
import json, sys, numpy as np
from rsic_diffusers import RSICDecoderPipeline
dec = RSICDecoderPipeline.from_pretrained("rsic-tiny")
image = dec(sys.argv[1], **json.loads(sys.argv[2])).images[0]
np.save("image.npy", np.asarray(image))
"""
    run_python(code, tmp_path / "photo.rsic", json.dumps(QUICK))
    fresh = np.load(tmp_path / "image.npy").astype(int)
    # Another process may sum in another order; a grey level here and there is all that may differ.
    assert np.abs(fresh - np.asarray(decoded).astype(int)).max() <= 2


def test_output_types_agree(decoder, encoded, decoded):
    array = decoder(encoded.bitstream, **QUICK, output_type="np").images
    tensor = decoder(encoded.bitstream, **QUICK, output_type="pt").images
    latents = decoder(encoded.bitstream, **QUICK, output_type="latent").images
    assert array.shape == (1, 165, 203, 3) and tensor.shape == (1, 3, 165, 203) and latents.shape == (1, 4, 21, 26)
    np.testing.assert_allclose(array[0], tensor[0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert np.abs(np.round(255 * array[0]) - np.asarray(decoded)).max() <= 1
    images, evaluations, files = decoder(encoded.bitstream, **QUICK, return_dict=False)
    assert digest(images[0]) == digest(decoded) and evaluations == 4 * 2
    assert files[0].to_bytes() == encoded.bitstream


def test_callback_sees_and_changes_latents(encoder, decoder, small_photo):
    data = encoder(small_photo, weight=0.2).bitstream  # low enough that the first step is below the start
    seen = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((step, timestep))
        last = step == pipeline.num_timesteps - 1
        return {"latents": torch.zeros_like(tensors["latents"])} if last else {}

    latents = decoder(data, **QUICK, output_type="latent", callback_on_step_end=callback).images
    steps, timesteps = zip(*seen, strict=True)
    planned = decoder.count_unet_evaluations(data, **QUICK)
    assert steps == tuple(range(planned // 2)) and len(steps) > 1  # of two recurrences
    assert list(timesteps) == sorted(timesteps, reverse=True) and 0 < timesteps[-1] < timesteps[0] < 1000
    # Positions that start from noise are as the callback left them.
    assert not latents.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_picture(encoded, decoded_by_default, small_photo, dtype):
    dec = RSICDecoderPipeline.from_pretrained("rsic-tiny", dtype=dtype)
    dec.set_progress_bar_config(disable=True)
    assert dec.unet.dtype == dec.hsvlc.dtype == dtype
    image = dec(encoded.bitstream).images[0]
    assert psnr(image, decoded_by_default) > 25
    assert psnr(image, small_photo, BOX) > psnr(decoded_by_default, small_photo, BOX) - 0.5


def test_save_and_load_give_the_same_bytes_and_pictures(encoder, decoder, encoded, decoded, small_photo, tmp_path):
    decoder.save_pretrained(tmp_path / "model")
    index = (tmp_path / "model" / "model_index.json").read_text()
    assert '"rsic_diffusers"' in index and "rsic_diffusers." not in index
    enc = RSICEncoderPipeline.from_pretrained(tmp_path / "model")
    dec = RSICDecoderPipeline.from_pretrained(tmp_path / "model")
    for pipeline in (enc, dec):
        pipeline.set_progress_bar_config(disable=True)
    assert "unet" not in enc.components
    asked = {"caption": "a woman in a cap", "box": BOX, "weight": 1.0, "background": 0}
    assert enc(small_photo, **asked).bitstream == encoded.bitstream
    assert digest(dec(encoded.bitstream, **QUICK).images[0]) == digest(decoded)


def test_damaged_and_foreign_files_are_refused(decoder, encoded):
    data = bytearray(encoded.bitstream)
    data[40] ^= 1
    with pytest.raises(BitstreamError, match="checksum"):
        decoder(bytes(data))
    file = Bitstream.from_bytes(encoded.bitstream)
    for codes in (file.codes[:-4], file.codes + bytes(4), bytes(len(file.codes)), file.codes[::-1]):
        # The checksum is made right again: only the stream itself can tell.
        hostile = Bitstream(file.width, file.height, file.weight_map, file.caption, codes, file.fingerprint)
        with pytest.raises(BitstreamError, match="damaged"):
            decoder(hostile.to_bytes())
    foreign = Bitstream(file.width, file.height, file.weight_map, file.caption, file.codes, b"\0\0")
    with pytest.raises(BitstreamError, match="made for the codec 0000"):
        decoder(foreign.to_bytes())


def test_no_steps_is_the_codec_alone(decoder, encoded, encoder):
    from rsic_diffusers.pipelines.latents import decode_latents

    file = Bitstream.from_bytes(encoded.bitstream)
    weight_map = torch.from_numpy(file.weight_map.values)[None, None]
    with torch.no_grad():
        latents = encoder.hsvlc.decompress(file.codes, weight_map, (21, 26))
        expected = decode_latents(encoder.vae, latents, (165, 203)).clamp(-1, 1) / 2 + 0.5
    out = decoder(encoded.bitstream, num_inference_steps=0, output_type="pt")
    torch.testing.assert_close(out.images, expected, atol=1e-5, rtol=0)
    assert out.num_unet_evaluations == 0


@pytest.mark.gpu
def test_a_gpu_decodes_the_same_symbols_and_nearly_the_same_picture(encoded, decoded_by_default):
    dec = RSICDecoderPipeline.from_pretrained("rsic-tiny", dtype=torch.float16).to("cuda")
    file = Bitstream.from_bytes(encoded.bitstream)
    weight_map = torch.from_numpy(file.weight_map.values)[None, None]
    cpu = RSICDecoderPipeline.from_pretrained("rsic-tiny").hsvlc
    for ours, theirs in zip(
        dec.hsvlc.decode_symbols(file.codes, weight_map, (21, 26)),
        cpu.decode_symbols(file.codes, weight_map, (21, 26)),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    image = dec(encoded.bitstream).images[0]
    assert psnr(image, decoded_by_default) > 25
    assert np.array_equal(np.asarray(dec(encoded.bitstream).images[0]), np.asarray(image))


def test_a_codec_that_overflows_is_not_taken_for_a_damaged_file(decoder, encoded):
    hsvlc = copy.deepcopy(decoder.hsvlc)
    hsvlc.out.weight.data.fill_(float("nan"))
    pipeline = RSICDecoderPipeline(**{**decoder.components, "hsvlc": hsvlc})
    with pytest.raises(ValueError, match="NaN or infinite") as error:
        pipeline(encoded.bitstream, **QUICK)
    assert not isinstance(error.value, BitstreamError)


def test_each_guidance_target_has_its_own_strength(decoder):
    """Of a preset or the config that names another target, the strength does not count."""
    config = {**decoder.scheduler.config, "guidance_target": "clean", "guidance_strength": 5e3}
    scheduler = type(decoder.scheduler).from_config({**config, "_use_default_values": []})
    pipeline = RSICDecoderPipeline(**{**decoder.components, "scheduler": scheduler})

    def strength(preset=None, **given):
        return pipeline._resolve_settings(preset, given)["guidance_strength"]

    assert strength() == 5e3 and strength(guidance_target="posterior") == 8.0
    assert strength("fast") == 8.0 and strength("fast", guidance_target="clean") == 24e3
    assert strength("paper") == 4e5 and strength("paper", guidance_target="posterior") == 8.0
    assert strength("paper", guidance_target="posterior", guidance_strength=3.0) == 3.0


@pytest.mark.parametrize("source", [3, True, None])
def test_a_number_is_no_file(decoder, source):
    """`open` would take it for a file that is open already, and close it."""
    with pytest.raises(TypeError, match="must be a path, bytes or a binary file object"):
        decoder(source)


def test_misspelt_arguments_are_not_counted_without_a_word(decoder, encoded):
    with pytest.raises(TypeError, match="no argument num_inference_step"):
        decoder.count_unet_evaluations(encoded.bitstream, num_inference_step=3)
    with pytest.raises(ValueError, match="preset must be one of"):
        decoder.default_settings(["fast"])
