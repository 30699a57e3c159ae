"""Other codecs at so many bytes, against brute force over all their settings."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from rsic_diffusers.evaluation.metrics import psnr
from rsic_diffusers.evaluation.peers import PEERS, PeerUnavailable, best_standard_codec, load_peer
from rsic_diffusers.evaluation.peers.search import largest_within, nearest_level


@pytest.fixture(scope="module")
def tiny(detail):
    """49 x 41, for the slow encoders."""
    return detail.crop((20, 20, 69, 61))


def save(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


BRUTE_FORCE = {
    "jpeg": [(f"quality {q}", "JPEG", {"quality": q, "optimize": True, "subsampling": "4:2:0"}) for q in range(96)],
    "webp": [(f"quality {q}", "WEBP", {"quality": q, "method": 6}) for q in range(101)],
    "avif": [(f"quality {q}", "AVIF", {"quality": q, "speed": 4}) for q in range(101)],
    "jpegxl": [(f"quality {q}", "JXL", {"quality": q, "effort": 9}) for q in range(100)],
    "jpeg2000": [
        (
            f"rate {n} bytes",
            "JPEG2000",
            {
                "no_jp2": True,
                "irreversible": True,
                "comment": " ",
                "quality_mode": "rates",
                "quality_layers": [49 * 41 * 3 / n],
            },
        )
        for n in range(1, 800)
    ],
}


@pytest.mark.parametrize("name", BRUTE_FORCE)
def test_choice_is_that_of_brute_force(name, tiny):
    if name == "jpegxl":
        pytest.importorskip("pillow_jxl")
    peer = load_peer(name)
    files = [(setting, save(tiny, format, **options)) for setting, format, options in BRUTE_FORCE[name]]
    smallest = min(len(data) for _, data in files)
    for num_bytes in (smallest, smallest + 57, smallest * 2):
        setting, data = max((file for file in files[::-1] if len(file[1]) <= num_bytes), key=lambda file: len(file[1]))
        result = peer(tiny, num_bytes)
        assert (result.setting, result.data, result.fits) == (setting, data, True)
        assert result.num_bytes == len(data) and result.name == peer.name
        np.testing.assert_array_equal(np.asarray(result.image), pixels(data))
        assert result.encode_seconds > 0 and result.decode_seconds > 0
    too_large = peer(tiny, smallest - 1)
    assert not too_large.fits and too_large.num_bytes == len(too_large.data) == smallest
    np.testing.assert_array_equal(np.asarray(too_large.image), pixels(too_large.data))
    assert psnr(result.image, tiny) > psnr(too_large.image, tiny) + 1


def test_sizes_that_are_only_nearly_monotone():
    rng = np.random.default_rng(0)
    for _ in range(200):
        # A file's place among the sizes is off by at most 4 from its setting's, so two are at most 8 apart.
        sizes = np.sort(rng.integers(20, 400, 64))[np.argsort(np.arange(64) + rng.uniform(-4, 4, 64))]
        num_bytes = int(rng.integers(10, 420))
        found = largest_within(range(64), lambda i, sizes=sizes: bytes(int(sizes[i])), num_bytes)
        fitting = sizes[sizes <= num_bytes]
        assert len(found.data) == (fitting.max() if len(fitting) else sizes.min())
        assert found.fits == bool(len(fitting)) and len(found.data) == sizes[found.setting]


@pytest.mark.parametrize(
    "num_bytes, chosen, fits",
    [(20, 100, False), (100, 100, True), (250, 100, True), (350, 1000, True), (5000, 1000, True)],
)
def test_nearest_level_by_ratio(num_bytes, chosen, fits):
    found = nearest_level((100, 1000), bytes, num_bytes)
    assert (found.setting, len(found.data), found.fits) == (chosen, chosen, fits)


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "jpeg2000", "jpegxl"])
def test_metadata_of_the_photo_is_left_out(name, tiny):
    if name == "jpegxl":
        pytest.importorskip("pillow_jxl")
    exif = Image.Exif()
    exif[0x010E] = "a long description " * 20
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = Image.open(io.BytesIO(save(tiny, "PNG", exif=exif, icc_profile=profile)))
    loaded.info["comment"] = b"a comment"
    assert loaded.getexif() and loaded.info["icc_profile"]
    assert load_peer(name)(loaded, 1200).data == load_peer(name)(tiny, 1200).data


def test_best_standard_codec_has_the_highest_psnr(tiny):
    result = best_standard_codec(tiny, 600)
    results = [load_peer(name)(tiny, 600) for name in ("jpeg", "webp", "avif", "jpeg2000")]
    assert psnr(result.image, tiny) == max(psnr(one.image, tiny) for one in results if one.fits)
    assert result.fits and result.num_bytes <= 600


def test_best_standard_codec_that_cannot_go_so_low_gives_the_smallest_file(tiny):
    result = best_standard_codec(tiny, 30)
    assert not result.fits
    assert result.num_bytes == min(
        load_peer(name)(tiny, 30).num_bytes for name in ("jpeg", "webp", "avif", "jpeg2000")
    )


def test_names_and_budgets_at_the_door(detail):
    assert list(PEERS) == ["jpeg", "webp", "avif", "jpeg2000", "jpegxl", "vvc", "ms-illm"]
    with pytest.raises(ValueError, match="'gif' is no peer codec; choose from jpeg, "):
        load_peer("gif")
    with pytest.raises(ValueError, match="ask for at least 1"):
        load_peer("jpeg")(detail, 0)


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(PeerUnavailable, match="built without AVIF"):
        load_peer("avif")
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(PeerUnavailable, match="pillow-jxl-plugin"):
        load_peer("jpegxl")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerUnavailable, match="vvencapp and vvdecapp is not there"):
        load_peer("vvc")
