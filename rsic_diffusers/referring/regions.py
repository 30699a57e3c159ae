"""Boxes, points and masks as regions: checked against the picture's size, and drawn at the size that is coded."""

import dataclasses

import numpy as np
from PIL import Image

from ..images import read_mask


# A box whose corners are all below this many pixels holds no picture content: it must have been given in fractions.
MAX_FRACTION = 1.5
BOX_TOLERANCE = 1.0  # pixels by which a box may reach over the edge, and is clipped
POINT_RADIUS = 1 / 8  # of the shorter side


def clip_region(demand, height: int, width: int):
    """Check the box, point or mask of a demand against the picture, and read a mask.

    Args:
        demand ([`Demand`]): May also hold a phrase, which is left as it is.
        height, width (`int`): Size of the picture in pixels.

    Returns:
        [`Demand`]: With a box clipped to the picture, and a mask as a boolean array (H, W).

    Raises:
        ValueError: The region is empty, lies outside the picture, looks like fractions of its sides, or a mask has
            another size or cannot be read.
    """
    if demand.box is not None:
        return dataclasses.replace(demand, box=_clip_box(demand.box, height, width))
    if demand.point is not None:
        _check_point(demand.point, height, width)
    if demand.mask is not None:
        mask = read_mask(demand.mask)
        if mask.shape != (height, width):
            raise ValueError(
                f"The mask is {mask.shape[1]} x {mask.shape[0]} pixels, the picture {width} x {height}; give a mask "
                "of its size."
            )
        if not mask.any():
            raise ValueError("The mask is empty; mark what matters with values above 0.")
        return dataclasses.replace(demand, mask=mask)
    return demand


def cover_pixels(demand, height: int, width: int, coded_size: tuple[int, int]) -> np.ndarray:
    """Draw the region of a demand at the coded size.

    Args:
        demand ([`Demand`]): As `clip_region` returns it, with a box, point or mask.
        height, width (`int`): Size of the picture in pixels.
        coded_size (`tuple[int, int]`): Height and width at which it is coded.

    Returns:
        `np.ndarray` of shape `coded_size`: How much of each pixel the region covers, in [0, 1].
    """
    down, across = coded_size[0] / height, coded_size[1] / width
    if demand.box is not None:
        x0, y0, x1, y1 = demand.box
        rows = _covered(y0 * down, y1 * down, coded_size[0])
        return np.outer(rows, _covered(x0 * across, x1 * across, coded_size[1]))
    if demand.point is not None:
        x, y = demand.point
        rows, columns = np.ogrid[: coded_size[0], : coded_size[1]]
        distance = np.hypot(columns + 0.5 - x * across, rows + 0.5 - y * down)
        return distance <= POINT_RADIUS * min(coded_size)
    return resize_array(demand.mask, coded_size, Image.Resampling.BOX)


def resize_array(array: np.ndarray, size: tuple[int, int], resampling) -> np.ndarray:
    """(H, W) to `size` (height, width), float32."""
    return np.asarray(Image.fromarray(np.asarray(array, np.float32)).resize(size[::-1], resampling))


def _clip_box(box, height, width):
    x0, y0, x1, y1 = box
    name = f"The box {x0:g},{y0:g},{x1:g},{y1:g}"
    if max(map(abs, box)) < MAX_FRACTION:
        raise ValueError(
            f"{name} looks like fractions of the picture; give pixels, x times {width} and y times {height}."
        )
    if min(x0, y0) < -BOX_TOLERANCE or x1 > width + BOX_TOLERANCE or y1 > height + BOX_TOLERANCE:
        raise ValueError(
            f"{name} reaches outside the picture of {width} x {height} pixels; keep it within 0,0,{width},{height}."
        )
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{name} is empty or inverted; give x0,y0,x1,y1 with x0 < x1 and y0 < y1.")
    return x0, y0, x1, y1


def _check_point(point, height, width):
    x, y = point
    if max(abs(x), abs(y)) < MAX_FRACTION and not (x.is_integer() and y.is_integer()):
        raise ValueError(
            f"The point {x:g},{y:g} looks like fractions of the picture; give pixels, x times {width} and y times "
            f"{height}."
        )
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"The point {x:g},{y:g} lies outside the picture of {width} x {height} pixels.")


def _covered(start: float, end: float, length: int) -> np.ndarray:
    """How much of each of `length` pixels lies between `start` and `end`."""
    pixels = np.arange(length)
    return np.clip(np.minimum(end, pixels + 1) - np.maximum(start, pixels), 0, 1)
