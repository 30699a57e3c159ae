"""What decoding costs: calls, and waits for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rsic_diffusers.models.layers import SFT


STRENGTH = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0}
PAPER = {"preset": "paper", "num_inference_steps": 2, "num_recurrence_steps": 2}


@pytest.fixture
def watched(decoder):
    """Inputs of each UNet and text encoder call, and the number of times that M was turned into modulations."""
    calls = {"unet": [], "text": [], "sft": 0}
    hooks = [
        decoder.unet.register_forward_pre_hook(lambda _, args: calls["unet"].append(args)),
        decoder.text_encoder.register_forward_pre_hook(lambda _, args: calls["text"].append(args[0])),
    ]

    def count(*_):
        calls["sft"] += 1

    hooks += [one.register_forward_hook(count) for one in decoder.hsvlc.modules() if isinstance(one, SFT)]
    yield calls
    for hook in hooks:
        hook.remove()


def test_a_step_is_one_unet_call_and_a_text_is_embedded_once(decoder, files, watched):
    out = decoder(files, **PAPER, inversion_guidance_scale=1.0, output_type="latent")
    assert out.num_unet_evaluations == len(watched["unet"]) == 2 + 2 * 2
    # Inverted with the caption alone, denoised in pairs.
    assert [len(sample) for sample, _, _ in watched["unet"]] == [3] * 2 + [6] * 4
    texts = [[decoder.tokenizer.decode(row, skip_special_tokens=True) for row in tokens] for tokens in watched["text"]]
    assert texts == [["a woman in a cap", ""], [""]]  # the captions, and what stands for none
    embeddings = watched["unet"][-1][2]
    of_caption, of_nothing = embeddings[3], embeddings[4]
    assert not torch.equal(of_caption, of_nothing)
    for row, expected in zip(embeddings, [of_nothing] * 3 + [of_caption, of_nothing, of_caption], strict=True):
        torch.testing.assert_close(row, expected, atol=0, rtol=0)
    # Nine modulated blocks: for each file's stream, and once for all steps.
    assert watched["sft"] == 9 * (3 + 1)


def test_without_captions_there_are_no_pairs(decoder, files, watched):
    decoder([files[1]] * 2, **PAPER, inversion_guidance_scale=0.0)
    assert [len(sample) for sample, _, _ in watched["unet"]] == [2] * 6 and len(watched["text"][0]) == 1


def test_a_scale_of_one_everywhere_takes_no_pairs_and_gives_their_picture(decoder, files, watched):
    """Against a scale that is hardly another, and for which pairs are taken."""
    settings = {**STRENGTH, "output_type": "latent"}
    alone = decoder(files, **settings, guidance_scale=1.0, referring_scale=0.7).images
    number = len(watched["unet"])
    pairs = decoder(files, **settings, guidance_scale=1.0000001, referring_scale=0.0).images
    assert [len(sample) for sample, _, _ in watched["unet"]] == [3] * number + [6] * number
    torch.testing.assert_close(alone, pairs, atol=1e-4, rtol=1e-4)


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for values of tensors."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        self.number += name in ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [STRENGTH, PAPER, {**PAPER, "guidance_target": "clean"}])
def test_no_value_is_read_in_the_loop(decoder, files, settings):
    at_call = []
    with Reads() as reads:
        hook = decoder.unet.register_forward_hook(lambda *_: at_call.append(reads.number))
        decoder(files, **settings)
        hook.remove()
    assert len(at_call) >= 6 and at_call[0] == at_call[-1] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [STRENGTH, PAPER])
def test_a_gpu_is_not_waited_for_in_the_loop(files, settings):
    from rsic_diffusers import RSICDecoderPipeline

    decoder = RSICDecoderPipeline.from_pretrained("rsic-tiny", dtype=torch.float16).to("cuda")
    decoder(files, **settings)
    calls = []

    def guard(*_):
        calls.append(None)
        torch.cuda.set_sync_debug_mode("error" if len(calls) < evaluations else "default")

    evaluations = decoder(files, **settings).num_unet_evaluations
    decoder.unet.register_forward_pre_hook(guard)
    try:
        decoder(files, **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == evaluations
