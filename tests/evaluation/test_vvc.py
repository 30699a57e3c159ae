"""VVC: its programs, and stand-ins for them."""

import os
import stat
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.evaluation.metrics import psnr
from rsic_diffusers.evaluation.peers import load_peer


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
