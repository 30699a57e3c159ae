"""What Stable Diffusion's pipelines take besides a prompt, on random networks."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, RSICDecoderPipeline, StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from rsic_diffusers import Bitstream, WeightMap


# Two steps from noise, and classifier-free guidance.
STEPS = {"preset": "fast", "num_inference_steps": 2, "guidance_scale": 2.5, "referring_scale": 0.0}
STEPS |= {"output_type": "latent"}


@pytest.fixture(scope="module")
def make_file(toy):
    torch.manual_seed(1)
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.zeros(1, 1, 1, 1)).data

    def make(caption):
        return Bitstream(64, 64, WeightMap.constant(0, 64, 64), caption, codes, toy.hsvlc.fingerprint).to_bytes()

    return make


@pytest.fixture(scope="module")
def file(make_file):
    return make_file("a dog")


@pytest.fixture
def own(toy):
    """A decoder whose networks a test may change."""
    parts = {**toy.components, "unet": copy.deepcopy(toy.unet), "text_encoder": copy.deepcopy(toy.text_encoder)}
    pipeline = RSICDecoderPipeline(**{**parts, "tokenizer": copy.deepcopy(toy.tokenizer)})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def plain(toy, file):
    return toy(file, **STEPS, generator=torch.Generator().manual_seed(0)).images


def decode(pipeline, file, **options):
    return pipeline(file, **STEPS, generator=torch.Generator().manual_seed(0), **options).images


def assert_differs(latents, others):
    assert torch.isfinite(latents).all() and (latents - others).abs().max() > 1e-3


def test_prompts_are_embedded_as_stable_diffusion_does(toy, make_file, file, plain):
    theirs = StableDiffusionPipeline(
        toy.vae, toy.text_encoder, toy.tokenizer, toy.unet, DDIMScheduler(), None, None, requires_safety_checker=False
    )
    positive, negative = theirs.encode_prompt(["a dog"], torch.device("cpu"), 1, True, negative_prompt=["a cat"])
    ours = decode(toy, file, negative_prompt="a cat")
    assert_differs(ours, plain)
    embeds = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    torch.testing.assert_close(decode(toy, make_file("another caption"), **embeds), ours, atol=0, rtol=0)
    # With a guidance scale of 1 there is no negative prompt.
    settings = {**STEPS, "guidance_scale": 1.0}
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    alone, other = (
        toy(file, **settings, negative_prompt=text, generator=generator).images
        for text, generator in zip((None, "a cat"), generators, strict=True)
    )
    assert torch.equal(alone, other)


def test_embeddings_go_without_a_text_encoder(own, file):
    positive, negative = own.encode_prompt(["a dog"], torch.device("cpu"), 1, True, negative_prompt=["a cat"])
    expected = decode(own, file, negative_prompt="a cat")
    own.text_encoder = own.tokenizer = None
    found = decode(own, file, prompt_embeds=positive, negative_prompt_embeds=negative)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    with pytest.raises(ValueError, match="Without a text encoder both"):
        decode(own, file, prompt_embeds=positive)


def test_clip_skip_leaves_the_last_layers_out(own, toy, file, plain):
    shorter = copy.deepcopy(own.text_encoder)
    shorter.encoder.layers = shorter.encoder.layers[:-1]
    embeds = {}
    for text, encoder in (("a dog", shorter), ("", own.text_encoder)):  # negative prompts keep all layers
        tokens = own.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            embeds[text] = encoder(tokens).last_hidden_state
    skipped = decode(toy, file, clip_skip=1)
    assert_differs(skipped, plain)
    expected = decode(toy, file, prompt_embeds=embeds["a dog"], negative_prompt_embeds=embeds[""])
    torch.testing.assert_close(skipped, expected, atol=1e-5, rtol=1e-5)


def test_cross_attention_kwargs_scale_a_lora(own, file, plain):
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    own.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    assert_differs(decode(own, file), plain)
    without = decode(own, file, cross_attention_kwargs={"scale": 0.0})
    torch.testing.assert_close(without, plain, atol=1e-5, rtol=1e-5)


def test_a_loras_scale_reaches_the_text_encoder_with_layers_left_out(own, file, plain):
    peft = pytest.importorskip("peft")
    expected = decode(own, file, clip_skip=1)
    torch.manual_seed(2)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(lora, own.text_encoder)
    assert_differs(decode(own, file, clip_skip=1), expected)
    without = decode(own, file, clip_skip=1, cross_attention_kwargs={"scale": 0.0})
    torch.testing.assert_close(without, expected, atol=1e-5, rtol=1e-5)


def test_textual_inversion_reads_its_token_in_captions(own, make_file, file, plain):
    tokens = own.tokenizer("dog", add_special_tokens=False).input_ids
    row = own.text_encoder.get_input_embeddings().weight[tokens].detach().clone()
    own.load_textual_inversion({"<my-dog>": row if len(tokens) > 1 else row[0]})
    torch.testing.assert_close(decode(own, make_file("a <my-dog>")), plain, atol=1e-5, rtol=1e-5)


def ip_adapter(unet, width):
    """A random IP-Adapter's weights in the layout that people share."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    image_proj = {"proj.weight": draw(4 * 16, width), "proj.bias": draw(4 * 16)}
    image_proj |= {"norm.weight": draw(16), "norm.bias": draw(16)}
    layers = {}
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for i, name in enumerate(names):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        layers |= {f"{2 * i + 1}.to_{kind}_ip.weight": draw(hidden, 16) for kind in ("k", "v")}
    return {"image_proj": image_proj, "ip_adapter": layers}


def test_an_ip_adapter_takes_an_image_prompt(own, file, plain):
    torch.manual_seed(4)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    own.image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**size, image_size=16, patch_size=8, projection_dim=12)
    ).eval()
    own.feature_extractor = CLIPImageProcessor(size=16, crop_size=16)
    with pytest.raises(ValueError, match="load_ip_adapter"):
        decode(own, file, ip_adapter_image=Image.new("RGB", (32, 32)))
    own.load_ip_adapter(ip_adapter(own.unet, 12), subfolder="", weight_name="", image_encoder_folder=None)
    with pytest.raises(ValueError, match="needs an image prompt"):
        decode(own, file)
    picture = Image.effect_noise((32, 32), 80).convert("RGB")
    with_picture = decode(own, file, ip_adapter_image=picture)
    assert_differs(with_picture, plain)
    # The embeddings in place of the picture: the negative ones, then those of the picture.
    with torch.no_grad():
        embeds = own.image_encoder(own.feature_extractor(picture, return_tensors="pt").pixel_values).image_embeds
    embeds = torch.stack([torch.zeros_like(embeds), embeds])
    torch.testing.assert_close(decode(own, file, ip_adapter_image_embeds=[embeds]), with_picture, atol=0, rtol=0)
    own.set_ip_adapter_scale(0.0)
    torch.testing.assert_close(decode(own, file, ip_adapter_image=picture), plain, atol=1e-5, rtol=1e-5)


def test_a_call_can_be_interrupted(own, file):
    def stop(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 1

    options = {"num_inference_steps": 5, "callback_on_step_end": stop}
    assert own(file, **{**STEPS, **options}).num_unet_evaluations == 2
    assert own(file, **STEPS).num_unet_evaluations == 2  # the next call is not


@pytest.mark.parametrize("at", [1, 6])
def test_a_call_interrupted_before_denoising_gives_what_was_coded(own, file, at):
    """While z_hat_0 is inverted: in the first of six evaluations of the UNet, and in the last."""
    calls = []

    def stop(*_):
        calls.append(1)
        own._interrupt = len(calls) == at

    own.unet.register_forward_hook(stop)
    result = own(file, preset="paper", num_inference_steps=6, output_type="latent")
    coded = own(file, num_inference_steps=0, output_type="latent").images
    assert result.num_unet_evaluations == at
    torch.testing.assert_close(result.images, coded, atol=0, rtol=0)


class NegativeFromNowOn(PipelineCallback):
    """After the first step the negative prompt's embeddings are those of the caption."""

    tensor_inputs = ["prompt_embeds", "negative_prompt_embeds", "coded_latents"]

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        assert pipeline.num_timesteps == 2
        self.coded = callback_kwargs["coded_latents"]
        return {"negative_prompt_embeds": callback_kwargs["prompt_embeds"]}


def test_callbacks_take_and_change_more_than_latents(toy, file, plain):
    callback = NegativeFromNowOn(cutoff_step_ratio=None, cutoff_step_index=0)
    changed = decode(toy, file, callback_on_step_end=callback)
    assert_differs(changed, plain)
    weight_map = torch.zeros(1, 1, 1, 1)
    codes = Bitstream.from_bytes(file).codes
    assert torch.equal(callback.coded, toy.hsvlc.decompress(codes, weight_map, (8, 8)))
    # Until then both are as they were.
    seen = []
    for options in ({}, {"callback_on_step_end": NegativeFromNowOn(cutoff_step_ratio=None, cutoff_step_index=0)}):
        hook = toy.unet.register_forward_hook(lambda _, inputs, output: seen.append(output[0]))
        decode(toy, file, **options)
        hook.remove()
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[1], seen[3])
    with pytest.raises(ValueError, match="may hold"):
        decode(toy, file, callback_on_step_end_tensor_inputs=["noise"])
    for names in (None, "latents"):
        with pytest.raises(ValueError, match="must be a list of names"):
            decode(toy, file, callback_on_step_end_tensor_inputs=names)
    with pytest.raises(ValueError, match=r"must keep their shape \(1, 4, 8, 8\), got \(1,\)"):
        decode(toy, file, callback_on_step_end=lambda *_: {"latents": torch.zeros(1)})
    for useless in (SDCFGCutoffCallback(), MultiPipelineCallbacks([callback, SDCFGCutoffCallback()])):
        with pytest.raises(ValueError, match="SDCFGCutoffCallback expects"):
            decode(toy, file, callback_on_step_end=useless)


def test_freeu_is_switched_on_the_pipeline(own, file, plain):
    own.enable_freeu(s1=0.6, s2=0.4, b1=1.3, b2=1.5)
    assert own.unet.up_blocks[0].b1 == 1.3
    own.disable_freeu()
    assert torch.equal(decode(own, file), plain)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"negative_prompt": ["a", "b"]}, "1 files need as many negative prompts"),
        ({"negative_prompt": 3}, "must be a text"),
        ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 77, 16)}, "not both"),
        ({"prompt_embeds": torch.zeros(2, 77, 16)}, r"shape \(1, tokens, 16\)"),
        ({"prompt_embeds": torch.zeros(1, 154, 16), "negative_prompt_embeds": torch.zeros(1, 77, 16)}, "one shape"),
        ({"prompt_embeds": torch.zeros(1, 154, 16)}, "negative_prompt_embeds of the same shape"),
        ({"negative_prompt_embeds": torch.zeros(1, 154, 16)}, "154 tokens need prompt_embeds of the same shape"),
        ({"ip_adapter_image_embeds": torch.zeros(2, 1, 16)}, "list of a tensor for each adapter"),
        ({"ip_adapter_image_embeds": [torch.zeros(1, 1, 16)]}, r"shape \(2, images, D\)"),
        ({"clip_skip": 5}, "clip_skip must be"),
        ({"cross_attention_kwargs": 0.5}, "must be a dict"),
    ],
)
def test_unusable_prompts_are_named(toy, file, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        decode(toy, file, **arguments)
