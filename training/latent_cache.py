"""Latents of a folder of photos, encoded once and kept in a file."""

import hashlib
from pathlib import Path

import torch
from training_photos import load_photo_arrays

from rsic_diffusers.pipelines.latents import encode_image


@torch.no_grad()
def load_latents(vae, photos, min_side, max_side, cache):
    """Encode photos, or map into memory what an earlier call left in `cache`.

    Args:
        photos (`list[tuple[Path | BinaryIO, str]]`): What `training_photos.list_photos` gives.
        min_side, max_side (`int`): Photos with a shorter side are enlarged, those with a longer one reduced.

    Returns:
        `list[tuple[torch.Tensor, str]]`: (4, H/8, W/8) float16 latents, times the VAE's scaling factor, and labels.
    """
    cache = Path(cache)
    key = [_digest(vae), min_side, max_side, [[_name(source), label] for source, label in photos]]
    if not cache.exists():
        latents = []
        for array, label in load_photo_arrays(photos, min_side, max_side):
            image = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
            height, width = (side - side % 8 for side in image.shape[-2:])
            latents.append((encode_image(vae, image[..., :height, :width])[0].half().cpu(), label))
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"key": key, "latents": latents}, cache.with_suffix(".part"))
        cache.with_suffix(".part").replace(cache)
    cached = torch.load(cache, mmap=True)
    if cached["key"] != key:
        raise ValueError(f"{cache} holds the latents of another VAE, other photos or another size; delete it.")
    return cached["latents"]


def latent_variance(latents) -> list[float]:
    """Variance of each channel over all photos' latents, as `load_latents` gives them."""
    count, total, squares = 0, 0.0, 0.0
    for tensor, _ in latents:
        tensor = tensor.double()
        count += tensor[0].numel()
        total = total + tensor.sum(dim=(1, 2))
        squares = squares + tensor.square().sum(dim=(1, 2))
    variance = squares / count - (total / count).square()
    return [float(f"{value:.4g}") for value in variance.tolist()]


def _digest(vae) -> str:
    weights = hashlib.sha256()
    for tensor in vae.state_dict().values():
        weights.update(tensor.float().cpu().numpy().tobytes())
    return weights.hexdigest()


def _name(source) -> str:
    return source.name if isinstance(source, Path) else hashlib.sha256(source.getbuffer()).hexdigest()
