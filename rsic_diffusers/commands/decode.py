"""`rsic decode`: `.rsic` files to pictures."""

from pathlib import Path

from ..bitstream import Bitstream
from . import BaseRSICCommand
from .arguments import model_arguments
from .loading import load_pipeline, make_generator
from .outputs import check_picture_name, output_folder, output_path, print_summary, save_image


class DecodeCommand(BaseRSICCommand):
    @staticmethod
    def register_subcommand(subparsers) -> None:
        parser = subparsers.add_parser(
            "decode",
            parents=[model_arguments()],
            help=".rsic file to picture",
            description="Turn an .rsic file, or a folder of them, into pictures.",
        )
        parser.add_argument("file", help="an .rsic file, or a folder of them")
        parser.add_argument(
            "-o", "--output", help="default: the file's name with .png, if there is none yet; for a folder: a folder"
        )
        parser.add_argument("--batch-size", type=int, default=1, help="of a folder, pictures of one size at once (1)")
        parser.add_argument(
            "--preset",
            help="paper (450 UNet evaluations, exactly the paper's), balanced (at most 50), fast (at most 7); "
            "default: "
            "the model's own",
        )
        parser.add_argument("--steps", type=int, help="diffusion steps T")
        parser.add_argument("--recurrences", type=int, help="self-recurrences T_r of each step")
        parser.add_argument("--no-upscale", action="store_true", help="leave a picture as small as it was coded")
        parser.add_argument(
            "--seed", type=int, help="noise seed; default: from the file, so the same file, same picture"
        )
        parser.set_defaults(command_class=DecodeCommand)

    def run(self) -> int | None:
        args = self.args
        settings = {"preset": args.preset, "num_inference_steps": args.steps, "num_recurrence_steps": args.recurrences}
        settings["upscale"] = not args.no_upscale
        if Path(args.file).is_dir():
            return _decode_folder(args, settings)
        output = output_path(args.output, args.file, ".png")
        check_picture_name(output)
        data = Path(args.file).read_bytes()
        Bitstream.from_bytes(data)  # a damaged file is refused before torch is loaded
        decoder = load_pipeline("RSICDecoderPipeline", args)
        decoder.set_progress_bar_config(disable=False)
        result = decoder(data, generator=make_generator(args.seed), **settings)
        picture = result.images[0]
        save_image(picture, output)
        print(f"{output}: {picture.width} x {picture.height}, UNet evaluations: {result.num_unet_evaluations}")
        return 0


def _decode_folder(args, settings) -> int:
    from ..folders import plan, run

    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    output = output_folder(args)
    jobs = plan(Path(args.file), output, [".rsic"], ".png")
    decoder = load_pipeline("RSICDecoderPipeline", args)
    decoder.default_settings(args.preset)  # a wrong name is one error, not one for each file

    def work(inputs, outputs):
        generators = None if args.seed is None else [make_generator(args.seed) for _ in inputs]
        result = decoder(list(inputs), generator=generators, **settings)
        for picture, target in zip(result.images, outputs):
            save_image(picture, target)
        return [{"unet_evaluations": result.num_unet_evaluations}] * len(inputs)

    def size(path):
        file = Bitstream.read(path)
        return file.width, file.height, file.coded_size

    return print_summary(run(jobs, work, output, "Decoding", size, args.batch_size), output)
