"""Caption bytes."""

import hashlib
import zlib

import pytest

from rsic_diffusers.bitstream.caption_coding import CAPTION_CODECS, caption_dictionary, decode_caption, encode_caption
from rsic_diffusers.evaluation.experiments.side_information import caption_bytes, held_out_captions, saving


CAPTIONS = [
    "",
    "a dog",
    "two black and white magpies on the grass in front of a metal wall",
    "ein Fuß, ein Fluß — 東京タワー 🗼 \x00 \n",
    "👩\u200d👩\u200d👧 naïve e\u0301 \u202eשלום\u202c \U0010ffff",
    "x" * 4096,
    "".join(chr(0x4E00 + 7919 * i % 20000) for i in range(1365)) + "x",  # 4096 bytes that hardly compress
]
DICTIONARY = CAPTION_CODECS.index("dictionary")


def raw_deflate(text, dictionary=b""):
    compressor = zlib.compressobj(9, wbits=-15, zdict=dictionary)
    return compressor.compress(text) + compressor.flush()


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
        decode_caption(4, b"a")
    for number in (1, 2, 3):
        with pytest.raises(ValueError):
            decode_caption(number, encode_caption("a dog on the grass", CAPTION_CODECS[number])[1][:-1])


def test_the_dictionary_and_the_numbers_of_codecs_are_part_of_the_format():
    """If this fails, captions in users' files are lost: undo the change, and give a new dictionary a new number."""
    assert CAPTION_CODECS[:4] == ("raw", "zlib", "brotli", "dictionary")
    digest = hashlib.sha256(caption_dictionary()).hexdigest()
    assert digest == "a8d2b25591a2df7b64083a2aa51a9d44d0304ef1c8849a85eb4c89288b703351"


def test_a_payload_of_today_is_read_for_ever():
    caption = "a man riding a horse on the beach at sunset"
    assert decode_caption(DICTIONARY, bytes.fromhex("431bb3820c4ba114a6f0114800")) == caption


def test_ordinary_captions_take_35_percent_fewer_bytes_than_zlib():
    captions = held_out_captions()
    assert len(captions) >= 60 and all(8 <= len(caption.split()) <= 40 for caption in captions)
    assert not any(caption.encode() in caption_dictionary() for caption in captions)
    assert saving(caption_bytes(captions), "zlib") >= 35
    for caption in captions:
        number, payload = encode_caption(caption)
        assert decode_caption(number, payload) == caption


def test_zlib_stays_selectable():
    number, payload = encode_caption("a dog on the grass", "zlib")
    assert (number, payload) == (1, zlib.compress(b"a dog on the grass", 9))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x07",  # a block type that does not exist
        raw_deflate(b"x" * 4097),
        raw_deflate(bytes(50_000_000)),  # a bomb
        raw_deflate(b"a dog") + b"and more",
        raw_deflate(b"\xff\xfe"),  # not UTF-8
        raw_deflate(b"a dog on the lawn", bytes(20_000) + b"a dog on the lawn")[:-1],
        zlib.compress(b"a dog", 9),  # with header and checksum
    ],
)
def test_hostile_dictionary_payloads_are_refused(payload):
    with pytest.raises(ValueError):
        decode_caption(DICTIONARY, payload)


def test_a_reference_beyond_the_dictionary_is_refused():
    """32 kB back, where there is neither text nor dictionary."""
    far = caption_dictionary().rjust(32_000, b"?")[:40]
    payload = raw_deflate(far, far + bytes(31_000))
    with pytest.raises(ValueError, match="too far back"):
        decode_caption(DICTIONARY, payload)
