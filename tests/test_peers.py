"""Other codecs at so many bytes, against brute force over all their settings."""

import io
import json
import os
import stat
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from rsic_diffusers.evaluation.metrics import psnr
from rsic_diffusers.evaluation.peers import PEERS, PeerUnavailable, best_standard_codec, load_external, load_peer
from rsic_diffusers.evaluation.peers.search import largest_within, nearest_level


@pytest.fixture(scope="module")
def detail(photo):
    """The face, small enough for brute force: 97 x 81, odd sides."""
    face = photo.crop((210, 80, 307, 161))
    face.info.clear()  # the file has a comment
    return face


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
        found = largest_within(range(64), lambda i: bytes(int(sizes[i])), num_bytes)
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


# Both take only the options that the real programs document.
ENCODER = """
parser.add_argument("--input", "-i", required=True)
parser.add_argument("--output", "-o", required=True)
parser.add_argument("--size", "-s", default="1920x1080")
parser.add_argument("--format", "-c", default="yuv420", choices=["yuv420", "yuv420_10"])
parser.add_argument("--preset", default="medium", choices=["faster", "fast", "medium", "slow", "slower"])
parser.add_argument("--intraperiod", type=int, default=0)
parser.add_argument("--qp", "-q", type=int, default=32, choices=range(64))
parser.add_argument("--qpa", type=int, default=1, choices=[0, 1])
args = parser.parse_args()
width, height = map(int, args.size.split("x"))
assert args.format == "yuv420" and width % 2 == height % 2 == 0
"""
DECODER = """
parser.add_argument("--bitstream", "-b", required=True)
parser.add_argument("--output", "-o", required=True)
args = parser.parse_args()
"""
# Bits cut off, and zlib. The decoder writes 10 bits, as VVdeC does.
STAND_INS = {
    "vvencapp": ENCODER
    + """
with open(args.input, "rb") as file:
    samples = file.read()
assert len(samples) == width * height * 3 // 2
cut = bytes(value >> args.qp // 8 for value in range(256))
with open(args.output, "wb") as file:
    file.write(bytes([args.qp]) + zlib.compress(samples.translate(cut), 9))
""",
    "vvdecapp": DECODER
    + """
with open(args.bitstream, "rb") as file:
    data = file.read()
samples = [level << data[0] // 8 + 2 for level in zlib.decompress(data[1:])]
with open(args.output, "wb") as file:
    file.write(struct.pack(f"<{len(samples)}H", *samples))
""",
}
# VVenC itself and another decoder, FFmpeg's. Its VVenC takes only 10 bits.
FFMPEG = {
    "vvencapp": ENCODER
    + """
subprocess.run(
    [ffmpeg, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", args.size, "-r", "60", "-i", args.input]
    + ["-pix_fmt", "yuv420p10le", "-c:v", "libvvenc", "-preset", args.preset, "-qp", str(args.qp)]
    + ["-qpa", str(args.qpa), "-vvenc-params", f"intraperiod={args.intraperiod}", "-f", "vvc", args.output],
    check=True,
)
""",
    "vvdecapp": DECODER
    + """
subprocess.run(
    [ffmpeg, "-f", "vvc", "-i", args.bitstream, "-f", "rawvideo", "-pix_fmt", "yuv420p10le", args.output], check=True
)
""",
}


@pytest.fixture
def install_programs(tmp_path, monkeypatch):
    def install(programs, header=""):
        for name, code in programs.items():
            path = tmp_path / name
            parser = "parser = argparse.ArgumentParser(allow_abbrev=False)"
            imports = "import argparse, struct, subprocess, sys, zlib"
            path.write_text(f"#!{sys.executable} -S\n{imports}\n{header}\n{parser}\n{code}")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


def test_vvc_with_stand_ins(install_programs, detail):
    install_programs(STAND_INS)
    peer = load_peer("vvc")
    # Full-range BT.601 by hand, after Pillow's rounding a level off at most.
    rgb = np.pad(np.asarray(detail, float), ((0, 1), (0, 1), (0, 0)), mode="edge")
    luma = rgb @ [0.299, 0.587, 0.114]
    chroma = [128 + (rgb[..., 2] - luma) / 1.772, 128 + (rgb[..., 0] - luma) / 1.402]
    planes = [luma, *(plane.reshape(41, 2, 49, 2).mean(axis=(1, 3)) for plane in chroma)]
    written = np.frombuffer(zlib.decompress(peer.encode(detail, 0)[1:]), np.uint8)
    assert np.abs(written - np.concatenate([plane.ravel() for plane in planes])).max() <= 1.5

    sizes = {qp: 1 + len(zlib.compress((written >> qp // 8).tobytes(), 9)) for qp in range(64)}
    for num_bytes in (1500, 10**6):
        result = peer(detail, num_bytes)
        qp = int(result.setting.removeprefix("QP "))
        assert result.fits and result.num_bytes == max(size for size in sizes.values() if size <= num_bytes)
        assert result.num_bytes == len(result.data) == sizes[qp] and qp % 8 == 0
    # QP 0 of the stand-in is lossless: what the picture lost is the chroma between its samples.
    assert qp == 0 and result.image.size == detail.size == (97, 81)
    assert np.abs(np.asarray(result.image) @ [0.299, 0.587, 0.114] - luma[:81, :97]).mean() < 1
    assert psnr(result.image, detail) > 33
    result = peer(detail, 20)
    assert not result.fits and result.num_bytes == min(sizes.values())


def test_vvc_itself(install_programs, detail, monkeypatch, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    install_programs(FFMPEG, f"ffmpeg = {ffmpeg!r}")
    peer = load_peer("vvc")
    monkeypatch.setattr(peer, "settings", lambda image: (63, 45))
    result = peer(detail, 10**4)
    assert result.fits and result.setting == "QP 45" and result.image.size == detail.size
    (tmp_path / "photo.266").write_bytes(result.data)
    conversion = "scale=in_color_matrix=bt601:in_range=full:out_range=full:flags=bicubic+accurate_rnd,format=rgb24"
    command = [ffmpeg, "-f", "vvc", "-i", tmp_path / "photo.266", "-vf", conversion, tmp_path / "photo.png"]
    subprocess.run(command, check=True, capture_output=True)
    expected = Image.open(tmp_path / "photo.png").crop((0, 0, 97, 81))
    assert psnr(result.image, expected) > 40
    smallest = peer(detail, 1)
    assert not smallest.fits and smallest.setting == "QP 63" and smallest.num_bytes < 200


def test_failing_program_is_quoted(install_programs, detail):
    install_programs({"vvencapp": "sys.exit('no licence for tea')", "vvdecapp": ""})
    with pytest.raises(RuntimeError, match="vvencapp failed with status 1: no licence for tea"):
        load_peer("vvc")(detail, 100)


# Averages of square blocks, each level's smaller; a coder that must be updated before it is used.
HUB_ENTRIES = """
from collections import namedtuple
import torch
import torch.nn.functional as F

Compressed = namedtuple("Compressed", "latent_strings hyper_latent_strings image_size padded_size")

class Model(torch.nn.Module):
    factor = 64

    def __init__(self, block):
        super().__init__()
        self.block, self.updated = block, False

    def update(self):
        self.updated = True

    def compress(self, x):
        assert self.updated and not self.training and x.shape[:2] == (1, 3) and 0 <= x.min() and x.max() <= 1
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate")
        means = (255 * F.avg_pool2d(x, self.block)).round().byte()
        return Compressed([means.numpy().tobytes()], [b"hyper"], (height, width), tuple(x.shape[-2:]))

    def decompress(self, compressed):
        assert self.updated and compressed.hyper_latent_strings == [b"hyper"]
        rows, columns = (side // self.block for side in compressed.padded_size)
        means = torch.frombuffer(bytearray(compressed.latent_strings[0]), dtype=torch.uint8)
        x = F.interpolate(means.reshape(1, 3, rows, columns) / 255, scale_factor=self.block, mode="nearest")
        return x[..., : compressed.image_size[0], : compressed.image_size[1]]

def entry(block):
    return lambda pretrained=True: Model(block)

msillm_quality_vlo1, msillm_quality_vlo2 = entry(64), entry(32)
msillm_quality_1, msillm_quality_2, msillm_quality_3 = entry(16), entry(8), entry(4)
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's cache in an empty folder, and no connection."""
    from rsic_diffusers.evaluation.peers import ms_illm

    def no_connection(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr(torch.hub, "urlopen", no_connection)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    ms_illm._load.cache_clear()
    yield tmp_path
    ms_illm._load.cache_clear()


def test_ms_illm_takes_the_nearest_level(hub, detail):
    repository = hub / "facebookresearch_NeuralCompression_main"
    repository.mkdir()
    (repository / "hubconf.py").write_text(HUB_ENTRIES)
    peer = load_peer("ms-illm")
    # 97 x 81 is padded to 128 x 128: 3 bytes a block, 5 of the hyper latent, 7 of the header.
    sizes = {"vlo1": 24, "vlo2": 60, "1": 204, "2": 780}
    for num_bytes, level in [
        (10, "vlo1"),
        (24, "vlo1"),
        (37, "vlo1"),
        (39, "vlo2"),
        (130, "1"),
        (300, "1"),
        (500, "2"),
    ]:
        result = peer(detail, num_bytes)
        assert (result.setting, result.num_bytes) == (f"msillm_quality_{level}", sizes[level])
        assert result.fits == (num_bytes >= 24) and len(result.data) == sizes[level]
    padded = np.pad(np.asarray(detail, float), ((0, 47), (0, 31), (0, 0)), mode="edge")
    means = padded.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3)).repeat(8, axis=0).repeat(8, axis=1)[:81, :97]
    assert np.abs(np.asarray(result.image) - means).max() <= 0.5 + 1e-4


def test_ms_illm_without_a_connection(hub):
    with pytest.raises(PeerUnavailable, match="cannot be loaded from torch.hub .*no connection"):
        load_peer("ms-illm")


@pytest.fixture
def folder(tmp_path, detail):
    detail.rotate(180).save(tmp_path / "face.png")
    (tmp_path / "sizes.csv").write_text("file,bytes\nface.bin,300\n")
    return tmp_path


@pytest.mark.parametrize(
    "file, text",
    [
        ("sizes.csv", "face.jpg,300\n"),
        ("sizes.csv", "file,bytes\nface.bin,300\n"),
        ("sizes.json", '{"face.png": 300}'),
    ],
)
def test_external_folder(folder, detail, file, text):
    (folder / "sizes.csv").unlink()
    (folder / file).write_text(text)
    peer = load_external("perco", folder)
    result = peer(detail, 200, name="face.jpg")
    assert (result.name, result.num_bytes, result.fits, result.data) == ("perco", 300, None, None)
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(detail)[::-1, ::-1])


def test_external_folder_without_what_it_needs(folder, detail):
    peer = load_external("perco", folder)
    with pytest.raises(ValueError, match="give `name`"):
        peer(detail, 300)
    with pytest.raises(ValueError, match="no entry for other.jpg"):
        peer(detail, 300, name="other.jpg")
    with pytest.raises(ValueError, match="has 97 x 81 pixels, but the photo has 50 x 40"):
        peer(detail.resize((50, 40)), 300, name="face.jpg")
    detail.save(folder / "face.webp")
    with pytest.raises(ValueError, match="has 2 pictures of face.jpg"):
        peer(detail, 300, name="face.jpg")
    for path in folder.glob("face.*"):
        path.unlink()
    with pytest.raises(ValueError, match="has 0 pictures of face.jpg"):
        peer(detail, 300, name="face.jpg")
    (folder / "sizes.csv").unlink()
    with pytest.raises(ValueError, match="no sizes.csv or sizes.json"):
        load_external("perco", folder)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        load_external("perco", folder / "nowhere")


@pytest.mark.parametrize(
    "sizes",
    [{}, {"face": 0}, {"face": 12.5}, {"face": "many"}, {"face.jpg": 3, "face.png": 3}, ["face"], {"face": None}],
)
def test_external_sizes_that_are_none(folder, sizes):
    (folder / "sizes.json").write_text(json.dumps(sizes))
    with pytest.raises(ValueError, match="must give a whole number of bytes above 0 for each file, once"):
        load_external("perco", folder)
