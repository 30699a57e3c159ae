"""The sampler against diffusers' own schedulers, a finite-difference gradient and NumPy."""

import copy
import threading

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, EulerDiscreteScheduler

from rsic_diffusers import GuidedSelfRecurrentDDIMScheduler
from rsic_diffusers.schedulers.guidance import guidance_gradient


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
    {**SD15, "timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
]


def toy_unet(sample, timestep):
    return torch.tanh(sample.flip(-1) + 0.001 * float(timestep))


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("steps", [5, 8, 50])
def test_denoising_and_inversion_equal_diffusers(config, steps):
    """Numbers of steps by which 1,000 is divisible: with others, diffusers' own trailing list is not evenly spaced."""
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
    for t, t_inverse in zip(reversed(ours.timesteps), inverse.timesteps, strict=True):
        assert int(t) == int(t_inverse)
        a = ours.invert_step(toy_unet(a, t), t, a)
        b = inverse.step(toy_unet(b, t), t, b).prev_sample
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "how",
    [
        {"timestep_spacing": "linspace", "num_inference_steps": 19},
        {"timestep_spacing": "trailing", "num_inference_steps": 19},
        {"timestep_spacing": "leading", "num_inference_steps": 19},
        {"timesteps": [903, 411, 410, 77, 3]},
        {"num_inference_steps": 9, "start": 640.3},
        {"num_inference_steps": 50, "start": 120.0},
    ],
)
def test_any_list_of_timesteps_equals_diffusers_euler(prediction_type, how):
    """DDIM is Euler's method on z / sqrt(abar), and diffusers' Euler scheduler takes its levels from the list itself.

    Its DDIM scheduler does not: it goes down by a fixed stride, whatever the list.
    """
    how = dict(how)
    config = {**SD15, "prediction_type": prediction_type, "timestep_spacing": how.pop("timestep_spacing", "leading")}
    ours = GuidedSelfRecurrentDDIMScheduler.from_config(DDIMScheduler(**config).config)
    ours.set_timesteps(**how)
    euler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        final_sigmas_type="sigma_min",
    )
    euler.set_timesteps(timesteps=ours.timesteps.tolist())
    torch.manual_seed(0)
    z = torch.randn(2, 4, 8, 8)
    x = z / euler.alphas_cumprod[int(ours.timesteps[0])] ** 0.5
    for i, t in enumerate(ours.timesteps):
        model_output = toy_unet(z, t)
        z = ours.step(model_output, t, z).prev_sample
        x = euler.step(model_output, euler.timesteps[i], x).prev_sample
        level = euler.alphas_cumprod[int(ours.timesteps[i + 1]) if i + 1 < len(ours.timesteps) else 0]
        torch.testing.assert_close(z, x * level**0.5, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("steps, start", [(1, 640.0), (8, 640.9), (50, 640.0), (50, 20.4), (8, 0.7), (8, -1.0)])
def test_timesteps_go_down_from_the_start_ever_denser(steps, start):
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(steps, start=start)
    timesteps = scheduler.timesteps.tolist()
    assert len(timesteps) == scheduler.num_inference_steps == min(steps, max(int(start), 0))
    gaps = -np.diff([*timesteps, 0])
    assert (gaps >= 1).all() and (not timesteps or timesteps[0] == int(start))
    assert (np.diff(gaps) <= 1).all()  # but for rounding, no gap is larger than the one before it


@pytest.mark.parametrize("timesteps", [[5, 5], [1, 5], [1000], [3, -1], [3.0, 1.0], [[3], [1]]])
def test_lists_that_are_no_timesteps_are_refused(timesteps):
    with pytest.raises(ValueError, match="timesteps must be whole numbers from 999 to 0"):
        GuidedSelfRecurrentDDIMScheduler().set_timesteps(timesteps=timesteps)


def test_a_timestep_that_is_not_in_the_list_is_refused():
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    z = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(z, 501, z)
    scheduler.set_timesteps(20)
    with pytest.raises(ValueError, match="502 is not one of"):
        scheduler.step(z, 502, z)
    # On a device the values are not looked at; what comes out cannot be taken for latents.
    assert scheduler.step(z, torch.tensor(502), z).prev_sample.isnan().all()


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


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "autocast"])
def test_the_gradient_is_the_same_in_every_mode(mode, hsvlc):
    torch.manual_seed(0)
    z, reference = torch.randn(2, 1, 4, 16, 16)
    weight_map = torch.rand(1, 1, 2, 2)
    with torch.no_grad():
        conditions = hsvlc.condition(weight_map, 16, 16)
        expected = guidance_gradient(lambda x: hsvlc(x, conditions).sample, z, reference)
    modes = {"no_grad": torch.no_grad(), "inference_mode": torch.inference_mode()}
    with modes.get(mode, torch.autocast("cpu", torch.bfloat16)):
        gradient = guidance_gradient(lambda x: hsvlc(x, conditions).sample, z + 0, reference + 0)
    torch.testing.assert_close(gradient, expected, atol=0, rtol=0)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("T, T_r", [(50, 8), (5, 2), (1, 1)])
def test_guidance_pulls_towards_the_reference_by_the_papers_amount(T, T_r):
    """With C the identity at 64 x 64, each of the paper's 50 x 8 steps moves z by 2e3/16384 of the residual, times
    sqrt(abar_{t-1}/abar_t); fewer steps take larger shares of the same total, up to half the residual."""
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(T)
    share = min(2 * 4e5 / (T * T_r) / 16384, 0.5)
    z, reference, eps = torch.randn(3, 1, 4, 64, 64)
    for t in (int(scheduler.timesteps[0]), 1):
        plain = scheduler.step(eps, t, z).prev_sample
        alpha = scheduler.alphas_cumprod
        ratio = (alpha[t - 1000 // T] if t > 1000 // T else alpha[0]) / alpha[t]
        for num_steps in (T * T_r, torch.full((1, 1, 1, 1), T * T_r)):
            arguments = {"reference": reference, "codec": lambda x: x, "guidance_target": "noisy"}
            guided = scheduler.step(eps, t, z, **arguments, num_steps=num_steps).prev_sample
            torch.testing.assert_close(guided - plain, -share * ratio**0.5 * (z - reference), atol=1e-5, rtol=1e-4)
    assert pytest.approx(0.122, abs=1e-3) == 2e3 / 16384


def test_the_total_pull_does_not_depend_on_the_number_of_steps():
    """Where the model says nothing (eps = 0) and C is the identity, what is left of the residual after a run."""
    torch.manual_seed(0)
    z, reference = torch.randn(2, 1, 4, 16, 16)
    left = []
    for T in (7, 50, 400):
        scheduler = GuidedSelfRecurrentDDIMScheduler(set_alpha_to_one=True)
        scheduler.set_timesteps(T)
        x = z * scheduler.alphas_cumprod[int(scheduler.timesteps[0])] ** 0.5
        guidance = {"codec": lambda x: x, "guidance_target": "clean", "guidance_strength": 8e3}
        for t in scheduler.timesteps:
            x = scheduler.step(torch.zeros_like(x), t, x, reference, **guidance).prev_sample
        left.append(float((x - reference).norm() / (z - reference).norm()))
    assert left == pytest.approx([np.exp(-2 * 8e3 / 16384)] * 3, abs=0.03)


def test_the_posterior_mean_equals_numpy():
    """Two estimates of each clean latent, weighted by the inverse of their squared errors 1 - abar_t and D; and with a
    C that halves latents, half of that movement."""
    rng = np.random.default_rng(0)
    z, eps, z_hat = rng.standard_normal((3, 2, 4, 8, 8))
    error = rng.uniform(0.05, 0.8, (2, 1, 8, 8))
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(20)
    for t, previous in ((951, 901), (401, 351), (1, 0)):
        for strength in (1.0, 0.25, 0.0):
            predicted = (z - np.sqrt(1 - abar[t]) * eps) / np.sqrt(abar[t])
            precisions = 1 / (1 - abar[t]), strength / error
            clean = (precisions[0] * predicted + precisions[1] * z_hat) / (precisions[0] + precisions[1])
            noise = (z - np.sqrt(abar[t]) * clean) / np.sqrt(1 - abar[t])  # what z_t holds beside them
            expected = np.sqrt(abar[previous]) * clean + np.sqrt(1 - abar[previous]) * noise
            arguments = {"guidance_target": "posterior", "guidance_strength": strength}
            tensors = [torch.from_numpy(array) for array in (eps, z, z_hat, error)]
            out = scheduler.step(tensors[0], t, *tensors[1:3], lambda x: x, tensors[3], **arguments)
            np.testing.assert_allclose(out.prev_sample.numpy(), expected, atol=1e-5, rtol=1e-5)
            half = scheduler.step(tensors[0], t, tensors[1], tensors[2] / 2, lambda x: x / 2, tensors[3], **arguments)
            plain = scheduler.step(tensors[0], t, tensors[1]).prev_sample
            torch.testing.assert_close(2 * (half.prev_sample - plain), out.prev_sample - plain, atol=1e-5, rtol=1e-4)
            np.testing.assert_allclose(out.pred_original_sample.numpy(), predicted, atol=1e-4, rtol=1e-5)


def test_the_pull_of_the_posterior_mean_does_not_depend_on_the_number_of_steps():
    """A model that always predicts 0, z_hat_0 = 1: what a run comes to, by few, more and many steps."""
    reference, error = torch.ones(1, 4, 1, 1), torch.tensor([0.05, 0.2, 0.8]).view(1, 1, 1, 3)
    reached = []
    for T in (20, 80, 320):
        scheduler = GuidedSelfRecurrentDDIMScheduler()
        scheduler.set_timesteps(T, start=700.0)
        z = torch.zeros(1, 4, 1, 3)
        for t in scheduler.timesteps:
            eps = z / (1 - scheduler.alphas_cumprod[t]) ** 0.5
            z = scheduler.step(eps, t, z, reference, lambda x: x, error, guidance_target="posterior").prev_sample
        reached.append(z[0, 0, 0])
    torch.testing.assert_close(reached[1], reached[2], atol=0.03, rtol=0)
    torch.testing.assert_close(reached[0], reached[2], atol=0.1, rtol=0)
    assert (reached[2].diff() < 0).all() and 0.01 < reached[2][-1] < reached[2][0] <= 1


@pytest.mark.parametrize("is_set", [False, True])
def test_noise_is_added_as_by_diffusers(is_set):
    """At any timesteps, one for each sample, before `set_timesteps` and after it."""
    scheduler, reference = GuidedSelfRecurrentDDIMScheduler(), DDIMScheduler(**SD15)
    if is_set:
        scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 3, 4, 5, 6, generator=torch.manual_seed(0))
    for timesteps in (torch.tensor([0, 437, 999]), torch.tensor([333] * 3)):
        expected = reference.add_noise(clean, noise, timesteps)
        torch.testing.assert_close(scheduler.add_noise(clean, noise, timesteps), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scheduler.add_noise(clean, noise, 333), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [SD15, {**SD15, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}])
def test_start_levels_equal_numpy(config):
    """(1 - abar) / abar = strength k(M) D(M), found again at the returned timestep."""
    config = {**config, "start_noise_factors": (6.0, 0.5)}
    config.pop("clip_sample")
    scheduler = GuidedSelfRecurrentDDIMScheduler(**config)
    abar = scheduler.alphas_cumprod.double().numpy()
    weight_map = torch.tensor([[[[0.0, 2 / 7, 4 / 7], [5 / 7, 6 / 7, 1.0]]]])
    error = torch.tensor([[[[0.79, 0.63, 0.39], [0.25, 0.16, 0.11]]]])
    for strength in (1.0, 0.3):
        start = scheduler.start_timesteps(error, weight_map, strength)
        assert start.shape == weight_map.shape and (start.flatten().diff() < 0).all()
        factor = np.exp(np.interp(weight_map.numpy(), [0, 1], np.log([6.0, 0.5])))
        found = np.interp(start.numpy(), np.arange(1000), abar)
        np.testing.assert_allclose((1 - found) / found, strength * factor * error.numpy(), rtol=1e-3)
    assert (scheduler.start_timesteps(error, weight_map, 0.0) == -1).all()


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
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    weight_map = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(scheduler.guidance_scale_map(weight_map), torch.tensor([3.0, 1.95, 0.9]))
    # No classifier-free guidance is none, whatever M says; and one number where M does not matter.
    assert scheduler.guidance_scale_map(weight_map, guidance_scale=1.0) == 1
    assert scheduler.guidance_scale_map(weight_map, referring_scale=0.0) == 3


def test_copies_share_nothing_that_a_call_changes():
    """Two threads decode with copies, at different numbers of steps; each gets what it gets alone."""
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    torch.manual_seed(0)
    noise = torch.randn(1, 4, 8, 8)

    def run(steps, own):
        own.set_timesteps(steps)
        z = noise
        for t in own.timesteps:
            z = own.step(toy_unet(z, t), t, z).prev_sample
        return z

    expected = {steps: run(steps, GuidedSelfRecurrentDDIMScheduler()) for steps in (30, 40, 50)}
    found = {}
    threads = [
        threading.Thread(target=lambda steps=steps: found.update({steps: run(steps, copy.deepcopy(scheduler))}))
        for steps in expected
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[steps], expected[steps]) for steps in expected)
    assert scheduler.num_inference_steps is None


def test_config_survives_saving(tmp_path):
    scheduler = GuidedSelfRecurrentDDIMScheduler(num_recurrence_steps=3, prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path)
    again = GuidedSelfRecurrentDDIMScheduler.from_pretrained(tmp_path)
    for name, value in scheduler.config.items():
        # JSON has no tuples
        assert name.startswith("_") or again.config[name] == (list(value) if isinstance(value, tuple) else value)
    assert again._ddim.config.prediction_type == "v_prediction"


def test_unsupported_prediction_type_is_refused():
    with pytest.raises(ValueError, match="prediction_type"):
        GuidedSelfRecurrentDDIMScheduler(prediction_type="sample")


def test_epsilon_at_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="v-prediction"):
        GuidedSelfRecurrentDDIMScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="v-prediction"):
        GuidedSelfRecurrentDDIMScheduler(trained_betas=[0.5] * 50, num_train_timesteps=50)
    GuidedSelfRecurrentDDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_recurrence_steps", 10**9),
        ("num_recurrence_steps", 0),
        ("num_recurrence_steps", 2.0),
        ("num_recurrence_steps", True),
        ("num_inference_steps", 1000),
        ("num_inference_steps", "50"),
        ("guidance_scale", "3"),
        ("guidance_scale", float("nan")),
        ("guidance_scale", -1),
        ("guidance_scale", [3.0]),
        ("referring_scale", 1.5),
        ("guidance_strength", float("inf")),
        ("guidance_strength", -1.0),
        ("guidance_target", "cleaner"),
        ("inversion_guidance_scale", "omega"),
        ("strength", -0.1),
        ("strength", "1"),
        ("start_noise_factors", 8.0),
        ("start_noise_factors", (8.0, 0.0)),
        ("start_noise_factors", (8.0, 0.3, 0.1)),
    ],
)
def test_settings_of_wrong_type_or_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        GuidedSelfRecurrentDDIMScheduler(**{name: value})


def test_a_step_says_what_its_target_lacks():
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(5)
    z = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="error="):
        scheduler.step(z, 801, z, reference=z, codec=torch.tanh, guidance_target="posterior")
    with pytest.raises(ValueError, match="codec="):
        scheduler.step(z, 801, z, reference=z, guidance_target="clean")


def test_a_noisy_target_needs_inversion():
    with pytest.raises(ValueError, match="leaves inversion out"):
        GuidedSelfRecurrentDDIMScheduler(guidance_target="noisy", strength=1.0)
    GuidedSelfRecurrentDDIMScheduler(guidance_target="noisy", strength=None)
