"""Pictures as they come: upright, in 8-bit RGB."""

import numpy as np
from PIL import Image, ImageOps


def readable_suffixes() -> list[str]:
    """The ends of the names of pictures that Pillow can read: ".jpg", ".png" and so on, in lower case."""
    return [suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN]


def open_image(path) -> Image.Image:
    """Read a photo or a mask.

    Raises:
        ValueError: Not an image that Pillow can read, or a damaged one.
        OSError: There is no such file, or no way to it.
    """
    try:
        return to_rgb(Image.open(path))
    except Exception as error:  # Pillow's plugins raise all kinds: struct.error, SyntaxError, EOFError, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is not an image that Pillow can read; give a JPEG, PNG or WebP file.") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data says, and make it 8-bit RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip what is above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
