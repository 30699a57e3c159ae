"""Metrics computed from the pixels themselves: PSNR, SSIM and MS-SSIM, of a picture and of a region of it."""

from functools import partial

import numpy as np
import torch


def box_region(box, size) -> np.ndarray:
    """The pixels wholly inside a box, as a boolean (height, width) array.

    Args:
        box (`tuple`): (x0, y0, x1, y1) in pixels; what reaches out of the picture is cut off.
        size (`tuple`): (width, height) of the picture.

    Raises:
        ValueError: There are none.
    """
    # A fraction of a side may miss a whole pixel by a rounding error.
    box = np.round(box, 6)
    x0, y0 = (max(int(np.ceil(corner)), 0) for corner in box[:2])
    x1, y1 = (max(int(np.floor(corner)), 0) for corner in box[2:])
    region = np.zeros((size[1], size[0]), dtype=bool)
    region[y0:y1, x0:x1] = True
    if not region.any():
        raise ValueError(f"The box {box.tolist()} holds no whole pixel of {size[0]} x {size[1]}; give a larger one.")
    return region


def psnr(image, reference, box=None) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one size, 8 bits a channel; infinite if they are the same.

    Args:
        image, reference (PIL images or (H, W, 3) uint8 arrays).
        box (`tuple`, *optional*): (x0, y0, x1, y1) in pixels; the ratio inside it (f-PSNR). Pixels that the box
            covers only in part are left out.
    """
    image, reference = (np.asarray(picture, dtype=np.float64) for picture in (image, reference))
    if box is not None:
        return f_psnr(image, reference, box_region(box, image.shape[1::-1]))
    error = np.mean((image - reference) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def f_psnr(image, reference, region) -> float:
    """PSNR of a region's pixels: (H, W, 3) uint8 arrays, and a boolean (H, W) one."""
    return psnr(image[region], reference[region])


def b_psnr(image, reference, region) -> float:
    """PSNR of the pixels outside a region, as `f_psnr`; NaN where there are none."""
    return float("nan") if region.all() else f_psnr(image, reference, ~region)


def load_ssim(device):
    """Wang et al. 2004: Gaussian window of sigma 1.5, population covariance, the mean of R, G and B.

    Computed on the CPU. As there, windows that reach out of the picture, those of the outer 5 pixels, do not count.
    """
    from skimage.metrics import structural_similarity

    return partial(
        structural_similarity,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
    )


def load_f_ssim(device):
    ssim = load_ssim(device)
    return lambda image, reference, region: ssim(image, reference, full=True)[1][region].mean()


def load_ms_ssim(device):
    """Wang et al. 2003: five scales, the mean of R, G and B."""
    from pytorch_msssim import ms_ssim

    return lambda image, reference: ms_ssim(
        *(to_tensor(picture, device) for picture in (image, reference)), data_range=1
    ).item()


def to_tensor(image, device) -> torch.Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) in [0, 1]."""
    return torch.tensor(image, device=device).permute(2, 0, 1)[None] / 255


LOADERS = {
    "psnr": lambda device: psnr,
    "f_psnr": lambda device: f_psnr,
    "b_psnr": lambda device: b_psnr,
    "ssim": load_ssim,
    "f_ssim": load_f_ssim,
    "ms_ssim": load_ms_ssim,
}
