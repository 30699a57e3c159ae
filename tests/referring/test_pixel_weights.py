"""The weights of single pixels, for refinement."""

import numpy as np
import pytest

from rsic_diffusers import Demand
from rsic_diffusers.bitstream.weight_map import WeightMap
from rsic_diffusers.referring.budget import move_weights
from rsic_diffusers.referring.demands import make_weight_map, weigh_pixels


def weights_by_hand(height, width, boxes, background=0.0):
    """M and the pixels' weights; boxes are (x0, y0, x1, y1, weight) with whole corners."""
    weights = np.full((height, width), background)
    for x0, y0, x1, y1, weight in boxes:
        for y in range(y0, y1):
            for x in range(x0, x1):
                weights[y, x] = max(weights[y, x], weight)
    cells = np.zeros((-(-height // 64), -(-width // 64)))
    for y in range(height):
        for x in range(width):
            cells[y // 64, x // 64] = max(cells[y // 64, x // 64], weights[y, x])
    return cells, weights


def test_weights_of_pixels_and_cells_by_hand():
    boxes = [(50, 20, 150, 140, 6 / 7), (120, 0, 130, 70, 3 / 7)]
    cells, weights = weights_by_hand(165, 203, boxes, background=1 / 7)
    demands = [Demand(box=box[:4], weight=box[4]) for box in boxes]
    weight_map, ours = weigh_pixels(165, 203, demands, background=1 / 7)
    np.testing.assert_allclose(weight_map.values, cells, atol=1e-6)
    np.testing.assert_allclose(ours, weights, atol=1e-9)
    # A sliver of a cell is enough, but not a rounding error.
    sliver, _ = weigh_pixels(165, 203, [Demand(box=(60, 60, 64.5, 100), weight=1)])
    np.testing.assert_array_equal(sliver.values, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    exact, _ = weigh_pixels(165, 203, [Demand(box=(10, 10, 64 + 1e-13, 64 + 1e-13), weight=1)])
    np.testing.assert_array_equal(exact.values, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_a_budget_moves_the_weights_with_the_map():
    demands = [Demand(box=(0, 0, 64, 64), weight=6 / 7), Demand(box=(64, 0, 90, 30), weight=3 / 7)]
    wanted, weights = weigh_pixels(128, 128, demands)
    np.testing.assert_array_equal(wanted.cells, [[6, 3], [0, 0]])

    def moved(cells):
        values = move_weights(weights, wanted, WeightMap(np.array(cells, np.uint8), 8))
        return np.round(7 * values[[0, 0, 40, 100], [0, 70, 100, 0]], 5).tolist()  # box, box, beside it, background

    assert moved([[6, 3], [0, 0]]) == [6, 3, 0, 0]
    assert moved([[7, 5], [2, 2]]) == [7, 5, 2, 2]  # raised by 2, the first clipped
    assert moved([[4, 1], [0, 0]]) == [4, 1, 0, 0]  # lowered by 2, the background clipped
    assert moved([[7, 7], [7, 7]]) == [7, 7, 7, 7]
    assert moved([[6, 3], [2, 2]]) == [6, 3, 2, 2]  # what was left of the budget went to the background


def test_of_a_phrase_all_pixels_of_a_cell_weigh_alike():
    heat = np.linspace(0, 1, 12).reshape(3, 4)
    demand = [Demand(phrase="the cap", weight=0.8)]
    weight_map, weights = weigh_pixels(165, 203, demand, locate=lambda _: heat)
    np.testing.assert_array_equal(weight_map.cells, make_weight_map(165, 203, demand, locate=lambda _: heat).cells)
    for y, x in ((0, 0), (70, 100), (164, 202)):
        assert weights[y, x] == pytest.approx(weight_map.values[y // 64, x // 64])
