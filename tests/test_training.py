"""The training scripts, run as a user would for a few steps, give a model that both pipelines load."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


TRAINING = Path(__file__).parent.parent / "training"


def launch(script, *arguments, expect=0):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
        + [str(TRAINING / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert (result.returncode == 0) == (expect == 0), result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        photo.crop((30 * i, 20 * i, 30 * i + 400, 20 * i + 400)).save(folder / f"{i}.jpg")
    (folder / "broken.jpg").write_text("no picture")
    (folder / "labels.tsv").write_text("file\tlabel\n" + "".join(f"{i}.jpg\twoman\n" for i in range(4)))
    return folder


def test_a_model_from_nothing(photos, photo, tmp_path):
    printed = launch(
        "train_tiny_vae.py", "--train_data_dir", photos, "--output_dir", tmp_path / "vae", "--max_train_steps", 2,
        "--channels", 8, "--resolution", 64, "--train_batch_size", 2,
    )  # fmt: skip
    assert "Skipped" in printed and "broken.jpg" in printed
    launch(
        "train_tiny_base.py", "--vae", tmp_path / "vae" / "vae", "--train_data_dir", photos, "--output_dir",
        tmp_path / "base", "--max_train_steps", 2, "--block_out_channels", 16, 16, 16, "--text_width", 32,
        "--train_batch_size", 2, "--resolution", 128,
    )  # fmt: skip
    common = (
        "train_hsvlc.py", "--pretrained_model_name_or_path", tmp_path / "base" / "rsic-tiny", "--train_data_dir",
        photos, "--output_dir", tmp_path / "hsvlc", "--resolution", 128, "--train_batch_size", 2,
        "--checkpointing_steps", 2,
    )  # fmt: skip
    launch(*common, "--max_train_steps", 2)
    resumed = launch(*common, "--max_train_steps", 4, "--resume_from_checkpoint", "latest")
    assert "2/4" in resumed and (tmp_path / "hsvlc" / "checkpoint-4").is_dir()
    subprocess.run(
        [sys.executable, TRAINING / "assemble_rsic_tiny.py", "--base", tmp_path / "base" / "rsic-tiny", "--hsvlc"]
        + [tmp_path / "hsvlc" / "hsvlc", "--output", tmp_path / "model", "--scheduler", "num_inference_steps=2"],
        check=True,
    )

    from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline

    encoder = RSICEncoderPipeline.from_pretrained(tmp_path / "model")
    decoder = RSICDecoderPipeline.from_pretrained(tmp_path / "model")
    image = photo.crop((0, 0, 128, 128))
    decoded = decoder(encoder(image, box=(0, 0, 64, 64)).bitstream, num_recurrence_steps=1)
    assert decoded.num_unet_evaluations == 4 and np.isfinite(np.asarray(decoded.images[0])).all()


def test_an_empty_folder_is_refused_before_training(tmp_path):
    printed = launch("train_tiny_vae.py", "--train_data_dir", tmp_path, "--output_dir", tmp_path / "vae", expect=1)
    assert "No photo in" in printed and not list(tmp_path.rglob("checkpoint-*"))


def test_random_weight_maps_are_what_users_may_ask_for(monkeypatch):
    monkeypatch.syspath_prepend(TRAINING)
    from weight_maps import random_weight_map

    rng = np.random.default_rng(0)
    maps = [random_weight_map(6, 8, rng)[0].numpy() for _ in range(300)]
    constant = [len(np.unique(values)) == 1 for values in maps]
    assert all(values.min() >= 0 and values.max() <= 1 for values in maps)
    assert 0.3 < np.mean(constant) < 0.6
    varied = [values for values, is_constant in zip(maps, constant) if not is_constant]
    assert all(
        any(np.allclose(values * top, np.round(values * top), atol=1e-5) for top in range(1, 8)) for values in varied
    )
