import re

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from rsic_diffusers import Bitstream, RSICEncoderPipeline
from rsic_diffusers.commands.rsic_cli import main
from rsic_diffusers.referring import heat_maps
from rsic_diffusers.referring.demands import Demand, make_weight_map
from rsic_diffusers.referring.gem import PROMPT, gem_scores
from rsic_diffusers.referring.heat_maps import ReferringModel, heat_map, min_max


# The authors' package against ours, on the same random weights.


@pytest.fixture(scope="module")
def open_clip():
    pytest.importorskip("gem", reason="gem-torch is the reference", exc_type=ImportError)
    return pytest.importorskip("open_clip", exc_type=ImportError)


@pytest.fixture(scope="module")
def clip_tokenizer(open_clip):
    """CLIP's tokenizer, as Stable Diffusion 1.x has it, from the vocabulary that open_clip ships."""
    theirs = open_clip.get_tokenizer("ViT-B-16")
    specials = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {specials.get(token, token): i for token, i in theirs.encoder.items()}
    return CLIPTokenizer(vocabulary, list(theirs.bpe_ranks))


@pytest.fixture(scope="module")
def authors_and_ours(open_clip):
    """GEM of the authors around a ViT-B/16 with quick-gelu, and the same weights as a transformers CLIP."""
    from gem.gem_wrapper import GEMWrapper

    torch.manual_seed(0)
    # The text tower has two layers to be quick; GEM is all in the other.
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 2}
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None, text_cfg=text).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # biases and norms, which start at 0 and 1 and would hide what is left out
                parameter += 0.1 * torch.randn_like(parameter)
            if name.startswith("visual") and "ln_1" in name:
                parameter *= 4  # so that attention, which is nearly uniform with random weights, has peaks
    for block in model.visual.transformer.resblocks:
        # gem-torch has (tokens, batch, width) in mind. open_clip since 2.26 takes the batch first, and would compute
        # something else without a word; the one in our test extra is older, and this changes nothing in it.
        block.attn.batch_first = False
    config = CLIPConfig(
        text_config={"num_hidden_layers": 2, "hidden_act": "quick_gelu"},
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "patch_size": 16,
            "hidden_act": "quick_gelu",
        },
    )
    ours = CLIPModel(config).eval()
    ours.load_state_dict(to_transformers(model.state_dict()))
    return GEMWrapper(model, open_clip.get_tokenizer("ViT-B-16-quickgelu")), ours


def to_transformers(state):
    """open_clip's names of weights to those of transformers' CLIPModel."""
    renamed = [
        (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
        (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
        (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
        (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
        (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
        (r"^visual\.proj$", "visual_projection.weight"),
        (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
        (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
        (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
        (r"^ln_final\.", "text_model.final_layer_norm."),
        (r"^text_projection$", "text_projection.weight"),
        (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
        (r"\.attn\.", ".self_attn."),
        (r"\.ln_([12])\.", r".layer_norm\1."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    ]
    result = {}
    for name, value in state.items():
        if name == "attn_mask":
            continue
        for pattern, replacement in renamed:
            name = re.sub(pattern, replacement, name)
        if name in ("visual_projection.weight", "text_projection.weight"):
            value = value.T
        if ".in_proj_" in name:
            for part, projection in zip(value.chunk(3), ("q_proj.", "k_proj.", "v_proj.")):
                result[name.replace("in_proj_", projection)] = part
        else:
            result[name] = value
    return result


def largest_difference(what, theirs, ours):
    assert theirs.shape == ours.shape
    difference = (theirs - ours).abs().max().item()
    print(f"{what}: largest difference {difference:.1e}, of values from {theirs.min():.4f} to {theirs.max():.4f}")
    return difference


@torch.no_grad()
def test_the_ordinary_path_of_the_authors_is_clip(authors_and_ours):
    authors, clip = authors_and_ours
    pixel_values = torch.randn(1, 3, 224, 224, generator=torch.manual_seed(1))
    _, theirs = authors.model.visual(pixel_values)
    hidden_states = clip.vision_model(pixel_values).last_hidden_state
    ours = clip.visual_projection(clip.vision_model.post_layernorm(hidden_states))
    assert largest_difference("CLIP", theirs, ours) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(224, 224), (352, 240)])
def test_scores_equal_the_authors(authors_and_ours, clip_tokenizer, height, width):
    authors, clip = authors_and_ours
    pixel_values = torch.randn(1, 3, height, width, generator=torch.manual_seed(2))
    theirs = authors(pixel_values, ["cat"], normalize=False)[0]
    input_ids = clip_tokenizer(PROMPT.format("cat"), return_tensors="pt").input_ids
    ours = gem_scores(clip, pixel_values, input_ids)
    ours = torch.nn.functional.interpolate(ours[None], size=(height, width), mode="bilinear")[0]
    assert largest_difference(f"scores, {height} x {width}", theirs, ours) < 2e-6


@torch.no_grad()
@pytest.mark.parametrize("crop", [(0, 0, 512, 512), (0, 0, 512, 300)])
def test_heat_map_equals_the_authors(authors_and_ours, clip_tokenizer, photo, crop):
    from gem import get_gem_img_transform

    authors, clip = authors_and_ours
    image = photo.crop(crop)
    ours = torch.from_numpy(min_max(heat_map(clip, clip_tokenizer, image, "red tie")))
    if crop == (0, 0, 512, 512):
        assert ours.shape == (448, 448)  # what the authors resize any picture to
    theirs = authors(get_gem_img_transform(tuple(ours.shape))(image)[None], ["red tie"])[0, 0]
    assert largest_difference(f"heat map, {tuple(ours.shape)}", theirs, ours) < 2e-6


@torch.no_grad()
def test_iterations_equal_the_authors(authors_and_ours, clip_tokenizer, monkeypatch):
    authors, clip = authors_and_ours
    for block in authors.model.visual.transformer.resblocks[-6:]:
        monkeypatch.setattr(block.res_block.attn, "ss_attn_iter", 2)
    pixel_values = torch.randn(1, 3, 96, 96, generator=torch.manual_seed(3))
    theirs = authors(pixel_values, ["cat"], normalize=False)[0]
    input_ids = clip_tokenizer(PROMPT.format("cat"), return_tensors="pt").input_ids
    ours = gem_scores(clip, pixel_values, input_ids, num_iterations=2)
    ours = torch.nn.functional.interpolate(ours[None], size=(96, 96), mode="bilinear")[0]
    assert largest_difference("2 iterations", theirs, ours) < 2e-6


# The interface, on tiny models that speak rsic-tiny's vocabulary.


TINY = {
    "text_config": {
        "vocab_size": 3000,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    },
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "patch_size": 32,
    },
    "projection_dim": 24,
}


@pytest.fixture(scope="module")
def tokenizer(encoder):
    return encoder.tokenizer


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(**TINY)).eval()


@pytest.fixture(scope="module")
def clipseg():
    torch.manual_seed(0)
    config = CLIPSegConfig(
        **TINY, extract_layers=[1, 3, 5], reduce_dim=16, decoder_num_attention_heads=2, decoder_intermediate_size=32
    )
    return CLIPSegForImageSegmentation(config).eval()


@pytest.mark.parametrize("name", ["clip", "clipseg"])
def test_the_model_is_not_changed(request, tokenizer, small_photo, name):
    model = request.getfixturevalue(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(key, type(module), module.forward.__func__) for key, module in model.named_modules()]
    heat_map(model, tokenizer, small_photo, "red tie")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert modules == [(key, type(module), module.forward.__func__) for key, module in model.named_modules()]


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


def test_gem_scores_checks_its_arguments(clip):
    with pytest.raises(ValueError, match="100 x 64 pixels; CLIP needs multiples of its patch size, 32"):
        gem_scores(clip, torch.zeros(1, 3, 64, 100), torch.tensor([[0, 5, 1]]))
    with pytest.raises(ValueError, match="from 1 to 7"):
        gem_scores(clip, torch.zeros(1, 3, 64, 64), torch.tensor([[0, 5, 1]]), num_layers=8)


@torch.no_grad()
def test_gem_scores_in_batches(clip):
    pixel_values = torch.randn(2, 3, 64, 96, generator=torch.manual_seed(4))
    input_ids = torch.tensor([[0, 5, 1], [0, 7, 1]])
    together = gem_scores(clip, pixel_values, input_ids)
    alone = torch.cat([gem_scores(clip, pixel_values[i : i + 1], input_ids[i : i + 1]) for i in range(2)])
    assert together.shape == (2, 2, 3)
    torch.testing.assert_close(together, alone)


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
    with pytest.raises(ValueError, match="CLIPVisionModelWithProjection can not localise phrases"):
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
    assert main(["encode", str(tmp_path / "photo.png"), "-o", str(tmp_path / "x.rsic"), "--refer", " "]) == 2
    assert "A phrase must be words" in capsys.readouterr().err
