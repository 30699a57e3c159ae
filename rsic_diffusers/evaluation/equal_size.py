"""Files of equal size: the fair ground to compare the two modes on."""

TOLERANCE = 0.01


def pair_at_equal_size(encoder, image, box, weight=1.0, caption=None):
    """Encode in referring mode, and in global mode with the constant M that takes as many bytes (to a percent or so).

    Args:
        encoder ([`RSICEncoderPipeline`]).
        image (`PIL.Image.Image`).
        box: One or several, as the encoder takes them.

    Returns:
        `tuple[RSICEncoderOutput, RSICEncoderOutput]`: Referring and global.
    """
    referring = encoder(image, caption=caption, box=box, weight=weight)
    # A budget is met from below; so much above, the result is as often larger as smaller.
    even = encoder(image, caption=caption, target_bytes=(1 + TOLERANCE) * len(referring.bitstream))
    return referring, even
