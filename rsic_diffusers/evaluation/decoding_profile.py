"""Where a decoder's time goes, and its memory."""

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

import torch

from ..pipelines.sampling import Codec
from ..schedulers import guidance
from .memory import watch_memory


@dataclass
class DecodingProfile:
    """
    Args:
        parts (`dict[str, float]`): Seconds by part, "rest" included; the sum is that of the whole decoding.
        evaluations (`int`): UNet calls.
        peak_memory (`float`): MiB, see `watch_memory`.
    """

    parts: dict[str, float]
    evaluations: int
    peak_memory: float

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def outside_unet(self) -> float:
        """Share of the time that is not the UNet's."""
        return 1 - self.parts["UNet"] / self.seconds

    @property
    def guidance_of_steps(self) -> float:
        """Share of the guidance, where it was watched, in the loops: UNet, guidance and the scheduler's arithmetic."""
        loop = sum(self.parts[name] for name in ("UNet", "guidance", "scheduler"))
        return self.parts["guidance"] / loop if loop else 0.0


class Stopwatch:
    """Seconds by name, those of calls inside a call counted once, for the innermost."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = Counter()
        self.inner = 0.0

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, name, function):
        def wrapper(*args, **kwargs):
            start, outer, self.inner = self.now(), self.inner, 0.0
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = self.now() - start
                self.seconds[name] += elapsed - self.inner
                self.inner = outer + elapsed

        return wrapper


def profile_decoding(decoder, bitstreams: list[bytes], watch_guidance: bool = True, **settings) -> DecodingProfile:
    """Decode once, `settings` being those of the decoder's call, and measure by part.

    On CUDA each part waits for the GPU, so the sum is a little more than decoding takes unwatched.

    Args:
        watch_guidance (`bool`): False where `scheduler.step` is compiled: no clock can be read inside its graph, and
            the guidance is counted as "scheduler".
    """
    device = decoder._execution_device
    watch = Stopwatch(device)
    watched = [
        ("text encoder", decoder, "encode_prompt"),
        ("HSVLC decompress", decoder.hsvlc, "decompress"),
        ("UNet", decoder.unet, "forward"),
        ("VAE decode", decoder.vae, "decode"),
    ]
    if watch_guidance:
        # The gradient through C, or C alone where the correction has a closed form.
        watched += [("guidance", guidance, "guidance_gradient"), ("guidance", Codec, "__call__")]
    # Of the class, since the decoder samples with a copy of its scheduler.
    steps = ("invert_step", "step", "renoise", "add_noise")
    watched += [("scheduler", type(decoder.scheduler), step) for step in steps]
    with ExitStack() as stack:
        for name, owner, attribute in watched:
            function = getattr(owner, attribute)
            stack.enter_context(patch.object(owner, attribute, watch.timed(name, function)))
        peak = stack.enter_context(watch_memory(device))
        result = watch.timed("rest", decoder)(bitstreams, **settings)
    seconds = {name: watch.seconds[name] for name in [*dict.fromkeys(name for name, *_ in watched), "rest"]}
    return DecodingProfile(seconds, result.num_unet_evaluations, peak[0])
