"""What of a captioner's words gets into the file."""

import json
from functools import cache, partial

import pytest
import torch
from tiny_captioners import Answers

from rsic_diffusers import Bitstream, Captioner, RSICEncoderPipeline
from rsic_diffusers.bitstream.caption_coding import encode_caption
from rsic_diffusers.description.captioners import SHORT_PROMPT


@pytest.mark.parametrize("model", ["llava", "blip"])
def test_the_bytes_are_respected(request, encoder_with, small_photo, model):
    answer = cache(partial(Captioner(*request.getfixturevalue(model)), small_photo))
    pipeline = encoder_with(lambda image, prompt=None: answer(prompt))
    answers = [" ".join(answer(prompt).split()) for prompt in (None, SHORT_PROMPT)]
    lengths = []
    for caption_bytes in (60, 25, 9, 0):
        out = pipeline(small_photo, caption_bytes=caption_bytes)
        file = Bitstream.from_bytes(out.bitstream)
        payload = encode_caption(file.caption)[1]
        assert out.caption == file.caption and len(payload) <= caption_bytes
        # A beginning of one of the two answers, that ends where a word does.
        rests = [one[len(out.caption) :] for one in answers if one.startswith(out.caption)]
        assert rests and (not out.caption or any(not rest[:1].isalnum() for rest in rests))
        lengths.append(len(out.caption))
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 30 and lengths[-1] == 0


def test_the_tokens_are_respected(encoder, encoder_with, small_photo, llava):
    def tokens(text):
        return len(encoder.tokenizer(text, truncation=False).input_ids)

    sentences = "A man rides a brown horse along the beach at sunset. " * 12
    out = encoder_with(lambda image: sentences)(small_photo, caption_bytes=1000)
    assert sentences.startswith(out.caption) and out.caption.endswith("sunset.")
    assert tokens(out.caption) <= 77 < tokens(out.caption + " " + sentences[:52])
    words = "horse " * 300
    out = encoder_with(lambda image: words)(small_photo, caption_bytes=1000)
    assert tokens(out.caption) <= 77 < tokens(out.caption + " horse")
    out = encoder_with(Captioner(*llava, max_new_tokens=200))(small_photo, caption_bytes=1000)
    assert 40 < tokens(out.caption) <= 77

    bare = encoder_with(lambda image: "word " * 5000)
    bare.tokenizer = None
    assert 4000 < len(bare(small_photo, caption_bytes=5000).caption) <= 4096


def test_the_codec_counts(encoder_with, small_photo):
    pipeline = encoder_with(lambda image: "a man riding a horse on the beach at sunset with a dog and a red kite")
    auto = pipeline(small_photo, caption_bytes=20).caption
    raw = pipeline(small_photo, caption_bytes=20, caption_codec="raw").caption
    assert raw == "a man riding a horse" and len(auto) > len(raw)


def test_a_caption_of_the_user_wins(encoder, encoder_with, photo, small_photo):
    asked = []
    pipeline = encoder_with(lambda image: asked.append(image.size) or "a generated caption")
    long = (
        "a caption of the user's own that has more than the sixty bytes that are for captions of the captioner, xyzzy"
    )
    assert pipeline(small_photo, caption=long).caption == long
    assert pipeline(small_photo, caption="").caption == "" and asked == []
    images = [small_photo, small_photo, photo.crop((0, 0, 100, 90)), small_photo]
    out = pipeline(images, caption=["a dog", None, None, ""])
    assert out.caption == ["a dog", "a generated caption", "a generated caption", ""]
    assert asked == [(203, 165), (100, 90)]
    assert [Bitstream.from_bytes(data).caption for data in out.bitstream] == out.caption
    assert pipeline(images[:2]).caption == ["a generated caption"] * 2
    assert encoder(small_photo).caption == ""


def test_every_kind_of_image_reaches_the_captioner_as_a_picture(encoder_with, small_photo):
    import numpy as np

    seen = []
    pipeline = encoder_with(lambda image: seen.append(image) or "a dog")
    array = np.asarray(small_photo, np.float32) / 255
    for image in (small_photo, array, torch.from_numpy(array).permute(2, 0, 1)):
        pipeline(image)
    pipeline(small_photo, max_side=128)  # the captioner sees the photo, not what is coded of it
    assert all(image.mode == "RGB" and image.tobytes() == small_photo.tobytes() for image in seen) and len(seen) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"box": (0, 0, 9999, 9)}, "outside the picture"),
        ({"weight": 2}, "weight"),
        ({"caption_codec": "lzma"}, "caption_codec must be"),
        ({"caption_bytes": -1}, "caption_bytes must be a whole number"),
        ({"caption_bytes": 60.5}, "caption_bytes must be a whole number"),
        ({"caption": 5}, "A caption must be a string"),
        ({"caption": []}, "A caption must be a string"),
    ],
)
def test_bad_input_is_refused_before_the_captioner_is_asked(encoder_with, small_photo, arguments, message):
    def captioner(image):
        raise AssertionError("asked")

    with pytest.raises(ValueError, match=message):
        encoder_with(captioner)(small_photo, **arguments)


def test_a_pipeline_is_saved_without_its_captioner(encoder_with, small_photo, tmp_path, llava):
    encoder_with(Captioner(*llava)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["captioner"] == [None, None]
    captioner = Answers("a dog")
    pipeline = RSICEncoderPipeline.from_pretrained(tmp_path, captioner=captioner)
    assert pipeline(small_photo).caption == "a dog"
    assert RSICEncoderPipeline.from_pretrained(tmp_path).captioner is None
