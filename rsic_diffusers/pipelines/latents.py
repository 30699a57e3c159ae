"""Between pictures and Stable Diffusion latents, for every VAE that diffusers has for them; and between sizes."""

import torch
import torch.nn.functional as F


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


def decode_latents(vae, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The picture of z0, values in about [-1, 1], cropped to `size` (height, width)."""
    image = vae.decode(latents / vae.config.scaling_factor).sample
    return image[..., : size[0], : size[1]]


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bicubic, smoothed where it gets smaller: (B, 3, H, W) with values in [-1, 1] to `size` (height, width)."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image.float().clamp(-1, 1), size=tuple(size), mode="bicubic", antialias=True).clamp(-1, 1)
