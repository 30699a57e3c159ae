"""Demands: box, point or mask, and how much they matter, become the weight map M."""

import numbers

import numpy as np
from PIL import Image

from .weight_map import WeightMap, grid_size, pool_to_grid


LAMBDA_GROWTH = 7  # of HSVLC's lambda(M) = c exp(7 M)


def make_weight_map(
    height: int,
    width: int,
    box=None,
    point=None,
    mask=None,
    weight: float = 1.0,
    background: float = 0.0,
    levels: int = 8,
    mode: str | None = None,
    coded_size: tuple[int, int] | None = None,
) -> WeightMap:
    """M for a picture of `height` x `width` pixels: the cell-wise maximum over all demands, and the background weight
    under them all.

    Of a cell that is covered to the part p, only that part's errors matter, so they should cost p times what they do
    in a whole cell; with HSVLC's lambda(M) = c exp(7 M) that is M = weight + ln(p) / 7. (Weight x coverage, the first
    design, starves the half-covered cells at the border of a box, whose pixels count like any other.) A demand that
    covers no whole cell counts in full where it covers most.

    Args:
        box: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, or a list of boxes.
        point: (x, y) in pixels, or a list of points; each stands for a disc of 1/8 of the short side.
        mask: (H, W) array or PIL image; what is not 0 is referred to.
        weight, background: Numbers in [0, 1].
        levels: L, 2 to 8.
        mode: "referring", "global" (M is `weight` everywhere), or None: referring if anything is referred to.
        coded_size: Height and width at which the picture is coded, if not its own; cells are 64 pixels of that.

    Raises:
        ValueError: What was wrong, in one sentence.
    """
    for name, value in (("weight", weight), ("background", background)):
        if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
            raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}.")
    if not isinstance(levels, numbers.Integral) or not 2 <= levels <= 8:
        raise ValueError(f"levels must be a whole number from 2 to 8, got {levels!r}.")
    if mode not in (None, "global", "referring"):
        raise ValueError(f'mode must be "global", "referring" or None, got {mode!r}.')
    refers = any(demand is not None for demand in (box, point, mask))
    if mode == "global" and refers:
        raise ValueError('mode="global" weighs all of the picture alike; leave out box, point and mask.')
    if mode == "referring" and not refers:
        raise ValueError('mode="referring" needs to know what matters; give a box, a point or a mask.')
    coded_size = coded_size or (height, width)
    if not refers:
        return WeightMap.constant(weight, *coded_size)

    values = np.full(grid_size(*coded_size), float(background))
    for region in _regions(height, width, coded_size, box, point, mask):
        coverage = pool_to_grid(region)
        # The cell that a demand covers best counts in full, so that one smaller than a cell is not rounded away.
        coverage = np.maximum(coverage / max(coverage.max(), 1e-9), 1e-9)
        values = np.maximum(values, weight + np.log(coverage) / LAMBDA_GROWTH)
    return WeightMap.quantize(values, levels)


def _regions(height, width, coded_size, box, point, mask):
    """Each demand as an array of the coded size, of 0 and 1 (border pixels by the part of them it covers)."""
    down, across = coded_size[0] / height, coded_size[1] / width
    for x0, y0, x1, y1 in _as_list("box", box, 4):
        if not (x0 < x1 and y0 < y1):
            raise ValueError(
                f"The box {x0:g},{y0:g},{x1:g},{y1:g} is empty or inverted; give x0,y0,x1,y1 with x0 < x1 and y0 < y1."
            )
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise ValueError(
                f"The box {x0:g},{y0:g},{x1:g},{y1:g} reaches outside the picture of {width} x {height} pixels; "
                f"keep it within 0,0,{width},{height}."
            )
        yield np.outer(
            _covered(y0 * down, y1 * down, coded_size[0]), _covered(x0 * across, x1 * across, coded_size[1])
        )
    for x, y in _as_list("point", point, 2):
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"The point {x:g},{y:g} lies outside the picture of {width} x {height} pixels.")
        rows, columns = np.ogrid[: coded_size[0], : coded_size[1]]
        distance = np.hypot(columns + 0.5 - x * across, rows + 0.5 - y * down)
        yield distance <= min(coded_size) / 8
    if mask is not None:
        mask = np.asarray(mask)
        if mask.ndim == 3 and mask.shape[2] in (3, 4):  # an RGB or RGBA picture of a mask
            mask = mask[..., :3].max(axis=2)
        if mask.shape != (height, width):
            size = " x ".join(str(side) for side in reversed(mask.shape))
            raise ValueError(f"The mask is {size} pixels, the picture {width} x {height}; give a mask of its size.")
        if mask.dtype.kind == "f" and not np.isfinite(mask).all():
            raise ValueError("The mask holds NaN or infinite values; give 0 and 1.")
        if not mask.any():
            raise ValueError("The mask is empty; mark what matters with values above 0.")
        region = Image.fromarray((mask != 0).astype(np.float32))
        yield np.asarray(region.resize(coded_size[::-1], Image.Resampling.BOX))


def _covered(start: float, end: float, length: int) -> np.ndarray:
    """How much of each of `length` pixels lies between `start` and `end`."""
    pixels = np.arange(length)
    return np.clip(np.minimum(end, pixels + 1) - np.maximum(start, pixels), 0, 1)


def _as_list(name, demand, length):
    """One tuple of numbers or a list of them, as a list of tuples of finite floats."""
    if demand is None:
        return []
    demand = demand.tolist() if hasattr(demand, "tolist") else demand
    if not isinstance(demand, (list, tuple)):
        raise ValueError(f"{name} must be {length} numbers or a list of such, got {demand!r}.")
    if not demand:
        raise ValueError(f"The list given as {name} is empty; leave it out instead.")
    items = [demand] if isinstance(demand[0], numbers.Real) else demand
    for item in items:
        is_tuple = isinstance(item, (list, tuple)) and len(item) == length
        if not is_tuple or not all(isinstance(value, numbers.Real) and np.isfinite(value) for value in item):
            raise ValueError(f"A {name} is {length} finite numbers, got {item!r}.")
    return [tuple(float(value) for value in item) for item in items]
