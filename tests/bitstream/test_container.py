"""The container: lossless, small, and closed to everything malformed."""

import random
import zlib
from dataclasses import replace
from io import BytesIO, StringIO

import numpy as np
import pytest

from rsic_diffusers.bitstream import Bitstream, BitstreamError, reduced_size
from rsic_diffusers.bitstream.caption_coding import encode_caption
from rsic_diffusers.bitstream.map_coding import _encode_patches, _pack, encode_map
from rsic_diffusers.bitstream.weight_map import WeightMap


def make(
    levels=8,
    width=500,
    height=375,
    caption="two magpies on the grass",
    codes=bytes(range(200)),
    weight_map=None,
    **options,
):
    rng = np.random.default_rng(levels)
    rows, columns = -(-height // 64), -(-width // 64)
    if weight_map is None and levels == 1:
        weight_map = WeightMap.constant(0.7, height, width)
    elif weight_map is None:
        weight_map = WeightMap(rng.integers(levels, size=(rows, columns), dtype=np.uint8), levels)
    return Bitstream(width, height, weight_map, caption, codes, b"\x12\x34", **options)


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
    for data in damaged_files(10_000):
        try:
            file = Bitstream.from_bytes(data)
        except BitstreamError as error:
            assert len(str(error)) > 10
        else:
            # With a right checksum a changed field can make another well-formed file (a new size or fingerprint is no
            # damage that a container could see); it must then be one in full.
            assert zlib.crc32(data[:-3]) & 0xFFFFFF == int.from_bytes(data[-3:], "little")
            assert file.to_bytes() == data


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


def mend(body: bytes) -> bytes:
    """A file of these bytes, with the right checksum."""
    return body + (zlib.crc32(body) & 0xFFFFFF).to_bytes(3, "little")


def test_a_map_that_an_older_version_coded_longer_keeps_its_bytes():
    rows = [[min(row, column, 7) for column in range(8)] for row in range(8)]
    weight_map = WeightMap(np.array(rows, np.uint8), 8)
    older = _encode_patches(weight_map.cells, 8, 24)
    assert len(encode_map(weight_map)) < len(older)
    sections = Bitstream(512, 512, weight_map, "a dog", bytes(8), b"ab").sections()
    data = mend(b"".join({**sections, "map": older}.values()))
    again = Bitstream.from_bytes(data)
    np.testing.assert_array_equal(again.weight_map.cells, weight_map.cells)
    assert again.to_bytes() == data and again.breakdown()["map"] == len(older)
    # With another map, those bytes would be wrong.
    other = replace(again, weight_map=WeightMap(7 - weight_map.cells, 8))
    np.testing.assert_array_equal(Bitstream.from_bytes(other.to_bytes()).weight_map.cells, 7 - weight_map.cells)


def spell_otherwise(file, **changed):
    return mend(b"".join({**file.sections(), **changed}.values()))


def test_one_file_one_spelling():
    """Longer varints, padded maps and bits that stand for nothing: the same content, and yet no such file is ours."""
    file = make()
    sections = file.sections()
    width_and_height = sections["header"][5:]
    longer = (
        sections["header"][:5] + width_and_height[:1] + bytes([width_and_height[1] | 128, 0]) + width_and_height[2:]
    )
    with pytest.raises(BitstreamError, match="width takes a byte more than it needs"):
        Bitstream.from_bytes(spell_otherwise(file, header=longer))
    caption = sections["caption"]
    with pytest.raises(BitstreamError, match="caption length takes a byte more"):
        Bitstream.from_bytes(spell_otherwise(file, caption=bytes([caption[0] | 128, 0]) + caption[1:]))

    boxed = np.zeros((6, 8), np.uint8)
    boxed[2:4, 2:5] = 7
    file = make(weight_map=WeightMap(boxed, 8))
    patches = file.sections()["map"]
    assert 1 < patches[0] < 18  # as patches, and not raw
    assert Bitstream.from_bytes(file.to_bytes()).to_bytes() == file.to_bytes()
    with pytest.raises(BitstreamError, match="map takes a byte more"):
        Bitstream.from_bytes(spell_otherwise(file, map=bytes([patches[0] + 1]) + patches[1:] + b"\0"))

    file = make(weight_map=WeightMap(np.arange(42).reshape(6, 7).astype(np.uint8) % 5, 5), width=400)
    raw = b"\0" + _pack(file.weight_map.cells, 5)  # 126 bits in 16 bytes
    assert Bitstream.from_bytes(spell_otherwise(file, map=raw)).weight_map.cells.max() == 4
    with pytest.raises(BitstreamError, match="bits set after its last cell"):
        Bitstream.from_bytes(spell_otherwise(file, map=raw[:-1] + bytes([raw[-1] | 1])))


@pytest.mark.parametrize("codec", ["zlib", "dictionary"])
def test_unused_bits_of_captions_are_zero(codec):
    """Deflate ends within a byte; what comes after in it stands for nothing."""
    refused = 0
    for caption in ("a dog", "two magpies on the grass", "x", "a" * 300, "Grüße aus 東京", "a lighthouse by the sea"):
        file = make(caption=caption, caption_codec=codec)
        assert Bitstream.from_bytes(file.to_bytes()).caption == caption
        number, payload = encode_caption(caption, codec)
        place = len(payload) - (5 if codec == "zlib" else 1)
        for bit in range(8):
            other = bytearray(payload)
            other[place] ^= 1 << bit
            data = spell_otherwise(
                file, caption=bytes([(len(other) << 2 | number) & 127 | 128, len(other) >> 5]) + other
            )
            if len(other) < 32:
                data = spell_otherwise(file, caption=bytes([len(other) << 2 | number]) + other)
            with pytest.raises(BitstreamError, match="caption") as error:
                Bitstream.from_bytes(data)
            refused += "stand for nothing" in str(error.value)
    assert refused > 5


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("width", 63, "63 x 375"),
        ("width", 500.0, "whole number"),
        ("width", 1 << 14, "16384"),
        ("height", True, "whole number"),
        ("weight_map", WeightMap(np.zeros((6, 7), np.uint8), 8), r"shape \(6, 8\)"),
        ("weight_map", WeightMap(np.zeros((6, 8)), 8), "uint8"),
        ("weight_map", WeightMap(np.full((6, 8), 5, np.uint8), 5), "cells up to 4, got 5"),
        ("weight_map", WeightMap(np.zeros((6, 8), np.uint8), 9), "1 to 8 levels"),
        ("weight_map", WeightMap(np.eye(6, 8, dtype=np.uint8), 1), "one value"),
        ("weight_map", np.zeros((6, 8)), "must be a WeightMap"),
        ("caption", "x" * 4097, "4097 bytes"),
        ("caption", "\ud800", "surrogate"),
        ("caption", None, "string"),
        ("caption_codec", "zstd", "caption_codec"),
        ("codes", bytes(4), "rANS"),
        ("codes", bytes(10), "rANS"),
        ("codes", bytearray(8), "got bytearray"),
        ("codes", None, "got NoneType"),
        ("codes", bytes(500 * 375 + 4), "rANS"),
        ("fingerprint", b"abc", "fingerprint"),
        ("coded_side", 100, "multiple of 128"),
        ("coded_side", 2176, "multiple of 128"),
        ("coded_side", 512, "no reduction"),
    ],
)
def test_what_could_not_be_read_back_is_not_made(field, value, message):
    with pytest.raises(BitstreamError, match=message):
        replace(make(), **{field: value})


def test_files_come_from_paths_bytes_and_file_objects(tmp_path):
    data = make().to_bytes()
    (tmp_path / "a.rsic").write_bytes(data)
    with open(tmp_path / "a.rsic", "rb") as opened:
        sources = [tmp_path / "a.rsic", str(tmp_path / "a.rsic"), data, bytearray(data), BytesIO(data), opened]
        assert [Bitstream.read(source).to_bytes() for source in sources] == [data] * 6
    with pytest.raises(BitstreamError, match="binary mode"):
        Bitstream.read(StringIO("RS"))

    class InPieces(BytesIO):
        """An unbuffered pipe gives what is there."""

        def read(self, size):
            return super().read(min(size, 100))

    assert Bitstream.read(InPieces(data)).to_bytes() == data

    class Empty:
        """A non-blocking pipe without data."""

        def read(self, size):
            return None

    with pytest.raises(BitstreamError, match="gives NoneType"):
        Bitstream.read(Empty())


def test_sizes_may_be_integers_of_numpy():
    """Whose products would overflow in their own type."""
    file = make()
    assert replace(file, width=np.uint16(file.width), height=np.int16(file.height)).to_bytes() == file.to_bytes()


def test_files_larger_than_any_are_refused_unread(tmp_path):
    with open(tmp_path / "huge.rsic", "wb") as file:
        file.write(b"RS")
        file.truncate(1 << 40)  # a sparse file: read, it would not fit into memory
    with pytest.raises(BitstreamError, match="1099511627776 bytes"):
        Bitstream.read(tmp_path / "huge.rsic")

    class Endless:
        def read(self, size):
            return bytes(size)

    with pytest.raises(BitstreamError, match="the largest has"):
        Bitstream.read(Endless())
