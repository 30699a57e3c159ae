"""`rsic evaluate`: tables, curves and sheets over a folder of photos."""

import argparse
from pathlib import Path

from ..bitstream.weight_map import DEFAULT_BACKGROUND, DEFAULT_WEIGHT
from ..evaluation.methods import parse_decoding
from . import BaseRSICCommand
from .arguments import base_model_arguments, model_arguments, parse_named_folder
from .loading import check_model, find_device, loading_options
from .outputs import output_folder


EPILOG = """an annotations.json, of which only "file" is needed (a box is in fractions of width and height, not pixels
as for rsic encode; a mask's path is relative to this file, and a mask counts before a box; without this file: all
photos of the folder, in global mode):
  [{"file": "harbour.jpg", "caption": "a lighthouse above a harbour", "phrase": "the lighthouse",
    "box": [0.1, 0.2, 0.4, 0.9], "mask": "masks/harbour.png"}]

offline weights: LPIPS and DISTS need AlexNet's and VGG-16's weights, which torchvision downloads once. Without a
network, copy alexnet-owt-7be5be79.pth and vgg16-397923af.pth from another machine into TORCH_HOME/hub/checkpoints
(TORCH_HOME is ~/.cache/torch unless it is set); both lie there on any machine that has measured once.

examples:
  rsic evaluate photos -o out                                           the model against standard codecs
  rsic evaluate photos -o out --weights 0.714 0.429 1 --metrics all     curves, all metrics that can be had
  rsic evaluate photos -o out --presets paper --background 0 --ablations          the paper's Table I
  rsic evaluate photos -o out --external perco=decoded                  another codec: its pictures and sizes.json"""


def add_photo_options(parser) -> None:
    parser.add_argument("photos", help="folder of photos")
    parser.add_argument("-o", "--output", required=True, help="folder for all that is made")
    parser.add_argument("--annotations", metavar="JSON", help="default: annotations.json in the folder, if any")
    parser.add_argument("--limit", type=int, help="use only the first so many photos")
    parser.add_argument(
        "--referring-model",
        metavar="MODEL",
        help="refer by the photos' phrases, found by this CLIP or CLIPSeg of transformers, rather than by mask or box",
    )
    parser.add_argument(
        "--max-side",
        type=int,
        metavar="PIXELS",
        help="code larger photos smaller, see rsic encode (the model's own, 768 for rsic-tiny; 0: never)",
    )
    parser.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="STEPS",
        help="refinement steps of the encoder, see rsic encode (0)",
    )


def add_row_options(group) -> None:
    group.add_argument(
        "--weights",
        type=float,
        nargs="+",
        default=[DEFAULT_WEIGHT],
        metavar="W",
        help="M where it matters; the first is that of tables, the others add points to the curves "
        f"({DEFAULT_WEIGHT:.3f})",
    )
    group.add_argument(
        "--background",
        type=float,
        metavar="W",
        help=f"M elsewhere ({DEFAULT_BACKGROUND:.3f}, or a level below the least weight); the paper's is 0",
    )
    group.add_argument(
        "--presets",
        nargs="+",
        metavar="NAME",
        help="of the decoder, to compare (default: the model's own settings)",
    )
    group.add_argument(
        "--ablations", action="store_true", help="the paper's Table I around the first preset, at the first weight"
    )
    group.add_argument(
        "--decoding",
        action="append",
        default=[],
        type=parse_decoding,
        metavar="NAME:SETTING=VALUE,...",
        help='a row with other arguments of the decoder, "half way:strength=0.5,num_inference_steps=20"; repeatable',
    )
    group.add_argument("--single-layer", metavar="FOLDER", help='a codec for the ablation "without HSVLC"')
    group.add_argument("--seed", type=int, help="noise seed; default: from the files")


def add_other_codec_options(group) -> None:
    group.add_argument(
        "--codecs",
        nargs="*",
        metavar="NAME",
        help="jpeg, webp, avif, jpeg2000, jpegxl, vvc, ms-illm (default: the first five, as far as they can be had; "
        "without a name: none)",
    )
    group.add_argument(
        "--external",
        action="append",
        default=[],
        type=parse_named_folder,
        metavar="NAME=FOLDER",
        help="pictures that another codec made, with their sizes.json or sizes.csv",
    )
    group.add_argument(
        "--at-size-of",
        metavar="NAME",
        help="make each file as large as that of this --external codec, so that both are compared at equal bytes",
    )


def add_measure_options(group) -> None:
    group.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="of the picture: psnr, ssim, ms_ssim, lpips, dists, clip; inside the region: f_psnr, f_ssim, f_lpips, "
        "f_dists; outside it: b_psnr, b_lpips, b_dists; of the set: feature_distance, fid, kid; or all (default: all "
        "but clip, fid and kid; what cannot be had is left out with a line of why; see offline weights below)",
    )
    group.add_argument("--sheets", type=int, default=4, help="make comparison sheets of so many photos (4)")


class EvaluateCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "evaluate",
            parents=[model_arguments(), base_model_arguments()],
            help="tables, curves and sheets over a folder of photos",
            description="Encode a folder of photos to files, decode them in a fresh pipeline, and measure: in "
            "referring mode, in global mode at about as many bytes, without diffusion, and by other codecs at no "
            "more bytes. OUT gets table.md, results.csv, results.json, curves.png, sheets, and all files and "
            "pictures. An interrupted run goes on where it was; another metric or codec is added to what is there.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_photo_options(parser)
        add_row_options(parser.add_argument_group("our rows of the table"))
        add_other_codec_options(parser.add_argument_group("other codecs"))
        add_measure_options(parser.add_argument_group("what is measured and shown"))
        parser.set_defaults(command_class=EvaluateCommand)

    def run(self) -> int | None:
        args = self.args
        if args.sheets < 0:
            raise ValueError(f"--sheets must be a whole number from 0 up, got {args.sheets}.")
        from ..evaluation.photos import find_photos

        folder, output = Path(args.photos), output_folder(args)
        if output.exists() and folder.exists() and output.samefile(folder):
            raise ValueError(f"The output {output} is the folder of photos; give another.")
        photos = find_photos(folder, args.annotations and Path(args.annotations), args.limit, output)
        device = find_device(args)
        check_model(args)  # before the metrics, which take long to load
        import torch

        from ..evaluation.run import Evaluation, evaluate

        evaluation = Evaluation(
            photos,
            output,
            model=args.model,
            loading=loading_options(args),
            weights=args.weights,
            background=args.background,
            presets=args.presets or [None],
            with_ablations=args.ablations,
            decodings=args.decoding,
            single_layer=args.single_layer,
            codecs=args.codecs,
            external=args.external,
            at_size_of=args.at_size_of,
            metrics=args.metrics,
            referring_model=args.referring_model,
            max_side="auto" if args.max_side is None else args.max_side or None,
            refinement_steps=args.refine,
            device=device,
            dtype=getattr(torch, args.dtype),
            seed=args.seed,
        )
        failures = evaluate(evaluation, args.sheets)
        if evaluation.share.is_main_process:
            print((output / "table.md").read_text("utf-8"))
        return 1 if failures else 0
