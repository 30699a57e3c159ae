"""GEM, the Grounding Everything Module (arXiv 2312.00878): where in a picture a frozen CLIP sees a phrase."""

from math import isqrt

import torch
import torch.nn.functional as F


PROMPT = "a photo of a {}."  # the authors'


def gem_scores(
    clip, pixel_values: torch.Tensor, input_ids: torch.Tensor, num_layers: int = 6, num_iterations: int = 1
) -> torch.Tensor:
    """How much each patch of a picture looks like a phrase (paper, section 3). Nothing is trained, and `clip` is only
    read: its sub-modules are called, none is replaced.

        embeddings -> layers -> x -> layer -> x -> layer -> ...          the ordinary path, as it is
                              |        |            |
                              |        | self-self  | self-self          attention of q to q, k to k, v to v
                              v        v            v
                              x' ----> + ---------> + -> ... -> patches  the path of GEM: no MLP, no q-k attention

    Args:
        clip ([`~transformers.CLIPModel`]): Any ViT; the computation is in the dtype of its weights.
        pixel_values (`torch.Tensor` of shape (B, 3, H, W)): Normalised as CLIP has it; H and W are multiples of the
            patch size, not necessarily those CLIP was trained at.
        input_ids (`torch.Tensor` of shape (B, T)): Tokens of `PROMPT.format(phrase)`, one for each picture.
        num_layers (`int`): How many of the last layers have a self-self path; the authors' `gem_depth=7` means 6.
        num_iterations (`int`): How often the tokens are clustered before they attend to the values.

    Returns:
        `torch.Tensor` of shape (B, H / patch, W / patch): Cosine similarities, in [-1, 1].

    Raises:
        ValueError: H or W is not a multiple of the patch size, or the model has fewer layers.
    """
    vision = clip.vision_model
    layers = vision.encoder.layers
    patch = vision.config.patch_size
    height, width = pixel_values.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"The picture is {width} x {height} pixels; CLIP needs multiples of its patch size, {patch}. Resize it."
        )
    if not 1 <= num_layers <= len(layers):
        raise ValueError(f"num_layers must be from 1 to {len(layers)}, the layers of this CLIP; got {num_layers}.")

    hidden_states = _embed(vision, pixel_values)  # (B, 1 + h * w, D), the class token first
    for layer in layers[:-num_layers]:
        hidden_states = layer(hidden_states, attention_mask=None)
    local_states = hidden_states
    for layer in layers[-num_layers:]:
        local_states = local_states + _self_self_attention(
            layer.self_attn, layer.layer_norm1(hidden_states), num_iterations
        )
        hidden_states = layer(hidden_states, attention_mask=None)

    patches = clip.visual_projection(vision.post_layernorm(local_states[:, 1:]))
    text = clip.get_text_features(input_ids).pooler_output
    scores = F.cosine_similarity(patches, text[:, None], dim=-1)
    return scores.unflatten(1, (height // patch, width // patch))


def _self_self_attention(attention, hidden_states: torch.Tensor, num_iterations: int) -> torch.Tensor:
    """The mean of q-q, k-k and v-v attention to the values, by the layer's own projections; (B, N, D) to the same.

    Tokens are L2-normalised, so that each is nearest to itself, and the inverse temperature adapts to the picture: the
    mean norm of the layer's input over the square root of the head's width.
    """
    inverse_temperature = hidden_states.norm(dim=-1).mean(dim=-1)[:, None, None, None] * attention.scale

    def heads(projection):
        return projection(hidden_states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    def attend(tokens, values):
        queries = tokens * inverse_temperature
        return F.scaled_dot_product_attention(queries, tokens, values, scale=1.0)  # (B, heads, N, head_dim)

    values = heads(attention.v_proj)
    mean = torch.zeros_like(values)
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        tokens = F.normalize(heads(projection), dim=-1)
        for _ in range(num_iterations):
            tokens = F.normalize(attend(tokens, tokens), dim=-1)
        mean = mean + attend(tokens, values) / 3
    return attention.out_proj(mean.transpose(1, 2).flatten(2))


def _embed(vision, pixel_values: torch.Tensor) -> torch.Tensor:
    """Tokens of the picture, (B, 1 + h * w, D), with position embeddings fitted to its size."""
    embeddings = vision.embeddings
    patches = embeddings.patch_embedding(pixel_values)  # (B, D, h, w)
    positions = embeddings.position_embedding.weight  # (1 + side * side, D), the class token's first
    side = isqrt(len(positions) - 1)
    grid = positions[1:].T.unflatten(1, (side, side))[None]
    if patches.shape[-2:] != grid.shape[-2:]:
        # Not transformers' `interpolate_pos_encoding`: antialiasing, which the authors have, is another bicubic
        # kernel in torch, for enlarging too.
        grid = F.interpolate(grid, size=patches.shape[-2:], mode="bicubic", antialias=True)
    patches = (patches + grid).flatten(2).transpose(1, 2)
    class_token = (embeddings.class_embedding + positions[0]).expand(len(patches), 1, -1)
    return vision.pre_layrnorm(torch.cat([class_token, patches], dim=1))
