"""The decoder's loop as a whole against Algorithm 1, written plainly here, on a toy UNet."""

import pytest
import torch

from rsic_diffusers import Bitstream, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, WeightMap
from rsic_diffusers.pipelines.presets import PAPER


def algorithm_1(pipeline, file, T, T_r, gamma, scale, referring, target, inversion_scale, generator):
    """Paper, Algorithm 1, in its own notation; nothing of our scheduler is used. `gamma` is that of each step;
    `inversion_scale` None takes the omega of denoising, as Eq. 2 does."""
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
            z_hat[t] = ddim(
                z_hat[t - 1], guided(z_hat[t - 1], t, omega if inversion_scale is None else inversion_scale), t - 1, t
            )
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
    "T, T_r, inversion_scale, caption",
    [(5, 3, 1.0, "a dog"), (10, 1, 0.0, "a dog"), (4, 2, 1.5, ""), (4, 2, None, "a dog")],
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
        guidance_strength=800.0 * T * T_r,
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


def highest_start(level_error_at_0, factor=8.0):
    """The timestep where (1 - abar) / abar is factor x D(0), rounded down."""
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    return int(((1 - abar) / abar <= factor * level_error_at_0).sum()) - 1


@pytest.mark.parametrize("preset, T", [("fast", 8), ("balanced", 50)])
def test_quick_presets_keep_to_their_evaluations(toy, preset, T):
    """All steps where M = 0; fewer where M is 1, those below its own start."""
    for value, error, factor in ((0.0, 0.8, 8.0), (1.0, 0.1, 0.3)):
        weight_map = WeightMap.constant(value, 64, 64)
        codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.full((1, 1, 1, 1), value)).data
        file = Bitstream(64, 64, weight_map, "a dog", codes, toy.hsvlc.fingerprint)
        out = toy(file.to_bytes(), preset=preset, output_type="latent")
        highest, start = highest_start(0.8), highest_start(error, factor)
        timesteps = {max(round(highest * (i / T) ** 2), i) for i in range(1, T + 1)}
        assert out.num_unet_evaluations == sum(t <= start for t in timesteps) <= T


def test_a_run_without_evaluations_is_said(toy, caplog):
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.ones(1, 1, 1, 1)).data
    file = Bitstream(64, 64, WeightMap.constant(1.0, 64, 64), "a dog", codes, toy.hsvlc.fingerprint)
    for strength, lines in ((1e-3, 1), (0.0, 0)):  # 0 asks for none
        caplog.clear()
        out = toy(file.to_bytes(), preset="fast", strength=strength, output_type="latent")
        assert out.num_unet_evaluations == 0
        assert sum("No step of diffusion" in record.getMessage() for record in caplog.records) == lines


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
        strength=0.5,
    )
    pipeline = RSICDecoderPipeline(**{**toy.components, "scheduler": own})
    pipeline.set_progress_bar_config(disable=True)
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.full((1, 1, 1, 1), 204 / 255)).data
    file = Bitstream(64, 64, WeightMap.constant(0.8, 64, 64), "a dog", codes, toy.hsvlc.fingerprint)
    assert pipeline(file.to_bytes(), preset="paper", output_type="latent").num_unet_evaluations == 50 + 50 * 8
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    short = {"num_inference_steps": 5, "num_recurrence_steps": 2, "output_type": "latent", "generator": generators[0]}
    # gamma = 1e3 in each of 50 x 8 steps is a total of 4e5; here each of 5 x 2 is to have it.
    ours = pipeline(file.to_bytes(), preset="paper", guidance_strength=1e3 * 5 * 2, **short).images
    expected = algorithm_1(toy, file, 5, 2, 1e3, 3.0, 0.7, "noisy", None, generators[1])
    assert PAPER["guidance_strength"] == 1e3 * 50 * 8
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


@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_each_position_starts_from_noise_of_its_own_level(toy, pull):
    """Image to image with a level for each M; with and without the posterior mean."""
    torch.manual_seed(1)
    noise = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(7))
    settings = {"num_inference_steps": 10, "num_recurrence_steps": 1, "guidance_target": "posterior", "strength": 1.0}
    settings |= {"guidance_strength": pull, "guidance_scale": 1.0, "referring_scale": 0.7, "output_type": "latent"}
    tokens = toy.tokenizer("a dog", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        caption = toy.text_encoder(tokens).last_hidden_state
    levels = torch.tensor([[[[2 / 7, 5 / 7]]]])
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 16), levels).data
    z_hat = toy.hsvlc.decompress(codes, levels, (8, 16))
    wide = levels.repeat_interleave(8, -1).repeat_interleave(8, -2)

    # The reference: each position starts at the first timestep below its level, from the noised code.
    error = torch.where(wide < 0.5, 0.6, 0.25)
    level = torch.where(
        wide < 0.5, highest_start(0.6, 8 * (0.3 / 8) ** (2 / 7)), highest_start(0.25, 8 * (0.3 / 8) ** (5 / 7))
    )
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).tolist()
    timesteps = [max(round(highest_start(0.8) * (i / 10) ** 2), i) for i in range(10, 0, -1)]
    z, before, evaluations = torch.full_like(z_hat, float("nan")), 1000, 0
    for i, t in enumerate(timesteps):
        if t > level.max():
            continue
        z = torch.where(before <= level, z, abar[t] ** 0.5 * z_hat + (1 - abar[t]) ** 0.5 * noise)
        with torch.no_grad():
            eps = toy.unet(z, t, caption).sample
        clean = (z - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5
        with torch.no_grad():
            seen = toy.hsvlc(clean, levels).sample
        moved = clean + pull * (1 - abar[t]) / (1 - abar[t] + error) * (z_hat - seen)
        below = abar[timesteps[i + 1]] if i < 9 else abar[0]
        z = below**0.5 * moved + (1 - below) ** 0.5 * (z - abar[t] ** 0.5 * moved) / (1 - abar[t]) ** 0.5
        before, evaluations = t, evaluations + 1
    file = Bitstream(
        128, 64, WeightMap((levels[0, 0] * 7).round().byte().numpy(), 8), "a dog", codes, toy.hsvlc.fingerprint
    )
    ours = toy(file.to_bytes(), generator=torch.Generator().manual_seed(7), **settings)
    torch.testing.assert_close(ours.images, z, atol=1e-4, rtol=1e-4)
    assert ours.num_unet_evaluations == evaluations and 5 < evaluations < 10
    # Where M is high enough that no step lies below its level, the picture is the codec's.
    settings |= {"strength": 0.02, "num_inference_steps": 2}
    still = toy(file.to_bytes(), generator=torch.Generator().manual_seed(7), **settings)
    torch.testing.assert_close(still.images[..., 8:], z_hat[..., 8:], atol=0, rtol=0)
    assert still.num_unet_evaluations > 0 and not torch.equal(still.images[..., :8], z_hat[..., :8])


def test_no_graph_goes_through_the_unet(toy):
    """The gradient of the guidance is HSVLC's alone."""
    grad_modes = []
    hook = toy.unet.register_forward_hook(lambda *_: grad_modes.append(torch.is_grad_enabled()))
    codes = toy.hsvlc.compress(torch.randn(1, 4, 8, 8), torch.ones(1, 1, 1, 1)).data
    file = Bitstream(64, 64, WeightMap.constant(1, 64, 64), "", codes, toy.hsvlc.fingerprint)
    settings = {"preset": "paper", "num_inference_steps": 2, "num_recurrence_steps": 2, "output_type": "latent"}
    out = toy(file.to_bytes(), **settings)
    hook.remove()
    assert grad_modes == [False] * 6 and not out.images.requires_grad
