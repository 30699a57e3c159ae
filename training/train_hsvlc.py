"""Train HSVLC, the latent codec, for the VAE of any Stable Diffusion 1.x checkpoint.

    accelerate launch training/train_hsvlc.py --train_data_dir photos --output_dir runs/hsvlc \\
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5

Only the VAE of the checkpoint is loaded. The same command runs on a CPU, a GPU or several (`accelerate config`).
Photos are encoded once and kept in `<output_dir>/latents.pt`; after an interruption the same command with
`--resume_from_checkpoint latest` goes on with the same run. The result is `<output_dir>/hsvlc`, a `save_pretrained`
folder with priors in fixed point, CDF tables and a model card: ready to code. Its config says what it was trained for
(gates, lambda, the latents' variance) and what was measured: bits per pixel and latent error at eight levels of M.

The loss is sum_i R(f_i) + lambda(M) MSE(z0, z0_hat) / variance(z0) at each latent position, with R in bits per latent
position and lambda(M) = rate_lambda exp(lambda_growth M). The paper's lambda(M) = 0.01 exp(7 M), read with R in bits
per pixel, is rate_lambda 0.64 and lambda_growth 7, the default. Each sample's loss is divided by the root of its mean
lambda, which leaves its optimum where it is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from codec import (
    add_codec_arguments,
    codec_card,
    codec_pictures,
    finish_codec,
    lambda_of,
    make_codec,
    rate_distortion_loss,
)
from diffusers import AutoModel
from huggingface_hub import create_repo, upload_folder
from latent_cache import latent_variance, load_latents
from loop import add_training_arguments, make_accelerator, train
from training_photos import dataset_photos, list_photos, random_crop
from weight_maps import random_weight_map

from rsic_diffusers.models.hsvlc import CELL


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pretrained_model_name_or_path",
        required=True,
        help="A folder or Hub id with a `vae` in it; only that is loaded.",
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--train_data_dir", nargs="+", help="Folders of photos.")
    data.add_argument("--dataset_name", help="A dataset of the Hub, or a folder that the package datasets can load.")
    parser.add_argument("--image_column", default="image", help="Of the dataset.")
    parser.add_argument("--validation_dir", help="Folder of photos that are measured and never trained on.")
    parser.add_argument(
        "--measured_photos", type=int, default=24, help="At each checkpoint the codec is measured on so many photos."
    )
    parser.add_argument("--cache_latents", help="File for the latents (<output_dir>/latents.pt).")
    parser.add_argument("--resolution", type=int, default=384, help="Side of the training crops, in pixels.")
    add_codec_arguments(parser)
    parser.add_argument(
        "--scale_dropout",
        type=float,
        default=0.3,
        help="Part of the crops that are coded without their finer scales. Otherwise the finest is learnt first and "
        "does it all, and the coarse ones, which low M depends on, stay empty.",
    )
    parser.add_argument("--push_to_hub", action="store_true", help="Upload the result when training ends.")
    parser.add_argument("--hub_model_id", help="Where to: user/name.")
    add_training_arguments(
        parser, max_train_steps=6000, train_batch_size=8, learning_rate=1e-3, ema_decay=0.999, checkpointing_steps=1000
    )
    args = parser.parse_args()
    if args.resolution % 128:
        parser.error(f"--resolution must be a multiple of 128 (f_0's grid), got {args.resolution}.")
    if args.single_layer:
        args.scale_dropout = 0.0  # there is no finer scale to leave out
    if args.push_to_hub and not args.hub_model_id:
        parser.error("--push_to_hub needs --hub_model_id user/name.")
    return args


def random_batch(latents, args, rng, device):
    """Crops (B, 4, h, w), their weight maps (B, 1, h/8, w/8), and the finest scale that each is coded with (B,)."""
    side = args.resolution // 8
    crops = [random_crop(latents[rng.integers(len(latents))][0], side, rng) for _ in range(args.train_batch_size)]
    maps = [random_weight_map(side // CELL, side // CELL, rng) for _ in crops]
    finest = np.where(rng.random(len(crops)) < args.scale_dropout, rng.integers(3, size=len(crops)), 3)
    return (
        torch.stack(crops).to(device, memory_format=torch.channels_last),
        # In whole 1/256ths, as the codec sees M.
        torch.round(torch.stack(maps).to(device) * 256) / 256,
        torch.from_numpy(finest).to(device),
    )


def main():
    args = parse_args()
    accelerator = make_accelerator(args, find_unused_parameters=args.single_layer)
    output_dir = Path(args.output_dir)
    if args.push_to_hub and accelerator.is_main_process:
        create_repo(args.hub_model_id, exist_ok=True)
    if args.dataset_name:
        photos = dataset_photos(args.dataset_name, args.image_column, label_column=None)
    else:
        photos = list_photos(args.train_data_dir)
    vae = AutoModel.from_pretrained(args.pretrained_model_name_or_path, subfolder="vae", torch_dtype=torch.float32)
    vae = vae.to(accelerator.device).eval()
    hsvlc = make_codec(args, vae).to(memory_format=torch.channels_last)
    validation = []
    with accelerator.main_process_first():
        cache = args.cache_latents or output_dir / "latents.pt"
        latents = load_latents(vae, photos, args.resolution, args.max_side, cache)
        if args.validation_dir:
            cache = output_dir / "validation_latents.pt"
            validation = load_latents(vae, list_photos([args.validation_dir]), 64, args.max_side, cache)
    variance = latent_variance(latents)
    measured = [tensor for tensor, _ in (validation or latents)]
    measured = measured[:: max(1, len(measured) // args.measured_photos)][: args.measured_photos]

    def loss_of(model, rng, step):
        crops, weight_map, finest = random_batch(latents, args, rng, accelerator.device)
        return rate_distortion_loss(model, crops, weight_map, lambda_of(hsvlc, weight_map, variance), finest)

    def export(model, step):
        finish_codec(model, measured, variance)
        model.save_pretrained(output_dir / "hsvlc")
        card = codec_card(
            model,
            base=args.pretrained_model_name_or_path,
            steps=step,
            batch=args.train_batch_size * accelerator.num_processes * args.gradient_accumulation_steps,
            resolution=args.resolution,
            latents=measured,
            provenance=" that were not trained on" if validation else " of the training set",
        )
        (output_dir / "hsvlc" / "README.md").write_text(card)
        path = output_dir / "validation" / f"step-{step}.png"
        path.parent.mkdir(exist_ok=True)
        codec_pictures(model, vae, measured).save(path)
        for name in ("level_bpp", "level_error"):
            accelerator.log({f"{name}/{k}": value for k, value in enumerate(model.config[name])}, step=step)
        print(f"\nStep {step}.{card.split('Real streams')[1]}", flush=True)

    train(args, accelerator, hsvlc, loss_of, export, weight_decay=1e-5)
    if args.push_to_hub and accelerator.is_main_process:
        upload_folder(repo_id=args.hub_model_id, folder_path=output_dir / "hsvlc", commit_message="End of training")


if __name__ == "__main__":
    main()
