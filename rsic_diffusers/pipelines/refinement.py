"""Latents refined to the pixels that were asked for, before they are coded: the encoder's `refinement_steps`."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from ..models.hsvlc import CELL
from ..referring.demands import LAMBDA_GROWTH
from .latents import decode_latents


# HSVLC is trained to R + lambda(M) x the latents' squared error, lambda(M) = 0.12 exp(6 M), in bits per position of
# the latents. A latents' error of rsic-tiny is worth 7 (M = 0) to 17 (M = 6/7) times the error that it adds to the
# picture (values in [-1, 1]); with 12, refined files keep about their size.
PIXEL_LAMBDA = 0.12 * 12
# Root mean square of the first of n steps, times sqrt(n), in units of the latents (whose variance is about 1); later
# ones get smaller. Half and twice as much, momentum and Adam were no better or worse, by five of the dev photos.
STEP_SIZE = 0.09


def refine_latents(
    vae,
    hsvlc,
    image: torch.Tensor,
    latents: torch.Tensor,
    weight_map: torch.Tensor,
    importance: np.ndarray,
    steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Latents that code better for the pixels that matter: the paper's RGE (section III-C), carried on to the pixel.

    M says how faithful each cell of 64 pixels is to be, and HSVLC spends its bits by it on all of the latents there.
    But a cell at the border of what was asked for is half something else, and not every error of the latents is seen.
    So, C being the codec and D the VAE's decoder, `steps` steps of gradient descent go down

        bits(C(z)) + sum over pixels of lambda(M) importance |x - D(C(z))|^2

    with the rounding's gradient passed straight through. They start from z = E(x), but for positions that nothing was
    asked of in a cell where something was: these start from what the codec makes of them at the weight that they
    have, which it has no bits to spend on.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]), hsvlc ([`HSVLC`]).
        image (`torch.Tensor` of shape (1, 3, H, W)): x, values in [-1, 1], in the VAE's dtype.
        latents (`torch.Tensor` of shape (1, 4, ceil(H/8), ceil(W/8))): E(x).
        weight_map (`torch.Tensor` of shape (1, 1, ceil(H/64), ceil(W/64))): M, values in [0, 1].
        importance (`np.ndarray` of shape (H, W)): How much the error of a pixel counts beside those for which its
            cell has its M, in (0, 1]; see `weigh_pixels`.
        steps (`int`): Each takes a forward and a backward pass through codec and VAE decoder.
        on_step (`Callable`): Called after each.

    Returns:
        `torch.Tensor`: z, as `latents`.
    """
    size, shape = tuple(image.shape[-2:]), latents.shape[-2:]
    # The gradient goes through convolutions, which are quicker so on CPUs.
    image = image.float().contiguous(memory_format=torch.channels_last)
    importance = torch.from_numpy(np.asarray(importance, np.float32))[None, None].to(image.device)
    weight_map = weight_map.to(image.device)
    pixel_lambda = PIXEL_LAMBDA * torch.exp(LAMBDA_GROWTH * _expand(weight_map, 8 * CELL, size)) * importance
    conditions = hsvlc.condition(weight_map, *shape)
    with torch.no_grad():
        start = _leave_out(hsvlc, latents, weight_map, importance)
    refined = start.float().contiguous(memory_format=torch.channels_last)
    for step in range(steps):
        with torch.enable_grad():
            variable = refined.detach().requires_grad_()
            output = hsvlc(variable.to(hsvlc.dtype), conditions, return_bits=True)
            picture = decode_latents(vae, output.sample.to(vae.dtype), size).float()
            error = (picture - image).square().mean(dim=1, keepdim=True)
            bits = sum(scale.sum() for scale in output.bits)
            cost = bits + (pixel_lambda * error).sum() / 64
            (gradient,) = torch.autograd.grad(cost, [variable])
        size_of_step = STEP_SIZE / math.sqrt(steps) * (1 - step / (steps + 1))
        refined = refined - size_of_step * gradient / gradient.square().mean().sqrt().clamp_min(1e-12)
        on_step()
    return refined.to(latents).contiguous()


def _leave_out(hsvlc, latents, weight_map, importance):
    """Latents; where nothing more was asked for, what the codec makes of them at the least weight in their cell."""
    least = -F.max_pool2d(-importance, 8 * CELL, ceil_mode=True)
    if bool((least == 1).all()):
        return latents
    floor = (weight_map + torch.log(least) / LAMBDA_GROWTH).clamp(0, 1)
    without = hsvlc(latents, floor).sample
    most = F.max_pool2d(importance, 8, ceil_mode=True)
    is_asked = (most > _expand(least, CELL, most.shape[-2:])) | (most == 1)
    return torch.where(is_asked, latents, without)


def _expand(cells: torch.Tensor, factor: int, size) -> torch.Tensor:
    return cells.repeat_interleave(factor, -1).repeat_interleave(factor, -2)[..., : size[0], : size[1]]
