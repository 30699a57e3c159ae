"""The bytes of M: an adaptive model over the left and upper neighbour and rANS on one big integer, or raw."""

import numpy as np

from .weight_map import WeightMap


def encode_map(weight_map: WeightMap) -> bytes:
    """Code the cells of M; `decode_map` needs the number of levels and the grid size besides.

    Global mode: one byte, the constant. Referring mode: a byte with the length of the coded cells, then the cells;
    length 0 says that they follow raw, at ceil(log2 L) bits each.
    """
    cells, levels = weight_map.cells, weight_map.levels
    if levels == 1:
        return bytes([int(cells.flat[0])])
    coded = _encode_cells(cells, levels)
    raw = _pack(cells, levels)
    return bytes([len(coded)]) + coded if 0 < len(coded) < min(len(raw), 256) else b"\0" + raw


def decode_map(data: bytes, levels: int, rows: int, columns: int) -> tuple[WeightMap, int]:
    """Undo `encode_map`.

    Args:
        data (`bytes`): Starts with the map's bytes; more may follow.

    Returns:
        `tuple[WeightMap, int]`: M, and how many bytes it took. ValueError if `data` is not what an encoder writes.
    """
    length = 1
    if levels > 1 and data:
        length += data[0] or -(-rows * columns * _bits(levels) // 8)
    if len(data) < length:
        raise ValueError(f"the map needs {length} bytes, {len(data)} are left")
    if levels == 1:
        return WeightMap(np.full((rows, columns), data[0], np.uint8), 1), 1
    if data[0]:
        cells = _decode_cells(data[1:length], levels, rows, columns)
    else:
        cells = _unpack(data[1:length], levels, rows, columns)
    return WeightMap(cells, levels), length


def _bits(levels: int) -> int:
    return (levels - 1).bit_length()


def _pack(cells: np.ndarray, levels: int) -> bytes:
    bits = np.unpackbits(cells.reshape(-1, 1), axis=1)[:, 8 - _bits(levels) :]
    return np.packbits(bits.ravel()).tobytes()


def _unpack(data: bytes, levels: int, rows: int, columns: int) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))[: rows * columns * _bits(levels)].reshape(-1, _bits(levels))
    cells = bits @ (1 << np.arange(_bits(levels))[::-1])
    if cells.max() >= levels:
        raise ValueError(f"the map holds level {cells.max()} of {levels}")
    return cells.astype(np.uint8).reshape(rows, columns)


class _CellModel:
    """Integer weights of the levels of the next cell, from its neighbours and the counts so far."""

    def __init__(self, levels: int, columns: int):
        self.levels, self.columns = levels, columns
        self.counts = [1] * levels
        self.seen = []

    def weights(self) -> list[int]:
        weights = [2 * count for count in self.counts]
        place = len(self.seen)
        if place % self.columns:
            weights[self.seen[-1]] += 24
        if place >= self.columns:
            weights[self.seen[place - self.columns]] += 24
        return weights

    def add(self, level: int) -> None:
        self.seen.append(level)
        self.counts[level] += 1


def _encode_cells(cells: np.ndarray, levels: int) -> bytes:
    model = _CellModel(levels, cells.shape[1])
    intervals = []
    for level in cells.ravel().tolist():
        weights = model.weights()
        intervals.append((sum(weights[:level]), weights[level], sum(weights)))
        model.add(level)
    # rANS with a state of any length, so nothing is lost to renormalisation; last cell first, as rANS has it.
    state = 1
    for start, weight, total in reversed(intervals):
        state = state // weight * total + start + state % weight
    return state.to_bytes((state.bit_length() + 7) // 8, "little")


def _decode_cells(data: bytes, levels: int, rows: int, columns: int) -> np.ndarray:
    model = _CellModel(levels, columns)
    state = int.from_bytes(data, "little")
    for _ in range(rows * columns):
        weights = model.weights()
        total = sum(weights)
        slot = state % total
        level = start = 0
        while slot >= start + weights[level]:
            start += weights[level]
            level += 1
        state = state // total * weights[level] + slot - start
        model.add(level)
    if state != 1:
        raise ValueError("the map does not end where it should")
    return np.array(model.seen, np.uint8).reshape(rows, columns)
