"""Shorter captions: cut at the end of a sentence, a clause or a word."""

import re
from collections.abc import Callable

from ..bitstream.caption_coding import MAX_CAPTION_BYTES


STOP = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[」』”]*")
# A full stop after a title or an initial ends no sentence.
ABBREVIATION = re.compile(r"(?:^|[\s(\"'“‘])(?:[A-Z]|Dr|Mr|Mrs|Ms|Mt|No|Prof|St|vs)\.$")
BREAK = re.compile(r"[,;:](?=\s)|\s[—–-]+(?=\s)|[—–]|\s\(|[，、；：]")
# Thai, kana, CJK and their compatibility forms. Thai vowels and tones go with their letter, before it or after.
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[\u0e40-\u0e44]?[{UNSPACED}][\u0e30-\u0e3a\u0e47-\u0e4e]*|[^\s{UNSPACED}]+")
HANGING = " ,;:—–-([\"'“‘，、；：「『（【《〈"


def sentence_ends(text: str) -> list[int]:
    """Positions where sentences end, after their marks. "Dr. Lee" and "e.g. a dog" contain no such end."""
    ends = []
    for stop in STOP.finditer(text):
        end = stop.end()
        goes_on = text[end : end + 2].strip()[:1].islower() or ABBREVIATION.search(text[max(0, end - 8) : end])
        if end == len(text) or not goes_on:
            ends.append(end)
    return ends


def clause_ends(text: str) -> list[int]:
    """Positions where clauses end: before a comma, semicolon, colon, dash or opening bracket."""
    return [mark.start() for mark in BREAK.finditer(text)]


def word_ends(text: str) -> list[int]:
    """Positions where words end, before any mark that would be left hanging: after "sea" in "sea, and".

    Chinese, Japanese and Thai are written without spaces; there a word may end after each character.
    """
    return [word.start() + len(word.group().rstrip(HANGING)) for word in WORD.finditer(text)]


def longest_prefix(text: str, ends: list[int], fits: Callable[[str], bool] = lambda prefix: True) -> str:
    """The longest beginning of `text` that ends at one of `ends` and fits; empty if none does."""
    # No file holds more characters than bytes, so what is longer need not be tried.
    prefixes = (text[:end].rstrip() for end in reversed(ends) if end <= MAX_CAPTION_BYTES)
    return next((prefix for prefix in prefixes if prefix and fits(prefix)), "")


def cut_sentences(text: str, fits: Callable[[str], bool]) -> str:
    """All of `text` if it fits, else as many whole sentences as fit; empty if not even the first does."""
    return text if fits(text) else longest_prefix(text, sentence_ends(text), fits)


def cut_within_sentence(text: str, fits: Callable[[str], bool]) -> str:
    """As many whole clauses as fit, or whole words if those keep more than twice as much ("In this image, ...")."""
    words = longest_prefix(text, word_ends(text), fits)
    clauses = longest_prefix(text, clause_ends(text), fits)
    return clauses if 2 * len(clauses) >= len(words) else words
