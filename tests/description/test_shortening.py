"""Captions cut to the bytes there are for them, and captioners asked for less."""

import pytest
import torch
from tiny_captioners import Answers, shorter_than

from rsic_diffusers import Captioner
from rsic_diffusers.description.captioners import SHORT_PROMPT, describe
from rsic_diffusers.description.shortening import (
    clause_ends,
    cut_sentences,
    cut_within_sentence,
    sentence_ends,
    word_ends,
)


SENTENCES = (
    "The image shows Dr. Lee, a woman in a navy uniform and cap, standing before a flag. She has gold stripes on her "
    'sleeves (e.g. four on each). A sign reads "No. 5 St. James St." Is it formal? Yes!'
)


def cuts(text, ends):
    return [text[:end].split()[-1] for end in ends]


def test_where_sentences_clauses_and_words_end():
    assert cuts(SENTENCES, sentence_ends(SENTENCES)) == ["flag.", "each).", 'St."', "formal?", "Yes!"]
    assert cuts(SENTENCES, clause_ends(SENTENCES)) == ["Lee", "cap", "sleeves"]
    assert cuts("3.5 m high... and wide; red - or not", clause_ends("3.5 m high... and wide; red - or not")) == [
        "wide",
        "red",
    ]
    assert [("sea, and -- (a) man"[:end]) for end in word_ends("sea, and -- (a) man")] == [
        "sea", "sea, and", "sea, and ", "sea, and -- (a)", "sea, and -- (a) man",
    ]  # fmt: skip
    chinese = "一只狗，在草地上。天空很蓝。"
    assert [chinese[:end] for end in sentence_ends(chinese)] == ["一只狗，在草地上。", chinese]
    assert sentence_ends("") == clause_ends("") == word_ends("") == []
    assert cuts("It is red. it is... blue", sentence_ends("It is red. it is... blue")) == []


@pytest.mark.parametrize(
    "text, shorter",
    [
        ("一只黑色的狗在绿色的草地上奔跑，旁边有一个孩子", "一只黑色的狗在绿色的草地上奔"),
        ("黒い犬が緑の芝生の上を走っている様子", "黒い犬が緑の芝生の上を走って"),
        ("สุนัขสีดำกำลังวิ่งอยู่บนสนามหญ้า", "สุนัขสีดำกำลัง"),  # no vowel without its letter
    ],
)
def test_languages_without_spaces_are_cut_too(text, shorter):
    def fits(caption):
        return len(caption.encode()) <= 42

    assert cut_sentences(text, fits) == "" and cut_within_sentence(text, fits) == shorter


@pytest.mark.parametrize(
    "number, sentences, within",
    [
        (500, SENTENCES, None),
        (190, 'The ... reads "No. 5 St. James St." Is it formal?', None),
        (150, "The ... four on each).", None),
        (84, "The ... before a flag.", None),
        (83, "", "The image shows Dr. Lee, a woman in a navy uniform and cap"),
        (58, "", "The image shows Dr. Lee, a woman in a navy uniform and"),
        (40, "", "The image shows Dr. Lee"),
        (10, "", "The image"),
        (4, "", "The"),
        (3, "", ""),
    ],
)
def test_cutting(number, sentences, within):
    fits = shorter_than(number)
    caption = cut_sentences(SENTENCES, fits)
    start, dots, end = sentences.partition(" ... ")
    assert caption.startswith(start) and caption.endswith(end) and bool(caption) == bool(sentences)
    assert len(caption) < number
    if within is not None:
        assert cut_within_sentence(SENTENCES, fits) == within


def test_a_clause_that_says_little_gives_way_to_words():
    text = "In this image, a man with a hat rides a horse along the beach"
    assert cut_within_sentence(text, shorter_than(40)) == "In this image, a man with a hat rides a"
    assert cut_within_sentence(text, shorter_than(22)) == "In this image"


@pytest.mark.parametrize("number", range(0, 200, 3))
def test_never_mid_word(number):
    for cut in (cut_sentences, cut_within_sentence):
        caption = cut(SENTENCES, shorter_than(number))
        assert SENTENCES.startswith(caption) and len(caption) < max(number, 1)
        rest = SENTENCES[len(caption) :]
        assert not caption or not rest or not rest[0].isalnum()


def test_less_is_asked_for_only_where_no_sentence_fits(photo):
    long = "A very long sentence about a dog, a cat and a horse. Short."
    short = "A dog, a cat and a horse."
    captioner = Answers(long, short)
    assert describe(captioner, photo, shorter_than(56)) == long[:52] and captioner.asked == [None]
    assert describe(captioner, photo, shorter_than(30)) == short and captioner.asked == [None, None, SHORT_PROMPT]
    assert describe(captioner, photo, shorter_than(15)) == "A dog, a cat"
    assert describe(captioner, photo, shorter_than(12)) == "A dog"
    assert describe(captioner, photo, shorter_than(1)) == ""
    assert describe(Answers(long, " "), photo, shorter_than(40)) == "A very long sentence about a dog"
    assert describe(Answers(" A\n\tdog. \n"), photo, shorter_than(10)) == "A dog."
    empty = Answers(" \n")
    assert describe(empty, photo, shorter_than(10)) == "" and empty.asked == [None]


def test_who_cannot_be_asked_for_less_is_asked_once(blip, photo, monkeypatch):
    calls = []
    captioner = Captioner(*blip)
    monkeypatch.setattr(
        captioner.model, "generate", lambda **kwargs: calls.append(1) or torch.tensor([[5, 30, 40, 50]])
    )
    assert len(describe(captioner, photo, shorter_than(12)).split()) < 3 and calls == [1]
    assert describe(lambda image: calls.append(1) or "a dog and a cat", photo, shorter_than(6)) == "a dog"
    assert calls == [1, 1]
    assert describe(str, photo, shorter_than(3)) == ""  # which does not tell its arguments
