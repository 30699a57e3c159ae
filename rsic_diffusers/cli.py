"""The command `rsic`. Nothing heavy is imported before it is needed: `rsic --help` and `rsic inspect` are quick."""

import argparse
import sys
from pathlib import Path

from . import __version__
from .bitstream import DEFAULT_MAX_SIDE, Bitstream, write_file


DTYPES = ("float32", "float16", "bfloat16")


def main(argv=None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, MemoryError, OverflowError, RuntimeError) as error:
        # ValueError: bad input, named by whoever met it (BitstreamError is one). OSError: files. RuntimeError: torch's
        # own, a GPU out of memory for one.
        print(f"rsic {args.command}: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rsic: interrupted.", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rsic",
        description="Photos in a few hundred bytes: faithful where you ask for it, imagined elsewhere.",
        epilog="""examples:
  rsic demo                                          encode and decode a photo, save one sheet of pictures
  rsic encode photo.jpg -o photo.rsic --caption "a lighthouse on a cliff" --box 120,40,300,380
  rsic inspect photo.rsic                            what the bytes are spent on
  rsic decode photo.rsic -o photo.png
  rsic encode photos -o files --budget 600           a folder; what is there already is skipped
  accelerate launch -m rsic_diffusers.cli decode files -o pictures --device cuda    on all GPUs""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rsic-diffusers {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="rsic-tiny", help="a folder, a Hub id, or an embedded model (rsic-tiny)")
    model.add_argument("--device", default="cpu", help="cpu (the default), cuda, cuda:1, mps")
    model.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the weights (float32); bfloat16 is quicker on CPUs with instructions for it, float16 on GPUs",
    )

    demand = argparse.ArgumentParser(add_help=False)
    demand.add_argument("--caption", help='what the picture shows; the decoder imagines by it ("": nothing)')

    encode = commands.add_parser(
        "encode",
        parents=[model, demand],
        help="photo to .rsic file",
        description="Compress a photo, or a folder of photos. With --refer, --box, --point or --mask the bytes go "
        "there; with none of them, evenly.",
        epilog="""a file for --demands, by the photos' names (in their folder):
  {"harbour.jpg": {"caption": "a lighthouse above a harbour", "background": 0.1,
                   "demands": [{"phrase": "the lighthouse"}, {"box": [10, 200, 90, 260], "weight": 0.6}]},
   "dog.jpg": {"demands": {"mask": "dog-mask.png"}, "target_bytes": 600},
   "sky.jpg": {"weight": 0.3}}""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    encode.add_argument("photo", help="a photo, or a folder of photos")
    encode.add_argument(
        "-o", "--output", help="default: the photo's name with .rsic, if there is none yet; for a folder: a folder"
    )
    encode.add_argument(
        "--refer",
        action="append",
        type=_phrase,
        metavar="PHRASE[:W]",
        help='"the dog:0.6"; needs --referring-model',
    )
    encode.add_argument(
        "--box",
        action="append",
        type=_numbers(4),
        metavar="X0,Y0,X1,Y1[:W]",
        help="what must stay faithful, in pixels, and its weight; may be given several times",
    )
    encode.add_argument(
        "--point", action="append", type=_numbers(2), metavar="X,Y[:W]", help="a disc around this pixel"
    )
    encode.add_argument("--mask", help="a picture of the photo's size; what is not black matters")
    encode.add_argument("--demands", metavar="JSON", help="caption, demands and more by file name, see below")
    encode.add_argument(
        "--referring-model", metavar="MODEL", help="finds phrases: a CLIP or CLIPSeg of transformers, folder or Hub id"
    )
    encode.add_argument(
        "--captioner",
        metavar="MODEL",
        help="describes what has no caption: LLaVA, SmolVLM, BLIP, ... of transformers, folder or Hub id",
    )
    encode.add_argument(
        "--caption-bytes", type=int, default=60, metavar="N", help="most bytes for what the captioner says (60)"
    )
    encode.add_argument(
        "--fallback", choices=["global"], help="what to do with a photo in which a phrase is not found (warn)"
    )
    encode.add_argument("--budget", type=float, metavar="BYTES", help="fill so many bytes, and never more")
    encode.add_argument("--weight", type=float, default=1.0, help="fidelity there (or everywhere), 0 to 1 (1)")
    encode.add_argument("--background", type=float, default=0.0, help="fidelity elsewhere, 0 to 1 (0)")
    encode.add_argument("--levels", type=int, default=8, help="levels of the map, 2 to 8 (8)")
    encode.add_argument(
        "--max-side",
        type=int,
        default=DEFAULT_MAX_SIDE,
        metavar="PIXELS",
        help="code a larger photo at this size; the decoder enlarges it again (768; 0: never)",
    )
    encode.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="STEPS",
        help="spend time on fidelity where it matters, for about as many bytes: steps that refine what is coded (0; 4 "
        "do most of it)",
    )
    encode.set_defaults(run=run_encode)

    decode = commands.add_parser(
        "decode",
        parents=[model],
        help=".rsic file to picture",
        description="Turn an .rsic file, or a folder of them, into pictures.",
    )
    decode.add_argument("file", help="an .rsic file, or a folder of them")
    decode.add_argument(
        "-o", "--output", help="default: the file's name with .png, if there is none yet; for a folder: a folder"
    )
    decode.add_argument("--batch-size", type=int, default=1, help="of a folder, pictures of one size at once (1)")
    decode.add_argument(
        "--preset",
        help="paper (450 UNet evaluations, exactly the paper's), balanced (at most 50), fast (at most 7); default: "
        "the model's own",
    )
    decode.add_argument("--steps", type=int, help="diffusion steps T")
    decode.add_argument("--recurrences", type=int, help="self-recurrences T_r of each step")
    decode.add_argument("--no-upscale", action="store_true", help="leave a picture as small as it was coded")
    decode.add_argument("--seed", type=int, help="noise seed; default: from the file, so the same file, same picture")
    decode.set_defaults(run=run_decode)

    inspect = commands.add_parser(
        "inspect",
        help="what the bytes of an .rsic file are spent on",
        description="Show size, caption, bytes by part, and the map, without loading a model.",
    )
    inspect.add_argument("file")
    inspect.add_argument("--map", metavar="PNG", help="also save the map as a picture")
    inspect.add_argument("--photo", help="the photo that the file was made of, to show the map over")
    inspect.set_defaults(run=run_inspect)

    evaluate = commands.add_parser(
        "evaluate",
        parents=[model],
        help="tables, curves and sheets over a folder of photos",
        description="Encode a folder of photos to files, decode them in a fresh pipeline, and measure: in referring "
        "mode, in global mode at as many bytes, without diffusion, and by other codecs at as many bytes. OUT gets "
        "table.md, results.csv, results.json, curves.png, sheets, and all files and pictures. An interrupted run goes "
        "on where it was; another metric or codec is added to what is there.",
        epilog="""an annotations.json (all but "file" may be left out; a box is in fractions
of width and height, a mask's path is from the file; without annotations all photos of the folder, in global mode):
  [{"file": "harbour.jpg", "caption": "a lighthouse above a harbour", "phrase": "the lighthouse",
    "box": [0.1, 0.2, 0.4, 0.9], "mask": "masks/harbour.png"}]

examples:
  rsic evaluate photos -o out                                           the model against standard codecs
  rsic evaluate photos -o out --weights 0.857 0.571 1 --metrics all     curves, all metrics that can be had
  rsic evaluate photos -o out --presets fast paper --ablations          the paper's Table I
  rsic evaluate photos -o out --external perco=decoded                  another codec: its pictures and sizes.json""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("photos", help="folder of photos")
    evaluate.add_argument("-o", "--output", required=True, help="folder for all that is made")
    evaluate.add_argument("--annotations", metavar="JSON", help="default: annotations.json in the folder, if any")
    evaluate.add_argument("--limit", type=int, help="only the first photos")
    evaluate.add_argument(
        "--weights",
        type=float,
        nargs="+",
        default=[0.857],
        metavar="W",
        help="M where it matters; the first is that of tables, the others add points to the curves (0.857)",
    )
    evaluate.add_argument(
        "--presets", nargs="+", metavar="NAME", help="of the decoder, side by side (default: the model's own settings)"
    )
    evaluate.add_argument(
        "--ablations", action="store_true", help="the paper's Table I around the first preset, at the first weight"
    )
    evaluate.add_argument(
        "--variant",
        action="append",
        default=[],
        type=_variant,
        metavar="NAME:ARGUMENT=VALUE,...",
        help='a row with other arguments of the decoder, "half way:strength=0.5,num_inference_steps=20"; repeatable',
    )
    evaluate.add_argument("--single-layer", metavar="FOLDER", help='a codec for the ablation "without HSVLC"')
    evaluate.add_argument(
        "--codecs",
        nargs="*",
        metavar="NAME",
        help="jpeg, webp, avif, jpeg2000, jpegxl, vvc, ms-illm (default: the first five, as far as they can be had)",
    )
    evaluate.add_argument(
        "--external",
        action="append",
        default=[],
        type=_named_folder,
        metavar="NAME=FOLDER",
        help="pictures that another codec made, with their sizes.json or sizes.csv",
    )
    evaluate.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help='psnr, ssim, ms_ssim, lpips, dists, clip, f_psnr, f_ssim, f_lpips, feature_distance, fid, kid, or "all" '
        "(default: those that need no download)",
    )
    evaluate.add_argument(
        "--referring-model",
        metavar="MODEL",
        help="refer by the photos' phrases, found by this CLIP or CLIPSeg of transformers, rather than by mask or box",
    )
    evaluate.add_argument(
        "--max-side",
        type=int,
        default=DEFAULT_MAX_SIDE,
        metavar="PIXELS",
        help="code a larger photo at this size (768; 0: never)",
    )
    evaluate.add_argument(
        "--refine", type=int, default=0, metavar="STEPS", help="refinement steps of the encoder, see rsic encode (0)"
    )
    evaluate.add_argument("--seed", type=int, help="noise seed; default: from the files")
    evaluate.add_argument("--sheets", type=int, default=4, help="of so many photos (4)")
    evaluate.set_defaults(run=run_evaluate)

    demo = commands.add_parser(
        "demo",
        parents=[model, demand],
        help="encode and decode a photo, save one sheet",
        description="Encode a photo in referring and in global mode at about equal bytes, decode both, and save a "
        "sheet beside what a standard codec makes of as many bytes. Without a photo: one that matplotlib ships.",
    )
    demo.add_argument("photo", nargs="?")
    demo.add_argument(
        "--box",
        action="append",
        type=_numbers(4, weighted=False),
        metavar="X0,Y0,X1,Y1",
        help="what must stay faithful, in pixels; may be given several times",
    )
    demo.add_argument("-o", "--output", default="rsic_demo.png", help="the sheet (rsic_demo.png)")
    demo.add_argument("--seed", type=int, help="noise seed; default: from the files")
    demo.set_defaults(run=run_demo)
    return parser


def run_encode(args) -> int:
    from .images import open_image
    from .referring.demands import read_demands

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
    output = _output(args.output, args.photo, ".rsic")
    name = Path(args.photo).name
    if listed and name not in listed:
        raise ValueError(f"{args.demands} does not speak of {name}; it names {', '.join(listed)}.")
    image = open_image(args.photo)
    encoder = _load("RSICEncoderPipeline", args)
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
    from .folders import plan, run
    from .images import open_image, readable_suffixes

    folder, output = Path(args.photo), _output_folder(args)
    jobs = plan(folder, output, readable_suffixes(), ".rsic")
    unknown = set(listed) - {str(path.relative_to(folder)) for path in jobs}
    if unknown:
        raise ValueError(f"{args.demands} speaks of {', '.join(sorted(unknown))}, of which {folder} holds no photo.")
    encoder = _load("RSICEncoderPipeline", args)
    encoder.check_arguments(**asked)  # what is wrong for all photos is said once

    def work(inputs, outputs):
        figures = []
        for path, target in zip(inputs, outputs):
            out = encoder(open_image(path), **_asked_of(str(path.relative_to(folder)), asked, listed))
            out.save(target)
            figures.append({"bytes": len(out.bitstream), "bpp": round(out.bpp, 5), "breakdown": out.breakdown})
        return figures

    return _summary(run(jobs, work, output, "Encoding"), output)


def run_decode(args) -> int:
    settings = {"preset": args.preset, "num_inference_steps": args.steps, "num_recurrence_steps": args.recurrences}
    settings["upscale"] = not args.no_upscale
    if Path(args.file).is_dir():
        return _decode_folder(args, settings)
    output = _output(args.output, args.file, ".png")
    _check_picture_name(output)
    data = Path(args.file).read_bytes()
    Bitstream.from_bytes(data)  # a damaged file is refused before torch is loaded
    decoder = _load("RSICDecoderPipeline", args)
    decoder.set_progress_bar_config(disable=False)
    result = decoder(data, generator=_generator(args.seed), **settings)
    picture = result.images[0]
    _save_image(picture, output)
    print(f"{output}: {picture.width} x {picture.height}, UNet evaluations: {result.num_unet_evaluations}")
    return 0


def _decode_folder(args, settings) -> int:
    from .folders import plan, run

    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    output = _output_folder(args)
    jobs = plan(Path(args.file), output, [".rsic"], ".png")
    decoder = _load("RSICDecoderPipeline", args)
    decoder.default_settings(args.preset)  # a wrong name is one error, not one for each file

    def work(inputs, outputs):
        generators = None if args.seed is None else [_generator(args.seed) for _ in inputs]
        result = decoder(list(inputs), generator=generators, **settings)
        for picture, target in zip(result.images, outputs):
            _save_image(picture, target)
        return [{"unet_evaluations": result.num_unet_evaluations}] * len(inputs)

    def size(path):
        file = Bitstream.read(path)
        return file.width, file.height, file.coded_size

    return _summary(run(jobs, work, output, "Decoding", size, args.batch_size), output)


def _output_folder(args) -> Path:
    if not args.output:
        raise ValueError("A folder needs another for what is made of it; give it with -o.")
    if Path(args.output).is_file():
        raise ValueError(f"The output {args.output} is a file; give a folder.")
    return Path(args.output)


def _summary(counts, output) -> int:
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()) + f"; see the report in {output}")
    return 1 if counts["failed"] else 0


def run_inspect(args) -> None:
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
        from .images import open_image
        from .referring.map_image import map_image

        output = Path(args.map)
        for source in (args.file, args.photo):
            _check_output(output, source)
        _check_picture_name(output)
        _save_image(map_image(file, open_image(args.photo) if args.photo else None), output)
        print(f"map saved to {output}")


def run_demo(args) -> None:
    from .images import open_image

    output = Path(args.output)
    _check_output(output, args.photo)
    _check_picture_name(output)
    caption, boxes = args.caption, [box for box, _ in args.box or []]
    if args.photo:
        image = open_image(args.photo)
        boxes = boxes or [(image.width / 4, image.height / 4, image.width * 3 / 4, image.height * 3 / 4)]
    else:
        from matplotlib.cbook import get_sample_data

        image = open_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
        caption = caption or "a woman in a navy uniform and cap in front of a flag"
        boxes = boxes or [(150, 40, 370, 310)]
    encoder, decoder = _load("RSICEncoderPipeline", args), _load("RSICDecoderPipeline", args)
    decoder.set_progress_bar_config(disable=False)

    from .evaluation.demo import make_demo_sheet

    sheet = make_demo_sheet(encoder, decoder, image, boxes, caption, lambda: _generator(args.seed))
    _save_image(sheet, output)
    print(f"The sheet is {output}")


def run_evaluate(args) -> int:
    from .evaluation.photos import read_photos

    folder, output = Path(args.photos), _output_folder(args)
    if output.exists() and folder.exists() and output.samefile(folder):
        raise ValueError(f"The output {output} is the folder of photos; give another.")
    photos = read_photos(folder, args.annotations and Path(args.annotations), args.limit, output)
    device = _device(args)
    import torch

    from .evaluation.evaluate import Evaluation, evaluate

    evaluation = Evaluation(
        photos,
        output,
        model=args.model,
        weights=args.weights,
        presets=args.presets or [None],
        with_ablations=args.ablations,
        variants=args.variant,
        single_layer=args.single_layer,
        codecs=args.codecs,
        external=args.external,
        metrics=args.metrics,
        referring_model=args.referring_model,
        max_side=args.max_side or None,
        refinement_steps=args.refine,
        device=device,
        dtype=getattr(torch, args.dtype),
        seed=args.seed,
    )
    failures = evaluate(evaluation, args.sheets)
    if evaluation.share.is_main_process:
        print((output / "table.md").read_text("utf-8"))
    return 1 if failures else 0


def _device(args):
    """The device asked for, refused before anything is loaded if it cannot be used."""
    import torch
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    name = args.device
    if name == "cpu" and args.dtype != "float32" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        # An x86 processor before AVX-512: 16 times slower and more, measured on convolutions in bfloat16.
        print(f"This CPU computes {args.dtype} in software, many times slower than float32.", file=sys.stderr)
    if name != "cpu":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"The device {name!r} cannot be used here ({_sentence(error)})") from None
    if name == "cuda":
        from .folders import share_of_work

        return share_of_work().device  # under `accelerate launch`, this process's own
    return torch.device(name)


def _load(class_name: str, args):
    print(f"Loading {args.model} ...", file=sys.stderr)
    import torch

    import rsic_diffusers

    device = _device(args)
    components = {}
    if getattr(args, "captioner", None) and args.caption is None:  # else it would not be asked
        from .description.captioners import Captioner

        components["captioner"] = Captioner.from_pretrained(args.captioner, getattr(torch, args.dtype), device)
    if getattr(args, "referring_model", None):
        from .referring.heat_maps import load_referring_model

        components["referring_model"] = load_referring_model(args.referring_model, device)
    pipeline = getattr(rsic_diffusers, class_name).from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), **components
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _generator(seed):
    if seed is None:
        return None
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def _output(name, source, suffix: str) -> Path:
    """The output's path: as given, or the source's with another suffix, which then must not exist yet."""
    output = Path(name) if name else Path(source).with_suffix(suffix)
    if not name and output.exists():
        raise ValueError(f"{output} exists already; give -o {output} to write over it, or another name.")
    _check_output(output, source)
    return output


def _check_output(output: Path, source) -> None:
    """Refuse, before minutes of work, what could not be written at their end."""
    if not output.parent.is_dir():
        raise ValueError(f"There is no folder {output.parent} to write {output.name} to; make it first.")
    if output.is_dir():
        raise ValueError(f"The output {output} is a folder; give the name of a file in it with -o.")
    if source and output.exists() and Path(source).exists() and output.samefile(source):
        raise ValueError(f"The output {output} is the input; choose another name with -o.")


def _check_picture_name(output: Path) -> None:
    from PIL import Image

    if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
        raise ValueError(
            f"Pillow writes no {output.suffix or 'nameless'} pictures; give a name ending in .png or .jpg."
        )


def _save_image(image, output: Path) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[output.suffix.lower()])
    write_file(output, buffer.getvalue())


def _numbers(count: int, weighted: bool = True):
    def parse(text: str):
        numbers, _, weight = text.partition(":") if weighted else (text, "", "")
        try:
            values = tuple(float(part) for part in numbers.split(","))
            weight = float(weight) if weight else None
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"expected {count} numbers separated by commas, got {text!r}")
        return values, weight

    return parse


def _phrase(text: str):
    """ "the dog:0.6" is a phrase and its weight; a colon before anything but a number is part of the phrase."""
    phrase, colon, weight = text.rpartition(":")
    try:
        return (phrase, float(weight)) if colon else (text, None)
    except ValueError:
        return text, None


def _variant(text: str):
    """ "half way:strength=0.5" is a name and arguments; values are JSON, or else words."""
    import json

    name, _, rest = text.partition(":")
    arguments = {}
    for one in rest.split(","):
        key, _, value = one.partition("=")
        if not (name and key and value):
            raise argparse.ArgumentTypeError(f"expected NAME:ARGUMENT=VALUE,..., got {text!r}")
        try:
            arguments[key] = json.loads(value)
        except json.JSONDecodeError:
            arguments[key] = value
    return name, arguments


def _named_folder(text: str):
    name, _, folder = text.partition("=")
    if not (name and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {text!r}")
    return name, folder


def _sentence(error) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"There is no file {error.filename}."
    text = " ".join(str(error).split())
    return text if text.endswith(".") else text + "."


if __name__ == "__main__":
    sys.exit(main())
