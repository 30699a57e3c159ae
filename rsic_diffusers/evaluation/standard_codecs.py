"""What the standard codecs in Pillow make of a photo with as many bytes."""

import io
from dataclasses import dataclass

from PIL import Image, features

from .metrics import psnr


@dataclass
class StandardResult:
    """
    Args:
        name (`str`): Format.
        data (`bytes`): The file.
        image (`PIL.Image.Image`): Decoded.
        fits (`bool`): False if even the codec's smallest file is larger than asked.
    """

    name: str
    data: bytes
    image: Image.Image
    fits: bool


def _settings():
    yield from (("JPEG", {"quality": q, "optimize": True, "subsampling": "4:2:0"}) for q in (1, 2, 3, 5, 8, 12, 20))
    if features.check("webp"):
        yield from (("WEBP", {"quality": q, "method": 6}) for q in (0, 1, 2, 4, 8, 16))
    if features.check("avif"):
        yield from (("AVIF", {"quality": q, "speed": 4}) for q in (0, 2, 5, 10, 15, 20, 25, 30))


def best_standard_codec(image: Image.Image, num_bytes: int) -> StandardResult:
    """The file of at most `num_bytes` with the highest PSNR; if there is none, the smallest file of all."""
    image = image.convert("RGB")
    results = [_encode(image, name, num_bytes, options) for name, options in _settings()]
    if features.check_codec("jpg_2000"):
        raw = 3 * image.width * image.height
        # OpenJPEG takes a compression ratio and lands near it.
        for factor in (1.0, 0.95, 0.9, 0.8, 0.6):
            options = {"quality_mode": "rates", "quality_layers": [raw / (factor * num_bytes)], "no_jp2": True}
            results.append(_encode(image, "JPEG2000", num_bytes, options))
    fitting = [result for result in results if result.fits]
    if fitting:
        return max(fitting, key=lambda result: psnr(result.image, image))
    return min(results, key=lambda result: len(result.data))


def _encode(image, name, num_bytes, options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    data = buffer.getvalue()
    return StandardResult(name, data, Image.open(io.BytesIO(data)).convert("RGB"), len(data) <= num_bytes)
