"""What diffusers offers against lack of memory and time changes no picture, and the guidance works under each."""

import accelerate
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline


STEPS = {"num_inference_steps": 2, "num_recurrence_steps": 2, "strength": 1.0, "output_type": "np"}
STEPS["guidance_target"] = "clean"  # the pull with a gradient, which needs memory


@pytest.fixture(scope="module")
def data(encoder, small_photo):
    return encoder(small_photo.crop((0, 0, 128, 100)), caption="a woman in a cap", weight=0.3).bitstream


@pytest.fixture(scope="module")
def expected(decoder, data):
    return decoder(data, **STEPS).images


@pytest.fixture
def fresh():
    pipeline = RSICDecoderPipeline.from_pretrained("rsic-tiny")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def compiled(pipeline):
    pipeline.unet.compile(fullgraph=True, backend="aot_eager")


def offload_sequentially(pipeline):
    """`enable_sequential_cpu_offload`, which names its device "cpu:0" and by that trips over torch's "cpu"."""
    for name in ("text_encoder", "unet", "vae"):
        accelerate.cpu_offload(pipeline.components[name], "cpu")
    assert pipeline._exclude_from_cpu_offload == ["hsvlc"]


# On the CPU as device: the hooks that move weights are the same, and what they miss is missed.
SAVERS = {
    "model offload": lambda pipeline: pipeline.enable_model_cpu_offload(device="cpu"),
    "sequential offload": offload_sequentially,
    "attention processor": lambda pipeline: pipeline.unet.set_attn_processor(AttnProcessor()),
    "channels last": lambda pipeline: pipeline.unet.to(memory_format=torch.channels_last),
    "compiled": compiled,
}


@pytest.mark.parametrize("saver", SAVERS)
def test_the_picture_is_the_same(fresh, data, expected, saver, monkeypatch):
    SAVERS[saver](fresh)
    graphs, step = [], type(fresh.scheduler).step

    def watched_step(scheduler, model_output, *args, **kwargs):
        graphs.append(model_output.requires_grad)
        return step(scheduler, model_output, *args, **kwargs)

    # Of the class, since the decoder samples with a copy of its scheduler.
    monkeypatch.setattr(type(fresh.scheduler), "step", watched_step)
    out = fresh(data, **STEPS)
    np.testing.assert_allclose(out.images, expected, atol=2e-3)
    assert len(graphs) == out.num_unet_evaluations > 1 and not any(graphs)
    # The gradient's pull is there: without it the picture is another.
    assert np.abs(fresh(data, **STEPS, guidance_strength=0.0).images - expected).max() > 0.02


def test_a_sliced_vae_decodes_one_by_one(encoder, decoder, fresh, small_photo, monkeypatch):
    files = [encoder(small_photo, weight=weight).bitstream for weight in (0.5, 0.9)]
    batches, forward = [], fresh.vae.decoder.forward
    monkeypatch.setattr(fresh.vae.decoder, "forward", lambda x: batches.append(len(x)) or forward(x))
    fresh.vae.enable_slicing()
    sliced = fresh(files, num_inference_steps=0, output_type="np").images
    assert batches == [1, 1]
    whole = decoder(files, num_inference_steps=0, output_type="np").images
    np.testing.assert_allclose(sliced, whole, atol=1e-5)


def test_a_tiled_vae_gives_nearly_the_same(encoder, decoder, fresh, photo):
    """Overlapping tiles of 512 pixels; what differs is what a tile does not see of its neighbour."""
    tiled = RSICEncoderPipeline.from_pretrained("rsic-tiny")
    tiled.set_progress_bar_config(disable=True)
    tiled.vae.enable_tiling()
    fresh.vae.enable_tiling()
    whole, parts = encoder(photo, weight=0.9), tiled(photo, weight=0.9)
    assert abs(len(whole.bitstream) - len(parts.bitstream)) < 0.02 * len(whole.bitstream)
    ours = decoder(whole.bitstream, num_inference_steps=0, output_type="np").images
    theirs = fresh(whole.bitstream, num_inference_steps=0, output_type="np").images
    assert np.abs(ours - theirs).mean() < 0.005 and (ours != theirs).any()


def test_a_lora_changes_the_picture_until_it_is_unloaded(fresh, data, expected, tmp_path):
    torch.manual_seed(0)
    fresh.unet.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]))
    layers = get_peft_model_state_dict(fresh.unet)
    RSICDecoderPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    fresh.unet.delete_adapters("default")

    pipeline = RSICDecoderPipeline.from_pretrained("rsic-tiny")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(tmp_path)
    changed = pipeline(data, **STEPS).images
    assert np.abs(changed - expected).mean() > 0.003
    pipeline.unload_lora_weights()
    np.testing.assert_array_equal(pipeline(data, **STEPS).images, expected)
