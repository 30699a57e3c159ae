"""Files of equal size: the fair ground to compare the two modes on."""

from math import log


TOLERANCE = 0.01
LARGER = 0.05  # than what is wanted: the budget of the second try


def encode_at_size(encoder, image, num_bytes: int, **arguments):
    """Encode with the weights that take about as many bytes; in global mode if nothing is asked for.

    A budget is met from below, and in small files of global mode one step of M changes the size by up to 11 %. So if
    the first file is more than 1 % too small, a larger one is made too, and the nearer one is taken.
    """
    out = encoder(image, target_bytes=(1 + TOLERANCE) * num_bytes, **arguments)
    if len(out.bitstream) >= (1 - TOLERANCE) * num_bytes:
        return out
    larger = encoder(image, target_bytes=(1 + LARGER) * num_bytes, **arguments)
    return min(out, larger, key=lambda made: abs(log(len(made.bitstream) / num_bytes)))


def pair_at_equal_size(encoder, image, box, weight=1.0, **arguments):
    """Encode in referring mode, with M = 0 outside the box as in the paper, and in global mode with as many bytes.

    Args:
        encoder ([`RSICEncoderPipeline`]).
        image (`PIL.Image.Image`).
        box, weight, arguments (caption, ...): As the encoder takes them.

    Returns:
        `tuple[RSICEncoderOutput, RSICEncoderOutput]`: Referring and global.
    """
    referring = encoder(image, box=box, weight=weight, background=0.0, **arguments)
    return referring, encode_at_size(encoder, image, len(referring.bitstream), **arguments)
