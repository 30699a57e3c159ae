"""A step of the sampler compiles to one graph."""

import copy

import torch
from diffusers import UNet2DConditionModel

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler


def check_compiled(step, timesteps, latents):
    """One graph, traced at one timestep, gives what running eagerly gives at others."""
    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(timesteps[0], latents)
        with torch.compiler.set_stance("fail_on_recompile"):
            for t in timesteps[1:]:
                torch.testing.assert_close(compiled(t, latents), step(t, latents), atol=1e-5, rtol=1e-5)


def test_a_step_compiles_to_one_graph_for_all_timesteps():
    """UNet, classifier-free guidance, DDIM and the gradient through HSVLC."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    hsvlc = HSVLC(hidden_channels=(8, 8, 8, 8), code_channels=(4, 4, 0, 0), prior_channels=8).eval()
    for parameter in hsvlc.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(10)
    latents, reference, embeddings = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16), torch.randn(2, 77, 16)
    conditions = hsvlc.condition(torch.rand(1, 1, 2, 2), 16, 16)

    def step(t, latents, strength=4e4):
        without, with_ = unet(torch.cat([latents] * 2), t, embeddings).sample.chunk(2)
        return scheduler.step(
            without + 3 * (with_ - without),
            t,
            latents,
            reference=reference,
            codec=lambda z: hsvlc(z, conditions).sample,
            guidance_strength=strength,
            guidance_target="clean",
        ).prev_sample

    check_compiled(step, scheduler.timesteps[[2, 5, 9]], latents)
    t = scheduler.timesteps[5]
    assert (step(t, latents) - step(t, latents, strength=0.0)).abs().max() > 1e-3


def test_a_step_towards_noisy_latents_compiles_too():
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(10)
    torch.manual_seed(0)
    eps, latents, reference = torch.randn(3, 1, 4, 16, 16)

    def step(t, latents):
        return scheduler.step(
            eps, t, latents, reference=reference, codec=torch.tanh, guidance_target="noisy"
        ).prev_sample

    check_compiled(step, scheduler.timesteps[[0, 5, 9]], latents)


def test_the_scheduler_takes_timesteps_as_numbers_and_as_tensors():
    torch.manual_seed(0)
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(10)
    eps, sample = torch.randn(2, 1, 4, 8, 8)
    for t in scheduler.timesteps[[0, 9]]:
        for function in (
            lambda t: scheduler.step(eps, t, sample, sample.roll(1), torch.tanh, sample.square()).prev_sample,
            lambda t: scheduler.invert_step(eps, t, sample),
            lambda t: scheduler.renoise(sample, t, torch.Generator().manual_seed(0)),
            lambda t: scheduler.add_noise(sample, eps, t),
        ):
            assert torch.equal(function(t), function(int(t)))


def test_copies_of_a_compiled_scheduler_have_their_own_timesteps():
    torch.manual_seed(0)
    plain, compiled = GuidedSelfRecurrentDDIMScheduler(), GuidedSelfRecurrentDDIMScheduler()
    compiled.compile(fullgraph=True, backend="aot_eager")
    eps, latents, reference = torch.randn(3, 1, 4, 8, 8)
    with torch.no_grad():
        for steps in (5, 20):
            for target, inputs in (("clean", {}), ("posterior", {"error": torch.full((1,), 0.3)})):
                both = []
                for scheduler in (plain, copy.deepcopy(compiled)):
                    scheduler.set_timesteps(steps)
                    t = scheduler.timesteps[1]
                    both.append(
                        scheduler.step(
                            eps, t, latents, reference, torch.tanh, guidance_target=target, **inputs
                        ).prev_sample
                    )
                torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)
    assert compiled.num_inference_steps is None
