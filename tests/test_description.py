"""Caption bytes."""

import pytest

from rsic_diffusers.description.text_coding import CAPTION_CODECS, decode_caption, encode_caption


CAPTIONS = [
    "",
    "a dog",
    "two black and white magpies on the grass in front of a metal wall",
    "ein Fuß, ein Fluß — 東京タワー 🗼 \x00 \n",
    "x" * 4096,
]


@pytest.mark.parametrize("codec", ["auto", *CAPTION_CODECS])
@pytest.mark.parametrize("caption", CAPTIONS)
def test_lossless(caption, codec):
    number, payload = encode_caption(caption, codec)
    assert decode_caption(number, payload) == caption
    if codec == "auto":
        assert len(payload) == min(len(encode_caption(caption, name)[1]) for name in CAPTION_CODECS)


def test_too_long_and_unknown_are_refused():
    with pytest.raises(ValueError, match="4096"):
        encode_caption("x" * 4097)
    with pytest.raises(ValueError, match="caption_codec"):
        encode_caption("a", "lzma")
    with pytest.raises(ValueError, match="unknown"):
        decode_caption(3, b"a")
    for number in (1, 2):
        with pytest.raises(ValueError):
            decode_caption(number, encode_caption("a dog on the grass", CAPTION_CODECS[number])[1][:-1])
