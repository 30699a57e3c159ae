"""What visitors give, checked and brought into the form that the pipelines take."""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..bitstream import Bitstream, reduced_size
from ..images import open_image, upright_size
from ..referring.demands import Demand
from ..referring.regions import clip_region
from ..typed_numbers import parse_numbers
from .limits import MAX_BOXES, MAX_CODED_PIXELS, MAX_PHOTO_PIXELS, MAX_UPLOAD_BYTES, WORK_SIDE


def read_photo(path) -> Image.Image:
    """An uploaded photo: upright sRGB, a larger one reduced to a long side of `WORK_SIDE` pixels.

    Raises:
        ValueError: There is no photo, or it cannot be read or is too large.
    """
    if not path:
        raise ValueError("There is no photo yet; drop one into the page or take the example.")
    file = io.BytesIO(_read(path))
    file.name = Path(path).name  # errors call it by its own name, not by the server's
    photo = open_image(file, max_pixels=MAX_PHOTO_PIXELS)
    if max(photo.size) <= WORK_SIDE:
        return photo
    height, width = reduced_size(photo.height, photo.width, WORK_SIDE)
    return photo.resize((width, height), Image.Resampling.LANCZOS)


def upright_photo_size(path) -> tuple[int, int]:
    """Width and height of an uploaded photo, upright, before it is reduced."""
    height, width = upright_size(path)
    return width, height


def read_file(path) -> tuple[Bitstream, bytes]:
    """An uploaded `.rsic` file: what it holds, and its bytes.

    Raises:
        ValueError: There is no file, it is damaged, or its picture is too large for this page.
    """
    if not path:
        raise ValueError("There is no file yet; drop an .rsic file into the page.")
    data = _read(path)
    file = Bitstream.from_bytes(data)
    height, width = file.coded_size
    if height * width > MAX_CODED_PIXELS:
        raise ValueError(
            f"The file holds a picture coded at {width} x {height} pixels; this page decodes at most "
            f"{MAX_CODED_PIXELS} pixels. Use `rsic decode` on your own computer."
        )
    return file, data


def _read(path) -> bytes:
    size = Path(path).stat().st_size
    if size > MAX_UPLOAD_BYTES:
        raise ValueError(f"The file has {size >> 20} MB; this page takes at most {MAX_UPLOAD_BYTES >> 20} MB.")
    return Path(path).read_bytes()


def drawn_boxes(annotated) -> list[tuple[float, float, float, float]]:
    """Corners (x0, y0, x1, y1) of the boxes drawn on the photo, in its pixels.

    Raises:
        ValueError: The photo was turned, so that they are in other pixels.
    """
    if (annotated or {}).get("orientation"):
        raise ValueError("The photo was turned after it was loaded; load it again, and leave it upright.")
    boxes = (annotated or {}).get("boxes") or []
    return [tuple(float(box[side]) for side in ("xmin", "ymin", "xmax", "ymax")) for box in boxes]


def typed_boxes(text: str, weight: float) -> list[Demand]:
    """Boxes typed one a line, `x0,y0,x1,y1` or `x0,y0,x1,y1:weight`; `weight` is for those without their own."""
    parse = parse_numbers(4)
    demands = []
    for line in (text or "").splitlines():
        if not line.strip():
            continue
        try:
            corners, own = parse(line.strip())
        except argparse.ArgumentTypeError:
            raise ValueError(
                f"{line.strip()!r} is no box; give four numbers in pixels, such as 120,40,300,300, one box a line."
            ) from None
        demands.append(Demand(box=corners, weight=weight if own is None else own))
    return demands


def scale_box(demand: Demand, photo_size: tuple[int, int], size: tuple[int, int]) -> Demand:
    """A box in pixels of the photo as one in pixels of `size`, at which the page works; both are (width, height).

    Raises:
        ValueError: It lies outside the photo.
    """
    x0, y0, x1, y1 = clip_region(demand, *photo_size[::-1]).box
    across, down = (side / whole for side, whole in zip(size, photo_size, strict=True))
    return Demand(box=(across * x0, down * y0, across * x1, down * y1), weight=demand.weight)


def painted_mask(editor, size: tuple[int, int]) -> np.ndarray | None:
    """What was painted over the photo, as a boolean (H, W) array; None if nothing was.

    Args:
        editor (`dict`, *optional*): The value of gradio's ImageEditor, its layers RGBA pictures.
        size (`tuple[int, int]`): Width and height of the photo.
    """
    mask = np.zeros(size[::-1], bool)
    for layer in (editor or {}).get("layers") or []:
        alpha = layer.convert("RGBA").getchannel("A")
        mask |= np.asarray(alpha.resize(size, Image.Resampling.NEAREST)) > 0
    return mask if mask.any() else None


def collect(annotated, box_weights, typed, editor, paint_weight, phrase, weight, size, photo_size) -> list[Demand]:
    """Everything that a visitor marked, each with its weight.

    Args:
        size (`tuple[int, int]`): Width and height of the photo as the page works on it.
        photo_size (`tuple[int, int]`): Those of the photo itself, in whose pixels boxes are typed.

    Raises:
        ValueError: There are too many boxes, or one is malformed.
    """
    boxes = drawn_boxes(annotated)
    # There is a slider for each box that could be drawn.
    demands = [Demand(box=box, weight=own) for box, own in zip(boxes, box_weights, strict=False)]
    demands += [scale_box(demand, photo_size, size) for demand in typed_boxes(typed, weight)]
    if len(boxes) > MAX_BOXES or len(demands) > MAX_BOXES:
        raise ValueError(f"There are more than {MAX_BOXES} boxes; remove some, or paint what matters.")
    mask = painted_mask(editor, size)
    if mask is not None:
        demands.append(Demand(mask=mask, weight=paint_weight))
    if phrase and phrase.strip():
        demands.append(Demand(phrase=phrase.strip(), weight=weight))
    return demands
