"""Sizes of pictures that a file can hold, and the sizes at which larger ones are coded."""

MIN_SIDE = 64
MAX_SIDE = 16383  # two bytes as a varint
MAX_PIXELS = 1 << 22  # of the coded picture: bounds what a hostile file can make a decoder do
MAX_RETURNED_PIXELS = 1 << 26  # of a picture that was coded at a reduced size
SIDE_STEP = 128  # reduced sizes have a long side of 128, 256, ... 2048 pixels
MAX_CODED_SIDE = 16 * SIDE_STEP
DEFAULT_MAX_SIDE = 768  # what encoders reduce a photo to, unless told otherwise


def reduced_size(height: int, width: int, long_side: int | None) -> tuple[int, int]:
    """Height and width with a long side of `long_side` (None: as they are), the other in proportion and at least 64.

    In whole numbers, so that encoder and decoder agree everywhere.
    """
    if long_side is None:
        return height, width
    longer = max(height, width)

    def reduced(side: int) -> int:
        return max(MIN_SIDE, (2 * side * long_side + longer) // (2 * longer))

    return reduced(height), reduced(width)
