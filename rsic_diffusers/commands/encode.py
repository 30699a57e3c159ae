"""`rsic encode`: photos to `.rsic` files."""

import argparse
from pathlib import Path

from ..bitstream import DEFAULT_MAX_SIDE
from . import BaseRSICCommand
from .arguments import demand_arguments, model_arguments, parse_numbers, parse_phrase
from .loading import load_pipeline
from .outputs import output_folder, output_path, print_summary


EPILOG = """a file for --demands, by the photos' names (in their folder):
  {"harbour.jpg": {"caption": "a lighthouse above a harbour", "background": 0.1,
                   "demands": [{"phrase": "the lighthouse"}, {"box": [10, 200, 90, 260], "weight": 0.6}]},
   "dog.jpg": {"demands": {"mask": "dog-mask.png"}, "target_bytes": 600},
   "sky.jpg": {"weight": 0.3}}"""


class EncodeCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "encode",
            parents=[model_arguments(), demand_arguments()],
            help="photo to .rsic file",
            description="Compress a photo, or a folder of photos. With --refer, --box, --point or --mask the bytes go "
            "there; with none of them, evenly.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("photo", help="a photo, or a folder of photos")
        parser.add_argument(
            "-o", "--output", help="default: the photo's name with .rsic, if there is none yet; for a folder: a folder"
        )
        parser.add_argument(
            "--refer",
            action="append",
            type=parse_phrase,
            metavar="PHRASE[:W]",
            help='"the dog:0.6"; needs --referring-model',
        )
        parser.add_argument(
            "--box",
            action="append",
            type=parse_numbers(4),
            metavar="X0,Y0,X1,Y1[:W]",
            help="what must stay faithful, in pixels, and its weight; may be given several times",
        )
        parser.add_argument(
            "--point", action="append", type=parse_numbers(2), metavar="X,Y[:W]", help="a disc around this pixel"
        )
        parser.add_argument("--mask", help="a picture of the photo's size; what is not black matters")
        parser.add_argument("--demands", metavar="JSON", help="caption, demands and more by file name, see below")
        parser.add_argument(
            "--referring-model",
            metavar="MODEL",
            help="finds phrases: a CLIP or CLIPSeg of transformers, folder or Hub id",
        )
        parser.add_argument(
            "--captioner",
            metavar="MODEL",
            help="describes what has no caption: LLaVA, SmolVLM, BLIP, ... of transformers, folder or Hub id",
        )
        parser.add_argument(
            "--caption-bytes", type=int, default=60, metavar="N", help="most bytes for what the captioner says (60)"
        )
        parser.add_argument(
            "--fallback", choices=["global"], help="what to do with a photo in which a phrase is not found (warn)"
        )
        parser.add_argument("--budget", type=float, metavar="BYTES", help="fill so many bytes, and never more")
        parser.add_argument("--weight", type=float, default=1.0, help="fidelity there (or everywhere), 0 to 1 (1)")
        parser.add_argument("--background", type=float, default=0.0, help="fidelity elsewhere, 0 to 1 (0)")
        parser.add_argument("--levels", type=int, default=8, help="levels of the map, 2 to 8 (8)")
        parser.add_argument(
            "--max-side",
            type=int,
            default=DEFAULT_MAX_SIDE,
            metavar="PIXELS",
            help="code a larger photo at this size; the decoder enlarges it again (768; 0: never)",
        )
        parser.add_argument(
            "--refine",
            type=int,
            default=0,
            metavar="STEPS",
            help="spend time on fidelity where it matters, for about as many bytes: steps that refine what is coded "
            "(0; 4 "
            "do most of it)",
        )
        parser.set_defaults(command_class=EncodeCommand)

    def run(self) -> int | None:
        args = self.args
        from ..images import open_image
        from ..referring.demands import read_demands

        listed = read_demands(args.demands) if args.demands else {}
        demands = [("phrase", args.refer), ("box", args.box), ("point", args.point)]
        if args.mask:
            demands.append(("mask", [(args.mask, None)]))
        asked = {
            "caption": args.caption,
            "referring": [
                {kind: value} | ({} if weight is None else {"weight": weight})
                for kind, several in demands
                for value, weight in several or []
            ]
            or None,
            "weight": args.weight,
            "background": args.background,
            "fallback": args.fallback,
            "levels": args.levels,
            "target_bytes": args.budget,
            "max_side": args.max_side or None,
            "caption_bytes": args.caption_bytes,
            "refinement_steps": args.refine,
        }
        if Path(args.photo).is_dir():
            return _encode_folder(args, asked, listed)
        output = output_path(args.output, args.photo, ".rsic")
        name = Path(args.photo).name
        if listed and name not in listed:
            raise ValueError(f"{args.demands} does not speak of {name}; it names {', '.join(listed)}.")
        image = open_image(args.photo)
        encoder = load_pipeline("RSICEncoderPipeline", args)
        encoder.set_progress_bar_config(disable=not args.refine)
        out = encoder(image, **_asked_of(name, asked, listed))
        out.save(output)
        parts = ", ".join(f"{name} {size}" for name, size in out.breakdown.items())
        print(f"{output}: {len(out.bitstream)} bytes, {out.bpp:.4f} bpp ({parts})")
        return 0


def _asked_of(name, asked, listed) -> dict:
    """Arguments of the encoder for one photo: what its own entry says, and for the rest the command line.

    An entry that says what matters says all of it, and a budget in bytes takes the place of one in bpp.
    """
    own = listed.get(name, {})
    replaced = {"referring", "mode"} if {"referring", "mode"} & set(own) else set()
    replaced |= {"target_bytes", "target_bpp"} if {"target_bytes", "target_bpp"} & set(own) else set()
    return {name: value for name, value in asked.items() if name not in replaced} | own


def _encode_folder(args, asked, listed) -> int:
    from ..folders import plan, run
    from ..images import open_image, readable_suffixes

    folder, output = Path(args.photo), output_folder(args)
    jobs = plan(folder, output, readable_suffixes(), ".rsic")
    unknown = set(listed) - {str(path.relative_to(folder)) for path in jobs}
    if unknown:
        raise ValueError(f"{args.demands} speaks of {', '.join(sorted(unknown))}, of which {folder} holds no photo.")
    encoder = load_pipeline("RSICEncoderPipeline", args)
    encoder.check_arguments(**asked)  # what is wrong for all photos is said once

    def work(inputs, outputs):
        figures = []
        for path, target in zip(inputs, outputs):
            out = encoder(open_image(path), **_asked_of(str(path.relative_to(folder)), asked, listed))
            out.save(target)
            figures.append({"bytes": len(out.bitstream), "bpp": round(out.bpp, 5), "breakdown": out.breakdown})
        return figures

    return print_summary(run(jobs, work, output, "Encoding"), output)
