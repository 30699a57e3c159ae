"""Checkpoints of Stable Diffusion 1.x's architecture with random weights, as a folder and as one CompVis file."""

import json
import re
import shutil

from diffusers import PNDMScheduler
from safetensors.torch import save_file

from rsic_diffusers.evaluation.random_stable_diffusion import SD15


SMALL = {
    "unet": {**SD15["unet"], "block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32},
    "vae": {**SD15["vae"], "block_out_channels": (32, 32, 64, 64)},
    "text_encoder": {**SD15["text_encoder"], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 2},
}


def save_folder(components, tokenizer, folder, **options):
    """As `StableDiffusionPipeline.save_pretrained` does; `options` are its variant and max_shard_size."""
    for name, component in components.items():
        component.save_pretrained(folder / name, **options)
    shutil.copytree(tokenizer, folder / "tokenizer")
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    ).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    index |= {"feature_extractor": [None, None], "image_encoder": [None, None]}
    index |= {"vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"scheduler": ["diffusers", "PNDMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def save_single_file(components, path):
    """In the key layout of the original CompVis code, which is what people share as one `.safetensors`."""
    tensors = {}
    for name, tensor in components["unet"].state_dict().items():
        tensors["model.diffusion_model." + _unet_key(name)] = tensor
    for name, tensor in components["vae"].state_dict().items():
        if re.search(r"attentions.0.to_.*weight", name):
            tensor = tensor[..., None, None]  # there a convolution of 1 x 1
        tensors["first_stage_model." + _vae_key(name)] = tensor
    for name, tensor in components["text_encoder"].state_dict().items():
        tensors["cond_stage_model.transformer.text_model." + name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
UNET_ENDS |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}


def _unet_key(name):
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs)
    if name.startswith("mid_block."):
        part, rest = re.fullmatch(r"mid_block\.(\w+\.\d)\.(.*)", name).groups()
        return f"middle_block.{MIDDLE[part]}.{_resnet_key(part, rest)}"
    way, i, part, j, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
    i, j = int(i), int(j)
    if part == "downsamplers":
        return f"input_blocks.{3 * i + 3}.0.{rest.replace('conv', 'op')}"
    if part == "upsamplers":  # the first level has no attention before it
        return f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}.{rest}"
    block = f"input_blocks.{3 * i + j + 1}" if way == "down" else f"output_blocks.{3 * i + j}"
    return f"{block}.{0 if part == 'resnets' else 1}.{_resnet_key(part, rest)}"


def _resnet_key(part, rest):
    layer, _, kind = rest.rpartition(".")
    return f"{RESNET[layer]}.{kind}" if part.startswith("resnets") else rest


ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _vae_key(name):
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{3 - int(m[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in ATTENTION.items():
            name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    return name
