"""Budgets: the weights that fill a number of bytes, and never exceed it."""

from collections.abc import Callable

import numpy as np

from .weight_map import CONSTANT_STEPS, WeightMap, expand_to_pixels


MAX_ENCODES = 10
CLOSE_ENOUGH = 0.99  # of the budget
RATE_GROWTH = 5  # of bytes with M: exp(5 M), measured on rsic-tiny; another only makes the search slower


def fit_budget(wanted: WeightMap, encode: Callable[[WeightMap], tuple], target_bytes: int) -> tuple:
    """Encode with the map nearest to `wanted` whose file has at most `target_bytes`, and nearly as many.

    lambda(M) = c exp(6 M): to raise M by as much everywhere leaves the proportions between demands as they are. The
    search goes up and down such a ladder, on which each step raises one cell by one level; cells of one weight take it
    in turn, from the middle of what matters outwards. Where a small region's steps are coarser than the budget, what
    is left goes to the cells with the least weight. In global mode the ladder is the constant's.

    Codes are whole words of 4 bytes, so a budget below 130 bytes may stay empty by more than 3 %, and so may one of
    few cells or few levels, whose steps are coarse.

    Args:
        wanted (`WeightMap`): M as asked for.
        encode (`Callable`): Gives a tuple for a map, the file's bytes first; called at most 10 times.
        target_bytes (`int`): The budget.

    Returns:
        `tuple`: What `encode` gave for the best map.

    Raises:
        ValueError: The smallest possible file is larger.
    """
    tried = {}

    def size(weight_map):
        key = weight_map.cells.tobytes()
        if key not in tried:
            tried[key] = encode(weight_map)
        return len(tried[key][0])

    if wanted.levels == 1:
        start, top = int(wanted.cells.flat[0]), CONSTANT_STEPS

        def ladder(step):
            return WeightMap(np.full_like(wanted.cells, step), 1)

    else:
        steps = _uniform_steps(wanted)
        start, top = int(wanted.cells.sum(dtype=int)), len(steps)  # as many steps up, and the map is `wanted`

        def ladder(step):
            return _take(np.zeros_like(wanted.cells), steps[:step], wanted.levels)

    smallest = size(ladder(0))
    if smallest > target_bytes:
        raise ValueError(
            f"The smallest possible file of this photo and caption has {smallest} bytes, the budget is "
            f"{int(target_bytes)}; give more bytes or a shorter caption."
        )

    def search(ladder, start, top):
        """The highest map of a ladder within the budget, or one that nearly fills it; `ladder(0)` is within."""
        # Bytes are about proportional to this, so that between two known sizes a straight line tells where to look.
        loads = np.array([np.exp(RATE_GROWTH * ladder(step).values).sum() for step in range(top + 1)])
        low, high, guess, moved = 0, top + 1, start or top, ""
        low_excess, high_excess = size(ladder(0)) - target_bytes, target_bytes
        while high - low > 1 and len(tried) < MAX_ENCODES:
            excess = size(ladder(guess)) - target_bytes
            if (CLOSE_ENOUGH - 1) * target_bytes <= excess <= 0:
                return ladder(guess)
            # Where the line misleads, one end stays and the other creeps: the Illinois rule then halves the excess of
            # the end that stays.
            if excess <= 0:
                high_excess = high_excess / 2 if moved == "low" else high_excess
                low, low_excess, moved = guess, excess, "low"
            else:
                low_excess = low_excess / 2 if moved == "high" else low_excess
                high, high_excess, moved = guess, excess, "high"
            if high > top:
                guess = top
            else:
                aim = loads[low] + (loads[high] - loads[low]) * low_excess / (low_excess - high_excess)
                guess = int(np.clip(np.searchsorted(loads, aim), low + 1, high - 1))
        return ladder(low)

    best = search(ladder, start, top)
    if best.levels > 1 and size(best) < CLOSE_ENOUGH * target_bytes:
        lowest = best.cells.ravel() == best.cells.min()
        in_turn = [cell for cell in dict.fromkeys(steps.tolist()) if lowest[cell]]
        left = np.tile(np.array(in_turn, int), int(best.levels - 1 - best.cells.min()))
        search(lambda step: _take(best.cells, left[:step], best.levels), len(left) // 2, len(left))
    return max((result for result in tried.values() if len(result[0]) <= target_bytes), key=lambda one: len(one[0]))


def move_weights(weights: np.ndarray, wanted: WeightMap, moved: WeightMap) -> np.ndarray:
    """The pixels' weights (H, W), moved as a budget moved M from `wanted` to `moved`.

    What a cell has its M of keeps to that; the rest of it moves by as much as the cells that met neither 0 nor 1, so
    that what was not asked for stays as far below what was, but not above M.
    """
    before, after = (expand_to_pixels(one.values, *weights.shape) for one in (wanted, moved))
    shifts = (moved.values - wanted.values).ravel()
    shift = shifts[np.abs(shifts).argmax()]
    return np.where(np.isclose(weights, before), after, np.clip(weights + shift, 0, after))


def _uniform_steps(wanted: WeightMap) -> np.ndarray:
    """The cells in the order in which they rise by one level, from 0 everywhere to L - 1 everywhere."""
    cells, top = wanted.cells.astype(int), wanted.levels - 1
    rows, columns = np.indices(cells.shape)
    mass = np.maximum(cells, 1e-3) / np.maximum(cells, 1e-3).sum()
    distance = np.hypot(rows - (mass * rows).sum(), columns - (mass * columns).sum())
    order = np.lexsort((distance.ravel(), -cells.ravel()))
    level = cells.ravel()[order]
    steps = []
    for shift in range(-top, top):
        rises = np.clip(level + shift + 1, 0, top) > np.clip(level + shift, 0, top)
        steps.append(order[rises])
    return np.concatenate(steps)


def _take(cells: np.ndarray, steps: np.ndarray, levels: int) -> WeightMap:
    rises = np.bincount(steps, minlength=cells.size).reshape(cells.shape)
    return WeightMap((cells + rises).astype(np.uint8), levels)
