"""From demands to M."""

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.bitstream.weight_map import WeightMap
from rsic_diffusers.referring.demands import Demand, choose_background, collect_demands, make_weight_map


GROWTH = 8.2  # of lambda(M) where no codec says otherwise


def map_of(height, width, background=0.0, levels=8, **asked):
    return make_weight_map(height, width, collect_demands(**asked), background, levels)


@pytest.mark.parametrize(
    "weights, levels, background",
    [
        ([1.0], 8, 2 / 7),
        ([5 / 7, 3 / 7], 8, 2 / 7),
        ([5 / 7, 0.33], 8, 1 / 7),
        ([0.1], 8, 0),
        ([5 / 7], 3, 0),
        ([5 / 7], 2, 0),
    ],
)
def test_the_background_lies_below_every_demand(weights, levels, background):
    """Also once M is rounded: of three levels, 5/7 and 2/7 are both 1/2."""
    demands = [Demand(point=(32, 32), weight=weight) for weight in weights]
    assert choose_background(demands, levels) == background
    values = make_weight_map(64, 640, demands, background, levels).values[0]
    assert values[0] > values[1:].max()


def brute_force_box(height, width, x0, y0, x1, y1, weight, background, levels):
    """Coverage of each cell by a whole-pixel box, counting its pixels one by one."""
    rows, columns = -(-height // 64), -(-width // 64)
    out = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            pixels = [
                x0 <= x < x1 and y0 <= y < y1
                for y in range(64 * row, min(64 * row + 64, height))
                for x in range(64 * column, min(64 * column + 64, width))
            ]
            part = np.mean(pixels)
            out[row, column] = max(background, weight + np.log(part) / GROWTH) if part else background
    return np.round(out * (levels - 1)) / (levels - 1)


@pytest.mark.parametrize("levels", [2, 5, 8])
@pytest.mark.parametrize("weight, background", [(1.0, 0.0), (0.6, 0.2)])
def test_box_coverage_equals_counting_pixels(levels, weight, background):
    ours = map_of(200, 333, box=(37, 50, 301, 199), weight=weight, background=background, levels=levels)
    expected = brute_force_box(200, 333, 37, 50, 301, 199, weight, background, levels)
    np.testing.assert_allclose(ours.values, expected, atol=1e-7)


def test_fractional_box_covers_part_of_its_border_pixels():
    values = map_of(64, 192, box=(0, 0, 64 + 32.5, 64), weight=1, levels=8).values
    assert values[0].tolist() == [1, np.float32(np.round(7 + 7 / GROWTH * np.log(32.5 / 64)) / 7), 0]


def test_a_demand_smaller_than_a_cell_is_not_lost():
    values = map_of(128, 128, box=(70, 10, 75, 12), weight=0.9, background=0.3).values
    np.testing.assert_allclose(values, [[2 / 7, 6 / 7], [2 / 7, 2 / 7]], atol=1e-6)


def test_mask_equals_box_and_several_demands_take_the_maximum():
    mask = np.zeros((200, 333), bool)
    mask[50:199, 37:301] = True
    box = map_of(200, 333, box=(37, 50, 301, 199))
    np.testing.assert_array_equal(map_of(200, 333, mask=mask).cells, box.cells)
    picture = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    np.testing.assert_array_equal(map_of(200, 333, mask=picture).cells, box.cells)

    boxes = [(0, 0, 70, 70), (60, 60, 333, 200)]
    both = map_of(200, 333, box=boxes).cells
    each = [map_of(200, 333, box=one).cells for one in boxes]
    np.testing.assert_array_equal(both, np.maximum(*each))


def test_a_box_off_by_rounding_is_clipped():
    exact = map_of(100, 300, box=(0, 0, 300, 100), weight=0.8)
    for box in ((-0.4, 0, 300.3, 100), (0, -1, 301, 100.9)):
        np.testing.assert_array_equal(map_of(100, 300, box=box, weight=0.8).cells, exact.cells)


@pytest.mark.parametrize("asked", [{"box": (0.1, 0.2, 0.6, 0.9)}, {"box": (0, 0, 1, 1)}, {"point": (0.5, 0.25)}])
def test_fractions_for_pixels_are_recognised(asked):
    with pytest.raises(ValueError, match="looks like fractions .* x times 300 and y times 100"):
        map_of(100, 300, **asked)


def test_point_is_a_disc():
    values = map_of(256, 256, point=(96, 96), weight=1).values
    # A disc of radius 32 around the middle of a cell covers nothing of its neighbours.
    assert values[1, 1] == 1 and values.sum() == 1
    # Around a corner of four cells it covers a quarter of itself in each.
    assert map_of(256, 256, point=(128, 128), weight=1).values[1:3, 1:3].tolist() == [[1, 1], [1, 1]]


def test_global_mode_is_one_constant():
    weight_map = WeightMap.constant(0.3, 100, 300)
    assert weight_map.mode == "global" and weight_map.values.shape == (2, 5)
    np.testing.assert_allclose(weight_map.values, 0.3, atol=1 / 510)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"box": (10, 10, 10, 50)}, "empty or inverted"),
        ({"box": (50, 10, 10, 50)}, "empty or inverted"),
        ({"box": (0, 0, 302, 50)}, "outside the picture"),
        ({"box": (-1.5, 0, 30, 50)}, "outside the picture"),
        ({"box": (0, 0, float("nan"), 50)}, "finite"),
        ({"box": (0, 0, 5)}, "4 finite numbers"),
        ({"box": []}, "empty"),
        ({"box": 5}, "numbers or a list"),
        ({"point": (300, 10)}, "outside the picture"),
        ({"mask": np.ones((300, 100))}, "mask is 100 x 300"),
        ({"mask": np.zeros((100, 300))}, "mask is empty"),
        ({"mask": np.full((100, 300), np.nan)}, "NaN"),
        ({"weight": float("nan")}, "weight must be"),
        ({"weight": 1.5}, "weight must be"),
        ({"box": (0, 0, 9, 9), "background": -0.1}, "background must be"),
        ({"levels": 9}, "levels must be"),
        ({"referring": ""}, "A phrase must be words"),
        ({"referring": 5}, "A phrase must be words"),
        ({"referring": []}, "is empty"),
        ({"box": (0, 0, 10**400, 9)}, "4 finite numbers"),
        ({"mask": np.array([["a"]])}, "array of numbers"),
        ({"mask": 5}, "array of numbers"),
        ({"referring": {"box": (0, 0, 9, 9), "wieght": 1}}, "holds wieght; known are phrase, box"),
        ({"referring": {"box": (0, 0, 9, 9), "point": (1, 1)}}, "box and point"),
        ({"referring": {"weight": 0.5}}, "got none"),
    ],
)
def test_bad_demands_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        map_of(100, 300, **arguments)


def test_m_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="got 1.2"):
        WeightMap.constant(1.2, 128, 128)
    with pytest.raises(ValueError, match="got nan"):
        WeightMap.quantize(np.array([[0.0, np.nan]]), 8)
    with pytest.raises(ValueError, match="'dog' needs `locate`"):
        make_weight_map(128, 128, [Demand(phrase="dog")])


def test_demands_keep_their_own_weights():
    demands = [{"box": (0, 0, 64, 64)}, Demand(box=(128, 0, 192, 64), weight=0.6), {"point": (288, 32), "weight": 0.2}]
    values = map_of(64, 320, referring=demands, weight=0.8, background=0.1).values[0]
    np.testing.assert_allclose(7 * values, np.round([5.6, 0.7, 4.2, 0.7, 1.4]), atol=1e-5)


def test_a_phrase_weighs_by_its_heat_map():
    heat = np.linspace(0, 1, 640, dtype=np.float32)[None].repeat(128, axis=0)
    found = {"a gradient": heat}
    demands = collect_demands(["a gradient"], weight=0.7)
    values = make_weight_map(128, 640, demands, locate=found.get).values
    expected = np.round(7 * 0.7 * heat.reshape(2, 64, 10, 64).mean((1, 3))) / 7
    np.testing.assert_allclose(values, expected, atol=1e-6)
    # Any resolution of the heat map, and of the coded picture.
    coarse = make_weight_map(256, 1280, demands, coded_size=(128, 640), locate=lambda _: heat[:7, ::5]).values
    assert np.abs(coarse - expected).max() <= 1 / 7 + 1e-6
