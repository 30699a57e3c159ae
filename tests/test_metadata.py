"""The metadata of decoded pictures, read back by programs that are not Pillow."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.bitstream.weight_map import WeightMap
from rsic_diffusers.metadata import DIGITAL_SOURCE_TYPE, picture_metadata, save_picture


CAPTION = 'a <b>"fox" & a hen</b> ]]>\x07 — 狐 🦊'
READABLE = CAPTION.replace("\x07", "")  # XML cannot hold a bell


def bitstream(cells, levels=8, width=300, height=190, codes=bytes(8), caption=CAPTION):
    return Bitstream(width, height, WeightMap(np.array(cells, np.uint8), levels), caption, codes, b"\x01\x02")


@pytest.fixture
def file():
    # Faithful: an L of three cells, which is no rectangle, and a single cell at the ragged right edge.
    return bitstream([[7, 7, 0, 0, 0], [5, 0, 0, 0, 6], [0, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def exiv2():
    return pytest.importorskip("pyexiv2", reason="pyexiv2 reads the metadata back; it is not installed")


def noise(width=300, height=190):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exiv2_reads_it(exiv2, tmp_path, file, suffix):
    source, path = file.to_bytes(), tmp_path / f"picture{suffix}"
    save_picture(noise(), path, picture_metadata(file, source))
    with exiv2.Image(str(path)) as image:
        read = image.read_xmp()
    assert read["Xmp.iptcExt.DigitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert read["Xmp.dc.description"] == {'lang="x-default"': READABLE}
    assert base64.b64decode(read["Xmp.rsic.Source"]) == source
    regions = "Xmp.mwg-rs.Regions/mwg-rs:"
    assert read[f"{regions}AppliedToDimensions/stDim:w"] == "300"
    covered = np.zeros((190, 300), int)
    for index in (1, 2, 3):
        area = f"{regions}RegionList[{index}]/mwg-rs:Area/stArea:"
        x, y, w, h = (float(read[area + name]) for name in "xywh")
        rows = slice(round((y - h / 2) * 190), round((y + h / 2) * 190))
        covered[rows, round((x - w / 2) * 300) : round((x + w / 2) * 300)] += 1
    assert f"{regions}RegionList[4]/mwg-rs:Area/stArea:x" not in read
    expected = np.zeros((190, 300), int)
    expected[:64, :128] = expected[64:128, :64] = expected[64:128, 256:] = 1
    assert (covered == expected).all()


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exiftool_reads_it(tmp_path, file, suffix):
    path = tmp_path / f"picture{suffix}"
    save_picture(noise(), path, picture_metadata(file, file.to_bytes()))
    command = ["exiftool", "-json", "-struct", "-n", "-warning", "-error", "-XMP:all", str(path)]
    read = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
    assert "Warning" not in read and "Error" not in read
    assert read["DigitalSourceType"] == DIGITAL_SOURCE_TYPE and read["Description"] == READABLE
    assert base64.b64decode(read["Source"]) == file.to_bytes()
    regions = read["RegionInfo"]
    assert regions["AppliedToDimensions"] == {"W": 300, "H": 190, "Unit": "pixel"}
    assert [region["Name"] for region in regions["RegionList"]] == ["faithful"] * 3


def test_a_picture_without_faithful_parts_has_no_regions(exiv2, tmp_path):
    """One low M everywhere: nothing may be called faithful. A high one: all of the picture is."""
    low = [[3, 3, 2, 2, 2], [3, 3, 2, 2, 2], [2, 2, 2, 2, 2]]  # of 7: above the rest, and yet little is kept
    for cells, levels, expected in ((low, 8, 0), (np.full((3, 5), 40), 1, 0), (np.full((3, 5), 219), 1, 1)):
        file = bitstream(cells, levels, caption="")
        save_picture(noise(), tmp_path / "picture.png", picture_metadata(file, file.to_bytes()))
        with exiv2.Image(str(tmp_path / "picture.png")) as image:
            read = image.read_xmp()
        assert sum(key.endswith("stArea:x") for key in read) == expected
        assert "Xmp.dc.description" not in read
    assert float(read["Xmp.mwg-rs.Regions/mwg-rs:RegionList[1]/mwg-rs:Area/stArea:w"]) == 1


def test_a_source_too_large_for_jpeg(exiv2, tmp_path, caplog):
    large = bitstream(np.full((5, 8), 7), width=500, height=300, codes=bytes(1 << 16))
    save_picture(noise(), tmp_path / "picture.jpg", picture_metadata(large, large.to_bytes()))
    assert "left out" in caplog.text
    with exiv2.Image(str(tmp_path / "picture.jpg")) as image:
        read = image.read_xmp()
    assert read["Xmp.iptcExt.DigitalSourceType"] == DIGITAL_SOURCE_TYPE and "Xmp.rsic.Source" not in read


def test_nothing_half_written(tmp_path, file):
    path = tmp_path / "picture.png"
    path.write_bytes(b"before")
    with pytest.raises(OSError):
        save_picture(Image.new("CMYK", (8, 8)), path, picture_metadata(file, b""))  # PNG has no CMYK
    assert path.read_bytes() == b"before" and [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]
    with pytest.raises(ValueError, match="no .xyz pictures"):
        save_picture(noise(), tmp_path / "picture.xyz")
