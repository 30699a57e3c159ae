"""Loads metrics by name, with their libraries and weights."""

import sys
from contextlib import contextmanager, redirect_stdout
from functools import partial

import numpy as np

from ..downloads import limited_patience
from . import learned_metrics, pixel_metrics
from .catalogue import PICTURE_METRICS, SET_METRICS


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
            "internet once, or see the offline hint of rsic evaluate --help."
        ) from error


def check_and_compute(metric, compute, image, reference, region=None, caption=None) -> float:
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
    arguments = [np.asarray(picture.convert("RGB")) for picture in (image, reference)]
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


def load_by_name(names, metrics, loaders, device) -> dict:
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
        `dict` of name to callable(image, reference, region=None, caption=None) -> `float`; see `check_and_compute`.

    Raises:
        MetricUnavailable: The library or the weights of one of them are not there.
        ValueError: An unknown name.
    """
    computations = load_by_name(names, PICTURE_METRICS, pixel_metrics.LOADERS | learned_metrics.LOADERS, device)
    return {name: partial(check_and_compute, PICTURE_METRICS[name], compute) for name, compute in computations.items()}


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

    return load_by_name(names, SET_METRICS, set_distances.LOADERS, device)


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
