"""What an evaluation leaves to be read: results.csv, results.json, table.md, curves.png and sheets of pictures."""

import csv
import io
import json
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

from ..bitstream import Bitstream
from ..files import write_file
from ..images import open_image
from ..metadata import save_picture
from ..referring.map_image import map_image
from .methods import VAE_ALONE
from .metrics import PICTURE_METRICS, SET_METRICS
from .sheet import draw_box, make_sheet


matplotlib.use("Agg")
from matplotlib import pyplot as plt


METRICS = {**PICTURE_METRICS, **SET_METRICS}
SHEET_COLUMNS = 4
LIBRARIES = (
    "rsic-diffusers", "torch", "diffusers", "transformers", "compressai", "numpy", "Pillow", "pillow-jxl-plugin",
    "scikit-image", "pytorch-msssim", "torchmetrics", "torch-fidelity",
)  # fmt: skip


def mean_rows(rows: list[dict], sets: list[dict]) -> list[dict]:
    """The mean of each figure over the photos that have it, by method and weight, in order; with the sets' distances.

    "counts" says over how many photos each mean is.
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["method"], row["weight"]), []).append(row)
    means = []
    for (method, weight), members in groups.items():
        mean = {"method": method, "weight": weight, "photos": len(members), "counts": {}}
        for name in {name: None for row in members for name in row if name not in ("weight", "time")}:
            values = [row[name] for row in members if isinstance(row.get(name), (int, float))]
            if values:
                mean[name], mean["counts"][name] = float(np.mean(values)), len(values)
        distances = [entry for entry in sets if (entry["method"], entry["weight"]) == (method, weight)]
        mean.update({entry["metric"]: entry["value"] for entry in distances if "value" in entry})
        means.append(mean)
    return means


def metrics_table(means: list[dict], with_weight: bool = False) -> str:
    """Markdown. A mean over fewer photos than the row's says so, and so does a codec that cannot go so low."""
    columns = {
        "photos": ("photos", "{:.0f}"),
        "bytes": ("bytes", "{:.0f}"),
        "bpp": ("bpp", "{:.4f}"),
        **{name: (metric.label, f"{{:.{metric.digits}f}}") for name, metric in METRICS.items()},
        "unet_evaluations": ("UNet evaluations", "{:.0f}"),
        "encode_seconds": ("encode, s", "{:.2f}"),
        "decode_seconds": ("decode, s", "{:.2f}"),
        "peak_memory": ("peak, MiB", "{:.0f}"),
    }
    if with_weight:
        columns = {"weight": ("M", "{:.3f}"), **columns}
    columns = {name: column for name, column in columns.items() if any(name in mean for mean in means)}
    lines = ["| | " + " | ".join(title for title, _ in columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    for mean in means:
        name = mean["method"]
        if mean.get("fits", 1) < 1:
            name += f" (cannot go this low: {(1 - mean['fits']) * mean['photos']:.0f} of {mean['photos']})"
        lines.append(f"| {name} | " + " | ".join(_cell(mean, *column) for column in columns.items()) + " |")
    return "\n".join(lines)


def _cell(mean: dict, name: str, column: tuple[str, str]) -> str:
    if name not in mean:
        return ""
    count = mean["counts"].get(name, mean["photos"])
    return column[1].format(mean[name]) + (f" (of {count})" if count < mean["photos"] else "")


def gain_table(rows: list[dict], referring: str, even: str) -> str:
    """Markdown, photo by photo: what referring mode gains inside the region over global mode with as many bytes."""
    columns = ("bytes", "bpp", "f_psnr", "psnr")
    pairs = {}
    for row in rows:
        if row["method"] in (referring, even) and None not in (row.get("f_psnr"), row.get("psnr")):
            pairs.setdefault(row["photo"], {})[row["method"]] = np.array([row[name] for name in columns])
    pairs = {photo: (pair[referring], pair[even]) for photo, pair in pairs.items() if len(pair) == 2}
    if not pairs:
        return ""
    pairs["**mean**"] = np.mean(list(pairs.values()), axis=0)
    lines = [
        "| photo | bytes, referring | bytes, global | bpp | f-PSNR, referring | f-PSNR, global | gain "
        "| PSNR, referring | PSNR, global |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for photo, (ours, theirs) in pairs.items():
        lines.append(
            f"| {photo} | {ours[0]:.0f} | {theirs[0]:.0f} | {ours[1]:.4f} | {ours[2]:.2f} | {theirs[2]:.2f} "
            f"| {ours[2] - theirs[2]:+.2f} | {ours[3]:.2f} | {theirs[3]:.2f} |"
        )
    return "\n".join(lines)


def plot_curves(means: list[dict], path: Path, limit: dict | None = None) -> None:
    """bpp against each metric: a line for each method through its weights, and one for `limit`, the VAE alone."""
    metrics = {name: metric for name, metric in METRICS.items() if any(name in mean for mean in means)}
    if not metrics:
        return
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False)
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    for (name, metric), axis in zip(metrics.items(), axes.flat, strict=False):
        for method in dict.fromkeys(mean["method"] for mean in means):
            points = sorted((mean["bpp"], mean[name]) for mean in means if mean["method"] == method and name in mean)
            curve = zip(*points, strict=True) if points else ([], [])
            axis.plot(*curve, "o-", markersize=3.5, linewidth=1.2, label=method)
        if limit and name in limit:
            axis.axhline(limit[name], color="black", linestyle="--", linewidth=1, label=VAE_ALONE)
        better = "higher" if metric.higher_is_better else "lower"
        axis.set(xscale="log", xlabel="bpp", ylabel=metric.label, title=f"{better} is better")
        axis.grid(True, which="both", alpha=0.3)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.set_layout_engine("constrained")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    write_file(path, buffer.getvalue())


def write_report(evaluation, sets: list[dict], num_sheets: int) -> None:
    """Everything there is to read of an [`Evaluation`] that has been measured.

    Args:
        sets (`list[dict]`): Of [`Evaluation.measure_sets`].
        num_sheets (`int`): Pictures of the first so many photos.
    """
    output, main_weight = evaluation.output, evaluation.weights[0]
    output.mkdir(parents=True, exist_ok=True)
    rows = evaluation.entries()
    main_rows = [row for row in rows if row["weight"] == main_weight]
    _write_csv(rows, output / "results.csv")
    results = json.dumps({**_about(evaluation), "sets": sets, "rows": rows}, indent=1, allow_nan=False)
    write_file(output / "results.json", results.encode())

    means = mean_rows(rows, sets)
    asked = f"M = {main_weight:.3f} where it matters"
    if evaluation.at_size_of:
        asked = f"each file as large as that of {evaluation.at_size_of}"
    text = [f"Means over the photos, {asked}.\n"]
    text.append(metrics_table([mean for mean in means if mean["weight"] == main_weight]))
    on_curve = [method for method in evaluation.methods if method.on_curve]
    names = [*(method.name for method in on_curve), *evaluation.peers]
    curves = [mean for mean in means if mean["method"] in names]
    limit = next((mean for mean in means if mean["method"] == VAE_ALONE), None)
    plot_curves(curves, output / "curves.png", limit)
    if len(evaluation.weights) > 1:
        text += ["\nThe curves.\n", metrics_table(curves, with_weight=True)]
    if evaluation.has_regions:
        decoded = {method.encoding: method.name for method in on_curve}  # each mode's last is by the first preset
        table = gain_table(main_rows, decoded["referring"], decoded["global"])
        text += ["\nReferring against global mode with as many bytes.\n", table] * bool(table)
    text += [f"\n{sentence}" for sentence in _about_sets(sets)]
    text += [f"\nFailed: {sentence}" for sentence in evaluation.failures()]
    text += [f"\nNot measured: {reason}" for reason in evaluation.unavailable]
    # A photo's name need not be UTF-8.
    write_file(output / "table.md", ("\n".join(text) + "\n").encode("utf-8", "backslashreplace"))
    done = {row["photo"] for row in main_rows if row["method"] == evaluation.methods[0].name}
    for photo in [photo for photo in evaluation.photos if photo.name in done][:num_sheets]:
        sheet = make_photo_sheet(evaluation, photo, [row for row in main_rows if row["photo"] == photo.name])
        path = output / "sheets" / f"{photo.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_picture(sheet, path)


def _about(evaluation) -> dict:
    """What the figures depend on besides the photos."""
    on_cuda = torch.device(evaluation.device).type == "cuda"
    asked = ("model", "loading", "weights", "background", "presets", "decodings", "single_layer", "referring_model")
    asked += ("max_side", "refinement_steps", "at_size_of", "seed", "unavailable")
    return {
        "command": shlex.join(sys.argv),
        **{name: getattr(evaluation, name) for name in asked},
        "device": torch.cuda.get_device_name(evaluation.device) if on_cuda else str(evaluation.device),
        "dtype": str(evaluation.dtype),
        "processes": evaluation.share.num_processes,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _write_csv(rows: list[dict], path: Path) -> None:
    text = io.StringIO(newline="")
    names = {name: None for row in rows for name in row if name not in ("settings", "time")}
    writer = csv.DictWriter(text, list(names), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode("utf-8", "backslashreplace"))


def _about_sets(sets: list[dict]) -> list[str]:
    """On what the distances of sets were measured, and why not."""
    measured = {
        (entry["metric"], entry["num_images"], entry["num_crops"], entry["crop"]) for entry in sets if "value" in entry
    }
    return [
        f"{SET_METRICS[metric].label}: over {num_crops} crops of {crop} x {crop} pixels of {num_images} pictures."
        for metric, num_images, num_crops, crop in sorted(measured)
    ] + sorted({f"Not measured: {entry['error']}" for entry in sets if "error" in entry})


def make_photo_sheet(evaluation, photo, rows: list[dict]) -> Image.Image:
    """The photo with its region, the map over it, and what each method made of it."""
    weight = evaluation.weights[0]
    original = photo.open()
    file = Bitstream.read(evaluation.file(photo, evaluation.methods[0].encoding, weight))
    has_box = photo.box and not photo.mask_path
    marked = draw_box(original, photo.pixel_box(original.size)) if has_box else original
    pictures = [(marked, f"original, {original.width} x {original.height}\n{photo.caption}")]
    over_photo = map_image(file.weight_map, (file.height, file.width), file.coded_size, original)
    pictures.append((over_photo, "the map M over it\nbright: faithful, dark: imagined"))
    for row in rows:
        title = row["method"] if row.get("fits") is not False else f"{row['method']}, its smallest file"
        ratios = [f"{METRICS[name].label} {row[name]:.1f} dB" for name in ("psnr", "f_psnr") if row.get(name)]
        size = f": {row['bytes']} bytes, {row['bpp']:.4f} bpp" if "bytes" in row else ""
        label = f"{title}{size}\n{', '.join(ratios)}"
        pictures.append((open_image(evaluation.picture(photo, row["method"], weight)), label))
    return make_sheet(pictures, SHEET_COLUMNS)
