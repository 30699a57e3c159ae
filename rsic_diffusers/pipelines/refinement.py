"""Latents refined to the pixels that were asked for, before they are coded: the encoder's `refinement_steps`."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from ..models.hsvlc import CELL, expand_to_latents
from ..models.rate import LAMBDA_GROWTH
from .latents import decode_latents


# HSVLC is trained to R + lambda(M) x the latents' squared error, lambda(M) = 0.12 exp(6 M), in bits per position of
# the latents. That error is, for rsic-tiny, 7 (M = 0) to 17 (M = 6/7) times the error that it adds to the picture
# (values in [-1, 1]), by docs/RESULTS.md; with 12, refined files keep about their size.
PIXEL_LAMBDA = 0.12 * 12
# Root mean square of the first of n steps, times sqrt(n), in units of the latents (whose variance is about 1), where
# M is constant; later ones get smaller. Of half as much, momentum and Adam none brought the cost further down, by five
# of the dev photos.
STEP_SIZE = 0.09


def refine_latents(
    vae,
    hsvlc,
    image: torch.Tensor,
    latents: torch.Tensor,
    weight_map: torch.Tensor,
    weights: np.ndarray,
    steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Latents that code better for the pixels that matter: the paper's RGE (section III-C), carried on to the pixel.

    M says how faithful each cell of 64 pixels is to be, and HSVLC spends its bits by it on all of the latents there.
    But a cell at the border of what was asked for is half something else, and not every error of the latents is seen.
    So, C being the codec and D the VAE's decoder, `steps` steps of gradient descent go down

        bits(C(z)) + sum over pixels of lambda(weight of the pixel) |x - D(C(z))|^2

    with the rounding's gradient passed straight through. They start from z = E(x), but for positions that nothing was
    asked of in a cell where something was: these start from what the codec makes of them at the weight that they
    have, which it has no bits to spend on. The best point met is returned.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]), hsvlc ([`HSVLC`]).
        image (`torch.Tensor` of shape (1, 3, H, W)): x, values in [-1, 1], in the VAE's dtype.
        latents (`torch.Tensor` of shape (1, 4, ceil(H/8), ceil(W/8))): E(x).
        weight_map (`torch.Tensor` of shape (1, 1, ceil(H/64), ceil(W/64))): M, values in [0, 1].
        weights (`np.ndarray` of shape (H, W)): Of each pixel, in [0, 1]; M is the largest in each cell. See
            `weigh_pixels`.
        steps (`int`): Each takes a forward and a backward pass through codec and VAE decoder.
        on_step (`Callable`): Called after each.

    Returns:
        `torch.Tensor`: z, as `latents`.
    """
    size, shape = tuple(image.shape[-2:]), latents.shape[-2:]
    # The gradient goes through convolutions, which are quicker so on CPUs.
    image = image.float().contiguous(memory_format=torch.channels_last)
    weights = torch.from_numpy(np.asarray(weights, np.float32))[None, None].to(image.device)
    pixel_lambda = PIXEL_LAMBDA * torch.exp(LAMBDA_GROWTH * weights)
    # The fewer pixels matter, the fewer latents share the gradient; the step of each is not to grow by that.
    share = (pixel_lambda.mean() / pixel_lambda.max()).sqrt()
    conditions = hsvlc.condition(weight_map.to(image.device), *shape)

    def cost_of(latents):
        output = hsvlc(latents.to(hsvlc.dtype), conditions, return_bits=True)
        picture = decode_latents(vae, output.sample.to(vae.dtype), size).float()
        error = (picture - image).square().mean(dim=1, keepdim=True)
        return sum(bits.sum() for bits in output.bits) + (pixel_lambda * error).sum() / 64

    with torch.no_grad():
        refined = _leave_out(hsvlc, latents, weights).float().contiguous(memory_format=torch.channels_last)
    best, least = refined, float("inf")
    for step in range(steps):
        with torch.enable_grad():
            variable = refined.detach().requires_grad_()
            cost = cost_of(variable)
            (gradient,) = torch.autograd.grad(cost, [variable])
        if cost < least:
            best, least = refined, float(cost.detach())
        size_of_step = STEP_SIZE / math.sqrt(steps) * (1 - step / (steps + 1))
        refined = refined - size_of_step * share * gradient / gradient.square().mean().sqrt().clamp_min(1e-12)
        on_step()
    with torch.no_grad():
        best = refined if cost_of(refined) < least else best
    return best.to(latents).contiguous()


def _leave_out(hsvlc, latents, weights):
    """Latents; where nothing more was asked for, what the codec makes of them at the least weight in their cell."""
    least, most = -F.max_pool2d(-weights, 8 * CELL, ceil_mode=True), F.max_pool2d(weights, 8 * CELL, ceil_mode=True)
    if bool((least == most).all()):
        return latents
    without = hsvlc(latents, least).sample
    at_positions = F.max_pool2d(weights, 8, ceil_mode=True)
    least, most = (expand_to_latents(cells, at_positions.shape[-2:]) for cells in (least, most))
    return torch.where((least < at_positions) | (least == most), latents, without)
