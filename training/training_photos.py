"""Photos for training: list them, read them, cut random crops."""

import csv
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from rsic_diffusers.images import open_image, readable_suffixes


def list_photos(folders):
    """Pair each photo of `folders` with its label.

    Args:
        folders (`list[str]`): Folders of photos. A `labels.tsv` with the columns `file` and `label` gives labels.

    Returns:
        `list[tuple[Path, str]]`: Path and label ("" where there is none), sorted by path.
    """
    photos = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give folders of photos.")
        labels = {}
        if (folder / "labels.tsv").exists():
            with open(folder / "labels.tsv", newline="", encoding="utf-8") as file:
                labels = {row["file"]: row["label"] or "" for row in csv.DictReader(file, delimiter="\t")}
        suffixes = readable_suffixes()
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
        if not files:
            raise ValueError(f"No photo in {folder}; expected files ending in {', '.join(sorted(suffixes))}.")
        photos += [(path, labels.get(path.name, "")) for path in files]
    return photos


def dataset_photos(name, image_column, label_column):
    """The photos of a dataset (a Hub id, or a folder that `datasets.load_dataset` reads), as `list_photos` has them.

    Raises:
        ValueError: A column is not there.
    """
    try:
        from datasets import Image as ImageFeature
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(
            f'--dataset_name needs the package datasets: pip install "rsic-diffusers[datasets]" ({error}).'
        ) from None
    dataset = load_dataset(name, split="train")
    for column in (image_column, label_column):
        if column and column not in dataset.column_names:
            raise ValueError(f"{name} has no column {column!r}; it has {', '.join(dataset.column_names)}.")
    dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    rows = ((row[image_column], str(row[label_column]) if label_column else "") for row in dataset)
    return [(io.BytesIO(image["bytes"]) if image["bytes"] else Path(image["path"]), label) for image, label in rows]


def load_photo_arrays(photos, min_side, max_side):
    """Read photos one by one, made smaller or larger where a side is too long or too short.

    Args:
        photos (`list[tuple[Path | BinaryIO, str]]`): What `list_photos` gives.
        min_side (`int`): Of the short side, in pixels; goes before `max_side`.
        max_side (`int`): Of the long side; the encoder has one too.

    Yields:
        `tuple[np.ndarray, str]`: (H, W, 3) uint8 array and label. Unreadable photos are named, skipped and counted;
        it is a ValueError if none is left.
    """
    skipped = 0
    for source, label in tqdm(photos, desc="Reading photos", mininterval=5):
        try:
            image = open_image(source)
        except (OSError, ValueError) as error:
            tqdm.write(f"Skipped {source}: {error}")
            skipped += 1
            continue
        scale = max(min_side / min(image.size), min(1, max_side / max(image.size)))
        if scale != 1:
            size = [max(min_side, round(side * scale)) for side in image.size]
            image = image.resize(size, Image.Resampling.LANCZOS)
        yield np.asarray(image), label
    if skipped:
        tqdm.write(f"{skipped} of {len(photos)} photos could not be read.")
    if skipped == len(photos):
        raise ValueError("No readable photo was found.")


def random_crop(array, size, rng):
    """Cut a window of (size, size) at a random place, mirrored half of the time.

    Args:
        array (`np.ndarray` of shape (H, W, C) or `torch.Tensor` of shape (C, H, W)).

    Returns:
        The crop; of a tensor in float32.
    """
    is_tensor = isinstance(array, torch.Tensor)
    height, width = array.shape[-2:] if is_tensor else array.shape[:2]
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    rows, columns = slice(top, top + size), slice(left, left + size)
    mirrored = rng.integers(2)
    if is_tensor:
        crop = array[:, rows, columns].float()
        return crop.flip(-1) if mirrored else crop
    return array[rows, columns][:, ::-1] if mirrored else array[rows, columns]
