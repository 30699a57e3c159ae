"""Heat maps of phrases, by tiny models that speak rsic-tiny's vocabulary and by functions."""

import numpy as np
import pytest
import torch
from tiny_clip import TINY
from transformers import CLIPConfig, CLIPModel, CLIPSegProcessor, CLIPVisionModelWithProjection

from rsic_diffusers.referring import heat_maps
from rsic_diffusers.referring.heat_maps import ReferringModel, heat_map, min_max


@pytest.mark.parametrize("name", ["clip", "clipseg"])
def test_the_model_is_not_changed(request, tokenizer, small_photo, name):
    model = request.getfixturevalue(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(key, type(module), module.forward.__func__) for key, module in model.named_modules()]
    heat_map(model, tokenizer, small_photo, "red tie")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert modules == [(key, type(module), module.forward.__func__) for key, module in model.named_modules()]


def test_a_model_that_lacks_weights_is_refused(clip, tokenizer, tmp_path):
    """transformers would fill them with random ones and only log it."""
    weights = {name: value for name, value in clip.state_dict().items() if "vision_model.encoder" not in name}
    clip.save_pretrained(tmp_path, state_dict=weights)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lack .* tensors of a CLIPModel, vision_model.encoder"):
        ReferringModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["clip", "clipseg"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_nearly_the_same(request, tokenizer, small_photo, name, dtype):
    model = request.getfixturevalue(name)
    half = type(model)(model.config).to(dtype).eval()
    half.load_state_dict(model.state_dict())
    expected, found = (min_max(heat_map(one, tokenizer, small_photo, "red tie")) for one in (model, half))
    print(f"{name}, {dtype}: largest difference {abs(found - expected).max():.4f} of 1")
    assert np.abs(found - expected).max() < (0.01 if dtype == torch.float16 else 0.05)
    assert half.dtype == dtype


@pytest.mark.parametrize("width, height", [(203, 165), (600, 70), (64, 2000)])
def test_a_picture_of_any_size_costs_the_same(clip, tokenizer, photo, width, height):
    scores = heat_map(clip, tokenizer, photo.resize((width, height)), "red tie")
    assert scores.dtype == np.float32 and scores.ndim == 2
    rows, columns = (side / 32 for side in scores.shape)
    assert rows == int(rows) and columns == int(columns)
    assert 0.75 < rows * columns / 14**2 < 1.25
    assert abs(scores).max() <= 1


@torch.no_grad()
def test_clipseg_is_the_model_by_hand(clipseg, tokenizer, photo):
    image_processors = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    image_processor = image_processors.ViTImageProcessorPil(
        size={"height": 352, "width": 352}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor = CLIPSegProcessor(image_processor, tokenizer)
    inputs = processor(text=["red tie"], images=[photo], return_tensors="pt")
    expected = clipseg(**inputs).logits.sigmoid().reshape(352, 352).numpy()
    found = heat_map(clipseg, tokenizer, photo, "red tie")
    print(f"CLIPSeg: largest difference {abs(found - expected).max():.1e}")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, lambda values: torch.tensor(values, dtype=torch.bfloat16)])
def test_a_callable(small_photo, kind):
    def red(image, phrase):
        assert image.mode == "RGB" and phrase == "anything red"
        return kind([[3.0, 5.0, 1.0], [2.0, 2.0, 2.0]])

    scores = heat_map(red, None, small_photo.convert("L"), "anything red")
    assert scores.dtype == np.float32 and scores.tolist() == [[3, 5, 1], [2, 2, 2]]
    assert min_max(scores).tolist() == [[0.5, 1, 0], [0.25, 0.25, 0.25]]


def test_a_model_with_its_own_tokenizer_is_a_callable(clip, tokenizer, small_photo):
    model = ReferringModel(clip, tokenizer)
    expected = heat_map(clip, tokenizer, small_photo, "red tie")
    np.testing.assert_array_equal(heat_map(model, None, small_photo, "red tie"), expected)


@pytest.mark.parametrize(
    "result, message",
    [
        (None, "returned NoneType"),
        (np.zeros((1, 4, 4)), r"shape \(1, 4, 4\)"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.array([["a"]]), "dtype <U1"),
        (np.array([[0, np.nan]]), "NaN or infinite"),
        (torch.tensor([[torch.inf]]), "NaN or infinite"),
    ],
)
def test_a_callable_that_returns_something_else(small_photo, result, message):
    with pytest.raises(ValueError, match=message):
        heat_map(lambda image, phrase: result, None, small_photo, "red tie")


@pytest.mark.parametrize("phrase, message", [("", "is empty"), (" \n", "is empty"), (3, "must be a string, got int")])
def test_a_phrase_that_is_none(small_photo, phrase, message):
    with pytest.raises(ValueError, match=message):
        heat_map(lambda image, phrase: np.eye(2), None, small_photo, phrase)


def test_a_phrase_or_tokenizer_the_model_can_not_read(clip, clipseg, tokenizer, small_photo):
    for model in (clip, clipseg):
        with pytest.raises(ValueError, match="make it shorter"):
            heat_map(model, tokenizer, small_photo, "red tie " * 77)
        with pytest.raises(ValueError, match="give CLIP's"):
            heat_map(model, None, small_photo, "red tie")
    other = CLIPModel(CLIPConfig(**{**TINY, "text_config": {**TINY["text_config"], "vocab_size": 400}}))
    with pytest.raises(ValueError, match="The tokenizer knows 3000 tokens, CLIPModel 400"):
        heat_map(other, tokenizer, small_photo, "red tie")


def test_another_model_is_refused(tokenizer, small_photo):
    model = CLIPVisionModelWithProjection(CLIPConfig(**TINY).vision_config)
    with pytest.raises(ValueError, match="CLIPVisionModelWithProjection cannot find phrases"):
        heat_map(model, tokenizer, small_photo, "red tie")


@pytest.mark.parametrize("name, threshold", [("clip", "GEM_MIN_PEAK"), ("clipseg", "CLIPSEG_MIN_PEAK")])
def test_a_phrase_found_nowhere_warns_with_the_peak(
    request, tokenizer, small_photo, monkeypatch, caplog, name, threshold
):
    model = request.getfixturevalue(name)
    monkeypatch.setattr(heat_maps, threshold, 1.5)  # what random weights see means nothing
    peak = heat_map(model, tokenizer, small_photo, "red tie").max()
    assert "'red tie' seems to be nowhere in the picture" in caplog.text
    assert f"its peak score is {peak:.3f}, where 1.5 is expected" in caplog.text
    caplog.clear()
    monkeypatch.setattr(heat_maps, threshold, -1.5)
    heat_map(model, tokenizer, small_photo, "red tie")
    assert not caplog.text


def test_a_flat_heat_map_warns_and_becomes_zero(small_photo, caplog):
    scores = heat_map(lambda image, phrase: np.full((4, 4), 0.7), None, small_photo, "red tie")
    assert "its score is 0.700 everywhere" in caplog.text
    assert not min_max(scores).any()


def test_the_scale_of_a_callable_is_its_own(small_photo, caplog):
    heat_map(lambda image, phrase: np.eye(2) - 5, None, small_photo, "red tie")
    assert not caplog.text
