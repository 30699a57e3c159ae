"""Latents of a folder of photos, encoded once and kept in a file."""

import hashlib
from pathlib import Path

import torch
from photos import list_photos, read_photos
from tqdm import tqdm

from rsic_diffusers.pipelines.latents import encode_image


@torch.no_grad()
def load_latents(vae, folders, min_side, cache, max_photos=None):
    """Encode photos, or read what an earlier call left in `cache`.

    Returns:
        `list[tuple[torch.Tensor, str]]`: (4, H/8, W/8) float32 latents, times the VAE's scaling factor, and labels.
    """
    cache = Path(cache)
    photos = list_photos(folders)
    if max_photos:
        photos = photos[:: -(-len(photos) // max_photos)]
    weights = hashlib.sha256()
    for tensor in vae.state_dict().values():
        weights.update(tensor.float().cpu().numpy().tobytes())
    key = [weights.hexdigest(), min_side, [path.name for path, _ in photos]]
    if not cache.exists():
        latents = []
        for array, label in tqdm(read_photos(photos, min_side=min_side), desc="Encoding photos", mininterval=10):
            image = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
            height, width = (side - side % 8 for side in image.shape[-2:])
            latents.append((encode_image(vae, image[..., :height, :width])[0].half().cpu(), label))
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"key": key, "latents": latents}, cache.with_suffix(".part"))
        cache.with_suffix(".part").replace(cache)
    cached = torch.load(cache)
    if cached["key"] != key:
        raise ValueError(f"{cache} holds the latents of another VAE, other photos or another size; delete it.")
    return [(tensor.float(), label) for tensor, label in cached["latents"]]
