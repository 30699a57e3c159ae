"""The decoder's presets."""

GAMMA = 1e3  # the paper's weight of the guidance in each step
# Values for arguments of `RSICDecoderPipeline.__call__` by name. What a preset does not say is as the scheduler's
# config says, all without one.
# Algorithm 1 with the paper's settings: 50 UNet evaluations to invert z_hat_0, 400 to denoise.
PAPER = {
    "num_inference_steps": 50,
    "num_recurrence_steps": 8,
    "guidance_strength": 50 * 8 * GAMMA,
    "guidance_scale": 3.0,
    "referring_scale": 0.7,
    "guidance_target": "noisy",
    "inversion_guidance_scale": None,  # that of denoising, as in Eq. 2
    "strength": None,
}
# No inversion: each position starts from its coded latent with noise, and what was coded corrects the clean latents in
# closed form, which does as well as the gradient or better and needs no backward pass. How much a base model needs of
# classifier-free guidance is its own affair, not a matter of speed.
FROM_NOISE = {
    "num_recurrence_steps": 1,
    "guidance_target": "posterior",
    "guidance_strength": None,  # the target's own
    "inversion_guidance_scale": None,
    "strength": 1.0,
}
PRESETS = {
    "paper": PAPER,
    "balanced": {**FROM_NOISE, "num_inference_steps": 50},
    "fast": {**FROM_NOISE, "num_inference_steps": 8},
}
