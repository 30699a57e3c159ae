"""How the decoder's settings decide what a picture looks like: start levels, numbers of steps, guidance targets.

    python -m rsic_diffusers.evaluation.experiments.start_levels PHOTOS
    python -m rsic_diffusers.evaluation.experiments.start_levels PHOTOS --model FOLDER --draws 4 --output table.md
    python -m rsic_diffusers.evaluation.experiments.start_levels PHOTOS \\
        --decoding "fast:preset=fast" --decoding "k 4 to 0.5:preset=fast,k0=4,k1=0.5" \\
        --decoding "gradient:preset=fast,guidance_target=clean,guidance_strength=12000"

PHOTOS is a folder with an `annotations.json` that holds boxes, as `rsic evaluate` takes it. Each photo is coded for
its box (referring mode, M = weight inside, 0 outside) and with one M everywhere at the same size (global mode). Each
file is decoded in every way asked for, from several draws of noise.

Such a way is a name and settings, "NAME:SETTING=VALUE,...". Settings are the sampler's arguments of
`RSICDecoderPipeline.__call__` and, in place of the scheduler's start_noise_factors, k0 and k1. Without --decoding the
presets are compared with the codec alone.

Columns of the Markdown table, means over photos and draws:

- LPIPS, DISTS: of the whole picture. b-LPIPS: outside the box.
- f-PSNR: in the box, in dB.
- 1/16-1/8, 1/8-1/4, > 1/4: power of the decoded latents over that of the photos' own latents in the bands of these
  spatial frequencies, in cycles per latent position. 1 is natural, less is blurred, more is noisy.
- evaluations: UNet calls for a file.

Needs the extra: pip install "rsic-diffusers[evaluation]"
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm

from ... import GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, RSICEncoderPipeline
from ...pipelines.latents import decode_latents, encode_image
from ...referring.demands import check_weight
from ..equal_size import pair_at_equal_size
from ..methods import parse_decoding
from ..metrics import load_available, load_picture_metrics
from ..photos import Photo, find_photos


BANDS = {"1/16-1/8": (1 / 16, 1 / 8), "1/8-1/4": (1 / 8, 1 / 4), "> 1/4": (1 / 4, 1)}  # cycles per latent position
MODES = ("referring", "global")
METRICS = {"lpips": "LPIPS", "dists": "DISTS", "b_lpips": "b-LPIPS", "f_psnr": "f-PSNR"}
DEFAULT_DECODINGS = {
    "codec alone": {"strength": 0.0},
    "fast": {"preset": "fast"},
    "balanced": {"preset": "balanced"},
}


@dataclass
class CodedPhoto:
    """One file, and what its decodings are compared with.

    Args:
        row (`tuple[str, float]`): Mode and weight.
        data (`bytes`): The file.
        image (`PIL.Image.Image`): The photo.
        latents (`torch.Tensor` of shape (1, 4, h, w)): Of the photo.
        region (boolean (H, W) array): The box.
    """

    row: tuple[str, float]
    data: bytes
    image: object
    latents: torch.Tensor
    region: np.ndarray


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", default="rsic-tiny", help="folder, Hub id or embedded model (rsic-tiny)")
    parser.add_argument("--weights", type=float, nargs="+", default=[5 / 7, 3 / 7], help="M in the box (5/7 3/7)")
    parser.add_argument("--draws", type=int, default=2, help="draws of noise for each file (2)")
    parser.add_argument("--limit", type=int, help="only the first photos with a box")
    parser.add_argument("--max_side", type=int, help="photos are made smaller, to this longer side in pixels: quicker")
    parser.add_argument("--decoding", type=parse_decoding, action="append", metavar="NAME:SETTING=VALUE,...")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"], help="(float32)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table to this file")
    args = parser.parse_args(arguments)
    if args.draws < 1:
        parser.error(f"--draws must be at least 1, got {args.draws}.")
    if args.max_side is not None and args.max_side < 64:
        parser.error(f"--max_side must be at least 64 pixels, got {args.max_side}.")
    args.decoding = dict(args.decoding or DEFAULT_DECODINGS)
    return args


@torch.no_grad()
def encode_photo(encoder, photo: Photo, weights: list[float], max_side: int | None) -> list[CodedPhoto]:
    """Both modes at each weight; the photo's latents once."""
    image = photo.open()
    if max_side is not None:
        image.thumbnail((max_side, max_side))
    tensor = encoder.image_processor.preprocess(image).to(encoder.vae.device, encoder.vae.dtype)
    latents = encode_image(encoder.vae, tensor).float()
    box, region = photo.pixel_box(image.size), photo.region(image.size)
    coded = []
    for weight in weights:
        pair = pair_at_equal_size(encoder, image, box, weight=weight, caption=photo.caption, max_side=None)
        for mode, out in zip(MODES, pair, strict=True):
            coded.append(CodedPhoto((mode, weight), out.bitstream, image, latents, region))
    return coded


def scheduler_of(base: GuidedSelfRecurrentDDIMScheduler, settings: dict) -> GuidedSelfRecurrentDDIMScheduler:
    """The model's scheduler with those settings that are no arguments of the decoder; taken out of `settings`."""
    config = {**base.config, "_use_default_values": []}  # given values stay, those that equal a default too
    k0, k1 = config["start_noise_factors"]
    config["start_noise_factors"] = (settings.pop("k0", k0), settings.pop("k1", k1))
    return GuidedSelfRecurrentDDIMScheduler.from_config(config)


def band_powers(latents: torch.Tensor) -> np.ndarray:
    """Power of latents (B, 4, h, w) in each of `BANDS`, a mean over batch and channels; under a Hann window."""
    height, width = latents.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    spectrum = torch.fft.fft2((latents - latents.mean((-2, -1), keepdim=True)) * window).abs().square().mean((0, 1))
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width))
    return np.array([float(spectrum[(low <= frequency) & (frequency < high)].sum()) for low, high in BANDS.values()])


@torch.no_grad()
def decode_and_measure(decoder, coded: CodedPhoto, settings: dict, draws: int, metrics: dict) -> dict[str, float]:
    """Figures of one file decoded in one way; its draws are decoded together."""
    generators = [torch.Generator().manual_seed(draw) for draw in range(draws)]
    start = time.perf_counter()
    out = decoder([coded.data] * draws, generator=generators, output_type="latent", **settings)
    latents = out.images
    pictures = decode_latents(decoder.vae, latents.to(decoder.vae.dtype), coded.image.size[::-1])
    seconds = time.perf_counter() - start
    figures = {name: [] for name in metrics}
    for picture in VaeImageProcessor().postprocess(pictures.float(), output_type="pil"):
        for name, metric in metrics.items():
            figures[name].append(metric(picture, coded.image, region=coded.region))
    row = {name: float(np.mean(values)) for name, values in figures.items()}
    truth = band_powers(coded.latents.cpu())
    for name, power, expected in zip(BANDS, band_powers(latents.float().cpu()), truth, strict=True):
        row[name], row[f"{name} truth"] = power, expected
    return row | {"evaluations": out.num_unet_evaluations, "seconds": seconds / draws}


def table_of(rows: dict[tuple, list[dict]], metrics: dict) -> str:
    """Markdown: a row for each mode, weight and decoding; `rows` holds the figures of each photo."""
    columns = ["mode", "weight", "decoding", *(METRICS[name] for name in metrics), *BANDS, "evaluations", "seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---|---:|---|" + "---:|" * (len(columns) - 3)]
    for (mode, weight, decoding), figures in rows.items():
        mean = {name: np.nanmean([row[name] for row in figures]) for name in figures[0]}  # b-LPIPS may have no value
        cells = [mode, f"{weight:.3f}", decoding]
        cells += [f"{mean[name]:.2f}" if name == "f_psnr" else f"{mean[name]:.4f}" for name in metrics]
        cells += [f"{mean[name] / mean[f'{name} truth']:.2f}" for name in BANDS]
        cells += [f"{mean['evaluations']:.1f}", f"{mean['seconds']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments=None):
    args = parse_args(arguments)
    try:
        for weight in args.weights:
            check_weight("--weights", weight)
        photos = find_photos(args.photos, limit=args.limit, annotated="box")
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    encoder = RSICEncoderPipeline.from_pretrained(args.model)
    decoder = RSICDecoderPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    for pipeline in (encoder, decoder):
        pipeline.to(args.device)
        pipeline.set_progress_bar_config(disable=True)
    metrics, reasons = load_available(load_picture_metrics, list(METRICS), args.device)
    print(*reasons, sep="\n", end="\n" * bool(reasons))

    decodings = {}
    for name, settings in args.decoding.items():
        settings = dict(settings)
        decodings[name] = (scheduler_of(decoder.scheduler, settings), settings)
    rows = {(mode, weight, name): [] for weight in args.weights for mode in MODES for name in decodings}
    for photo in tqdm(photos, desc="Photos"):
        for coded in encode_photo(encoder, photo, args.weights, args.max_side):
            for name, (scheduler, settings) in decodings.items():
                decoder.scheduler = scheduler
                rows[(*coded.row, name)].append(decode_and_measure(decoder, coded, settings, args.draws, metrics))
    table = table_of(rows, metrics)
    print(table)
    if args.output:
        args.output.write_text(table + "\n")


if __name__ == "__main__":
    main()
