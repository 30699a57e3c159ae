"""The setting of a codec whose file is nearest so many bytes."""

import math
import time
from bisect import bisect_right
from dataclasses import dataclass


# Sizes are nearly monotone in quality. The largest distance between two settings in the wrong order, over all
# qualities of pictures of 192 to 256 pixels a side: 7 (JPEG XL), 4 (AVIF), 1 (WebP), 0 (JPEG, JPEG 2000).
REACH = 8


@dataclass
class Found:
    """
    Args:
        setting: The chosen one.
        data (`bytes`): Its file.
        seconds (`float`): That this file took to encode.
        fits (`bool`): False if even the smallest file is larger than asked; this is it.
    """

    setting: object
    data: bytes
    seconds: float
    fits: bool


def largest_within(settings, encode, num_bytes: int) -> Found:
    """The largest file of at most `num_bytes`, or the smallest of all; the better of settings of one size.

    Args:
        settings (`Sequence`): By growing quality, file sizes nearly so.
        encode (`Callable`): Makes a setting's file, `bytes`.
        num_bytes (`int`).
    """
    files = {}

    def size(i):
        if i not in files:
            files[i] = _timed(encode, settings[i])
        return len(files[i][0])

    border = bisect_right(range(len(settings)), num_bytes, key=size)
    for i in range(max(border - REACH, 0), min(border + REACH, len(settings))):
        size(i)
    fitting = [i for i in files if size(i) <= num_bytes]
    best = max(fitting, key=lambda i: (size(i), i)) if fitting else min(files, key=lambda i: (size(i), -i))
    return Found(settings[best], *files[best], bool(fitting))


def nearest_level(settings, encode, num_bytes: int) -> Found:
    """The file nearest `num_bytes` by their ratio, smaller or larger: for codecs with few levels, far apart.

    Levels are tried upwards until one is larger, so none is loaded in vain. Arguments as `largest_within`.
    """
    files = []
    for setting in settings:
        files.append((setting, *_timed(encode, setting)))
        if len(files[-1][1]) > num_bytes:
            break
    fits = len(files[0][1]) <= num_bytes
    return Found(*min(files, key=lambda file: abs(math.log(len(file[1]) / num_bytes))), fits)


def _timed(encode, setting):
    start = time.perf_counter()
    data = encode(setting)
    return data, time.perf_counter() - start
