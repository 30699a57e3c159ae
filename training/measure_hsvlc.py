"""Measure a trained codec on photos and store what was measured in its config.

    python training/measure_hsvlc.py --hsvlc runs/hsvlc/hsvlc --photos photos \\
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5

Config and card of the codec get bits per pixel and latent error at M = 0, 1/7, ..., 1, as `train_hsvlc.py` writes them
when it ends. Neither weights nor a latent_variance that is there are touched: lambda(M) is relative to it. A codec
without one gets that of these photos.
"""

import argparse
import json
from pathlib import Path

import torch
from codec_report import measured_again
from pretrained_vae import add_vae_arguments, load_vae
from training_photos import find_photos, load_photo_arrays, vae_input, whole_positions

from rsic_diffusers.bitstream import DEFAULT_MAX_SIDE
from rsic_diffusers.files import write_file
from rsic_diffusers.models.hsvlc import HSVLC
from rsic_diffusers.models.measurement import measure_codec
from rsic_diffusers.pipelines.latents import encode_image


MEASURED = ("latent_variance", "level_bpp", "level_error")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hsvlc", type=Path, required=True, help="Folder made by train_hsvlc.py.")
    add_vae_arguments(parser)
    parser.add_argument("--photos", nargs="+", required=True, help="Folders of photos.")
    parser.add_argument("--limit", type=int, default=100, help="Photos to measure on, evenly taken from the folders.")
    parser.add_argument("--max_side", type=int, default=DEFAULT_MAX_SIDE, help="Larger photos are reduced to it.")
    args = parser.parse_args()
    if args.limit < 1:
        parser.error(f"--limit must be at least 1, got {args.limit}.")
    if not (args.hsvlc / "config.json").exists():
        parser.error(f"{args.hsvlc} holds no codec; give the folder that train_hsvlc.py exported.")
    if not (args.pretrained_model_name_or_path or args.pretrained_vae):
        parser.error("Give the VAE that the codec is for, --pretrained_model_name_or_path or --pretrained_vae.")
    return args


@torch.no_grad()
def photo_latents(vae, photos, max_side):
    """Yield the latents of each photo, (1, 4, h, w)."""
    for array, _ in load_photo_arrays(photos, 64, max_side):
        pixels = torch.from_numpy(whole_positions(array).copy())[None]
        yield encode_image(vae, vae_input(pixels.to(vae.device, vae.dtype)))


def main():
    args = parse_args()
    photos = find_photos(args.photos)
    photos = photos[:: max(1, len(photos) // args.limit)][: args.limit]
    vae = load_vae(args)
    hsvlc = HSVLC.from_pretrained(args.hsvlc, torch_dtype=torch.float32).eval()
    measure_codec(hsvlc, photo_latents(vae, photos, args.max_side))
    path = args.hsvlc / "config.json"
    config = json.loads(path.read_text())
    kept = {"latent_variance"} if config.get("latent_variance") is not None else set()
    config.update({name: hsvlc.config[name] for name in MEASURED if name not in kept})
    write_file(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    card = args.hsvlc / "README.md"
    if card.exists():
        write_file(card, measured_again(card.read_text("utf-8"), config, len(photos)).encode())
    print({name: config[name] for name in MEASURED})


if __name__ == "__main__":
    main()
