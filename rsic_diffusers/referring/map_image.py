"""M as a picture."""

import numpy as np
from PIL import Image, ImageEnhance

from ..bitstream import Bitstream
from .weight_map import CELL_PIXELS


IMAGINED = 0.25  # brightness and colour that are left where M = 0


def map_image(file: Bitstream, photo: Image.Image | None = None) -> Image.Image:
    """M of a file, in the photo's size: over the photo, dark where M is low; without one in grey, white for 1."""
    grey = Image.fromarray(np.round(255 * file.weight_map.values).astype(np.uint8))
    height, width = file.coded_size
    cells = (0, 0, width / CELL_PIXELS, height / CELL_PIXELS)
    grey = grey.resize((file.width, file.height), Image.Resampling.NEAREST, box=cells)
    if photo is None:
        return grey.convert("RGB")
    if photo.size != grey.size:
        sizes = f"{photo.width} x {photo.height} pixels, the file's {file.width} x {file.height}"
        raise ValueError(f"The photo has {sizes}; give the photo that the file was made of.")
    photo = photo.convert("RGB")
    imagined = ImageEnhance.Brightness(ImageEnhance.Color(photo).enhance(IMAGINED)).enhance(IMAGINED)
    return Image.composite(photo, imagined, grey)
