"""`rsic inspect`: what the bytes of a file are spent on."""

from pathlib import Path

from ..bitstream import Bitstream
from . import BaseRSICCommand
from .outputs import check_output, check_picture_name, save_image


class InspectCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "inspect",
            help="what the bytes of an .rsic file are spent on",
            description="Show size, caption, bytes by part, and the map, without loading a model.",
        )
        parser.add_argument("file")
        parser.add_argument("--map", metavar="PNG", help="also save the map as a picture")
        parser.add_argument("--photo", help="the photo that the file was made of, to show the map over")
        parser.set_defaults(command_class=InspectCommand)

    def run(self) -> int | None:
        args = self.args
        file = Bitstream.read(args.file)
        breakdown = file.breakdown()
        total = sum(breakdown.values())
        weight_map = file.weight_map
        levels = "one constant" if weight_map.mode == "global" else f"{weight_map.levels} levels"
        bpp = 8 * total / (file.width * file.height)
        print(f"{args.file}: {file.width} x {file.height} pixels, {total} bytes, {bpp:.4f} bpp")
        if file.coded_side:
            print("coded    at {1} x {0} pixels, which decoding enlarges".format(*file.coded_size))
        print(f"codec    {file.fingerprint.hex()}")
        print(f"mode     {weight_map.mode} ({levels})")
        print(f"caption  {file.caption!r} ({file.caption_codec})")
        print("bytes")
        for name, size in breakdown.items():
            print(f"  {name:8s} {size:6d}  {100 * size / total:5.1f} %")
        print("map      (0 to 9: fidelity; one character pair for each 64 x 64 coded pixels)")
        for row in weight_map.values:
            print("  " + "".join(2 * str(round(9 * float(value))) for value in row))
        if args.photo and not args.map:
            raise ValueError("--photo is what the map is shown over; give --map a name for the picture.")
        if args.map:
            from ..images import open_image
            from ..referring.map_image import map_image

            output = Path(args.map)
            for source in (args.file, args.photo):
                check_output(output, source)
            check_picture_name(output)
            photo = open_image(args.photo) if args.photo else None
            save_image(map_image(file.weight_map, (file.height, file.width), file.coded_size, photo), output)
            print(f"map saved to {output}")
