"""Budgets: filled, and never exceeded."""

import numpy as np
import pytest

from rsic_diffusers.bitstream.weight_map import WeightMap
from rsic_diffusers.referring.budget import fit_budget


def test_a_budget_is_filled_and_never_exceeded():
    """On a made-up codec whose rate grows as HSVLC's does; cells differ, and bytes come in words of four."""
    rng = np.random.default_rng(0)
    per_cell = np.array([0.3, 0.5, 0.9, 2, 5, 12, 23, 37])
    for _ in range(100):
        rows, columns = rng.integers(3, 13, 2)
        cells = np.full((rows, columns), rng.integers(0, 3), np.uint8)
        cells[: rng.integers(2, rows), : rng.integers(2, columns)] = rng.integers(3, 8)
        busy, calls = rng.uniform(0.7, 1.3, cells.shape), []

        def encode(weight_map, busy=busy, calls=calls):
            calls.append(weight_map)
            return bytes(60 + int((per_cell[weight_map.cells] * busy).sum()) // 4 * 4), weight_map

        target = int(rng.uniform(200, 60 + 37 * cells.size))
        data, weight_map = fit_budget(WeightMap(cells, 8), encode, target)
        assert len(calls) <= 10 and 0.97 * target <= len(data) <= target
        # What was asked for is never below the rest by more than the one level that the order of steps leaves.
        asked = cells == cells.max()
        assert weight_map.cells[asked].min() >= int(weight_map.cells[~asked].max()) - 1


def test_a_rate_that_leaps_is_met_too():
    """Nearly nothing up to half of M, then all at once: a straight line between two sizes leads astray."""
    for target in range(60, 230, 10):
        calls = []

        def encode(weight_map, calls=calls):
            calls.append(weight_map)
            step = int(weight_map.cells[0, 0])
            return (bytes(22 + step // 20 + (max(step - 130, 0) * 8 // 5) // 4 * 4),)

        (data,) = fit_budget(WeightMap.constant(1, 128, 128), encode, target)
        assert len(calls) <= 10 and target - 4 <= len(data) <= target


def test_an_impossible_budget_says_what_is_possible():
    with pytest.raises(ValueError, match="has 100 bytes, the budget is 99"):
        fit_budget(WeightMap.constant(1, 100, 100), lambda weight_map: (bytes(100),), 99)
    # More than all: M = 1 everywhere.
    out = fit_budget(WeightMap.constant(0.5, 100, 100), lambda one: (bytes(int(one.cells[0, 0])),), 999)
    assert len(out[0]) == 255
