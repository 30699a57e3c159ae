"""The photos that an evaluation runs over: a folder of them, with or without annotations."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..folders import find_files
from ..images import open_image, read_mask, readable_suffixes
from .metrics import box_region


@dataclass(frozen=True)
class Photo:
    """
    Args:
        path (`Path`): The photo.
        name (`str`): Its name in the annotations, or its path within the folder.
        caption (`str`): "" for none.
        phrase (`str`, *optional*): Words for what is referred to.
        box (*optional*): (x0, y0, x1, y1) as fractions of width and height.
        mask_path (`Path`, *optional*): A picture of the photo's size; what is not black is referred to.
    """

    path: Path
    name: str
    caption: str = ""
    phrase: str | None = None
    box: tuple | None = None
    mask_path: Path | None = None

    def checksum(self) -> int:
        """Of the files of the photo and its mask."""
        paths = [self.path, self.mask_path] if self.mask_path else [self.path]
        return zlib.crc32(b"".join(path.read_bytes() for path in paths))

    def open(self) -> Image.Image:
        return open_image(self.path)

    def pixel_box(self, size) -> tuple | None:
        """(x0, y0, x1, y1) in pixels of a photo of `size` (width, height)."""
        return self.box and tuple(fraction * side for fraction, side in zip(self.box, 2 * size, strict=True))

    def region(self, size) -> np.ndarray | None:
        """What is referred to, boolean (H, W): the mask's pixels, or those wholly inside the box."""
        if self.mask_path:
            return read_mask(self.mask_path)
        return None if self.box is None else box_region(self.pixel_box(size), size)

    def demand(self, size, by_phrase: bool = False) -> dict | None:
        """What an encoder is asked for: the mask or the box, or with `by_phrase` the phrase."""
        if by_phrase:
            return self.phrase and {"phrase": self.phrase}
        if self.mask_path:
            return {"mask": self.mask_path}
        return self.box and {"box": self.pixel_box(size)}


def find_photos(
    folder: Path,
    annotations: Path | None = None,
    limit: int | None = None,
    output: Path | None = None,
    annotated: str | None = None,
) -> list[Photo]:
    """The photos of a folder.

    Args:
        folder (`Path`)
        annotations (`Path`, *optional*): A JSON list of {"file", "caption", "phrase", "box", "mask"}, all but the
            first optional: boxes as fractions (x0, y0, x1, y1) of width and height, masks as paths from the
            annotations; of a box and a mask the mask counts. Default: `annotations.json` in the folder; without one,
            all photos there, without captions and regions.
        limit (`int`, *optional*): Only the first so many.
        output (`Path`, *optional*): A folder that is not looked into: what is there was made here.
        annotated (`str`, *optional*): Only photos that have this in the annotations: "box" or "caption".

    Raises:
        ValueError: No photo, no list, or an entry that cannot be; said before any photo is opened.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"The limit must be at least 1 photo, got {limit}.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} of photos.")
    if annotations is None and (folder / "annotations.json").exists():
        annotations = folder / "annotations.json"
    if annotations is None:
        paths = find_files(folder, readable_suffixes(), output or folder)
        photos = [Photo(path, path.relative_to(folder).as_posix()) for path in paths]
    else:
        photos = [_read_entry(folder, annotations, entry) for entry in _read_list(annotations)]
    if not photos:
        raise ValueError(f"There is no photo in {annotations or folder}.")
    names = [photo.name for photo in photos]
    if len(set(names)) < len(names):
        raise ValueError(f"{annotations} names {max(names, key=names.count)} more than once; name each photo once.")
    if annotated is not None:
        photos = [photo for photo in photos if getattr(photo, annotated)]
        if not photos:
            raise ValueError(f"{folder} holds no photo with a {annotated}; write it in its annotations.json.")
    return photos[:limit]


def _read_list(path: Path) -> list:
    try:
        entries = json.loads(path.read_text("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}).") from None
    if not isinstance(entries, list):
        raise ValueError(
            f'{path} must hold a list of objects like {{"file": "photo.jpg", "box": [0.1, 0.2, 0.8, 1]}}.'
        )
    return entries


def _read_entry(folder: Path, annotations: Path, entry) -> Photo:
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        raise ValueError(f'{annotations}: an entry must be an object with a "file", got {entry!r}.')
    name, box, mask = entry["file"], entry.get("box"), entry.get("mask")
    for key in ("file", "caption", "phrase", "mask"):
        if not isinstance(entry.get(key, ""), str | None):
            raise ValueError(f"{annotations}, {name}: {key} must be text, got {entry[key]!r}.")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{annotations}: {name} must be the name of a photo in {folder}.")
    if not (folder / name).is_file():
        raise ValueError(f"{annotations} names {name}, which {folder} does not hold.")
    if box is not None:
        is_box = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
        x0, y0, x1, y1 = box if is_box else (1, 1, 0, 0)
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(
                f"{annotations}, {name}: a box must be fractions [x0, y0, x1, y1] between 0 and 1, got {box!r}."
            )
        box = (x0, y0, x1, y1)
    if mask is not None and not (annotations.parent / mask).is_file():
        raise ValueError(f"{annotations}, {name}: there is no mask {annotations.parent / mask}.")
    return Photo(
        path=folder / name,
        name=name,
        caption=entry.get("caption") or "",
        phrase=entry.get("phrase"),
        box=box,
        mask_path=None if mask is None else annotations.parent / mask,
    )
