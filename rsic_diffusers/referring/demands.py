"""Demands: what must stay faithful, and how much it matters; and how several of them become the weight map M."""

import dataclasses
import json
import numbers
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import open_image, to_rgb
from ..models.rate import LAMBDA_GROWTH
from .weight_map import WeightMap, expand_to_pixels, grid_size, largest_on_grid, pool_to_grid


@dataclasses.dataclass(frozen=True, eq=False)
class Demand:
    """One thing in a photo that must stay faithful: a phrase, box, point or mask, and its weight.

    Args:
        phrase (`str`): Words for it; a referring model finds it.
        box: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        point: (x, y) in pixels; stands for a disc of 1/8 of the short side.
        mask: (H, W) array or PIL image of the photo's size, or the path of one; what is not 0 is referred to.
        weight (`float`): M there, in [0, 1].

    Raises:
        ValueError: None or several of phrase, box, point, mask; or one that cannot be.
    """

    phrase: str | None = None
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    mask: object = None
    weight: float = 1.0

    def __post_init__(self):
        given = [name for name in ("phrase", "box", "point", "mask") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"A demand is one of phrase, box, point and mask, got {' and '.join(given) or 'none'}; make several "
                "demands of several."
            )
        check_weight("weight", self.weight)
        if self.phrase is not None and not (isinstance(self.phrase, str) and self.phrase.strip()):
            raise ValueError(f"A phrase must be words for something in the picture, got {self.phrase!r}.")
        for name, length in (("box", 4), ("point", 2)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _numbers(name, value, length))

    @classmethod
    def from_dict(cls, fields: dict) -> "Demand":
        """From what a JSON file holds: {"box": [120, 40, 300, 380], "weight": 0.6}."""
        if not isinstance(fields, dict):
            raise ValueError(f'A demand must be an object like {{"phrase": "the dog"}}, got {fields!r}.')
        check_keys("A demand", fields, [field.name for field in dataclasses.fields(cls)])
        return cls(**fields)


def collect_demands(referring=None, box=None, point=None, mask=None, weight: float = 1.0) -> list[Demand]:
    """All that was asked for, as a list.

    Args:
        referring: A phrase, a [`Demand`], a dict of one's fields, or a list of such; None for nothing.
        box, point: One, or a list of them.
        mask: One mask.
        weight (`float`): Of those that do not bring their own.
    """
    check_weight("weight", weight)
    if isinstance(referring, (list, tuple)) and not referring:
        raise ValueError("The list given as referring is empty; leave it out instead.")
    demands = []
    for one in referring if isinstance(referring, (list, tuple)) else [referring]:
        if isinstance(one, Demand):
            demands.append(one)
        elif isinstance(one, dict):
            demands.append(Demand.from_dict({"weight": weight, **one}))
        elif one is not None:
            demands.append(Demand(phrase=one, weight=weight))
    demands += [Demand(box=one, weight=weight) for one in _several("box", box)]
    demands += [Demand(point=one, weight=weight) for one in _several("point", point)]
    return demands + ([] if mask is None else [Demand(mask=mask, weight=weight)])


def make_weight_map(
    height: int,
    width: int,
    demands: list[Demand],
    background: float = 0.0,
    levels: int = 8,
    coded_size: tuple[int, int] | None = None,
    locate: Callable[[str], np.ndarray] | None = None,
) -> WeightMap:
    """M for a picture of `height` x `width` pixels: the cell-wise maximum over all demands, and the background weight
    under them all.

    A phrase's heat map, averaged over each cell, is multiplied by its weight (paper, section III-C). Of a cell that a
    box, point or mask covers to the part p, only that part's errors matter, so they should cost p times what they do
    in a whole cell; with HSVLC's lambda(M) = c exp(6 M) that is M = weight + ln(p) / 6. (Weight x coverage, the first
    design, starves the half-covered cells at the border of a box, whose pixels count like any other.) A demand that
    covers no whole cell counts in full where it covers most.

    Args:
        demands (`list[Demand]`): What is referred to.
        background (`float`): In [0, 1].
        levels (`int`): L, 2 to 8.
        coded_size: Height and width at which the picture is coded, if not its own; cells are 64 pixels of that.
        locate (`Callable`): Gives the heat map of a phrase, an array in [0, 1] of any resolution.

    Returns:
        `WeightMap`: In referring mode.

    Raises:
        ValueError: What was wrong, in one sentence.
    """
    check_weight("background", background)
    check_levels(levels)
    coded_size = coded_size or (height, width)
    values = np.full(grid_size(*coded_size), float(background))
    for demand in demands:
        if demand.phrase is not None:
            heat = _resize(locate(demand.phrase), coded_size, Image.Resampling.BILINEAR)
            ours = demand.weight * pool_to_grid(heat)
        else:
            coverage = pool_to_grid(_region(demand, height, width, coded_size))
            # The cell that a demand covers best counts in full, so that one smaller than a cell is not rounded away.
            coverage = np.maximum(coverage / max(coverage.max(), 1e-9), 1e-9)
            ours = demand.weight + np.log(coverage) / LAMBDA_GROWTH
        values = np.maximum(values, ours)
    return WeightMap.quantize(np.clip(values, 0, 1), levels)


def weigh_pixels(
    height: int, width: int, demands: list[Demand], levels: int = 8, coded_size=None, **arguments
) -> tuple[WeightMap, np.ndarray]:
    """M and, finer than its cells, the weight of each pixel; for an encoder that refines the latents.

    Such an encoder can leave out what nobody asked for within a cell, so here a cell has the weight of what is wanted
    most in it, however little of the cell that is. (The heat map of a phrase has no border, and counts as in
    `make_weight_map`.)

    Args:
        As for `make_weight_map`.

    Returns:
        `tuple[WeightMap, np.ndarray]`: M, and the weight of each pixel of the coded size, on the same levels.
    """
    coded_size = coded_size or (height, width)
    without_border = [demand for demand in demands if demand.phrase is not None]
    cells = make_weight_map(height, width, without_border, levels=levels, coded_size=coded_size, **arguments)
    weights = expand_to_pixels(cells.values.astype(float), *coded_size)
    for demand in demands:
        if demand.phrase is None:
            # A box that ends at the border of a pixel may reach beyond it by a rounding error.
            is_asked = _region(demand, height, width, coded_size) > 1e-6
            weights = np.where(is_asked, np.maximum(weights, demand.weight), weights)
    return WeightMap.quantize(largest_on_grid(weights), levels), np.round(weights * (levels - 1)) / (levels - 1)


def read_demands(path) -> dict[str, dict]:
    """A JSON file of what to ask for photo by photo.

        {"harbour.jpg": {"caption": "a lighthouse above a harbour", "background": 0.1,
                         "demands": [{"phrase": "the lighthouse"}, {"box": [10, 200, 90, 260], "weight": 0.6}]},
         "sky.jpg": {"weight": 0.3}}

    The path of a mask is relative to the file.

    Returns:
        `dict[str, dict]`: For each file name, arguments of the encoder.

    Raises:
        ValueError: No JSON, or a key or value that means nothing here.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}).") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f'{path} must hold an object of objects, {{"photo.jpg": {{"demands": [...]}}, ...}}.')
    arguments = {}
    for name, entry in entries.items():
        check_keys(f"{path}, {name},", entry, DEMAND_KEYS)
        entry = dict(entry)
        if "demands" in entry:
            demands = entry.pop("demands")
            demands = demands if isinstance(demands, list) else [demands]
            for one in demands:
                Demand.from_dict(one)
            entry["referring"] = [_with_mask_beside(path, one) for one in demands]
        arguments[name] = entry
    return arguments


def _with_mask_beside(path, fields: dict) -> dict:
    """A mask's path is meant from the file that names it."""
    mask = fields.get("mask")
    if mask is None:
        return fields
    if not isinstance(mask, str):
        raise ValueError(f"{path}: a mask must be the path of a picture, got {mask!r}.")
    return {**fields, "mask": Path(path).parent / mask}


DEMAND_KEYS = ("caption", "demands", "background", "weight", "levels", "mode", "target_bytes", "target_bpp")


def check_weight(name: str, value) -> None:
    if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}.")


def check_levels(levels) -> None:
    if not isinstance(levels, numbers.Integral) or not 2 <= levels <= 8:
        raise ValueError(f"levels must be a whole number from 2 to 8, got {levels!r}.")


def check_keys(what: str, fields: dict, known) -> None:
    unknown = [str(name) for name in fields if name not in known]
    if unknown:
        raise ValueError(f"{what} holds {', '.join(unknown)}; known are {', '.join(known)}.")


def _region(demand, height, width, coded_size) -> np.ndarray:
    """A box, point or mask as an array of the coded size, of 0 and 1 (border pixels by the part of them it covers)."""
    down, across = coded_size[0] / height, coded_size[1] / width
    if demand.box is not None:
        x0, y0, x1, y1 = demand.box
        if not (x0 < x1 and y0 < y1):
            raise ValueError(
                f"The box {x0:g},{y0:g},{x1:g},{y1:g} is empty or inverted; give x0,y0,x1,y1 with x0 < x1 and y0 < y1."
            )
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise ValueError(
                f"The box {x0:g},{y0:g},{x1:g},{y1:g} reaches outside the picture of {width} x {height} pixels; "
                f"keep it within 0,0,{width},{height}."
            )
        rows = _covered(y0 * down, y1 * down, coded_size[0])
        return np.outer(rows, _covered(x0 * across, x1 * across, coded_size[1]))
    if demand.point is not None:
        x, y = demand.point
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"The point {x:g},{y:g} lies outside the picture of {width} x {height} pixels.")
        rows, columns = np.ogrid[: coded_size[0], : coded_size[1]]
        return np.hypot(columns + 0.5 - x * across, rows + 0.5 - y * down) <= min(coded_size) / 8
    mask = open_image(demand.mask) if isinstance(demand.mask, (str, Path)) else demand.mask
    mask = np.asarray(to_rgb(mask) if isinstance(mask, Image.Image) else mask)
    if mask.ndim == 3 and mask.shape[2] in (3, 4):  # an RGB or RGBA picture of a mask
        mask = mask[..., :3].max(axis=2)
    if mask.ndim != 2 or mask.dtype.kind not in "buif":
        raise ValueError("A mask must be an array of numbers (H, W), a picture, or the path of one.")
    if mask.shape != (height, width):
        size = " x ".join(str(side) for side in reversed(mask.shape))
        raise ValueError(f"The mask is {size} pixels, the picture {width} x {height}; give a mask of its size.")
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise ValueError("The mask holds NaN or infinite values; give 0 and 1.")
    if not mask.any():
        raise ValueError("The mask is empty; mark what matters with values above 0.")
    return _resize(mask != 0, coded_size, Image.Resampling.BOX)


def _resize(array: np.ndarray, size: tuple[int, int], resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.asarray(array, np.float32)).resize(size[::-1], resampling))


def _covered(start: float, end: float, length: int) -> np.ndarray:
    """How much of each of `length` pixels lies between `start` and `end`."""
    pixels = np.arange(length)
    return np.clip(np.minimum(end, pixels + 1) - np.maximum(start, pixels), 0, 1)


def _several(name: str, value) -> list:
    """One tuple of numbers or a list of them, as a list."""
    if value is None:
        return []
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be numbers or a list of such, got {value!r}.")
    if not value:
        raise ValueError(f"The list given as {name} is empty; leave it out instead.")
    return [value] if isinstance(value[0], numbers.Real) else list(value)


def _numbers(name: str, value, length: int) -> tuple[float, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value
    is_tuple = isinstance(value, (list, tuple)) and len(value) == length
    if not is_tuple or not all(isinstance(one, numbers.Real) and abs(one) < 1e9 for one in value):
        raise ValueError(f"A {name} is {length} finite numbers, got {value!r}.")
    return tuple(float(one) for one in value)
