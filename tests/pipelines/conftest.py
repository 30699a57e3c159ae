"""One photo, encoded and decoded by the embedded default; and a decoder of random networks."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline


# For what does not depend on how good the picture is.
QUICK = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0}
BOX = (50, 20, 150, 140)
LEVEL_ERROR = [0.8, 0.7, 0.6, 0.5, 0.4, 0.25, 0.15, 0.1]  # D(M) at M = 0, 1/7, ..., 1


@pytest.fixture(scope="module")
def encoded(encoder, small_photo):
    return encoder(small_photo, caption="a woman in a cap", box=BOX, weight=1.0, background=0)


@pytest.fixture(scope="module")
def decoded(decoder, encoded):
    return decoder(encoded.bitstream, **QUICK).images[0]


@pytest.fixture(scope="module")
def decoded_by_default(decoder, encoded):
    return decoder(encoded.bitstream).images[0]


@pytest.fixture(scope="session")
def toy(decoder):
    """A decoder of random networks, small enough to run Algorithm 1 many times."""
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(decoder.tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            eos_token_id=decoder.tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    hsvlc = HSVLC(hidden_channels=(8, 8, 8, 8), code_channels=(4, 4, 4, 4), prior_channels=8, level_error=LEVEL_ERROR)
    for parameter in hsvlc.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    hsvlc.update()
    pipeline = RSICDecoderPipeline(
        decoder.vae,
        text_encoder.eval(),
        decoder.tokenizer,
        unet.eval(),
        hsvlc.eval(),
        GuidedSelfRecurrentDDIMScheduler(
            strength=None, guidance_target="noisy", num_recurrence_steps=8, start_noise_factors=(8.0, 0.3)
        ),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
