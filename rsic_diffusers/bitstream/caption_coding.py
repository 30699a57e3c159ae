"""The caption's bytes: lossless, by whichever library makes them fewest."""

import zlib
from functools import cache
from importlib import resources

import brotli


# The index of a codec is written into files: append only.
CAPTION_CODECS = ("raw", "zlib", "brotli", "dictionary")
MAX_CAPTION_BYTES = 4096
DEFAULT_CAPTION_BYTES = 60  # of what a captioner writes: about what the paper's captions take
DEFAULT_CAPTION_CODEC = "auto"
MAX_PAYLOAD_BYTES = MAX_CAPTION_BYTES + 64  # no library makes text longer than by a header and a checksum


@cache
def caption_dictionary() -> bytes:
    """Ordinary words and phrases of photo captions, the commonest last, where deflate refers to them with fewest bits.

    Files refer to places in it: not a byte of it may ever change (how its lines are broken does not count).
    """
    text = resources.files(__package__).joinpath("caption_dictionary.txt").read_text("utf-8")
    return (" ".join(text.split()) + " ").encode()


def check_caption_text(caption: str, codec: str = DEFAULT_CAPTION_CODEC) -> None:
    """Raise a `ValueError` unless a file can hold this caption, coded so; for the arguments see `encode_caption`."""
    if not isinstance(caption, str):
        raise ValueError(f"A caption must be a string, got {type(caption).__name__}.")
    try:
        length = len(caption.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError(f"The caption {caption!r} holds half of a surrogate pair, which is no text.") from None
    if length > MAX_CAPTION_BYTES:
        raise ValueError(f"The caption has {length} bytes, more than the {MAX_CAPTION_BYTES} a file can hold.")
    if codec not in ("auto", *CAPTION_CODECS):
        raise ValueError(f"caption_codec must be one of auto, {', '.join(CAPTION_CODECS)}; got {codec!r}.")


def encode_caption(caption: str, codec: str = DEFAULT_CAPTION_CODEC) -> tuple[int, bytes]:
    """Compress a caption.

    Args:
        caption (`str`): Any Unicode text of at most 4096 bytes in UTF-8.
        codec (`str`): "raw", "zlib" (the paper's), "brotli" (knows common English words), "dictionary" (zlib's deflate
            without header and checksum, after `caption_dictionary`), or "auto": the smallest.

    Returns:
        `tuple[int, bytes]`: The codec's number in `CAPTION_CODECS`, and the payload.
    """
    check_caption_text(caption, codec)
    text = caption.encode("utf-8")
    # The file has a checksum of its own, so deflate goes without zlib's (negative window bits).
    deflate = zlib.compressobj(9, wbits=-15, memLevel=9, zdict=caption_dictionary())
    payloads = {
        "raw": text,
        "zlib": zlib.compress(text, 9),
        "brotli": brotli.compress(text, mode=brotli.MODE_TEXT, quality=11, lgwin=10),
        "dictionary": deflate.compress(text) + deflate.flush(),
    }
    if codec == "auto":
        codec = min(payloads, key=lambda name: len(payloads[name]))
    return CAPTION_CODECS.index(codec), payloads[codec]


def decode_caption(codec: int, payload: bytes) -> str:
    """Undo `encode_caption`; ValueError if `payload` is not what an encoder writes."""
    if codec >= len(CAPTION_CODECS):
        raise ValueError(f"caption codec {codec} is unknown")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"the caption takes {len(payload)} bytes, more than any caption")
    name = CAPTION_CODECS[codec]
    try:
        text = _decompress(name, payload)
        if text is None:
            raise ValueError("the caption does not end where it should")
        if name in ("zlib", "dictionary") and _has_unused_bits(name, payload, text):
            raise ValueError("the caption has bits set that stand for nothing")
        return text.decode("utf-8")
    except (zlib.error, brotli.error, UnicodeDecodeError) as error:
        raise ValueError(f"the caption cannot be decoded ({error})") from None


def _decompress(name: str, payload: bytes) -> bytes | None:
    """The text in a payload; None unless it ends with the payload and is no longer than a caption can be."""
    # A few hostile bytes can stand for gigabytes: never decompress past the longest caption.
    if name in ("zlib", "dictionary"):
        decompressor = zlib.decompressobj() if name == "zlib" else zlib.decompressobj(-15, zdict=caption_dictionary())
        text = decompressor.decompress(payload, MAX_CAPTION_BYTES)
        complete = decompressor.eof and not decompressor.unused_data
    elif name == "brotli":
        decompressor = brotli.Decompressor()
        text = decompressor.process(payload, output_buffer_limit=MAX_CAPTION_BYTES + 1)
        complete = decompressor.is_finished()
    else:
        text, complete = payload, True
    return text if complete and len(text) <= MAX_CAPTION_BYTES else None


def _has_unused_bits(name: str, payload: bytes, text: bytes) -> bool:
    """Whether deflate's last byte has bits set after the end of the code, which no decompressor looks at.

    They are unused if the text stays the same whatever their value. Bits of the code itself are not: with another
    value the code does not end there.
    """
    place = len(payload) - (5 if name == "zlib" else 1)  # zlib's checksum follows
    last = payload[place]
    if not last:
        return False
    highest = last.bit_length() - 1
    kept = last & ((1 << highest) - 1)
    for value in range(1 << 8 - highest):
        other = payload[:place] + bytes([kept | value << highest]) + payload[place + 1 :]
        try:
            if _decompress(name, other) != text:
                return False
        except zlib.error:
            return False
    return True
