"""What referring to a box can gain at most: files that hold nothing but the box.

    python -m rsic_diffusers.evaluation.experiments.box_alone PHOTOS

PHOTOS is a folder with an `annotations.json` that holds boxes, as `rsic evaluate` takes it. Each photo is coded in
referring mode, in global mode with as many bytes, and cut to its box with as many bytes: all of the file is then spent
on the box, none on a background or a map. No referring mode of the same codec has more to give than that, but for what
the box's surroundings tell. Pictures are the codec's alone, without diffusion; PSNR is that inside the box.
"""

import argparse
from pathlib import Path

import numpy as np
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm

from ... import RSICDecoderPipeline, RSICEncoderPipeline
from ...bitstream import DEFAULT_MAX_SIDE, MIN_SIDE
from ...bitstream.weight_map import DEFAULT_WEIGHT
from ...referring.demands import check_weight
from ..equal_size import encode_at_size, pair_at_equal_size
from ..metrics import psnr
from ..photos import find_photos


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", default="rsic-tiny")
    parser.add_argument("--weight", type=float, default=DEFAULT_WEIGHT, help="M in the box, in referring mode (5/7)")
    parser.add_argument("--refine", type=int, default=0, metavar="STEPS", help="refinement steps of the encoder (0)")
    parser.add_argument("--limit", type=int, help="only the first photos with a box")
    return parser.parse_args(arguments)


def compare(encoder, decoder, image, box, **arguments) -> dict[str, float]:
    """Share of the picture that the box covers, and bytes and PSNR inside it of the three files.

    Args:
        image (`PIL.Image.Image`).
        box: (x0, y0, x1, y1) in pixels, rounded to whole ones.
        arguments (weight, caption, ...): As the encoder takes them.
    """
    x0, y0, x1, y1 = whole = tuple(int(round(side)) for side in box)
    cut = image.crop(whole)
    pair = pair_at_equal_size(encoder, image, whole, **arguments)
    num_bytes = len(pair[0].bitstream)
    alone = encode_at_size(encoder, cut, num_bytes, **{key: arguments[key] for key in arguments if key != "weight"})
    row = {"share": (x1 - x0) * (y1 - y0) / (image.width * image.height)}
    for name, out in zip(("referring", "global", "alone"), (*pair, alone), strict=True):
        picture = decoder(out.bitstream, num_inference_steps=0).images[0]
        row[f"{name} bytes"] = len(out.bitstream)
        row[f"{name} psnr"] = psnr(picture, cut) if name == "alone" else psnr(picture, image, whole)
    return row


def box_alone_table(rows: dict[str, dict]) -> str:
    mean = {key: np.mean([row[key] for row in rows.values()]) for key in next(iter(rows.values()))}
    lines = [
        "| photo | box | bytes, referring | global | box alone | PSNR inside, referring | global | box alone "
        "| gain of referring | of the box alone |",
        "|---|" + "---:|" * 9,
    ]
    for name, row in {**rows, "**mean**": mean}.items():
        sizes = [f"{row[f'{kind} bytes']:.0f}" for kind in ("referring", "global", "alone")]
        quality = [f"{row[f'{kind} psnr']:.2f}" for kind in ("referring", "global", "alone")]
        gains = [f"{row[f'{kind} psnr'] - row['global psnr']:+.2f}" for kind in ("referring", "alone")]
        lines.append("| " + " | ".join([name, f"{100 * row['share']:.0f} %", *sizes, *quality, *gains]) + " |")
    return "\n".join(lines)


def main(arguments=None):
    args = parse_args(arguments)
    try:
        check_weight("--weight", args.weight)
        if args.refine < 0:
            raise ValueError(f"--refine must be a whole number from 0 up, got {args.refine}.")
        photos = find_photos(args.photos, limit=args.limit, annotated="box")
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    pipelines = [kind.from_pretrained(args.model) for kind in (RSICEncoderPipeline, RSICDecoderPipeline)]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    max_side = pipelines[0].config.default_max_side or DEFAULT_MAX_SIDE
    rows = {}
    for photo in tqdm(photos, desc="Photos"):
        image = photo.open()
        box = photo.pixel_box(image.size)
        if min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE + 1 or max(image.size) > max_side:
            print(
                f"{photo.name} is left out: the box must have sides of more than {MIN_SIDE} pixels to be coded alone, "
                f"and the photo of at most {max_side}, to be coded at the same size."
            )
            continue
        arguments = {"weight": args.weight, "caption": photo.caption, "refinement_steps": args.refine}
        rows[photo.name] = compare(*pipelines, image, box, **arguments)
    if rows:
        print(box_alone_table(rows))


if __name__ == "__main__":
    main()
