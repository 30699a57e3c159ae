"""Encoding under torch's modes gives the same bytes, and in threads beside a decoder the same captions."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import cpu_offload_with_hook

from rsic_diffusers import RSICEncoderPipeline
from rsic_diffusers.description.caption_checks import check_caption
from rsic_diffusers.pipelines.latents import _in_float32


OPTIONS = {"caption": "a woman in a cap", "box": (10, 10, 50, 50)}


@pytest.fixture(scope="module")
def crop(photo):
    return photo.crop((200, 80, 264, 144))


@pytest.fixture(scope="module")
def expected(encoder, crop):
    return encoder(crop, **OPTIONS).bitstream


def test_a_default_device_that_holds_nothing(encoder, crop, expected):
    torch.set_default_device("meta")
    try:
        assert encoder(crop, **OPTIONS).bitstream == expected
    finally:
        torch.set_default_device(None)


def test_inference_mode(encoder, crop, expected):
    with torch.inference_mode():
        assert encoder(crop, **OPTIONS).bitstream == expected


def test_encoder_and_decoder_take_turns_at_the_tokenizer_they_share(decoder):
    """A tokenizer keeps the padding of its last call; the embeddings of captions need one length."""
    shared = RSICEncoderPipeline.from_pipe(decoder)
    captions = ["a cat", "a woman in a navy uniform and cap in front of a flag"]
    embedded = threading.Event()

    def check():
        while not embedded.is_set():
            for caption in captions:
                check_caption(caption, shared.tokenizer)

    with ThreadPoolExecutor(2) as pool:
        checks = [pool.submit(check) for _ in range(2)]
        try:
            shapes = {decoder.encode_texts(captions, torch.device("cpu")).shape for _ in range(60)}
        finally:
            embedded.set()
    assert shapes == {(2, 77, 128)} and not any(done.exception() for done in checks)


def test_a_vae_of_an_offloaded_pipeline_is_copied_without_its_neighbours():
    """The copy in float32 is made when half precision overflows; the UNet must not come with it."""

    class Neighbour(torch.nn.Linear):
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    _, before = cpu_offload_with_hook(Neighbour(2, 2), "cpu")
    vae, _ = cpu_offload_with_hook(torch.nn.Linear(2, 2).half(), "cpu", prev_module_hook=before)
    copied = _in_float32(vae, "cpu")
    assert copied.weight.dtype == torch.float32 and vae.weight.dtype == torch.float16
    assert torch.equal(copied(torch.ones(1, 2)), torch.nn.functional.linear(torch.ones(1, 2), *copied.parameters()))
