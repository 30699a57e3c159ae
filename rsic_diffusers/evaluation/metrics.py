"""Metrics on pictures."""

import numpy as np


def psnr(image, reference, box=None) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one size, 8 bits a channel.

    Args:
        image, reference (PIL images or (H, W, 3) uint8 arrays).
        box (`tuple`, *optional*): (x0, y0, x1, y1) in pixels; the ratio inside it (f-PSNR). Pixels that the box
            covers only in part are left out.
    """
    image, reference = (np.asarray(one, dtype=np.float64) for one in (image, reference))
    if box is not None:
        x0, y0, x1, y1 = np.ceil(box[0]), np.ceil(box[1]), np.floor(box[2]), np.floor(box[3])
        window = (slice(int(y0), int(y1)), slice(int(x0), int(x1)))
        image, reference = image[window], reference[window]
    error = np.mean((image - reference) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
