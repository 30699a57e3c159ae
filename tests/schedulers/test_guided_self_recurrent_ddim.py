"""The sampler against diffusers' own DDIM schedulers and a finite-difference gradient."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from rsic_diffusers import GuidedSelfRecurrentDDIMScheduler
from rsic_diffusers.schedulers.scheduling_guided_self_recurrent_ddim import guidance_gradient


SD15 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
VARIANTS = [
    SD15,
    {**SD15, "prediction_type": "v_prediction"},
    {**SD15, "set_alpha_to_one": True, "steps_offset": 0},
    {**SD15, "timestep_spacing": "trailing", "beta_schedule": "linear"},
]


def toy_unet(sample, timestep):
    return torch.tanh(sample.flip(-1) + 0.001 * float(timestep))


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("steps", [7, 50])
def test_denoising_and_inversion_equal_diffusers(config, steps):
    ours = GuidedSelfRecurrentDDIMScheduler.from_config(DDIMScheduler(**config).config)
    theirs, inverse = DDIMScheduler(**config), DDIMInverseScheduler(**config)
    for scheduler in (ours, theirs, inverse):
        scheduler.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()

    torch.manual_seed(0)
    a = b = torch.randn(2, 4, 8, 8)
    for t in ours.timesteps:
        a = ours.step(toy_unet(a, t), t, a).prev_sample
        b = theirs.step(toy_unet(b, t), t, b, eta=0.0).prev_sample
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)

    # diffusers' inverse scheduler takes its first step to the least noisy timestep, as ours does
    a = b = torch.randn(2, 4, 8, 8)
    for t, t_inverse in zip(reversed(ours.timesteps), inverse.timesteps):
        assert int(t) == int(t_inverse)
        a = ours.invert_step(toy_unet(a, t), t, a)
        b = inverse.step(toy_unet(b, t), t, b).prev_sample
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_the_formula_of_the_paper():
    """z_t = sqrt(abar_t/abar_s) z_s + sqrt(abar_t) (sqrt(1/abar_t - 1) - sqrt(1/abar_s - 1)) eps, in float64."""
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(20)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    z, eps = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.randn(1, 4, 8, 8, dtype=torch.float64)
    s, t = 501, 451
    a_s, a_t = alphas[s], alphas[t]
    expected = (a_t / a_s) ** 0.5 * z + a_t**0.5 * ((1 / a_t - 1) ** 0.5 - (1 / a_s - 1) ** 0.5) * eps
    torch.testing.assert_close(scheduler.step(eps, s, z).prev_sample, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (2, 4, 32, 16)])
def test_guidance_gradient_equals_finite_differences(shape, hsvlc):
    """C is the real codec without the rounding of its codes, and all gates open: behind a closed gate the code is the
    prior's mean, which is rounded to 1/256 and has no derivative to compare with. (Cells that only padding adds have
    closed gates, hence sides of whole 16s.)"""
    torch.manual_seed(0)
    double = type(hsvlc).from_config(hsvlc.config).double().eval()
    double.load_state_dict(hsvlc.state_dict())
    weight_map = torch.ones(shape[0], 1, shape[2] // 8, shape[3] // 8)

    def codec(z):
        return double(z, weight_map, quantization="none").sample

    z, reference = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        gradient = guidance_gradient(codec, z, reference)

        def distance(z):
            return (codec(z) - reference).square().sum() / (4 * 64 * 64)

        for _ in range(10):
            direction = torch.randn(shape, dtype=torch.float64)
            step = 1e-5
            slope = (distance(z + step * direction) - distance(z - step * direction)) / (2 * step)
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-9)


def test_guidance_pulls_towards_the_reference_by_the_papers_amount():
    """With C the identity at 64 x 64, one step moves z by 2e3/16384 of the residual, times sqrt(abar_{t-1}/abar_t)."""
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(50)
    z, reference, eps = torch.randn(3, 1, 4, 64, 64)
    for t in (981, 1):
        plain = scheduler.step(eps, t, z).prev_sample
        guided = scheduler.step(eps, t, z, reference=reference, codec=lambda x: x).prev_sample
        alpha = scheduler.alphas_cumprod
        ratio = (alpha[t - 20] if t > 20 else alpha[0]) / alpha[t]
        torch.testing.assert_close(guided - plain, -(2e3 / 16384) * ratio**0.5 * (z - reference), atol=1e-5, rtol=1e-4)
    assert 2e3 / 16384 == pytest.approx(0.122, abs=1e-3)


def test_renoise_has_the_forward_process_mean_and_variance():
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(50)
    z = torch.full((1, 4, 200, 200), 2.0)
    t = 601
    ratio = scheduler.alphas_cumprod[t] / scheduler.alphas_cumprod[t - 20]
    noisy = scheduler.renoise(z, t, torch.Generator().manual_seed(0))
    assert float(noisy.mean()) == pytest.approx(2 * float(ratio) ** 0.5, abs=0.005)
    assert float(noisy.var()) == pytest.approx(1 - float(ratio), rel=0.02)


def test_guidance_scale_falls_with_m():
    omega = GuidedSelfRecurrentDDIMScheduler().guidance_scale_map(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(omega, torch.tensor([3.0, 1.95, 0.9]))


def test_config_survives_saving(tmp_path):
    scheduler = GuidedSelfRecurrentDDIMScheduler(num_recurrence_steps=3, prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path)
    again = GuidedSelfRecurrentDDIMScheduler.from_pretrained(tmp_path)
    for name, value in scheduler.config.items():
        assert name.startswith("_") or again.config[name] == value
    assert again._ddim.config.prediction_type == "v_prediction"


def test_unsupported_prediction_type_is_refused():
    with pytest.raises(ValueError, match="prediction_type"):
        GuidedSelfRecurrentDDIMScheduler(prediction_type="sample")
