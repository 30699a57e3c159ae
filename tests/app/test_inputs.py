"""What visitors give, before any pipeline sees it."""

import gc
import os

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from rsic_diffusers.app.inputs import collect, painted_mask, read_file, read_photo, typed_boxes
from rsic_diffusers.app.work import Results, Settings, bytes_bar, encode
from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.bitstream.weight_map import WeightMap


def test_a_large_photo_is_reduced_and_turned_upright(tmp_path):
    """30 megapixels, as cameras make them: lying on its side, with the EXIF note that says so."""
    photo = Image.new("RGB", (6000, 5000), (200, 30, 30))
    photo.paste((30, 30, 200), (0, 0, 3000, 5000))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    photo.save(tmp_path / "large.jpg", exif=exif)
    read = read_photo(tmp_path / "large.jpg")
    assert read.size == (1280, 1536)
    assert read.getpixel((640, 100))[2] > 150 and read.getpixel((640, 1400))[0] > 150


def test_what_is_no_photo_is_called_by_its_own_name(tmp_path):
    path = tmp_path / "secret-folder-of-the-server" / "notes.jpg"
    path.parent.mkdir()
    path.write_text("These are notes.")
    with pytest.raises(ValueError, match="^notes.jpg is not an image"):
        read_photo(path)


def test_files_that_would_keep_the_server_busy_are_refused(tmp_path):
    large = Bitstream(1600, 1600, WeightMap.constant(0, 1600, 1600), "", bytes(8), b"\x01\x02")
    (tmp_path / "large.rsic").write_bytes(large.to_bytes())
    with pytest.raises(ValueError, match="coded at 1600 x 1600"):
        read_file(tmp_path / "large.rsic")
    with open(tmp_path / "huge.rsic", "wb") as file:
        file.truncate(41 << 20)
    with pytest.raises(ValueError, match="at most 40 MB"):
        read_file(tmp_path / "huge.rsic")


def test_marks_become_demands_with_their_weights():
    boxes = [{"xmin": 10 * i, "ymin": 0, "xmax": 10 * i + 9, "ymax": 9} for i in (0, 1)]
    layer = Image.new("RGBA", (40, 30))
    layer.paste((255, 196, 0, 255), (20, 15, 40, 30))
    marks = {"boxes": boxes, "orientation": 0}, [0.1, 0.2, 0.3]
    demands = collect(*marks, "1,2,3,4\n5,6,7,8:0.4\n", {"layers": [layer]}, 0.5, "the cap", 0.6, (80, 60), (80, 60))
    assert [demand.weight for demand in demands] == [0.1, 0.2, 0.6, 0.4, 0.5, 0.6]
    assert demands[1].box == (10, 0, 19, 9) and demands[3].box == (5, 6, 7, 8)
    mask = np.zeros((60, 80), bool)
    mask[30:, 40:] = True
    assert (demands[4].mask == mask).all()
    assert painted_mask({"layers": [Image.new("RGBA", (40, 30))]}, (80, 60)) is None
    with pytest.raises(ValueError, match="'1,2,3' is no box"):
        typed_boxes("1,2,3", 0.5)
    # A photo that the page works on at half its size.
    (half,) = collect(None, [], "10,20,30,40", None, 0.5, "", 0.5, (80, 60), (160, 120))
    assert half.box == (5, 10, 15, 20)
    with pytest.raises(ValueError, match="outside the picture of 160 x 120 pixels"):
        collect(None, [], "10,20,170,40", None, 0.5, "", 0.5, (80, 60), (160, 120))
    with pytest.raises(ValueError, match="more than 6"):
        collect(None, [], "0,0,9,9\n" * 7, None, 0.5, "", 0.5, (80, 60), (80, 60))


def test_old_results_are_removed():
    results = Results()
    old, young = results.new_folder(), results.new_folder()
    os.utime(old, (0, 0))
    results.remove_old()
    assert not old.exists() and young.exists()
    del results
    gc.collect()
    assert not young.exists()  # as when the page's process ends


def test_the_bar_shows_each_part():
    bar = bytes_bar({"header": 12, "caption": 30, "map": 5, "f0": 3, "f1": 7, "f2": 11, "f3": 0})
    assert "68 in all" in bar and "flex:30" in bar and "flex:0" not in bar and "f3, finest: 0" in bar


def test_what_fails_on_the_server_is_logged_and_not_shown(caplog):
    from rsic_diffusers.app.page import in_a_sentence

    def fail(error):
        raise error

    for error, shown in (
        (ValueError("the box is empty"), "the box is empty"),
        (RuntimeError("/srv/secret: no such kernel"), "Something went wrong on the server"),
        (torch.OutOfMemoryError("CUDA"), "try a smaller photo"),
    ):
        caplog.clear()
        with pytest.raises(gr.Error, match=shown) as told:
            in_a_sentence(fail)(error)
        assert "/srv" not in str(told.value)
        assert ("failed" in caplog.text) == (not isinstance(error, ValueError))


def test_a_comparison_that_fails_is_told(encoder, quick_decoder, small_photo, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory is left")

    monkeypatch.setattr("rsic_diffusers.app.work._compare", fail)
    settings = Settings(caption="a cap", weight=0.3, comparisons=["JPEG"])
    result = encode(encoder, quick_decoder, small_photo, [], settings, tmp_path, lambda *_: None)
    assert "Note: No comparison with JPEG: no memory is left" in result.summary
    assert result.file.read_bytes() == encoder(small_photo, caption="a cap", weight=0.3).bitstream
