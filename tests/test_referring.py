"""From demands to M, and M's bytes."""

import json

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.bitstream.map_coding import decode_map, encode_map
from rsic_diffusers.evaluation.experiments.side_information import (
    map_bytes,
    random_box_map,
    random_heat_map,
    random_maps,
    saving,
)
from rsic_diffusers.referring.budget import fit_budget
from rsic_diffusers.referring.demands import Demand, collect_demands, make_weight_map, read_demands
from rsic_diffusers.referring.weight_map import WeightMap


def map_of(height, width, background=0.0, levels=8, **asked):
    return make_weight_map(height, width, collect_demands(**asked), background, levels)


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
            out[row, column] = max(background, weight + np.log(part) / 6) if part else background
    return np.round(out * (levels - 1)) / (levels - 1)


@pytest.mark.parametrize("levels", [2, 5, 8])
@pytest.mark.parametrize("weight, background", [(1.0, 0.0), (0.6, 0.2)])
def test_box_coverage_equals_counting_pixels(levels, weight, background):
    ours = map_of(200, 333, box=(37, 50, 301, 199), weight=weight, background=background, levels=levels)
    expected = brute_force_box(200, 333, 37, 50, 301, 199, weight, background, levels)
    np.testing.assert_allclose(ours.values, expected, atol=1e-7)


def test_fractional_box_covers_part_of_its_border_pixels():
    values = map_of(64, 192, box=(0, 0, 64 + 32.5, 64), levels=8).values
    assert values[0].tolist() == [1, np.float32(np.round(7 + 7 / 6 * np.log(32.5 / 64)) / 7), 0]


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


def test_a_mask_from_a_file_is_what_is_seen(tmp_path):
    """A palette picture in which black has an index above 0, and one with transparency."""
    mask = Image.new("P", (128, 128), 1)
    mask.putpalette([255, 255, 255, 0, 0, 0] + 254 * [0, 0, 0])
    mask.paste(0, (64, 64, 128, 128))
    mask.save(tmp_path / "palette.png")
    mask.convert("L").convert("LA").save(tmp_path / "alpha.png")
    for name in ("palette.png", "alpha.png"):
        assert map_of(128, 128, mask=tmp_path / name).values.tolist() == [[0, 0], [0, 1]]


def test_point_is_a_disc():
    values = map_of(256, 256, point=(96, 96)).values
    # A disc of radius 32 around the middle of a cell covers nothing of its neighbours.
    assert values[1, 1] == 1 and values.sum() == 1
    # Around a corner of four cells it covers a quarter of itself in each.
    assert map_of(256, 256, point=(128, 128)).values[1:3, 1:3].tolist() == [[1, 1], [1, 1]]


def test_global_mode_is_one_constant():
    weight_map = WeightMap.constant(0.3, 100, 300)
    assert weight_map.mode == "global" and weight_map.values.shape == (2, 5)
    np.testing.assert_allclose(weight_map.values, 0.3, atol=1 / 510)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"box": (10, 10, 10, 50)}, "empty or inverted"),
        ({"box": (50, 10, 10, 50)}, "empty or inverted"),
        ({"box": (0, 0, 301, 50)}, "outside the picture"),
        ({"box": (-1, 0, 30, 50)}, "outside the picture"),
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


def test_a_file_of_demands(tmp_path):
    path = tmp_path / "demands.json"
    demands = [{"phrase": "the dog", "weight": 0.6}, {"box": [1, 2, 30, 40], "mask": None}, {"mask": "masks/a.png"}]
    path.write_text(json.dumps({"a.jpg": {"caption": "a dog", "demands": demands}, "b.jpg": {"weight": 0.3}}))
    arguments = read_demands(path)
    assert arguments["b.jpg"] == {"weight": 0.3} and arguments["a.jpg"]["caption"] == "a dog"
    dog, box, mask = collect_demands(arguments["a.jpg"]["referring"], weight=0.7)
    assert mask.mask == tmp_path / "masks" / "a.png"
    assert (dog.phrase, dog.weight, box.box, box.weight) == ("the dog", 0.6, (1, 2, 30, 40), 0.7)
    for text, message in (
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "object of objects"),
        ('{"a.jpg": {"boxes": []}}', "a.jpg, holds boxes; known are caption, demands"),
        ('{"a.jpg": {"demands": [{"phrase": "a", "wait": 1}]}}', "A demand holds wait"),
        ('{"a.jpg": {"demands": [{"mask": 5}]}}', "a mask must be the path of a picture, got 5"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_demands(path)


HEAT = [[0, 0, 1, 1, 1, 1, 0, 0], [0, 1, 3, 5, 5, 3, 1, 0], [0, 1, 4, 7, 6, 4, 2, 1], [0, 1, 2, 4, 4, 2, 1, 0]]


def some_maps():
    rng = np.random.default_rng(0)
    for levels in range(2, 9):
        for rows, columns in ((1, 1), (1, 7), (6, 8), (12, 12)):
            yield WeightMap(rng.integers(levels, size=(rows, columns), dtype=np.uint8), levels)
            yield WeightMap(np.full((rows, columns), levels - 1, np.uint8), levels)
    yield map_of(375, 500, box=(85, 120, 325, 322))
    yield WeightMap.constant(0.5, 375, 500)
    for height, width in ((64, 1000), (375, 500), (1100, 1100), (2048, 2048)):
        heat = random_heat_map(rng, height, width)
        yield heat
        yield WeightMap(heat.cells // 2, 4)


def test_map_bytes_are_exact_and_never_above_raw_plus_one():
    for weight_map in some_maps():
        rows, columns = weight_map.cells.shape
        data = encode_map(weight_map)
        again, used = decode_map(data + b"what follows", weight_map.levels, rows, columns)
        assert used == len(data)
        np.testing.assert_array_equal(again.cells, weight_map.cells)
        raw_bits = rows * columns * (weight_map.levels - 1).bit_length()
        assert len(data) <= 1 + -(-raw_bits // 8)


def test_box_maps_cost_less_than_raw():
    weight_map = map_of(375, 500, box=(85, 120, 325, 322))
    assert len(encode_map(weight_map)) < 0.75 * weight_map.cells.size * 3 / 8


@pytest.mark.parametrize("make", [random_box_map, random_heat_map])
@pytest.mark.parametrize("sides", [(256, 1024), (375, 500)])
def test_maps_cost_40_percent_less_than_raw(make, sides):
    assert saving(map_bytes(random_maps(make, seed=3, sides=sides)), "raw") >= 40


@pytest.mark.parametrize(
    "cells, coded",
    [
        (HEAT, "8bf0cb2abd6f7a"),
        ([[7, 7, 7, 7], [7, 7, 7, 7], [0, 0, 0, 0], [0, 0, 0, 0]], "025f08"),
        ([[0, 7, 0, 7], [5, 2, 6, 1], [0, 7, 3, 4], [6, 1, 5, 0]], "001c7ab11dcc68"),
    ],
)
def test_maps_of_today_are_read_and_written_for_ever(cells, coded):
    """Each of the three ways: slopes, patches, raw. If this fails, users' files are lost: undo the change."""
    weight_map = WeightMap(np.array(cells, np.uint8), 8)
    assert encode_map(weight_map).hex() == coded
    again, _ = decode_map(bytes.fromhex(coded), 8, *weight_map.cells.shape)
    assert again.cells.tolist() == cells


def test_slopes_that_are_not_coded_as_short_as_can_be_are_refused():
    data = encode_map(WeightMap(np.array(HEAT, np.uint8), 8))
    digits = (256 - 12) // 12  # in the first byte, see map_coding
    longer = bytes([data[0] - (data[0] - 12) % digits + digits, (data[0] - 12) % digits]) + data[1:]
    with pytest.raises(ValueError, match="as an encoder would"):
        decode_map(longer, 8, 4, 8)


def test_damaged_maps_raise_value_error():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        levels = int(rng.integers(1, 9))
        data = rng.bytes(int(rng.integers(0, 30)))
        try:
            weight_map, used = decode_map(data, levels, 6, 8)
        except ValueError:
            continue
        assert used <= len(data) and weight_map.cells.max() < max(levels, 256 if levels == 1 else 0)


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
