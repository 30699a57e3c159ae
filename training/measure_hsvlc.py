"""Measure a trained codec on photos and store what was measured in its config.

    python training/measure_hsvlc.py rsic_diffusers/checkpoints/rsic-tiny --photos photos

The folder holds a `vae` and an `hsvlc`. The config of the latter gets bits per pixel and latent error at M = 0, 1/7,
..., 1, as `train_hsvlc.py` writes them when it ends. Neither weights nor a latent_variance that is there are touched:
lambda(M) is relative to it. A codec without one gets that of these photos.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoModel
from training_photos import find_photos, load_photo_arrays

from rsic_diffusers.models.hsvlc import HSVLC
from rsic_diffusers.models.measurement import measure_codec
from rsic_diffusers.pipelines.latents import encode_image


MEASURED = ("latent_variance", "level_bpp", "level_error")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Folder with `vae` and `hsvlc` in it.")
    parser.add_argument("--photos", nargs="+", required=True, help="Folders of photos.")
    parser.add_argument("--limit", type=int, default=100, help="Photos to measure on, evenly taken from the folders.")
    parser.add_argument("--max_side", type=int, default=768, help="Larger photos are reduced to it.")
    args = parser.parse_args()
    if args.limit < 1:
        parser.error(f"--limit must be at least 1, got {args.limit}.")
    return args


@torch.no_grad()
def photo_latents(vae, photos, max_side):
    """Yield the latents of each photo, (1, 4, h, w)."""
    for array, _ in load_photo_arrays(photos, 64, max_side):
        image = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
        height, width = (side - side % 8 for side in image.shape[-2:])
        yield encode_image(vae, image[..., :height, :width])


def main():
    args = parse_args()
    photos = find_photos(args.photos)
    photos = photos[:: max(1, len(photos) // args.limit)][: args.limit]
    vae = AutoModel.from_pretrained(str(args.model), subfolder="vae", torch_dtype=torch.float32).eval()
    hsvlc = HSVLC.from_pretrained(args.model, subfolder="hsvlc", torch_dtype=torch.float32).eval()
    measure_codec(hsvlc, photo_latents(vae, photos, args.max_side))
    path = args.model / "hsvlc" / "config.json"
    config = json.loads(path.read_text())
    kept = {"latent_variance"} if config.get("latent_variance") is not None else set()
    config.update({name: hsvlc.config[name] for name in MEASURED if name not in kept})
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print({name: config[name] for name in MEASURED})


if __name__ == "__main__":
    main()
