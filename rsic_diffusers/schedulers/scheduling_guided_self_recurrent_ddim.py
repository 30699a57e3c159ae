"""GGD's sampler: guided, self-recurrent DDIM (paper, section III-D, Algorithm 1)."""

from dataclasses import dataclass
from typing import Callable

import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor


# The paper's gamma = 1e3 multiplies the gradient of a mean over its 4 x 64 x 64 latents. Taken as a mean over any
# other size, the same gamma would pull harder on small pictures and weaker on large ones.
PAPER_ELEMENTS = 4 * 64 * 64

# What makes the noise levels that a checkpoint was trained with, and what its output means.
NOISE_SCHEDULE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one",
    "steps_offset", "prediction_type", "timestep_spacing", "rescale_betas_zero_snr",
)  # fmt: skip


@dataclass
class GuidedSelfRecurrentDDIMSchedulerOutput(BaseOutput):
    """
    Args:
        prev_sample (`torch.Tensor` of shape (B, 4, h, w)): z_{t-1}, after DDIM and guidance.
        pred_original_sample (`torch.Tensor` of shape (B, 4, h, w)): The clean latents that z_t and the model output
            predict.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class GuidedSelfRecurrentDDIMScheduler(SchedulerMixin, ConfigMixin):
    """DDIM in both directions, with a pull towards the coded latents and self-recurrence.

    The noise schedule is diffusers' [`DDIMScheduler`], of which every SD-1.x checkpoint's scheduler config makes one
    (`from_config`). With `reference=None` and no `renoise`, `step` is DDIM with eta = 0 (`DDIMScheduler`);
    `invert_step` is `DDIMInverseScheduler`.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, set_alpha_to_one, steps_offset,
            prediction_type, timestep_spacing, rescale_betas_zero_snr: As in [`DDIMScheduler`].
        num_inference_steps (`int`): Default of T.
        num_recurrence_steps (`int`): Default of T_r.
        guidance_strength (`float`): Default of gamma in gamma_t = gamma sqrt(abar_{t-1} / abar_t).
        guidance_scale, referring_scale (`float`): Defaults in omega = guidance_scale (1 - referring_scale M).
        guidance_target (`str`): "noisy" compares C(z_t) with z_hat_t, as the paper does; "clean" compares C of the
            predicted clean latents with z_hat_0 and moves them, with gamma_t = gamma sqrt(abar_{t-1}).
        inversion_guidance_scale (`float`): Default of omega during inversion; 1 is the caption's prediction alone, 0
            that without caption.
        strength (`float`, *optional*): None starts from the inverted latents, as the paper does. A number in [0, 1]
            leaves the inversion out: each position starts from its coded latent with noise of its own level, see
            `start_timesteps`.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: list[float] | None = None,
        set_alpha_to_one: bool = False,
        steps_offset: int = 1,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        num_inference_steps: int = 50,
        num_recurrence_steps: int = 8,
        guidance_strength: float = 1e3,
        guidance_scale: float = 3.0,
        referring_scale: float = 0.7,
        guidance_target: str = "noisy",
        inversion_guidance_scale: float = 1.0,
        strength: float | None = None,
    ):
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f'prediction_type must be "epsilon" or "v_prediction", got {prediction_type!r}.')
        self._ddim = DDIMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            clip_sample=False,
            set_alpha_to_one=set_alpha_to_one,
            steps_offset=steps_offset,
            prediction_type=prediction_type,
            timestep_spacing=timestep_spacing,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        self.alphas_cumprod = self._ddim.alphas_cumprod
        self.init_noise_sigma = 1.0
        self.num_inference_steps = None
        self.timesteps = self._ddim.timesteps

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose t_T > ... > t_1. Inversion goes through the same timesteps from the last to the first."""
        self._ddim.set_timesteps(num_inference_steps, device)
        self.num_inference_steps = num_inference_steps
        self.timesteps = self._ddim.timesteps
        # abar_t at t + stride, hence abar_{t-1} at t. On the device, where a step reads them without a wait; in double
        # precision, which mps has not, for the roots of small differences.
        stride = self.config.num_train_timesteps // num_inference_steps
        levels = torch.cat([self._ddim.final_alpha_cumprod.cpu().expand(stride), self.alphas_cumprod])
        on_mps = self.timesteps.device.type == "mps"
        self._noise_levels = levels.to(self.timesteps.device, torch.float32 if on_mps else torch.float64)

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """DDIM takes its samples as they are."""
        return sample

    def _levels(self, timestep: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """abar_t and abar_{t-1}: of the timestep, and of the next cleaner one."""
        # `take`, since indexing by a tensor without dimensions waits for the device.
        timestep = torch.as_tensor(timestep, device=self._noise_levels.device)
        stride = self.config.num_train_timesteps // self.num_inference_steps
        return self._noise_levels.take(timestep + stride), self._noise_levels.take(timestep)

    def _predict(self, model_output, sample, alpha):
        """(z_0, eps) as the model sees them in `sample` at level abar = `alpha`."""
        if self.config.prediction_type == "v_prediction":
            original = alpha**0.5 * sample - (1 - alpha) ** 0.5 * model_output
            return original, alpha**0.5 * model_output + (1 - alpha) ** 0.5 * sample
        return (sample - (1 - alpha) ** 0.5 * model_output) / alpha**0.5, model_output

    def _ddim_step(self, model_output, sample, alpha_from, alpha_to):
        # z_t = sqrt(abar_t / abar_s) z_s + sqrt(abar_t) (sqrt(1 / abar_t - 1) - sqrt(1 / abar_s - 1)) eps,
        # written through the predicted clean latents.
        original, eps = self._predict(model_output, sample, alpha_from)
        return alpha_to**0.5 * original + (1 - alpha_to) ** 0.5 * eps, original

    def invert_step(
        self, model_output: torch.Tensor, timestep: int | torch.Tensor, sample: torch.Tensor
    ) -> torch.Tensor:
        """One step of DDIM inversion: from the level below `timestep` up to it.

        Args:
            model_output (`torch.Tensor`): The UNet's output for `sample`, conditioned on `timestep`.
            timestep (`int` or `torch.Tensor`): The noisier level, one of `timesteps`.
            sample (`torch.Tensor` of shape (B, 4, h, w)): z_hat_{t-1}.

        Returns:
            `torch.Tensor`: z_hat_t.
        """
        alpha, alpha_previous = self._levels(timestep)
        return self._ddim_step(model_output, sample, alpha_previous, alpha)[0]

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        reference: torch.Tensor | None = None,
        codec: Callable[[torch.Tensor], torch.Tensor] | None = None,
        guidance_strength: float | None = None,
        guidance_target: str | None = None,
        return_dict: bool = True,
    ) -> GuidedSelfRecurrentDDIMSchedulerOutput | tuple:
        """One guided step, line 8 of Algorithm 1: z_{t-1} = DDIM(z_t, eps) - gamma_t grad || C(z_t) - z_hat_t ||^2.

        Args:
            model_output (`torch.Tensor`): The UNet's output for `sample`, after classifier-free guidance.
            timestep (`int` or `torch.Tensor`): One of `timesteps`. Given as it lies there, nothing is copied between
                host and device.
            sample (`torch.Tensor` of shape (B, 4, h, w)): z_t.
            reference (`torch.Tensor`, *optional*): z_hat_t (z_hat_0 for the target "clean"); None for plain DDIM.
            codec (`Callable`): C, a differentiable map of latents to latents. The gradient goes through C alone.
            guidance_strength (`float`, *optional*): gamma.
            guidance_target (`str`, *optional*): "noisy" or "clean".

        Returns:
            [`GuidedSelfRecurrentDDIMSchedulerOutput`], or the tuple (prev_sample, pred_original_sample).
        """
        # Paper            here
        # abar_t           alpha
        # abar_{t-1}       alpha_previous
        # eps              model_output, as noise
        # z_hat_t          reference
        # 1. DDIM, eta = 0
        alpha, alpha_previous = self._levels(timestep)
        prev_sample, original = self._ddim_step(model_output, sample, alpha, alpha_previous)

        # 2. Descend towards the coded latents
        strength = self.config.guidance_strength if guidance_strength is None else guidance_strength
        if reference is not None and strength != 0:
            target = guidance_target or self.config.guidance_target
            if target == "noisy":
                # At zero terminal SNR abar_T = 0; the floor keeps gamma_T finite.
                gamma = strength * (alpha_previous / alpha.clamp_min(1e-4)) ** 0.5
                gradient = guidance_gradient(codec, sample, reference)
            elif target == "clean":
                # The clean latents move by strength x gradient, and z_{t-1} with them. (With
                # gamma_t as above they would move by many times their distance from z_hat_0 at high noise; on
                # rsic-tiny that cost more than 1 dB inside the region.)
                gamma = strength * alpha_previous**0.5
                gradient = guidance_gradient(codec, original, reference)
            else:
                raise ValueError(f'guidance_target must be "noisy" or "clean", got {target!r}.')
            prev_sample = prev_sample - gamma * gradient.to(prev_sample.dtype)

        if not return_dict:
            return (prev_sample, original)
        return GuidedSelfRecurrentDDIMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=original)

    def renoise(self, sample: torch.Tensor, timestep: int | torch.Tensor, generator=None) -> torch.Tensor:
        """Self-recurrence: z_t = sqrt(abar_t / abar_{t-1}) z_{t-1} + sqrt(1 - abar_t / abar_{t-1}) N(0, I)."""
        alpha, alpha_previous = self._levels(timestep)
        ratio = alpha / alpha_previous
        noise = draw_noise(sample, generator)
        return ratio**0.5 * sample + (1 - ratio) ** 0.5 * noise

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timestep: int | torch.Tensor
    ) -> torch.Tensor:
        """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise."""
        return self._ddim.add_noise(original_samples, noise, torch.as_tensor(timestep).reshape(1))

    def start_timesteps(self, weight_map: torch.Tensor, strength: float) -> torch.Tensor:
        """The timestep from which each position is denoised: strength (1 - M) of the way up the noise schedule.

        z_hat_0 is z_0 with an error that the rate leaves, so it may stand for z_0 with noise, and what is left to
        imagine starts from there: the less was coded, the higher. Where M = 1 nothing is.

        Args:
            weight_map (`torch.Tensor`): M at the latents' resolution.
            strength (`float`): In [0, 1].
        """
        return strength * self.config.num_train_timesteps * (1 - weight_map)

    def guidance_scale_map(
        self, weight_map: torch.Tensor, guidance_scale: float | None = None, referring_scale: float | None = None
    ) -> torch.Tensor:
        """omega = guidance_scale (1 - referring_scale M): the more was coded, the less the caption says.

        Args:
            weight_map (`torch.Tensor`): M at the latents' resolution.
        """
        guidance_scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        referring_scale = self.config.referring_scale if referring_scale is None else referring_scale
        return guidance_scale * (1 - referring_scale * weight_map)

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def adopt_noise_schedule(
    scheduler: GuidedSelfRecurrentDDIMScheduler | None, base_config: dict
) -> GuidedSelfRecurrentDDIMScheduler:
    """Our sampling settings over the noise schedule and prediction type of a base checkpoint's scheduler.

    Args:
        scheduler ([`GuidedSelfRecurrentDDIMScheduler`], *optional*): Whose settings are kept; None: the paper's.
        base_config (`dict`): Config of any diffusers scheduler.
    """
    own = dict(scheduler.config) if scheduler is not None else {}
    schedule = {name: base_config[name] for name in NOISE_SCHEDULE if name in base_config}
    # A config marks which values were its class's defaults, and `from_config` would leave those to our own class's,
    # which are others; hence no such marks.
    return GuidedSelfRecurrentDDIMScheduler.from_config({**own, **schedule, "_use_default_values": []})


def draw_noise(sample: torch.Tensor, generator=None) -> torch.Tensor:
    """N(0, I) of the shape, dtype and device of `sample`; `generator` as diffusers' `randn_tensor` takes it."""
    first = generator[0] if isinstance(generator, (list, tuple)) else generator
    if sample.is_cuda and first is not None and first.device.type == "cpu":
        # From pageable memory the copy would wait for all that the GPU has yet to do.
        noise = randn_tensor(sample.shape, generator=generator, dtype=sample.dtype)
        return noise.pin_memory().to(sample.device, non_blocking=True)
    return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)


def guidance_gradient(codec: Callable, sample: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Gradient of || C(z) - z_hat ||^2 with respect to z, the norm a sum over elements divided by the paper's 4x64x64.

    Works under `torch.no_grad()`; the graph holds C alone and is freed on return.
    """

    def distance(z):
        return (codec(z).float() - reference.float()).square().sum()

    if torch.compiler.is_compiling():
        # The one kind that `torch.compile` traces without a break; run eagerly it takes half as long again.
        gradient = torch.func.grad(distance)(sample)
    else:
        with torch.enable_grad():
            sample = sample.detach().requires_grad_()
            gradient = torch.autograd.grad(distance(sample), sample)[0]
    # Divided last, so that half precision does not lose small gradients.
    return gradient.float() / PAPER_ELEMENTS
