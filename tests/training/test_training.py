"""The training scripts, run as a user would for a few steps, give a model that both pipelines load."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from rsic_diffusers import HSVLC
from rsic_diffusers.hub import resolve_model


TRAINING = Path(__file__).parents[2] / "training"
RSIC_TINY = Path(resolve_model("rsic-tiny"))


def launch(script, *arguments, expect=0, launcher=()):
    """Run a script, by itself or by a launcher (which costs seconds)."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, str(TRAINING / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert (result.returncode == 0) == (expect == 0), result.stdout + result.stderr
    return result.stdout + result.stderr


ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu")
# On CPUs accelerate's own launcher starts one process, whatever it is told.
TWO_PROCESSES = ("-m", "torch.distributed.run", "--nproc_per_node", "2")


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
        "--channels", 8, "--resolution", 64, "--train_batch_size", 2, "--perceptual_weight", 0,
        "--adversarial_weight", 0.5, "--adversarial_start", 1, "--validation_dir", photos, launcher=ACCELERATE,
    )  # fmt: skip
    assert "Skipped" in printed and "broken.jpg" in printed
    launch(
        "train_tiny_base.py", "--vae", tmp_path / "vae" / "vae", "--train_data_dir", photos, "--output_dir",
        tmp_path / "base", "--max_train_steps", 2, "--block_out_channels", 16, 16, 16, "--text_width", 32,
        "--train_batch_size", 2, "--resolution", 128, "--focus_below", 400,
    )  # fmt: skip
    train_codec(tmp_path / "base" / "rsic-tiny", photos, tmp_path / "hsvlc", "--validation_dir", photos)
    card = (tmp_path / "hsvlc" / "hsvlc" / "README.md").read_text()
    assert "| 1.000 |" in card and "fixed point cost" in card
    assert Image.open(tmp_path / "hsvlc" / "validation" / "step-2.png").size == (4 * 384, 4 * 384)
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


def train_codec(model, photos, output_dir, *arguments, steps=2, **options):
    return launch(
        "train_hsvlc.py", "--pretrained_model_name_or_path", model, "--train_data_dir", photos, "--output_dir",
        output_dir, "--resolution", 128, "--train_batch_size", 2, "--max_train_steps", steps, *arguments, **options,
    )  # fmt: skip


def test_a_resumed_run_is_the_uninterrupted_one(photos, tmp_path):
    """Weights to the last bit, over two processes; and not with other settings."""
    weights = []
    for interrupted in (False, True):
        run = tmp_path / str(interrupted)
        train_codec(RSIC_TINY, photos, run, "--checkpointing_steps", 2, steps=4, launcher=TWO_PROCESSES)
        if interrupted:
            shutil.rmtree(run / "checkpoint-4")
            shutil.rmtree(run / "hsvlc")
            resume = ("--resume_from_checkpoint", "latest")
            with ThreadPoolExecutor() as pool:  # the refused one ends before it would touch the run
                refused = pool.submit(
                    train_codec, RSIC_TINY, photos, run, "--learning_rate", 0.5, *resume, steps=4, expect=1
                )
                printed = train_codec(RSIC_TINY, photos, run, *resume, steps=4, launcher=TWO_PROCESSES)
            assert "learning_rate was 0.001, is 0.5" in refused.result()
            assert "2/4" in printed
        weights.append((run / "hsvlc" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert json.loads((run / "settings.json").read_text())["num_processes"] == 2


def test_ablations_train_and_are_measured(photos, photo, tmp_path):
    photo = photo.crop((0, 0, 200, 152))
    photo.save(tmp_path / "photo.png")
    (tmp_path / "annotations.json").write_text(json.dumps([{"file": "photo.png", "box": [0.25, 0.25, 0.5, 0.75]}]))
    ablations = ("single_layer", "no_conditional_prior")
    trained = RSIC_TINY / "hsvlc"
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(train_codec, RSIC_TINY, photos, tmp_path / name, f"--{name}", "--pretrained_hsvlc", trained)
            for name in ablations
        ]
    codecs = ["--codec", f"ours={trained}"]
    for name, run in zip(ablations, runs):
        run.result()
        codecs += ["--codec", f"{name}={tmp_path / name / 'hsvlc'}"]
        # The transforms went on from the trained ones: two steps of Adam are two times the learning rate at most.
        theirs, ours = (
            HSVLC.from_pretrained(folder).down[0].state_dict() for folder in (tmp_path / name / "hsvlc", trained)
        )
        assert all((theirs[key] - ours[key].float()).abs().max() < 0.01 for key in ours)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "rsic_diffusers.evaluation.experiments.rate_distortion",
            tmp_path,
            "--output",
            tmp_path / "rd",
        ]
        + codecs,
        check=True,
    )
    table = (tmp_path / "rd" / "table.md").read_text()
    for name in ablations:
        assert f"BD-rate of ours to {name}, constant M" in table
    assert (tmp_path / "rd" / "curve.png").exists()

    vae = AutoencoderTiny.from_pretrained(RSIC_TINY, subfolder="vae").float()
    original = np.asarray(photo).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(original / 127.5 - 1).permute(2, 0, 1)[None]
        picture = vae.decode(vae.encode(pixels).latents).sample[0].permute(1, 2, 0).clamp(-1, 1).numpy()
    error = (np.round((picture + 1) * 127.5) - original) ** 2
    whole, inside = (-10 * np.log10(one.mean() / 255**2) for one in (error, error[38:114, 50:100]))
    assert f"The VAE alone: PSNR {whole:.2f} dB, {inside:.2f} dB inside the box" in table


def test_a_dataset_is_what_a_folder_is(photos, tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the package datasets is optional", exc_type=ImportError)
    monkeypatch.syspath_prepend(TRAINING)
    from training_photos import dataset_photos, list_photos, load_photo_arrays

    good = tmp_path / "good"
    good.mkdir()
    for i in range(4):
        shutil.copy(photos / f"{i}.jpg", good)
    ours = load_photo_arrays(dataset_photos(str(good), "image", None), 64, 768)
    for (one, _), (other, _) in zip(ours, load_photo_arrays(list_photos([good]), 64, 768), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="no column"):
        dataset_photos(str(good), "picture", None)


@pytest.mark.parametrize(
    "size, expected",
    [((1600, 900), (768, 432)), ((500, 40), (800, 64)), ((300, 200), (300, 200)), ((64, 4000), (64, 4000))],
)
def test_photos_are_read_at_the_size_that_is_coded(size, expected, tmp_path, monkeypatch):
    """Reduced as the encoder does; a short side goes before a long one."""
    monkeypatch.syspath_prepend(TRAINING)
    from training_photos import list_photos, load_photo_arrays

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(256, size=(*size[::-1], 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    ((array, _),) = load_photo_arrays(list_photos([tmp_path]), 64, 768)
    np.testing.assert_array_equal(array, np.asarray(image.resize(expected, Image.Resampling.LANCZOS)))


def test_a_codec_for_other_latents_is_refused_before_training(photos, tmp_path):
    HSVLC(latent_channels=16).save_pretrained(tmp_path / "other")
    printed = train_codec(RSIC_TINY, photos, tmp_path / "run", "--pretrained_hsvlc", tmp_path / "other", expect=1)
    assert "latents of 16 channels" in printed and not list(tmp_path.rglob("checkpoint-*"))


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


def test_a_dataset_is_what_its_folder_is(photos, tmp_path):
    """The same photos as a folder and through the package datasets: the same latents, so the same codec."""
    pytest.importorskip("datasets")
    (tmp_path / "dataset" / "train").mkdir(parents=True)
    for path in photos.glob("[0-9].jpg"):
        shutil.copy(path, tmp_path / "dataset" / "train")
    options = ("--pretrained_model_name_or_path", RSIC_TINY, "--resolution", 128, "--max_train_steps", 1)
    options += ("--train_batch_size", 1)
    for name, source in (("folder", ("--train_data_dir", tmp_path / "dataset" / "train")),
                         ("dataset", ("--dataset_name", tmp_path / "dataset"))):  # fmt: skip
        launch("train_hsvlc.py", *options, *source, "--output_dir", tmp_path / name)
    weights = [
        (tmp_path / name / "hsvlc" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("folder", "dataset")
    ]
    assert weights[0] == weights[1]
