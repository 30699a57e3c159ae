"""A second decoder, written from docs/FORMAT.md alone, in plain Python and NumPy: it reads the golden files alike."""

import json
import zlib
from math import ceil, isqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.signal import correlate

from rsic_diffusers import HSVLC
from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.bitstream.map_coding import encode_map
from rsic_diffusers.bitstream.weight_map import WeightMap


GOLDEN = Path(__file__).parents[1] / "golden"


class Bytes:
    def __init__(self, data):
        self.data, self.place = data, 0

    def take(self, length):
        self.place += length
        return self.data[self.place - length : self.place]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


def read_map(data, levels, rows, columns):
    """Cells of M as levels, row by row."""
    first = data.take(1)[0]
    if levels == 1:
        return [first] * (rows * columns)
    bits = (levels - 1).bit_length()
    raw_length = ceil(rows * columns * bits / 8)
    if first == 0:
        text = "".join(f"{byte:08b}" for byte in data.take(raw_length))
        return [int(text[i * bits : (i + 1) * bits], 2) for i in range(rows * columns)]
    if first < raw_length:
        return read_patches(data.take(first), levels, rows, columns)
    digits = max(1, (256 - raw_length) // raw_length)
    return read_slopes(
        (first - raw_length) % digits, digits, data.take((first - raw_length) // digits), levels, rows, columns
    )


def read_patches(data, levels, rows, columns):
    state, cells = int.from_bytes(data, "little"), []
    for n in range(rows * columns):
        weights = [2 * (1 + cells.count(k)) for k in range(levels)]
        if n % columns:
            weights[cells[n - 1]] += 24
        if n >= columns:
            weights[cells[n - columns]] += 24
        slot = state % sum(weights)
        level = next(k for k in range(levels) if slot < sum(weights[: k + 1]))
        state = state // sum(weights) * weights[level] + slot - sum(weights[:level])
        cells.append(level)
    assert state == 1
    return cells


def read_slopes(digit, digits, data, levels, rows, columns):
    code, steps, cells = digit * 256 ** len(data) + int.from_bytes(data, "big"), digits * 256 ** len(data), []
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        left, up = cells[n - 1] if column else None, cells[n - columns] if row else None
        left = left if left is not None else up if up is not None else 0
        up = up if up is not None else left
        up_left = cells[n - columns - 1] if row and column else up
        up_right = cells[n - columns + 1] if row and column + 1 < columns else up
        left_2 = cells[n - 2] if column > 1 else left
        up_2 = cells[n - 2 * columns] if row > 1 else up
        centre = 30 * left + 17 * up - 11 * up_left + 6 * up_right - 7 * left_2 - 5 * up_2 + 2
        width = 8 + 3 * (
            abs(left - up_left) + abs(up - up_left) + abs(up - up_right) + abs(left - left_2) + abs(up - up_2)
        )
        width += 0 if row and column else 22
        below = [0]
        for k in range(1, levels):
            edge = 32 * k - 16 - centre
            below.append(2**14 + edge * 2**30 // isqrt((width**2 + edge**2) * 2**32))
        below.append(2**15)
        weights = [below[k + 1] - below[k] + 16 for k in range(levels)]
        code *= sum(weights)
        level = next(k for k in range(levels) if code // steps < sum(weights[: k + 1]))
        code -= sum(weights[:level]) * steps
        steps *= weights[level]
        cells.append(level)
    return cells


class Rans:
    def __init__(self, data):
        self.words = np.frombuffer(data, "<u4").tolist()
        self.state = self.words.pop(0) + (self.words.pop(0) << 32)

    def refill(self):
        if self.state < 2**31:
            self.state = (self.state << 32) + self.words.pop(0)

    def four_bits(self):
        value, self.state = self.state % 16, self.state // 16
        self.refill()
        return value

    def symbol(self, cdf, offset):
        slot = self.state % 65536
        place = next(p for p in range(len(cdf) - 1) if slot < cdf[p + 1])
        self.state = (cdf[place + 1] - cdf[place]) * (self.state // 65536) + slot - cdf[place]
        self.refill()
        escape = len(cdf) - 2
        if place == escape:
            count = part = self.four_bits()
            while part == 15:
                part = self.four_bits()
                count += part
            rest = sum(self.four_bits() << 4 * j for j in range(count))
            place = -(rest + 1) // 2 if rest % 2 else escape + rest // 2
        return place + offset


def convolve(x, weights, name, relu):
    kernel = weights[f"{name}.weight_integer"].astype(np.int64)
    margin = kernel.shape[-1] // 2
    x = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    total = np.stack([sum(correlate(x[c], k[c], "valid", "direct") for c in range(len(x))) for k in kernel])
    total += weights[f"{name}.bias_integer"].astype(np.int64)[:, None, None]
    return np.clip((total + 2**11) // 2**12, 0 if relu else -32767, 32767)


def enlarge(x, factor):
    return x.repeat(factor, axis=-1).repeat(factor, axis=-2)


def read_symbols(data, weights, config, m, latent_size):
    """q of all scales; `m` is M in 1/256 on its own grid."""
    rows, columns = (-(-side // 16) * 2 for side in latent_size)
    m = np.pad(m, ((0, rows - m.shape[0]), (0, columns - m.shape[1])))
    maps = [m.reshape(rows // 2, 2, columns // 2, 2).max(axis=(1, 3)), m, enlarge(m, 2), enlarge(m, 4)]
    rans, scales, f, hidden = Rans(data), [], None, None
    for i, (level_map, gate) in enumerate(zip(maps, config["gates"], strict=True)):
        x = level_map[None]
        if i:
            x = np.concatenate([x, enlarge(np.concatenate([np.clip(f, -32767, 32767), hidden]), 2)])
        hidden = convolve(convolve(x, weights, f"prior.body.{i}.0", True), weights, f"prior.body.{i}.1", True)
        mean, index = np.split(convolve(hidden, weights, f"prior.head.{i}", False), 2)
        index = np.clip((index + 128) // 256, 0, config["num_scales"] - 1)
        q = np.zeros_like(mean)
        for channel, row, column in np.argwhere(np.broadcast_to(level_map / 256 >= gate, mean.shape)):
            k = index[channel, row, column]
            cdf = weights["tables.cdf"][k][: weights["tables.cdf_length"][k]].tolist()
            q[channel, row, column] = rans.symbol(cdf, int(weights["tables.offset"][k]))
        f = mean + 256 * q
        scales.append(q)
    assert rans.state == 2**31 and not rans.words
    return scales


@pytest.mark.parametrize("name", ["constant", "levels", "low", "reduced"])
def test_a_decoder_written_from_the_document_reads_the_same(name):
    whole = (GOLDEN / f"{name}.rsic").read_bytes()
    config = json.loads((GOLDEN / "codec" / "config.json").read_text())
    weights = load_file(GOLDEN / "codec" / "diffusion_pytorch_model.safetensors")

    assert zlib.crc32(whole[:-3]) & 0xFFFFFF == int.from_bytes(whole[-3:], "little")
    data = Bytes(whole[:-3])
    assert data.take(2) == b"RS"
    flags = data.take(1)[0]
    assert flags >> 4 == 1 and data.take(2) == bytes(weights["codec_id"].tolist())
    if flags & 8:
        field = int.from_bytes(data.take(4), "little")
        width, height, long_side = field % 2**14, (field >> 14) % 2**14, 128 * ((field >> 28) + 1)
        longer = max(width, height)
        size = [max(64, (2 * side * long_side + longer) // (2 * longer)) for side in (height, width)]
    else:
        width, height = data.varint(), data.varint()
        size = [height, width]
    length = data.varint()
    payload, codec = data.take(length >> 2), length & 3
    levels = (flags & 7) + 1
    rows, columns = (ceil(side / 64) for side in size)
    cells = np.array(read_map(data, levels, rows, columns)).reshape(rows, columns)
    most = 255 if levels == 1 else levels - 1
    m = (512 * cells.astype(np.int64) + most) // (2 * most)
    scales = read_symbols(data.data[data.place :], weights, config, m, [ceil(side / 8) for side in size])

    file = Bitstream.from_bytes(whole)
    assert (file.width, file.height, list(file.coded_size)) == (width, height, size)
    assert isinstance(file.weight_map, WeightMap) and np.array_equal(file.weight_map.cells, cells)
    if codec < 2:
        assert file.caption == (payload if codec == 0 else zlib.decompress(payload)).decode()
    codec = HSVLC.from_pretrained(GOLDEN / "codec")
    expected = codec.decode_symbols(file.codes, *arguments_of(file))
    for ours, theirs in zip(scales, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())


def arguments_of(file):
    shape = tuple(-(-side // 8) for side in file.coded_size)
    return torch.from_numpy(file.weight_map.values)[None, None], shape


def test_the_documents_three_ways_of_coding_a_map():
    rng, firsts = np.random.default_rng(0), set()
    for levels in (2, 5, 8):
        for rows, columns in ((1, 1), (3, 4), (6, 8), (9, 12)):
            y, x = np.mgrid[:rows, :columns]
            box = np.where((y < rows / 2) & (x > 1), levels - 1, 0)
            blob = np.round((levels - 1) * np.exp(-((y - 2) ** 2 + (x - 3) ** 2) / 9))
            for cells in (box, blob, rng.integers(0, levels, (rows, columns))):
                data = Bytes(encode_map(WeightMap(cells.astype(np.uint8), levels)) + b"more")
                assert read_map(data, levels, rows, columns) == cells.ravel().tolist()
                assert data.data[data.place :] == b"more"
                raw_length = ceil(rows * columns * (levels - 1).bit_length() / 8)
                firsts.add(0 if data.data[0] == 0 else 1 if data.data[0] < raw_length else 2)
    assert firsts == {0, 1, 2}
