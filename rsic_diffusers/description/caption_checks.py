"""Whether a caption can be written to a file, and read by the decoder's text encoder."""

from ..bitstream.caption_coding import check_caption_text, encode_caption
from ..tokenizer_lock import TOKENIZING


QUOTED = 60  # characters of a caption in an error


def check_caption(caption, tokenizer) -> None:
    """Check a caption that the user gave.

    Args:
        caption (`str`): May be empty.
        tokenizer ([`CLIPTokenizer`] or `None`): The decoder's; None if it is not known.

    Raises:
        ValueError: It is no text, or longer than a file can hold or the text encoder reads.
    """
    check_caption_text(caption)
    if tokenizer is None:
        return
    limit = tokenizer.model_max_length
    with TOKENIZING:
        tokens = tokenizer(caption, truncation=False, verbose=False).input_ids
    if len(tokens) > limit:
        cut = tokenizer.decode(tokens[limit - 1 :], skip_special_tokens=True).strip("\ufffd")
        cut = cut if len(cut) <= QUOTED else f"{cut[:QUOTED]} ..."
        raise ValueError(
            f"The caption has {len(tokens)} tokens and the text encoder reads {limit}; it would not read {cut!r}. "
            "Make the caption shorter."
        )


def fits_in_file(caption: str, tokenizer, max_bytes: int, codec: str) -> bool:
    """Whether a caption takes at most `max_bytes` coded bytes, and the text encoder reads all of it."""
    try:
        payload = encode_caption(caption, codec)[1]
        check_caption(caption, tokenizer)
    except ValueError:
        return False
    return len(payload) <= max_bytes
