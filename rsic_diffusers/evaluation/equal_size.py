"""Files of equal size: the fair ground to compare the two modes on."""

from ..bitstream import DEFAULT_MAX_SIDE


TOLERANCE = 0.01


def encode_at_size(encoder, image, num_bytes: int, caption=None, max_side=DEFAULT_MAX_SIDE):
    """Encode in global mode, with the constant M that takes as many bytes (to a percent or so)."""
    # A budget is met from below; so much above, the result is as often larger as smaller.
    return encoder(image, caption=caption, target_bytes=(1 + TOLERANCE) * num_bytes, max_side=max_side)


def pair_at_equal_size(encoder, image, box, weight=1.0, caption=None):
    """Encode in referring mode, and in global mode with as many bytes.

    Args:
        encoder ([`RSICEncoderPipeline`]).
        image (`PIL.Image.Image`).
        box, weight, caption: As the encoder takes them.

    Returns:
        `tuple[RSICEncoderOutput, RSICEncoderOutput]`: Referring and global.
    """
    referring = encoder(image, caption=caption, box=box, weight=weight)
    return referring, encode_at_size(encoder, image, len(referring.bitstream), caption)
