"""The decoder's loop as a whole against Algorithm 1, written plainly here, on a toy UNet."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rsic_diffusers import HSVLC, Bitstream, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, WeightMap


@pytest.fixture(scope="module")
def toy(decoder):
    """A decoder of random networks, small enough to run Algorithm 1 many times."""
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(decoder.tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
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
    hsvlc = HSVLC(hidden_channels=(8, 8, 8, 8), code_channels=(4, 4, 4, 4), prior_channels=8)
    for parameter in hsvlc.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    hsvlc.update()
    pipeline = RSICDecoderPipeline(
        decoder.vae,
        text_encoder.eval(),
        decoder.tokenizer,
        unet.eval(),
        hsvlc.eval(),
        GuidedSelfRecurrentDDIMScheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def algorithm_1(pipeline, file, T, T_r, gamma, scale, referring, target, inversion_scale, generator):
    """Paper, Algorithm 1, in its own notation; nothing of our scheduler is used."""
    unet, hsvlc, tokenizer = pipeline.unet, pipeline.hsvlc, pipeline.tokenizer
    h, w = -(-file.height // 8), -(-file.width // 8)
    M = torch.from_numpy(file.weight_map.values)[None, None]
    z_hat = {0: hsvlc.decompress(file.codes, M, (h, w))}
    M_wide = torch.nn.functional.interpolate(M, scale_factor=8, mode="nearest")[..., :h, :w]
    omega = scale * (1 - referring * M_wide)

    def embed(text):
        ids = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return pipeline.text_encoder(ids).last_hidden_state

    c, empty = embed(file.caption), embed("")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    all_abar = torch.cumprod(1 - betas, 0)
    tau = [0] + [1000 // T * i + 1 for i in range(T)]  # the UNet's timestep of each level 1..T
    abar = [float(all_abar[0])] + [float(all_abar[t]) for t in tau[1:]]

    def ddim(z, eps, s, t):
        root = (1 / abar[t] - 1) ** 0.5 - (1 / abar[s] - 1) ** 0.5
        return (abar[t] / abar[s]) ** 0.5 * z + abar[t] ** 0.5 * root * eps

    def guided(z, t, omega):
        without, with_ = unet(z, tau[t], empty).sample, unet(z, tau[t], c).sample
        return without + omega * (with_ - without)

    with torch.no_grad():
        for t in range(1, T + 1):
            z_hat[t] = ddim(z_hat[t - 1], guided(z_hat[t - 1], t, inversion_scale), t - 1, t)
        z = z_hat[T]
    for t in range(T, 0, -1):
        for r in range(1, T_r + 1):
            with torch.no_grad():
                eps = guided(z, t, omega)
            seen = z if target == "noisy" else (z - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5
            seen = seen.detach().requires_grad_()
            reference = z_hat[t] if target == "noisy" else z_hat[0]
            loss = ((hsvlc(seen, M).sample - reference) ** 2).sum() / (4 * 64 * 64)
            gradient = torch.autograd.grad(loss, seen)[0]
            gamma_t = gamma * (abar[t - 1] / (abar[t] if target == "noisy" else 1)) ** 0.5
            z_prev = ddim(z, eps, t, t - 1) - gamma_t * gradient
            if r < T_r:
                ratio = abar[t] / abar[t - 1]
                z = ratio**0.5 * z_prev + (1 - ratio) ** 0.5 * torch.randn(z.shape, generator=generator)
        z = z_prev
    return z


@pytest.mark.parametrize("target", ["noisy", "clean"])
@pytest.mark.parametrize(
    "T, T_r, inversion_scale, caption", [(5, 3, 1.0, "a dog"), (10, 1, 0.0, "a dog"), (4, 2, 1.5, "")]
)
def test_decoder_equals_algorithm_1(toy, target, T, T_r, inversion_scale, caption):
    torch.manual_seed(1)
    weight_map = WeightMap(torch.randint(8, (2, 2)).byte().numpy(), 8)
    latents = torch.randn(1, 4, 13, 16)
    codes = toy.hsvlc.compress(latents, torch.from_numpy(weight_map.values)[None, None]).data
    file = Bitstream(128, 100, weight_map, caption, codes, toy.hsvlc.fingerprint)
    ours = toy(
        file.to_bytes(),
        num_inference_steps=T,
        num_recurrence_steps=T_r,
        guidance_strength=800.0,
        guidance_scale=2.5,
        referring_scale=0.6,
        guidance_target=target,
        inversion_guidance_scale=inversion_scale,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    )
    expected = algorithm_1(
        toy, file, T, T_r, 800.0, 2.5, 0.6, target, inversion_scale, torch.Generator().manual_seed(7)
    )
    torch.testing.assert_close(ours.images, expected, atol=1e-4, rtol=1e-4)
    assert ours.num_unet_evaluations == T + T * T_r


@pytest.mark.parametrize("preset, T, strength, limit", [("fast", 20, 0.35, 7), ("balanced", 50, 1.0, 50)])
def test_quick_presets_keep_to_their_evaluations(toy, preset, T, strength, limit):
    """Counted by diffusers' own timesteps, where M = 0 asks for most; and none where M = 1 asks for nothing."""
    theirs = DDIMScheduler(steps_offset=1)
    theirs.set_timesteps(T)
    for value, expected in ((0.0, int((theirs.timesteps <= 1000 * strength).sum())), (1.0, 0)):
        weight_map = WeightMap.constant(value, 64, 64)
        codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.full((1, 1, 1, 1), value)).data
        file = Bitstream(64, 64, weight_map, "a dog", codes, toy.hsvlc.fingerprint)
        out = toy(file.to_bytes(), preset=preset, output_type="latent")
        assert out.num_unet_evaluations == expected <= limit


def test_paper_preset_is_the_papers_settings_whatever_the_scheduler_says(toy):
    """T = 50 and T_r = 8 by their cost; gamma, omega, target and inversion by the latents of a short run."""
    own = GuidedSelfRecurrentDDIMScheduler(
        num_inference_steps=3,
        num_recurrence_steps=1,
        guidance_strength=10.0,
        guidance_scale=9.0,
        referring_scale=0.1,
        guidance_target="clean",
        inversion_guidance_scale=2.0,
    )
    pipeline = RSICDecoderPipeline(**{**toy.components, "scheduler": own})
    pipeline.set_progress_bar_config(disable=True)
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.full((1, 1, 1, 1), 204 / 255)).data
    file = Bitstream(64, 64, WeightMap.constant(0.8, 64, 64), "a dog", codes, toy.hsvlc.fingerprint)
    assert pipeline(file.to_bytes(), preset="paper", output_type="latent").num_unet_evaluations == 50 + 50 * 8
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    short = {"num_inference_steps": 5, "num_recurrence_steps": 2, "output_type": "latent", "generator": generators[0]}
    ours = pipeline(file.to_bytes(), preset="paper", **short).images
    expected = algorithm_1(toy, file, 5, 2, 1e3, 3.0, 0.7, "noisy", 1.0, generators[1])
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_quick_presets_leave_the_guidance_scale_to_the_checkpoint(toy, preset):
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.full((1, 1, 1, 1), 51 / 255)).data
    file = Bitstream(64, 64, WeightMap.constant(0.2, 64, 64), "a dog", codes, toy.hsvlc.fingerprint).to_bytes()

    def decode(config, **omega):
        pipeline = RSICDecoderPipeline(**{**toy.components, "scheduler": GuidedSelfRecurrentDDIMScheduler(**config)})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(file, preset=preset, output_type="latent", **omega).images

    alone = {"guidance_scale": 1.0, "referring_scale": 0.0}
    torch.testing.assert_close(decode(alone), decode({}, **alone), atol=0, rtol=0)
    torch.testing.assert_close(decode({}), decode(alone, guidance_scale=3.0, referring_scale=0.7), atol=0, rtol=0)
    assert (decode(alone) - decode({})).abs().max() > 1e-3


def test_strength_is_image_to_image_of_each_position(toy):
    """With one M everywhere: noise at that level, then diffusers' DDIM down from it; with two, each where it holds."""
    torch.manual_seed(1)
    noise = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(7))
    settings = {"num_inference_steps": 10, "num_recurrence_steps": 1, "guidance_target": "clean", "strength": 0.9}
    settings |= {"guidance_strength": 0.0, "guidance_scale": 1.0, "referring_scale": 0.0, "output_type": "latent"}
    tokens = toy.tokenizer("a dog", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        caption = toy.text_encoder(tokens).last_hidden_state
    levels = torch.tensor([[[[2 / 7, 5 / 7]]]])
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 16), levels).data
    z_hat = toy.hsvlc.decompress(codes, levels, (8, 16))
    wide = levels.repeat_interleave(8, -1).repeat_interleave(8, -2)

    # The reference: each position starts at the first timestep below its level, from the noised code.
    ddim = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    ddim.set_timesteps(10)
    level = 0.9 * 1000 * (1 - wide)
    z, before, evaluations = torch.full_like(z_hat, float("nan")), 1000, 0
    for t in ddim.timesteps[ddim.timesteps <= 0.9 * 1000 * 5 / 7]:
        waiting = ddim.add_noise(z_hat, noise, t[None])
        z = torch.where(before <= level, z, waiting)
        with torch.no_grad():
            z = ddim.step(toy.unet(z, t, caption).sample, t, z).prev_sample
        before, evaluations = t, evaluations + 1
    file = Bitstream(
        128, 64, WeightMap((levels[0, 0] * 7).round().byte().numpy(), 8), "a dog", codes, toy.hsvlc.fingerprint
    )
    ours = toy(file.to_bytes(), generator=torch.Generator().manual_seed(7), **settings)
    torch.testing.assert_close(ours.images, z, atol=1e-4, rtol=1e-4)
    assert ours.num_unet_evaluations == evaluations == 7  # 601, 501, ..., 1
    # Where M is high enough that no step lies below its level, the picture is the codec's.
    settings["strength"] = 0.003
    still = toy(file.to_bytes(), generator=torch.Generator().manual_seed(7), **settings)
    torch.testing.assert_close(still.images[..., 8:], z_hat[..., 8:], atol=0, rtol=0)
    assert still.num_unet_evaluations == 1 and not torch.equal(still.images[..., :8], z_hat[..., :8])


def test_no_graph_goes_through_the_unet(toy):
    """The gradient of the guidance is HSVLC's alone."""
    grad_modes = []
    hook = toy.unet.register_forward_hook(lambda *_: grad_modes.append(torch.is_grad_enabled()))
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.ones(1, 1, 1, 1)).data
    file = Bitstream(64, 64, WeightMap.constant(1, 64, 64), "", codes, toy.hsvlc.fingerprint)
    out = toy(file.to_bytes(), num_inference_steps=2, num_recurrence_steps=2, output_type="latent")
    hook.remove()
    assert grad_modes == [False] * 6 and not out.images.requires_grad
