"""Tiny referring models that speak rsic-tiny's vocabulary."""

import pytest
import torch
from tiny_clip import TINY
from transformers import CLIPConfig, CLIPModel, CLIPSegConfig, CLIPSegForImageSegmentation


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
