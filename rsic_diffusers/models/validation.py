"""Checks of a codec: of its config before anything is allocated, and of its integers before they are coded with."""

import hashlib
import sys

import torch

from .fixed_point import ACTIVATION_BITS, WEIGHT_BITS, FixedPointConv2d
from .rans import CDF_PRECISION
from .rate import MEASURED_LEVELS


LARGEST_FLOAT = sys.float_info.max
NUM_TRANSFORM_SCALES = 4
MAX_CHANNELS = 1024
MAX_TABLES = 129  # what the priors' 16-bit outputs, in 1/256, can point at
MAX_LAMBDA_GROWTH = 50  # the paper's is 7; exp(50) is far beyond all use, and finite
MAX_SCALE = 256.0  # of a Gaussian, in symbols, which are at most 127 in size


def check_config(config: dict) -> None:
    """ValueError, in a sentence that names the entry, unless `config` can be that of an HSVLC.

    Args:
        config (`dict`): The arguments of `HSVLC.__init__` by name.
    """
    _check_whole_number(config, "latent_channels", 1, MAX_CHANNELS)
    _check_whole_number(config, "prior_channels", 1, MAX_CHANNELS)
    _check_whole_number(config, "num_scales", 2, MAX_TABLES)
    _check_list(config, "hidden_channels", NUM_TRANSFORM_SCALES, _is_width, f"whole numbers from 1 to {MAX_CHANNELS}")
    _check_list(
        config,
        "code_channels",
        NUM_TRANSFORM_SCALES,
        lambda value: value == 0 or _is_width(value),
        f"whole numbers from 0 to {MAX_CHANNELS}",
    )
    if not any(config["code_channels"]):
        raise ValueError("HSVLC's code_channels are all 0; at least one scale must be coded.")
    _check_list(config, "gates", NUM_TRANSFORM_SCALES, _is_number, "finite numbers")
    for name in ("single_layer", "conditional_prior"):
        if not isinstance(config[name], bool):
            raise ValueError(f"HSVLC's {name} must be True or False, got {config[name]!r}.")
    for name in ("scale_min", "scale_max", "rate_lambda"):
        if not _is_positive(config[name]):
            raise ValueError(f"HSVLC's {name} must be a positive number, got {config[name]!r}.")
    if not config["scale_min"] < config["scale_max"] <= MAX_SCALE:
        raise ValueError(
            f"HSVLC's scale_min and scale_max must go up, to at most {MAX_SCALE:g}; got {config['scale_min']!r} and "
            f"{config['scale_max']!r}."
        )
    if not (_is_positive(config["lambda_growth"]) and config["lambda_growth"] <= MAX_LAMBDA_GROWTH):
        raise ValueError(
            f"HSVLC's lambda_growth must be a number above 0, at most {MAX_LAMBDA_GROWTH}; got "
            f"{_short(config['lambda_growth'])}."
        )
    if config["scaling_factor"] is not None and not _is_positive(config["scaling_factor"]):
        raise ValueError(
            f"HSVLC's scaling_factor must be a positive number or None, got {config['scaling_factor']!r}."
        )
    lengths = {"latent_variance": config["latent_channels"], "level_bpp": MEASURED_LEVELS}
    lengths["level_error"] = MEASURED_LEVELS
    for name, length in lengths.items():
        if config[name] is not None:
            _check_list(config, name, length, _is_positive, "positive numbers")
    digest = config["coding_digest"]
    if digest is not None and not isinstance(digest, str):
        raise ValueError(f"HSVLC's coding_digest must be a string or None, got {digest!r}.")


def _is_number(value) -> bool:
    # JSON may hold whole numbers that no float can.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT


def _is_positive(value) -> bool:
    return _is_number(value) and value > 0


def _is_width(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_CHANNELS


def _check_whole_number(config: dict, name: str, low: int, high: int) -> None:
    value = config[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"HSVLC's {name} must be a whole number from {low} to {high}, got {_short(value)}.")


def _check_list(config: dict, name: str, length: int, is_valid, expected: str) -> None:
    values = config[name]
    if not isinstance(values, (list, tuple)) or len(values) != length or not all(map(is_valid, values)):
        raise ValueError(f"HSVLC's {name} must be a list of {length} {expected}, got {_short(values)}.")


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_coding_state(hsvlc) -> None:
    """ValueError unless all that picks a probability is there, can be coded with, and is what was trained.

    Args:
        hsvlc ([`HSVLC`]): A codec that is ready to code.
    """
    tables = hsvlc.tables
    for name, tensor, dtype in _integer_buffers(hsvlc):
        if tensor.is_meta:
            raise ValueError(f"This HSVLC has no data for {name}: the checkpoint is incomplete.")
        if tensor.dtype != dtype:
            raise ValueError(f"This HSVLC holds {name} as {tensor.dtype}, expected {dtype}.")
    if not bool(((hsvlc.codec_id >= 0) & (hsvlc.codec_id < 256)).all()):
        raise ValueError("This HSVLC's fingerprint (the buffer codec_id) is not two bytes: the checkpoint is damaged.")
    _check_tables(tables.cdf.cpu().long(), tables.cdf_length.cpu().long(), tables.offset.cpu().long())
    digest = hsvlc.config.coding_digest
    if digest is not None and digest != coding_digest(hsvlc):
        raise ValueError(
            "This HSVLC's integer weights or tables are not those that its config names (coding_digest): the "
            "checkpoint is damaged or altered, and files would decode to noise. Fetch it again."
        )


def _integer_buffers(hsvlc) -> list[tuple[str, torch.Tensor, torch.dtype]]:
    """All integers that pick a probability: name, tensor and the dtype that it must have."""
    buffers = []
    for name, layer in hsvlc.prior.named_modules():
        if isinstance(layer, FixedPointConv2d):
            buffers.append((f"prior.{name}.weight_integer", layer.weight_integer, torch.int16))
            buffers.append((f"prior.{name}.bias_integer", layer.bias_integer, torch.int32))
    for name in ("cdf", "cdf_length", "offset"):
        buffers.append((f"tables.{name}", getattr(hsvlc.tables, name), torch.int32))
    return [*buffers, ("codec_id", hsvlc.codec_id, torch.int32)]


def _check_tables(cdf: torch.Tensor, length: torch.Tensor, offset: torch.Tensor) -> None:
    """Tables that compressai's coder can be given: on others it divides by zero, or reads outside of its memory."""
    problem = None
    if not bool(((length >= 3) & (length <= cdf.shape[1])).all()):
        problem = f"a length outside 3 to {cdf.shape[1]}"
    elif bool((offset.abs() > cdf.shape[1]).any()):
        problem = f"an offset beyond +-{cdf.shape[1]}"
    else:
        last = cdf.gather(1, (length - 1)[:, None])[:, 0]
        used = torch.arange(1, cdf.shape[1], device="cpu") < length[:, None]
        if bool((cdf[:, 0] != 0).any()) or bool((last != 1 << CDF_PRECISION).any()):
            problem = f"one that does not go from 0 to {1 << CDF_PRECISION}"
        elif bool((cdf.diff(dim=1)[used] <= 0).any()):
            problem = "one that does not increase"
    if problem:
        raise ValueError(f"This HSVLC's CDF tables are damaged: {problem}. Fetch the checkpoint again.")


def coding_digest(hsvlc) -> str:
    """SHA-256, in hexadecimal digits, of all that picks a probability; the same in every dtype and on every device."""
    settings = (
        [float(gate) for gate in hsvlc.gates],
        list(hsvlc.coded_scales),
        hsvlc.prior.conditional,
        (ACTIVATION_BITS, WEIGHT_BITS, CDF_PRECISION),
    )
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor, _ in _integer_buffers(hsvlc):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().numpy().astype("<i4").tobytes())
    return digest.hexdigest()
