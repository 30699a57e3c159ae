"""Photos for training: list them, read them once, cut random crops."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm


SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


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
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"No photo in {folder}; expected files ending in {', '.join(sorted(SUFFIXES))}.")
        photos += [(path, labels.get(path.name, "")) for path in files]
    return photos


def read_photos(photos, min_side, max_side=None):
    """Read photos into memory, the short side brought into [`min_side`, `max_side`] pixels.

    Returns:
        `list[tuple[np.ndarray, str]]`: (H, W, 3) uint8 arrays with their labels; unreadable photos are named and
        skipped.
    """
    out = []
    for path, label in tqdm(photos, desc="Reading photos"):
        try:
            image = Image.open(path).convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            tqdm.write(f"Skipped {path}: {error}")
            continue
        short = min(image.size)
        target = max(min_side, min(short, max_side or short))
        if target != short:
            size = [max(min_side, round(side * target / short)) for side in image.size]
            image = image.resize(size, Image.Resampling.LANCZOS)
        out.append((np.asarray(image), label))
    if not out:
        raise ValueError("No readable photo was found.")
    return out


def random_crop(array, size, rng):
    """Cut a (size, size, C) window at a random place, mirrored half of the time."""
    top = rng.integers(array.shape[0] - size + 1)
    left = rng.integers(array.shape[1] - size + 1)
    crop = array[top : top + size, left : left + size]
    return crop[:, ::-1] if rng.integers(2) else crop
