"""What every peer codec is and gives."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image

from .search import largest_within


class PeerUnavailable(ValueError):
    """The codec is not installed here."""


@dataclass
class PeerResult:
    """
    Args:
        name (`str`): Label of the codec.
        num_bytes (`int`): Size of its file.
        image (`PIL.Image.Image`): Decoded, RGB, as large as the photo.
        fits (`bool`, *optional*): False if the codec cannot go as low as asked; this is its smallest file. None if
            that is unknown.
        setting (`str`): The chosen one, "quality 12" say.
        encode_seconds, decode_seconds (`float`, *optional*): With this setting, the search left out; None if unknown.
        data (`bytes`, *optional*): The file; None if unknown.
    """

    name: str
    num_bytes: int
    image: Image.Image
    fits: bool | None
    setting: str
    encode_seconds: float | None
    decode_seconds: float | None
    data: bytes | None


class Peer(ABC):
    """A codec that runs here.

    Attributes:
        name (`str`): Label.
        search (`Callable`): Finds the setting for so many bytes, see `search.py`.
    """

    name: str
    search = staticmethod(largest_within)

    @abstractmethod
    def settings(self, image: Image.Image):
        """Sequence of settings by growing quality."""

    @abstractmethod
    def encode(self, image: Image.Image, setting) -> bytes:
        """The whole file."""

    @abstractmethod
    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """The picture, RGB, of `size` (width, height)."""

    @abstractmethod
    def describe(self, setting) -> str:
        """The setting in words."""

    def __call__(self, image: Image.Image, num_bytes: int, name: str | None = None) -> PeerResult:
        """Encode to about `num_bytes`, and decode: to the largest file of at most so many, unless `search` is another.

        Args:
            image (`PIL.Image.Image`).
            num_bytes (`int`): At least 1.
            name (`str`, *optional*): File name of the photo, which only external codecs use.
        """
        if num_bytes < 1:
            raise ValueError(f"A file of {num_bytes} bytes was asked for; ask for at least 1.")
        # Pillow would write the photo's EXIF, ICC profile and comment into some formats.
        pixels = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
        found = self.search(self.settings(pixels), lambda setting: self.encode(pixels, setting), num_bytes)
        start = time.perf_counter()
        decoded = self.decode(found.data, image.size)
        return PeerResult(
            name=self.name,
            num_bytes=len(found.data),
            image=decoded,
            fits=found.fits,
            setting=self.describe(found.setting),
            encode_seconds=found.seconds,
            decode_seconds=time.perf_counter() - start,
            data=found.data,
        )
