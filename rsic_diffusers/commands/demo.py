"""`rsic demo`: one photo there and back, as one sheet of pictures."""

from pathlib import Path

from ..bitstream.weight_map import DEFAULT_WEIGHT
from ..example_photo import BOX, CAPTION, example_path
from ..typed_numbers import parse_numbers
from . import BaseRSICCommand
from .arguments import caption_arguments, model_arguments
from .loading import load_pipeline, make_generator
from .outputs import check_output, check_picture_name, save_image


class DemoCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "demo",
            parents=[model_arguments(), caption_arguments()],
            help="encode and decode a photo, save one sheet",
            description="Encode a photo in referring and in global mode at about equal bytes, decode both, and save a "
            "sheet beside what a standard codec makes of as many bytes. Without a photo: one that matplotlib ships.",
        )
        parser.add_argument("photo", nargs="?", help="default: a photo that matplotlib brings along")
        parser.add_argument(
            "--box",
            action="append",
            type=parse_numbers(4, weighted=False),
            metavar="X0,Y0,X1,Y1",
            help="what must stay faithful, in pixels; may be given several times",
        )
        parser.add_argument(
            "--weight", type=float, default=DEFAULT_WEIGHT, help=f"fidelity there, 0 to 1 ({DEFAULT_WEIGHT:.3f})"
        )
        parser.add_argument("--budget", type=float, metavar="BYTES", help="fill so many bytes, and never more")
        parser.add_argument("--preset", help="of the decoder: paper, balanced or fast; default: the model's own")
        parser.add_argument("-o", "--output", default="rsic_demo.png", help="the sheet (rsic_demo.png)")
        parser.add_argument("--seed", type=int, help="noise seed; default: from the files")
        parser.set_defaults(command_class=DemoCommand)

    def run(self) -> int | None:
        args = self.args
        from ..images import open_image

        output = Path(args.output)
        check_output(output, args.photo)
        check_picture_name(output)
        caption, boxes = args.caption, [box for box, _ in args.box or []]
        if args.photo:
            image = open_image(args.photo)
            boxes = boxes or [(image.width / 4, image.height / 4, image.width * 3 / 4, image.height * 3 / 4)]
        else:
            image = open_image(example_path())
            caption, boxes = CAPTION if caption is None else caption, boxes or [BOX]
        encoder, decoder = load_pipeline("RSICEncoderPipeline", args), load_pipeline("RSICDecoderPipeline", args)
        decoder.default_settings(args.preset)  # a wrong name is refused before anything is encoded
        decoder.set_progress_bar_config(disable=False)

        from ..evaluation.demo_sheet import make_demo_sheet

        sheet = make_demo_sheet(
            encoder,
            decoder,
            image,
            boxes,
            caption,
            lambda: make_generator(args.seed),
            weight=args.weight,
            target_bytes=args.budget,
            preset=args.preset,
        )
        save_image(sheet, output)
        print(f"The sheet is {output}")
