"""What referring mode gains inside the region over global mode at equal file size, as a Markdown table.

    python -m rsic_diffusers.evaluation.referring_gain PHOTOS

PHOTOS is a folder of photos with an `annotations.json`: a list of {"file", "caption", "box"}, the box as fractions
(x0, y0, x1, y1) of width and height. Every photo is coded at its native size in referring mode, then in global mode
with the constant M whose file has as many bytes, to a percent or so; both files are decoded, and PSNR is measured
inside the box (f-PSNR) and over the whole picture. Sizes are lengths of files, caption and all. "codec only" is the
VAE's picture of z_hat_0, without diffusion.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm

from .. import RSICDecoderPipeline, RSICEncoderPipeline
from ..images import open_image
from .equal_size import pair_at_equal_size
from .metrics import psnr


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", default="rsic-tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", help="of the decoder")
    parser.add_argument("--weight", type=float, default=1.0, help="M inside the box (1)")
    parser.add_argument("--limit", type=int, help="only the first photos")
    parser.add_argument("--codec_only", action="store_true", help="leave diffusion out: quick")
    parser.add_argument("--save", type=Path, help="folder for the decoded pictures")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of the decoder, guidance_scale=1.5 say"
    )
    args = parser.parse_args()
    if not (args.photos / "annotations.json").exists():
        parser.error(f"{args.photos} has no annotations.json; it must list file, caption and box of each photo.")
    return args


def measure(encoder, decoder, entry, args, settings):
    image = open_image(args.photos / entry["file"])
    box = tuple(fraction * side for fraction, side in zip(entry["box"], 2 * image.size))
    referring, even = pair_at_equal_size(encoder, image, box, args.weight, entry["caption"], max_side=None)
    row = {"file": entry["file"], "pixels": image.width * image.height}
    for mode, out in (("referring", referring), ("global", even)):
        row[f"{mode} bytes"] = len(out.bitstream)
        row[f"{mode} bpp"] = out.bpp
        pictures = {"codec only": decoder(out.bitstream, num_inference_steps=0).images[0]}
        if not args.codec_only:
            start = time.perf_counter()
            pictures["decoded"] = decoder(out.bitstream, preset=args.preset, **settings).images[0]
            row[f"{mode} seconds"] = time.perf_counter() - start
        for kind, picture in pictures.items():
            row[f"{mode} {kind} f-PSNR"] = psnr(picture, image, box)
            row[f"{mode} {kind} PSNR"] = psnr(picture, image)
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                picture.save(args.save / f"{Path(entry['file']).stem}-{mode}-{kind.replace(' ', '-')}.png")
    return row


def as_table(rows, kind):
    lines = [
        "| photo | bytes, referring | bytes, global | bpp | f-PSNR, referring | f-PSNR, global | gain "
        "| PSNR, referring | PSNR, global |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    mean = {key: np.mean([row[key] for row in rows]) for key in rows[0] if key != "file"}
    for row in [*rows, {**mean, "file": "**mean**"}]:
        ours, even = row[f"referring {kind} f-PSNR"], row[f"global {kind} f-PSNR"]
        lines.append(
            f"| {Path(row['file']).stem} | {row['referring bytes']:.0f} | {row['global bytes']:.0f} "
            f"| {row['referring bpp']:.4f} | {ours:.2f} | {even:.2f} | {ours - even:+.2f} "
            f"| {row[f'referring {kind} PSNR']:.2f} | {row[f'global {kind} PSNR']:.2f} |"
        )
    return "\n".join(lines)


def main():
    args = parse_args()
    settings = {}
    for setting in args.set:
        name, value = setting.split("=")
        settings[name] = json.loads(value) if value[0] in "-.0123456789" else value
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    encoder = RSICEncoderPipeline.from_pretrained(args.model).to(args.device)
    decoder = RSICDecoderPipeline.from_pretrained(args.model).to(args.device)
    for pipeline in (encoder, decoder):
        pipeline.set_progress_bar_config(disable=True)
    entries = json.loads((args.photos / "annotations.json").read_text())[: args.limit]
    rows = [measure(encoder, decoder, entry, args, settings) for entry in tqdm(entries, desc="Photos")]
    for kind in ["codec only"] + ["decoded"] * (not args.codec_only):
        print(f"\n{kind}\n\n{as_table(rows, kind)}")
    differences = [abs(row["global bytes"] / row["referring bytes"] - 1) for row in rows]
    print(f"\nLargest difference in size between the modes: {100 * max(differences):.1f} %")


if __name__ == "__main__":
    main()
