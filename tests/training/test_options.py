"""Defaults that follow the machine, and the settings of a published sampler."""

import argparse
import shutil

import pytest
import torch
from diffusers import AutoencoderTiny

from rsic_diffusers import HSVLC, RSICEncoderPipeline
from rsic_diffusers.hub import CHECKPOINTS


def defaults(monkeypatch, gpu, environment="no", has_bf16=True):
    import options
    import train_hsvlc

    monkeypatch.setattr(options, "has_gpu", lambda: gpu)
    # Of a GPU that has none, torch says that it supports emulated bf16, many times slower.
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: has_bf16 or including_emulation
    )
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment)
    parser = argparse.ArgumentParser()
    options.add_training_arguments(parser, cpu=train_hsvlc.CPU_DEFAULTS, gpu=train_hsvlc.GPU_DEFAULTS)
    args = parser.parse_args(["--output_dir", "run"])
    return args.train_batch_size, args.max_train_steps, args.mixed_precision


def test_defaults_suit_the_machine(monkeypatch):
    assert defaults(monkeypatch, gpu=True) == (32, 100_000, "bf16")
    assert defaults(monkeypatch, gpu=True, has_bf16=False) == (32, 100_000, "fp16")
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


def test_a_base_of_fp16_files_alone_is_published_whole(tmp_path):
    """With the limit of the long side that was asked for."""
    from repo_assembly import assemble_full_repo

    shutil.copytree(CHECKPOINTS / "rsic-tiny", tmp_path / "base")
    for path in (tmp_path / "base").glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    hsvlc = CHECKPOINTS / "rsic-tiny" / "hsvlc"
    with pytest.raises(OSError):
        assemble_full_repo(tmp_path / "repo", hsvlc, str(tmp_path / "base"))
    assert not (tmp_path / "repo").exists()
    assemble_full_repo(tmp_path / "repo", hsvlc, str(tmp_path / "base"), variant="fp16", max_side=640)
    encoder = RSICEncoderPipeline.from_pretrained(tmp_path / "repo")
    assert encoder.config.default_max_side == 640
    expected = AutoencoderTiny.from_pretrained(CHECKPOINTS / "rsic-tiny", subfolder="vae").state_dict()
    for name, tensor in encoder.vae.state_dict().items():
        torch.testing.assert_close(tensor.float(), expected[name].float(), rtol=1e-3, atol=1e-6)


def test_a_checkpoint_is_found_by_its_name(tmp_path):
    from checkpoints import find_checkpoint, list_checkpoints

    for name in ("checkpoint-20", "checkpoint-100", "checkpoint-best", "checkpoint-100-copy"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    assert find_checkpoint(tmp_path, "latest").name == "checkpoint-100"
    assert find_checkpoint(tmp_path, None) is None and find_checkpoint(tmp_path / "none", "latest") is None
    for wanted in ("checkpoint-best", "checkpoint-7"):
        with pytest.raises(SystemExit, match="There is no checkpoint"):
            find_checkpoint(tmp_path, tmp_path / wanted)


def test_settings_are_those_of_the_run_that_is_resumed(tmp_path):
    """Also where its checkpoint lies in another run's folder."""
    from options import check_resumable

    (tmp_path / "old" / "checkpoint-20").mkdir(parents=True)
    (tmp_path / "old" / "settings.json").write_text('{"learning_rate": 0.1}')
    args = argparse.Namespace(output_dir=tmp_path / "new", resume_from_checkpoint=tmp_path / "old" / "checkpoint-20")
    check_resumable(args, {"learning_rate": 0.1})
    with pytest.raises(SystemExit, match="learning_rate was 0.1, is 0.2"):
        check_resumable(args, {"learning_rate": 0.2})


def test_a_codec_that_was_never_measured_is_not_published(tmp_path):
    from repo_assembly import assemble_thin_repo

    hsvlc = HSVLC(hidden_channels=(8,) * 4, code_channels=(2,) * 4, prior_channels=8)
    hsvlc.update()
    hsvlc.save_pretrained(tmp_path / "hsvlc")
    with pytest.raises(ValueError, match="lacks latent_variance, level_bpp, level_error"):
        assemble_thin_repo(tmp_path / "repo", tmp_path / "hsvlc", "org/base")
    assert not (tmp_path / "repo").exists()
