"""Arguments that subcommands share, and how texts on the command line are read."""

import argparse
import json


DTYPES = ("float32", "float16", "bfloat16")


def model_arguments() -> argparse.ArgumentParser:
    """--model, --device and --dtype, as a parent of parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", default="rsic-tiny", help="a folder, a Hub id, or an embedded model (rsic-tiny)")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the weights (float32); bfloat16 is quicker on CPUs with instructions for it, float16 on GPUs",
    )
    return parser


def demand_arguments() -> argparse.ArgumentParser:
    """--caption, as a parent of parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--caption", help='what the picture shows; the decoder imagines by it ("": nothing)')
    return parser


def parse_numbers(count: int, weighted: bool = True):
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


def parse_phrase(text: str):
    """ "the dog:0.6" is a phrase and its weight; a colon before anything but a number is part of the phrase."""
    phrase, colon, weight = text.rpartition(":")
    try:
        return (phrase, float(weight)) if colon else (text, None)
    except ValueError:
        return text, None


def parse_variant(text: str):
    """ "half way:strength=0.5" is a name and arguments; values are JSON, or else words."""
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


def parse_named_folder(text: str):
    name, _, folder = text.partition("=")
    if not (name and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {text!r}")
    return name, folder
