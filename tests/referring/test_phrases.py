"""Phrases in the encoder and on the command line."""

import numpy as np
import pytest

from rsic_diffusers import Bitstream, RSICEncoderPipeline
from rsic_diffusers.commands.rsic_cli import main
from rsic_diffusers.referring.demands import Demand, make_weight_map
from rsic_diffusers.referring.heat_maps import ReferringModel, heat_map, min_max


@pytest.mark.parametrize("name", ["clip", "clipseg"])
def test_the_referring_model_is_saved_with_the_pipeline(request, encoder, small_photo, tmp_path, name):
    model = request.getfixturevalue(name)
    pipeline = RSICEncoderPipeline(encoder.vae, encoder.hsvlc, encoder.tokenizer, referring_model=model)
    pipeline.save_pretrained(tmp_path)
    loaded = RSICEncoderPipeline.from_pretrained(tmp_path)
    assert type(loaded.referring_model) is type(model)
    expected, found = (
        heat_map(one.referring_model, one.tokenizer, small_photo, "red tie") for one in (pipeline, loaded)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def red_parts(image, phrase):
    """A referring model that finds nothing but what is red."""
    red = np.asarray(image, np.float32) @ [1, -0.5, -0.5]
    return red > 60 if phrase == "red" else np.zeros_like(red)


@pytest.fixture
def finder(encoder):
    pipeline = RSICEncoderPipeline(**{**encoder.components, "referring_model": red_parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_phrase_makes_the_map_that_its_mask_would(finder, photo):
    """A whole-cell mask: what a heat map of 0 and 1 and a mask mean is then the same."""
    image = np.asarray(photo).astype(np.float32) / 255
    image[128:256, 64:192] = [1, 0, 0]
    mask = np.zeros(image.shape[:2])
    mask[128:256, 64:192] = 1
    image[..., 0] = np.where(mask, image[..., 0], image[..., 1:].mean(-1))
    by_phrase = finder(image, referring=[{"phrase": "red", "weight": 0.8}], background=0.1)
    by_mask = finder(image, mask=mask, weight=0.8, background=0.1)
    assert by_phrase.bitstream == by_mask.bitstream


def test_a_phrase_found_nowhere_falls_back_only_if_asked(finder, small_photo, caplog):
    out = finder(small_photo, referring="blue", weight=0.6, background=0.2)
    assert "nowhere" in caplog.text and Bitstream.from_bytes(out.bitstream).weight_map.mode == "referring"
    out = finder(small_photo, referring="blue", weight=0.6, background=0.2, fallback="global")
    assert "It is left out" in caplog.text
    assert out.bitstream == finder(small_photo, weight=0.6).bitstream
    own = finder(small_photo, referring={"phrase": "blue", "weight": 0.4}, fallback="global")
    assert own.bitstream == finder(small_photo, weight=0.4).bitstream
    beside = finder(small_photo, referring=["blue", {"box": (0, 0, 64, 64), "weight": 0.5}], fallback="global")
    assert beside.bitstream == finder(small_photo, box=(0, 0, 64, 64), weight=0.5).bitstream


def test_phrases_on_the_command_line(clip, tokenizer, small_photo, tmp_path, capsys):
    clip.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    small_photo.save(tmp_path / "photo.png")
    arguments = ["encode", str(tmp_path / "photo.png"), "--refer", "woman:0.8", "--box", "0,0,64,64:0.5"]
    assert main(arguments) == 2
    assert "needs a model that finds it" in capsys.readouterr().err
    assert main([*arguments, "--referring-model", str(tmp_path / "clip")]) == 0
    found = ReferringModel(clip, tokenizer)
    expected = make_weight_map(
        *reversed(small_photo.size),
        [Demand(phrase="woman", weight=0.8), Demand(box=(0, 0, 64, 64), weight=0.5)],
        locate=lambda phrase: min_max(found(small_photo, phrase)),
    )
    written = Bitstream.read(tmp_path / "photo.rsic").weight_map
    np.testing.assert_array_equal(written.cells, expected.cells)
    blank = ["encode", str(tmp_path / "photo.png"), "-o", str(tmp_path / "x.rsic"), "--refer", " "]
    assert main([*blank, "--referring-model", str(tmp_path / "clip")]) == 2
    assert "A phrase must be words" in capsys.readouterr().err
