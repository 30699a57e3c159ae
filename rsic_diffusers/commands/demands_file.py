"""The file of `rsic encode --demands`, checked before the first photo is encoded."""

from pathlib import Path

from .errors import as_sentence


def read_demands_of(path: str) -> dict[str, dict]:
    """Arguments of the encoder by the photos' names; see `read_demands`."""
    from ..referring.demands import read_demands

    return read_demands(path)


def check_photo_demands(encoder, path: Path, name: str, asked: dict) -> None:
    """Check what is asked for of one photo, as far as its size alone tells: no pixel is read but a mask's.

    Raises:
        ValueError: What is wrong, with the photo's name.
    """
    from ..referring.regions import clip_region

    try:
        demands = encoder.check_arguments(**asked)
        size = _upright_size(path)
        for demand in demands if size else []:
            clip_region(demand, *size)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {as_sentence(error)}") from None


def _upright_size(path: Path) -> tuple[int, int] | None:
    """Height and width of the upright photo; None of what is no photo, which fails when its turn comes."""
    from PIL import Image
    from PIL.ExifTags import Base

    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(Base.Orientation, 1) in (5, 6, 7, 8)
            return image.size if is_turned else image.size[::-1]
    except Exception:  # Pillow's plugins raise all kinds
        return None
