"""The command `rsic`. Nothing heavy is imported before it is needed: `rsic --help` and `rsic inspect` are quick."""

import argparse
import logging
import sys

from .. import __version__
from .app import AppCommand
from .arguments import join_negative_numbers
from .decode import DecodeCommand
from .demo import DemoCommand
from .encode import EncodeCommand
from .errors import as_sentence, in_options
from .evaluate import EvaluateCommand
from .inspect import InspectCommand
from .outputs import leave_standard_output


COMMANDS = (EncodeCommand, DecodeCommand, InspectCommand, EvaluateCommand, DemoCommand, AppCommand)


def program() -> int:
    """What the shell starts: `main` in a process of its own."""
    import warnings

    if not sys.warnoptions:  # -W or PYTHONWARNINGS ask for them
        warnings.simplefilter("ignore")  # of other packages; what a user should know is printed
    return main(owns_process=True)


def main(argv=None, owns_process: bool = False) -> int:
    """Run a command line.

    Args:
        argv (`list[str]`, *optional*): Default: the process's own.
        owns_process (`bool`): Nothing else runs in this process, which may leave out imports for good.

    Returns:
        `int`: The exit code: 0, 1 if some of several files failed, 2 for bad input.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be UTF-8, nor can every terminal show every letter of a caption.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    show_warnings()
    args = build_parser().parse_args(join_negative_numbers(sys.argv[1:] if argv is None else argv))
    args.owns_process = owns_process
    try:
        code = args.command_class(args).run() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        leave_standard_output()  # whoever read what was printed has enough of it (`| head -1`)
        return 0
    except (ValueError, OSError, MemoryError, OverflowError, RuntimeError) as error:
        # ValueError: bad input, named by whoever met it (BitstreamError is one). OSError: files. RuntimeError: torch's
        # own, a GPU out of memory for one.
        print(f"rsic {args.command}: {as_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rsic: interrupted.", file=sys.stderr)
        return 130


class OptionFormatter(logging.Formatter):
    """What the pipelines warn of, with their arguments named as they are typed."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return in_options(record.message)


def show_warnings() -> None:
    """Print the package's warnings to standard error."""
    logger = logging.getLogger("rsic_diffusers")
    for handler in tuple(logger.handlers):
        if isinstance(handler.formatter, OptionFormatter):
            logger.removeHandler(handler)  # of an earlier call, whose stream may be closed
    handler = logging.StreamHandler()
    handler.setFormatter(OptionFormatter())
    logger.addHandler(handler)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rsic",
        description="Photos in a few hundred bytes: faithful where you ask for it, imagined elsewhere.",
        epilog="""examples:
  rsic demo                                          encode and decode a photo, save one sheet of pictures
  rsic encode photo.jpg -o photo.rsic --caption "a lighthouse on a cliff" --box 120,40,300,300
  rsic inspect photo.rsic                            what the bytes are spent on
  rsic decode photo.rsic -o photo.png
  rsic encode - -o - < photo.jpg | ssh host rsic decode - -o - > photo.png
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
    sys.exit(program())
