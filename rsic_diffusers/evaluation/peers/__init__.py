"""Other codecs, each searched for the setting nearest the same bytes."""

from .external import load_external
from .ms_illm import MSILLM
from .peer import Peer, PeerResult, PeerUnavailable
from .standard import AVIF, JPEG, JPEG2000, JPEGXL, WebP, best_standard_codec
from .vvc import VVC


__all__ = ["PEERS", "PeerResult", "PeerUnavailable", "best_standard_codec", "load_external", "load_peer"]

PEERS = {
    "jpeg": JPEG,
    "webp": WebP,
    "avif": AVIF,
    "jpeg2000": JPEG2000,
    "jpegxl": JPEGXL,
    "vvc": VVC,
    "ms-illm": MSILLM,
}


# What a package brings, and nothing larger.
DEFAULT_PEERS = ("jpeg", "webp", "avif", "jpeg2000", "jpegxl")


def load_peer(name: str) -> Peer:
    """A codec, to be called with `(image, num_bytes)`.

    Args:
        name (`str`): One of `PEERS`.

    Raises:
        ValueError: No such name.
        PeerUnavailable: The codec is not installed here (a `ValueError` too).
    """
    if name not in PEERS:
        raise ValueError(f"{name!r} is no peer codec; choose from {', '.join(PEERS)}.")
    return PEERS[name]()
