"""The main job on the embedded default and a real photo."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from rsic_diffusers import Bitstream, BitstreamError, RSICDecoderPipeline, RSICEncoderPipeline
from rsic_diffusers.evaluation.equal_size import pair_at_equal_size
from rsic_diffusers.evaluation.metrics import psnr


# For what does not depend on how good the picture is.
QUICK = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0}
BOX = (50, 20, 150, 140)


@pytest.fixture(scope="module")
def encoded(encoder, small_photo):
    return encoder(small_photo, caption="a woman in a cap", box=BOX, weight=1.0)


@pytest.fixture(scope="module")
def decoded(decoder, encoded):
    return decoder(encoded.bitstream, **QUICK).images[0]


@pytest.fixture(scope="module")
def decoded_by_default(decoder, encoded):
    return decoder(encoded.bitstream).images[0]


def grey_like(image):
    """A picture of the mean colour: what knowing nothing but that would give."""
    return Image.new("RGB", image.size, tuple(np.asarray(image).mean((0, 1)).astype(int)))


def digest(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def test_output_says_what_the_file_holds(encoded, small_photo):
    file = Bitstream.from_bytes(encoded.bitstream)
    assert (file.width, file.height) == small_photo.size
    assert encoded.caption == file.caption == "a woman in a cap"
    np.testing.assert_array_equal(encoded.weight_map, file.weight_map.values)
    assert encoded.bpp == 8 * len(encoded.bitstream) / (203 * 165)
    assert list(encoded.breakdown) == ["header", "caption", "map", "f0", "f1", "f2", "f3"]
    assert sum(encoded.breakdown.values()) == len(encoded.bitstream)
    assert encoded.breakdown["header"] == 12 and encoded.breakdown["f3"] > 0


def test_the_picture_looks_like_the_photo(decoded_by_default, small_photo):
    assert decoded_by_default.size == small_photo.size
    # Far nearer to the photo than its mean colour, and nearest where it was asked to be.
    grey = grey_like(small_photo)
    assert psnr(decoded_by_default, small_photo) > psnr(grey, small_photo) + 2
    assert psnr(decoded_by_default, small_photo, BOX) > psnr(grey, small_photo, BOX) + 5


def test_same_file_same_picture(decoder, encoded, decoded):
    assert digest(decoder(encoded.bitstream, **QUICK).images[0]) == digest(decoded)
    other = decoder(encoded.bitstream, **QUICK, generator=torch.Generator().manual_seed(5)).images[0]
    assert digest(other) != digest(decoded)


def test_a_fresh_process_decodes_the_file_alone(encoded, decoded, run_python, tmp_path):
    encoded.save(tmp_path / "photo.rsic")
    code = """
import hashlib, sys, numpy as np
from rsic_diffusers import RSICDecoderPipeline
dec = RSICDecoderPipeline.from_pretrained("rsic-tiny")
image = dec(sys.argv[1], num_inference_steps=4, num_recurrence_steps=2, strength=1.0).images[0]
np.save("image.npy", np.asarray(image))
"""
    run_python(code, tmp_path / "photo.rsic")
    fresh = np.load(tmp_path / "image.npy").astype(int)
    # Another process may sum in another order; a grey level here and there is all that may differ.
    assert np.abs(fresh - np.asarray(decoded).astype(int)).max() <= 2


def test_referring_mode_favours_the_region_at_equal_size(encoder, decoder, photo):
    box = (150, 40, 370, 310)
    referring, even = pair_at_equal_size(encoder, photo, box)
    assert abs(len(even.bitstream) - len(referring.bitstream)) <= 0.05 * len(referring.bitstream)
    gain = [psnr(decoder(out.bitstream).images[0], photo, box) for out in (referring, even)]
    assert gain[0] > gain[1] + 0.5


def test_batch_is_its_members(encoder, decoder, small_photo):
    photos = [small_photo, small_photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    out = encoder(photos, caption=["a woman", None], box=[BOX, None], weight=0.8)
    assert [len(data) for data in out.bitstream] == [sum(parts.values()) for parts in out.breakdown]
    assert out.bitstream[0] == encoder(photos[0], caption="a woman", box=BOX, weight=0.8).bitstream
    assert out.bitstream[1] == encoder(photos[1], weight=0.8).bitstream
    together = decoder(out.bitstream, **QUICK, output_type="np").images
    for image, data in zip(together, out.bitstream):
        np.testing.assert_allclose(image, decoder(data, **QUICK, output_type="np").images[0], atol=0.02)


def test_output_types_agree(decoder, encoded, decoded):
    array = decoder(encoded.bitstream, **QUICK, output_type="np").images
    tensor = decoder(encoded.bitstream, **QUICK, output_type="pt").images
    latents = decoder(encoded.bitstream, **QUICK, output_type="latent").images
    assert array.shape == (1, 165, 203, 3) and tensor.shape == (1, 3, 165, 203) and latents.shape == (1, 4, 21, 26)
    np.testing.assert_allclose(array[0], tensor[0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert np.abs(np.round(255 * array[0]) - np.asarray(decoded)).max() <= 1
    images, evaluations = decoder(encoded.bitstream, **QUICK, return_dict=False)
    assert digest(images[0]) == digest(decoded) and evaluations == 4 * 2


def test_photos_are_turned_upright(encoder, small_photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # as a camera held upright writes it: to be turned by 270 degrees counterclockwise
    small_photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned = encoder(Image.open(tmp_path / "turned.png"), box=BOX)
    assert turned.bitstream == encoder(small_photo, box=BOX).bitstream


def test_sixteen_bits_are_not_clipped(encoder, small_photo):
    grey = small_photo.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert encoder(deep, weight=0.5).bitstream == encoder(grey, weight=0.5).bitstream


def test_input_types_agree(encoder, small_photo, encoded):
    array = np.asarray(small_photo).astype(np.float32) / 255
    arguments = {"caption": "a woman in a cap", "box": BOX}
    assert encoder(array, **arguments).bitstream == encoded.bitstream
    assert encoder(torch.from_numpy(array).permute(2, 0, 1), **arguments).bitstream == encoded.bitstream


def test_callback_sees_and_changes_latents(encoder, decoder, small_photo):
    data = encoder(small_photo, weight=0.2).bitstream  # low enough that the first step is below the start
    seen = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((step, timestep))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else {}

    latents = decoder(data, **QUICK, output_type="latent", callback_on_step_end=callback).images
    assert seen == [(0, 751), (1, 501), (2, 251), (3, 1)] and not latents.any()


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
    assert enc(small_photo, caption="a woman in a cap", box=BOX).bitstream == encoded.bitstream
    assert digest(dec(encoded.bitstream, **QUICK).images[0]) == digest(decoded)


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (768, 256)])
def test_sizes_from_64_up(encoder, decoder, photo, size):
    image = photo.resize(size)
    out = encoder(image, weight=0.9)
    decoded = decoder(out.bitstream).images[0]
    assert decoded.size == size and psnr(decoded, image) > psnr(grey_like(image), image) + 1.5


def test_a_budget_is_filled_without_running_the_vae_again(encoder, photo, monkeypatch):
    calls = {"vae": 0, "hsvlc": 0}
    for name, model, method in (("vae", encoder.vae, "encode"), ("hsvlc", encoder.hsvlc, "compress")):

        def counted(*args, name=name, original=getattr(model, method), **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(model, method, counted)
    for target, asked in ((600, {"box": (150, 40, 370, 310)}), (1500, {"box": BOX, "background": 0.3}), (400, {})):
        calls.update(vae=0, hsvlc=0)
        out = encoder(photo, caption="a woman in a cap", target_bytes=target, **asked)
        assert 0.97 * target <= len(out.bitstream) <= target
        assert calls["vae"] == 1 and calls["hsvlc"] <= 10
    assert len(encoder(photo, target_bpp=0.02).bitstream) <= 0.02 * 512 * 600 / 8
    # A budget that what was asked for nearly fills changes nothing.
    asked = encoder(photo, box=BOX, weight=0.9)
    again = encoder(photo, box=BOX, weight=0.9, target_bytes=len(asked.bitstream))
    assert again.bitstream == asked.bitstream


def test_two_demands_get_fidelity_by_their_weights(encoder, decoder, photo):
    first, second = (0, 64, 192, 256), (320, 64, 512, 256)
    out = encoder(photo, referring=[{"box": first}, {"box": second, "weight": 0.6}])
    assert out.weight_map[1:4, :3].min() == 1 and np.allclose(out.weight_map[1:4, 5:], 4 / 7)
    swapped = encoder(photo, referring=[{"box": first, "weight": 0.6}, {"box": second}])
    pictures = [decoder(one.bitstream, num_inference_steps=0).images[0] for one in (out, swapped)]
    for box, better, worse in ((first, *pictures), (second, *reversed(pictures))):
        assert psnr(better, photo, box) > psnr(worse, photo, box) + 1


@pytest.mark.parametrize("shape", ["box", "mask"])
def test_fidelity_grows_with_the_weight(encoder, decoder, photo, shape):
    rows, columns = np.mgrid[40:310, 150:370]
    ellipse = np.zeros((600, 512))
    ellipse[40:310, 150:370] = np.hypot((rows - 175) / 135, (columns - 260) / 110) <= 1
    demand = {"box": (150, 40, 370, 310)} if shape == "box" else {"mask": ellipse}
    original = np.asarray(photo, float)[ellipse > 0]
    errors, sizes = [], []
    for weight in (0.25, 0.5, 0.75, 1):
        out = encoder(photo, weight=weight, **demand)
        picture = np.asarray(decoder(out.bitstream, num_inference_steps=0).images[0], float)[ellipse > 0]
        errors.append(((picture - original) ** 2).mean())
        sizes.append(len(out.bitstream))
    assert all(worse > 1.1 * better for worse, better in zip(errors, errors[1:]))
    assert sizes == sorted(sizes)


def test_the_map_is_shown_over_the_photo(encoder, photo):
    shown = np.asarray(encoder(photo, box=(64, 64, 256, 256)).map_image(), int)
    np.testing.assert_array_equal(shown[64:256, 64:256], np.asarray(photo)[64:256, 64:256])
    assert shown[300:].mean() < 0.3 * np.asarray(photo)[300:].mean()
    tensor = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
    np.testing.assert_array_equal(encoder([tensor], box=[(64, 64, 256, 256)]).map_image()[0], shown)


def test_a_large_photo_is_coded_smaller_and_returned_at_its_size(encoder, decoder, photo):
    """512 x 600, coded at 437 x 512, against the same done by hand with Pillow."""
    box, small = (150, 40, 370, 310), photo.resize((437, 512), Image.Resampling.BICUBIC)
    out = encoder(photo, box=box, background=0.6, max_side=599)
    file = Bitstream.from_bytes(out.bitstream)
    assert (file.width, file.height, file.coded_size) == (512, 600, (512, 437))
    assert out.bpp == 8 * len(out.bitstream) / (512 * 600) and out.breakdown["header"] == 12
    by_hand = encoder(small, box=[side * 437 / 512 for side in box], background=0.6)
    np.testing.assert_array_equal(out.weight_map, by_hand.weight_map)
    mask = np.zeros((600, 512))
    mask[40:310, 150:370] = 1
    np.testing.assert_array_equal(encoder(photo, mask=mask, background=0.6, max_side=512).weight_map, out.weight_map)
    assert abs(len(out.bitstream) - len(by_hand.bitstream)) <= 0.03 * len(by_hand.bitstream)

    seed = {"num_inference_steps": 0}
    as_coded = decoder(out.bitstream, **seed, upscale=False).images[0]
    assert psnr(as_coded, decoder(by_hand.bitstream, **seed).images[0]) > 30
    picture = decoder(out.bitstream, **seed).images[0]
    enlarged = as_coded.resize(photo.size, Image.Resampling.BICUBIC)
    # Pillow rounds, and clips what overshoots, after each of its two passes.
    difference = np.abs(np.asarray(picture, int) - np.asarray(enlarged, int))
    assert difference.mean() < 0.5 and difference.max() <= 8
    assert decoder(out.bitstream, **seed, output_type="latent").images.shape == (1, 4, 64, 55)
    # Small enough, or told to leave it: nothing is done.
    assert Bitstream.from_bytes(encoder(photo, max_side=600).bitstream).coded_side is None
    assert Bitstream.from_bytes(encoder(photo, max_side=None).bitstream).coded_side is None


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


def test_bad_input_is_named(encoder, decoder, small_photo, encoded, tmp_path):
    with pytest.raises(ValueError, match="referring_model= .* need none"):
        encoder(small_photo, referring="the woman")
    with pytest.raises(ValueError, match="mode must be"):
        encoder(small_photo, mode="phrase")
    with pytest.raises(ValueError, match="needs to know"):
        encoder(small_photo, mode="referring")
    with pytest.raises(ValueError, match="alike"):
        encoder(small_photo, mode="global", box=BOX)
    with pytest.raises(ValueError, match="weight must be"):
        encoder(small_photo, weight=float("nan"))
    with pytest.raises(ValueError, match="background must be"):
        encoder(small_photo, background=2)
    with pytest.raises(ValueError, match="one of them"):
        encoder(small_photo, target_bytes=300, target_bpp=0.1)
    with pytest.raises(ValueError, match="target_bpp must be"):
        encoder(small_photo, target_bpp=0)
    with pytest.raises(ValueError, match="smallest possible file .* has [0-9]+ bytes, the budget is 20;"):
        encoder(small_photo, target_bytes=20)
    with pytest.raises(ValueError, match="at least 64"):
        encoder(small_photo.crop((0, 0, 63, 100)))
    with pytest.raises(ValueError, match="outside the picture"):
        encoder(small_photo, box=(0, 0, 204, 100))
    with pytest.raises(ValueError, match="would not read"):
        encoder(small_photo, caption="zebra " * 100)
    with pytest.raises(ValueError, match="NaN"):
        encoder(np.full((64, 64, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="max_side"):
        encoder(small_photo, max_side=100)
    with pytest.raises(ValueError, match="Give a max_side"):
        encoder(Image.new("RGB", (3000, 2000)), max_side=None)
    with pytest.raises(ValueError, match="divide by 255"):
        encoder(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="list of 2"):
        encoder([small_photo, small_photo], caption="one for two")
    with pytest.raises(ValueError, match="preset"):
        decoder(encoded.bitstream, preset="quick")
    with pytest.raises(ValueError, match="num_recurrence_steps"):
        decoder(encoded.bitstream, num_recurrence_steps=0)
    with pytest.raises(ValueError, match="output_type"):
        decoder(encoded.bitstream, output_type="jpg")
    with pytest.raises(ValueError, match="one size"):
        decoder([encoded.bitstream, encoder(small_photo.resize((64, 64))).bitstream])
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["a", "b"]}')
    with pytest.raises(ValueError, match="no HSVLC"):
        RSICDecoderPipeline.from_pretrained(tmp_path)


@pytest.mark.gpu
def test_a_gpu_decodes_the_same_symbols_and_nearly_the_same_picture(encoded, decoded_by_default):
    dec = RSICDecoderPipeline.from_pretrained("rsic-tiny", dtype=torch.float16).to("cuda")
    file = Bitstream.from_bytes(encoded.bitstream)
    weight_map = torch.from_numpy(file.weight_map.values)[None, None]
    cpu = RSICDecoderPipeline.from_pretrained("rsic-tiny").hsvlc
    for ours, theirs in zip(
        dec.hsvlc.decode_symbols(file.codes, weight_map, (21, 26)),
        cpu.decode_symbols(file.codes, weight_map, (21, 26)),
    ):
        assert torch.equal(ours, theirs)
    image = dec(encoded.bitstream).images[0]
    assert psnr(image, decoded_by_default) > 25
    assert np.array_equal(np.asarray(dec(encoded.bitstream).images[0]), np.asarray(image))
