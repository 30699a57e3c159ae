"""A decoded picture with its weight map M shown on it."""

import numpy as np
from PIL import Image, ImageEnhance

from ..bitstream import Bitstream
from ..bitstream.weight_map import is_faithful
from ..referring.map_image import expand_to_picture


IMAGINED_COLOUR = 0.3  # saturation that is left where M = 0
IMAGINED_BRIGHTNESS = 0.6  # brightness that is left where M = 0
HATCH_PERIOD = 16  # pixels between the hatching's diagonals, for a picture whose long side is 512 pixels
HATCH_OPACITY = 0.35
OUTLINE_RGB = (255, 196, 0)


def weights_at_pixels(file: Bitstream, size: tuple[int, int]) -> np.ndarray:
    """M at each pixel of a file's picture.

    Args:
        file (`Bitstream`): The file.
        size (`tuple[int, int]`): Height and width of the picture, which may be larger than the coded one.

    Returns:
        `np.ndarray` of shape (H, W), float32, values in [0, 1].
    """
    return expand_to_picture(file.weight_map.values, size, file.coded_size)


def overlay_weights(picture: Image.Image, weights: np.ndarray) -> Image.Image:
    """The picture in full colour where M is high; greyer and darker the lower M is.

    What counts as imagined (`is_faithful`) is hatched, and a line runs along its border.

    Args:
        picture (`PIL.Image.Image`): The decoded picture, of H x W pixels.
        weights (`np.ndarray` of shape (H, W)): M at each pixel, values in [0, 1].
    """
    picture = picture.convert("RGB")
    imagined = ~is_faithful(weights)
    scale = max(1, round(max(picture.size) / 512))

    dimmed = ImageEnhance.Color(picture).enhance(IMAGINED_COLOUR)
    dimmed = ImageEnhance.Brightness(dimmed).enhance(IMAGINED_BRIGHTNESS)
    shown = Image.composite(picture, dimmed, _mask(255 * weights))

    rows, columns = np.ogrid[: picture.height, : picture.width]
    hatch = imagined & ((rows + columns) % (HATCH_PERIOD * scale) < scale)
    shown.paste((255, 255, 255), mask=_mask(255 * HATCH_OPACITY * hatch))
    shown.paste(OUTLINE_RGB, mask=_mask(255 * _border(imagined, width=scale)))
    return shown


def _border(region: np.ndarray, width: int) -> np.ndarray:
    """The pixels, in and outside a boolean region, that lie within `width` pixels of its border."""
    border = np.zeros_like(region)
    for axis in (0, 1):
        changes = np.moveaxis(np.diff(region, axis=axis), axis, 0)
        target = np.moveaxis(border, axis, 0)
        for row in np.flatnonzero(changes.any(axis=1)):
            target[max(0, row + 1 - width) : row + 1 + width] |= changes[row]
    return border


def _mask(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(values).astype(np.uint8))
