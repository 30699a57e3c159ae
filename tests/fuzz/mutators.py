"""Makes hostile `.rsic` files: real ones, changed where it hurts, with the checksum made right again."""

import random
import zlib
from functools import cache

import numpy as np

from rsic_diffusers import Bitstream, WeightMap
from rsic_diffusers.bitstream.sizes import reduced_size


CAPTIONS = ("", "a dog", "two magpies on the grass", "Grüße aus 東京 🗼", "word " * 40)
SIZES = (
    (64, 64, None),
    (203, 165, None),
    (512, 384, None),
    (4000, 3000, 768),
    (16383, 64, 2048),
    (1024, 700, 512),
)


def mend(body: bytes) -> bytes:
    """The bytes with a right checksum after them."""
    return body + (zlib.crc32(body) & 0xFFFFFF).to_bytes(3, "little")


def make_file(rng: random.Random) -> Bitstream:
    """A sound file with codes of no codec."""
    width, height, coded_side = rng.choice(SIZES)
    coded = reduced_size(height, width, coded_side)
    levels = rng.randint(1, 8)
    rows, columns = (-(-side // 64) for side in coded)
    numbers = np.random.default_rng(rng.getrandbits(32))
    if levels == 1:
        weight_map = WeightMap.constant(rng.random(), *coded)
    elif rng.random() < 0.5:
        cells = np.zeros((rows, columns), np.uint8)
        cells[: rng.randint(0, rows), : rng.randint(0, columns)] = rng.randrange(levels)
        weight_map = WeightMap(cells, levels)
    else:
        weight_map = WeightMap(numbers.integers(levels, size=(rows, columns), dtype=np.uint8), levels)
    codes = rng.randbytes(4 * rng.randint(2, 40))
    codec = rng.choice(("auto", "raw", "zlib", "brotli", "dictionary"))
    return Bitstream(width, height, weight_map, rng.choice(CAPTIONS), codes, rng.randbytes(2), coded_side, codec)


@cache
def sound_files() -> list[dict[str, bytes]]:
    """The sections of files to start from, which take longer to make than to read."""
    rng = random.Random(0)
    return [make_file(rng).sections() for _ in range(500)]


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """One change somewhere: bits, values at the edge, a cut, bytes put in, left out or doubled."""
    changed = bytearray(data)
    place = rng.randrange(len(changed)) if changed else 0
    kind = rng.randrange(6)
    if kind == 0 and changed:
        changed[place] ^= 1 << rng.randrange(8)
    elif kind == 1 and changed:
        changed[place] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 2:
        changed = changed[:place]
    elif kind == 3:
        changed[place:place] = rng.randbytes(rng.randint(1, 8))
    elif kind == 4:
        del changed[place : place + rng.randint(1, 8)]
    else:
        changed[place:place] = changed[place : place + rng.randint(1, 20)]
    return bytes(changed)


def write_varint(value: int, extra: int, rng: random.Random) -> bytes:
    """A varint, `extra` bytes longer than it need be."""
    groups = [value & 127]
    while value > 127:
        value >>= 7
        groups.append(value & 127)
    groups += [0] * extra
    return bytes([group | 128 for group in groups[:-1]] + [groups[-1]])


def change_section(sections: dict[str, bytes], rng: random.Random) -> None:
    """Change one part in place, knowing what it is."""
    name = rng.choice(tuple(sections))
    part = sections[name]
    kind = rng.randrange(5)
    if len(part) < 5:
        sections[name] = change_bytes(part, rng)
    elif name == "header" and kind < 3:
        flags = rng.choice((part[2], 0x10 | rng.randrange(16)))
        size = rng.choice((63, 64, 65, 512, 2048, 8192, 16383, 16384, 2**21 - 1, rng.randrange(2**21)))
        other = rng.choice((64, 100, 16383, rng.randrange(2**15)))
        width_and_height = write_varint(size, kind == 1, rng) + write_varint(other, kind == 2, rng)
        sections[name] = part[:2] + bytes([flags]) + part[3:5] + rng.choice((width_and_height, rng.randbytes(4)))
    elif name == "caption" and kind < 3:
        payload = part[1:] if rng.random() < 0.5 else rng.randbytes(rng.randrange(60))
        length = rng.choice((len(payload), len(payload) + 1, 2**19 - 1, rng.randrange(2**19)))
        sections[name] = write_varint(length << 2 | rng.randrange(4), rng.random() < 0.3, rng) + payload
    elif name == "map" and kind < 3:
        sections[name] = rng.choice((rng.choice(sound_files())["map"], part + b"\0", part[:-1]))
    else:
        sections[name] = change_bytes(part, rng)


def hostile_file(rng: random.Random) -> bytes:
    """A file with one to three changes; in nine of ten the checksum is right."""
    sections = dict(rng.choice(sound_files()))
    for _ in range(rng.randint(1, 3)):
        change_section(sections, rng)
    body = b"".join(sections.values())
    if rng.random() < 0.2:
        body = change_bytes(body, rng)
    return mend(body) if rng.random() < 0.9 else body + rng.randbytes(3)


def hostile_stream(data: bytes, rng: random.Random) -> bytes:
    """A code stream with changes; sometimes one of no codec at all."""
    if rng.random() < 0.2:
        return rng.choice((rng.randbytes(4 * rng.randint(0, 60)), b"\xff" * rng.randint(0, 200), bytes(40)))
    for _ in range(rng.randint(1, 3)):
        data = change_bytes(data, rng)
    return data
