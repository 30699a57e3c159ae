"""The `.rsic` file: the container, and the coding of the caption and of the map in it."""

from .container import Bitstream, BitstreamError
from .sizes import (
    DEFAULT_MAX_SIDE,
    MAX_CODED_SIDE,
    MAX_PIXELS,
    MAX_RETURNED_PIXELS,
    MAX_SIDE,
    MIN_SIDE,
    SIDE_STEP,
    reduced_size,
)


__all__ = [
    "DEFAULT_MAX_SIDE",
    "MAX_CODED_SIDE",
    "MAX_PIXELS",
    "MAX_RETURNED_PIXELS",
    "MAX_SIDE",
    "MIN_SIDE",
    "SIDE_STEP",
    "Bitstream",
    "BitstreamError",
    "reduced_size",
]
