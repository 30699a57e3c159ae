"""The arithmetic of a guided step (paper, section II-C, line 8 of Algorithm 1): DDIM, and the pull towards the coded
latents, by gradient or in closed form."""

from collections.abc import Callable

import torch


# The paper's gamma = 1e3 multiplies the gradient of a mean over its 4 x 64 x 64 latents. Taken as a mean over any
# other size, the same gamma would pull harder on small pictures and weaker on large ones.
PAPER_ELEMENTS = 4 * 64 * 64
# gamma of one step at most. If C were the identity, a step would then move the latents by half of their distance from
# the coded ones; a larger one may overshoot, and the next ones with it.
MAX_STEP_STRENGTH = PAPER_ELEMENTS / 4

GUIDANCE_TARGETS = ("noisy", "clean", "posterior")
# What `guidance_strength=None` stands for. "noisy": the paper's gamma = 1e3 in each of its 50 x 8 steps.
DEFAULT_GUIDANCE_STRENGTH = {"noisy": 50 * 8 * 1e3, "clean": 24e3, "posterior": 8.0}


def guidance_gradient(codec: Callable, sample: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Gradient of || C(z) - z_hat ||^2 with respect to z, the norm a sum over elements divided by the paper's 4x64x64.

    Works under `torch.no_grad()`, `torch.inference_mode()` and `torch.autocast`; the graph holds C alone and is freed
    on return.

    Args:
        codec (`Callable`): C, a differentiable map of latents to latents.
        sample (`torch.Tensor` of shape (B, 4, h, w)): z.
        reference (`torch.Tensor` of shape (B, 4, h, w)): z_hat.

    Returns:
        `torch.Tensor` of shape (B, 4, h, w), float32 or wider.
    """

    def distance(z):
        return (codec(z).float() - reference.float()).square().sum()

    if torch.compiler.is_compiling():
        # The only kind that `torch.compile` traces without a break; run eagerly it takes half as long again.
        gradient = torch.func.grad(distance)(sample)
    else:
        # Autocast is left out since C has a dtype of its own, in which M and small gradients survive.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(sample.device.type, enabled=False):
            sample = sample.detach().clone().requires_grad_()
            gradient = torch.autograd.grad(distance(sample), sample)[0]
    # Divided last, so that half precision does not lose small gradients.
    return gradient.float() / PAPER_ELEMENTS


def step_strength(total: float, num_steps: int | torch.Tensor) -> float | torch.Tensor:
    """gamma of one step, where the pull of a whole run is `total`: its share, and `MAX_STEP_STRENGTH` at most.

    Args:
        total (`float`): Sum of gamma over the run.
        num_steps (`int` or `torch.Tensor`): Steps of the run; a tensor of shape (B, 1, 1, 1) where files differ.
    """
    if torch.is_tensor(num_steps):
        return (total / num_steps.clamp_min(1)).clamp_max(MAX_STEP_STRENGTH)
    return min(total / max(num_steps, 1), MAX_STEP_STRENGTH)


def posterior_weight(alpha: torch.Tensor, error: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """How far the predicted clean latents move towards z_hat_0, as a share of the whole way.

    Two estimates of z_0 are at hand: the model's, from z_t, whose squared error is taken for 1 - abar_t (what is
    unknown of Gaussian latents of variance 1 with noise of that level), and the codec's, with squared error D(M). If
    both errors are Gaussian and independent, the best estimate is the mean of the two, each weighted by the inverse of
    its squared error. (The default strength is larger than 1: C passes on only a part of the difference.)

    Args:
        alpha (`torch.Tensor`): abar_t.
        error (`torch.Tensor` of shape (B, 1, h, w)): D(M), squared latent units.
        strength (`float`): The codec's weight is multiplied by it: 1 is the posterior mean, 0 no pull.

    Returns:
        `torch.Tensor` of shape (B, 1, h, w), in [0, 1].
    """
    trusted = strength * (1 - alpha)
    return trusted / (trusted + error)


def predict(model_output, sample, alpha, prediction_type) -> tuple[torch.Tensor, torch.Tensor]:
    """(z_0, eps) as the model sees them in `sample` at level abar = `alpha`."""
    if prediction_type == "v_prediction":
        original = alpha**0.5 * sample - (1 - alpha) ** 0.5 * model_output
        return original, alpha**0.5 * model_output + (1 - alpha) ** 0.5 * sample
    return (sample - (1 - alpha) ** 0.5 * model_output) / alpha**0.5, model_output


def ddim(original, eps, alpha) -> torch.Tensor:
    """z at level abar = `alpha`, of clean latents and noise.

    With both from z_s this is z_t = sqrt(abar_t / abar_s) z_s + sqrt(abar_t) (sqrt(1 / abar_t - 1) -
    sqrt(1 / abar_s - 1)) eps, in either direction.
    """
    return alpha**0.5 * original + (1 - alpha) ** 0.5 * eps


def guided_step(
    model_output, sample, alpha, alpha_previous, prediction_type, target, gamma, reference, codec, error
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arithmetic of `GuidedSelfRecurrentDDIMScheduler.step`, without state: (z_{t-1}, predicted z_0).

    Args:
        alpha, alpha_previous (`torch.Tensor`): abar_t and abar_{t-1}.
        target (`str`, *optional*): None for plain DDIM.
        gamma (`float` or `torch.Tensor`): Of this step; for "posterior" the strength.
    """
    # 1. DDIM, eta = 0
    original, eps = predict(model_output, sample, alpha, prediction_type)
    prev_sample = ddim(original, eps, alpha_previous)

    # 2. Towards the coded latents
    if target == "noisy":
        # gamma_t = gamma sqrt(abar_{t-1} / abar_t). At zero terminal SNR abar_T = 0; the floor keeps gamma_T finite.
        gamma_t = gamma * (alpha_previous / alpha.clamp_min(1e-4)) ** 0.5
        prev_sample = prev_sample - gamma_t * guidance_gradient(codec, sample, reference).to(prev_sample.dtype)
    elif target == "clean":
        # The clean latents move by gamma x gradient, and z_{t-1} with them. (With gamma_t as above they would move by
        # many times their distance from z_hat_0 at high noise.)
        gradient = guidance_gradient(codec, original, reference)
        prev_sample = prev_sample - gamma * alpha_previous**0.5 * gradient.to(prev_sample.dtype)
    elif target == "posterior":
        # z_hat_0 is compared with C of the clean latents, since both then lack the detail that was not coded, and none
        # is taken from them. The noise is what z_t holds beside the moved clean latents. (With the model's own eps,
        # each step would add its whole pull to those before, and the pull of a run would grow with the number of
        # steps.)
        difference = reference - codec(original).to(reference.dtype)
        clean = original + posterior_weight(alpha, error, gamma) * difference
        prev_sample = ddim(clean, (sample - alpha**0.5 * clean) / (1 - alpha) ** 0.5, alpha_previous)
    return prev_sample, original
