"""Photos, limits and settings as callers give them to the encoder."""

import io
import logging

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from PIL import Image

from rsic_diffusers import Bitstream, RSICEncoderPipeline
from rsic_diffusers.bitstream import BitstreamError
from rsic_diffusers.bitstream.weight_map import DEFAULT_WEIGHT
from rsic_diffusers.pipelines.encoder_inputs import choose_coded_side, load_photo


@pytest.fixture(scope="module")
def tile(small_photo):
    """64 x 64 pixels, to be quick."""
    return small_photo.crop((60, 20, 124, 84))


@pytest.fixture(scope="module")
def tile_file(encoder, tile):
    return encoder(tile, caption="a cap", box=(8, 8, 40, 64)).bitstream


ASKED = {"caption": "a cap", "box": (8, 8, 40, 64)}


def test_one_photo_in_all_the_forms_that_people_have(encoder, tile, tile_file, tmp_path):
    tile.save(tmp_path / "tile.png")
    data = (tmp_path / "tile.png").read_bytes()
    pixels = np.array(tile)

    class Named:
        def __fspath__(self):
            return str(tmp_path / "tile.png")

    for photo in (
        str(tmp_path / "tile.png"),
        Named(),
        tmp_path / "tile.png",
        data,
        io.BytesIO(data),
        pixels,
        pixels.transpose(2, 0, 1),
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels).permute(2, 0, 1) / 255,
    ):
        assert encoder(photo, **ASKED).bitstream == tile_file


def test_batches_of_arrays_and_tensors(encoder, tile, tile_file):
    pixels = np.array(tile)
    nchw = torch.from_numpy(np.stack([pixels, pixels[:, ::-1]])).permute(0, 3, 1, 2)
    both = encoder(nchw, caption=["a cap", None], box=[(8, 8, 40, 64), None])
    assert both.bitstream[0] == tile_file and len(both.bitstream) == 2
    for batch in (pixels[None], nchw[:1], nchw[:1].half() / 255):
        out = encoder(batch, **ASKED)  # what one photo is given needs no list
        assert isinstance(out.bitstream, list) and Bitstream.from_bytes(out.bitstream[0]).caption == "a cap"
    assert encoder(pixels[None], **ASKED).bitstream == [tile_file]


def test_what_a_decoder_returns_goes_in_again(encoder, decoder, tile_file):
    images = decoder(tile_file, num_inference_steps=0, output_type="pt").images
    again = encoder(images, **ASKED)
    assert again.bitstream == [encoder(images[0], **ASKED).bitstream]


def test_file_objects_on_both_ends(encoder, decoder, tile, tile_file):
    target = io.BytesIO()
    encoder(tile, **ASKED).save(target)
    assert target.getvalue() == tile_file
    file = Bitstream.read(target)  # which stands at its end
    assert file.caption == "a cap" and Bitstream.read(file) is file
    target.seek(5)
    assert Bitstream.read(target).to_bytes() == tile_file
    with pytest.raises(BitstreamError, match="binary mode.*this StringIO gives text"):
        Bitstream.read(io.StringIO("\udcff"))
    with pytest.raises(BitstreamError, match="it is empty"):
        decoder(b"")


def test_numbers_of_numpy_and_torch(encoder, tile, tile_file, photo):
    box = torch.tensor(ASKED["box"])
    numbers = {"caption": "a cap", "levels": np.int64(8), "target_bytes": None, "weight": np.float32(5 / 7)}
    for corners in (box, tuple(box), box.numpy().astype(np.float32), tuple(box.numpy())):
        assert encoder(tile, box=corners, **numbers).bitstream == tile_file
    large = photo.crop((0, 0, 300, 200))
    assert encoder(large, max_side=np.int64(256)).bitstream == encoder(large, max_side=256).bitstream


def test_what_each_photo_of_a_batch_is_given(encoder, tile, tile_file):
    other = tile.transpose(Image.Transpose.ROTATE_180)
    boxes = np.array([ASKED["box"], (0, 0, 32, 32)])
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 8:64, 8:40] = masks[1, :32, :32] = True
    for asked in ({"box": boxes}, {"box": boxes.tolist()}, {"mask": masks}, {"mask": torch.from_numpy(masks)}):
        together = encoder([tile, other], caption=["a cap", ""], **asked).bitstream
        name, values = next(iter(asked.items()))
        alone = [
            encoder(photo, caption=caption, **{name: value}).bitstream
            for photo, caption, value in zip([tile, other], ["a cap", ""], values, strict=True)
        ]
        assert together == alone
    with pytest.raises(ValueError, match="4 images need a list of 4 for box"):
        encoder([tile] * 4, box=(0, 0, 50, 50))
    with pytest.raises(ValueError, match="2 images need a list of 2 for point"):
        encoder([tile] * 2, point=(20, 20))


def test_transparent_pixels_take_the_colour_asked_for(encoder, tile):
    erased = tile.convert("RGBA")
    erased.paste((200, 30, 90, 0), (0, 0, 64, 40))
    for colour in ("white", (20, 200, 90)):
        out = encoder(erased, background_color=colour, weight=0.3)
        seen = np.asarray(out.image)[:40]
        assert (seen == np.asarray(Image.new("RGB", (64, 40), colour))).all()
        flat = Image.new("RGB", tile.size, colour)
        flat.paste(tile.crop((0, 40, 64, 64)), (0, 40))
        assert out.bitstream == encoder(flat, weight=0.3).bitstream


@pytest.mark.parametrize("as_file", [True, False])
def test_max_pixels_is_a_bound_before_any_work(encoder, tile, monkeypatch, as_file):
    def fail(*_):
        raise AssertionError("the photo was decoded")

    data = io.BytesIO()
    tile.save(data, "png")
    photo = data.getvalue() if as_file else tile.copy()
    assert encoder(photo, max_pixels=64 * 64, weight=0.1).bitstream
    monkeypatch.setattr("rsic_diffusers.images.to_rgb", fail)
    monkeypatch.setattr("rsic_diffusers.pipelines.encoder_inputs.to_rgb", fail)
    with pytest.raises(ValueError, match="64 x 64 pixels.* 4095"):
        encoder(photo, max_pixels=64 * 64 - 1)
    with pytest.raises(ValueError, match="max_pixels must be"):
        encoder(photo, max_pixels="many")


def test_nothing_is_done_for_a_batch_with_one_bad_photo(encoder, tile, monkeypatch):
    monkeypatch.setattr(encoder.vae, "encode", lambda *_: pytest.fail("a photo was encoded"))
    with pytest.raises(ValueError, match="outside the picture"):
        encoder([tile, tile], box=[None, (0, 0, 500, 20)])


def test_the_default_weight_is_one_constant(encoder, tile):
    assert Bitstream.from_bytes(encoder(tile).bitstream).weight_map.values[0, 0] == pytest.approx(
        DEFAULT_WEIGHT, abs=1 / 510
    )
    assert encoder(tile, box=(0, 0, 64, 64)).weight_map[0, 0] == pytest.approx(DEFAULT_WEIGHT)
    assert encoder(tile, referring={"box": (0, 0, 64, 64)}).weight_map[0, 0] == pytest.approx(DEFAULT_WEIGHT)


@pytest.fixture
def warnings_of_the_package(caplog):
    """diffusers' loggers do not propagate to the one that pytest listens to."""
    logger = logging.getLogger("rsic_diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"background": 0.3}, "background=0.3 has no effect"),
        (
            {"box": (0, 0, 40, 40), "weight": 0.2, "background": 0.5},
            "weight 0.2 has no effect: rounded to 8 levels, it is not above the background, 0.5",
        ),
    ],
)
def test_what_has_no_effect_is_told(encoder, tile, asked, message, warnings_of_the_package):
    encoder(tile, **asked)
    assert message in warnings_of_the_package.text
    warnings_of_the_package.clear()
    encoder(tile, box=(0, 0, 40, 40), background=0.1)
    encoder(tile, box=(0, 0, 40, 40), weight=0.2)
    assert not warnings_of_the_package.records


def test_max_side_comes_from_the_checkpoint(encoder, decoder, photo, tmp_path):
    wide = photo.crop((0, 0, 300, 100))
    assert Bitstream.from_bytes(encoder(wide, weight=0).bitstream).coded_side is None  # rsic-tiny's says 768
    small = RSICEncoderPipeline(encoder.vae, encoder.hsvlc, default_max_side=200)
    small.set_progress_bar_config(disable=True)
    assert Bitstream.from_bytes(small(wide, weight=0).bitstream).coded_side == 128
    assert Bitstream.from_bytes(small(wide, weight=0, max_side=None).bitstream).coded_side is None
    assert Bitstream.from_bytes(small(wide, weight=0, max_side=256).bitstream).coded_side == 256
    # Saved with the pipeline, and read by both ends.
    small.save_pretrained(tmp_path)
    assert RSICEncoderPipeline.from_pretrained(tmp_path).config.default_max_side == 200
    # From a pipeline whose UNet says what it was trained for: 8 x sample_size.
    unet_side = 8 * decoder.unet.config.sample_size
    made = RSICEncoderPipeline.from_pipe(decoder)
    assert made.config.default_max_side in (unet_side, decoder.config.get("default_max_side"))


@pytest.mark.parametrize(
    "height, width, max_side, coded_side",
    [
        (300, 900, 768, 768),
        (500, 770, None, None),
        (500, 770, 1024, 768),
        (1500, 2178, 4096, None),
        (9, 3000, 4096, None),
    ],
)
def test_slightly_too_large_photos_are_coded_at_the_multiple_below(height, width, max_side, coded_side):
    assert choose_coded_side(height, width, max_side) == coded_side  # the format knows sides up to 2048


def test_half_precision_that_overflows_is_encoded_in_float32(tile, tile_file, warnings_of_the_package, monkeypatch):
    half = RSICEncoderPipeline.from_pretrained("rsic-tiny", dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    original = type(half.vae).encode

    def overflowing(vae, image):
        latents = original(vae, image)
        if image.dtype != torch.float32:
            latents.latents[..., 3, 3] = torch.nan
        return latents

    monkeypatch.setattr(type(half.vae), "encode", overflowing)
    data = half(tile, **ASKED).bitstream
    assert "the photo is encoded again in float32" in warnings_of_the_package.text and half.vae.dtype == torch.bfloat16
    assert len(data) == pytest.approx(len(tile_file), abs=12)
    half.vae.decoder, half.vae.encoder = None, torch.nn.Conv2d(3, 4, 8, stride=8)
    torch.nn.init.constant_(half.vae.encoder.weight, torch.nan)  # damaged weights
    half.vae.float()
    with pytest.raises(ValueError, match="NaN"):
        half(tile)


def test_arguments_are_checked_without_a_photo(encoder):
    demands = encoder.check_arguments(box=[(0, 0, 9, 9), (5, 5, 20, 20)], weight=0.4)
    assert [demand.weight for demand in demands] == [0.4, 0.4]
    with pytest.raises(ValueError, match="levels must be"):
        encoder.check_arguments(levels=1)
    with pytest.raises(TypeError, match="wieght"):
        encoder.check_arguments(wieght=1)


def test_photos_of_the_wrong_kind_are_named():
    for source, message in ((5, "must be a PIL image"), (np.zeros((9, 9, 3)), "at least 64"), (None, "must be a PIL")):
        with pytest.raises(ValueError, match=message):
            load_photo(source, "white", None)


class Helper(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)


def test_referring_model_and_captioner_follow_the_pipeline(encoder):
    from rsic_diffusers import Captioner, ReferringModel

    class Processor:
        chat_template = "a template"

    def helpers(**told):
        model = Helper()
        model.config = type("Config", (), {"model_type": "any"})()
        return {
            "referring_model": ReferringModel(Helper(), None, **told),
            "captioner": Captioner(model, Processor(), **told),
        }

    for told, device in (({}, "meta"), ({"follows_pipeline": False}, "cpu")):
        fresh = RSICEncoderPipeline.from_pretrained("rsic-tiny", **helpers(**told))
        fresh.to("meta")
        assert fresh.captioner.model.weight.device.type == fresh.referring_model.model.weight.device.type == device
        # A pipeline made of models that are on a device already.
        made = RSICEncoderPipeline(fresh.vae, fresh.hsvlc, **helpers(**told))
        assert made.captioner.model.weight.device.type == device
    # Sequential offloading leaves the VAE on "meta" between its calls; the helpers must not follow it there.
    fresh = RSICEncoderPipeline.from_pretrained("rsic-tiny")
    cpu_offload(fresh.vae, "cpu")
    made = RSICEncoderPipeline(fresh.vae, fresh.hsvlc, **helpers())
    for pipeline in (made, made.to(torch.float32)):
        assert pipeline.vae.device.type == "meta" and pipeline.captioner.model.weight.device.type == "cpu"
