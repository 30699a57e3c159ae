"""Files of equal size: the fair ground to compare the two modes on."""

import numpy as np
import torch

from ..bitstream import Bitstream
from ..pipelines.latents import encode_image, resize
from ..referring.weight_map import CONSTANT_STEPS, WeightMap


TOLERANCE = 0.05
BACKGROUNDS = (0.0, 1 / 7, 2 / 7, 3 / 7)


@torch.no_grad()
def global_at_equal_size(encoder, image, num_bytes, caption=None):
    """Encode in global mode with the constant M whose file is nearest to `num_bytes`.

    Args:
        encoder ([`RSICEncoderPipeline`]).
        image (`PIL.Image.Image`).
        num_bytes (`int`): The size to meet.
        caption (`str`, *optional*).

    Returns:
        [`RSICEncoderOutput`]
    """
    smallest = encoder(image, caption=caption, weight=0.0, mode="global")
    coded_size = Bitstream.from_bytes(smallest.bitstream).coded_size
    tensor = resize(encoder.image_processor.preprocess(image), coded_size)
    latents = encode_image(encoder.vae, tensor.to(encoder._execution_device, encoder.vae.dtype))
    latents = latents.to(encoder.hsvlc.dtype)
    others = len(smallest.bitstream) - sum(smallest.breakdown[name] for name in ("f0", "f1", "f2", "f3"))
    tried = {}

    def size(step):
        if step not in tried:
            values = WeightMap.constant(step / CONSTANT_STEPS, *coded_size).values
            tried[step] = others + len(encoder.hsvlc.compress(latents, torch.from_numpy(values)[None, None]))
        return tried[step]

    # Size grows with M from one gate to the next; where a gate opens it may jump or even fall a little.
    edges = [int(np.ceil(gate * CONSTANT_STEPS)) for gate in encoder.hsvlc.gates] + [CONSTANT_STEPS + 1]
    for low, high in zip(edges, edges[1:]):
        high -= 1
        if size(low) > num_bytes or size(high) < num_bytes:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(middle) < num_bytes else (low, middle)
        size(low), size(high)
    best = min(tried, key=lambda step: abs(tried[step] - num_bytes))
    return encoder(image, caption=caption, weight=best / CONSTANT_STEPS, mode="global")


def pair_at_equal_size(encoder, image, box, weight=1.0, caption=None):
    """Encode in referring mode, and in global mode at equal size (within 5 %).

    Where a gate of the codec opens, the size of global files jumps, and no constant M may come near enough; then the
    background weight of the referring file is raised, level by level, until one does.

    Returns:
        `tuple[RSICEncoderOutput, RSICEncoderOutput]`: Referring and global; the nearest pair if none is within 5 %.
    """
    pairs = []
    for background in BACKGROUNDS:
        referring = encoder(image, caption=caption, box=box, weight=weight, background=background)
        even = global_at_equal_size(encoder, image, len(referring.bitstream), caption)
        pairs.append((abs(len(even.bitstream) / len(referring.bitstream) - 1), referring, even))
        if pairs[-1][0] <= TOLERANCE:
            break
    return min(pairs, key=lambda pair: pair[0])[1:]
