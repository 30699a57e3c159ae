"""GGD's sampler: guided, self-recurrent DDIM (paper, section II-C, Algorithm 1)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .guidance import DEFAULT_GUIDANCE_STRENGTH, GUIDANCE_TARGETS, ddim, guided_step, predict, step_strength
from .settings import check_sampler_settings


# What makes the noise levels that a checkpoint was trained with, and what its output means.
NOISE_SCHEDULE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one",
    "steps_offset", "prediction_type", "timestep_spacing", "rescale_betas_zero_snr",
)  # fmt: skip
# Below this abar_T the schedule ends in noise alone, from which epsilon says nothing about the clean latents.
ZERO_SNR = 1e-6


@dataclass
class GuidedSelfRecurrentDDIMSchedulerOutput(BaseOutput):
    """
    Args:
        prev_sample (`torch.Tensor` of shape (B, 4, h, w)): z_{t-1}, after DDIM and guidance.
        pred_original_sample (`torch.Tensor` of shape (B, 4, h, w)): The clean latents that z_t and the model output
            predict, before guidance.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class GuidedSelfRecurrentDDIMScheduler(SchedulerMixin, ConfigMixin):
    """DDIM in both directions, with a pull towards the coded latents and self-recurrence.

    The noise schedule is diffusers' [`DDIMScheduler`], of which every SD-1.x checkpoint's scheduler config makes one
    (`from_config`). With `reference=None` and no `renoise`, `step` is DDIM with eta = 0; `invert_step` is
    `DDIMInverseScheduler`. In both, abar_{t-1} is that of the next timestep in `timesteps`, whatever their distance.

    `set_timesteps` changes the scheduler, so two calls that run at once must each use a `copy.deepcopy` of it, as
    [`RSICDecoderPipeline`] does; a copy costs less than a millisecond.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, set_alpha_to_one, steps_offset,
            prediction_type, timestep_spacing, rescale_betas_zero_snr: As in [`DDIMScheduler`]. `prediction_type` is
            "epsilon" or "v_prediction"; a schedule with zero terminal SNR needs the latter.
        num_inference_steps (`int`): Default of T.
        num_recurrence_steps (`int`): Default of T_r.
        guidance_strength (`float`, *optional*): Default of the total pull, the sum of gamma over all steps that are
            run: each step takes its share. For the target "posterior": what the coded latents' weight is multiplied
            by. None takes the target's own, `DEFAULT_GUIDANCE_STRENGTH`.
        guidance_scale, referring_scale (`float`): Defaults in omega = guidance_scale (1 - referring_scale M). A
            guidance_scale of 1 means no classifier-free guidance, as in diffusers: omega is then 1 for every M.
        guidance_target (`str`): "noisy" compares C(z_t) with z_hat_t, as the paper does, and needs inversion. "clean"
            compares C of the predicted clean latents with z_hat_0 and moves them. "posterior" also moves the predicted
            clean latents by what C of them lacks of z_hat_0, but by a weight in closed form, see `posterior_weight`:
            no backward pass.
        inversion_guidance_scale (`float`, *optional*): Default of omega during inversion. None is the omega of
            denoising (paper, line 3 of Algorithm 1 and Eq. 2); 1 is the caption's prediction alone, 0 that without
            caption.
        strength (`float`, *optional*): None starts from the inverted latents, as the paper does. A number leaves the
            inversion out: each position starts from its coded latent with noise of its own level, see
            `start_timesteps`; 1 is the level that `start_noise_factors` say, 0 no diffusion at all.
        start_noise_factors (`tuple[float, float]`): k at M = 0 and at M = 1, see `start_timesteps`.

    Raises:
        ValueError: A setting is of the wrong type or out of range; or epsilon prediction at zero terminal SNR.
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
        num_recurrence_steps: int = 1,
        guidance_strength: float | None = None,
        guidance_scale: float = 3.0,
        referring_scale: float = 0.7,
        guidance_target: str = "posterior",
        inversion_guidance_scale: float | None = None,
        strength: float | None = 1.0,
        start_noise_factors: tuple[float, float] = (40.0, 1.0),
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
        if prediction_type == "epsilon" and (rescale_betas_zero_snr or self.alphas_cumprod[-1] < ZERO_SNR):
            raise ValueError(
                "A noise schedule with zero terminal SNR needs a v-prediction model, since noise alone divided by "
                'abar_T = 0 gives no clean latents; set prediction_type="v_prediction" if the model is one, or '
                "rescale_betas_zero_snr=False if it is not."
            )
        check_sampler_settings(dict(self.config), num_train_timesteps)
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = self._ddim.timesteps
        self._step = guided_step

    # ------------------------------------------------------------------------------------------------- timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        start: float | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Choose t_T > ... > t_1. Inversion goes through the same timesteps from the last to the first.

        Args:
            num_inference_steps (`int`, *optional*): T. By default the timesteps are those of [`DDIMScheduler`].
            device (`str` or `torch.device`, *optional*): Where the timesteps lie.
            start (`float`, *optional*): The highest timestep from which a position starts. The T timesteps then go
                down from there, ever denser towards 0, where most positions start: t_i = start (i / T)^2.
            timesteps (`list[int]`, *optional*): The timesteps themselves, noisiest first, in place of the others.

        Raises:
            ValueError: `timesteps` do not fall, or leave the noise schedule; or neither they nor a number is given.
        """
        if timesteps is not None:
            chosen = self._check_timesteps(timesteps)
        elif num_inference_steps is None:
            raise ValueError("set_timesteps needs num_inference_steps, or a list of timesteps.")
        elif start is not None:
            # At most one step for each whole timestep that there is.
            highest = int(min(max(start, 0), self.config.num_train_timesteps - 1))
            counts = np.arange(1, min(num_inference_steps, highest) + 1)
            chosen = np.maximum(np.round(highest * (counts / max(len(counts), 1)) ** 2).astype(int), counts)[::-1]
        else:
            self._ddim.set_timesteps(num_inference_steps)
            chosen = self._ddim.timesteps.numpy()
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.tensor(chosen.tolist(), dtype=torch.int64, device=device)
        # abar_t and abar_{t-1} by timestep. On the device, where a step reads them without a wait; in double
        # precision, which mps has not, for the roots of small differences. NaN where t is not one of the timesteps.
        self._listed = frozenset(chosen.tolist())
        levels = self.alphas_cumprod.double()
        previous = torch.full_like(levels, float("nan"))
        below = float(self._ddim.final_alpha_cumprod)
        for t in reversed(chosen.tolist()):
            previous[t], below = below, levels[t]
        dtype = torch.float32 if self.timesteps.device.type == "mps" else torch.float64
        self._alphas = levels.to(self.timesteps.device, dtype)
        self._previous_alphas = previous.to(self.timesteps.device, dtype)

    def _check_timesteps(self, timesteps) -> np.ndarray:
        chosen = np.asarray(timesteps)
        limit = self.config.num_train_timesteps - 1
        if (
            chosen.ndim != 1
            or not np.issubdtype(chosen.dtype, np.integer)
            or (np.diff(chosen) >= 0).any()
            or (len(chosen) and not 0 <= chosen[-1] <= chosen[0] <= limit)
        ):
            raise ValueError(
                f"timesteps must be whole numbers from {limit} to 0, each below the last; got {timesteps}."
            )
        return chosen

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """DDIM takes its samples as they are."""
        return sample

    def _levels(self, timestep: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """abar_t and abar_{t-1}: of the timestep, and of the next cleaner one in the list; tensors of no dimension."""
        if self.num_inference_steps is None:
            raise ValueError("The scheduler has no timesteps yet; call `set_timesteps` first.")
        if not torch.is_tensor(timestep) and int(timestep) not in self._listed:
            raise ValueError(
                f"{timestep} is not one of the scheduler's timesteps; take it from `scheduler.timesteps`."
            )
        # Indexing by a tensor without dimensions would wait for the device.
        index = torch.as_tensor(timestep, device=self._alphas.device).reshape(1)
        return self._alphas.index_select(0, index).squeeze(0), self._previous_alphas.index_select(0, index).squeeze(0)

    # ----------------------------------------------------------------------------------------------------- steps

    def invert_step(
        self, model_output: torch.Tensor, timestep: int | torch.Tensor, sample: torch.Tensor
    ) -> torch.Tensor:
        """One step of DDIM inversion (lines 2 to 4 of Algorithm 1): from the level below `timestep` up to it.

        Args:
            model_output (`torch.Tensor`): The UNet's output for `sample`, conditioned on `timestep`.
            timestep (`int` or `torch.Tensor`): The noisier level, one of `timesteps`.
            sample (`torch.Tensor` of shape (B, 4, h, w)): z_hat_{t-1}.

        Returns:
            `torch.Tensor` of shape (B, 4, h, w): z_hat_t.
        """
        alpha, alpha_previous = self._levels(timestep)
        original, eps = predict(model_output, sample, alpha_previous, self.config.prediction_type)
        return ddim(original, eps, alpha)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        reference: torch.Tensor | None = None,
        codec: Callable[[torch.Tensor], torch.Tensor] | None = None,
        error: torch.Tensor | None = None,
        guidance_strength: float | None = None,
        guidance_target: str | None = None,
        num_steps: int | torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> GuidedSelfRecurrentDDIMSchedulerOutput | tuple:
        """One guided step, line 8 of Algorithm 1: z_{t-1} = DDIM(z_t, eps) - gamma_t grad || C(z_t) - z_hat_t ||^2.

        Args:
            model_output (`torch.Tensor`): The UNet's output for `sample`, after classifier-free guidance.
            timestep (`int` or `torch.Tensor`): One of `timesteps`. Given as it lies there, nothing is copied between
                host and device.
            sample (`torch.Tensor` of shape (B, 4, h, w)): z_t.
            reference (`torch.Tensor`, *optional*): z_hat_t for the target "noisy", z_hat_0 for the others; None for
                plain DDIM.
            codec (`Callable`, *optional*): C, a differentiable map of latents to latents. The gradient goes through C
                alone; the target "posterior" takes none.
            error (`torch.Tensor` of shape (B, 1, h, w), *optional*): D(M), for the target "posterior".
            guidance_strength (`float`, *optional*): Total pull of the run.
            guidance_target (`str`, *optional*): "noisy", "clean" or "posterior".
            num_steps (`int` or `torch.Tensor` of shape (B, 1, 1, 1), *optional*): How many guided steps the run has,
                recurrences included. Default: as many as there are timesteps.

        Returns:
            [`GuidedSelfRecurrentDDIMSchedulerOutput`], or the tuple (prev_sample, pred_original_sample).
        """
        alpha, alpha_previous = self._levels(timestep)
        target = guidance_target or self.config.guidance_target
        if target not in GUIDANCE_TARGETS:
            raise ValueError(f"guidance_target must be one of {', '.join(GUIDANCE_TARGETS)}, got {target!r}.")
        strength = self.total_guidance_strength(target, guidance_strength)
        if reference is None or strength == 0:
            target, gamma = None, 0.0
        else:
            _check_guidance_inputs(target, codec, error)
            total_steps = self.num_inference_steps if num_steps is None else num_steps
            gamma = strength if target == "posterior" else step_strength(strength, total_steps)
        prev_sample, original = self._step(
            model_output, sample, alpha, alpha_previous, self.config.prediction_type, target, gamma, reference, codec,
            error,
        )  # fmt: skip
        if not return_dict:
            return (prev_sample, original)
        return GuidedSelfRecurrentDDIMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=original)

    def compile(self, **options) -> None:
        """Compile the arithmetic of `step` with `torch.compile(**options)`. Copies of the scheduler share it."""
        self._step = torch.compile(guided_step, **options)

    def renoise(self, sample: torch.Tensor, timestep: int | torch.Tensor, generator=None) -> torch.Tensor:
        """Self-recurrence: z_t = sqrt(abar_t / abar_{t-1}) z_{t-1} + sqrt(1 - abar_t / abar_{t-1}) N(0, I)."""
        alpha, alpha_previous = self._levels(timestep)
        ratio = alpha / alpha_previous
        noise = draw_noise(sample, generator)
        return ratio**0.5 * sample + (1 - ratio) ** 0.5 * noise

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: int | torch.Tensor
    ) -> torch.Tensor:
        """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise, as diffusers' schedulers have it.

        Args:
            original_samples, noise (`torch.Tensor` of shape (B, 4, h, w)): z_0, and N(0, I).
            timesteps (`int` or `torch.Tensor` of shape () or (B,)): Any of the noise schedule, from 0 to 999.

        Returns:
            `torch.Tensor` of the shape and dtype of `original_samples`.
        """
        device = original_samples.device
        if self.num_inference_steps is None or self._alphas.device != device:
            levels = self.alphas_cumprod.to(device, torch.float32 if device.type == "mps" else torch.float64)
        else:
            levels = self._alphas
        timesteps = torch.as_tensor(timesteps, device=device)
        # Indexing by a tensor without dimensions would wait for the device.
        alpha = levels.index_select(0, timesteps.reshape(-1))
        alpha = alpha.squeeze(0) if timesteps.ndim == 0 else alpha.view(-1, 1, 1, 1)
        return ddim(original_samples, noise, alpha).to(original_samples.dtype)

    # -------------------------------------------------------------------------------------------- what M decides

    def start_timesteps(self, error: torch.Tensor, weight_map: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        """The timestep from which each position is denoised: where (1 - abar) / abar = strength k(M) D(M).

        z_hat_0 differs from z_0 by an error of mean square D(M). Noise of about that power hides the error, and
        denoising from there puts natural detail in its place. At high M k is about 1, so that the coded detail
        survives; at low M it is far larger, since whole structures are missing there that only much noise lets arise.
        k(M) goes geometrically from `start_noise_factors[0]` at M = 0 to `start_noise_factors[1]` at M = 1.

        Args:
            error (`torch.Tensor`): D(M), squared latent units, of the shape of `weight_map`.
            weight_map (`torch.Tensor`): M at the latents' resolution.
            strength (`float`): From 0 up; multiplies k.

        Returns:
            `torch.Tensor` of the shape of `weight_map`, float32: timesteps, not rounded; -1 where the level lies below
            that of the first timestep, so that there is nothing to denoise.
        """
        low, high = self.config.start_noise_factors
        weights = weight_map.detach().cpu().double().numpy()
        noise_to_signal = strength * low ** (1 - weights) * high**weights * error.detach().cpu().double().numpy()
        # Inverted through 1 - abar, which rises with t and stays finite where abar = 0.
        variance = 1 - self.alphas_cumprod.double().numpy()
        found = np.interp(noise_to_signal / (1 + noise_to_signal), variance, np.arange(len(variance)), left=-1)
        return torch.from_numpy(found).to(weight_map.device, torch.float32)

    def guidance_scale_map(
        self, weight_map: torch.Tensor, guidance_scale: float | None = None, referring_scale: float | None = None
    ) -> float | torch.Tensor:
        """omega = guidance_scale (1 - referring_scale M): the more was coded, the less the caption says.

        Args:
            weight_map (`torch.Tensor`): M at the latents' resolution.
            guidance_scale (`float`, *optional*): 1 means no classifier-free guidance: omega is 1 for every M.
            referring_scale (`float`, *optional*).

        Returns:
            A `float` where omega is the same for every M, else a `torch.Tensor` of the shape of `weight_map`.
        """
        guidance_scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        referring_scale = self.config.referring_scale if referring_scale is None else referring_scale
        if guidance_scale == 1 or referring_scale == 0:
            return guidance_scale
        return guidance_scale * (1 - referring_scale * weight_map)

    def total_guidance_strength(self, target: str, guidance_strength: float | None = None) -> float:
        """The total pull: the given one, else the config's, else the target's own."""
        if guidance_strength is None:
            guidance_strength = self.config.guidance_strength
        return DEFAULT_GUIDANCE_STRENGTH[target] if guidance_strength is None else guidance_strength

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def _check_guidance_inputs(target, codec, error) -> None:
    if target == "posterior" and error is None:
        raise ValueError('The guidance target "posterior" needs D(M); give it as error=, from `HSVLC.error_at`.')
    if codec is None:
        raise ValueError(f'The guidance target "{target}" needs C; give it as codec=.')


def adopt_noise_schedule(
    scheduler: GuidedSelfRecurrentDDIMScheduler | None, base_config: dict
) -> GuidedSelfRecurrentDDIMScheduler:
    """Our sampling settings over the noise schedule and prediction type of a base checkpoint's scheduler.

    Args:
        scheduler ([`GuidedSelfRecurrentDDIMScheduler`], *optional*): Whose settings are kept; None: the class's.
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
