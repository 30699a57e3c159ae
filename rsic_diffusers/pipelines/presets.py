"""The decoder's presets."""

# Values for arguments of `RSICDecoderPipeline.__call__` by name. What a preset does not say is as the scheduler's
# config says, all without one.
# Algorithm 1 with the paper's settings: 50 UNet evaluations to invert z_hat_0, 400 to denoise.
PAPER = {
    "num_inference_steps": 50,
    "num_recurrence_steps": 8,
    "guidance_strength": 1e3,
    "guidance_scale": 3.0,
    "referring_scale": 0.7,
    "guidance_target": "noisy",
    "inversion_guidance_scale": 1.0,
    "strength": None,
}
# No inversion: each position starts from its coded latent with noise, and what was coded guides the clean latents.
# How much a base model needs of classifier-free guidance is its own affair, not a matter of speed.
FROM_NOISE = {
    "num_recurrence_steps": 1,
    "guidance_target": "clean",
    "guidance_strength": 600.0,
}
PRESETS = {
    "paper": PAPER,
    # Where M = 0 from noise alone, as the paper in effect does: at most 50 evaluations.
    "balanced": {**FROM_NOISE, "num_inference_steps": 50, "strength": 1.0},
    # Where M = 0 from a third of the way up the noise schedule, so that colours stay: at most 7 evaluations.
    "fast": {**FROM_NOISE, "num_inference_steps": 20, "strength": 0.35},
}
