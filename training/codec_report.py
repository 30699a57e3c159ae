"""What is told and shown of a trained codec: its model card, and pictures at several M."""

import re

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import make_image_grid

from rsic_diffusers.models.hsvlc import HSVLC
from rsic_diffusers.models.rate import MEASURED_LEVELS
from rsic_diffusers.pipelines.latents import decode_latents


MODEL_CARD = """---
library_name: diffusers
tags: [image-compression, diffusers, rsic]
---
# An HSVLC latent codec

Codes the Stable Diffusion latents of `{base}` for [rsic-diffusers](https://arxiv.org/abs/2506.00526), trained by
`training/train_hsvlc.py` for {steps} steps of {batch} crops of {resolution} x {resolution} pixels. Gates
{gates}, lambda(M) = {rate_lambda:g} exp({lambda_growth:g} M) for the squared error relative to the latents' variance
and a rate in bits per latent position.

{measured}
The latents' variance by channel is {variance}. Priors in fixed point cost {fixed_cost:+.2f} % bits against floating
point.
"""


MEASURED = """Real streams of {count} photos{provenance}, with one M everywhere:

| M | bpp | latent MSE |
|---|---:|---:|
{rows}
"""


def _forward(hsvlc, latents, weight_map, **arguments):
    """In float32 also during a training in half precision, where accelerate has put its autocast around `forward`."""
    return HSVLC.forward(hsvlc, latents, weight_map.to(latents), **arguments)


@torch.no_grad()
def fixed_point_cost(hsvlc, latents) -> float:
    """How many percent more bits the priors need in fixed point, with the ladder of CDFs, than in floating point."""
    fixed = floating = 0.0
    for tensor in latents:
        tensor = tensor[None].to(hsvlc.device, torch.float32)
        for weight in (2 / 7, 1.0):
            weight_map = torch.full(hsvlc.map_shape(*tensor.shape[-2:]), weight)
            fixed += sum(hsvlc.compress(tensor, weight_map).bits_per_scale)
            floating += float(sum(bits.sum() for bits in _forward(hsvlc, tensor, weight_map, return_bits=True).bits))
    return 100 * (fixed / floating - 1)


def measured_part(config, count: int, provenance: str = "") -> str:
    """What a card says of a codec's rate and error, as `measure_codec` put them into its config."""
    rows = [
        f"| {k / (MEASURED_LEVELS - 1):.3f} | {bpp:.4f} | {error:.4f} |"
        for k, (bpp, error) in enumerate(zip(config["level_bpp"], config["level_error"], strict=True))
    ]
    return MEASURED.format(count=count, provenance=provenance, rows="\n".join(rows))


def measured_again(card: str, config, count: int) -> str:
    """A card of `codec_card` with new figures in place of its own."""
    return re.sub(r"Real streams of .*?\n(?=\n[^|])", lambda _: measured_part(config, count), card, flags=re.DOTALL)


def codec_card(hsvlc, base, steps, batch, resolution, latents, provenance) -> str:
    """The model card of a codec that `codec.finish_codec` has finished."""
    config = hsvlc.config
    return MODEL_CARD.format(
        base=base,
        steps=steps,
        batch=batch,
        resolution=resolution,
        gates=", ".join(f"{gate:g}" for gate in hsvlc.gates),
        rate_lambda=config.rate_lambda,
        lambda_growth=config.lambda_growth,
        measured=measured_part(config, len(latents), provenance),
        variance=", ".join(f"{value:.3g}" for value in config.latent_variance),
        fixed_cost=fixed_point_cost(hsvlc, latents[:4]),
    )


@torch.no_grad()
def codec_pictures(hsvlc, vae, latents):
    """One row for each of up to four photos: the VAE's picture of z0, then of z0_hat at M = 1, 5/7 and 2/7."""
    processor, pictures = VaeImageProcessor(), []
    for tensor in latents[:4]:
        tensor = tensor[None, :, :48, :48].to(hsvlc.device, torch.float32)
        columns = [tensor]
        for weight in (1, 5 / 7, 2 / 7):
            weight_map = torch.full(hsvlc.map_shape(*tensor.shape[-2:]), weight)
            columns.append(_forward(hsvlc, tensor, weight_map).sample)
        row = processor.postprocess(decode_latents(vae, torch.cat(columns).to(vae.dtype), (384, 384)))
        pictures += [picture.crop((0, 0, 384, 384)) for picture in row]
    return make_image_grid(pictures, rows=len(pictures) // 4, cols=4)
