"""The bytes of M: exact, few, and closed to everything malformed."""

import numpy as np
import pytest

from rsic_diffusers.bitstream.map_coding import decode_map, encode_map
from rsic_diffusers.bitstream.weight_map import WeightMap
from rsic_diffusers.evaluation.experiments.side_information import (
    map_bytes,
    random_box_map,
    random_heat_map,
    random_maps,
    saving,
)
from rsic_diffusers.referring.demands import collect_demands, make_weight_map


def map_of(height, width, background=0.0, levels=8, **asked):
    return make_weight_map(height, width, collect_demands(**asked), background, levels)


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
