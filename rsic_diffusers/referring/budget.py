"""Budgets: the weights whose file fills a number of bytes, and never exceeds it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..bitstream.weight_map import CONSTANT_STEPS, WeightMap, expand_to_pixels


MAX_ENCODES = 10
CLOSE_ENOUGH = 0.99  # of the budget
RATE_GROWTH = 5  # bytes grow with M about as exp(5 M); used where no rates were measured, and only guides the search


def fit_budget(
    wanted: WeightMap,
    encode: Callable[[WeightMap], tuple],
    target_bytes: float,
    rate_at: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple:
    """Encode with the map nearest to `wanted` whose file has at most `target_bytes`, and nearly as many.

    With lambda(M) = c exp(g M), raising M everywhere by the same amount keeps the proportions between the demands. So
    the maps that are tried lie on a ladder, each step of which raises one cell by one level; cells of equal weight
    take turns, from the centre of what matters outwards. If the next step of that ladder is too large for what is left
    of the budget, the cells with the least weight get the rest. In global mode the ladder is that of the constant M.

    A file within 1 % of the budget ends the search. Codes are whole words of 4 bytes, so of a small budget, and of
    that of a map with few cells or few levels, more than 1 % may stay empty.

    Args:
        wanted (`WeightMap`): M as it was asked for.
        encode (`Callable`): Returns a tuple for a map, the file's bytes first. Called at most 10 times.
        target_bytes (`float`): The budget.
        rate_at (`Callable`, *optional*): The codec's bits per pixel at each M of an array; makes the search shorter.

    Returns:
        `tuple`: What `encode` returned for the best map.

    Raises:
        ValueError: Even the smallest possible file is larger.
    """
    search = _Search(encode, target_bytes, rate_at or _default_rate)
    if wanted.levels == 1:
        ladder, start = _Ladder(wanted.cells, 1, None, CONSTANT_STEPS), int(wanted.cells.flat[0])
    else:
        rises = _uniform_rises(wanted)
        ladder = _Ladder(np.zeros_like(wanted.cells), wanted.levels, rises, len(rises))
        start = int(wanted.cells.sum(dtype=int))  # after that many rises the map is `wanted`
    smallest = search.size(ladder(0))
    if smallest > target_bytes:
        raise ValueError(
            f"The smallest possible file of this photo and caption has {smallest} bytes, the budget is "
            f"{int(target_bytes)}; give more bytes or a shorter caption."
        )
    best = search.climb(ladder, start)
    if best.levels > 1 and search.size(best) < CLOSE_ENOUGH * target_bytes:
        lowest = best.cells.ravel() == best.cells.min()
        in_turn = [cell for cell in dict.fromkeys(rises.tolist()) if lowest[cell]]
        rises = np.tile(np.array(in_turn, int), int(best.levels - 1 - best.cells.min()))
        search.climb(_Ladder(best.cells, best.levels, rises, len(rises)), len(rises) // 2)
    return search.largest_within_budget()


def move_weights(weights: np.ndarray, wanted: WeightMap, moved: WeightMap) -> np.ndarray:
    """Move the weights of pixels as a budget moved M from `wanted` to `moved`.

    The pixels that give their cell its M keep to it. The other pixels of the cell move by as much as the cells that
    were clipped neither at 0 nor at 1, so that they stay as far below; they never rise above M.

    Args:
        weights (`np.ndarray` of shape (H, W)): Weights of the pixels for `wanted`, in [0, 1].

    Returns:
        `np.ndarray` of shape (H, W): Weights of the pixels for `moved`.
    """
    before, after = (expand_to_pixels(weight_map.values, *weights.shape) for weight_map in (wanted, moved))
    shifts = (moved.values - wanted.values).ravel()
    shift = shifts[np.abs(shifts).argmax()]
    return np.where(np.isclose(weights, before), after, np.clip(weights + shift, 0, after))


@dataclass
class _Ladder:
    """Maps of rising M, by the number of steps.

    Args:
        base (`np.ndarray`): Cells of the lowest map.
        levels (`int`): Of the maps; 1 for global mode, where each step raises all cells together, from 0.
        rises (`np.ndarray`, *optional*): Flat index of the cell that each step raises by one level.
        top (`int`): Number of steps.
    """

    base: np.ndarray
    levels: int
    rises: np.ndarray | None
    top: int

    def __call__(self, step: int) -> WeightMap:
        if self.levels == 1:
            return WeightMap(np.full_like(self.base, step), 1)
        assert self.rises is not None
        raised = np.bincount(self.rises[:step], minlength=self.base.size).reshape(self.base.shape)
        return WeightMap((self.base + raised).astype(np.uint8), self.levels)


class _Search:
    """Encodes with one map after another, each only once, and remembers the results."""

    def __init__(self, encode, target_bytes, rate_at):
        self.encode, self.target_bytes, self.rate_at = encode, target_bytes, rate_at
        self.results = {}

    def size(self, weight_map: WeightMap) -> int:
        key = weight_map.cells.tobytes()
        if key not in self.results:
            self.results[key] = self.encode(weight_map)
        return len(self.results[key][0])

    def excess(self, weight_map: WeightMap) -> float:
        """Bytes above the budget; negative below it."""
        return self.size(weight_map) - self.target_bytes

    def climb(self, ladder: _Ladder, start: int) -> WeightMap:
        """The highest map of a ladder within the budget, or one that nearly fills it. `ladder(0)` must be within it.

        A root search by regula falsi. Bytes are about proportional to the codec's rate, summed over the cells, so a
        straight line between two known sizes says where to look next. Where it misleads, one end of the bracket would
        stay and the other creep; the Illinois rule then halves the excess of the end that stays.
        """
        rates = np.array([self.rate_at(ladder(step).values).sum() for step in range(ladder.top + 1)])
        low, high, guess, moved = 0, ladder.top + 1, start or ladder.top, ""
        low_excess, high_excess = self.excess(ladder(0)), self.target_bytes
        while high - low > 1 and len(self.results) < MAX_ENCODES:
            excess = self.excess(ladder(guess))
            if (CLOSE_ENOUGH - 1) * self.target_bytes <= excess <= 0:
                return ladder(guess)
            if excess <= 0:
                high_excess = high_excess / 2 if moved == "low" else high_excess
                low, low_excess, moved = guess, excess, "low"
            else:
                low_excess = low_excess / 2 if moved == "high" else low_excess
                high, high_excess, moved = guess, excess, "high"
            if high > ladder.top:  # nothing above the budget is known yet
                guess = ladder.top
            else:
                aim = rates[low] + (rates[high] - rates[low]) * low_excess / (low_excess - high_excess)
                guess = int(np.clip(np.searchsorted(rates, aim), low + 1, high - 1))
        return ladder(low)

    def largest_within_budget(self) -> tuple:
        within = [result for result in self.results.values() if len(result[0]) <= self.target_bytes]
        return max(within, key=lambda result: len(result[0]))


def _default_rate(weights: np.ndarray) -> np.ndarray:
    return np.exp(RATE_GROWTH * weights)


def _uniform_rises(wanted: WeightMap) -> np.ndarray:
    """The cells in the order in which they rise by one level each, from 0 everywhere to L - 1 everywhere."""
    cells, top = wanted.cells.astype(int), wanted.levels - 1
    rows, columns = np.indices(cells.shape)
    mass = np.maximum(cells, 1e-3) / np.maximum(cells, 1e-3).sum()
    distance = np.hypot(rows - (mass * rows).sum(), columns - (mass * columns).sum())
    order = np.lexsort((distance.ravel(), -cells.ravel()))
    level = cells.ravel()[order]
    rises = []
    for shift in range(-top, top):
        rises.append(order[np.clip(level + shift + 1, 0, top) > np.clip(level + shift, 0, top)])
    return np.concatenate(rises)
