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
from diffusers import AutoencoderTiny
from loop import add_training_arguments, make_accelerator, train
from training_photos import list_photos, load_photo_arrays, random_crop


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", nargs="+", required=True, help="Folders of photos.")
    parser.add_argument("--validation_dir", help="Folder of photos that are measured (PSNR) and never trained on.")
    parser.add_argument("--pretrained_vae", help="Folder of a VAE to go on from, in place of random weights.")
    parser.add_argument("--channels", type=int, default=48, help="Width of all layers.")
    parser.add_argument("--encoder_blocks", type=int, nargs=4, default=(0, 1, 2, 4), help="Full to 1/8 resolution.")
    parser.add_argument("--decoder_blocks", type=int, nargs=4, default=(4, 3, 1, 0), help="1/8 to full resolution.")
    parser.add_argument("--resolution", type=int, default=96, help="Side of the training crops, in pixels.")
    parser.add_argument("--latent_noise", type=float, default=0.2, help="Largest std of the noise added to latents.")
    parser.add_argument("--gradient_weight", type=float, default=0.3, help="Weight of the loss on image gradients.")
    add_training_arguments(
        parser, max_train_steps=5000, train_batch_size=12, learning_rate=2e-3, ema_decay=0.998, checkpointing_steps=500
    )
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
def log_validation(vae, folder, max_side, step):
    psnr = []
    for array, _ in load_photo_arrays(list_photos([folder]), 64, max_side):
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
    accelerator = make_accelerator(args)
    listed = list_photos(args.train_data_dir)
    photos = [array for array, _ in load_photo_arrays(listed, args.resolution, args.max_side)]
    if args.pretrained_vae:
        vae = AutoencoderTiny.from_pretrained(args.pretrained_vae, torch_dtype=torch.float32)
    else:
        vae = AutoencoderTiny(
            encoder_block_out_channels=(args.channels,) * 4,
            decoder_block_out_channels=(args.channels,) * 4,
            num_encoder_blocks=tuple(args.encoder_blocks),
            num_decoder_blocks=tuple(args.decoder_blocks),
        )

    def loss_of(model, rng):
        crops = [
            random_crop(photos[rng.integers(len(photos))], args.resolution, rng) for _ in range(args.train_batch_size)
        ]
        image = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(accelerator.device).float() / 127.5 - 1
        decoded, latents = model(image, args.latent_noise)
        loss = reconstruction_loss(decoded.float(), image, args.gradient_weight)
        return loss + 0.02 * standardisation_loss(latents.float()), {}

    def export(model, step):
        model.vae.save_pretrained(Path(args.output_dir) / "vae")
        if args.validation_dir:
            log_validation(model.vae, args.validation_dir, args.max_side, step)

    train(args, accelerator, NoisyAutoencoder(vae), loss_of, export)


if __name__ == "__main__":
    main()
