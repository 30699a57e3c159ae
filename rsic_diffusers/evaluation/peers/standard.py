"""The standard codecs that Pillow and a plugin bring."""

import importlib
import io
from contextlib import suppress

from PIL import Image, features

from ..metrics import psnr
from .peer import Peer, PeerResult, PeerUnavailable


class PillowPeer(Peer):
    """A format of Pillow.

    Attributes:
        format (`str`): Its name in Pillow.
        feature (`str`, *optional*): What Pillow must be built with.
        qualities (`range`).
        options (`dict`): Of `Image.save`, the same for every quality.
    """

    format: str
    feature: str | None = None
    qualities: range
    options: dict = {}

    @classmethod
    def is_available(cls) -> bool:
        return not cls.feature or bool(features.check(cls.feature))

    def __init__(self):
        if not self.is_available():
            raise PeerUnavailable(
                f"This Pillow is built without {self.name}; install a wheel of Pillow 11.3 or later from PyPI."
            )

    def settings(self, image):
        return self.qualities

    def save_options(self, image, setting) -> dict:
        return {"quality": setting}

    def encode(self, image, setting):
        buffer = io.BytesIO()
        image.save(buffer, self.format, **self.options, **self.save_options(image, setting))
        return buffer.getvalue()

    def decode(self, data, size):
        return Image.open(io.BytesIO(data)).convert("RGB")

    def describe(self, setting):
        return f"quality {setting}"


class JPEG(PillowPeer):
    name, format, feature = "JPEG", "JPEG", "jpg"
    qualities = range(96)  # the rest switch parts of JPEG off
    # Not progressive: at such rates its scans cost more than they save.
    options = {"optimize": True, "subsampling": "4:2:0"}


class WebP(PillowPeer):
    name, format, feature = "WebP", "WEBP", "webp"
    qualities = range(101)
    options = {"method": 6}


class AVIF(PillowPeer):
    name, format, feature = "AVIF", "AVIF", "avif"
    qualities = range(101)
    options = {"speed": 4, "subsampling": "4:2:0"}


class JPEG2000(PillowPeer):
    """The bare codestream; its setting is the bytes that OpenJPEG's rate control is asked for, and lands near."""

    name, format, feature = "JPEG 2000", "JPEG2000", "jpg_2000"
    # The 9/7 wavelet. OpenJPEG writes its name and version in 37 bytes where there is no comment.
    options = {"no_jp2": True, "irreversible": True, "comment": " ", "quality_mode": "rates"}

    def settings(self, image):
        return range(1, 3 * image.width * image.height)

    def save_options(self, image, setting):
        return {"quality_layers": [3 * image.width * image.height / setting]}

    def describe(self, setting):
        return f"rate {setting} bytes"


class JPEGXL(PillowPeer):
    """libjxl's quality is its distance by another name: 0 is the largest distance that it takes, 25."""

    name, format = "JPEG XL", "JXL"
    qualities = range(100)  # 100 is lossless
    options = {"effort": 9}

    def __init__(self):
        try:
            importlib.import_module("pillow_jxl")  # registers the format
        except ImportError:
            raise PeerUnavailable(
                "JPEG XL needs the package pillow-jxl-plugin, which is not installed; run "
                '`pip install "rsic-diffusers[evaluation]"`.'
            ) from None


def best_standard_codec(image: Image.Image, num_bytes: int) -> PeerResult:
    """The file of Pillow's own codecs of at most `num_bytes` with the highest PSNR, or else the smallest of all."""
    results = []
    for codec in (JPEG, WebP, AVIF, JPEG2000):
        with suppress(PeerUnavailable):
            results.append(codec()(image, num_bytes))
    fitting = [result for result in results if result.fits]
    if fitting:
        return max(fitting, key=lambda result: psnr(result.image, image))
    return min(results, key=lambda result: result.num_bytes)
