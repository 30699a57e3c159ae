"""`rsic encode`: photos to `.rsic` files."""

import argparse
import sys
from pathlib import Path

from ..bitstream.caption_coding import DEFAULT_CAPTION_BYTES
from ..bitstream.weight_map import DEFAULT_BACKGROUND, DEFAULT_WEIGHT
from ..folders import file_identity, plan, run
from ..referring.demands import MAX_LEVELS
from ..typed_numbers import parse_numbers
from . import BaseRSICCommand
from .arguments import (
    base_model_arguments,
    caption_arguments,
    folder_arguments,
    max_pixels_arguments,
    model_arguments,
    parse_phrase,
)
from .demands_file import check_photo_demands, read_demands
from .errors import as_sentence
from .loading import load_pipeline
from .outputs import (
    STANDARD,
    check_codec_name,
    open_photo,
    output_folder,
    output_path,
    print_summary,
    refuse_encoded,
    say,
    write_result,
)


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
            parents=[
                model_arguments(),
                base_model_arguments(),
                caption_arguments(),
                folder_arguments(),
                max_pixels_arguments(),
            ],
            help="photo to .rsic file",
            description="Compress a photo, or a folder of photos. With --refer, --box, --point or --mask the bytes go "
            "there; with none of them, evenly.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("photo", help="a photo, a folder of photos, or - for standard input")
        parser.add_argument(
            "-o",
            "--output",
            help="a file, or - for standard output; for a folder: a folder. Default: the photo's name with .rsic, if "
            "there is none yet; of standard input: standard output",
        )
        _add_demand_arguments(parser)
        _add_caption_arguments(parser)
        _add_coding_arguments(parser)
        parser.set_defaults(command_class=EncodeCommand)

    def run(self) -> int | None:
        args = self.args
        if not args.photo:
            raise ValueError("The name of the photo is empty; give a file, a folder, or - for standard input.")
        if args.refer and not args.referring_model:
            raise ValueError(
                "--refer needs a model that finds it in the photo; name one with --referring-model (a CLIP or CLIPSeg "
                "of transformers), or say what matters with --box, --point or --mask."
            )
        asked = asked_for(args)
        listed = read_demands(args.demands) if args.demands else {}
        for note in without_effect(args, asked, listed):
            print(f"rsic encode: {note}", file=sys.stderr)
        if not refers_to_a_part(asked, listed):
            asked["background"] = None  # said above; the encoder need not say it for each photo
        if args.photo != STANDARD and Path(args.photo).is_dir():
            return _encode_folder(args, asked, listed)
        return _encode_photo(args, asked, listed)


def _add_demand_arguments(parser) -> None:
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
        "--fallback",
        choices=["global"],
        help="global: leave out a phrase that is not found, and code the photo in global mode if nothing else was "
        "asked for. Default: warn, and take the model's best guess",
    )
    parser.add_argument(
        "--weight",
        type=float,
        default=DEFAULT_WEIGHT,
        help=f"fidelity there (or everywhere), 0 to 1 ({DEFAULT_WEIGHT:.3f})",
    )
    parser.add_argument(
        "--background",
        type=float,
        help=f"fidelity elsewhere, 0 to 1 ({DEFAULT_BACKGROUND:.3f}, or a level below the least demand; "
        "0: all of it is imagined)",
    )
    parser.add_argument(
        "--levels", type=int, default=MAX_LEVELS, help="levels of the map, 2 to %(default)s (%(default)s)"
    )


def _add_caption_arguments(parser) -> None:
    parser.add_argument(
        "--captioner",
        metavar="MODEL",
        help="describes what has no caption: LLaVA, SmolVLM, BLIP, ... of transformers, folder or Hub id",
    )
    parser.add_argument(
        "--caption-bytes",
        type=int,
        default=DEFAULT_CAPTION_BYTES,
        metavar="N",
        help="most bytes for what the captioner says (%(default)s)",
    )


def _add_coding_arguments(parser) -> None:
    parser.add_argument("--budget", type=float, metavar="BYTES", help="about so many bytes, and never more")
    parser.add_argument(
        "--max-side",
        type=int,
        metavar="PIXELS",
        help="code a photo with a longer side smaller, its long side at the multiple of 128 at or below this; the "
        "decoder enlarges it again (what the model was trained for, or 768; 0: never)",
    )
    parser.add_argument(
        "--background-color",
        default="white",
        metavar="COLOR",
        help='what shows through transparent pixels: a name or "#rrggbb" (white)',
    )
    parser.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="STEPS",
        help="spend time on fidelity where it matters, for about as many bytes: steps that refine what is coded (0; "
        "4 do most of it)",
    )


def asked_for(args) -> dict:
    """Arguments of the encoder, as the command line gives them for every photo."""
    several = [("phrase", args.refer), ("box", args.box), ("point", args.point)]
    several.append(("mask", [(args.mask, None)] if args.mask else None))
    referring = [
        {kind: value} | ({} if weight is None else {"weight": weight})
        for kind, demands in several
        for value, weight in demands or []
    ]
    return {
        "caption": args.caption,
        "referring": referring or None,
        "weight": args.weight,
        "background": args.background,
        "fallback": args.fallback,
        "levels": args.levels,
        "target_bytes": args.budget,
        "max_side": "auto" if args.max_side is None else args.max_side or None,
        "caption_bytes": args.caption_bytes,
        "refinement_steps": args.refine,
        "max_pixels": args.max_pixels,
        "background_color": args.background_color,
    }


def refers_to_a_part(asked: dict, listed: dict) -> bool:
    """Whether anything, of any photo, matters more than the rest."""
    return bool(asked["referring"] or any(entry.get("referring") for entry in listed.values()))


def without_effect(args, asked: dict, listed: dict) -> list[str]:
    """What was typed and changes nothing, a sentence each. (Of single demands the encoder says it.)"""
    notes = []
    if not refers_to_a_part(asked, listed):
        if args.background is not None:
            notes.append(
                "--background has no effect without --refer, --box, --point or --mask; --weight is everywhere."
            )
        if args.levels != MAX_LEVELS:
            notes.append("--levels has no effect without --refer, --box, --point or --mask.")
    uses_phrases = args.refer or any(
        "phrase" in demand for entry in listed.values() for demand in entry.get("referring", [])
    )
    if args.referring_model and not uses_phrases:
        notes.append("--referring-model has no effect without a phrase; give one with --refer.")
    if args.fallback and not uses_phrases:
        notes.append("--fallback has no effect without --refer.")
    if args.captioner and args.caption is not None:
        notes.append("--captioner has no effect beside --caption.")
    if args.caption_bytes != DEFAULT_CAPTION_BYTES and not args.captioner:
        notes.append("--caption-bytes has no effect without --captioner.")
    return notes


def _asked_of(name: str, asked: dict, listed: dict) -> dict:
    """Arguments of the encoder for one photo: what its own entry says, and for the rest the command line.

    An entry that says what matters says all of it. Its budget, in bytes or in bpp, takes the place of --budget.
    """
    own = listed.get(name, {})
    replaced = {"referring", "mode"} if {"referring", "mode"} & set(own) else set()
    replaced |= {"target_bytes", "target_bpp"} if {"target_bytes", "target_bpp"} & set(own) else set()
    return {name: value for name, value in asked.items() if name not in replaced} | own


def _encode_photo(args, asked: dict, listed: dict) -> int:
    refuse_encoded(args.photo)
    output = output_path(args.output, args.photo, ".rsic", args.overwrite)
    check_codec_name(output)
    name = Path(args.photo).name
    if listed and name not in listed:
        raise ValueError(f"{args.demands} does not speak of {name}; it names {', '.join(listed)}.")
    image = open_photo(args.photo, args)
    encoder = load_pipeline("RSICEncoderPipeline", args)
    encoder.set_progress_bar_config(disable=not (args.refine or args.budget))
    out = encoder(image, **_asked_of(name, asked, listed))
    write_result(output, out.bitstream)
    parts = ", ".join(f"{part} {size}" for part, size in out.breakdown.items())
    say(f"{output or 'standard output'}: {len(out.bitstream)} bytes, {out.bpp:.4f} bpp ({parts})", output)
    return 0


def _encode_folder(args, asked: dict, listed: dict) -> int:
    from ..images import readable_suffixes
    from ..pipelines.model_version import model_version

    folder, output = Path(args.photo), output_folder(args)
    jobs = plan(folder, output, readable_suffixes(), ".rsic")
    names = {path: path.relative_to(folder).as_posix() for path in jobs}
    unknown = set(listed) - set(names.values())
    if unknown:
        raise ValueError(f"{args.demands} speaks of {', '.join(sorted(unknown))}, of which {folder} holds no photo.")
    encoder = load_pipeline("RSICEncoderPipeline", args)
    encoder.check_arguments(**asked)  # what is wrong for all photos is said once
    for path, name in names.items():
        if name in listed or asked["referring"]:
            check_photo_demands(encoder, path, name, _asked_of(name, asked, listed))

    def work(inputs, outputs):
        figures = []
        for path, target in zip(inputs, outputs, strict=True):
            out = encoder(path, **_asked_of(names[path], asked, listed))
            out.save(target)
            figures.append({"bytes": len(out.bitstream), "bpp": round(out.bpp, 5), "breakdown": out.breakdown})
        return figures

    version = model_version(encoder)

    def settings_of(path):
        model = {name: getattr(args, name) for name in ("model", "base_model", "variant", "revision", "dtype")}
        helpers = {name: getattr(args, name) for name in ("captioner", "referring_model")}
        asked_of_photo = _asked_of(names[path], asked, listed)
        asked_of_photo.pop("max_pixels")  # which only refuses
        return {
            **model,
            **{name: given and [given, file_identity(given)] for name, given in helpers.items()},
            "version": version,
            **_without_paths(asked_of_photo),
            "photo": file_identity(path),
        }

    counts = run(
        jobs, work, output, "Encoding", settings_of=settings_of, overwrite=args.overwrite, explain=as_sentence
    )
    return print_summary(counts, output)


def _without_paths(arguments: dict) -> dict:
    """The same with masks named by path and identity, as JSON can hold it."""
    referring = [
        {**demand, "mask": [str(demand["mask"]), file_identity(demand["mask"])]} if "mask" in demand else demand
        for demand in arguments.get("referring") or []
    ]
    return {**arguments, "referring": referring}
