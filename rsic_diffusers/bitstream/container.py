"""The `.rsic` file: everything the decoder needs, and not a byte more.

    offset  size  content
    0       2     magic, "RS"
    2       1     version (high four bits), bit 3 if coded at a reduced size, L - 1 (three bits; L = 1: global mode)
    3       2     fingerprint of the HSVLC that wrote the codes
    5       2-4   width and height in pixels, varints; of a picture coded at a reduced size 14 bits each, and above
                  them 4 bits, long side of the coded picture / 128 - 1
            1-3   caption: varint of length x 4 + codec
            n     caption payload (`caption_coding.py`)
            n     map (`map_coding.py`)
            n     codes: one rANS stream of whole 4-byte words (`models/hsvlc.py`)
    -3      3     checksum: the low 24 bits of the CRC-32 of all that comes before

A varint holds seven bits a byte, low ones first, the high bit set on all but the last. No import here is heavier than
numpy: a file is checked and shown before torch is loaded.
"""

import io
import os
import stat
import zlib
from dataclasses import dataclass, field

import numpy as np

from .caption_coding import CAPTION_CODECS, check_caption_text, decode_caption, encode_caption
from .map_coding import MAX_LEVELS, decode_map, encode_map
from .sizes import MAX_CODED_SIDE, MAX_PIXELS, MAX_RETURNED_PIXELS, MAX_SIDE, MIN_SIDE, SIDE_STEP, reduced_size
from .weight_map import WeightMap, grid_size


MAGIC = b"RS"
VERSION = 1
FINGERPRINT_BYTES = 2
CHECKSUM_BYTES = 3
MIN_CODE_BYTES = 8  # the state of the rANS coder
# No file is longer: a byte of codes for each coded pixel, and less than that much of everything else.
MAX_FILE_BYTES = MAX_PIXELS + (1 << 20)


class BitstreamError(ValueError):
    """A file that is damaged, cut short, foreign or made for another codec; or values that no file can hold."""


@dataclass(frozen=True, eq=False)
class Bitstream:
    """What a `.rsic` file holds.

    Args:
        width, height (`int`): Size of the picture in pixels, 64 to 16383, with at most 2^22 pixels in all (2^26 if
            `coded_side` is given).
        weight_map (`WeightMap`): M, with a cell for each 64 x 64 pixels of the coded picture; its `mode` is the
            file's.
        caption (`str`): May be empty; at most 4096 bytes in UTF-8.
        codes (`bytes`): HSVLC's stream: whole 4-byte words, at least two, and at most a byte for each coded pixel.
        fingerprint (`bytes`): `HSVLC.fingerprint` of the codec that wrote it, two bytes.
        coded_side (`int`, *optional*): Long side of the picture that was coded, a multiple of 128 up to 2048, if it
            was made smaller first; see `coded_size`.
        caption_codec (`str`): How the caption is to be written, see `encode_caption`.

    Raises:
        BitstreamError: A value that no file can hold.
    """

    width: int
    height: int
    weight_map: WeightMap
    caption: str
    codes: bytes
    fingerprint: bytes
    coded_side: int | None = None
    caption_codec: str = "auto"
    # How caption and map are written in a file that was read: a later version could write the same ones otherwise.
    _caption_payload: tuple[int, bytes] | None = field(default=None, init=False, repr=False)
    _map_payload: bytes | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        for name in ("width", "height", "coded_side"):
            if isinstance(getattr(self, name), np.integer):  # whose products and shifts could overflow
                object.__setattr__(self, name, int(getattr(self, name)))
        _check_size(self.width, self.height, self.coded_side)
        _check_map(self.weight_map, grid_size(*self.coded_size))
        try:
            check_caption_text(self.caption, self.caption_codec)
        except ValueError as error:
            raise BitstreamError(str(error)) from None
        if not isinstance(self.fingerprint, bytes) or len(self.fingerprint) != FINGERPRINT_BYTES:
            raise BitstreamError(f"A fingerprint is {FINGERPRINT_BYTES} bytes, got {self.fingerprint!r}.")
        pixels = self.coded_size[0] * self.coded_size[1]
        # Codecs of ordinary widths stay far below a byte for each pixel, even where every symbol escapes. This bounds
        # what a hostile file costs.
        if not isinstance(self.codes, bytes) or not _is_stream(len(self.codes), pixels):
            found = f"{len(self.codes)} bytes" if isinstance(self.codes, bytes) else type(self.codes).__name__
            raise BitstreamError(
                f"The codes are no rANS stream: expected bytes, a multiple of 4 from {MIN_CODE_BYTES} to the "
                f"{pixels} coded pixels; got {found}."
            )

    @property
    def coded_size(self) -> tuple[int, int]:
        """Height and width of the picture that was coded."""
        return reduced_size(self.height, self.width, self.coded_side)

    def sections(self) -> dict[str, bytes]:
        """The bytes by part; joined, and followed by the checksum, they are the file."""
        codec, caption = self._caption_payload or encode_caption(self.caption, self.caption_codec)
        return {
            "header": MAGIC
            + bytes([VERSION << 4 | (self.coded_side is not None) << 3 | self.weight_map.levels - 1])
            + self.fingerprint
            + self._size_field(),
            "caption": _varint(len(caption) << 2 | codec) + caption,
            "map": self._map_payload or encode_map(self.weight_map),
            "codes": self.codes,
        }

    def _size_field(self) -> bytes:
        if self.coded_side is None:
            return _varint(self.width) + _varint(self.height)
        packed = self.width | self.height << 14 | (self.coded_side // SIDE_STEP - 1) << 28
        return packed.to_bytes(4, "little")

    def to_bytes(self) -> bytes:
        body = b"".join(self.sections().values())
        return body + _checksum(body)

    @property
    def noise_seed(self) -> int:
        """A number below 2^32 that the content decides: the same file gets the same noise, and so the same picture."""
        # Not of the whole file: a CRC over bytes and their own CRC is always the same.
        return zlib.crc32(self.to_bytes()[:-CHECKSUM_BYTES])

    def breakdown(self) -> dict[str, int]:
        """Bytes by part; the header counts the checksum, and the sum is the length of the file."""
        sizes = {name: len(section) for name, section in self.sections().items()}
        sizes["header"] += CHECKSUM_BYTES
        return sizes

    @classmethod
    def from_bytes(cls, data: bytes) -> "Bitstream":
        """Read a file's bytes.

        What is read here is written by `to_bytes` as the same bytes.

        Raises:
            BitstreamError: What is wrong with them, and where.
        """
        body = _checked_body(data)
        # From here on only a file that somebody made wrong on purpose can fail.
        levels = (data[2] & 0b111) + 1
        reader = _Reader(body, offset=3)
        fingerprint = reader.take(FINGERPRINT_BYTES, "fingerprint")
        width, height, coded_side = reader.size(is_reduced=bool(data[2] & 0b1000))
        coded_height, coded_width = reduced_size(height, width, coded_side)
        length_and_codec = reader.varint("caption length")
        codec = length_and_codec & 3
        payload = reader.take(length_and_codec >> 2, "caption")
        start = reader.offset
        try:
            caption = decode_caption(codec, payload)
            weight_map, map_bytes = decode_map(body[start:], levels, *grid_size(coded_height, coded_width))
        except ValueError as error:
            raise BitstreamError(f"Near byte {start}: {error}.") from None
        codes = body[start + map_bytes :]
        if not _is_stream(len(codes), coded_width * coded_height):
            raise BitstreamError(f"At byte {start + map_bytes}: {len(codes)} bytes of codes are no rANS stream.")
        file = cls(width, height, weight_map, caption, codes, fingerprint, coded_side, CAPTION_CODECS[codec])
        object.__setattr__(file, "_caption_payload", (codec, payload))
        object.__setattr__(file, "_map_payload", body[start : start + map_bytes])
        return file

    @classmethod
    def read(cls, source) -> "Bitstream":
        """Read a file.

        Args:
            source (`str`, `os.PathLike`, `bytes` or a binary file object): A path, the bytes, or what has `read`; it
                is read from its beginning if it can go there. A [`Bitstream`] is returned as it is.

        Raises:
            BitstreamError: What is wrong with it. A file larger than any `.rsic` file is refused unread.
            OSError: The path cannot be read.
            TypeError: It is none of these.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls.from_bytes(bytes(source))
        if hasattr(source, "read"):
            return cls.from_bytes(_read_limited(source))
        if not isinstance(source, (str, os.PathLike)):  # open() would take a number for a file that is open already
            raise TypeError(
                f"A file must be a path, bytes or a binary file object, got {type(source).__name__}; of an encoder's "
                "output, give its bitstream."
            )
        with open(source, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size > MAX_FILE_BYTES:
                raise _too_large(status.st_size)
            return cls.from_bytes(_read_limited(file))


def _read_limited(file) -> bytes:
    is_text = isinstance(file, io.TextIOBase)
    if not is_text and hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    data, chunk = b"", None
    while len(data) <= MAX_FILE_BYTES and chunk != b"":  # an unbuffered pipe gives what is there
        chunk = None if is_text else file.read(MAX_FILE_BYTES + 1 - len(data))
        if not isinstance(chunk, bytes):
            raise BitstreamError(
                f"A file object must be opened in binary mode, and its read() must give bytes; this "
                f"{type(file).__name__} gives {'text' if is_text else type(chunk).__name__}."
            )
        data += chunk
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(len(data))
    return data


def _too_large(size: int) -> BitstreamError:
    return BitstreamError(
        f"This is not an .rsic file: it has {size} bytes or more, and the largest has {MAX_FILE_BYTES}."
    )


def _checked_body(data: bytes) -> bytes:
    """The bytes before the checksum, which is right."""
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(len(data))
    if not data:
        raise BitstreamError("This is not an .rsic file: it is empty.")
    if data[:2] != MAGIC:
        raise BitstreamError("This is not an .rsic file: it does not begin with 'RS'.")
    if len(data) < 6:
        raise BitstreamError(f"The file is cut short: {len(data)} bytes are less than a header.")
    version = data[2] >> 4
    if version != VERSION:
        raise BitstreamError(
            f"The file has format version {version}, this package reads version {VERSION}; update rsic-diffusers, "
            "or the file is damaged at byte 2."
        )
    body = data[:-CHECKSUM_BYTES]
    if _checksum(body) != data[-CHECKSUM_BYTES:]:
        raise BitstreamError(
            f"The checksum of the {len(data)} bytes is wrong: the file is damaged, cut short, or has bytes added."
        )
    return body


def _check_size(width: int, height: int, coded_side: int | None) -> None:
    for name, value in (("width", width), ("height", height)):
        if not _is_whole(value):
            raise BitstreamError(f"The {name} of a picture is a whole number of pixels, got {value!r}.")
    limit = MAX_PIXELS if coded_side is None else MAX_RETURNED_PIXELS
    if not (min(width, height) >= MIN_SIDE and max(width, height) <= MAX_SIDE and width * height <= limit):
        raise BitstreamError(
            f"The picture would have {width} x {height} pixels; sides go from {MIN_SIDE} to {MAX_SIDE}, with at most "
            f"{limit} pixels in all."
        )
    if coded_side is None:
        return
    if not _is_whole(coded_side) or coded_side % SIDE_STEP or not SIDE_STEP <= coded_side <= MAX_CODED_SIDE:
        raise BitstreamError(
            f"A picture is reduced to a long side of a multiple of {SIDE_STEP} up to {MAX_CODED_SIDE} pixels, got "
            f"{coded_side!r}."
        )
    if coded_side >= max(width, height):
        raise BitstreamError(f"A picture of {width} x {height} pixels reduced to {coded_side} is no reduction.")


def _check_map(weight_map: WeightMap, grid: tuple[int, int]) -> None:
    if not isinstance(weight_map, WeightMap):
        raise BitstreamError(f"weight_map must be a WeightMap, got {type(weight_map).__name__}.")
    cells, levels = weight_map.cells, weight_map.levels
    if not _is_whole(levels) or not 1 <= levels <= MAX_LEVELS:
        raise BitstreamError(f"A map has 1 to {MAX_LEVELS} levels, got {levels!r}.")
    if not isinstance(cells, np.ndarray) or cells.dtype != np.uint8 or cells.shape != grid:
        found = f"{cells.dtype} of shape {cells.shape}" if isinstance(cells, np.ndarray) else type(cells).__name__
        raise BitstreamError(f"The cells of a map of this size are uint8 of shape {grid}, got {found}.")
    if levels == 1 and (cells != cells.flat[0]).any():
        raise BitstreamError("A map of one level (global mode) has one value in all cells; this one has several.")
    if levels > 1 and cells.max() >= levels:
        raise BitstreamError(f"A map of {levels} levels holds cells up to {levels - 1}, got {cells.max()}.")


def _is_whole(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_stream(length: int, pixels: int) -> bool:
    return MIN_CODE_BYTES <= length <= pixels and length % 4 == 0


def _checksum(body: bytes) -> bytes:
    return (zlib.crc32(body) & 0xFFFFFF).to_bytes(CHECKSUM_BYTES, "little")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


class _Reader:
    def __init__(self, data: bytes, offset: int):
        self.data, self.offset = data, offset

    def take(self, length: int, what: str) -> bytes:
        left = len(self.data) - self.offset
        if length > left:
            raise BitstreamError(f"At byte {self.offset}: the {what} needs {length} bytes, {left} are left.")
        self.offset += length
        return self.data[self.offset - length : self.offset]

    def varint(self, what: str) -> int:
        value = 0
        for shift in (0, 7, 14):
            byte = self.take(1, what)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if shift and not byte:
                    raise BitstreamError(f"At byte {self.offset}: the {what} takes a byte more than it needs.")
                return value
        raise BitstreamError(f"At byte {self.offset}: the {what} is longer than three bytes.")

    def size(self, is_reduced: bool) -> tuple[int, int, int | None]:
        """Width, height and `coded_side`, checked."""
        if is_reduced:
            packed = int.from_bytes(self.take(4, "size"), "little")
            width, height, coded_side = packed & MAX_SIDE, packed >> 14 & MAX_SIDE, SIDE_STEP * ((packed >> 28) + 1)
        else:
            width, height, coded_side = self.varint("width"), self.varint("height"), None
        _check_size(width, height, coded_side)
        return width, height, coded_side
