"""`rsic decode`: `.rsic` files to pictures."""

import hashlib
import sys
from contextlib import suppress
from pathlib import Path

from ..bitstream import Bitstream
from ..folders import file_identity, plan, run
from . import BaseRSICCommand
from .arguments import (
    base_model_arguments,
    folder_arguments,
    max_pixels_arguments,
    model_arguments,
    parse_phrase,
)
from .errors import as_sentence
from .loading import load_pipeline, make_generator
from .outputs import (
    STANDARD,
    check_output,
    check_picture_name,
    output_folder,
    output_path,
    print_summary,
    read_file,
    save_image,
    say,
)


class DecodeCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "decode",
            parents=[model_arguments(), base_model_arguments(), folder_arguments(), max_pixels_arguments()],
            help=".rsic file to picture",
            description="Turn an .rsic file, or a folder of them, into pictures.",
        )
        parser.add_argument("file", help="an .rsic file, a folder of them, or - for standard input")
        parser.add_argument(
            "-o",
            "--output",
            help="a picture's name, or - for standard output (as PNG); for a folder: a folder. Default: the file's "
            "name with .png, if there is none yet; of standard input: standard output",
        )
        parser.add_argument("--batch-size", type=int, default=1, help="of a folder, pictures of one size at once (1)")
        _add_sampler_arguments(parser)
        parser.add_argument("--no-upscale", action="store_true", help="leave a picture as small as it was coded")
        parser.add_argument(
            "--overlay",
            metavar="PICTURE",
            help="also save the picture with what is imagined dimmed and hatched; not of a folder",
        )
        parser.add_argument(
            "--no-metadata",
            action="store_true",
            help="do not write into the picture that it is partly imagined, its caption, its faithful regions and the "
            ".rsic file itself",
        )
        parser.set_defaults(command_class=DecodeCommand)

    def run(self) -> int | None:
        args = self.args
        if not args.file:
            raise ValueError("The name of the file is empty; give a file, a folder, or - for standard input.")
        if args.overlay == "":
            raise ValueError("The name given with --overlay is empty; leave --overlay out, or give a name.")
        if args.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
        settings = _settings(args)
        if args.file != STANDARD and Path(args.file).is_dir():
            return _decode_folder(args, settings)
        return _decode_file(args, settings)


def _add_sampler_arguments(parser) -> None:
    parser.add_argument(
        "--preset",
        help="paper (450 UNet evaluations, exactly the paper's), balanced (at most 50), fast (at most 8); default: "
        "the model's own",
    )
    parser.add_argument("--steps", type=int, help="diffusion steps T")
    parser.add_argument("--recurrences", type=int, help="self-recurrences T_r of each step")
    parser.add_argument(
        "--guidance-scale",
        type=float,
        help="classifier-free guidance by the caption; 1 to 1.5 stays closer to what was coded than 3",
    )
    parser.add_argument(
        "--strength", type=float, help="multiplies the noise that decoding starts from; 0 leaves diffusion out"
    )
    parser.add_argument(
        "--lora",
        action="append",
        type=parse_phrase,
        metavar="MODEL[:W]",
        help="weights to add to the diffusion model: a file, a folder or a Hub id; may be given several times",
    )
    parser.add_argument("--seed", type=int, help="noise seed; default: from the file, so the same file, same picture")


def _settings(args) -> dict:
    """Arguments of the decoder, as the command line gives them."""
    settings = {
        "preset": args.preset,
        "num_inference_steps": args.steps,
        "num_recurrence_steps": args.recurrences,
        "guidance_scale": args.guidance_scale,
        "strength": args.strength,
        "max_pixels": args.max_pixels,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return given | {"upscale": not args.no_upscale}


def _decode_file(args, settings: dict) -> int:
    data = read_file(args.file)
    # Check the file first: it needs no torch, and nobody is told to write over an output because of a foreign file.
    Bitstream.from_bytes(data)
    output = output_path(args.output, args.file, ".png", args.overwrite)
    check_picture_name(output)
    overlay = args.overlay and Path(args.overlay)
    if overlay:
        check_output(overlay, args.file)
        check_picture_name(overlay)
        if output and overlay.resolve() == output.resolve():
            raise ValueError(f"The overlay would replace the picture {output}; give --overlay another name.")
    decoder = load_pipeline("RSICDecoderPipeline", args)
    decoder.set_progress_bar_config(disable=False)
    _say_plan(decoder, data, settings)
    result = decoder(data, generator=make_generator(args.seed), **settings)
    picture = result.images[0]
    metadata = None if args.no_metadata else _metadata(data, picture)
    save_image(picture, output, metadata)
    name = output or "standard output"
    say(f"{name}: {picture.width} x {picture.height}, UNet evaluations: {result.num_unet_evaluations}", output)
    if overlay:
        save_image(result.overlay()[0], overlay, metadata)
        say(f"{overlay}: what is dimmed and hatched there is imagined", output)
    return 0


def _say_plan(decoder, data: bytes, settings: dict, of: str = "") -> None:
    """Print how many UNet evaluations decoding will take, before minutes go into them."""
    number = decoder.count_unet_evaluations(data, **settings)
    print(f"UNet evaluations planned{of}: {number}", file=sys.stderr)


def _decode_folder(args, settings: dict) -> int:
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    if args.overlay:
        raise ValueError("--overlay is for one file; decode the files of interest one by one.")
    output = output_folder(args)
    jobs = plan(Path(args.file), output, [".rsic"], ".png")
    decoder = load_pipeline("RSICDecoderPipeline", args)
    sampler = decoder.default_settings(args.preset)  # a wrong name is one error, not one for each file
    from ..pipelines.model_version import model_version

    version = model_version(decoder)
    _say_plan_of_first(decoder, jobs, settings)

    def work(inputs, outputs):
        generators = None if args.seed is None else [make_generator(args.seed) for _ in inputs]
        files = [read_file(path) for path in inputs]
        result = decoder(files, generator=generators, **settings)
        for data, picture, target in zip(files, result.images, outputs, strict=True):
            save_image(picture, target, None if args.no_metadata else _metadata(data, picture))
        return [{"unet_evaluations": result.num_unet_evaluations}] * len(inputs)

    def size(path):
        file = Bitstream.from_bytes(read_file(path))
        return file.width, file.height, file.coded_size

    def settings_of(path):
        names = ("model", "base_model", "variant", "revision", "dtype", "seed", "no_metadata")
        asked = {name: getattr(args, name) for name in names}
        asked["lora"] = args.lora and [[*weighted, file_identity(weighted[0])] for weighted in args.lora]
        decoding = {name: value for name, value in settings.items() if name != "max_pixels"}  # which only refuses
        return {**asked, **sampler, **decoding, "version": version, "checksum": _checksum(path)}

    counts = run(
        jobs, work, output, "Decoding", size, args.batch_size, settings_of, args.overwrite, explain=as_sentence
    )
    return print_summary(counts, output)


def _say_plan_of_first(decoder, jobs, settings: dict) -> None:
    first = min(jobs)
    with suppress(OSError, ValueError):  # a damaged file; its turn will come
        _say_plan(decoder, read_file(first), settings, f" for {first.name}, the first of {len(jobs)} files")


def _metadata(data: bytes, picture) -> bytes:
    """What says in the picture's own file that it is partly imagined, and where."""
    from ..metadata import picture_metadata

    return picture_metadata(Bitstream.from_bytes(data), data, picture.size)


def _checksum(path: Path) -> str | None:
    """Of a file's bytes: one that was encoded anew is decoded anew."""
    try:
        # No CRC-32: that of a file that ends in its own CRC takes only 256 values.
        return hashlib.sha256(read_file(path)).hexdigest()
    except (OSError, ValueError):
        return None  # its decoding will say what is wrong
