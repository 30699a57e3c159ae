"""The `.rsic` file: everything the decoder needs, and not a byte more.

    offset  size  content
    0       2     magic, "RS"
    2       1     version (high four bits), bit 3 if coded at a reduced size, L - 1 (three bits; L = 1: global mode)
    3       2     fingerprint of the HSVLC that wrote the codes
    5       2-4   width and height in pixels, varints; of a picture coded at a reduced size 14 bits each, and above
                  them 4 bits, long side of the coded picture / 128 - 1
            1-2   caption: varint of length x 4 + codec
            n     caption payload (`caption_coding.py`)
            n     map (`map_coding.py`)
            n     codes: one rANS stream of whole 4-byte words (`models/hsvlc.py`)
    -3      3     checksum: the low 24 bits of the CRC-32 of all that comes before

A varint holds seven bits a byte, low ones first, the high bit set on all but the last. No import here is heavier than
numpy: a file is checked and shown before torch is loaded.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

from ..referring.weight_map import WeightMap, grid_size
from .caption_coding import CAPTION_CODECS, decode_caption, encode_caption
from .map_coding import decode_map, encode_map
from .sizes import MAX_PIXELS, MAX_RETURNED_PIXELS, MAX_SIDE, MIN_SIDE, SIDE_STEP, reduced_size


MAGIC = b"RS"
VERSION = 1
CHECKSUM_BYTES = 3


class BitstreamError(ValueError):
    """A file that is damaged, cut short, foreign, or made for another codec."""


@dataclass(frozen=True, eq=False)
class Bitstream:
    """What a `.rsic` file holds.

    Args:
        width, height (`int`): Size of the picture in pixels, 64 to 16383, with at most 2^22 pixels in all (2^26 if
            `coded_side` is given).
        weight_map (`WeightMap`): M; its `mode` is the file's.
        caption (`str`): May be empty.
        codes (`bytes`): HSVLC's stream.
        fingerprint (`bytes`): `HSVLC.fingerprint` of the codec that wrote it.
        coded_side (`int`, *optional*): Long side of the picture that was coded, a multiple of 128 up to 2048, if it
            was made smaller first; see `coded_size`.
        caption_codec (`str`): How the caption is to be written, see `encode_caption`.
        caption_payload (`tuple[int, bytes]`, *optional*): How it is written, in a file that was read: another version
            of the compression library could write it otherwise.
        map_payload (`bytes`, *optional*): Likewise the map's bytes: later versions code the same map shorter.
    """

    width: int
    height: int
    weight_map: WeightMap
    caption: str
    codes: bytes
    fingerprint: bytes
    coded_side: int | None = None
    caption_codec: str = "auto"
    caption_payload: tuple[int, bytes] | None = None
    map_payload: bytes | None = None

    @property
    def coded_size(self) -> tuple[int, int]:
        """Height and width of the picture that was coded."""
        return reduced_size(self.height, self.width, self.coded_side)

    def sections(self) -> dict[str, bytes]:
        """The bytes by part; joined, and followed by the checksum, they are the file."""
        codec, caption = self.caption_payload or encode_caption(self.caption, self.caption_codec)
        return {
            "header": MAGIC
            + bytes([VERSION << 4 | (self.coded_side is not None) << 3 | self.weight_map.levels - 1])
            + self.fingerprint
            + self._size_field(),
            "caption": _varint(len(caption) << 2 | codec) + caption,
            "map": self.map_payload or encode_map(self.weight_map),
            "codes": self.codes,
        }

    def _size_field(self) -> bytes:
        if self.coded_side is None:
            return _varint(self.width) + _varint(self.height)
        field = self.width | self.height << 14 | (self.coded_side // SIDE_STEP - 1) << 28
        return field.to_bytes(4, "little")

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

        Raises:
            BitstreamError: What is wrong with them, and where.
        """
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
            raise BitstreamError(f"The checksum of the {len(data)} bytes is wrong: the file is damaged or cut short.")

        # From here on only a file that somebody made wrong on purpose can fail.
        levels = (data[2] & 0b111) + 1
        reader = _Reader(body, offset=3)
        fingerprint = reader.take(2, "fingerprint")
        if data[2] & 0b1000:
            field = int.from_bytes(reader.take(4, "size"), "little")
            width, height, coded_side = field & MAX_SIDE, field >> 14 & MAX_SIDE, SIDE_STEP * ((field >> 28) + 1)
        else:
            width, height, coded_side = reader.varint("width"), reader.varint("height"), None
        limit = MAX_PIXELS if coded_side is None else MAX_RETURNED_PIXELS
        if not (MIN_SIDE <= min(width, height) and max(width, height) <= MAX_SIDE and width * height <= limit):
            raise BitstreamError(
                f"The file says that the picture has {width} x {height} pixels; sides go from {MIN_SIDE} to "
                f"{MAX_SIDE}, with at most {limit} pixels in all."
            )
        if coded_side is not None and coded_side >= max(width, height):
            raise BitstreamError(
                f"The file says that a picture of {width} x {height} pixels was reduced to {coded_side}, which is no "
                "reduction."
            )
        coded_height, coded_width = reduced_size(height, width, coded_side)
        length_and_codec = reader.varint("caption length")
        payload = reader.take(length_and_codec >> 2, "caption")
        start = reader.offset
        try:
            caption = decode_caption(length_and_codec & 3, payload)
            weight_map, map_bytes = decode_map(body[start:], levels, *grid_size(coded_height, coded_width))
        except ValueError as error:
            raise BitstreamError(f"Near byte {start}: {error}.") from None
        codes = body[start + map_bytes :]
        # An encoder that escapes every symbol would stay below a byte for each pixel.
        if len(codes) < 8 or len(codes) % 4 or len(codes) > coded_width * coded_height:
            raise BitstreamError(f"At byte {start + map_bytes}: {len(codes)} bytes of codes are no rANS stream.")
        codec = length_and_codec & 3
        return cls(
            width,
            height,
            weight_map,
            caption,
            codes,
            fingerprint,
            coded_side,
            CAPTION_CODECS[codec],
            caption_payload=(codec, payload),
            map_payload=body[start : start + map_bytes],
        )

    @classmethod
    def read(cls, source) -> "Bitstream":
        """From a path, a binary file object or bytes."""
        if hasattr(source, "read"):
            source = source.read()
        if not isinstance(source, (bytes, bytearray, memoryview)):
            source = Path(source).read_bytes()
        return cls.from_bytes(bytes(source))


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
                return value
        raise BitstreamError(f"At byte {self.offset}: the {what} is longer than three bytes.")
