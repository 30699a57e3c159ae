"""The page through gradio's own client: results, two visitors, and what must end in a sentence."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.app.inputs import read_photo
from rsic_diffusers.app.limits import MAX_BOXES


CAPTION = "a woman in a navy cap"


@pytest.fixture
def visit(page_address):
    from gradio_client import Client

    return lambda: Client(page_address, verbose=False, analytics_enabled=False)


def values_of(
    photo, typed="", caption=CAPTION, has_budget=False, budget=600, comparisons=(), weight=0.86, background=0.29
):
    """Those of the page's controls, in their order."""
    values = [photo, None, typed, None, 0.86, "", caption, weight, background]
    return [*values, has_budget, budget, False, list(comparisons), *[0.86] * MAX_BOXES]


@pytest.fixture
def call(visit):
    """Use a part of the page as a new visitor; what is not given is as the page has it."""
    from gradio_client import handle_file

    def encode(photo, **asked):
        return visit().predict(*values_of(photo and handle_file(photo), **asked), api_name="/encode")

    def decode(file):
        return visit().predict(file and handle_file(file), api_name="/decode")

    return {
        "encode": encode,
        "decode": decode,
        "show": lambda path: visit().predict(handle_file(path), api_name="/show_photo"),
    }


@pytest.fixture
def photo_path(small_photo, tmp_path):
    path = tmp_path / "photo.png"
    small_photo.save(path)
    return path


def path_of(value):
    """Of a file that an output holds; updates of components come as dictionaries."""
    value = value["value"] if isinstance(value, dict) and "value" in value else value
    return Path(value if isinstance(value, (str, Path)) else value["path"])


def test_encode_and_decode(call, encoder, quick_decoder, small_photo, photo_path):
    """The page's file is the pipeline's, and another visitor gets the pipeline's picture of it."""
    pictures, _, summary, bar, file, picture, others = call["encode"](
        photo_path, typed="20,30,120,150:0.7", comparisons=["JPEG", "RSIC, global mode"]
    )
    box = {"box": (20, 30, 120, 150), "weight": 0.7}
    expected = encoder(small_photo, caption=CAPTION, referring=box)
    data = path_of(file).read_bytes()
    assert data == expected.bitstream
    assert f"**{len(data)} bytes**" in summary and "dB where faithful" in summary
    assert f"{len(data)} in all" in bar
    labels = [other["caption"] for other in others["value"]]
    assert labels[0].startswith("JPEG, its smallest file") and labels[1].startswith("RSIC, global mode")

    reference = np.asarray(quick_decoder(data).images[0])
    assert (np.asarray(Image.open(path_of(picture))) == reference).all()
    decoded, _, summary, caption, download = call["decode"](path_of(file))
    assert caption == CAPTION and "imagined" in summary
    assert (np.asarray(Image.open(path_of(download))) == reference).all()
    assert b"compositeWithTrainedAlgorithmicMedia" in path_of(download).read_bytes()


def test_a_box_of_low_fidelity_still_stands_out(call, encoder, small_photo, photo_path):
    """The slider of the background gives way at its default; moved, it is as it says."""
    box = {"box": (20, 30, 120, 150), "weight": 0.2}
    for moved, asked in (({}, {}), ({"background": 0.5}, {"background": 0.5})):
        file = call["encode"](photo_path, typed="20,30,120,150:0.2", **moved)[4]
        assert path_of(file).read_bytes() == encoder(small_photo, caption=CAPTION, referring=box, **asked).bitstream


def test_two_visitors_at_once(call, encoder, quick_decoder, photo_path, tmp_path):
    """Each gets the file and the picture of the own photo."""
    other = tmp_path / "other.png"
    Image.open(photo_path).transpose(Image.Transpose.ROTATE_180).save(other)
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda path: call["encode"](path, weight=0.3), [photo_path, other]))
    for path, result in zip([photo_path, other], results, strict=True):
        data = encoder(Image.open(path), caption=CAPTION, weight=0.3).bitstream
        assert path_of(result[4]).read_bytes() == data
        expected = np.asarray(quick_decoder(data).images[0])
        assert (np.asarray(Image.open(path_of(result[5]))) == expected).all()


def test_everything_that_goes_wrong_is_a_sentence(call, photo_path, tmp_path):
    from gradio_client.exceptions import AppError

    text, damaged = tmp_path / "text.jpg", tmp_path / "damaged.rsic"
    text.write_text("no photo <b>at all</b>")
    damaged.write_bytes(b"RS\x17" + bytes(range(40)))
    cases = [
        (lambda: call["show"](text), "text.jpg is not an image"),
        (lambda: call["encode"](text), "text.jpg is not an image"),
        (lambda: call["encode"](None), "There is no photo yet"),
        (lambda: call["encode"](photo_path, typed="50,50,50,90"), "is empty or inverted"),
        (lambda: call["encode"](photo_path, typed="50,50,900,90"), "reaches outside the picture"),
        (lambda: call["encode"](photo_path, typed="all of it"), "is no box"),
        (lambda: call["encode"](photo_path, has_budget=True, budget=20), "the budget is 20"),
        (lambda: call["encode"](photo_path, has_budget=True, budget=None), "The budget is empty"),
        (lambda: call["decode"](damaged), "checksum"),
        (lambda: call["decode"](text), "not an .rsic file"),
        (lambda: call["decode"](None), "There is no file yet"),
    ]
    for action, sentence in cases:
        with pytest.raises(AppError) as caught:
            action()
        message = str(caught.value)
        assert sentence in message and "Traceback" not in message and "/tmp" not in message, message
    shown, *_ = call["show"](photo_path)  # the server lives
    assert Image.open(path_of(shown["image"])).size == (203, 165)


def test_a_visitor_who_leaves(visit, call, encoder, small_photo, photo_path):
    """Work that nobody waits for any more keeps no other visitor out."""
    from gradio_client import handle_file

    client = visit()
    client.submit(*values_of(handle_file(photo_path), weight=0.3), api_name="/encode")
    client.close()
    data = path_of(call["encode"](photo_path, weight=0.3)[4]).read_bytes()
    assert data == encoder(small_photo, caption=CAPTION, weight=0.3).bitstream


def test_what_the_encoder_warns_of_is_told(call, photo_path):
    summary = call["encode"](photo_path, weight=1.0, has_budget=True, budget=9999)[2]
    assert "Note: All of the photo is at M = 1" in summary


def test_boxes_are_typed_in_pixels_of_the_photo(call, encoder, small_photo, tmp_path):
    """Of one that the page works on at a smaller size."""
    path = tmp_path / "large.png"
    small_photo.resize((2030, 1650)).save(path)
    file = call["encode"](path, typed="200,300,1200,1500")[4]
    reduced = read_photo(path)
    box = tuple(reduced.width / 2030 * corner for corner in (200, 300, 1200, 1500))
    expected = encoder(reduced, caption=CAPTION, referring={"box": box, "weight": 0.86})
    assert reduced.width == 1536 and path_of(file).read_bytes() == expected.bitstream
