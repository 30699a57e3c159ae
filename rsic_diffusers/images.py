"""Photos and masks as people have them, read to upright 8-bit sRGB or to a boolean mask."""

import io
import logging
import os

import numpy as np
from PIL import Image, ImageCms, ImageColor, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag


logger = logging.getLogger(__name__)

MAX_IMAGE_PIXELS = 1 << 26  # the largest picture that an .rsic file can describe
# What photos and masks come in. Pillow would also open EPS, for which it starts Ghostscript, and files of weather
# stations and films.
FORMATS = (
    "JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "JPEG2000", "JXL", "GIF", "BMP", "DIB", "PPM", "PCX", "SGI", "QOI",
    "ICO", "DDS", "PSD", "TGA",  # TGA last: it has no mark of its own, and would take other files for its own
)  # fmt: skip
ROUNDING = 1e-3  # by which floats may leave [0, 1]
# Pillow reads these only with the package pillow-heif. Folders are searched for them all the same, so that such photos
# are reported and not passed over.
HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
# Other files of several pictures are one photo: phones put a preview beside it.
ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF")
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


class ImageError(ValueError):
    """A picture or mask that cannot be read, or that holds values whose meaning is unclear."""


def readable_suffixes() -> list[str]:
    """File name endings of the picture formats that can be read: ".jpg", ".png" and so on, in lower case."""
    formats = _formats()
    known = [suffix for suffix, name in Image.registered_extensions().items() if name in formats]
    return known + [suffix for suffix in HEIF_SUFFIXES if suffix not in known]


def open_image(source, background="white", max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Read a photo from a file.

    Args:
        source: A path, the bytes of a file, or a binary file object, which is read from its beginning.
        background (`str` or tuple): The colour that transparent pixels are composited on: a name that Pillow knows,
            "#rrggbb", or (r, g, b) with values from 0 to 255.
        max_pixels (`int`): Larger pictures are refused before their pixels are decoded.

    Returns:
        `PIL.Image.Image`: 8-bit sRGB, turned upright as its EXIF orientation says.

    Raises:
        ImageError: The file is no picture, is damaged or too large, or its values have no agreed meaning.
        OSError: There is no such file, or it may not be read.
    """
    with _open_any(source, max_pixels) as image:
        picture = _explain(source, lambda: to_rgb(image, background))
        if _count_frames(image) > 1:
            logger.warning(f"Of {_name_of(source)}, which has {image.n_frames} frames, the first is taken.")
        return picture


def _count_frames(image: Image.Image) -> int:
    try:
        return image.n_frames if image.format in ANIMATIONS else 1
    except Exception:  # cut off after the first frame, which is all that is wanted
        return 1


def to_rgb(image: Image.Image, background="white") -> Image.Image:
    """Turn a Pillow image upright and convert it to 8-bit sRGB, transparent pixels composited on `background`.

    An embedded colour profile is converted to sRGB; a damaged one is ignored, with a warning. 16-bit grey is scaled by
    the bit depth that the file states; float grey must be in [0, 1].

    Raises:
        ImageError: Values without an agreed meaning: 32-bit integers, floats outside [0, 1], or numbers in a 16-bit
            image that all fit in 12 bits.
    """
    colour = as_colour(background)
    image.load()
    orientation, profile = _orientation(image), image.info.get("icc_profile")
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = Image.fromarray(_grey_to_8_bits(image))
    alpha = None
    if image.has_transparency_data:
        with_alpha = image.convert("LA" if image.mode in ("1", "L", "La", "LA") else "RGBA")
        image, alpha = with_alpha.convert(with_alpha.mode[:-1]), with_alpha.getchannel("A")
    image = _to_srgb(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, colour), alpha)
    if orientation in TRANSPOSES:
        image = image.transpose(TRANSPOSES[orientation])
    image.info = {}  # Pillow keeps the orientation and the profile, and whoever reads them would apply them again
    return image


def array_to_rgb(array: np.ndarray, background="white") -> np.ndarray:
    """Check an array that holds a photo, and bring it to floats.

    Args:
        array (`np.ndarray` of shape (H, W), (H, W, C) or (C, H, W)): C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4
            (RGB, alpha). uint8, uint16, or floats in [0, 1].
        background: As for `open_image`.

    Returns:
        `np.ndarray` of shape (H, W, 3), float32: RGB in [0, 1].
    """
    pixels = channels_last(array, "An image array")
    if pixels.dtype in (np.uint8, np.uint16):
        white = 255 if pixels.dtype == np.uint8 else _white_of_16_bits(pixels)
        pixels = pixels.astype(np.float32) / white
    elif pixels.dtype.kind != "f":
        raise ImageError(f"An image array must hold uint8 or floats in [0, 1], got {pixels.dtype}.")
    elif not (pixels.min() >= -ROUNDING and pixels.max() <= 1 + ROUNDING):
        raise ImageError("An image array of floats must hold numbers in [0, 1]; it holds others, or NaN.")
    pixels = pixels.astype(np.float32).clip(0, 1)
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:]
        backdrop = np.array(as_colour(background), np.float32) / 255
        return pixels[..., :-1] * alpha + backdrop * (1 - alpha)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def read_mask(source) -> np.ndarray:
    """Read a mask: it refers to every pixel whose number is not 0, that number being the index in a palette image, the
    alpha where an alpha channel varies, and otherwise the largest channel. A stack of masks, one per channel, as
    detectors give them, refers to what any of them does.

    Args:
        source: What `open_image` takes, a `PIL.Image.Image`, or an array or tensor of shape (H, W), (H, W, C) or
            (C, H, W). The last of 2 or 4 channels is alpha in a picture, and in an array (H, W, C) of numbers; arrays
            of booleans and arrays (C, H, W) are stacks of masks. Images are turned upright as their EXIF orientation
            says.

    Returns:
        `np.ndarray` of shape (H, W), bool: True where something is referred to.

    Raises:
        ImageError: The file cannot be read, or the values are no numbers or not finite.
    """
    if hasattr(source, "detach"):  # a torch tensor
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    has_alpha = True
    if isinstance(source, np.ndarray):
        numbers = channels_last(source, "A mask")
        has_alpha = source.dtype.kind != "b" and source.shape[-1] == numbers.shape[2]
    elif isinstance(source, Image.Image):
        numbers = _mask_numbers(source)
    elif is_file(source):
        with _open_any(source, MAX_IMAGE_PIXELS) as image:
            numbers = _explain(source, lambda: _mask_numbers(image))
    else:
        raise ImageError(
            f"A mask must be an array of numbers (H, W), a picture, or the path of one, got {type(source).__name__}."
        )
    if numbers.dtype.kind not in "buif":
        raise ImageError(
            f"A mask must be an array of numbers (H, W), a picture, or the path of one; it has dtype {numbers.dtype}."
        )
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise ImageError("The mask holds NaN or infinite values; give 0 and 1.")
    if has_alpha and numbers.shape[2] in (2, 4):
        alpha = numbers[..., -1:]
        numbers = alpha if alpha.min() < alpha.max() else numbers[..., :-1]
    mask = (numbers != 0).any(axis=2)
    if mask.all() and numbers.min() < numbers.max():
        logger.warning(
            "The mask is 0 nowhere, so it refers to the whole picture; if it holds probabilities, give mask > 0.5."
        )
    return mask


def channels_last(array: np.ndarray, what: str) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W), with at most 4 channels, as (H, W, C)."""
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3 or not (1 <= array.shape[2] <= 4 or 1 <= array.shape[0] <= 4):
        raise ImageError(
            f"{what} must have shape (H, W), (H, W, C) or (C, H, W) with at most 4 channels, got {array.shape}."
        )
    return array if 1 <= array.shape[2] <= 4 else np.moveaxis(array, 0, 2)


def is_file(source) -> bool:
    """Whether `open_image` takes this: a path, the bytes of a file, or a file object."""
    return isinstance(source, (str, os.PathLike, bytes, bytearray)) or hasattr(source, "read")


def _formats() -> list[str]:
    """Those of `FORMATS` that Pillow reads here, some of them by further packages."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _name_of(source) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else str(getattr(source, "name", "The data"))


def _explain(source, work):
    """Do `work`; what Pillow raises becomes an [`ImageError`] with Pillow's reason."""
    try:
        return work()
    except UnidentifiedImageError:
        raise ImageError(
            f"{_name_of(source)} is not an image of a kind that is read here; give a JPEG, PNG or WebP file."
        ) from None
    except Exception as error:  # Pillow's plugins raise all kinds: struct.error, SyntaxError, EOFError, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, ImageError):
            raise ImageError(f"{_name_of(source)}: {reason}.") from None
        raise ImageError(f"{_name_of(source)} cannot be read as an image: {reason}.") from None


def _open_any(source, max_pixels: int) -> Image.Image:
    """Read the header of a file, and refuse a picture that is too large before its pixels are decoded."""
    file = io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else source
    image = _explain(source, lambda: _open_with_heif(source, file))
    if image.width * image.height > max_pixels:
        image.close()
        raise ImageError(
            f"{_name_of(source)} has {image.width} x {image.height} pixels; at most {max_pixels} are accepted. "
            "Make it smaller first."
        )
    return image


def _open_with_heif(source, file) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        head = _head(file)
        if not head:
            raise ImageError("the file is empty (0 bytes)") from None
        if head.startswith(b"RS") and str(source).endswith(".rsic"):
            raise ImageError("this is an .rsic file, not a photo; `rsic decode` makes a picture of it") from None
        if not (head[4:8] == b"ftyp" and any(brand in head[8:] for brand in HEIF_BRANDS)):
            raise
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError(
            "HEIC photos are read through the package pillow-heif, which is not installed; "
            'pip install "rsic-diffusers[heif]"'
        ) from None
    register_heif_opener()
    return Image.open(file, formats=_formats())


def _head(file) -> bytes:
    """The first 32 bytes of a path or file object."""
    if not hasattr(file, "read"):
        with open(file, "rb") as opened:
            return opened.read(32)
    file.seek(0)  # as Pillow does
    return file.read(32)


def as_colour(background) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a name that Pillow knows, "#rrggbb" or (r, g, b); ValueError for others."""
    try:
        red, green, blue = (ImageColor.getrgb(background) if isinstance(background, str) else background)[:3]
        return int(red), int(green), int(blue)
    except (ValueError, TypeError):
        raise ValueError(
            f'A background colour is a name like "white", "#rrggbb" or (r, g, b), got {background!r}.'
        ) from None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the EXIF data is damaged. Nothing else of it is read."""
    try:
        return int(image.getexif().get(ExifTag.Orientation, 1))
    except Exception:  # broken EXIF fails in as many ways as broken files
        return 1


def upright_size(path) -> tuple[int, int] | None:
    """Height and width of a photo turned upright, without reading its pixels; None of what is no photo."""
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
            # The quarter turns of `TRANSPOSES`; of a TIFF, Pillow gives the turned size by itself.
            turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
    except Exception:  # Pillow's plugins raise all kinds
        return None
    return (width, height) if turned else (height, width)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Grey, CMYK or RGB of the given colour profile (None: sRGB) to RGB in sRGB."""
    if image.mode not in ("L", "CMYK", "RGB", "LAB"):
        image = image.convert("RGB")
    try:
        if profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        logger.warning(f"The colour profile of the picture is left out, its colours are taken as sRGB ({error}).")
    if image.mode == "LAB":  # which `convert` does not know
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    return image.convert("RGB")


def _grey_to_8_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):
            raise ImageError(
                f"Its floating-point values go from {values.min():g} to {values.max():g}; scale them to 0..1 or save "
                "it with 8 bits."
            )
        white = 1
    elif image.mode == "I" and image.format != "PPM":  # Pillow reads PGM files of 16 bits so
        raise ImageError("32-bit integers do not say which number is white; save it with 8 or 16 bits.")
    else:
        tags = getattr(image, "tag_v2", {})  # of a TIFF file: BitsPerSample and MaxSampleValue
        stated = [2 ** _first(tags.get(258, 16)) - 1, _first(tags.get(281, 65535))]
        stated = [white for white in stated if max(255, int(values.max())) <= white < 65535]
        white = min(stated) if stated else _white_of_16_bits(values)
    return np.round(255 / white * values).astype(np.uint8)


def _first(value) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _white_of_16_bits(values: np.ndarray) -> int:
    if 0 < values.max() < 4096:
        raise ImageError(
            f"Its 16-bit numbers go up to {values.max()} only, which looks like 12 bits or fewer in a 16-bit file; "
            "multiply them so that white is 65535, or save it with 8 bits."
        )
    return 65535


def _mask_numbers(image: Image.Image) -> np.ndarray:
    """The stored numbers of a Pillow image, upright: (H, W, C), C being 2 or 4 only with alpha."""
    image.load()
    orientation = _orientation(image)
    if image.mode in ("La", "RGBa", "PA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode in ("CMYK", "YCbCr", "HSV"):
        image = image.convert("RGB")  # black is not 0 in these
    if image.mode == "P":
        _check_palette(image)
    turned = image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image
    return channels_last(np.asarray(turned), "A mask")


def _check_palette(image: Image.Image) -> None:
    """Refuse a palette in which 0 is another colour than black and black another number: drawings of black and white
    end up so by chance, and would be read the wrong way round."""
    colours = {index: image.getpalette("RGB")[3 * index : 3 * index + 3] for _, index in image.getcolors()}
    if any(colours.get(0, [])) and [0, 0, 0] in colours.values():
        raise ImageError(
            "The mask is a palette image in which black is not the number 0, so it is unclear what it refers to; save "
            "it as greyscale."
        )
