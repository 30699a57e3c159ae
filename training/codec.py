"""The codec that train_hsvlc.py trains: made from the options, its loss, and how it is finished."""

import torch
from widening import stretch_weights, widen_codec

from rsic_diffusers.models.hsvlc import HSVLC, expand_to_latents
from rsic_diffusers.models.measurement import measure_codec
from rsic_diffusers.models.rate import PAPER_PROFILE, SMOOTH_PROFILE


PROFILES = {"paper": PAPER_PROFILE, "smooth": SMOOTH_PROFILE}
CODEC_OPTIONS = ("gates", "rate_lambda", "lambda_growth", "code_channels", "hidden_channels", "prior_channels")


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
    if max(settings["gates"]) > 1:
        raise SystemExit(
            f"--lambda_growth {args.lambda_growth:g}, below the {trained.config.lambda_growth:g} of "
            f"{args.pretrained_hsvlc}, would move a gate above M = 1, and that scale would never be coded; give "
            "--gates too."
        )
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
        {
            name: weights[name] if name in weights and weights[name].shape == value.shape else value
            for name, value in own.items()
        }
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
