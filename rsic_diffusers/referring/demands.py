"""Demands: what must stay faithful and how much it matters, and how several of them become the weight map M."""

import dataclasses
import numbers
from collections.abc import Callable

import numpy as np
from PIL import Image

from ..bitstream.map_coding import MAX_LEVELS
from ..bitstream.weight_map import (
    DEFAULT_BACKGROUND,
    DEFAULT_WEIGHT,
    WeightMap,
    expand_to_pixels,
    grid_size,
    largest_on_grid,
    pool_to_grid,
)
from ..models.rate import SMOOTH_PROFILE
from .regions import clip_region, cover_pixels, resize_array


MIN_LEVELS = 2  # of M in referring mode
MIN_COVERAGE = 1e-9  # keeps the logarithm finite where a demand covers nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Demand:
    """One thing in a photo that must stay faithful: a phrase, box, point or mask, and its weight.

    Args:
        phrase (`str`): Names it in words; a referring model finds it in the photo.
        box: (x0, y0, x1, y1) in pixels of the photo, x1 and y1 exclusive.
        point: (x, y) in pixels of the photo; refers to a disc around it whose radius is 1/8 of the shorter side.
        mask: What `read_mask` takes, of the photo's size; the pixels whose number is not 0 are referred to.
        weight (`float`): M there, in [0, 1].

    Raises:
        ValueError: None or several of phrase, box, point and mask are given, or one is malformed.
    """

    phrase: str | None = None
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    mask: object = None
    weight: float = DEFAULT_WEIGHT

    def __post_init__(self):
        given = [name for name in ("phrase", "box", "point", "mask") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"A demand is exactly one of phrase, box, point and mask, got {' and '.join(given) or 'none'}; give "
                "several demands instead."
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
        """Make a demand of a JSON object such as {"box": [120, 40, 300, 300], "weight": 0.6}."""
        if not isinstance(fields, dict):
            raise ValueError(f'A demand must be an object like {{"phrase": "the dog"}}, got {fields!r}.')
        check_keys("A demand", fields, [field.name for field in dataclasses.fields(cls)])
        return cls(**fields)


def collect_demands(referring=None, box=None, point=None, mask=None, weight: float = DEFAULT_WEIGHT) -> list[Demand]:
    """Gather everything that refers to a part of the photo into one list.

    Args:
        referring: A phrase, a [`Demand`], a dict of the fields of one, or a list of these; None for nothing.
        box, point: One box or point, or a list of them.
        mask: One mask.
        weight (`float`): The weight of those that do not bring their own, in [0, 1].

    Raises:
        ValueError: An argument is malformed.
    """
    check_weight("weight", weight)
    if isinstance(referring, (list, tuple)) and not referring:
        raise ValueError("The list given as referring is empty; leave it out instead.")
    demands = []
    for item in referring if isinstance(referring, (list, tuple)) else [referring]:
        if isinstance(item, Demand):
            demands.append(item)
        elif isinstance(item, dict):
            demands.append(Demand.from_dict({"weight": weight, **item}))
        elif item is not None:
            demands.append(Demand(phrase=item, weight=weight))
    demands += [Demand(box=corners, weight=weight) for corners in _as_list("box", box)]
    demands += [Demand(point=position, weight=weight) for position in _as_list("point", point)]
    return demands + ([] if mask is None else [Demand(mask=mask, weight=weight)])


def choose_background(demands: list[Demand], levels: int) -> float:
    """M beside the demands if the user does not say it: `DEFAULT_BACKGROUND`, or a level below the least demand."""
    least = min(round(demand.weight * (levels - 1)) for demand in demands)
    return min(DEFAULT_BACKGROUND, max(least - 1, 0) / (levels - 1))


def stands_out(weight: float, background: float, levels: int) -> bool:
    """Whether a weight is above the background once both are rounded to one of `levels` levels."""
    return round(weight * (levels - 1)) > round(background * (levels - 1))


def make_weight_map(
    height: int,
    width: int,
    demands: list[Demand],
    background: float = 0.0,
    levels: int = MAX_LEVELS,
    coded_size: tuple[int, int] | None = None,
    locate: Callable[[str], np.ndarray] | None = None,
    lambda_growth: float = SMOOTH_PROFILE["lambda_growth"],
) -> WeightMap:
    """Make M for a picture: in each cell the largest value that any demand asks for, and at least `background`.

    The heat map of a phrase is averaged over each cell and multiplied by the phrase's weight (paper, section II-B). A
    box, point or mask that covers a part p of a cell cares about a part p of the errors there. HSVLC weighs errors by
    lambda(M) = c exp(g M), so the cell gets M = weight + ln(p) / g. The cell that a demand covers best always gets the
    full weight, so that a demand smaller than a cell is not lost.

    Args:
        height, width (`int`): Size of the picture in pixels.
        demands (`list[Demand]`): What is referred to, in pixels of the picture.
        background (`float`): The least M, in [0, 1].
        levels (`int`): L, the number of levels of M, 2 to 8.
        coded_size (`tuple[int, int]`, *optional*): Height and width at which the picture is coded, if not its own; a
            cell is 64 x 64 pixels of it.
        locate (`Callable`, *optional*): Gives the heat map of a phrase, an array in [0, 1] of any resolution. Phrases
            need it.
        lambda_growth (`float`): g, see `HSVLC.config.lambda_growth`.

    Returns:
        `WeightMap`: In referring mode.

    Raises:
        ValueError: A demand is malformed or lies outside the picture, or a phrase has no `locate`.
    """
    check_weight("background", background)
    check_levels(levels)
    coded_size = coded_size or (height, width)
    values = np.full(grid_size(*coded_size), float(background))
    for demand in demands:
        if demand.phrase is not None:
            if locate is None:
                raise ValueError(f"The phrase {demand.phrase!r} needs `locate`, which finds it in the picture.")
            heat = resize_array(locate(demand.phrase), coded_size, Image.Resampling.BILINEAR)
            asked = demand.weight * pool_to_grid(heat)
        else:
            coverage = pool_to_grid(cover_pixels(clip_region(demand, height, width), height, width, coded_size))
            coverage = np.maximum(coverage / max(coverage.max(), MIN_COVERAGE), MIN_COVERAGE)
            asked = demand.weight + np.log(coverage) / lambda_growth
        values = np.maximum(values, asked)
    return WeightMap.quantize(np.clip(values, 0, 1), levels)


def weigh_pixels(
    height: int, width: int, demands: list[Demand], levels: int = MAX_LEVELS, coded_size=None, **arguments
) -> tuple[WeightMap, np.ndarray]:
    """Make M and the weight of each pixel, for an encoder that refines the latents.

    Refinement can leave out what nobody asked for within a cell. So here a cell gets the largest weight of any of its
    pixels, however few they are. (The heat map of a phrase has no sharp border, and counts as in `make_weight_map`.)

    Args:
        As for `make_weight_map`.

    Returns:
        `tuple[WeightMap, np.ndarray]`: M, and the weight of each pixel at the coded size, rounded to the same levels.
    """
    coded_size = coded_size or (height, width)
    phrases = [demand for demand in demands if demand.phrase is not None]
    cells = make_weight_map(height, width, phrases, levels=levels, coded_size=coded_size, **arguments)
    weights = expand_to_pixels(cells.values.astype(float), *coded_size)
    for demand in demands:
        if demand.phrase is None:
            # A box that ends at the border of a pixel may reach beyond it by a rounding error.
            is_asked = cover_pixels(clip_region(demand, height, width), height, width, coded_size) > 1e-6
            weights = np.where(is_asked, np.maximum(weights, demand.weight), weights)
    return WeightMap.quantize(largest_on_grid(weights), levels), np.round(weights * (levels - 1)) / (levels - 1)


def check_weight(name: str, value) -> None:
    if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}.")


def check_levels(levels) -> None:
    if not isinstance(levels, numbers.Integral) or not MIN_LEVELS <= levels <= MAX_LEVELS:
        raise ValueError(f"levels must be a whole number from {MIN_LEVELS} to {MAX_LEVELS}, got {levels!r}.")


class UnknownKeyError(ValueError):
    """A key that means nothing where it stands. Its message names keys as they are written in the file."""


def check_keys(what: str, fields: dict, known) -> None:
    unknown = [str(name) for name in fields if name not in known]
    if unknown:
        raise UnknownKeyError(f"{what} holds {', '.join(unknown)}; known are {', '.join(known)}.")


def _as_list(name: str, value) -> list:
    """A tuple of numbers, or a list of such tuples, as a list of tuples."""
    if value is None:
        return []
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be numbers or a list of such, got {value!r}.")
    if not value:
        raise ValueError(f"The list given as {name} is empty; leave it out instead.")
    value = [item.tolist() if hasattr(item, "tolist") else item for item in value]
    return [value] if isinstance(value[0], numbers.Real) else value


def _numbers(name: str, value, length: int) -> tuple[float, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value
    is_tuple = isinstance(value, (list, tuple)) and len(value) == length
    if not is_tuple or not all(isinstance(number, numbers.Real) and abs(number) < 1e9 for number in value):
        raise ValueError(f"A {name} is {length} finite numbers, got {value!r}.")
    return tuple(float(number) for number in value)
