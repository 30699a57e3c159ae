"""The file of `rsic encode --demands`, checked before the first photo is encoded."""

import json
from functools import partial
from pathlib import Path

from ..referring.demands import Demand, check_keys
from ..referring.regions import clip_region
from .errors import as_sentence


DEMAND_KEYS = ("caption", "demands", "background", "weight", "levels", "mode", "target_bytes", "target_bpp")


def read_demands(path) -> dict[str, dict]:
    """A JSON file of what to ask for photo by photo.

        {"harbour.jpg": {"caption": "a lighthouse above a harbour", "background": 0.1,
                         "demands": [{"phrase": "the lighthouse"}, {"box": [10, 200, 90, 260], "weight": 0.6}]},
         "sky.jpg": {"weight": 0.3}}

    The path of a mask is relative to the file.

    Returns:
        `dict[str, dict]`: For each file name, arguments of the encoder.

    Raises:
        ValueError: No JSON, or a key or value that means nothing here.
    """
    try:
        # "utf-8-sig" reads past the byte order mark that some editors write.
        entries = json.loads(Path(path).read_text("utf-8-sig"), object_pairs_hook=partial(_unique_keys, path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}).") from None
    # null stands for nothing: no entry, or no such key.
    entries = _without_nulls(entries)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f'{path} must hold an object of objects, {{"photo.jpg": {{"demands": [...]}}, ...}}.')
    arguments = {}
    for name, entry in entries.items():
        check_keys(f"{path}, {name},", entry, DEMAND_KEYS)
        entry = dict(entry)
        if "demands" in entry:
            demands = entry.pop("demands")
            demands = demands if isinstance(demands, list) else [demands]
            if not demands:
                raise ValueError(f'{path}, {name}: "demands" is empty; leave it out.')
            try:
                for fields in demands:
                    Demand.from_dict(fields)
            except ValueError as error:
                raise ValueError(f"{path}, {name}: {error}") from None
            entry["referring"] = [_with_mask_beside(path, fields) for fields in demands]
        arguments[name] = entry
    return arguments


def check_photo_demands(encoder, path: Path, name: str, asked: dict) -> None:
    """Check what is asked for of one photo, as far as its size alone tells: no pixel is read but a mask's.

    Raises:
        ValueError: What is wrong, with the photo's name.
    """
    from ..images import upright_size

    try:
        demands = encoder.check_arguments(**asked)
        size = upright_size(path)
        for demand in demands if size else []:
            clip_region(demand, *size)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {as_sentence(error)}") from None


def _unique_keys(path, pairs: list[tuple]) -> dict:
    """An object of a JSON file; of two equal keys, json would drop the first in silence."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{path} names {max(keys, key=keys.count)!r} twice in one object; keep one of the two.")
    return fields


def _without_nulls(value):
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _with_mask_beside(path, fields: dict) -> dict:
    """A mask's path is meant from the file that names it."""
    mask = fields.get("mask")
    if mask is None:
        return fields
    if not isinstance(mask, str):
        raise ValueError(f"{path}: a mask must be the path of a picture, got {mask!r}.")
    return {**fields, "mask": Path(path).parent / mask}
