"""How train_hsvlc.py makes its codec, and the loss it minimises."""

import argparse
import math

import pytest
import torch

from rsic_diffusers import HSVLC
from rsic_diffusers.models.rate import PAPER_PROFILE, SMOOTH_PROFILE


def make_small_codec(**options):
    settings = {"hidden_channels": (8, 12, 8, 8), "code_channels": (6, 4, 3, 2), "prior_channels": 8}
    torch.manual_seed(0)
    hsvlc = HSVLC(**{**settings, **options}).eval()
    for parameter in hsvlc.parameters():  # some layers start as zeros
        parameter.data += 0.05 * torch.randn_like(parameter)
    return hsvlc


def codec_options(*words):
    from codec import add_codec_arguments

    parser = argparse.ArgumentParser()
    add_codec_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def vae():
    return argparse.Namespace(config=argparse.Namespace(scaling_factor=0.5, latent_channels=4))


def test_what_fixed_point_costs_is_measured_in_float32(monkeypatch):
    """Also during a training in half precision, where accelerate has wrapped `forward`."""
    from accelerate import Accelerator
    from codec_report import fixed_point_cost

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    hsvlc, latents = make_small_codec(), [torch.randn(4, 24, 40)]
    hsvlc.update()
    before = fixed_point_cost(hsvlc, latents)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    prepared = accelerator.unwrap_model(accelerator.prepare(hsvlc))
    weights = torch.rand(1, 1, 3, 5)
    assert not torch.equal(
        prepared(latents[0][None], weights).sample, HSVLC.forward(prepared, latents[0][None], weights).sample
    )
    assert fixed_point_cost(prepared, latents) == before


@pytest.mark.parametrize("conditional_prior", [True, False])
def test_a_widened_codec_is_the_same_function(conditional_prior):
    from widening import widen_codec

    small = make_small_codec(conditional_prior=conditional_prior)
    large = make_small_codec(
        conditional_prior=conditional_prior,
        hidden_channels=(12, 12, 16, 8),
        code_channels=(8, 4, 5, 6),
        prior_channels=12,
        gates=(0.0, 0.0, 0.125, 0.25),
    )
    widen_codec(small, large)
    large.gates = small.gates
    latents, weight_map = torch.randn(2, 4, 24, 40), torch.rand(2, 1, 3, 5)
    with torch.no_grad():
        ours, theirs = (model(latents, weight_map, return_bits=True) for model in (large, small))
    torch.testing.assert_close(ours.sample, theirs.sample, rtol=1e-4, atol=1e-4)
    for wide, bits in zip(ours.bits, theirs.bits, strict=True):
        torch.testing.assert_close(wide[:, : bits.shape[1]], bits, rtol=1e-4, atol=1e-4)
        assert wide[:, bits.shape[1] :].sum() < 0.02 * bits.sum()  # new codes start at next to no cost
    with pytest.raises(ValueError, match="wider than the new"):
        widen_codec(large, small)


def test_a_stretched_codec_does_at_m_what_it_did_at_a_higher_m(vae, tmp_path):
    """Growth 5 in place of 4: the new codec at M is the old one at 5/4 M, bits and latents."""
    from codec import make_codec

    make_small_codec(lambda_growth=4.0).save_pretrained(tmp_path)
    trained = HSVLC.from_pretrained(tmp_path)
    stretched = make_codec(codec_options("--pretrained_hsvlc", tmp_path, "--lambda_growth", 5), vae)
    assert stretched.config.gates == tuple(gate / 1.25 for gate in trained.config.gates)
    torch.manual_seed(1)
    latents, weight_map = torch.randn(1, 4, 24, 40), torch.randint(0, 51, (1, 1, 3, 5)) * 4 / 256  # up to 0.78
    with torch.no_grad():
        ours = stretched.eval()(latents, weight_map, return_bits=True)
        theirs = trained.eval()(latents, weight_map * 1.25, return_bits=True)
    torch.testing.assert_close(ours.sample, theirs.sample, rtol=1e-3, atol=1e-3)
    for bits, expected in zip(ours.bits, theirs.bits, strict=True):
        torch.testing.assert_close(bits.sum(), expected.sum(), rtol=1e-2, atol=0.5)


def test_profiles_and_single_options(vae, tmp_path):
    from codec import make_codec

    def settings(*words):
        config = make_codec(codec_options(*words), vae).config
        return tuple(config.gates), config.rate_lambda, config.lambda_growth

    assert settings() == settings("--profile", "paper") == tuple(PAPER_PROFILE.values())
    smooth = ("--profile", "smooth", "--lambda_growth", 8)
    assert settings(*smooth) == (SMOOTH_PROFILE["gates"], SMOOTH_PROFILE["rate_lambda"], 8)
    # A codec that goes on keeps its own, but for what is asked for.
    make_small_codec(gates=(0.0, 0.1, 0.2, 0.3), rate_lambda=0.5).save_pretrained(tmp_path)
    go_on = ("--pretrained_hsvlc", tmp_path, "--code_channels", 6, 4, 3, 8)
    assert settings(*go_on) == ((0.0, 0.1, 0.2, 0.3), 0.5, 7.0)
    assert settings(*go_on, "--rate_lambda", 0.25) == ((0.0, 0.1, 0.2, 0.3), 0.25, 7.0)
    widened = make_codec(codec_options(*go_on), vae).config
    assert tuple(widened.code_channels) == (6, 4, 3, 8) and tuple(widened.hidden_channels) == (8, 12, 8, 8)
    with pytest.raises(SystemExit, match="wider than the new"):
        settings("--pretrained_hsvlc", tmp_path, "--prior_channels", 4)
    with pytest.raises(SystemExit, match="move a gate above M = 1"):
        settings("--pretrained_hsvlc", tmp_path, "--lambda_growth", 2)
    make_small_codec(single_layer=True).save_pretrained(tmp_path / "ablation")
    go_on = make_codec(codec_options("--pretrained_hsvlc", tmp_path / "ablation"), vae)  # not an ablation any more
    assert go_on.coded_scales == [0, 1, 2, 3]


def test_a_card_is_measured_again():
    """The table is that of the config, and the rest of the card stays."""
    from codec_report import codec_card, measured_again

    hsvlc = make_small_codec()
    hsvlc.update()
    latents = [torch.randn(4, 16, 16)]
    hsvlc.register_to_config(level_bpp=[0.1] * 8, level_error=[0.5] * 8, latent_variance=[1.0] * 4)
    about = {"base": "org/base", "steps": 7, "batch": 2, "resolution": 128, "latents": latents}
    card = codec_card(hsvlc, **about, provenance=" of the training set")
    hsvlc.register_to_config(level_bpp=[0.2] * 8)
    again = measured_again(card, hsvlc.config, 1)
    assert again == codec_card(hsvlc, **about, provenance="") != card
    assert again.count("| 0.2000 | 0.5000 |") == 8


def test_the_loss_is_the_papers():
    """sum R + 0.01 exp(7 M) 64 MSE / variance: bits per pixel times 64 are bits per latent position."""
    from codec import rate_distortion_loss

    hsvlc = make_small_codec()
    latents = 3 * torch.randn(1, 4, 16, 16, generator=torch.manual_seed(1))
    weight, variance = 0.5, [9.0, 8.0, 10.0, 9.0]
    weight_map = torch.full((1, 1, 2, 2), weight)
    with torch.no_grad():
        output = hsvlc(latents, weight_map, return_bits=True)
    bits_per_pixel = sum(float(bits.sum()) for bits in output.bits) / (128 * 128)
    error = float((output.sample - latents).square().mean()) / 9.0
    expected = 64 * (bits_per_pixel + 0.01 * math.exp(7 * weight) * error)
    expected /= math.sqrt(0.64 * math.exp(7 * weight) / 9.0)  # the balance between samples
    hsvlc.register_to_config(latent_variance=variance)
    lambda_map = hsvlc.lambda_at(weight_map)

    def with_bits(latents, weight_map, finest):
        return hsvlc(latents, weight_map, finest=finest, return_bits=True)

    with torch.no_grad():
        loss, figures = rate_distortion_loss(with_bits, latents, weight_map, lambda_map, torch.tensor([3]))
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(figures["bpp"]) == pytest.approx(bits_per_pixel, rel=1e-4)


def test_half_precision_and_channels_last_change_nothing_much():
    from codec import rate_distortion_loss

    losses, gradients = [], []
    for fast in (False, True):
        hsvlc = make_small_codec(gates=(0.0,) * 4).train()
        latents = torch.randn(2, 4, 32, 32, generator=torch.manual_seed(1))
        if fast:
            hsvlc.to(memory_format=torch.channels_last)
            latents = latents.contiguous(memory_format=torch.channels_last)
        weight_map = torch.full((2, 1, 4, 4), 0.75)
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            hsvlc.register_to_config(latent_variance=[1.0] * 4)
            lambda_map = hsvlc.lambda_at(weight_map)
            loss, _ = rate_distortion_loss(hsvlc, latents, weight_map, lambda_map, torch.tensor([3, 3]))
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in hsvlc.parameters() if p.grad is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
