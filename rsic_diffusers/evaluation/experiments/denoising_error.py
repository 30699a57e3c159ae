"""How well the UNet of a checkpoint denoises the latents of photos, and whether it listens to captions.

    python -m rsic_diffusers.evaluation.experiments.denoising_error PHOTOS
    python -m rsic_diffusers.evaluation.experiments.denoising_error PHOTOS --model FOLDER --timesteps 300 500 700

PHOTOS is a folder with an `annotations.json` that holds captions, as `rsic evaluate` takes it. Noise is added to each
photo's latents at each timestep, several draws of it, and the UNet predicts the noise three times: with the photo's
caption, with that of the next photo, and without one. The table holds the mean squared error of the predicted noise.
A model that conditions on its caption does worse with another photo's.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm

from ... import RSICDecoderPipeline, RSICEncoderPipeline
from ...pipelines.latents import encode_image
from ..photos import find_photos


CAPTIONS = ("right", "next photo's", "none")


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", default="rsic-tiny", help="full model: folder, Hub id or embedded (rsic-tiny)")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[100, 300, 400, 500, 600, 700])
    parser.add_argument("--draws", type=int, default=4, help="of noise for each photo and timestep (4)")
    parser.add_argument("--side", type=int, default=256, help="photos are cut to a square of this many pixels (256)")
    args = parser.parse_args(arguments)
    if args.draws < 1 or args.side < 64 or not all(0 <= timestep < 1000 for timestep in args.timesteps):
        parser.error("--draws must be at least 1, --side at least 64, and --timesteps from 0 to 999.")
    return args


def middle_square(image, side: int):
    """The middle of a photo, its shorter side reduced to `side` pixels."""
    scale = side / min(image.size)
    image = image.resize([max(side, round(length * scale)) for length in image.size])
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


@torch.no_grad()
def denoising_errors(decoder, latents, captions, timestep: int, draws: int) -> np.ndarray:
    """Mean squared errors of the predicted noise.

    Args:
        decoder ([`RSICDecoderPipeline`]): Whose UNet, text encoder and noise schedule are used.
        latents (`torch.Tensor` of shape (N, 4, h, w)): Of N photos.
        captions (`list[list[str]]`): N captions in each inner list; each is a way to caption all photos.
        timestep (`int`): The noise level.
        draws (`int`): Of noise; the same for all captions.

    Returns:
        `np.ndarray` of shape (len(captions),).
    """
    scheduler, errors = DDIMScheduler.from_config(decoder.scheduler.config), np.zeros(len(captions))
    timesteps = torch.full((len(latents),), timestep, device=latents.device)
    embeddings = [decoder.encode_texts(texts, latents.device) for texts in captions]  # (N, 77, D) each
    for draw in range(draws):
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(draw)).to(latents)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        wanted = noise
        if scheduler.config.prediction_type == "v_prediction":
            wanted = scheduler.get_velocity(latents, noise, timesteps)
        for i, states in enumerate(embeddings):
            predicted = decoder.unet(noisy, timesteps, states).sample
            errors[i] += float((predicted.float() - wanted).square().mean()) / draws
    return errors


def main(arguments=None):
    args = parse_args(arguments)
    try:
        photos = find_photos(args.photos, annotated="caption")
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    if len(photos) < 2:
        raise SystemExit(f"{args.photos} holds one photo with a caption; at least two are compared.")
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    encoder, decoder = (kind.from_pretrained(args.model) for kind in (RSICEncoderPipeline, RSICDecoderPipeline))
    squares = [encoder.image_processor.preprocess(middle_square(photo.open(), args.side)) for photo in photos]
    with torch.no_grad():
        latents = torch.cat([encode_image(encoder.vae, square) for square in squares])  # (N, 4, h, w)
    right = [photo.caption for photo in photos]
    captions = [right, right[1:] + right[:1], [""] * len(right)]
    lines = ["| t | " + " | ".join(CAPTIONS) + " | next photo's against right |", "|---|" + "---:|" * 4]
    for timestep in tqdm(args.timesteps, desc="Timesteps"):
        errors = denoising_errors(decoder, latents, captions, timestep, args.draws)
        cells = [f"{error:.4f}" for error in errors] + [f"{100 * (errors[1] / errors[0] - 1):+.1f} %"]
        lines.append(f"| {timestep} | " + " | ".join(cells) + " |")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
