"""Train the VAE of rsic-tiny: a small `AutoencoderTiny` with Stable Diffusion's 4-channel, 8x smaller latents.

    accelerate launch training/train_tiny_vae.py --train_data_dir photos --output_dir runs/vae

The loss is an L1-like error of the pixels and of their differences, LPIPS and DISTS. The last two need the published
weights of AlexNet and VGG-16, which torchvision downloads once (`--perceptual_weight 0` trains on pixels alone).
`--compile_dists` halves the time of DISTS on a CPU with a C++ compiler. A second run with
`--adversarial_weight 0.5 --freeze_encoder --pretrained_vae runs/vae/vae` adds a patch discriminator and trains the
decoder alone, as the VAEs of latent diffusion are trained (arXiv 2112.10752, appendix G).

Runs on CPU or GPU; `--resume_from_checkpoint latest` goes on after an interruption. The end of a run is a
`save_pretrained` folder, `<output_dir>/vae`.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from discriminator import PatchDiscriminator, adaptive_weight
from loop import train
from options import add_training_arguments, make_accelerator
from perceptual import PerceptualLoss
from training_photos import find_photos, load_photo_arrays, random_crop, vae_input, whole_positions
from widening import widen_vae


# LPIPS on AlexNet is cheap and in each step. One of these, drawn at random, comes with it, at three times its weight.
COSTLY_LOSSES = ("DISTS", "DISTS", "DISTS", "DISTS", "DISTS", "LPIPS (VGG)")
OFFSETS = 8  # where these losses look from: drawn anew in each step, from 0 to 7 pixels on each axis
SMALLEST_SEEN = 32  # side of a picture, in pixels, that AlexNet can reduce as often as it does
DEFAULTS = {"max_train_steps": 5000, "train_batch_size": 8, "learning_rate": 8e-4}
DEFAULTS |= {"ema_decay": 0.995, "checkpointing_steps": 500}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--train_data_dir", nargs="+", required=True, help="Folders of photos. All are kept in memory."
    )
    parser.add_argument("--validation_dir", help="Folder of photos that are measured and never trained on.")
    parser.add_argument(
        "--pretrained_vae",
        help="Folder of a VAE to go on from, in place of random weights. A narrower or shallower one is widened.",
    )
    parser.add_argument("--channels", type=int, default=64, help="Width of all layers.")
    parser.add_argument("--encoder_blocks", type=int, nargs=4, default=(0, 1, 3, 6), help="Full to 1/8 resolution.")
    parser.add_argument("--decoder_blocks", type=int, nargs=4, default=(8, 6, 2, 0), help="1/8 to full resolution.")
    parser.add_argument("--resolution", type=int, default=128, help="Side of the training crops, in pixels.")
    parser.add_argument("--latent_noise", type=float, default=0.03, help="Largest std of the noise added to latents.")
    parser.add_argument(
        "--equivariance",
        type=float,
        default=0.0,
        help="Share of the batches whose latents are mirrored or reduced, which must give the mirrored or reduced "
        "pictures (EQ-VAE, arXiv 2502.09509): the latents become smoother. Default: 0.",
    )
    parser.add_argument(
        "--standardisation_weight",
        type=float,
        default=0.5,
        help="Of the loss that keeps each channel of the latents at mean 0 and variance 1. At a weight of 0.02 the "
        "noise on the latents (--latent_noise) drives their variance up, step by step. Default: 0.5.",
    )
    parser.add_argument("--gradient_weight", type=float, default=0.3, help="Weight of the loss on image gradients.")
    parser.add_argument(
        "--perceptual_weight",
        type=float,
        default=0.5,
        help="Of LPIPS on AlexNet (each step); three times as much of DISTS (five steps of six) and of "
        "LPIPS on VGG-16 (one). Default: 0.5.",
    )
    parser.add_argument("--compile_dists", action="store_true", help="With torch.compile.")
    parser.add_argument("--freeze_encoder", action="store_true", help="Train the decoder alone: latents stay.")
    parser.add_argument("--adversarial_weight", type=float, default=0.0, help="Times the adaptive weight; 0: none.")
    parser.add_argument("--adversarial_start", type=int, default=200, help="Steps before its verdict counts.")
    add_training_arguments(parser, cpu=DEFAULTS)
    args = parser.parse_args()
    if not 0 <= args.equivariance <= 1:
        parser.error(f"--equivariance must be from 0 to 1, got {args.equivariance}.")
    if args.resolution % (32 if args.equivariance else 8):
        parser.error(f"--resolution must be a multiple of 8 (of 32 with --equivariance), got {args.resolution}.")
    smallest = 2 * (SMALLEST_SEEN + OFFSETS) if args.equivariance else SMALLEST_SEEN + OFFSETS
    if args.perceptual_weight and args.resolution < smallest:
        parser.error(f"--resolution must be at least {smallest}, which LPIPS needs, got {args.resolution}.")
    return args


def reconstruction_loss(image, target, gradient_weight):
    """Charbonnier loss on the pixels, plus the same on horizontal and vertical differences, which keeps edges."""

    def charbonnier(x):
        return torch.sqrt(x.square() + 1e-4).mean()

    error = image - target
    edges = charbonnier(error.diff(dim=-1)) + charbonnier(error.diff(dim=-2))
    return charbonnier(error) + gradient_weight * edges


def standardisation_loss(latents):
    """Keep each latent channel near zero mean and unit variance, as the diffusion model and the codec expect."""
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return mean.square().mean() + std.log().square().mean()


def random_transform(rng, share):
    """Mirror, or reduce to a half or three quarters, with the chance `share`.

    A VAE that is asked for the transformed picture when its latents are transformed has smoother latents, which are
    easier to learn and to code (EQ-VAE, arXiv 2502.09509).

    Returns:
        `Callable`, *optional*: Takes pictures or latents (B, C, H, W) and gives them mirrored, or (B, C, sH, sW) in
        float32. None: nothing is to be transformed.
    """
    if rng.random() >= share:
        return None
    if rng.random() < 0.5:
        return lambda picture: picture.flip(-1)
    scale = rng.choice([0.5, 0.75])
    return lambda picture: F.interpolate(
        picture.float(), scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )


def shifted_window(rng, *pictures):
    """The same window of all pictures (B, C, H, W): 8 pixels smaller, at an offset drawn from 0 to 7 on each axis.

    AlexNet looks at every fourth position only. A decoder that is always judged from the same offset learns to please
    it there: its LPIPS rises by a tenth when the first row and column of both pictures are cut off.
    """
    top, left = rng.integers(OFFSETS, size=2)
    height, width = (side - OFFSETS for side in pictures[0].shape[-2:])
    return tuple(picture[..., top : top + height, left : left + width] for picture in pictures)


class NoisyAutoencoder(torch.nn.Module):
    """The VAE with noise on its latents, and the discriminator that judges it.

    A decoder that has seen noise forgives what quantisation and diffusion leave. One module with one `forward`, which
    is what distributed training wraps.
    """

    def __init__(self, vae, with_discriminator):
        super().__init__()
        self.vae = vae
        self.discriminator = PatchDiscriminator() if with_discriminator else None

    def forward(self, image, largest_std, freeze_encoder=False, transform=None):
        """The decoded pictures of `image`'s latents, and the latents; of `transform(latents)` where that is given."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_encoder):
            latents = self.vae.encode(image).latents
        coded = latents if transform is None else transform(latents)
        std = largest_std * torch.rand(len(image), 1, 1, 1, device=image.device)
        # Half of the crops without noise: the picture with nothing lost counts most.
        std = std * (torch.rand_like(std) < 0.5)
        return self.vae.decode(coded + std * torch.randn_like(coded)).sample, latents


def make_vae(args):
    """A new VAE, which starts as `--pretrained_vae` where that is given."""
    vae = AutoencoderTiny(
        encoder_block_out_channels=(args.channels,) * 4,
        decoder_block_out_channels=(args.channels,) * 4,
        num_encoder_blocks=tuple(args.encoder_blocks),
        num_decoder_blocks=tuple(args.decoder_blocks),
    )
    if args.pretrained_vae:
        widen_vae(AutoencoderTiny.from_pretrained(args.pretrained_vae, torch_dtype=torch.float32), vae)
    return vae.to(memory_format=torch.channels_last)


def random_crops(photos, args, rng):
    """Random crops, half of them mirrored: a uint8 tensor of shape (B, 3, resolution, resolution), in a tuple."""
    crops = []
    for _ in range(args.train_batch_size):
        photo = torch.from_numpy(photos[rng.integers(len(photos))]).permute(2, 0, 1)
        crop = random_crop(photo, args.resolution, rng)
        crops.append(crop.flip(-1) if rng.integers(2) else crop)
    return (torch.stack(crops).contiguous(memory_format=torch.channels_last),)


def vae_loss(model, image, args, perceptual, rng, step):
    """The loss of one batch, and figures to show.

    Args:
        model ([`NoisyAutoencoder`]): As accelerate wrapped it.
        image (`torch.Tensor` of shape (B, 3, H, W)): Crops, values in [-1, 1].
        perceptual ([`PerceptualLoss`], *optional*): None trains on pixels alone.
    """
    transform = random_transform(rng, args.equivariance)
    decoded, latents = model(image, args.latent_noise, args.freeze_encoder, transform)
    if transform is not None:
        image = transform(image)
    loss = reconstruction_loss(decoded.float(), image, args.gradient_weight)
    figures = {"pixels": loss.detach()}
    if perceptual is not None:
        weights = {"LPIPS (AlexNet)": 1}
        weights[COSTLY_LOSSES[rng.integers(len(COSTLY_LOSSES))]] = 3
        seen, target = shifted_window(rng, decoded, image)
        for name, weight in weights.items():
            distance = perceptual(name, seen, target).mean()
            loss = loss + args.perceptual_weight * weight * distance
            figures[name] = distance.detach()
    parts = getattr(model, "module", model)
    if parts.discriminator is not None:
        if step >= args.adversarial_start:
            fooled = parts.discriminator.generator_loss(decoded)
            figures["adaptive"] = adaptive_weight(loss, fooled, parts.vae.decoder.layers[-1].weight)
            loss = loss + args.adversarial_weight * figures["adaptive"] * fooled
        hinge, figures["real-fake"] = parts.discriminator.hinge_loss(image, decoded)
        loss = loss + hinge
    return loss + args.standardisation_weight * standardisation_loss(latents.float()), figures


@torch.no_grad()
def log_validation(vae, photos, perceptual, max_side, step):
    """Print PSNR, and LPIPS and DISTS where they are at hand, of photos (as `find_photos` gives them) and what the
    VAE makes of them."""
    measured = []
    for array, _ in load_photo_arrays(photos, 64, max_side):
        image = vae_input(torch.from_numpy(whole_positions(array).copy())[None].to(vae.device))
        decoded = vae.decode(vae.encode(image).latents).sample.clamp(-1, 1)
        figures = {"PSNR": -10 * math.log10(((decoded - image) / 2).square().mean().item())}
        if perceptual is not None:
            with torch.compiler.set_stance("force_eager"):  # each photo has another size
                figures |= {name: perceptual(name, decoded, image).item() for name in perceptual.names}
        measured.append(figures)
    means = ", ".join(f"{name} {np.mean([figures[name] for figures in measured]):.3f}" for name in measured[0])
    print(f"step {step}: {means} over {len(measured)} photos", flush=True)


def main():
    args = parse_args()
    perceptual = PerceptualLoss() if args.perceptual_weight else None  # its errors come before minutes of work
    accelerator = make_accelerator(args, find_unused_parameters=args.freeze_encoder)
    if args.adversarial_weight and accelerator.num_processes > 1:
        raise SystemExit("--adversarial_weight trains in one process only; start the script without a launcher.")
    held_out = find_photos([args.validation_dir]) if args.validation_dir else []
    listed = find_photos(args.train_data_dir)
    photos = [array for array, _ in load_photo_arrays(listed, args.resolution, args.max_side)]
    vae = make_vae(args)
    if perceptual is not None:
        perceptual.to(accelerator.device, memory_format=torch.channels_last)
        if args.compile_dists:
            perceptual.dists.compile()

    def batch_of(rng):
        return random_crops(photos, args, rng)

    def loss_of(model, batch, rng, step):
        (crops,) = batch
        return vae_loss(model, crops.float() / 127.5 - 1, args, perceptual, rng, step)

    def export(model, step):
        model.vae.save_pretrained(Path(args.output_dir) / "vae")
        if held_out:
            log_validation(model.vae, held_out, perceptual, args.max_side, step)

    model = NoisyAutoencoder(vae, bool(args.adversarial_weight))
    train(args, accelerator, model, batch_of, loss_of, export)


if __name__ == "__main__":
    main()
