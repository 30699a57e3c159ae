"""The weight map M: how faithful each 64 x 64 pixel cell of the picture is to be."""

from dataclasses import dataclass

import numpy as np


CELL_PIXELS = 64
CONSTANT_STEPS = 255  # a single constant is stored as one byte
FAITHFUL = 0.5  # from this M on a picture counts as faithful rather than imagined
DEFAULT_WEIGHT = 5 / 7  # M where something is referred to, or everywhere in global mode; docs/RESULTS.md says why
DEFAULT_BACKGROUND = 2 / 7  # M elsewhere in referring mode; see docs/RESULTS.md too


@dataclass(frozen=True, eq=False)
class WeightMap:
    """M on its grid of cells, quantised.

    Args:
        cells (`np.ndarray` of shape (ceil(H/64), ceil(W/64)), uint8): Levels k.
        levels (`int`): L. For 2 to 8, M = k / (L - 1); for 1 (global mode) all cells hold one k, and M = k / 255.
    """

    cells: np.ndarray
    levels: int

    @property
    def mode(self) -> str:
        return "global" if self.levels == 1 else "referring"

    @property
    def values(self) -> np.ndarray:
        """M as float32, values in [0, 1]."""
        return (self.cells / (CONSTANT_STEPS if self.levels == 1 else self.levels - 1)).astype(np.float32)

    @classmethod
    def constant(cls, weight: float, height: int, width: int) -> "WeightMap":
        """Global mode: one value everywhere, for a picture of `height` x `width` pixels.

        Raises:
            ValueError: `weight` is not in [0, 1].
        """
        _check_values(np.asarray(weight))
        return cls(np.full(grid_size(height, width), round(weight * CONSTANT_STEPS), np.uint8), levels=1)

    @classmethod
    def quantize(cls, values: np.ndarray, levels: int) -> "WeightMap":
        """Referring mode: `values` in [0, 1] on the grid, rounded to the nearest of `levels` levels.

        Raises:
            ValueError: A value is not in [0, 1].
        """
        _check_values(values)
        return cls(np.round(values * (levels - 1)).astype(np.uint8), int(levels))


def _check_values(values: np.ndarray) -> None:
    outside = values[~((values >= 0) & (values <= 1))]
    if outside.size:
        raise ValueError(f"M must be in [0, 1], got {outside.flat[0]}.")


def is_faithful(weights: np.ndarray) -> np.ndarray:
    """Where a picture counts as faithful rather than imagined: the same M counts alike in every file.

    Args:
        weights (`np.ndarray`): M on its grid or at pixels, values in [0, 1].

    Returns:
        `np.ndarray` of the same shape, bool.
    """
    return weights >= FAITHFUL


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of M for a picture of `height` x `width` pixels."""
    return -(-height // CELL_PIXELS), -(-width // CELL_PIXELS)


def pool_to_grid(coverage: np.ndarray) -> np.ndarray:
    """Mean of a (H, W) array over each cell; cells at the right and bottom edge count the pixels they have."""
    height, width = coverage.shape
    rows = np.add.reduceat(coverage, np.arange(0, height, CELL_PIXELS), axis=0, dtype=np.float64)
    sums = np.add.reduceat(rows, np.arange(0, width, CELL_PIXELS), axis=1)
    heights = np.minimum(CELL_PIXELS, height - np.arange(0, height, CELL_PIXELS))
    widths = np.minimum(CELL_PIXELS, width - np.arange(0, width, CELL_PIXELS))
    return sums / np.outer(heights, widths)


def largest_on_grid(values: np.ndarray) -> np.ndarray:
    """Largest value of a (H, W) array in each cell."""
    height, width = values.shape
    rows = np.maximum.reduceat(values, np.arange(0, height, CELL_PIXELS), axis=0)
    return np.maximum.reduceat(rows, np.arange(0, width, CELL_PIXELS), axis=1)


def expand_to_pixels(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """The grid's values at each of `height` x `width` pixels."""
    return cells.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)[:height, :width]
