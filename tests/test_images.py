"""Photos and masks in all the shapes that people have them in, made here with Pillow or byte by byte."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from rsic_diffusers import images
from rsic_diffusers.bitstream.sizes import MAX_RETURNED_PIXELS
from rsic_diffusers.images import (
    ImageError,
    array_to_rgb,
    open_image,
    read_mask,
    readable_suffixes,
    to_rgb,
    upright_size,
)


DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])  # to XYZ, D50


def matrix_profile(to_xyz, gamma=2.2) -> bytes:
    """An ICC profile of three primaries and one gamma, byte by byte."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(65536 * value)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.82491),
        b"cprt": b"text" + bytes(4) + b"none\0",
    }
    for i, channel in enumerate(b"rgb"):
        tags[bytes([channel]) + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*to_xyz[:, i])
        tags[bytes([channel]) + b"TRC"] = curve
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytes(8) + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += fixed(0.9642, 1, 0.82491) + bytes(48)
    data = header + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(data)) + data[4:]


def in_srgb(pixels, to_xyz, gamma=2.2):
    """The same by hand, in floats."""
    linear = (pixels / 255) ** gamma @ to_xyz.T @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.fixture
def small(small_photo):
    return small_photo.crop((40, 20, 140, 100))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_colour_profiles_are_converted_to_srgb(small, suffix, tmp_path):
    path = tmp_path / f"wide{suffix}"
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    small.save(path, icc_profile=matrix_profile(DISPLAY_P3), **options)
    stored = np.asarray(Image.open(path).convert("RGB"), float)
    expected = in_srgb(stored, DISPLAY_P3)
    assert np.abs(expected - stored).mean() > 2  # else the test would show nothing
    difference = np.abs(np.asarray(open_image(path), float) - expected)
    assert difference.mean() < 0.5 and np.percentile(difference, 99) < 3
    # A pipeline's photo may come as an open Pillow image.
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.open(path))), np.asarray(open_image(path)))


def test_the_first_frame_of_an_animation_is_taken_and_told(small, caplog, tmp_path):
    frames = [small, small.transpose(Image.Transpose.ROTATE_180)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(small))
    assert "a.png, which has 2 frames, the first is taken" in caplog.text
    caplog.clear()
    small.convert("P").save(tmp_path / "a.gif", save_all=True, append_images=[frames[1].convert("P")])
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) * 3 // 4])
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "cut.gif")), np.asarray(open_image(data)))
    caplog.clear()
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])  # as phones make them
    open_image(tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").n_frames == 2 and not caplog.text


def test_an_srgb_profile_changes_nothing(small, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    small.save(tmp_path / "tagged.png", icc_profile=profile)
    assert np.abs(np.asarray(open_image(tmp_path / "tagged.png"), int) - np.asarray(small)).max() <= 1


@pytest.mark.parametrize("profile", [b"no profile at all", matrix_profile(DISPLAY_P3)[:200]])
def test_a_broken_profile_is_left_out(small, profile, tmp_path, caplog):
    small.save(tmp_path / "broken.png", icc_profile=profile)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "broken.png")), np.asarray(small))
    assert "colour profile" in caplog.text


def transparent(mode, small):
    """The photo with its left half erased; the colours are still stored below it."""
    alpha = Image.new("L", small.size, 255)
    alpha.paste(0, (0, 0, 50, 80))
    picture = small.convert("L") if mode == "LA" else small.copy()
    picture.putalpha(alpha)
    if mode == "P":
        picture = small.quantize(200)
        picture.putpalette((picture.getpalette() + 768 * [0])[:768])
        picture.paste(200, (0, 0, 50, 80))
        picture.info["transparency"] = 200
    return picture


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_erased_pixels_do_not_come_back(small, mode, tmp_path):
    transparent(mode, small).save(tmp_path / "erased.png")
    plain = np.asarray(small.convert("L") if mode == "LA" else small, int).reshape(80, 100, -1)
    for background, colour in (("white", (255, 255, 255)), ((10, 200, 30), (10, 200, 30)), ("#000", (0, 0, 0))):
        ours = np.asarray(open_image(tmp_path / "erased.png", background), int)
        np.testing.assert_array_equal(ours[:, :50], np.broadcast_to(colour, (80, 50, 3)))
        assert np.abs(ours[:, 50:] - plain[:, 50:]).mean() < (6 if mode == "P" else 0.01)
    white = np.asarray(open_image(tmp_path / "erased.png"))
    assert (white[:, :50] == 255).all()
    with pytest.raises(ValueError, match="background colour is a name"):
        open_image(tmp_path / "erased.png", "no colour")


def test_half_transparent_pixels_are_mixed():
    image = Image.new("RGBA", (4, 4), (100, 0, 200, 102))  # alpha 0.4
    np.testing.assert_allclose(np.asarray(to_rgb(image))[0, 0], (193, 153, 233), atol=1)
    array = np.asarray(image)
    np.testing.assert_allclose(255 * array_to_rgb(array)[0, 0], (193, 153, 233), atol=1)
    np.testing.assert_allclose(255 * array_to_rgb(array, "black")[0, 0], (40, 0, 80), atol=1)


def exif_with_text_for_a_number(orientation):
    """EXIF as some programs write it: text where XResolution should hold a fraction."""
    entries = [(0x0112, 3, 1, struct.pack("<HH", orientation, 0)), (0x011A, 2, 4, b"abc\0")]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHI", tag, kind, n) + value for tag, kind, n, value in entries) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_with_odd_exif_are_turned_upright(small, orientation, tmp_path):
    data = io.BytesIO()
    small.save(data, "JPEG", quality=95)
    exif = exif_with_text_for_a_number(orientation)
    jpeg = data.getvalue()
    path = tmp_path / "odd.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    # By the definition: which side of the picture the stored rows and columns begin at.
    stored = np.asarray(Image.open(io.BytesIO(jpeg)))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored[::-1].swapaxes(0, 1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored[:, ::-1].swapaxes(0, 1),
    }[orientation]
    opened = open_image(path)
    np.testing.assert_array_equal(np.asarray(opened), upright)
    np.testing.assert_array_equal(np.asarray(to_rgb(opened)), upright)  # it goes to the encoder so


def test_broken_exif_is_ignored(small, tmp_path):
    small.save(tmp_path / "broken.webp", lossless=True, exif=b"Exif\0\0MM\0*garbage")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "broken.webp")), np.asarray(small))


# Grey of more than 8 bits.


@pytest.fixture
def grey(small):
    return np.asarray(small.convert("L"))


def assert_is_grey(image, grey):
    np.testing.assert_allclose(np.asarray(image, int), np.repeat(grey[..., None], 3, axis=2), atol=1)


def test_deep_grey_is_scaled_by_what_its_type_says(grey, tmp_path):
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095  # MaxSampleValue
    Image.fromarray(np.round(grey / 255 * 4095).astype(np.uint16)).save(tmp_path / "12 in 16.tif", tiffinfo=tags)
    header = b"P5 %d %d 65535\n" % grey.shape[::-1]
    (tmp_path / "deep.pgm").write_bytes(header + (grey.astype(">u2") * 257).tobytes())
    for name in ("float.tif", "deep.png", "12 in 16.tif", "deep.pgm"):
        assert_is_grey(open_image(tmp_path / name), grey)


def test_deep_grey_of_unclear_meaning_is_refused(grey, tmp_path):
    Image.fromarray(grey.astype(np.int32) * 2**16).save(tmp_path / "int.tif")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "to 255.tif")
    Image.fromarray(np.where(grey > 100, np.nan, 0.5).astype(np.float32)).save(tmp_path / "nan.tif")
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "12 bits.png")
    for name, message in (
        ("int.tif", "32-bit integers do not say"),
        ("to 255.tif", "floating-point values go from .* to 2[0-9]+"),
        ("nan.tif", "floating-point values go from"),
        ("12 bits.png", "looks like 12 bits"),
    ):
        with pytest.raises(ImageError, match=message):
            open_image(tmp_path / name)


# Files that cannot be read.


def test_why_a_file_cannot_be_read_is_said(small, tmp_path, monkeypatch):
    small.save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("a shopping list")
    for name, message in (
        ("cut.jpg", r"cut.jpg cannot be read as an image: image file is truncated \([0-9]+ bytes not processed\)\."),
        ("empty.jpg", r"the file is empty \(0 bytes\)"),
        ("text.jpg", "text.jpg is not an image of a kind that is read here"),
    ):
        for read in (open_image, read_mask, lambda path: open_image(path.read_bytes())):
            with pytest.raises(ImageError, match=message.removeprefix("cut.jpg ").removeprefix("text.jpg ")):
                read(tmp_path / name)
        with pytest.raises(ImageError, match=message):
            open_image(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "missing.jpg")


def large_png(width, height):
    """A valid PNG of zeros; a few kilobytes whatever its size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(bytes(width // 8 + 2)) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "width, height, message", [(15000, 14000, "210000000 pixels"), (13300, 13300, "13300 x 13300")]
)
def test_large_pictures_are_refused_before_they_are_decoded(width, height, message):
    data = large_png(width, height)
    assert len(data) < 100_000
    tracemalloc.start()
    for read in (open_image, read_mask):
        with pytest.raises(ImageError, match=message):
            read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    with pytest.raises(ImageError, match="at most 9999 are accepted"):
        open_image(large_png(100, 100), max_pixels=9999)


def test_what_can_be_opened_can_be_in_a_file():
    assert images.MAX_IMAGE_PIXELS == MAX_RETURNED_PIXELS


def test_the_size_of_a_turned_photo_is_that_of_its_upright_picture(small, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        small.save(tmp_path / name, exif=exif)
        assert upright_size(tmp_path / name) == open_image(tmp_path / name).size[::-1]


def test_an_icon_is_no_targa(small):
    buffer = io.BytesIO()
    small.resize((128, 128)).save(buffer, "ICO", sizes=[(128, 128)], bitmap_format="bmp")
    assert np.abs(np.asarray(open_image(buffer.getvalue()), int) - np.asarray(small.resize((128, 128)))).max() <= 1


def test_programs_are_no_photos():
    """PostScript, which Pillow would have Ghostscript run, whatever the file is called."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n0 0 64 64 rectfill\nshowpage\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    with pytest.raises(ImageError, match="not an image of a kind that is read here"):
        open_image(eps)
    assert {".jpg", ".png", ".tif", ".avif"} <= set(readable_suffixes())
    assert not {".eps", ".ps", ".mpg", ".h5"} & set(readable_suffixes())


def test_heic_photos_are_read_and_found(small, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(small).save(tmp_path / "photo.heic", quality=90)
    for source in (tmp_path / "photo.heic", io.BytesIO((tmp_path / "photo.heic").read_bytes())):
        assert np.abs(np.asarray(open_image(source), int) - np.asarray(small)).mean() < 4


def test_without_its_package_heic_is_named(tmp_path):
    (tmp_path / "photo.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"  # as if it were not installed
        "from pathlib import Path\n"
        "from rsic_diffusers.folders import plan\n"
        "from rsic_diffusers.images import open_image, readable_suffixes\n"
        "jobs = plan(Path('.'), Path('out'), readable_suffixes(), '.rsic')\n"
        "assert [path.name for path in jobs] == ['photo.heic']\n"  # a folder does not pass it over
        "open_image('photo.heic')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "ImageError: photo.heic: HEIC photos are read through the package pillow-heif" in result.stderr
    assert 'pip install "rsic-diffusers[heif]"' in result.stderr
    assert {".heic", ".heif", ".jpg", ".png"} <= set(readable_suffixes())


def test_file_objects_are_read(small, tmp_path):
    data = io.BytesIO()
    small.save(data, "png")  # and its position is the end
    np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(small))
    small.save(tmp_path / "photo.png")
    with open(tmp_path / "photo.png", "rb") as file:
        np.testing.assert_array_equal(np.asarray(open_image(file)), np.asarray(small))


# Masks.


@pytest.fixture
def region():
    region = np.zeros((80, 100), bool)
    region[10:50, 20:90] = True
    return region


def as_palette(region, region_index, colours):
    image = Image.fromarray(np.where(region, region_index, 0).astype(np.uint8)).convert("P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def with_alpha(region, grey):
    picture = Image.fromarray(np.full(region.shape, grey, np.uint8))
    picture.putalpha(Image.fromarray(region.astype(np.uint8) * 255))
    return picture


MASKS = {
    "bilevel": lambda region: Image.fromarray(region),
    "label 1": lambda region: Image.fromarray(region.astype(np.uint8)),
    "label 7 in 16 bits": lambda region: Image.fromarray(region.astype(np.uint16) * 7),
    "label in 32 bits": lambda region: Image.fromarray(region.astype(np.int32) * 100_000),
    "float 0.5": lambda region: Image.fromarray(region.astype(np.float32) / 2),
    "RGB": lambda region: Image.fromarray(np.stack([0 * region, 0 * region, 3 * region], 2).astype(np.uint8)),
    "opaque RGBA": lambda region: Image.fromarray(region.astype(np.uint8) * 255).convert("RGBA"),
    "alpha over black": lambda region: with_alpha(region, 0),
    "alpha over white": lambda region: with_alpha(region, 255),
    "RGBA over white": lambda region: with_alpha(region, 255).convert("RGBA"),
    "black label": lambda region: as_palette(region, 7, 256 * [(0, 0, 0)]),
    "coloured background": lambda region: as_palette(region, 7, [(9, 99, 200)] + 255 * [(50, 60, 70)]),
    "CMYK": lambda region: Image.fromarray(region.astype(np.uint8) * 255).convert("RGB").convert("CMYK"),
    "(H, W)": lambda region: region * 0.25,
    "(1, H, W)": lambda region: region[None].astype(np.int64),
    "(H, W, 1)": lambda region: region[..., None].astype(np.uint8),
    "tensor (1, H, W)": lambda region: torch.from_numpy(region)[None],
    "tensor (1, 1, H, W)": lambda region: torch.from_numpy(region)[None, None].to(torch.bfloat16),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_what_is_not_0(region, name):
    mask = MASKS[name](region)
    np.testing.assert_array_equal(read_mask(mask), region)
    if isinstance(mask, Image.Image):
        suffix = "tiff" if mask.mode in ("F", "I", "CMYK") else "png"
        data = io.BytesIO()
        mask.save(data, suffix)
        np.testing.assert_array_equal(read_mask(data.getvalue()), region)
        exif = Image.Exif()
        exif[0x0112] = 3
        if suffix == "png":
            mask.save(data := io.BytesIO(), "png", exif=exif)
            np.testing.assert_array_equal(read_mask(data.getvalue()), region[::-1, ::-1])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_masks_one_above_the_other_refer_to_what_any_does(region, kind, number):
    """As detectors give them; two and four are no pictures with alpha."""
    parts = np.zeros((number, *region.shape), bool)
    for i in range(number):
        parts[i, :, i::number] = region[:, i::number]
    np.testing.assert_array_equal(read_mask(kind(parts)), region)
    np.testing.assert_array_equal(read_mask(kind(np.ascontiguousarray(np.moveaxis(parts, 0, 2)))), region)
    np.testing.assert_array_equal(read_mask(kind(parts.astype(np.uint8))), region)


def test_a_picture_taken_for_a_stack_of_masks_is_told(region, caplog):
    picture = np.stack([region, region, region, np.ones_like(region)]).astype(np.uint8)  # RGBA, channels first
    assert read_mask(picture).all() and "0 nowhere" in caplog.text


def test_a_mask_of_probabilities_is_told(region, caplog):
    read_mask(np.where(region, 0.9, 0.02))
    assert "0 nowhere, so it refers to the whole picture" in caplog.text


def test_a_black_and_white_palette_the_wrong_way_round_is_refused(region):
    drawn = as_palette(~region, 1, [(255, 255, 255), (0, 0, 0)])  # white where something is meant, and its number is 0
    with pytest.raises(ImageError, match="black is not the number 0"):
        read_mask(drawn)


# Arrays.


def test_arrays_of_all_usual_kinds_agree(small):
    pixels = np.asarray(small)
    expected = pixels / np.float32(255)
    for array in (
        pixels,
        pixels.transpose(2, 0, 1),
        pixels.astype(np.uint16) * 257,
        pixels / 255,
        np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    ):
        np.testing.assert_allclose(array_to_rgb(array), expected, atol=1e-6)
    grey = pixels[..., 0]
    for array in (grey, grey[None], grey[..., None]):
        np.testing.assert_allclose(array_to_rgb(array), np.repeat(expected[..., :1], 3, axis=2), atol=1e-6)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.full((64, 64, 3), np.nan), "others, or NaN"),
        (np.full((64, 64, 3), 200.0), "others, or NaN"),
        (np.zeros((64, 64, 3), np.int64), "uint8 or floats"),
        (np.zeros((64, 64, 7)), "at most 4 channels"),
        (np.full((64, 64), 4000, np.uint16), "looks like 12 bits"),
    ],
)
def test_arrays_of_unclear_meaning_are_refused(array, message):
    with pytest.raises(ImageError, match=message):
        array_to_rgb(array)
