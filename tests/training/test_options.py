"""Defaults that follow the machine, and the settings of a published sampler."""

import argparse

import pytest

from rsic_diffusers import HSVLC


def defaults(monkeypatch, gpu, environment="no"):
    import options
    import train_hsvlc

    monkeypatch.setattr(options, "has_gpu", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment)
    parser = argparse.ArgumentParser()
    options.add_training_arguments(parser, cpu=train_hsvlc.CPU_DEFAULTS, gpu=train_hsvlc.GPU_DEFAULTS)
    args = parser.parse_args(["--output_dir", "run"])
    return args.train_batch_size, args.max_train_steps, args.mixed_precision


def test_defaults_suit_the_machine(monkeypatch):
    assert defaults(monkeypatch, gpu=True) == (32, 100_000, "bf16")
    assert defaults(monkeypatch, gpu=True, environment="fp16") == (32, 100_000, None)  # accelerate was told
    assert defaults(monkeypatch, gpu=False) == (8, 6000, None)


def test_sampler_settings_are_python_values_or_words():
    from repo_assembly import make_scheduler

    settings = ["num_inference_steps=20", "guidance_target=clean", "strength=None", "start_noise_factors=(4.0, 0.5)"]
    scheduler = make_scheduler(settings)
    assert scheduler.config.num_inference_steps == 20 and scheduler.config.guidance_target == "clean"
    assert scheduler.config.strength is None and tuple(scheduler.config.start_noise_factors) == (4.0, 0.5)
    assert scheduler.config.beta_end == 0.012  # the others stay
    for mistake in ("num_inference_step=20", "num_inference_steps", "_class_name=DDIMScheduler"):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            make_scheduler([mistake])


def test_a_card_names_no_folder_of_this_machine(tmp_path):
    """Of a base on this machine only its name, and no base_model, for which the Hub takes ids alone."""
    from repo_assembly import write_card

    base = tmp_path / "models" / "dreamy.safetensors"
    base.parent.mkdir()
    base.write_bytes(b"")
    write_card(tmp_path, tmp_path, str(base), "user/dreamy", is_thin=False)
    card = (tmp_path / "README.md").read_text()
    assert str(tmp_path) not in card and "base_model" not in card and "# RSIC for dreamy\n" in card
    (tmp_path / "sd-v1.5").mkdir()
    write_card(tmp_path, tmp_path, str(tmp_path / "sd-v1.5"), "user/codec")
    assert "# RSIC for sd-v1.5\n" in (tmp_path / "README.md").read_text()
    write_card(tmp_path, tmp_path / "none", "org/base", "user/codec")
    assert "base_model: org/base\n" in (tmp_path / "README.md").read_text()


def test_a_codec_that_was_never_measured_is_not_published(tmp_path):
    from repo_assembly import assemble_thin_repo

    hsvlc = HSVLC(hidden_channels=(8,) * 4, code_channels=(2,) * 4, prior_channels=8)
    hsvlc.update()
    hsvlc.save_pretrained(tmp_path / "hsvlc")
    with pytest.raises(ValueError, match="lacks latent_variance, level_bpp, level_error"):
        assemble_thin_repo(tmp_path / "repo", tmp_path / "hsvlc", "org/base")
    assert not (tmp_path / "repo").exists()
