"""Rate against distortion of one or more codecs, as Markdown tables, a plot and Bjontegaard differences.

    python -m rsic_diffusers.evaluation.experiments.rate_distortion PHOTOS --output rd
    python -m rsic_diffusers.evaluation.experiments.rate_distortion PHOTOS --output rd \\
        --codec HSVLC=runs/hsvlc/hsvlc --codec "single layer=runs/single/hsvlc"

PHOTOS is a folder of photos; with an `annotations.json` in it, a list of {"file", "box"}, the box as fractions
(x0, y0, x1, y1) of width and height, the codecs are also measured over referring maps. Every photo is coded at its
native size to real streams, with M = k/7 everywhere (k = 0 to 7) and with M = k/7 in the box over a background of 0
(k = 1 to 7). Rates are bits of the code stream and of the map for each pixel, the file's header and caption left out.
The error is that of the latents, a mean over all elements, and over those inside the box; PSNR is that of the VAE's
picture of the decoded latents, and of "the VAE alone" that of its picture of the latents themselves. BD-rate is the
Bjontegaard difference of the first codec to each of the others, and inside the box of referring to constant M: how
many percent fewer (-) or more (+) bits it needs for the same latent error; BD-PSNR, how many dB more it has for the
same bits.

Needs the extra: pip install "rsic-diffusers[evaluation]"
"""

import argparse
import csv
from pathlib import Path

import bjontegaard
import matplotlib
import numpy as np
import torch
from diffusers import AutoModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm

from ...bitstream.map_coding import encode_map
from ...bitstream.weight_map import WeightMap
from ...hub import resolve_model
from ...models.hsvlc import HSVLC
from ...pipelines.compatibility import check_latent_space
from ...pipelines.latents import decode_latents, encode_image
from ...referring.demands import Demand, make_weight_map
from ..metrics import psnr
from ..photos import find_photos


matplotlib.use("Agg")
from matplotlib import pyplot as plt


STEPS = 7
PARTS = ("map", "f0", "f1", "f2", "f3")
PROCESSOR = VaeImageProcessor(do_resize=False)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", default="rsic-tiny", help="whose VAE is used, and the codec if no --codec is given")
    parser.add_argument(
        "--codec",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a codec that train_hsvlc.py exported; repeatable, the first is compared with the others",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, help="only the first photos")
    parser.add_argument("--no_psnr", action="store_true", help="leave the VAE's decoder out: quicker")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.csv, table.md and curve.png")
    args = parser.parse_args()
    for codec in args.codec:
        if not Path(codec.partition("=")[2], "config.json").exists():
            parser.error(f"--codec {codec}: expected NAME=FOLDER, the folder with a codec's config.json in it.")
    return args


def inside(box, shape) -> np.ndarray:
    """Latent positions whose centre lies in the box (in pixels)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    x, y = 8 * x + 4, 8 * y + 4
    return (box[0] <= x) & (x < box[2]) & (box[1] <= y) & (y < box[3])


@torch.no_grad()
def measure_coding(codec: HSVLC, latents, weight_map, box) -> tuple[dict, torch.Tensor]:
    """Bits by part and latent errors of one coding; and the decoded latents."""
    values = torch.from_numpy(weight_map.values)[None, None]
    shape = latents.shape[-2:]
    coded = codec.compress(latents, values)
    decoded = codec.decompress(coded.data, values, shape)
    error = (decoded - latents).square().mean(dim=(0, 1)).cpu().numpy()
    row = dict.fromkeys(PARTS, 0.0)
    row["map"] = 8 * len(encode_map(weight_map))
    row.update({f"f{i}": b for i, b in zip(codec.coded_scales, coded.bits_per_scale, strict=True)})
    row["bits"] = row["map"] + 8 * len(coded.data)
    row["mse"] = error.mean()
    row["mse inside"] = error[inside(box, shape)].mean() if box else np.nan
    return row, decoded


@torch.no_grad()
def picture_quality(vae, latents, image, box) -> dict:
    """PSNR of the VAE's picture of some latents."""
    picture = PROCESSOR.postprocess(decode_latents(vae, latents, (image.height, image.width)))[0]
    return {"psnr": psnr(picture, image), "psnr inside": psnr(picture, image, box) if box else np.nan}


def measure_all(photos, codecs, vae, args) -> tuple[list[dict], list[dict]]:
    """A row for each photo, codec and map; and for each photo one of the VAE alone."""
    rows, vae_rows = [], []
    for photo in tqdm(photos, desc="Photos"):
        image = photo.open()
        box = photo.pixel_box(image.size)
        with torch.no_grad():
            latents = encode_image(vae, PROCESSOR.preprocess(image).to(args.device))
        size = (image.height, image.width)
        maps = [("constant", k, WeightMap.constant(k / STEPS, *size)) for k in range(STEPS + 1)]
        if box:
            demands = [Demand(box=box, weight=k / STEPS) for k in range(1, STEPS + 1)]
            maps += [("referring", k, make_weight_map(*size, [one])) for k, one in enumerate(demands, 1)]
        if not args.no_psnr:
            vae_rows.append(picture_quality(vae, latents, image, box))
        for codec_name, codec in codecs.items():
            for kind, k, weight_map in maps:
                row, decoded = measure_coding(codec, latents, weight_map, box)
                for part in ("bits", *PARTS):
                    row["bpp" if part == "bits" else part] = row.pop(part) / (size[0] * size[1])
                row |= {} if args.no_psnr else picture_quality(vae, decoded, image, box)
                rows.append({"photo": photo.name, "codec": codec_name, "maps": kind, "k": k, **row})
    return rows, vae_rows


def mean_curve(rows, codec, kind) -> dict[str, np.ndarray]:
    """Each figure as an array over k, averaged over the photos."""
    rows = [row for row in rows if row["codec"] == codec and row["maps"] == kind]
    steps = sorted({row["k"] for row in rows})
    figures = [key for key in rows[0] if key not in ("photo", "codec", "maps")]
    return {figure: np.array([np.mean([r[figure] for r in rows if r["k"] == k]) for k in steps]) for figure in figures}


def bjontegaard_difference(difference, curve, anchor, figure: str) -> float:
    """`bjontegaard.bd_rate` (percent) or `bd_psnr` (dB) of mean curves, errors taken as 10 log10 of their inverse; NaN
    where the curves do not overlap, or one does not rise from point to point."""
    quality, anchor_quality = (
        points[figure] if figure.startswith("psnr") else -10 * np.log10(points[figure]) for points in (curve, anchor)
    )
    if any((np.diff(values) <= 0).any() for values in (curve["bpp"], quality, anchor["bpp"], anchor_quality)):
        return float("nan")
    return difference(
        anchor["bpp"],
        anchor_quality,
        curve["bpp"],
        quality,
        method="akima",
        require_matching_points=False,
        min_overlap=0,
    )


def against_the_others(curves, codecs, kinds) -> list[str]:
    """What the first codec saves, a line each."""
    lines = []
    first, *others = codecs
    for other in others:
        for kind in kinds:
            for error in ["mse"] + ["mse inside"] * (kind == "referring"):
                saved = bjontegaard_difference(bjontegaard.bd_rate, curves[first, kind], curves[other, kind], error)
                lines.append(f"BD-rate of {first} to {other}, {kind} M, latent {error}: {saved:+.1f} %")
    return lines


def against_constant_maps(rows, codec) -> list[str]:
    """What referring saves and gains inside the box, over the photos that have one; a line each."""
    rows = [row for row in rows if not np.isnan(row["mse inside"])]
    pair = [mean_curve(rows, codec, kind) for kind in ("referring", "constant")]
    saved = bjontegaard_difference(bjontegaard.bd_rate, *pair, "mse inside")
    lines = [f"BD-rate of referring to constant M, {codec}, latent mse inside: {saved:+.1f} %"]
    for figure, what in (("mse inside", "latents"), ("psnr inside", "pictures")):
        if figure in pair[0]:
            gain = bjontegaard_difference(bjontegaard.bd_psnr, *pair, figure)
            lines.append(f"BD-PSNR of referring to constant M, {codec}, {what} inside: {gain:+.2f} dB")
    return lines


def of_the_vae(rows) -> str:
    """What the codecs' pictures could reach, in a line."""
    line = f"The VAE alone: PSNR {np.mean([row['psnr'] for row in rows]):.2f} dB"
    in_boxes = [row["psnr inside"] for row in rows if not np.isnan(row["psnr inside"])]
    return line + (f", {np.mean(in_boxes):.2f} dB inside the box" if in_boxes else "")


def curve_table(curve) -> str:
    figures = ["bpp", *PARTS, "mse"] + [name for name in ("psnr", "mse inside", "psnr inside") if name in curve]
    figures = [name for name in figures if not np.isnan(curve[name]).all()]
    digits = {"mse": 3, "mse inside": 3, "psnr": 2, "psnr inside": 2}
    lines = ["| M | " + " | ".join(figures) + " |", "|---|" + "---:|" * len(figures)]
    for i, k in enumerate(curve["k"].astype(int)):
        cells = [f"{curve[name][i]:.{digits.get(name, 4)}f}" for name in figures]
        lines.append(f"| {k}/{STEPS} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(curves, path: Path) -> None:
    kinds = sorted({kind for _, kind in curves})
    figures = [name for name in ("mse", "psnr") if name in next(iter(curves.values()))]
    fig, axes = plt.subplots(len(kinds), len(figures), figsize=(6 * len(figures), 4.2 * len(kinds)), squeeze=False)
    for (codec, kind), curve in curves.items():
        for name, axis in zip(figures, axes[kinds.index(kind)], strict=True):
            name += " inside" if kind == "referring" else ""
            axis.semilogx(curve["bpp"], curve[name], "o-", label=codec)
            label = "latent MSE" if name.startswith("mse") else "PSNR / dB"
            axis.set(xlabel="bpp", ylabel=label, title="box M = k/7" if kind == "referring" else "constant M = k/7")
            axis.grid(True, which="both", alpha=0.3)
            axis.legend()
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def main():
    args = parse_args()
    try:
        photos = find_photos(args.photos, limit=args.limit)
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    model = resolve_model(args.model)
    vae = AutoModel.from_pretrained(model, subfolder="vae", torch_dtype=torch.float32).to(args.device).eval()
    codecs = {name: HSVLC.from_pretrained(folder) for name, _, folder in (c.partition("=") for c in args.codec)}
    codecs = codecs or {"HSVLC": HSVLC.from_pretrained(model, subfolder="hsvlc", torch_dtype=torch.float32)}
    for codec in codecs.values():
        codec.to(args.device).require_tables()
        check_latent_space(vae, codec)
    args.output.mkdir(parents=True, exist_ok=True)

    rows, vae_rows = measure_all(photos, codecs, vae, args)
    with open(args.output / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    kinds = sorted({row["maps"] for row in rows})
    curves = {(codec, kind): mean_curve(rows, codec, kind) for kind in kinds for codec in codecs}
    text = []
    for (codec, kind), curve in curves.items():
        text.append(f"### {codec}, {kind} M\n\n{curve_table(curve)}\n")
    lines = [of_the_vae(vae_rows)] if vae_rows else []
    lines += against_the_others(curves, codecs, kinds)
    for codec in codecs if "referring" in kinds else []:
        lines += against_constant_maps(rows, codec)
    text += [f"{line}\n" for line in lines]
    (args.output / "table.md").write_text("\n".join(text))
    plot(curves, args.output / "curve.png")
    print("\n".join(text))


if __name__ == "__main__":
    main()
