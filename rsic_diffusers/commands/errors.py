"""Errors as one sentence, in the command line's own words."""

import re

from ..error_sentences import plain_sentence
from ..referring.demands import UnknownKeyError


# What the pipelines call it, and what the command line does.
OPTIONS = {
    "referring_model": "--referring-model",
    "base_model": "--base-model",
    "max_side": "--max-side",
    "max_pixels": "--max-pixels",
    "caption_bytes": "--caption-bytes",
    "refinement_steps": "--refine",
    "target_bytes": "--budget",
    "num_inference_steps": "--steps",
    "num_recurrence_steps": "--recurrences",
    "guidance_scale": "--guidance-scale",
    "strength": "--strength",
    "preset": "--preset",
    "weight": "--weight",
    "background": "--background",
    "levels": "--levels",
    "fallback": "--fallback",
    "caption": "--caption",
    "box": "--box",
    "point": "--point",
    "mask": "--mask",
}
# What is written in another way on the command line.
PYTHON_WORDS = {"with upscale=False": "with --no-upscale", " up, or None, got ": " up, got "}
_AS_ARGUMENT = re.compile(rf"(?<![-/.\w])({'|'.join(OPTIONS)})=(?P<value>[\w\"'(\[-])?")
# These have no other meaning in English, or begin a sentence of the form "weight must be ...".
_AS_NAME = re.compile(rf"(?<![-/.\w])({'|'.join(name for name in OPTIONS if '_' in name)})\b(?![/.\w])")
_AT_START = re.compile(rf"^({'|'.join(OPTIONS)})(?= must )")


def as_sentence(error) -> str:
    """The error in one sentence.

    The pipelines speak of their arguments (`referring_model=`); here they are named as they are typed.
    """
    text = plain_sentence(error)
    if isinstance(error, UnknownKeyError) or (isinstance(error, OSError) and error.filename):
        return text  # the names in it are none of the pipelines' arguments
    return in_options(text)


def in_options(text: str) -> str:
    """The same text with the pipelines' arguments named as the options they are given by."""
    for words, typed in PYTHON_WORDS.items():
        text = text.replace(words, typed)
    text = _AS_ARGUMENT.sub(lambda match: f"{OPTIONS[match[1]]} {match['value'] or ''}".rstrip(), text)
    text = _AS_NAME.sub(lambda match: OPTIONS[match[1]], text)
    return _AT_START.sub(lambda match: OPTIONS[match[1]], text)
