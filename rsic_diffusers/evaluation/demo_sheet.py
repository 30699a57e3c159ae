"""The sheet that `rsic demo` saves."""

from PIL import Image

from ..bitstream import DEFAULT_MAX_SIDE, reduced_size
from ..bitstream.weight_map import DEFAULT_WEIGHT
from ..pipelines.encoder_inputs import choose_coded_side
from .equal_size import encode_at_size
from .metrics import psnr
from .peers import best_standard_codec
from .sheet import draw_box, make_sheet


def reduce(image, boxes, max_side: int):
    """A large photo, and its boxes, at the size that is coded: the search through other codecs would take minutes."""
    side = choose_coded_side(image.height, image.width, max_side)
    if side is None:
        return image, boxes
    height, width = reduced_size(image.height, image.width, side)
    print(f"The photo has {image.width} x {image.height} pixels; everything here is done at {width} x {height}.")
    across, down = width / image.width, height / image.height
    boxes = [(x0 * across, y0 * down, x1 * across, y1 * down) for x0, y0, x1, y1 in boxes]
    return image.resize((width, height), Image.Resampling.LANCZOS), boxes


def make_demo_sheet(
    encoder,
    decoder,
    image,
    boxes,
    caption,
    make_generator,
    weight: float = DEFAULT_WEIGHT,
    target_bytes: float | None = None,
    preset: str | None = None,
):
    """Original with the region, the map, both modes at about equal bytes, and a standard codec.

    Args:
        encoder, decoder: The pipelines.
        image (`PIL.Image.Image`): The photo, RGB.
        boxes (`list[tuple]`): (x0, y0, x1, y1) in pixels; the first is measured.
        caption (`str`, *optional*).
        make_generator (`Callable`): Gives the noise generator of each decoding, or None.
        weight (`float`): M within the boxes.
        target_bytes (`float`, *optional*): Budget of each file.
        preset (`str`, *optional*): Of the decoder.
    """
    image, boxes = reduce(image, boxes, encoder.config.default_max_side or DEFAULT_MAX_SIDE)
    referring = encoder(image, caption=caption, box=boxes, weight=weight, target_bytes=target_bytes)
    size = len(referring.bitstream)
    if target_bytes is None:
        even = encode_at_size(encoder, image, size, caption=caption)
    else:  # which neither file may exceed
        even = encoder(image, target_bytes=size, caption=caption)
    print(f"referring mode: {len(referring.bitstream)} bytes {referring.breakdown}")
    print(f"global mode:    {len(even.bitstream)} bytes {even.breakdown}")
    standard = best_standard_codec(image, size)

    def label(title, data, picture):
        bpp = 8 * len(data) / (image.width * image.height)
        return (
            f"{title}: {len(data)} bytes, {bpp:.4f} bpp\n"
            f"PSNR {psnr(picture, image):.1f} dB, in the region {psnr(picture, image, boxes[0]):.1f} dB"
        )

    original = image
    for box in boxes:
        original = draw_box(original, box)
    pictures = [
        (original, f"original, {image.width} x {image.height}, with the region\n{caption or '(no caption)'}"),
        (referring.map_image(), "the map M over it\nbright: faithful, dark: imagined"),
    ]
    for title, out in (("global mode", even), ("referring mode", referring)):
        print(f"decoding, {title}")
        picture = decoder(out.bitstream, preset=preset, generator=make_generator()).images[0]
        pictures.append((picture, label(title, out.bitstream, picture)))
    title = standard.name if standard.fits else f"{standard.name}, its smallest file"
    pictures.append((standard.image, label(title, standard.data, standard.image)))
    return make_sheet(pictures, columns=3)
