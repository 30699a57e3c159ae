"""VVC (H.266), one intra frame, by the programs of VVenC and VVdeC."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from .peer import Peer, PeerUnavailable


class VVC(Peer):
    """4:2:0 in JPEG's YCbCr: BT.601, full range. An odd side is padded by its last row or column."""

    name = "VVC intra"

    def __init__(self):
        missing = [program for program in ("vvencapp", "vvdecapp") if shutil.which(program) is None]
        if missing:
            raise PeerUnavailable(
                f"VVC needs vvencapp and vvdecapp on the path, and {' and '.join(missing)} is not there; build them "
                "from Fraunhofer HHI's vvenc and vvdec."
            )

    def settings(self, image):
        return range(63, -1, -1)

    def encode(self, image, setting):
        width, height = _even(image.size)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "photo.yuv"), Path(folder, "photo.266")
            source.write_bytes(_to_yuv420(image))
            # The intra period keeps 200 bytes about references between frames out of the header. No perceptual
            # adaptation of the QP, which would spend bytes on what PSNR does not see.
            _run(
                *("vvencapp", "--input", source, "--size", f"{width}x{height}", "--format", "yuv420"),
                *("--preset", "slow", "--intraperiod", "1", "--qp", str(setting), "--qpa", "0", "--output", target),
            )
            return target.read_bytes()

    def decode(self, data, size):
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "photo.266"), Path(folder, "photo.yuv")
            source.write_bytes(data)
            _run("vvdecapp", "--bitstream", source, "--output", target)
            return _from_yuv420_10(target.read_bytes(), size)

    def describe(self, setting):
        return f"QP {setting}"


def _even(size):
    return tuple(side + side % 2 for side in size)


def _to_yuv420(image) -> bytes:
    """The three planes, 8 bits a sample."""
    width, height = image.size
    padded = np.pad(np.asarray(image), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    y, cb, cr = Image.fromarray(padded).convert("YCbCr").split()
    return y.tobytes() + cb.reduce(2).tobytes() + cr.reduce(2).tobytes()


def _from_yuv420_10(data: bytes, size) -> Image.Image:
    """Three planes of 10 bits, VVenC's internal depth, in 16-bit little-endian samples."""
    width, height = _even(size)
    samples = np.frombuffer(data, "<u2")
    if samples.size != width * height * 3 // 2:
        raise ValueError(
            f"vvdecapp wrote {len(data)} bytes, but a frame of {width} x {height} pixels in 4:2:0 and 10 bits takes "
            f"{width * height * 3}; check that vvencapp's internal bit depth is 10."
        )
    samples = ((samples + 2) // 4).clip(0, 255).astype(np.uint8)
    y, cb, cr = np.split(samples, (width * height, width * height * 5 // 4))
    planes = [Image.fromarray(y.reshape(height, width))]
    for chroma in (cb, cr):
        planes.append(Image.fromarray(chroma.reshape(height // 2, width // 2)).resize((width, height)))
    return Image.merge("YCbCr", planes).convert("RGB").crop((0, 0, *size))


def _run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        words = (result.stderr or result.stdout).strip() or "no message"
        raise RuntimeError(f"{command[0]} failed with status {result.returncode}: {words}.")
