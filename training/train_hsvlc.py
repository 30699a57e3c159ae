"""Train HSVLC, the latent codec, for the VAE of any Stable Diffusion 1.x checkpoint.

    accelerate launch training/train_hsvlc.py --train_data_dir photos --output_dir runs/hsvlc \\
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5

Only the VAE of the checkpoint is loaded. The same command runs on a CPU, a GPU or several (`accelerate config`).
Photos are encoded once and kept in `<output_dir>/latents.pt`; after an interruption the same command with
`--resume_from_checkpoint latest` goes on with the same run. The result is `<output_dir>/hsvlc`, a `save_pretrained`
folder with priors in fixed point, CDF tables and a model card: ready to code.

The loss is sum_i R(f_i) + lambda(M) MSE(z0, z0_hat), with lambda(M) = --rate_lambda exp(6 M) at each latent position,
R in bits for each latent position and the squared error for each latent element. Each sample's loss is divided by the
root of its mean lambda, which leaves its optimum where it is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import make_image_grid
from huggingface_hub import create_repo, upload_folder
from latent_cache import load_latents
from loop import add_training_arguments, make_accelerator, train
from training_photos import dataset_photos, list_photos, random_crop
from weight_maps import random_weight_map

from rsic_diffusers.models.hsvlc import CELL, HSVLC, expand_to_latents
from rsic_diffusers.models.rate import LAMBDA_GROWTH
from rsic_diffusers.pipelines.latents import decode_latents


VALIDATION_STEPS = 7  # M = 0, 1/7, ..., 1

MODEL_CARD = """---
library_name: diffusers
tags: [image-compression, diffusers, rsic]
---
# An HSVLC latent codec

Codes the Stable Diffusion latents of `{base}` for [rsic-diffusers](https://arxiv.org/abs/2506.00526), trained by
`training/train_hsvlc.py` for {steps} steps of {batch} crops of {resolution} x {resolution} pixels, rate_lambda
{rate_lambda:g}.

{table}
"""


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
    parser.add_argument("--cache_latents", help="File for the latents (<output_dir>/latents.pt).")
    parser.add_argument("--resolution", type=int, default=384, help="Side of the training crops, in pixels.")
    parser.add_argument(
        "--rate_lambda",
        type=float,
        default=0.12,
        help="What a squared error costs where M = 0. Lower it if M = 1 takes more bits than you want; 0.02 suits "
        "latents that are smoother than rsic-tiny's.",
    )
    parser.add_argument(
        "--scale_dropout",
        type=float,
        default=0.3,
        help="Part of the crops that are coded without their finer scales. Otherwise the finest is learnt first and "
        "does it all, and the coarse ones, which low M depends on, stay empty.",
    )
    parser.add_argument("--pretrained_hsvlc", help="Start from this trained codec instead of from nothing.")
    parser.add_argument("--single_layer", action="store_true", help='One code, no gates: the paper\'s "w/o HSVLC".')
    parser.add_argument("--no_conditional_prior", action="store_true", help="p(f_i | M) alone: an ablation.")
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


def rate_distortion_loss(hsvlc, latents, weight_map, rate_lambda, finest):
    """Returns the loss, and for logging the bits by latent position and the squared error by element."""
    output = hsvlc(latents, weight_map, finest=finest)
    positions = latents.shape[-2] * latents.shape[-1]
    rate = sum(bits.sum(dim=(1, 2, 3)) for bits in output.bits) / positions
    weight = expand_to_latents(rate_lambda * torch.exp(LAMBDA_GROWTH * weight_map), latents.shape[-2:])
    error = (output.sample.float() - latents).square()
    distortion = (weight * error).mean(dim=(1, 2, 3))
    # lambda spans three orders of magnitude; without this, only high rates would be trained. The optimum of each
    # sample is the same.
    balance = weight.mean(dim=(1, 2, 3)).rsqrt()
    return ((rate + distortion) * balance).mean(), rate.mean(), error.mean()


@torch.no_grad()
def validate(hsvlc, latents):
    """Real streams at constant M.

    Returns:
        The rows (M, bpp, latent mean squared error), and by how much the fixed-point priors and the ladder of CDFs
        need more bits than the same priors in floating point with scales of any size, as a fraction.
    """
    rows, fixed, floating = [], 0, 0
    for k in range(VALIDATION_STEPS + 1):
        bpp, mse = [], []
        for tensor, _ in latents:
            tensor = tensor[None].to(hsvlc.device, torch.float32)
            shape = tensor.shape[-2:]
            weight_map = torch.full((1, 1, *(-(-side // CELL) for side in shape)), k / VALIDATION_STEPS)
            coded = hsvlc.compress(tensor, weight_map)
            fixed += sum(coded.bits_per_scale)
            output = hsvlc(tensor, weight_map.to(tensor), return_bits=True)
            floating += float(sum(bits.sum() for bits in output.bits))
            bpp.append(8 * len(coded.data) / (64 * shape[0] * shape[1]))
            decoded = hsvlc.decompress(coded.data, weight_map, shape)
            mse.append((decoded - tensor).square().mean().item())
        rows.append((k / VALIDATION_STEPS, np.mean(bpp), np.mean(mse)))
    return rows, fixed / floating - 1


@torch.no_grad()
def save_pictures(hsvlc, vae, latents, path):
    """One row for each of four photos: the VAE's picture of z0, then of z0_hat at M = 1, 5/7 and 2/7."""
    processor, pictures = VaeImageProcessor(), []
    for tensor, _ in latents[:4]:
        tensor = tensor[None, :, :48, :48].to(hsvlc.device, torch.float32)
        columns = [tensor]
        for weight in (1, 5 / 7, 2 / 7):
            weight_map = torch.full((1, 1, *(-(-side // CELL) for side in tensor.shape[-2:])), weight)
            columns.append(hsvlc(tensor, weight_map.to(tensor)).sample)
        row = processor.postprocess(decode_latents(vae, torch.cat(columns), (384, 384)))
        pictures += [picture.crop((0, 0, 384, 384)) for picture in row]
    path.parent.mkdir(exist_ok=True)
    make_image_grid(pictures, rows=len(pictures) // 4, cols=4).save(path)


def make_codec(args, vae):
    if not args.pretrained_hsvlc:
        return HSVLC(
            latent_channels=vae.config.latent_channels,
            scaling_factor=vae.config.scaling_factor,
            single_layer=args.single_layer,
            conditional_prior=not args.no_conditional_prior,
        )
    hsvlc = HSVLC.from_pretrained(args.pretrained_hsvlc, torch_dtype=torch.float32)
    if hsvlc.config.latent_channels != vae.config.latent_channels:
        raise SystemExit(
            f"{args.pretrained_hsvlc} codes latents of {hsvlc.config.latent_channels} channels, the VAE of "
            f"{args.pretrained_model_name_or_path} makes {vae.config.latent_channels}."
        )
    hsvlc.register_to_config(scaling_factor=vae.config.scaling_factor)
    hsvlc.register_to_config(_name_or_path="")
    if args.single_layer or args.no_conditional_prior:
        # The ablation's codes or priors are of another shape, and start anew; the transforms go on.
        trained = hsvlc.state_dict()
        hsvlc = HSVLC.from_config(
            hsvlc.config, single_layer=args.single_layer, conditional_prior=not args.no_conditional_prior
        )
        own = hsvlc.state_dict()
        hsvlc.load_state_dict(
            {name: trained[name] if trained[name].shape == ours.shape else ours for name, ours in own.items()}
        )
    return hsvlc


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
    hsvlc = make_codec(args, vae)
    validation = []
    with accelerator.main_process_first():
        cache = args.cache_latents or output_dir / "latents.pt"
        latents = load_latents(vae, photos, args.resolution, args.max_side, cache)
        if args.validation_dir:
            cache = output_dir / "validation_latents.pt"
            validation = load_latents(vae, list_photos([args.validation_dir]), 64, args.max_side, cache)
    side = args.resolution // 8

    def loss_of(model, rng, step):
        crops = [random_crop(latents[rng.integers(len(latents))][0], side, rng) for _ in range(args.train_batch_size)]
        maps = [random_weight_map(side // CELL, side // CELL, rng) for _ in crops]
        # In whole 1/256ths, as the codec sees M.
        weight_map = torch.round(torch.stack(maps).to(accelerator.device) * 256) / 256
        finest = np.where(rng.random(len(crops)) < args.scale_dropout, rng.integers(3, size=len(crops)), 3)
        loss, rate, mse = rate_distortion_loss(
            model,
            torch.stack(crops).to(accelerator.device),
            weight_map,
            args.rate_lambda,
            torch.from_numpy(finest).to(accelerator.device),
        )
        return loss, {"bpp": rate / 64, "mse": mse}

    def export(model, step):
        model.eval().update()
        model.save_pretrained(output_dir / "hsvlc")
        table = "Not measured: no photos were given for validation."
        if validation:
            rows, fixed_cost = validate(model, validation)
            save_pictures(model, vae, validation, output_dir / "validation" / f"step-{step}.png")
            lines = [f"| {weight:.3f} | {bpp:.4f} | {mse:.4f} |" for weight, bpp, mse in rows]
            table = "\n".join(["| M | bpp | latent MSE |", "|---|---:|---:|", *lines])
            table = (
                f"Real streams of {len(validation)} photos that were not trained on:\n\n{table}\n\n"
                f"Priors in fixed point cost {100 * fixed_cost:+.2f} % bits against floating point."
            )
            figures = {f"validation/bpp, M = {weight:.2f}": bpp for weight, bpp, _ in rows}
            accelerator.log(figures | {f"validation/mse, M = {weight:.2f}": mse for weight, _, mse in rows}, step=step)
            print(f"\nStep {step}. {table}", flush=True)
        card = MODEL_CARD.format(
            base=args.pretrained_model_name_or_path,
            steps=step,
            batch=args.train_batch_size * accelerator.num_processes * args.gradient_accumulation_steps,
            resolution=args.resolution,
            rate_lambda=args.rate_lambda,
            table=table,
        )
        (output_dir / "hsvlc" / "README.md").write_text(card)

    train(args, accelerator, hsvlc, loss_of, export, weight_decay=1e-5)
    if args.push_to_hub and accelerator.is_main_process:
        upload_folder(repo_id=args.hub_model_id, folder_path=output_dir / "hsvlc", commit_message="End of training")


if __name__ == "__main__":
    main()
