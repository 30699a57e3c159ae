"""Metrics by name: on a picture, on a region of it, and on sets of pictures.

    metrics = load_picture_metrics(["psnr", "f_psnr"])
    metrics["f_psnr"](decoded, original, region=box_region(box, original.size))

What is inside a region, and how its border is treated, is said once, here:

- f-PSNR: over the region's pixels, and no others.
- f-SSIM: the mean over the region's pixels of the whole picture's SSIM map. Windows (11 x 11) at the region's border
  see pixels outside it; at the picture's border they see it mirrored.
- f-LPIPS: of the crop to the region's bounding box, grown to 64 pixels a side where it is smaller. Pixels of the crop
  outside the region are the original's in both pictures, so that they add no difference of their own.
"""

import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from .downloads import limited_patience


ALEXNET = "AlexNet's weights from download.pytorch.org"
VGG = "VGG16's weights from download.pytorch.org"
CLIP = "CLIP ViT-B/32 from huggingface.co"
INCEPTION = "FID's Inception network from github.com/toshas/torch-fidelity"


@dataclass(frozen=True)
class Metric:
    """What there is to know of a metric before it is loaded.

    Args:
        label: As it is written in a table.
        higher_is_better.
        digits: That are worth printing after the decimal point.
        needs_region, needs_caption: Arguments that the loaded metric cannot do without.
        download: What is downloaded the first time that it is loaded, and whence.
        min_side: Of the pictures, in pixels. The metric of smaller ones is NaN.
    """

    label: str
    higher_is_better: bool
    digits: int
    needs_region: bool = False
    needs_caption: bool = False
    download: str | None = None
    min_side: int = 1

    @property
    def needs_download(self) -> bool:
        return self.download is not None


PICTURE_METRICS = {
    "psnr": Metric("PSNR", True, 2),
    "ssim": Metric("SSIM", True, 4, min_side=11),
    "ms_ssim": Metric("MS-SSIM", True, 4, min_side=161),
    "lpips": Metric("LPIPS", False, 4, download=ALEXNET, min_side=64),
    "dists": Metric("DISTS", False, 4, download=VGG, min_side=64),
    "clip": Metric("CLIP score", True, 2, needs_caption=True, download=CLIP),
    "f_psnr": Metric("f-PSNR", True, 2, needs_region=True),
    "f_ssim": Metric("f-SSIM", True, 4, needs_region=True, min_side=11),
    "f_lpips": Metric("f-LPIPS", False, 4, needs_region=True, download=ALEXNET, min_side=64),
}
SET_METRICS = {
    "feature_distance": Metric("Frechet distance (EfficientNet-Lite0)", False, 1),
    "fid": Metric("FID", False, 2, download=INCEPTION),
    "kid": Metric("KID", False, 5, download=INCEPTION),
}


class MetricUnavailable(ValueError):
    """A metric's library or weights are not there."""


@contextmanager
def loading(metric):
    """Turn what goes wrong in loading a metric's library or weights into one line."""
    try:
        with limited_patience(), redirect_stdout(sys.stderr):  # some libraries print what they load
            yield
    except ImportError as error:
        raise MetricUnavailable(
            f'{metric.label} is not available ({error}); pip install "rsic-diffusers[evaluation]".'
        ) from error
    except Exception as error:  # of the network and of damaged files: urllib's, httpx's, pickle's, RuntimeError, ...
        if not metric.needs_download:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MetricUnavailable(
            f"{metric.label} is not available: {metric.download} could not be loaded ({reason}); connect to the "
            "internet once."
        ) from error


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
    image, reference = (np.asarray(one, dtype=np.float64) for one in (image, reference))
    if box is not None:
        return f_psnr(image, reference, box_region(box, image.shape[1::-1]))
    error = np.mean((image - reference) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def f_psnr(image, reference, region) -> float:
    """PSNR of a region's pixels: (H, W, 3) uint8 arrays, and a boolean (H, W) one."""
    return psnr(image[region], reference[region])


def load_ssim(device):
    """Wang et al. 2004: Gaussian window of sigma 1.5, population covariance, the mean of R, G and B.

    Not on the GPU. As there, 5 pixels at the picture's border, where windows reach out of it, do not count.
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
        *(to_tensor(one, device) for one in (image, reference)), data_range=1
    ).item()


def to_tensor(image, device) -> torch.Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) in [0, 1]."""
    return torch.tensor(image, device=device).permute(2, 0, 1)[None] / 255


LOADERS = {
    "psnr": lambda device: psnr,
    "f_psnr": lambda device: f_psnr,
    "ssim": load_ssim,
    "f_ssim": load_f_ssim,
    "ms_ssim": load_ms_ssim,
}


def measure(metric, compute, image, reference, region=None, caption=None) -> float:
    """What a loaded metric does: check its arguments at the door, then compute.

    Args:
        image, reference (PIL images): Of one size.
        region (boolean (H, W) array): Of the metrics that need one: a mask, or a `box_region`.
        caption (`str`): Of the metrics that need one.

    Returns:
        `float`, NaN where a side of the pictures is below the metric's `min_side`.

    Raises:
        ValueError: Pictures of two sizes; a region or caption that is missing, empty or of another shape.
    """
    width, height = image.size
    if image.size != reference.size:
        other = " x ".join(map(str, reference.size))
        raise ValueError(f"{metric.label} needs two pictures of one size, not {width} x {height} and {other}.")
    arguments = [np.asarray(one.convert("RGB")) for one in (image, reference)]
    if metric.needs_region:
        region = np.asarray(region)
        if region.dtype != bool or region.shape != (height, width) or not region.any():
            raise ValueError(
                f"{metric.label} needs a region: a boolean array of shape {height, width} that is true somewhere."
            )
        arguments.append(region)
    if metric.needs_caption:
        if not caption:
            raise ValueError(f"{metric.label} needs a caption; give one, or leave the metric out.")
        arguments.append(caption)
    return float(compute(*arguments)) if min(image.size) >= metric.min_side else float("nan")


def load(names, metrics, loaders, device) -> dict:
    unknown = [name for name in names if name not in metrics]
    if unknown:
        raise ValueError(f"There is no metric {', '.join(unknown)} here; choose from {', '.join(metrics)}.")
    loaded = {}
    for name in names:
        with loading(metrics[name]):
            loaded[name] = loaders[name](device)
    return loaded


def load_picture_metrics(names, device="cpu") -> dict:
    """Load metrics on pairs of pictures, with their libraries and weights.

    Args:
        names: Keys of `PICTURE_METRICS`.
        device: For the networks.

    Returns:
        `dict` of name to callable(image, reference, region=None, caption=None) -> `float`; see `measure`.

    Raises:
        MetricUnavailable: The library or the weights of one of them are not there.
        ValueError: An unknown name.
    """
    from . import learned_metrics

    computations = load(names, PICTURE_METRICS, LOADERS | learned_metrics.LOADERS, device)
    return {name: partial(measure, PICTURE_METRICS[name], compute) for name, compute in computations.items()}


def load_set_metrics(names, device="cpu") -> dict:
    """Load distances between two sets of pictures, with their libraries and weights.

    Args:
        names: Keys of `SET_METRICS`.
        device: For the networks.

    Returns:
        `dict` of name to `SetDistance`.

    Raises:
        MetricUnavailable: The library or the weights of one of them are not there.
        ValueError: An unknown name.
    """
    from . import set_distances

    return load(names, SET_METRICS, set_distances.LOADERS, device)


def load_available(load_metrics, names, device="cpu") -> tuple[dict, list[str]]:
    """Those metrics that can be loaded, and one line on each of the others.

    Args:
        load_metrics: `load_picture_metrics` or `load_set_metrics`; the other arguments are its own.
    """
    metrics, reasons = {}, []
    for name in names:
        try:
            metrics |= load_metrics([name], device)
        except MetricUnavailable as error:
            reasons.append(str(error))
    return metrics, reasons
