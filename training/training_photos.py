"""Photos for training: found in folders or in a dataset, read, brought to size, cropped at random."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from rsic_diffusers.images import open_image, readable_suffixes


def find_photos(folders):
    """Pair each photo in `folders` and their subfolders with its label.

    Args:
        folders (`list[str]`): A `labels.tsv` in one of them, with the columns `file` (the path below the folder) and
            `label`, gives labels.

    Returns:
        `list[tuple[Path, str]]`: Path and label ("" where there is none), sorted by path.
    """
    photos = []
    suffixes = readable_suffixes()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give folders of photos.")
        labels = {}
        if (folder / "labels.tsv").exists():
            with open(folder / "labels.tsv", newline="", encoding="utf-8") as file:
                labels = {row["file"]: row["label"] or "" for row in csv.DictReader(file, delimiter="\t")}
        files = [Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names]
        files = sorted(path for path in files if path.suffix.lower() in suffixes)
        if not files:
            raise ValueError(f"No photo in {folder}; expected files ending in {', '.join(sorted(suffixes))}.")
        photos += [(path, labels.get(path.relative_to(folder).as_posix(), "")) for path in files]
    return photos


class DatasetPhotos(torch.utils.data.Dataset):
    """The photos of a dataset of the Hub, as files' bytes: read when they are asked for, from the memory-mapped table.

    Args:
        dataset (`datasets.Dataset`): With the column `image_column` not decoded.
    """

    def __init__(self, dataset, image_column: str):
        self.dataset, self.image_column = dataset, image_column

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        return _dataset_photo(self.dataset[i][self.image_column])


class StreamedPhotos(torch.utils.data.IterableDataset):
    """The photos of a dataset that is downloaded while it is read.

    Args:
        dataset (`datasets.IterableDataset`): With the column `image_column` not decoded. It divides its files among
            the workers of a DataLoader by itself.
    """

    def __init__(self, dataset, image_column: str):
        self.dataset, self.image_column = dataset, image_column

    def __iter__(self):
        for row in self.dataset:
            yield _dataset_photo(row[self.image_column])

    def part(self, process_index: int, num_processes: int):
        """What one of several processes is to read."""
        from datasets.distributed import split_dataset_by_node

        return StreamedPhotos(split_dataset_by_node(self.dataset, process_index, num_processes), self.image_column)


def _dataset_photo(image):
    """Of a row without an image, no bytes, which are skipped as an unreadable photo is."""
    if image is None:
        return b"", ""
    return (image["bytes"] if image["bytes"] else Path(image["path"])), ""


def dataset_photos(name, image_column, split="train", streaming=False, limit=None):
    """The photos of a dataset: a Hub id, or a folder that `datasets.load_dataset` reads.

    Args:
        streaming (`bool`): Read photos while they are downloaded; otherwise the dataset is downloaded first and then
            memory-mapped.
        limit (`int`, *optional*): Take the first so many photos.

    Returns:
        [`DatasetPhotos`], or [`StreamedPhotos`].

    Raises:
        ValueError: The package datasets is missing, or there is no such column.
    """
    try:
        from datasets import Image as ImageFeature
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(
            f'--dataset_name needs the package datasets: pip install "rsic-diffusers[datasets]" ({error}).'
        ) from None
    dataset = load_dataset(str(name), split=split, streaming=streaming)
    columns = dataset.column_names or list(next(iter(dataset)))
    if image_column not in columns:
        raise ValueError(f"{name} has no column {image_column!r}; it has {', '.join(columns)}.")
    dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    if streaming:
        return StreamedPhotos(dataset.take(limit) if limit else dataset, image_column)
    return DatasetPhotos(dataset.select(range(min(limit, len(dataset)))) if limit else dataset, image_column)


@dataclass(frozen=True)
class FitPhoto:
    """Brings a photo to the size that is encoded: smaller or larger where a side is too long or too short.

    Args:
        min_side (`int`): Of the short side, in pixels; goes before `max_side`.
        max_side (`int`): Of the long side; the encoder has one too.
    """

    min_side: int
    max_side: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(H, W, 3) uint8."""
        scale = max(self.min_side / min(image.size), min(1, self.max_side / max(image.size)))
        if scale != 1:
            size = [max(self.min_side, round(side * scale)) for side in image.size]
            image = image.resize(size, Image.Resampling.LANCZOS)
        return np.asarray(image)


def whole_positions(array: np.ndarray) -> np.ndarray:
    """An (H, W, 3) photo without the last rows and columns that fill no latent position: both sides multiples of 8."""
    height, width = (side - side % 8 for side in array.shape[:2])
    return array[:height, :width]


def vae_input(pixels: torch.Tensor) -> torch.Tensor:
    """Photos (B, H, W, 3), values from 0 to 255, as a VAE takes them: (B, 3, H, W), values in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2) / 127.5 - 1


def load_photo_arrays(photos, min_side, max_side):
    """Read photos one by one, brought to size by [`FitPhoto`].

    Args:
        photos (`list[tuple[Path | bytes, str]]`): What `find_photos` gives.

    Yields:
        `tuple[np.ndarray, str]`: (H, W, 3) uint8 array and label. Unreadable photos are named, skipped and counted;
        it is a ValueError if none is left.
    """
    fit = FitPhoto(min_side, max_side)
    skipped = 0
    for source, label in tqdm(photos, desc="Reading photos", mininterval=5):
        try:
            image = open_image(source)
        except (OSError, ValueError) as error:
            tqdm.write(f"Skipped {source}: {error}")
            skipped += 1
            continue
        yield fit(image), label
    if skipped:
        tqdm.write(f"{skipped} of {len(photos)} photos could not be read.")
    if skipped == len(photos):
        raise ValueError("No readable photo was found.")


def random_crop(picture, size, rng):
    """A window (C, size, size) at a random place of a photo or of latents, a `torch.Tensor` of shape (C, H, W)."""
    top, left = (rng.integers(side - size + 1) for side in picture.shape[1:])
    return picture[:, top : top + size, left : left + size]
