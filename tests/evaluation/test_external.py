"""What another codec made, by a folder."""

import json

import numpy as np
import pytest

from rsic_diffusers.evaluation.peers import load_external


@pytest.fixture
def folder(tmp_path, detail):
    detail.rotate(180).save(tmp_path / "face.png")
    (tmp_path / "sizes.csv").write_text("file,bytes\nface.bin,300\n")
    return tmp_path


@pytest.mark.parametrize(
    "file, text",
    [
        ("sizes.csv", "face.jpg,300\n"),
        ("sizes.csv", "file,bytes\nface.bin,300\n"),
        ("sizes.json", '{"face.png": 300}'),
    ],
)
def test_external_folder(folder, detail, file, text):
    (folder / "sizes.csv").unlink()
    (folder / file).write_text(text)
    peer = load_external("perco", folder)
    result = peer(detail, 200, name="face.jpg")
    assert (result.name, result.num_bytes, result.fits, result.data) == ("perco", 300, None, None)
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(detail)[::-1, ::-1])


def test_external_folder_without_what_it_needs(folder, detail):
    peer = load_external("perco", folder)
    with pytest.raises(ValueError, match="give `name`"):
        peer(detail, 300)
    with pytest.raises(ValueError, match="no entry for other.jpg"):
        peer(detail, 300, name="other.jpg")
    with pytest.raises(ValueError, match="has 97 x 81 pixels, but the photo has 50 x 40"):
        peer(detail.resize((50, 40)), 300, name="face.jpg")
    detail.save(folder / "face.webp")
    with pytest.raises(ValueError, match="has 2 pictures of face.jpg"):
        peer(detail, 300, name="face.jpg")
    for path in folder.glob("face.*"):
        path.unlink()
    with pytest.raises(ValueError, match="has 0 pictures of face.jpg"):
        peer(detail, 300, name="face.jpg")
    (folder / "sizes.csv").unlink()
    with pytest.raises(ValueError, match="no sizes.csv or sizes.json"):
        load_external("perco", folder)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        load_external("perco", folder / "nowhere")


@pytest.mark.parametrize(
    "sizes",
    [{}, {"face": 0}, {"face": 12.5}, {"face": "many"}, {"face.jpg": 3, "face.png": 3}, ["face"], {"face": None}],
)
def test_external_sizes_that_are_none(folder, sizes):
    (folder / "sizes.json").write_text(json.dumps(sizes))
    with pytest.raises(ValueError, match="must give a whole number of bytes above 0 for each file, once"):
        load_external("perco", folder)
