"""XMP metadata that tells any viewer which parts of a decoded picture are imagined.

The packet says, in standard terms, that the picture is a composite with a generative model's output (IPTC
DigitalSourceType), what it shows (Dublin Core description), and which regions are faithful (the regions of the
Metadata Working Group). The `.rsic` file itself travels along in a namespace of this package's own.
"""

import base64
import io
import logging
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import __version__
from .bitstream import Bitstream
from .bitstream.weight_map import CELL_PIXELS, is_faithful
from .files import write_file


logger = logging.getLogger(__name__)

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "rsic": "urn:rsic-diffusers:xmp:1.0:",
}
XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 forbids
PACKET = (b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>', b'<?xpacket end="r"?>')
MAX_JPEG_XMP = 65533 - len(b"http://ns.adobe.com/xap/1.0/\x00")  # what fits into one APP1 segment
QUALITY = 95  # of JPEG, WebP and AVIF: the decoded picture should not lose much a second time

for _prefix, _uri in NAMESPACES.items():
    ElementTree.register_namespace(_prefix, _uri)


def picture_metadata(bitstream: Bitstream, source_bytes: bytes, size: tuple[int, int] | None = None) -> bytes:
    """The XMP packet of a decoded picture.

    Args:
        bitstream (`Bitstream`): What the `.rsic` file holds.
        source_bytes (`bytes`): The `.rsic` file itself, kept in the packet as base64.
        size (`tuple[int, int]`, *optional*): Width and height of the decoded picture; the photo's by default.

    Returns:
        `bytes`: UTF-8, for [`save_picture`].
    """
    root = ElementTree.Element(_name("x", "xmpmeta"))
    description = ElementTree.SubElement(_add(root, "rdf", "RDF"), _name("rdf", "Description"))
    description.set(_name("rdf", "about"), "")
    _add(description, "Iptc4xmpExt", "DigitalSourceType", DIGITAL_SOURCE_TYPE)
    _add(description, "xmp", "CreatorTool", f"rsic-diffusers {__version__}")
    caption = NOT_XML.sub("", bitstream.caption)
    if caption:
        text = _add(_add(_add(description, "dc", "description"), "rdf", "Alt"), "rdf", "li", caption)
        text.set(XML_LANGUAGE, "x-default")
    _add_regions(description, bitstream, size or (bitstream.width, bitstream.height))
    _add(description, "rsic", "Source", base64.b64encode(source_bytes).decode())
    return _packet(root)


def save_picture(image: Image.Image, path, metadata: bytes | None = None) -> None:
    """Write a picture to a file, whole or not at all, in the format that the file's name ends with.

    Args:
        image (`PIL.Image.Image`): The picture.
        path: Where to.
        metadata (`bytes`, *optional*): What [`picture_metadata`] returns. PNG, JPEG, WebP and AVIF hold it; other
            formats are written without it, with a warning.

    Raises:
        ValueError: Pillow writes no pictures with such a name.
        OSError: The file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    format = Image.registered_extensions().get(suffix)
    if format not in Image.SAVE:
        raise ValueError(
            f"Pillow writes no {suffix or 'nameless'} pictures; give a name ending in .png, .jpg or .webp."
        )
    write_file(path, encode_picture(image, format, metadata))


def encode_picture(image: Image.Image, format: str, metadata: bytes | None = None) -> bytes:
    """The bytes of a picture in one of Pillow's formats; see [`save_picture`]."""
    arguments = {"quality": QUALITY} if format in ("JPEG", "WEBP", "AVIF") else {}
    if metadata is not None:
        arguments |= _save_arguments(format, metadata)
    buffer = io.BytesIO()
    image.save(buffer, format, **arguments)
    return buffer.getvalue()


def _save_arguments(format: str, metadata: bytes) -> dict:
    """What Pillow's `save` takes to put an XMP packet into a file of this format."""
    if format == "PNG":
        chunks = PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", metadata.decode())
        return {"pnginfo": chunks}
    if format == "JPEG" and len(metadata) > MAX_JPEG_XMP:
        logger.warning(
            "The .rsic file is too large for a JPEG's metadata and is left out of it; PNG and WebP hold it."
        )
        return {"xmp": _without_source(metadata)}
    if format in ("JPEG", "WEBP", "AVIF"):
        return {"xmp": metadata}
    logger.warning(f"A {format} picture is written without metadata; PNG, JPEG, WebP and AVIF hold it.")
    return {}


def _without_source(metadata: bytes) -> bytes:
    root = ElementTree.fromstring(metadata)
    for description in root.iter(_name("rdf", "Description")):
        for source in description.findall(_name("rsic", "Source")):
            description.remove(source)
    return _packet(root)


def _packet(root: ElementTree.Element) -> bytes:
    return PACKET[0] + ElementTree.tostring(root, encoding="utf-8", xml_declaration=False) + PACKET[1]


def _name(prefix: str, name: str) -> str:
    return f"{{{NAMESPACES[prefix]}}}{name}"


def _add(parent: ElementTree.Element, prefix: str, name: str, text: str | None = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, _name(prefix, name))
    element.text = text
    return element


def _add_structure(parent: ElementTree.Element, prefix: str, name: str, fields=()) -> ElementTree.Element:
    """A structure of XMP, with fields given as (prefix, name, text)."""
    element = _add(parent, prefix, name)
    element.set(_name("rdf", "parseType"), "Resource")
    for field in fields:
        _add(element, *field)
    return element


def _add_regions(description: ElementTree.Element, bitstream: Bitstream, size: tuple[int, int]) -> None:
    """Faithful rectangles, with centre and size as fractions of the picture (MWG Guidelines 2.0, section 5.9)."""
    values = bitstream.weight_map.values
    rectangles = list(_rectangles(is_faithful(values)))
    if not rectangles:
        return
    regions = _add_structure(description, "mwg-rs", "Regions")
    dimensions = [("stDim", "w", str(size[0])), ("stDim", "h", str(size[1])), ("stDim", "unit", "pixel")]
    _add_structure(regions, "mwg-rs", "AppliedToDimensions", dimensions)
    bag = _add(_add(regions, "mwg-rs", "RegionList"), "rdf", "Bag")
    height, width = bitstream.coded_size
    for top, bottom, left, right in rectangles:
        weights = values[top:bottom, left:right]
        x0, x1 = left * CELL_PIXELS / width, min(1, right * CELL_PIXELS / width)
        y0, y1 = top * CELL_PIXELS / height, min(1, bottom * CELL_PIXELS / height)
        item = _add_structure(bag, "rdf", "li", [("mwg-rs", "Name", "faithful")])
        _add(item, "mwg-rs", "Description", f"weight M from {weights.min():.2f} to {weights.max():.2f}")
        area = {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "w": x1 - x0, "h": y1 - y0}
        fields = [("stArea", name, f"{value:.6f}") for name, value in area.items()]
        _add_structure(item, "mwg-rs", "Area", [*fields, ("stArea", "unit", "normalized")])


def _rectangles(cells: np.ndarray):
    """Cut a boolean grid into rectangles (top, bottom, left, right) that cover its True cells exactly, none twice."""
    open_runs = {}  # (left, right) of a run of cells: the row it began in
    for row in range(len(cells) + 1):
        edges = np.flatnonzero(np.diff(np.pad(cells[row], 1).astype(int))) if row < len(cells) else []
        runs = {(int(left), int(right)) for left, right in zip(edges[::2], edges[1::2], strict=True)}
        for run in sorted(set(open_runs) - runs):
            yield open_runs.pop(run), row, *run
        for run in sorted(runs):
            open_runs.setdefault(run, row)
