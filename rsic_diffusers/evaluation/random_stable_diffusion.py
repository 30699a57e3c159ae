"""Stable Diffusion 1.x's architecture with random weights: true shapes, to time and to test, without a download."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


# D(M) at M = 0, 1/7, ..., 1 of a codec for such latents that was never trained: about what a trained one has.
LEVEL_ERROR = [0.7, 0.62, 0.55, 0.46, 0.35, 0.23, 0.15, 0.1]
# Of the public configuration of Stable Diffusion 1.5, what is not a default of these classes.
SD15 = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768},
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "sample_size": 512,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 49408,
    },
}


def make_components(config=SD15, dtype=torch.float32) -> dict[str, torch.nn.Module]:
    """UNet, VAE and text encoder of `config`, the same weights each time."""
    torch.manual_seed(0)
    return {
        "unet": UNet2DConditionModel(**config["unet"]).to(dtype).eval(),
        "vae": AutoencoderKL(**config["vae"]).to(dtype).eval(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config["text_encoder"])).to(dtype).eval(),
    }
