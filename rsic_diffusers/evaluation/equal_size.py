"""Files of equal size: the fair ground to compare two modes on."""


def global_at_equal_size(encoder, image, num_bytes, **arguments):
    """Encode in global mode with the constant M whose file is nearest to `num_bytes`.

    Args:
        encoder ([`RSICEncoderPipeline`]).
        image (`PIL.Image.Image`).
        num_bytes (`int`): The size to meet.
        arguments: Passed on, `caption` for one.

    Returns:
        [`RSICEncoderOutput`]
    """
    # Size grows with M (nearly: neighbouring steps may swap by a word), so halve the interval over all 256 steps.
    low, high = 0, 255
    tried = {}

    def size(step):
        if step not in tried:
            tried[step] = encoder(image, weight=step / 255, mode="global", **arguments)
        return len(tried[step].bitstream)

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < num_bytes else (low, middle)
    for step in range(max(0, low - 1), min(255, high + 1) + 1):
        size(step)
    return min(tried.values(), key=lambda out: abs(len(out.bitstream) - num_bytes))
