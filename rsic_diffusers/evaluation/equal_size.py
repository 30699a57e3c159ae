"""Files of equal size: the fair ground to compare the two modes on."""

TOLERANCE = 0.01


def encode_at_size(encoder, image, num_bytes: int, **arguments):
    """Encode with the weights that take as many bytes (to a percent or so); in global mode if nothing is asked for."""
    # A budget is met from below; so much above, the result is as often larger as smaller.
    return encoder(image, target_bytes=(1 + TOLERANCE) * num_bytes, **arguments)


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
