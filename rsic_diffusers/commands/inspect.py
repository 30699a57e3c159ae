"""`rsic inspect`: what the bytes of a file are spent on."""

from pathlib import Path

import numpy as np

from ..bitstream import Bitstream
from ..bitstream.weight_map import FAITHFUL, WeightMap, expand_to_pixels
from . import BaseRSICCommand
from .outputs import check_output, check_picture_name, read_file, save_image


# What M means to a person, from each value up.
FIDELITY = (
    (1.0, "as close to the original as the model can"),
    (FAITHFUL, "close to the original, the finest detail imagined"),
    (0.3, "shapes and colours of the original, all detail imagined"),
    (0.01, "rough shapes and colours of the original, the rest imagined"),
    (0.0, "imagined, from the caption and what is around it"),
)


class InspectCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "inspect",
            help="what the bytes of an .rsic file are spent on",
            description="Show size, caption, bytes by part, and the map, without loading a model.",
        )
        parser.add_argument("file", help="an .rsic file, or - for standard input")
        parser.add_argument("--map", metavar="PNG", help="also save the map as a picture")
        parser.add_argument("--photo", help="the photo that the file was made of, to show the map over")
        parser.set_defaults(command_class=InspectCommand)

    def run(self) -> int | None:
        args = self.args
        file = Bitstream.from_bytes(read_file(args.file))
        if args.photo and not args.map:
            raise ValueError("--photo is what the map is shown over; give --map a name for the picture.")
        if args.map:
            output = Path(args.map)
            for source in (args.file, args.photo):
                check_output(output, source)
            check_picture_name(output)
        _describe(args.file, file)
        if args.map:
            from ..images import open_image
            from ..referring.map_image import map_image

            photo = open_image(args.photo) if args.photo else None
            save_image(map_image(file.weight_map, (file.height, file.width), file.coded_size, photo), output)
            print(f"map saved to {output}")


def _describe(name: str, file: Bitstream) -> None:
    breakdown = file.breakdown()
    total = sum(breakdown.values())
    weight_map = file.weight_map
    levels = "one constant" if weight_map.mode == "global" else f"{weight_map.levels} levels"
    bpp = 8 * total / (file.width * file.height)
    print(f"{name}: {file.width} x {file.height} pixels, {total} bytes, {bpp:.4f} bpp")
    if file.coded_side:
        print("coded    at {1} x {0} pixels, which decoding enlarges".format(*file.coded_size))
    print(f"codec    {file.fingerprint.hex()}")
    print(f"mode     {weight_map.mode} ({levels})")
    print(f"caption  {file.caption!r} ({file.caption_codec})")
    print("picture  (how much of it is how true to the original)")
    for weight, share in shares(weight_map, file.coded_size):
        print(f"  {100 * share:5.1f} %  M = {weight:.2f}  {fidelity_in_words(weight)}")
    print("bytes")
    for part, size in breakdown.items():
        print(f"  {part:8s} {size:6d}  {100 * size / total:5.1f} %")
    print("map      (0 to 9: fidelity; one character pair for each 64 x 64 coded pixels)")
    for row in weight_map.values:
        print("  " + "".join(2 * str(round(9 * float(value))) for value in row))


def shares(weight_map: WeightMap, size: tuple[int, int]) -> list[tuple[float, float]]:
    """(M, part of the picture's area) for each value of M, the highest first; cells at the border may be cut off.

    Args:
        weight_map (`WeightMap`)
        size (`tuple[int, int]`): Height and width of the coded picture.
    """
    values, counts = np.unique(expand_to_pixels(weight_map.values, *size), return_counts=True)
    return [(float(value), count / counts.sum()) for value, count in zip(values[::-1], counts[::-1], strict=True)]


def fidelity_in_words(weight: float) -> str:
    """What a person can expect where M is `weight`."""
    return next(words for lowest, words in FIDELITY if weight >= lowest)
