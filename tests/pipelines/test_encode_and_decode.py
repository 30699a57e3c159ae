"""The main job on the embedded default and a real photo."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers import Bitstream, RSICDecoderPipeline
from rsic_diffusers.evaluation.equal_size import pair_at_equal_size
from rsic_diffusers.evaluation.metrics import psnr


# For what does not depend on how good the picture is.
QUICK = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0}
BOX = (50, 20, 150, 140)


def grey_like(image):
    """A picture of the mean colour: what knowing nothing but that would give."""
    return Image.new("RGB", image.size, tuple(np.asarray(image).mean((0, 1)).astype(int)))


def test_the_picture_looks_like_the_photo(decoded_by_default, small_photo):
    assert decoded_by_default.size == small_photo.size
    # Far nearer to the photo than its mean colour, and nearest where it was asked to be.
    grey = grey_like(small_photo)
    assert psnr(decoded_by_default, small_photo) > psnr(grey, small_photo) + 2
    assert psnr(decoded_by_default, small_photo, BOX) > psnr(grey, small_photo, BOX) + 5


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
    for image, data in zip(together, out.bitstream, strict=True):
        np.testing.assert_allclose(image, decoder(data, **QUICK, output_type="np").images[0], atol=0.02)


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (768, 256)])
def test_sizes_from_64_up(encoder, decoder, photo, size):
    image = photo.resize(size)
    out = encoder(image, weight=0.9)
    decoded = decoder(out.bitstream).images[0]
    assert decoded.size == size and psnr(decoded, image) > psnr(grey_like(image), image) + 1.5


def test_two_demands_get_fidelity_by_their_weights(encoder, decoder, photo):
    first, second = (0, 64, 192, 256), (320, 64, 512, 256)
    out = encoder(photo, weight=1, referring=[{"box": first}, {"box": second, "weight": 0.6}])
    assert out.weight_map[1:4, :3].min() == 1 and np.allclose(out.weight_map[1:4, 5:], 4 / 7)
    swapped = encoder(photo, weight=1, referring=[{"box": first, "weight": 0.6}, {"box": second}])
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
    assert all(worse > 1.1 * better for worse, better in itertools.pairwise(errors))
    assert sizes == sorted(sizes)


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


def test_a_pixel_above_a_multiple_of_128_costs_next_to_nothing(encoder, decoder, photo):
    """385 x 513 pixels: as many bytes as 384 x 512, and as good a picture as at its own size."""
    larger = photo.resize((385, 513), Image.Resampling.LANCZOS)
    out, own_size = encoder(larger), encoder(larger, max_side=None)
    even = encoder(larger.crop((0, 0, 384, 512)))
    assert Bitstream.from_bytes(out.bitstream).coded_size == (512, 384)
    assert len(out.bitstream) < 1.03 * len(even.bitstream) < len(own_size.bitstream)
    pictures = [decoder(made.bitstream, num_inference_steps=0).images[0] for made in (out, own_size)]
    assert pictures[0].size == larger.size
    assert psnr(pictures[0], larger) > psnr(pictures[1], larger) - 0.2
    assert Bitstream.from_bytes(encoder(photo.resize((389, 517))).bitstream).coded_side is None


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
        encoder(small_photo, box=(0, 0, 205, 100))
    with pytest.raises(ValueError, match="would not read"):
        encoder(small_photo, caption="zebra " * 100)
    with pytest.raises(ValueError, match="NaN"):
        encoder(np.full((64, 64, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="max_side"):
        encoder(small_photo, max_side=100)
    with pytest.raises(ValueError, match="Give a max_side"):
        encoder(Image.new("RGB", (3000, 2000)), max_side=None)
    with pytest.raises(ValueError, match="uint8 or floats"):
        encoder(np.zeros((64, 64, 3), np.int32))
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
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no HSVLC"):
        RSICDecoderPipeline.from_pretrained(tmp_path)
