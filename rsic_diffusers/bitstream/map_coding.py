"""The bytes of M: its cells under the better of two models, or raw; exact, and at most a byte above raw.

The map is small, so what goes around its cells counts: the first byte says how they are coded and in how many bytes,
and where it can it holds a part of the code too. With R the number of bytes of the raw cells, at ceil(log2 L) bits
each:

    0           R bytes of raw cells follow
    1 to R - 1  so many bytes follow: patches of one level, as boxes and masks make them (`PatchModel`)
    R to 255    slopes, as heat maps have them (`SlopeModel`); R + T x (bytes that follow) + the code's first digit,
                from 0 to T - 1, where T = max(1, (256 - R) // R): so the first byte has room for all lengths below R
"""

import numpy as np

from .map_models import PatchModel, SlopeModel
from .weight_map import WeightMap


MAX_LEVELS = 8  # three bits of the header


def encode_map(weight_map: WeightMap) -> bytes:
    """Code the cells of M; `decode_map` needs the number of levels and the grid size besides.

    Global mode: one byte, the constant. Referring mode: the shortest of the three ways.
    """
    cells, levels = weight_map.cells, weight_map.levels
    if levels == 1:
        return bytes([int(cells.flat[0])])
    raw = _pack(cells, levels)
    ways = (_encode_patches(cells, levels, len(raw)), _encode_slopes(cells, levels, len(raw)), b"\0" + raw)
    return min(filter(None, ways), key=len)


def decode_map(data: bytes, levels: int, rows: int, columns: int) -> tuple[WeightMap, int]:
    """Undo `encode_map`.

    Args:
        data (`bytes`): Starts with the map's bytes; more may follow.
        levels (`int`): L, 1 (global mode) to 8.
        rows, columns (`int`): Of the grid of cells.

    Returns:
        `tuple[WeightMap, int]`: M, and how many bytes it took.

    Raises:
        ValueError: `data` is not what an encoder writes.
    """
    if not data:
        raise ValueError("the map needs 1 byte, 0 are left")
    first = data[0]
    if levels == 1:
        return WeightMap(np.full((rows, columns), first, np.uint8), 1), 1
    raw_length = -(-rows * columns * _bits(levels) // 8)
    is_sloped = first >= raw_length
    length = 1 + ((first - raw_length) // _digits(raw_length) if is_sloped else first or raw_length)
    if len(data) < length:
        raise ValueError(f"the map needs {length} bytes, {len(data)} are left")
    if first == 0:
        cells = _unpack(data[1:length], levels, rows, columns)
    elif first < raw_length:
        cells = _decode_patches(data[1:length], levels, rows, columns)
    else:
        cells = _decode_slopes(data[:length], levels, rows, columns, raw_length)
    return WeightMap(cells, levels), length


def _bits(levels: int) -> int:
    return (levels - 1).bit_length()


def _pack(cells: np.ndarray, levels: int) -> bytes:
    bits = np.unpackbits(cells.reshape(-1, 1), axis=1)[:, 8 - _bits(levels) :]
    return np.packbits(bits.ravel()).tobytes()


def _unpack(data: bytes, levels: int, rows: int, columns: int) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    used = rows * columns * _bits(levels)
    if bits[used:].any():
        raise ValueError("the map has bits set after its last cell")
    bits = bits[:used].reshape(-1, _bits(levels))
    cells = bits @ (1 << np.arange(_bits(levels))[::-1])
    if cells.max() >= levels:
        raise ValueError(f"the map holds level {cells.max()} of {levels}")
    return cells.astype(np.uint8).reshape(rows, columns)


def _encode_patches(cells: np.ndarray, levels: int, raw_length: int) -> bytes | None:
    """rANS with a state of any length; None if raw is as short."""
    model = PatchModel(levels, cells.shape[1])
    intervals = []
    for level in cells.ravel().tolist():
        weights = model.weights()
        intervals.append((sum(weights[:level]), weights[level], sum(weights)))
        model.add(level)
    # Last cell first, as rANS has it.
    state = 1
    for start, weight, total in reversed(intervals):
        state = state // weight * total + start + state % weight
    length = (state.bit_length() + 7) // 8
    return bytes([length]) + state.to_bytes(length, "little") if length < min(raw_length, 256) else None


def _decode_patches(data: bytes, levels: int, rows: int, columns: int) -> np.ndarray:
    if not data[-1]:
        raise ValueError("the map takes a byte more than it needs")
    model = PatchModel(levels, columns)
    state = int.from_bytes(data, "little")
    for _ in range(rows * columns):
        weights = model.weights()
        total = sum(weights)
        slot = state % total
        level, start = _find(slot, weights)
        state = state // total * weights[level] + slot - start
        model.add(level)
    if state != 1:
        raise ValueError("the map does not end where it should")
    return np.array(model.seen, np.uint8).reshape(rows, columns)


def _encode_slopes(cells: np.ndarray, levels: int, raw_length: int) -> bytes | None:
    """Arithmetic coding in whole numbers of any length: all but the last byte's rest is used, where rANS would lose
    two bytes to begin with at weights as fine as these. None if the first byte cannot say so many bytes."""
    if raw_length >= 256:
        return None
    model = SlopeModel(levels, cells.shape[1])
    low, width, scale = 0, 1, 1  # the interval from low / scale to (low + width) / scale
    for level in cells.ravel().tolist():
        weights = model.weights()
        total = sum(weights)
        low, width, scale = low * total + width * sum(weights[:level]), width * weights[level], scale * total
        model.add(level)
    # The shortest number in it: code / steps, of a digit and then bytes.
    digits, length = _digits(raw_length), 0
    while True:
        steps = digits << 8 * length
        code = -(-low * steps // scale)
        if code * scale < (low + width) * steps:
            break
        length += 1
    digit, rest = divmod(code, 1 << 8 * length)
    first = raw_length + digits * length + digit
    return bytes([first]) + rest.to_bytes(length, "big") if first < 256 else None


def _decode_slopes(data: bytes, levels: int, rows: int, columns: int, raw_length: int) -> np.ndarray:
    digits, length = _digits(raw_length), len(data) - 1
    code = (data[0] - raw_length) % digits << 8 * length | int.from_bytes(data[1:], "big")
    steps = digits << 8 * length
    model = SlopeModel(levels, columns)
    for _ in range(rows * columns):
        weights = model.weights()
        code *= sum(weights)
        level, start = _find(code // steps, weights)
        code -= start * steps
        steps *= weights[level]
        model.add(level)
    cells = np.array(model.seen, np.uint8).reshape(rows, columns)
    # Any bytes stand for some map, but for each there is only one shortest number.
    if _encode_slopes(cells, levels, raw_length) != data:
        raise ValueError("the map is not coded as an encoder would")
    return cells


def _digits(raw_length: int) -> int:
    """T of the first byte; 1 if there is no room."""
    return max(1, (256 - raw_length) // raw_length)


def _find(slot: int, weights: list[int]) -> tuple[int, int]:
    """The level whose interval holds `slot`, and where that begins."""
    level = start = 0
    while slot >= start + weights[level]:
        start += weights[level]
        level += 1
    return level, start
