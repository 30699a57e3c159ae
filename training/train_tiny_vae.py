"""Train the VAE of rsic-tiny: a small `AutoencoderTiny` with Stable Diffusion's 4-channel, 8x smaller latents.

    accelerate launch training/train_tiny_vae.py --train_data_dir photos --output_dir runs/vae

Runs on CPU or GPU; `--resume_from_checkpoint latest` goes on after an interruption. The end of a run is a
`save_pretrained` folder, `<output_dir>/vae`.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from checkpoints import add_checkpoint_arguments, averaged_weights, resume
from diffusers import AutoencoderTiny
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from photos import list_photos, random_crop, read_photos
from tqdm import tqdm


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", nargs="+", required=True, help="Folders of photos.")
    parser.add_argument("--validation_dir", help="Folder of photos that are measured (PSNR) and never trained on.")
    parser.add_argument("--channels", type=int, default=48, help="Width of all layers.")
    parser.add_argument("--encoder_blocks", type=int, nargs=4, default=(0, 1, 2, 4), help="Full to 1/8 resolution.")
    parser.add_argument("--decoder_blocks", type=int, nargs=4, default=(4, 3, 1, 0), help="1/8 to full resolution.")
    parser.add_argument("--resolution", type=int, default=96, help="Side of the training crops, in pixels.")
    parser.add_argument("--train_batch_size", type=int, default=12)
    parser.add_argument("--max_train_steps", type=int, default=2500)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--latent_noise", type=float, default=0.2, help="Largest std of the noise added to latents.")
    parser.add_argument("--gradient_weight", type=float, default=0.3, help="Weight of the loss on image gradients.")
    add_checkpoint_arguments(parser, checkpointing_steps=500)
    args = parser.parse_args()
    if args.resolution % 8:
        parser.error(f"--resolution must be a multiple of 8, got {args.resolution}.")
    return args


def reconstruction_loss(image, target, gradient_weight):
    """Charbonnier loss on the pixels, plus the same on horizontal and vertical differences, which keeps edges."""

    def charbonnier(x):
        return torch.sqrt(x.square() + 1e-4).mean()

    error = image - target
    edges = charbonnier(error.diff(dim=-1)) + charbonnier(error.diff(dim=-2))
    return charbonnier(error) + gradient_weight * edges + 2 * error.square().mean()


def standardisation_loss(latents):
    """Keep each latent channel near zero mean and unit variance, as the diffusion model and the codec expect."""
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return mean.square().mean() + std.log().square().mean()


@torch.no_grad()
def log_validation(vae, folder, step):
    psnr = []
    for array, _ in read_photos(list_photos([folder]), min_side=64):
        height, width = (side - side % 8 for side in array.shape[:2])
        image = torch.from_numpy(array[:height, :width].copy()).permute(2, 0, 1)[None].to(vae.device) / 127.5 - 1
        decoded = vae.decode(vae.encode(image).latents).sample.clamp(-1, 1)
        psnr.append(-10 * math.log10(((decoded - image) / 2).square().mean().item()))
    print(f"step {step}: PSNR {np.mean(psnr):.2f} dB over {len(psnr)} photos of {folder}", flush=True)


class NoisyAutoencoder(torch.nn.Module):
    """The VAE with noise on its latents: a decoder that has seen some forgives what quantisation and diffusion leave.

    One module with one `forward`, which is what distributed training wraps.
    """

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, image, largest_std):
        latents = self.vae.encode(image).latents
        std = largest_std * torch.rand(len(image), 1, 1, 1, device=image.device)
        return self.vae.decode(latents + std * torch.randn_like(latents)).sample, latents


def main():
    args = parse_args()
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    photos = [array for array, _ in read_photos(list_photos(args.train_data_dir), min_side=args.resolution)]
    vae = AutoencoderTiny(
        encoder_block_out_channels=(args.channels,) * 4,
        decoder_block_out_channels=(args.channels,) * 4,
        num_encoder_blocks=tuple(args.encoder_blocks),
        num_decoder_blocks=tuple(args.decoder_blocks),
    )
    model = NoisyAutoencoder(vae)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=1e-4)
    lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=args.max_train_steps)
    ema = EMAModel(model.parameters(), decay=0.998)
    model, optimizer, lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)

    step = resume(accelerator, ema, output_dir, args.resume_from_checkpoint)

    progress = tqdm(range(step, args.max_train_steps), initial=step, total=args.max_train_steps, mininterval=20)
    for step in progress:
        # Seeded by step and process, so that a resumed run sees the crops that the uninterrupted one would have.
        rng = np.random.default_rng((args.seed, step, accelerator.process_index))
        crops = [
            random_crop(photos[rng.integers(len(photos))], args.resolution, rng) for _ in range(args.train_batch_size)
        ]
        image = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(accelerator.device).float() / 127.5 - 1

        with accelerator.autocast():
            decoded, latents = model(image, args.latent_noise)
            loss = reconstruction_loss(decoded.float(), image, args.gradient_weight)
            loss = loss + 0.02 * standardisation_loss(latents.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)

        done = step + 1
        if accelerator.is_main_process and (done % args.checkpointing_steps == 0 or done == args.max_train_steps):
            accelerator.save_state(output_dir / f"checkpoint-{done}")
            with averaged_weights(ema, model):
                vae.save_pretrained(output_dir / "vae")
                if args.validation_dir:
                    log_validation(vae, args.validation_dir, done)


if __name__ == "__main__":
    main()
