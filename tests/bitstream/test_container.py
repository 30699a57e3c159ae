"""The container: lossless, small, and closed to everything malformed."""

import random
import time
import zlib

import numpy as np
import pytest

from rsic_diffusers.bitstream import Bitstream, BitstreamError, reduced_size
from rsic_diffusers.bitstream.map_coding import _encode_patches, encode_map
from rsic_diffusers.referring.weight_map import WeightMap


def make(levels=8, width=500, height=375, caption="two magpies on the grass", codes=bytes(range(200))):
    rng = np.random.default_rng(levels)
    rows, columns = -(-height // 64), -(-width // 64)
    if levels == 1:
        weight_map = WeightMap.constant(0.7, height, width)
    else:
        weight_map = WeightMap(rng.integers(levels, size=(rows, columns), dtype=np.uint8), levels)
    return Bitstream(width, height, weight_map, caption, codes, b"\x12\x34")


@pytest.mark.parametrize("levels", range(1, 9))
@pytest.mark.parametrize("caption", ["", "a dog", "Grüße aus 東京 🗼" * 5])
def test_round_trip(levels, caption):
    file = make(levels, width=16383, height=64, caption=caption)
    data = file.to_bytes()
    again = Bitstream.from_bytes(data)
    assert (again.width, again.height, again.caption, again.codes) == (16383, 64, caption, file.codes)
    assert again.weight_map.levels == levels
    np.testing.assert_array_equal(again.weight_map.cells, file.weight_map.cells)
    assert again.to_bytes() == data
    assert sum(file.breakdown().values()) == len(data)


def test_noise_seeds_differ_as_contents_do():
    """A CRC-32 of whole files, which end in their own, has 256 values."""
    files = [make(codes=i.to_bytes(40, "big")) for i in range(2000)]
    assert len({file.noise_seed for file in files}) == 2000
    assert files[7].noise_seed == Bitstream.from_bytes(files[7].to_bytes()).noise_seed


def make_reduced(width=4000, height=3000, coded_side=768):
    rows, columns = (-(-side // 64) for side in reduced_size(height, width, coded_side))
    weight_map = WeightMap(np.ones((rows, columns), np.uint8), 8)
    return Bitstream(width, height, weight_map, "a harbour", bytes(200), b"\x12\x34", coded_side)


def test_a_reduced_picture_keeps_both_sizes():
    for size in ((4000, 3000, 768), (3000, 4000, 512), (16383, 64, 2048), (129, 128, 128), (8192, 8192, 1024)):
        file = make_reduced(*size)
        again = Bitstream.from_bytes(file.to_bytes())
        assert (again.width, again.height, again.coded_side) == size and file.breakdown()["header"] == 12
    assert make_reduced().coded_size == (576, 768)
    assert make_reduced(16383, 64, 2048).coded_size == (64, 2048)  # no side below 64


def test_impossible_reductions_are_refused():
    with pytest.raises(BitstreamError, match="no reduction"):
        Bitstream.from_bytes(make_reduced(768, 576, 768).to_bytes())
    with pytest.raises(BitstreamError, match="16383 x 16383"):
        Bitstream.from_bytes(make_reduced(16383, 16383, 768).to_bytes())


def test_header_with_checksum_costs_at_most_12_bytes():
    assert make().breakdown()["header"] == 12
    # What is not header is caption, map and codes, each with its own length where it needs one.
    assert len(make(1, caption="", codes=bytes(8)).to_bytes()) == 12 + 1 + 1 + 8


def test_zlib_captions_stay_readable():
    file = Bitstream(64, 64, WeightMap.constant(1, 64, 64), "a dog " * 20, bytes(8), b"ab", caption_codec="zlib")
    data = file.to_bytes()
    assert zlib.compress(b"a dog " * 20, 9) in data
    assert Bitstream.from_bytes(data).caption == "a dog " * 20


def damaged_files(number):
    rng = random.Random(0)
    originals = [make(levels).to_bytes() for levels in range(1, 9)] + [make_reduced().to_bytes()]
    for i in range(number):
        data = bytearray(rng.choice(originals))
        kind = i % 5
        if kind == 0:
            data = data[: rng.randrange(len(data))]
        elif kind == 1:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data = bytearray(rng.randbytes(rng.randrange(400)))
        elif kind == 3:
            data = data[:3] + rng.randbytes(rng.randrange(1, 300))
        else:
            # A hostile length somewhere in the header, with the checksum made right again or not.
            place = rng.randrange(3, 10)
            data[place : place + 3] = b"\xff\xff\x7f"
            if rng.random() < 0.5:
                body = bytes(data[:-3])
                data = bytearray(body + (zlib.crc32(body) & 0xFFFFFF).to_bytes(3, "little"))
        yield bytes(data)


def test_ten_thousand_damaged_files():
    slowest = 0
    for data in damaged_files(10_000):
        start = time.perf_counter()
        try:
            file = Bitstream.from_bytes(data)
        except BitstreamError as error:
            assert len(str(error)) > 10
        else:
            # With a right checksum a changed field can make another well-formed file (a new size or fingerprint is no
            # damage that a container could see); it must then be one in full.
            assert zlib.crc32(data[:-3]) & 0xFFFFFF == int.from_bytes(data[-3:], "little")
            assert file.to_bytes() == data
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 0.1


def test_damaged_files_never_reach_torch(run_python):
    code = """
import sys
from rsic_diffusers.bitstream import Bitstream, BitstreamError
try:
    Bitstream.from_bytes(b"RS" + bytes(range(60)))
except BitstreamError as error:
    print(error)
assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""
    assert "version" in run_python(code)


def test_caption_bombs_are_refused():
    bomb = zlib.compress(bytes(10_000_000), 9)
    body = b"RS\x10ab" + bytes([64, 64])
    length = len(bomb) << 2 | 1
    body += bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14]) + bomb + b"\xff" + bytes(8)
    with pytest.raises(BitstreamError, match="caption"):
        Bitstream.from_bytes(body + (zlib.crc32(body) & 0xFFFFFF).to_bytes(3, "little"))


def test_a_map_that_an_older_version_coded_longer_keeps_its_bytes():
    rows = [[min(row, column, 7) for column in range(8)] for row in range(8)]
    weight_map = WeightMap(np.array(rows, np.uint8), 8)
    older = _encode_patches(weight_map.cells, 8, 24)
    assert len(encode_map(weight_map)) < len(older)
    file = Bitstream(512, 512, weight_map, "a dog", bytes(8), b"ab", map_payload=older)
    again = Bitstream.from_bytes(file.to_bytes())
    np.testing.assert_array_equal(again.weight_map.cells, weight_map.cells)
    assert again.to_bytes() == file.to_bytes() and again.breakdown()["map"] == len(older)
