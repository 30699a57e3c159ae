"""What the decoder's sampling loop works on: the latents that a file holds, and the steps to be run."""

from dataclasses import dataclass

import torch

from ..models.hsvlc import HSVLC, Conditions
from ..schedulers.scheduling_guided_self_recurrent_ddim import GuidedSelfRecurrentDDIMScheduler, draw_noise


@dataclass
class CodedLatents:
    """
    Args:
        latents (`torch.Tensor` of shape (B, 4, h, w)): z_hat_0, float32.
        weight_map (`torch.Tensor` of shape (B, 1, ceil(h/8), ceil(w/8))): M, values in [0, 1].
        latent_weight_map (`torch.Tensor` of shape (B, 1, h, w)): M at each position of the latents.
    """

    latents: torch.Tensor
    weight_map: torch.Tensor
    latent_weight_map: torch.Tensor


@dataclass
class Codec:
    """C of Algorithm 1 for one M: codes and decodes latents without writing bytes, differentiably."""

    hsvlc: HSVLC
    conditions: Conditions

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) to the same shape, in the codec's dtype: autocast is left out, so that M and small gradients
        survive."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.hsvlc(latents.to(self.hsvlc.dtype), self.conditions).sample


@dataclass
class SamplingPlan:
    """The steps that a batch of files takes.

    Args:
        timesteps (`torch.Tensor` of shape (T,)): Those that are run, noisiest first, on the device.
        num_recurrence_steps (`int`): T_r.
        start (`torch.Tensor` of shape (B, 1, h, w), *optional*): The timestep from which each position is denoised;
            None if z_hat_0 is inverted instead.
        error (`torch.Tensor` of shape (B, 1, h, w), *optional*): D(M), where a start or the guidance needs it.
        num_steps (`int` or `torch.Tensor` of shape (B, 1, 1, 1)): Guided steps of each file, recurrences included.
        skipped (`int`): Timesteps of the scheduler, noisiest first, that lie above the start of every position.
    """

    timesteps: torch.Tensor
    num_recurrence_steps: int
    start: torch.Tensor | None = None
    error: torch.Tensor | None = None
    num_steps: int | torch.Tensor = 0
    skipped: int = 0

    @property
    def inverts(self) -> bool:
        return self.start is None

    @property
    def num_unet_evaluations(self) -> int:
        return len(self.timesteps) * (self.num_recurrence_steps + self.inverts)

    def draw_start_noise(self, latents: torch.Tensor, generator) -> torch.Tensor:
        """The noise that z_hat_0 starts with, (B, 4, h, w)."""
        noise = draw_noise(latents, generator)
        for _ in range(self.skipped * (self.num_recurrence_steps - 1)):
            # What the skipped steps would have drawn: a file's noise does not depend on its company in a batch.
            draw_noise(latents, generator)
        return noise

    def denoised_before(self, step: int) -> torch.Tensor:
        """Where denoising began before the `step`-th of `timesteps`, (B, 1, h, w), boolean."""
        if step == 0:
            return torch.zeros_like(self.start, dtype=torch.bool)
        return self.start >= self.timesteps[step - 1]

    def keep_coded(self, latents: torch.Tensor, coded: torch.Tensor, steps_done: int) -> torch.Tensor:
        """`latents`, with the coded ones where none of the first `steps_done` steps denoised."""
        if steps_done == 0:
            return coded
        return latents if self.inverts else torch.where(self.denoised_before(steps_done), latents, coded)


def plan_sampling(
    scheduler: GuidedSelfRecurrentDDIMScheduler, hsvlc: HSVLC, settings: dict, latent_weight_map: torch.Tensor
) -> SamplingPlan:
    """Choose the scheduler's timesteps, and those of them that files with these M need.

    Args:
        scheduler ([`GuidedSelfRecurrentDDIMScheduler`]): Its timesteps are set.
        hsvlc ([`HSVLC`]): Says D(M).
        settings (`dict`): The sampler's, see `RSICDecoderPipeline.default_settings`.
        latent_weight_map (`torch.Tensor` of shape (B, 1, h, w)): M at each position of the latents.

    Raises:
        ValueError: D(M) is needed and the codec's config does not have it.
    """
    device = latent_weight_map.device
    steps, recurrences = settings["num_inference_steps"], settings["num_recurrence_steps"]
    strength = settings["strength"]
    error = None
    if strength is not None or settings["guidance_target"] == "posterior":
        error = hsvlc.error_at(latent_weight_map)
    if strength is None:
        timesteps = torch.empty(0, device=device)
        if steps:
            scheduler.set_timesteps(steps, device)
            timesteps = scheduler.timesteps
        return SamplingPlan(timesteps, recurrences, error=error, num_steps=steps * recurrences)

    # The list of timesteps is that of M = 0, whatever the files hold: each position starts somewhere along it.
    nothing = torch.zeros(1, 1, 1, 1, device="cpu")
    highest = scheduler.start_timesteps(hsvlc.error_at(nothing), nothing, strength)
    scheduler.set_timesteps(steps, device, start=float(highest))
    start = scheduler.start_timesteps(error, latent_weight_map, strength)
    num_steps = (scheduler.timesteps[:, None] <= start.amax((1, 2, 3))).sum(0)  # (B,)
    skipped = len(scheduler.timesteps) - int(num_steps.max())
    return SamplingPlan(
        scheduler.timesteps[skipped:],
        recurrences,
        start=start,
        error=error,
        num_steps=recurrences * num_steps.view(-1, 1, 1, 1),
        skipped=skipped,
    )
