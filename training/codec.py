"""The codec that train_hsvlc.py trains: made from the options, its loss, and what is measured and shown of it."""

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import make_image_grid
from widening import stretch_weights, widen_codec

from rsic_diffusers.models.hsvlc import HSVLC, expand_to_latents
from rsic_diffusers.models.measurement import measure_codec
from rsic_diffusers.models.rate import LEVELS, PAPER_PROFILE, SMOOTH_PROFILE
from rsic_diffusers.pipelines.latents import decode_latents


PROFILES = {"paper": PAPER_PROFILE, "smooth": SMOOTH_PROFILE}
CODEC_OPTIONS = ("gates", "rate_lambda", "lambda_growth", "code_channels", "hidden_channels", "prior_channels")

MODEL_CARD = """---
library_name: diffusers
tags: [image-compression, diffusers, rsic]
---
# An HSVLC latent codec

Codes the Stable Diffusion latents of `{base}` for [rsic-diffusers](https://arxiv.org/abs/2506.00526), trained by
`training/train_hsvlc.py` for {steps} steps of {batch} crops of {resolution} x {resolution} pixels. Gates
{gates}, lambda(M) = {rate_lambda:g} exp({lambda_growth:g} M) for the squared error relative to the latents' variance
and a rate in bits per latent position.

Real streams of {count} photos{provenance}, with one M everywhere:

| M | bpp | latent MSE |
|---|---:|---:|
{rows}

The latents' variance by channel is {variance}. Priors in fixed point cost {fixed_cost:+.2f} % bits against floating
point.
"""


def add_codec_arguments(parser):
    """What the codec is like: its rates, gates and widths."""
    parser.add_argument(
        "--profile",
        choices=sorted(PROFILES),
        help="Gates and lambda(M) of the paper, or those of rsic-tiny, with which the rate grows without a leap "
        "(default: paper; with --pretrained_hsvlc, those of that codec). The next three options change parts of it.",
    )
    parser.add_argument("--gates", type=float, nargs=4, metavar="M", help="Scale f_i is coded where M >= gates[i].")
    parser.add_argument(
        "--rate_lambda",
        type=float,
        help="lambda(0), in lambda(M) = rate_lambda exp(lambda_growth M), the weight of the squared error relative to "
        "the measured variance of the latents, against bits per latent position.",
    )
    parser.add_argument(
        "--lambda_growth",
        type=float,
        help="Raise it for a higher rate and fidelity at M = 1. A codec of --pretrained_hsvlc then does at M what it "
        "did at a higher M, and its gates move along.",
    )
    parser.add_argument(
        "--code_channels", type=int, nargs=4, metavar="C", help="Of f_0 (coarsest) to f_3 (finest): 32 24 16 8."
    )
    parser.add_argument(
        "--hidden_channels", type=int, nargs=4, metavar="C", help="Of the networks, fine to coarse: 64 96 128 128."
    )
    parser.add_argument("--prior_channels", type=int, help="Width of the prior networks: 48.")
    parser.add_argument(
        "--pretrained_hsvlc",
        help="Start from this trained codec, or one with fewer channels, instead of from nothing.",
    )
    parser.add_argument("--single_layer", action="store_true", help='One code, no gates: the paper\'s "w/o HSVLC".')
    parser.add_argument("--no_conditional_prior", action="store_true", help="p(f_i | M) alone: an ablation.")


def make_codec(args, vae) -> HSVLC:
    """A codec as the options want it, which starts with the weights of `--pretrained_hsvlc` where that is given."""
    settings = {name: getattr(args, name) for name in CODEC_OPTIONS if getattr(args, name) is not None}
    if args.profile or not args.pretrained_hsvlc:
        settings = {**PROFILES[args.profile or "paper"], **settings}
    settings |= {"scaling_factor": vae.config.scaling_factor, "latent_channels": vae.config.latent_channels}
    settings |= {"single_layer": args.single_layer, "conditional_prior": not args.no_conditional_prior}
    if not args.pretrained_hsvlc:
        return HSVLC(**settings)
    trained = HSVLC.from_pretrained(args.pretrained_hsvlc, torch_dtype=torch.float32)
    if trained.config.latent_channels != vae.config.latent_channels:
        raise SystemExit(
            f"{args.pretrained_hsvlc} codes latents of {trained.config.latent_channels} channels, the VAE makes "
            f"{vae.config.latent_channels}."
        )
    stretch = settings.get("lambda_growth", trained.config.lambda_growth) / trained.config.lambda_growth
    settings.setdefault("gates", tuple(gate / stretch for gate in trained.config.gates))
    hsvlc = HSVLC.from_config(trained.config, **settings)
    hsvlc.register_to_config(_name_or_path="")
    if any(hsvlc.config[name] != trained.config[name] for name in ("single_layer", "conditional_prior")):
        _take_over_equal_layers(trained, hsvlc)  # an ablation: its codes or priors start anew, the transforms go on
    else:
        try:
            widen_codec(trained, hsvlc)
        except ValueError as error:
            raise SystemExit(f"--pretrained_hsvlc {args.pretrained_hsvlc}: {error}") from None
        if stretch != 1:
            stretch_weights(hsvlc, stretch)
    return hsvlc


def _take_over_equal_layers(trained, hsvlc):
    weights = trained.state_dict()
    own = hsvlc.state_dict()
    hsvlc.load_state_dict(
        {name: weights[name] if weights[name].shape == value.shape else value for name, value in own.items()}
    )


def rate_distortion_loss(hsvlc, latents, weight_map, lambda_map, finest):
    """sum_i R(f_i) + lambda(M) MSE(z0, z0_hat), and figures for the tracker.

    Args:
        latents (`torch.Tensor` of shape (B, 4, h, w)): z0.
        weight_map, lambda_map (`torch.Tensor` of shape (B, 1, h/8, w/8)): M, and the weight of the mean squared error
            of each cell, in bits per latent position.
        finest (`torch.Tensor` of shape (B,)): Codes finer than f_finest are left out.
    """
    output = hsvlc(latents, weight_map, finest=finest)
    positions = latents.shape[-2] * latents.shape[-1]
    rates = [bits.sum(dim=(1, 2, 3)) / positions for bits in output.bits]
    weight = expand_to_latents(lambda_map, latents.shape[-2:])
    error = (output.sample.float() - latents).square()
    distortion = (weight * error).mean(dim=(1, 2, 3))
    # lambda spans three orders of magnitude; without this, only high rates would be trained. The optimum of each
    # sample is the same.
    balance = weight.mean(dim=(1, 2, 3)).rsqrt()
    figures = {"bpp": sum(rates).mean() / 64, "mse": error.mean()}
    figures |= {f"bpp/scale {i}": rate.mean() / 64 for i, rate in enumerate(rates)}
    return ((sum(rates) + distortion) * balance).mean(), {name: value.detach() for name, value in figures.items()}


def finish_codec(hsvlc, latents, variance):
    """Make the codec ready to code, and register in its config what it was trained for and what was measured of it.

    Args:
        latents (`list[torch.Tensor]` of shape (4, h, w)): Of the photos to measure on.
        variance (`list[float]`): Of the training latents by channel, as lambda(M) was relative to it.
    """
    hsvlc.eval().update()
    measure_codec(hsvlc, [tensor[None].float() for tensor in latents])
    hsvlc.register_to_config(latent_variance=variance)


@torch.no_grad()
def fixed_point_cost(hsvlc, latents) -> float:
    """How many percent more bits the priors need in fixed point, with the ladder of CDFs, than in floating point."""
    fixed = floating = 0.0
    for tensor in latents:
        tensor = tensor[None].to(hsvlc.device, torch.float32)
        for weight in (2 / 7, 1.0):
            weight_map = torch.full(hsvlc.map_shape(*tensor.shape[-2:]), weight)
            fixed += sum(hsvlc.compress(tensor, weight_map).bits_per_scale)
            floating += float(sum(bits.sum() for bits in hsvlc(tensor, weight_map.to(tensor), return_bits=True).bits))
    return 100 * (fixed / floating - 1)


def codec_card(hsvlc, base, steps, batch, resolution, latents, provenance) -> str:
    """The model card of a codec that `finish_codec` has finished."""
    config = hsvlc.config
    rows = [
        f"| {k / (LEVELS - 1):.3f} | {bpp:.4f} | {error:.4f} |"
        for k, (bpp, error) in enumerate(zip(config.level_bpp, config.level_error, strict=True))
    ]
    return MODEL_CARD.format(
        base=base,
        steps=steps,
        batch=batch,
        resolution=resolution,
        gates=", ".join(f"{gate:g}" for gate in config.gates),
        rate_lambda=config.rate_lambda,
        lambda_growth=config.lambda_growth,
        count=len(latents),
        provenance=provenance,
        rows="\n".join(rows),
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
            columns.append(hsvlc(tensor, weight_map.to(tensor)).sample)
        row = processor.postprocess(decode_latents(vae, torch.cat(columns).to(vae.dtype), (384, 384)))
        pictures += [picture.crop((0, 0, 384, 384)) for picture in row]
    return make_image_grid(pictures, rows=len(pictures) // 4, cols=4)
