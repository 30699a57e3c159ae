"""What the encoder is given: its settings, checked, and photos in any of the forms that people have them in."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import PIL.Image
import torch

from ..bitstream import MAX_CODED_SIDE, MAX_PIXELS, MAX_RETURNED_PIXELS, MAX_SIDE, MIN_SIDE, SIDE_STEP
from ..bitstream.caption_coding import check_caption_text
from ..images import array_to_rgb, as_colour, is_file, open_image, to_rgb
from ..referring.demands import check_levels, check_weight


DEFAULT_BACKGROUND_COLOR = "white"
CHECKPOINT_MAX_SIDE = "auto"  # the long side that the checkpoint was trained for
SLIGHT_EXCESS = 4  # pixels; with 8, scaling cost more quality than the bytes that it saved


@dataclass(frozen=True)
class EncoderSettings:
    """The arguments of `RSICEncoderPipeline.__call__` that all photos of a call share; its docstring describes them.

    Raises:
        ValueError: One of them has a wrong type or is out of range.
    """

    weight: float
    background: float | None
    levels: int
    mode: str | None
    fallback: str | None
    target_bytes: float | None
    target_bpp: float | None
    max_side: int | str | None
    max_pixels: int | None
    background_color: str | tuple
    caption_bytes: int
    caption_codec: str
    refinement_steps: int

    def __post_init__(self):
        check_weight("weight", self.weight)
        if self.background is not None:
            check_weight("background", self.background)
        check_levels(self.levels)
        if self.mode not in (None, "global", "referring"):
            raise ValueError(f'mode must be "global", "referring" or None, got {self.mode!r}.')
        if self.fallback not in (None, "global"):
            raise ValueError(f'fallback must be "global" or None, got {self.fallback!r}.')
        if self.target_bytes is not None and self.target_bpp is not None:
            raise ValueError("target_bytes and target_bpp both set the size of the file; give one of them.")
        for name in ("target_bytes", "target_bpp"):
            target = getattr(self, name)
            if target is not None and not (isinstance(target, Real) and target > 0):
                raise ValueError(f"{name} must be a number above 0, got {target!r}.")
        check_limit("max_pixels", self.max_pixels, 1)
        as_colour(self.background_color)
        if self.max_side != CHECKPOINT_MAX_SIDE:
            check_limit("max_side", self.max_side, SIDE_STEP)
        for name in ("caption_bytes", "refinement_steps"):
            value = getattr(self, name)
            if not (isinstance(value, Integral) and value >= 0):
                raise ValueError(f"{name} must be a whole number from 0 up, got {value!r}.")
        check_caption_text("", self.caption_codec)  # refuses an unknown codec

    def budget(self, height: int, width: int) -> float | None:
        """Bytes that the file of a photo of this size may have; None without a budget."""
        return self.target_bytes if self.target_bpp is None else self.target_bpp * height * width / 8


# Of an array that holds the argument of one photo.
DIMENSIONS = {"box": 1, "point": 1, "mask": 2}


def check_limit(name: str, value, least: int) -> None:
    """ValueError unless `value` is None, or a whole number that is not below `least`."""
    if value is not None and not (isinstance(value, Integral) and value >= least):
        raise ValueError(f"{name} must be a whole number from {least} up, or None, got {value!r}.")


def list_photos(image) -> tuple[list, bool]:
    """The photos of a call, as they were given, and whether they came as a batch (a list, tuple or 4-d array)."""
    if isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4:
        if not len(image):
            raise ValueError("There is nothing to encode: the list of images is empty.")
        return list(image), True
    return [image], False


def list_values(name: str, value, number: int) -> list:
    """What each photo of a batch of `number` is given for the argument `name`."""
    if value is None:
        return [None] * number
    if isinstance(value, (list, tuple)):
        is_list = not (name in DIMENSIONS and value and isinstance(value[0], Real))  # the numbers of one box
    else:
        is_list = name in DIMENSIONS and getattr(value, "ndim", 0) > DIMENSIONS[name]
    if is_list and len(value) == number:
        return list(value)
    if number == 1:
        return [value]
    raise ValueError(f"{number} images need a list of {number} for {name}; None stands for none.")


def load_photo(source, background_color, max_pixels: int | None) -> torch.Tensor:
    """Read one photo.

    Args:
        source: A `PIL.Image.Image`, a path, the bytes of a file or a binary file object; an array or tensor of shape
            (H, W, C) or (C, H, W) that holds uint8 or floats in [0, 1].
        background_color: Transparent pixels are composited on it.
        max_pixels (`int`, *optional*): Larger photos are refused, before they are decoded where possible.

    Returns:
        `torch.Tensor` of shape (1, 3, H, W), float32: Upright, sRGB, values in [-1, 1].

    Raises:
        ValueError: The photo cannot be read, is too large or too small, or holds values of unclear meaning.
    """
    limit = min(max_pixels or MAX_RETURNED_PIXELS, MAX_RETURNED_PIXELS)
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    if isinstance(source, PIL.Image.Image):
        check_size(*source.size, limit)
        pixels = _image_to_array(to_rgb(source, background_color))
    elif isinstance(source, np.ndarray):
        pixels = array_to_rgb(source, background_color)
    elif is_file(source):
        pixels = _image_to_array(open_image(source, background_color, limit))
    else:
        raise ValueError(
            f"An image must be a PIL image, a path, the bytes of a file, an array or a tensor, got "
            f"{type(source).__name__}."
        )
    check_size(pixels.shape[1], pixels.shape[0], limit)
    return 2 * torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None] - 1


def check_size(width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"The picture is {width} x {height} pixels; both sides must be at least {MIN_SIDE}.")
    if max(width, height) > MAX_SIDE or width * height > max_pixels:
        raise ValueError(
            f"The picture is {width} x {height} pixels; sides go up to {MAX_SIDE} and pixels to {max_pixels}. Make it "
            "smaller first."
        )


def choose_coded_side(height: int, width: int, max_side: int | None) -> int | None:
    """The long side to which a photo is reduced before coding, or None if it is coded at its own size.

    A long side that is up to `SLIGHT_EXCESS` pixels above a multiple of 128 is reduced to that multiple: a row of map
    cells and codes for these pixels alone would cost 10 % of the file or more.

    Raises:
        ValueError: The photo has too many pixels to be coded at its own size.
    """
    if max_side is not None and max(height, width) > max(max_side, SIDE_STEP):
        return min(max(int(max_side) // SIDE_STEP, 1) * SIDE_STEP, MAX_CODED_SIDE)
    excess = max(height, width) % SIDE_STEP
    multiple = max(height, width) - excess
    if max_side is not None and 0 < excess <= SLIGHT_EXCESS and multiple <= MAX_CODED_SIDE:
        return multiple
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"The picture is {width} x {height} pixels; at most {MAX_PIXELS} are coded. Give a max_side (768, say) to "
            "code it smaller."
        )
    return None


def _image_to_array(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255
