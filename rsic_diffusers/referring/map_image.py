"""The weight map M as a picture."""

import numpy as np
from PIL import Image, ImageEnhance

from ..bitstream.weight_map import CELL_PIXELS, WeightMap


IMAGINED = 0.25  # brightness and colour that are left where M = 0


def map_image(
    weight_map: WeightMap, size: tuple[int, int], coded_size: tuple[int, int], photo: Image.Image | None = None
) -> Image.Image:
    """Show M at the photo's size: the photo, darker where M is lower; or without a photo grey, from black for 0 to
    white for 1.

    Args:
        weight_map (`WeightMap`): M, whose cells are 64 x 64 pixels of the coded size.
        size (`tuple[int, int]`): Height and width of the photo.
        coded_size (`tuple[int, int]`): Height and width at which it is coded.
        photo (`PIL.Image.Image`, *optional*): The photo, of that size.

    Raises:
        ValueError: The photo has another size.
    """
    levels = np.round(255 * weight_map.values).astype(np.uint8)
    grey = Image.fromarray(expand_to_picture(levels, size, coded_size))
    if photo is None:
        return grey.convert("RGB")
    if photo.size != grey.size:
        sizes = f"{photo.width} x {photo.height} pixels, the file's {grey.width} x {grey.height}"
        raise ValueError(f"The photo has {sizes}; give the photo that the file was made of.")
    photo = photo.convert("RGB")
    imagined = ImageEnhance.Brightness(ImageEnhance.Color(photo).enhance(IMAGINED)).enhance(IMAGINED)
    return Image.composite(photo, imagined, grey)


def expand_to_picture(values: np.ndarray, size: tuple[int, int], coded_size: tuple[int, int]) -> np.ndarray:
    """The map's values at each pixel of a picture that may be coded at another size.

    Args:
        values (`np.ndarray` of shape (rows, columns)): uint8 or float32, by cells of 64 x 64 pixels of the coded size.
        size (`tuple[int, int]`): Height and width of the picture.
        coded_size (`tuple[int, int]`): Height and width at which it is coded.
    """
    box = (0, 0, coded_size[1] / CELL_PIXELS, coded_size[0] / CELL_PIXELS)
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST, box=box))
