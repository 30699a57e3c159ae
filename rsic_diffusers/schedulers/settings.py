"""What the sampler's settings may be. The scheduler's config and the decoder's arguments are checked by one rule."""

import math
from numbers import Integral, Real

from .guidance import GUIDANCE_TARGETS


MAX_RECURRENCES = 100
MAX_GUIDANCE_SCALE = 100.0
MAX_GUIDANCE_STRENGTH = 1e9
MAX_NOISE_FACTOR = 1e3


def check_sampler_settings(settings: dict, num_train_timesteps: int) -> None:
    """ValueError for the first setting that is of the wrong type or out of range.

    Args:
        settings (`dict`): Values by the names of `GuidedSelfRecurrentDDIMScheduler`'s arguments; those that are
            missing are not checked.
        num_train_timesteps (`int`): Of the noise schedule.
    """
    for name, (allowed, expected) in _rules(num_train_timesteps).items():
        if name in settings and not allowed(settings[name]):
            raise ValueError(f"{name} must be {expected}, got {settings[name]!r}.")
    if settings.get("strength") is not None and settings.get("guidance_target") == "noisy":
        raise ValueError(
            'guidance_target="noisy" compares with the inverted latents, and a strength leaves inversion out; '
            'use guidance_target="clean" or "posterior", or preset="paper", which inverts.'
        )


def _rules(num_train_timesteps: int) -> dict:
    """For each setting: whether a value is allowed, and what is, in words."""
    return {
        "num_inference_steps": (
            lambda value: _is_integer(value, 0, num_train_timesteps - 1),
            f"a whole number from 0 to {num_train_timesteps - 1}",
        ),
        "num_recurrence_steps": (
            lambda value: _is_integer(value, 1, MAX_RECURRENCES),
            f"a whole number from 1 to {MAX_RECURRENCES}",
        ),
        "guidance_scale": (
            lambda value: _is_number(value, 0, MAX_GUIDANCE_SCALE),
            f"a number from 0 to {MAX_GUIDANCE_SCALE:g}",
        ),
        "referring_scale": (lambda value: _is_number(value, 0, 1), "a number from 0 to 1"),
        "inversion_guidance_scale": (
            lambda value: value is None or _is_number(value, 0, MAX_GUIDANCE_SCALE),
            f"a number from 0 to {MAX_GUIDANCE_SCALE:g}, or None",
        ),
        "guidance_strength": (
            lambda value: value is None or _is_number(value, 0, MAX_GUIDANCE_STRENGTH),
            f"a number from 0 to {MAX_GUIDANCE_STRENGTH:g}, or None",
        ),
        "guidance_target": (
            lambda value: value in GUIDANCE_TARGETS,
            " or ".join(f'"{target}"' for target in GUIDANCE_TARGETS),
        ),
        "strength": (
            lambda value: value is None or _is_number(value, 0, MAX_NOISE_FACTOR),
            f"a number from 0 to {MAX_NOISE_FACTOR:g}, or None",
        ),
        "start_noise_factors": (
            lambda value: (
                isinstance(value, list | tuple)
                and len(value) == 2
                and all(_is_number(factor, 1e-6, MAX_NOISE_FACTOR) for factor in value)
            ),
            f"two numbers from 1e-06 to {MAX_NOISE_FACTOR:g}, for M = 0 and M = 1",
        ),
    }


def _is_integer(value, low: int, high: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high


def _is_number(value, low: float, high: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
