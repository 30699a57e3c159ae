"""What an evaluation leaves to be read: results.csv, results.json, table.md, curves.png and sheets of pictures."""

import csv
import json
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from ..bitstream import Bitstream
from ..images import open_image
from ..referring.map_image import map_image
from .metrics import PICTURE_METRICS, SET_METRICS
from .sheet import draw_box, make_sheet


matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


SHEET_COLUMNS = 4


def mean_rows(rows: list[dict], sets: list[dict]) -> list[dict]:
    """The mean of each figure over the photos, by method and weight, in order; with the distances of the sets."""
    groups = {}
    for row in rows:
        groups.setdefault((row["method"], row["weight"]), []).append(row)
    means = []
    for (method, weight), members in groups.items():
        mean = {"method": method, "weight": weight, "photos": len(members)}
        for name in {name: None for row in members for name in row}:
            values = [row[name] for row in members if isinstance(row.get(name), (int, float))]
            if values and name not in mean:
                mean[name] = float(np.mean(values))
        ours = [one for one in sets if (one["method"], one["weight"]) == (method, weight)]
        mean.update({one["metric"]: one["value"] for one in ours if "value" in one})
        means.append(mean)
    return means


def as_table(means: list[dict], with_weight: bool = False) -> str:
    """Markdown. Of a codec that cannot go so low the name says for how many photos, and the bytes are its smallest."""
    metrics = {**PICTURE_METRICS, **SET_METRICS}
    columns = {
        "photos": ("photos", "{:.0f}"),
        "bytes": ("bytes", "{:.0f}"),
        "bpp": ("bpp", "{:.4f}"),
        **{name: (metric.label, f"{{:.{metric.digits}f}}") for name, metric in metrics.items()},
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
        cells = [form.format(mean[name]) if name in mean else "" for name, (_, form) in columns.items()]
        name = mean["method"]
        if mean.get("fits", 1) < 1:
            name += f" (cannot go this low: {(1 - mean['fits']) * mean['photos']:.0f} of {mean['photos']})"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_gain_table(rows: list[dict], referring: str, even: str) -> str:
    """Markdown, photo by photo: what referring mode gains inside the region over global mode with as many bytes."""
    columns = ("bytes", "bpp", "f_psnr", "psnr")
    pairs = {}
    for row in rows:
        if row["method"] in (referring, even) and "f_psnr" in row and "psnr" in row:
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


def plot_curves(means: list[dict], path: Path) -> None:
    """bpp against each metric, a line for each method, of those at more than one weight."""
    metrics = {**PICTURE_METRICS, **SET_METRICS}
    metrics = {name: metric for name, metric in metrics.items() if any(name in mean for mean in means)}
    methods = list(dict.fromkeys(mean["method"] for mean in means))
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False)
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    for (name, metric), axis in zip(metrics.items(), axes.flat):
        for method in methods:
            points = sorted((mean["bpp"], mean[name]) for mean in means if mean["method"] == method and name in mean)
            if points:
                axis.plot(*zip(*points), "o-", markersize=3.5, linewidth=1.2, label=method)
        better = "higher" if metric.higher_is_better else "lower"
        axis.set(xscale="log", xlabel="bpp", ylabel=metric.label, title=f"{metric.label} ({better} is better)")
        axis.grid(True, which="both", alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write_report(evaluation, sets: list[dict], about: dict, num_sheets: int) -> None:
    """Everything there is to read of an [`Evaluation`] that has been measured.

    Args:
        sets (`list[dict]`): Of [`Evaluation.measure_sets`].
        about (`dict`): Versions, command and the like, for results.json.
        num_sheets (`int`): Pictures of the first so many photos.
    """
    output, main_weight = evaluation.output, evaluation.weights[0]
    rows = evaluation.rows()
    with open(output / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list({name: None for row in rows for name in row if name != "settings"}))
        writer.writeheader()
        writer.writerows({name: value for name, value in row.items() if name != "settings"} for row in rows)
    results = {**about, "sets": sets, "rows": rows}
    (output / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), "utf-8")

    main_rows = [row for row in rows if row["weight"] == main_weight]
    means = mean_rows(rows, sets)
    text = [f"Means over the photos, M = {main_weight:.3f} where it matters.\n"]
    text.append(as_table([mean for mean in means if mean["weight"] == main_weight]))
    if len(evaluation.weights) > 1:
        names = [method.name for method in evaluation.methods if method.on_curve] + list(evaluation.peers)
        on_curves = [mean for mean in means if mean["method"] in names]
        text += ["\nThe curves.\n", as_table(on_curves, with_weight=True)]
        plot_curves(on_curves, output / "curves.png")
    if evaluation.has_regions:
        names = [method.name for method in evaluation.methods if method.on_curve][-2:]
        text += ["\nReferring against global mode with as many bytes.\n", as_gain_table(main_rows, *names)]
    text += [f"\n{sentence}" for sentence in _about_sets(sets)]
    text += [f"\nFailed: {sentence}" for sentence in evaluation.failures()]
    text += [f"\nNot measured: {reason}" for reason in about["unavailable"]]
    (output / "table.md").write_text("\n".join(text) + "\n", "utf-8")
    done = {row["photo"] for row in main_rows}
    for photo in [photo for photo in evaluation.photos if photo.name in done][:num_sheets]:
        sheet = make_photo_sheet(evaluation, photo, [row for row in main_rows if row["photo"] == photo.name])
        path = (output / "sheets" / photo.name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)


def _about_sets(sets: list[dict]) -> list[str]:
    """On what the distances of sets were measured, and why not."""
    measured = {(one["metric"], one["num_images"], one["num_crops"], one["crop"]) for one in sets if "value" in one}
    return [
        f"{SET_METRICS[metric].label}: over {num_crops} crops of {crop} x {crop} pixels of {num_images} pictures."
        for metric, num_images, num_crops, crop in sorted(measured)
    ] + sorted({f"Not measured: {one['error']}" for one in sets if "error" in one})


def make_photo_sheet(evaluation, photo, rows: list[dict]) -> Image.Image:
    """The photo with its region, the map over it, and what each method made of it."""
    weight = evaluation.weights[0]
    original = photo.open()
    file = Bitstream.read(evaluation.file(photo, evaluation.methods[0].encoding, weight))
    marked = draw_box(original, photo.pixel_box(original.size)) if photo.box else original
    pictures = [(marked, f"original, {original.width} x {original.height}\n{photo.caption}")]
    pictures.append((map_image(file, original), "the map M over it\nbright: faithful, dark: imagined"))
    for row in rows:
        title = row["method"] if row.get("fits", True) else f"{row['method']}, its smallest file"
        ratios = [f"{PICTURE_METRICS[name].label} {row[name]:.1f} dB" for name in ("psnr", "f_psnr") if name in row]
        label = f"{title}: {row['bytes']} bytes, {row['bpp']:.4f} bpp\n{', '.join(ratios)}"
        pictures.append((open_image(evaluation.picture(photo, row["method"], weight)), label))
    return make_sheet(pictures, SHEET_COLUMNS)
