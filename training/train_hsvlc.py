"""Train HSVLC, the latent codec, for the VAE of any Stable Diffusion 1.x checkpoint.

    accelerate launch training/train_hsvlc.py --train_data_dir photos --validation_dir others \\
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --variant fp16 \\
        --profile smooth --code_channels 32 24 16 16 --output_dir runs/hsvlc

Only the VAE of the checkpoint is loaded. The same command runs on a CPU, a GPU or several (`accelerate config`).
Photos are encoded once and kept in `<output_dir>/latents`; after an interruption the same command with
`--resume_from_checkpoint latest` goes on with the same run. The result is `<output_dir>/hsvlc`, a `save_pretrained`
folder with priors in fixed point, CDF tables and a model card: ready to code. Its config says what it was trained for
(gates, lambda, the latents' variance) and what was measured: bits per pixel and latent error at eight levels of M.

The loss is sum_i R(f_i) + lambda(M) MSE(z0, z0_hat) / variance(z0) at each latent position, with R in bits per latent
position and lambda(M) = rate_lambda exp(lambda_growth M). The paper's lambda(M) = 0.01 exp(7 M), read with R in bits
per pixel, is rate_lambda 0.64 and lambda_growth 7, the default. Each sample's loss is divided by the root of its mean
lambda, which leaves its optimum where it is.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from codec import add_codec_arguments, finish_codec, make_codec, rate_distortion_loss
from codec_report import codec_card, codec_pictures
from huggingface_hub import create_repo
from latent_cache import load_latents, measure_latent_variance
from loop import log_picture, train
from options import add_training_arguments, make_accelerator
from pretrained_vae import add_vae_arguments, load_vae, public_name
from repo_assembly import assemble_thin_repo, check_base, push_repo
from training_photos import FitPhoto, dataset_photos, find_photos, random_crop
from weight_maps import random_weight_map

from rsic_diffusers.models.hsvlc import CELL


CPU_DEFAULTS = {"max_train_steps": 6000, "train_batch_size": 8, "learning_rate": 1e-3, "ema_decay": 0.999}
CPU_DEFAULTS |= {"checkpointing_steps": 1000}
GPU_DEFAULTS = {"max_train_steps": 100_000, "train_batch_size": 32, "learning_rate": 5e-4, "ema_decay": 0.9999}
GPU_DEFAULTS |= {"checkpointing_steps": 5000}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_vae_arguments(parser)
    add_data_arguments(parser)
    add_codec_arguments(parser)
    parser.add_argument(
        "--scale_dropout",
        type=float,
        default=0.3,
        help="Part of the crops that are coded without their finer scales. Otherwise the finest is learnt first and "
        "does it all, and the coarse ones, which low M depends on, stay empty. Default: 0.3.",
    )
    parser.add_argument(
        "--push_to_hub",
        action="store_true",
        help="When training ends, upload a repo that both pipelines load, as publish.py makes it.",
    )
    parser.add_argument("--hub_model_id", help="Where to: user/name.")
    add_training_arguments(parser, cpu=CPU_DEFAULTS, gpu=GPU_DEFAULTS)
    args = parser.parse_args()
    if not args.pretrained_model_name_or_path and not args.pretrained_vae:
        parser.error("Give --pretrained_model_name_or_path, or --pretrained_vae.")
    if args.resolution < 128 or args.resolution % 128:
        parser.error(f"--resolution must be a multiple of 128 (f_0's grid), got {args.resolution}.")
    if args.measured_photos < 1:
        parser.error(f"--measured_photos must be at least 1, got {args.measured_photos}.")
    if args.single_layer:
        args.scale_dropout = 0.0  # there is no finer scale to leave out
    if args.streaming and not args.dataset_name:
        parser.error("--streaming needs --dataset_name.")
    check_push_arguments(parser, args)
    return args


def add_data_arguments(parser):
    """Which photos, and how they become latents."""
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--train_data_dir", nargs="+", help="Folders of photos; subfolders are searched too.")
    data.add_argument("--dataset_name", help="A dataset of the Hub, or a folder that the package datasets can load.")
    parser.add_argument("--image_column", default="image", help="Of the dataset. Default: image.")
    parser.add_argument("--split", default="train", help="Of the dataset. Default: train.")
    parser.add_argument(
        "--streaming", action="store_true", help="Encode the dataset's photos while they are downloaded."
    )
    parser.add_argument("--max_train_samples", type=int, help="Take only the first so many photos.")
    parser.add_argument("--validation_dir", help="Folder of photos that are measured and never trained on.")
    parser.add_argument(
        "--measured_photos",
        type=int,
        default=24,
        help="At each checkpoint the codec is measured on so many photos, of --validation_dir or, without it, of the "
        "training set. Default: 24.",
    )
    parser.add_argument(
        "--cache_latents", help="Folder for the latents, which several runs may share. Default: <output_dir>/latents."
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=384,
        help="Side of the training crops, in pixels. At 256 f_0 has 2 x 2 positions (at 128 one), all at a border, "
        "and whole photos then cost more bits. Default: 384.",
    )


def check_push_arguments(parser, args):
    if not args.push_to_hub:
        return
    base = args.pretrained_model_name_or_path
    if not args.hub_model_id:
        parser.error("--push_to_hub needs --hub_model_id user/name.")
    if args.pretrained_vae or Path(base).exists():
        parser.error(
            "--push_to_hub publishes the codec for the checkpoint of --pretrained_model_name_or_path, which must be a "
            "Hub id, and for that checkpoint's own VAE; train without it, then use publish.py --full."
        )
    if args.revision:
        parser.error("--push_to_hub publishes the codec for the checkpoint's main revision; leave --revision out.")


def random_batch(latents, args, rng):
    """Crops (B, 4, h, w), their weight maps (B, 1, h/8, w/8), and the finest scale that each is coded with (B,)."""
    side = args.resolution // 8
    crops = [random_crop(latents[rng.integers(len(latents))][0], side, rng) for _ in range(args.train_batch_size)]
    maps = [random_weight_map(side // CELL, side // CELL, rng) for _ in crops]
    finest = np.where(rng.random(len(crops)) < args.scale_dropout, rng.integers(3, size=len(crops)), 3)
    # M in whole 1/256ths, as the codec sees it.
    return torch.stack(crops).float(), torch.round(torch.stack(maps) * 256) / 256, torch.from_numpy(finest)


def load_all_latents(args, accelerator, vae):
    """Latents of the training photos, and of the photos to measure on (the former if there are no others)."""
    if args.dataset_name:
        photos = dataset_photos(
            args.dataset_name, args.image_column, args.split, args.streaming, args.max_train_samples
        )
    else:
        photos = find_photos(args.train_data_dir)[: args.max_train_samples]
    cache = Path(args.cache_latents or Path(args.output_dir) / "latents")
    shared = {"cache": cache, "accelerator": accelerator, "num_workers": args.dataloader_num_workers}
    held_out = []
    if args.validation_dir:  # first, since it is soon done and may be refused
        held_out = load_latents(vae, find_photos([args.validation_dir]), FitPhoto(64, args.max_side), **shared)
    latents = load_latents(vae, photos, FitPhoto(args.resolution, args.max_side), **shared, mirror=True)
    source = held_out or latents
    unmirrored = [i for i in range(len(source)) if not source.is_mirror_image(i)]
    measured = unmirrored[:: max(1, len(unmirrored) // args.measured_photos)][: args.measured_photos]
    return latents, [source[i][0] for i in measured]


def export_codec(args, accelerator, hsvlc, vae, latents, variance, step):
    """Finish the codec, measure it, save it with its card, and show pictures of it."""
    output_dir = Path(args.output_dir)
    finish_codec(hsvlc, latents, variance)
    hsvlc.save_pretrained(output_dir / "hsvlc")
    card = codec_card(
        hsvlc,
        base=public_name(args.pretrained_vae or args.pretrained_model_name_or_path),
        steps=step,
        batch=args.train_batch_size * accelerator.num_processes * args.gradient_accumulation_steps,
        resolution=args.resolution,
        latents=latents,
        provenance=" that were not trained on" if args.validation_dir else " of the training set",
    )
    (output_dir / "hsvlc" / "README.md").write_text(card)
    picture = codec_pictures(hsvlc, vae, latents)
    (output_dir / "pictures").mkdir(exist_ok=True)
    picture.save(output_dir / "pictures" / f"step-{step}.png")
    log_picture(accelerator, "VAE alone, then M = 1, 5/7, 2/7", picture, step)
    for name in ("level_bpp", "level_error"):
        accelerator.log({f"{name}/{k} of 7": value for k, value in enumerate(hsvlc.config[name])}, step=step)
    print(f"\nStep {step}. Real streams{card.split('Real streams')[1]}", flush=True)


def main():
    args = parse_args()
    has_unused_blocks = args.single_layer or 0 in (args.code_channels or ())
    accelerator = make_accelerator(args, find_unused_parameters=has_unused_blocks)
    if args.push_to_hub and accelerator.is_main_process:  # what would fail after training fails before it
        check_base(args.pretrained_model_name_or_path)
        create_repo(args.hub_model_id, exist_ok=True)
    vae = load_vae(args).to(accelerator.device)
    hsvlc = make_codec(args, vae).to(memory_format=torch.channels_last)
    latents, measured = load_all_latents(args, accelerator, vae)
    variance = measure_latent_variance(latents)
    hsvlc.register_to_config(latent_variance=variance)  # lambda(M) is relative to it

    def batch_of(rng):
        return random_batch(latents, args, rng)

    def loss_of(model, batch, rng, step):
        crops, weight_map, finest = batch
        crops = crops.to(memory_format=torch.channels_last)
        return rate_distortion_loss(model, crops, weight_map, hsvlc.lambda_at(weight_map), finest)

    def export(model, step):
        export_codec(args, accelerator, model, vae, measured, variance, step)

    train(args, accelerator, hsvlc, batch_of, loss_of, export, weight_decay=1e-5)
    if args.push_to_hub and accelerator.is_main_process:
        repo = Path(args.output_dir) / "repo"
        shutil.rmtree(repo, ignore_errors=True)
        base = args.pretrained_model_name_or_path
        assemble_thin_repo(
            repo, Path(args.output_dir) / "hsvlc", base, repo_id=args.hub_model_id, variant=args.variant
        )
        print(push_repo(repo, args.hub_model_id, message="End of training"))


if __name__ == "__main__":
    main()
