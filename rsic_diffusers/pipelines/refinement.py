"""Latents refined before they are coded, towards the pixels that were asked for: the encoder's `refinement_steps`."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from ..models.hsvlc import CELL, HSVLC, expand_to_latents
from ..torch_state import with_gradients
from .latents import decode_latents


LATENT_PIXELS = 8  # along the side of a latent position
# Root mean square of the first of n steps, times sqrt(n), in units of the latents (whose variance is about 1), where
# M is constant; later steps get smaller.
STEP_SIZE = 0.09


def refine_latents(
    vae,
    hsvlc: HSVLC,
    image: torch.Tensor,
    latents: torch.Tensor,
    weight_map: torch.Tensor,
    weights: np.ndarray,
    steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Improve latents for the pixels that matter, by gradient descent through codec and VAE decoder.

    This extends the paper's RGE (section II-B) from cells of 64 pixels to single pixels: a cell at the border of a
    region is partly something else, and not every error of the latents shows. With C the codec and D the VAE's
    decoder, it minimises

        bits(C(z)) + sum over latent positions of lambda(weight) k |x - D(C(z))|^2

    where the gradient of rounding is passed straight through, and k converts errors of pixels to errors of latents
    (see `_Cost.error_ratio`). It starts from z = E(x). A cell may also hold positions outside every region. The cell's
    bits are not meant for these, so they start from the codec's reconstruction at their own, lower weight. The result
    is the best point met.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]): Its decoder is D.
        hsvlc ([`HSVLC`]): C; its config says what lambda is.
        image (`torch.Tensor` of shape (1, 3, H, W)): x, values in [-1, 1], in the VAE's dtype.
        latents (`torch.Tensor` of shape (1, 4, ceil(H/8), ceil(W/8))): E(x).
        weight_map (`torch.Tensor` of shape (1, 1, ceil(H/64), ceil(W/64))): M, values in [0, 1].
        weights (`np.ndarray` of shape (H, W)): The weight of each pixel, in [0, 1]; M is the largest in each cell. See
            `weigh_pixels`.
        steps (`int`): Each takes a forward and a backward pass through codec and VAE decoder.
        on_step (`Callable`): Called after each step.

    Returns:
        `torch.Tensor`: The refined z, of the shape and dtype of `latents`.
    """
    # Callers may work under inference mode, whose tensors cannot take part in a backward pass, or under autocast.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        weights = torch.from_numpy(np.asarray(weights, np.float32))[None, None].to(image.device)
        # Convolutions with gradients are faster on CPUs in this memory format.
        image, start = (tensor.float().clone(memory_format=torch.channels_last) for tensor in (image, latents))
        vae, hsvlc = with_gradients(vae), with_gradients(hsvlc)
        cost = _Cost(vae, hsvlc, image, start, weight_map.clone().to(image.device), weights)
        refined = _leave_out(hsvlc, start, weights).float().contiguous(memory_format=torch.channels_last)
        best = _descend(cost, refined, steps, on_step)
    return best.to(latents).contiguous()


class _Cost:
    """What refinement minimises, as a function of the latents, in bits."""

    def __init__(self, vae, hsvlc, image, latents, weight_map, weights):
        self.vae, self.hsvlc, self.image = vae, hsvlc, image
        self.conditions = hsvlc.condition(weight_map, *latents.shape[-2:])
        pixel_lambda = hsvlc.lambda_at(weights)  # (1, 1, H, W), for errors of latents
        # The fewer pixels matter, the fewer latents share the gradient; the step of each must not grow by that.
        self.share = (pixel_lambda.mean() / pixel_lambda.max()).sqrt()
        self.pixel_lambda = pixel_lambda * self.error_ratio(latents, pixel_lambda)

    def decode(self, latents):
        return decode_latents(self.vae, latents.to(self.vae.dtype), self.image.shape[-2:]).float()

    def error_ratio(self, latents, pixel_lambda) -> torch.Tensor:
        """k: how much larger the codec's error is in the latents than in the picture that the VAE makes of them.

        The codec's lambda is for errors of latents. With this factor, the errors of pixels weigh as much in all as
        those of the latents did, so that refinement leaves the size of the file about as it is, whatever the VAE.
        """
        coded = self.hsvlc(latents.to(self.hsvlc.dtype), self.conditions).sample.float()
        latent_error = (coded - latents).square().mean(dim=1, keepdim=True)
        picture_error = (self.decode(coded) - self.decode(latents)).square().mean(dim=1, keepdim=True)
        latent_lambda = F.avg_pool2d(pixel_lambda, LATENT_PIXELS, ceil_mode=True, count_include_pad=False)
        ratio = (latent_lambda * latent_error).sum() / (
            (pixel_lambda * picture_error).sum() / LATENT_PIXELS**2
        ).clamp_min(1e-12)
        return ratio if torch.isfinite(ratio) else torch.ones_like(ratio)

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        output = self.hsvlc(latents.to(self.hsvlc.dtype), self.conditions, return_bits=True)
        error = (self.decode(output.sample) - self.image).square().mean(dim=1, keepdim=True)  # (1, 1, H, W)
        bits = sum(scale.sum() for scale in output.bits)
        return bits + (self.pixel_lambda * error).sum() / LATENT_PIXELS**2


def _descend(cost: _Cost, start: torch.Tensor, steps: int, on_step) -> torch.Tensor:
    """The best of `steps` points along the gradient; `start` if none is better, or if the cost is not finite."""
    best, least, refined = start, float("inf"), start
    for step in range(steps):
        with torch.enable_grad():
            variable = refined.detach().requires_grad_()
            value = cost(variable)
            (gradient,) = torch.autograd.grad(value, [variable])
        if value < least:
            best, least = refined, float(value.detach())
        step_size = STEP_SIZE / math.sqrt(steps) * (1 - step / (steps + 1))
        refined = refined - step_size * cost.share * gradient / gradient.square().mean().sqrt().clamp_min(1e-12)
        on_step()
    return refined if cost(refined) < least else best


def _leave_out(hsvlc, latents, weights):
    """The latents; at positions outside every region of their cell, the codec's reconstruction at the least weight in
    that cell."""
    cell_pixels = LATENT_PIXELS * CELL
    least = -F.max_pool2d(-weights, cell_pixels, ceil_mode=True)
    most = F.max_pool2d(weights, cell_pixels, ceil_mode=True)
    if bool((least == most).all()):
        return latents
    without = hsvlc(latents.to(hsvlc.dtype), least).sample.float()
    at_positions = F.max_pool2d(weights, LATENT_PIXELS, ceil_mode=True)
    least, most = (expand_to_latents(cells, at_positions.shape[-2:]) for cells in (least, most))
    return torch.where((least < at_positions) | (least == most), latents, without)
