"""The command `rsic`. Nothing heavy is imported before it is needed: `rsic --help` and `rsic inspect` are quick."""

import argparse
import sys

from .. import __version__
from .decode import DecodeCommand
from .demo import DemoCommand
from .encode import EncodeCommand
from .errors import as_sentence
from .evaluate import EvaluateCommand
from .inspect import InspectCommand


COMMANDS = (EncodeCommand, DecodeCommand, InspectCommand, EvaluateCommand, DemoCommand)


def main(argv=None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return args.command_class(args).run() or 0
    except (ValueError, OSError, MemoryError, OverflowError, RuntimeError) as error:
        # ValueError: bad input, named by whoever met it (BitstreamError is one). OSError: files. RuntimeError: torch's
        # own, a GPU out of memory for one.
        print(f"rsic {args.command}: {as_sentence(error)}", file=sys.stderr)
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
  accelerate launch -m rsic_diffusers.commands.rsic_cli decode files -o pictures --device cuda    on all GPUs""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rsic-diffusers {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register_subcommand(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
