"""Between pictures and Stable Diffusion latents, for every VAE that diffusers has for them; and between sizes."""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from accelerate.hooks import remove_hook_from_module
from diffusers.utils import logging


logger = logging.get_logger(__name__)


def encode_image(vae, image: torch.Tensor) -> torch.Tensor:
    """z0: scaling_factor times the mean of the VAE's posterior.

    Args:
        image (`torch.Tensor` of shape (B, 3, H, W)): Values in [-1, 1]; H and W are padded to multiples of 8.

    Returns:
        `torch.Tensor` of shape (B, 4, ceil(H/8), ceil(W/8)).
    """
    height, width = image.shape[-2:]
    image = F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")
    posterior = vae.encode(image)
    # AutoencoderKL gives a distribution, AutoencoderTiny the latents themselves.
    latents = posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latents
    return latents * vae.config.scaling_factor


def encode_to_finite(vae, image: torch.Tensor) -> torch.Tensor:
    """`encode_image` in the VAE's dtype, and once more in float32 if that gives NaN or infinite values.

    Raises:
        ValueError: The latents are not finite in float32 either.
    """
    fault = "The VAE gave NaN or infinite values in float32; its weights are damaged."
    return _run_to_finite(encode_image, vae, image, "the photo is encoded", fault)


def decode_latents(vae, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The picture of z0, values in about [-1, 1], cropped to `size` (height, width)."""
    image = vae.decode(latents / vae.config.scaling_factor).sample
    return image[..., : size[0], : size[1]]


def decode_to_finite(vae, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`decode_latents` in the VAE's dtype, and once more in float32 if that gives NaN or infinite values.

    Args:
        latents (`torch.Tensor` of shape (B, 4, h, w)): z0, finite, of any dtype.

    Raises:
        ValueError: The picture is not finite in float32 either.
    """
    fault = (
        "The VAE gave NaN or infinite values in float32; its weights are damaged, or it is not the VAE that the codec "
        "was trained for."
    )
    decode = partial(decode_latents, size=size)
    return _run_to_finite(decode, vae, latents.to(vae.dtype), "the picture is decoded", fault, again=latents)


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bicubic, smoothed where it gets smaller: (B, 3, H, W) with values in [-1, 1] to `size` (height, width)."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image.float().clamp(-1, 1), size=tuple(size), mode="bicubic", antialias=True).clamp(-1, 1)


def _run_to_finite(run, vae, tensor, what, fault, again=None):
    """run(vae, tensor), and once more in float32 (of `again`, if that is not rounded) if it is not finite."""
    result = run(vae, tensor)
    if bool(torch.isfinite(result).all()):
        return result
    if result.dtype != torch.float32:
        dtype = str(result.dtype).removeprefix("torch.")
        logger.warning(f"The VAE gave NaN or infinite values in {dtype}; {what} again in float32.")
        again = tensor if again is None else again
        with torch.autocast(again.device.type, enabled=False):
            result = run(_in_float32(vae, again.device), again.float())
        if bool(torch.isfinite(result).all()):
            return result
    raise ValueError(fault)


def _in_float32(vae, device):
    # A copy, since another thread may be using the VAE. Model offloading links it to the component that ran before,
    # and this one to the next; they are left out.
    before = getattr(getattr(vae, "_hf_hook", None), "prev_module_hook", None)
    memo = {} if before is None else {id(before): None}
    return remove_hook_from_module(copy.deepcopy(vae, memo), recurse=True).to(device, torch.float32)
