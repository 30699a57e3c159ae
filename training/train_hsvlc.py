"""Train HSVLC, the latent codec, for a VAE.

    accelerate launch training/train_hsvlc.py --pretrained_model_name_or_path runs/rsic-tiny \\
        --train_data_dir photos --output_dir runs/hsvlc

Only the VAE of the checkpoint is loaded. Photos are encoded once and kept in `<output_dir>/latents.pt`;
`--resume_from_checkpoint latest` goes on after an interruption. The end of a run is a `save_pretrained` folder,
`<output_dir>/hsvlc`, with priors in fixed point and CDF tables: ready to code.

The loss is sum_i R(f_i) + lambda(M) MSE(z0, z0_hat), with lambda(M) = --rate_lambda exp(7 M) at each latent position,
R in bits for each latent position and the squared error for each latent element. Each sample's loss is divided by the
root of its mean lambda, which leaves its optimum where it is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from checkpoints import add_checkpoint_arguments, averaged_weights, resume
from diffusers import AutoModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from latents import load_latents
from photos import random_crop
from tqdm import tqdm
from weight_maps import random_weight_map

from rsic_diffusers.models.hsvlc import CELL, HSVLC


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained_model_name_or_path", required=True, help="A checkpoint with a `vae` folder.")
    parser.add_argument("--train_data_dir", nargs="+", required=True, help="Folders of photos.")
    parser.add_argument("--validation_dir", help="Folder of photos that are measured and never trained on.")
    parser.add_argument("--resolution", type=int, default=384, help="Side of the training crops, in pixels.")
    parser.add_argument("--train_batch_size", type=int, default=8)
    parser.add_argument("--max_train_steps", type=int, default=6000)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument(
        "--rate_lambda",
        type=float,
        default=0.01,
        help="What a squared error costs where M = 0. Raise it if M = 1 needs fewer bits per pixel than you want "
        "(rsic-tiny: 0.07 at the end).",
    )
    parser.add_argument("--pretrained_hsvlc", help="Start from this trained codec instead of from nothing.")
    parser.add_argument("--single_layer", action="store_true", help='One code, no gates: the paper\'s "w/o HSVLC".')
    add_checkpoint_arguments(parser, checkpointing_steps=1000)
    args = parser.parse_args()
    if args.resolution % 128:
        parser.error(f"--resolution must be a multiple of 128 (f_0's grid), got {args.resolution}.")
    return args


def rate_distortion_loss(hsvlc, latents, weight_map, rate_lambda):
    """Returns the loss, and for logging the bits by latent position and the squared error by element."""
    output = hsvlc(latents, weight_map)
    positions = latents.shape[-2] * latents.shape[-1]
    rate = sum(bits.sum(dim=(1, 2, 3)) for bits in output.bits) / positions
    weight = (rate_lambda * torch.exp(7 * weight_map)).repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)
    error = (output.sample.float() - latents).square()
    distortion = (weight * error).mean(dim=(1, 2, 3))
    # lambda spans three orders of magnitude; without this, only high rates would be trained. The optimum of each
    # sample is the same.
    balance = weight.mean(dim=(1, 2, 3)).rsqrt()
    return ((rate + distortion) * balance).mean(), rate.mean(), error.mean()


@torch.no_grad()
def log_validation(hsvlc, latents, step):
    """Real streams at constant M."""
    hsvlc.eval()
    hsvlc.update()
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        bpp, mse = [], []
        for tensor, _ in latents:
            tensor = tensor[None].to(hsvlc.device)
            shape = tensor.shape[-2:]
            weight_map = torch.full((1, 1, -(-shape[0] // CELL), -(-shape[1] // CELL)), weight, device=hsvlc.device)
            data = hsvlc.compress(tensor, weight_map)
            bpp.append(8 * len(data) / (64 * shape[0] * shape[1]))
            mse.append((hsvlc.decompress(data, weight_map, shape) - tensor).square().mean().item())
        print(f"step {step}: M = {weight:.2f}  {np.mean(bpp):.4f} bpp  latent MSE {np.mean(mse):.4f}", flush=True)
    hsvlc.train()


def main():
    args = parse_args()
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    vae = AutoModel.from_pretrained(args.pretrained_model_name_or_path, subfolder="vae").to(accelerator.device).eval()
    side = args.resolution // 8
    with accelerator.main_process_first():
        train = load_latents(vae, args.train_data_dir, args.resolution, output_dir / "latents.pt")
    validation = []
    if args.validation_dir:
        validation = load_latents(vae, [args.validation_dir], 64, output_dir / "validation_latents.pt")
    train = [tensor.permute(1, 2, 0).numpy() for tensor, _ in train]

    if args.pretrained_hsvlc:
        hsvlc = HSVLC.from_pretrained(args.pretrained_hsvlc)
    else:
        hsvlc = HSVLC(
            latent_channels=vae.config.latent_channels,
            scaling_factor=vae.config.scaling_factor,
            single_layer=args.single_layer,
        )
    del vae
    optimizer = torch.optim.AdamW(hsvlc.parameters(), lr=args.learning_rate, weight_decay=1e-5)
    lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=args.max_train_steps)
    ema = EMAModel(hsvlc.parameters(), decay=0.999)
    hsvlc, optimizer, lr_scheduler = accelerator.prepare(hsvlc, optimizer, lr_scheduler)

    step = resume(accelerator, ema, output_dir, args.resume_from_checkpoint)

    hsvlc.train()
    progress = tqdm(range(step, args.max_train_steps), initial=step, total=args.max_train_steps, mininterval=20)
    for step in progress:
        # Seeded by step and process, so that a resumed run sees the crops that the uninterrupted one would have.
        rng = np.random.default_rng((args.seed, step, accelerator.process_index))
        crops = [random_crop(train[rng.integers(len(train))], side, rng) for _ in range(args.train_batch_size)]
        latents = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous().to(accelerator.device)
        weight_map = torch.stack([random_weight_map(side // CELL, side // CELL, rng) for _ in crops])
        weight_map = torch.round(weight_map.to(accelerator.device) * 256) / 256

        with accelerator.autocast():
            loss, rate, mse = rate_distortion_loss(hsvlc, latents, weight_map, args.rate_lambda)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(hsvlc.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(hsvlc.parameters())
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss:.3f}", bpp=f"{rate / 64:.4f}", mse=f"{mse:.3f}", refresh=False)

        done = step + 1
        if accelerator.is_main_process and (done % args.checkpointing_steps == 0 or done == args.max_train_steps):
            accelerator.save_state(output_dir / f"checkpoint-{done}")
            with averaged_weights(ema, hsvlc):
                model = accelerator.unwrap_model(hsvlc)
                model.update()
                model.save_pretrained(output_dir / "hsvlc")
                if validation:
                    log_validation(model, validation, done)


if __name__ == "__main__":
    main()
