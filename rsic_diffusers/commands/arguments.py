"""Arguments that subcommands share, and how texts on the command line are read."""

import argparse
import re


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
        help="dtype of the weights (float32); bfloat16 is quicker on CPUs with instructions for it, float16 on GPUs",
    )
    return parser


def base_model_arguments() -> argparse.ArgumentParser:
    """--base-model, --variant and --revision, as a parent of parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--base-model",
        metavar="MODEL",
        help="another Stable Diffusion 1.x checkpoint under the model's codec: a folder, a Hub id, or a .safetensors "
        "file",
    )
    parser.add_argument("--variant", metavar="NAME", help='variant of the weight files to load, "fp16" say')
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the model's Hub repository")
    return parser


def caption_arguments() -> argparse.ArgumentParser:
    """--caption, as a parent of parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--caption", help='what the picture shows; the decoder imagines by it ("": nothing)')
    return parser


def folder_arguments() -> argparse.ArgumentParser:
    """--overwrite, as a parent of parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="of a folder, make again what is there already (by default only what was made with other settings); of "
        "one file, write over the default name (one that is given with -o is always written over)",
    )
    return parser


def max_pixels_arguments() -> argparse.ArgumentParser:
    """--max-pixels, as a parent of parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--max-pixels", type=parse_count, metavar="N", help="refuse larger pictures (the format's limit by default)"
    )
    return parser


def join_negative_numbers(argv: list[str]) -> list[str]:
    """`--box -5,0,90,80` as `--box=-5,0,90,80`, since argparse takes what begins with a minus for an option."""
    joined = []
    for argument in argv:
        if joined and joined[-1] in ("--box", "--point") and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def parse_count(text: str) -> int:
    """A whole number from 1 up."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text!r}")
    return int(text)


def parse_phrase(text: str):
    """ "the dog:0.6" is a phrase and its weight; a colon before anything but a number is part of the phrase."""
    phrase, colon, weight = text.rpartition(":")
    try:
        return (phrase, float(weight)) if colon else (text, None)
    except ValueError:
        return text, None


def parse_named_folder(text: str):
    name, _, folder = text.partition("=")
    if not (name and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {text!r}")
    return name, folder
