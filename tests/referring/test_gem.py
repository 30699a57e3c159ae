"""GEM: the authors' package against ours, on the same random weights."""

import re

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from rsic_diffusers.referring.gem import PROMPT, gem_scores
from rsic_diffusers.referring.heat_maps import heat_map, min_max


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
            for part, projection in zip(value.chunk(3), ("q_proj.", "k_proj.", "v_proj."), strict=True):
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
