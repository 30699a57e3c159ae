"""The training scripts, run as a user would for a few steps, give a model that both pipelines load."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from hub_server import TOKEN, HubServer
from PIL import Image
from safetensors.torch import save_file
from stable_diffusion import _vae_key as vae_key

from rsic_diffusers import HSVLC, RSICEncoderPipeline
from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.hub import resolve_model


RSIC_TINY = Path(resolve_model("rsic-tiny"))
ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu")
# On CPUs accelerate's own launcher starts one process, whatever it is told.
TWO_PROCESSES = ("-m", "torch.distributed.run", "--nproc_per_node", "2")


def codec_arguments(model, photos, output_dir, *arguments, steps=2):
    return (
        "train_hsvlc.py", "--pretrained_model_name_or_path", model, "--train_data_dir", photos, "--output_dir",
        output_dir, "--resolution", 128, "--train_batch_size", 2, "--max_train_steps", steps, "--measured_photos", 1,
        *arguments,
    )  # fmt: skip


def test_what_is_measured_stands_in_the_codecs_config(photos, tmp_path, run_script):
    run_script(*codec_arguments(RSIC_TINY, photos, tmp_path, "--lambda_growth", 7.5, "--report_to", "tensorboard"))
    hsvlc = HSVLC.from_pretrained(tmp_path / "hsvlc")
    assert tuple(hsvlc.config.gates) == (0.0, 0.5, 0.75, 0.875)
    assert (hsvlc.config.rate_lambda, hsvlc.config.lambda_growth) == (0.64, 7.5)
    # The one photo that was measured is the first of the cache; its latents give the same figures again.
    from latent_cache import CachedLatents, find_shards, measure_latent_variance

    (folder,) = (tmp_path / "latents").iterdir()
    shards = find_shards(folder)
    latents = CachedLatents([(key, "") for key in shards], shards)
    assert len(latents) == 10 and hsvlc.config.latent_variance == measure_latent_variance(latents)
    tensor = latents[0][0].float()[None]
    for k in (0, 7):
        weight_map = torch.full((1, 1, 7, 7), k / 7)
        data = hsvlc.compress(tensor, weight_map).data
        error = (hsvlc.decompress(data, weight_map, (50, 50)) - tensor).square().mean()
        assert hsvlc.config.level_bpp[k] == pytest.approx(8 * len(data) / 400**2, rel=1e-3)
        assert hsvlc.config.level_error[k] == pytest.approx(float(error), rel=1e-3)
    assert Image.open(tmp_path / "pictures" / "step-2.png").size == (4 * 384, 384)
    logged = b"".join(path.read_bytes() for path in (tmp_path / "logs").rglob("events*"))
    for name in (b"lr", b"bpp/scale 3", b"mse", b"level_error/7 of 7", b"PNG"):
        assert name in logged


def test_measuring_again_leaves_lambda_and_weights_as_they_are(photos, tmp_path, run_script):
    for part in ("vae", "hsvlc"):
        shutil.copytree(RSIC_TINY / part, tmp_path / part)
    path, (weights,) = tmp_path / "hsvlc" / "config.json", (tmp_path / "hsvlc").glob("*.safetensors")
    before = json.loads(path.read_text()), weights.read_bytes()
    measure = ("measure_hsvlc.py", "--hsvlc", tmp_path / "hsvlc", "--photos", photos, "--limit", 1)
    run_script(*measure, "--pretrained_model_name_or_path", tmp_path)
    config = json.loads(path.read_text())
    assert config["latent_variance"] == before[0]["latent_variance"] and weights.read_bytes() == before[1]
    assert {name for name in config if config[name] != before[0][name]} == {"level_bpp", "level_error"}
    # The photo's own file at M = 1.
    encoder = RSICEncoderPipeline.from_pretrained("rsic-tiny")
    file = Bitstream.from_bytes(encoder(Image.open(photos / "0.jpg"), weight=1.0).bitstream)
    assert config["level_bpp"][7] == pytest.approx(8 * len(file.codes) / 400**2, rel=1e-3)

    del config["latent_variance"]
    path.write_text(json.dumps(config))
    run_script(*measure, "--pretrained_vae", tmp_path / "vae")
    assert 0.3 < np.mean(json.loads(path.read_text())["latent_variance"]) < 3


def test_a_resumed_run_is_the_uninterrupted_one(photos, tmp_path, launch_script, run_script):
    """Weights to the last bit, over two processes; and not with other settings."""
    run, again = tmp_path / "run", tmp_path / "again"
    options = ("--checkpointing_steps", 2, "--cache_latents", tmp_path / "cache", "--report_to", "none")
    launch_script(*codec_arguments(RSIC_TINY, photos, run, *options, steps=4), launcher=TWO_PROCESSES)
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoint-4")
    shutil.rmtree(again / "hsvlc")
    resume = (*codec_arguments(RSIC_TINY, photos, again, *options, steps=4), "--resume_from_checkpoint", "latest")
    refused = run_script(*resume, "--learning_rate", 0.5, "--mixed_precision", "bf16", refused=True)
    for change in (
        "learning_rate was 0.001, is 0.5",
        "mixed_precision was 'no', is 'bf16'",
        "num_processes was 2, is 1",
    ):
        assert change in refused
    assert "2/4" in launch_script(*resume, launcher=TWO_PROCESSES)
    weights = [(folder / "hsvlc" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in (run, again)]
    assert weights[0] == weights[1]


def test_accelerate_launches_it_and_old_checkpoints_go(photos, tmp_path, launch_script):
    arguments = ("--checkpointing_steps", 1, "--checkpoints_total_limit", 2, "--mixed_precision", "bf16")
    launch_script(*codec_arguments(RSIC_TINY, photos, tmp_path, *arguments, steps=3), launcher=ACCELERATE)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    HSVLC.from_pretrained(tmp_path / "hsvlc").require_tables()


LOAD_PUSHED = """
from PIL import Image
from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline
encoder, decoder = (cls.from_pretrained("org/mine") for cls in (RSICEncoderPipeline, RSICDecoderPipeline))
coded = encoder(Image.new("RGB", (64, 64), "red"), caption="red")
print(decoder(coded.bitstream, num_inference_steps=1).images[0].size)
"""


def test_what_is_pushed_at_the_end_loads(photos, tmp_path, run_python, launch_script, monkeypatch):
    server = HubServer({"org/base": RSIC_TINY, "org/vae": RSIC_TINY / "vae"}, uploads=tmp_path)
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "cache")}
    for name, value in {**environment, "HF_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    arguments = ("--push_to_hub", "--hub_model_id", "org/mine", "--report_to", "none")
    vae_alone = codec_arguments("org/vae", photos, tmp_path / "refused", *arguments, steps=1)
    assert "cannot be the base" in launch_script(*vae_alone, expect=1) and "org/mine" not in server.repos
    launch_script(*codec_arguments("org/base", photos, tmp_path / "run", *arguments, steps=1))
    assert run_python(LOAD_PUSHED, **environment).endswith("(64, 64)\n")
    server.shutdown()


@pytest.mark.parametrize("ablation", ["single_layer", "no_conditional_prior"])
def test_an_ablation_goes_on_from_the_trained_transforms(ablation, photos, tmp_path, run_script):
    """Two steps of Adam are two times the learning rate at most."""
    trained = RSIC_TINY / "hsvlc"
    run_script(*codec_arguments(RSIC_TINY, photos, tmp_path, f"--{ablation}", "--pretrained_hsvlc", trained))
    hsvlc = HSVLC.from_pretrained(tmp_path / "hsvlc")
    assert (hsvlc.config.single_layer, hsvlc.config.conditional_prior) == (ablation == "single_layer",) * 2
    ours, theirs = (codec.down[0].state_dict() for codec in (hsvlc, HSVLC.from_pretrained(trained)))
    assert all((ours[key] - theirs[key].float()).abs().max() < 0.01 for key in ours)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--report_to", "wandb"), "not installed"),
        (("--train_batch_size", "0"), "at least 1"),
        (("--resolution", "200"), "multiple of 128"),
        (("--push_to_hub",), "--hub_model_id"),
        (("--push_to_hub", "--hub_model_id", "a/b"), "must be a Hub id"),
        (("--lr_scheduler", "piecewise_constant"), "invalid choice"),
        (("--streaming",), "--dataset_name"),
        (("--pretrained_vae", "{tmp_path}/none"), "No VAE could be loaded"),
        (("--pretrained_hsvlc", "{tmp_path}/other"), "latents of 16 channels"),
        (("--validation_dir", "{tmp_path}/empty"), "No photo in"),
    ],
)
def test_mistakes_are_refused_before_training(arguments, message, photos, tmp_path, run_script):
    (tmp_path / "empty").mkdir()
    if "--pretrained_hsvlc" in arguments:
        HSVLC(latent_channels=16, hidden_channels=(8,) * 4).save_pretrained(tmp_path / "other")
    arguments = [argument.format(tmp_path=tmp_path) for argument in arguments]
    printed = run_script(*codec_arguments(RSIC_TINY, photos, tmp_path / "run", *arguments), refused=True)
    assert message in printed and not list(tmp_path.rglob("checkpoint-*"))


def test_a_run_that_ended_before_its_first_checkpoint_may_be_corrected(photos, tmp_path, run_script):
    run = tmp_path / "run"
    resume = ("--resume_from_checkpoint", "latest")
    (tmp_path / "empty").mkdir()
    assert "No photo in" in run_script(*codec_arguments(RSIC_TINY, tmp_path / "empty", run, *resume), refused=True)
    assert (run / "settings.json").exists()
    assert "Step 1" in run_script(*codec_arguments(RSIC_TINY, photos, run, *resume, steps=1))


@pytest.fixture(scope="module")
def small_kl():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=1, scaling_factor=0.3,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    )  # fmt: skip


def vae_options(**options):
    from argparse import Namespace

    names = ("pretrained_model_name_or_path", "pretrained_vae", "vae_config", "variant", "revision")
    return Namespace(**{name: options.get(name) and str(options[name]) for name in names})


def test_a_vae_is_found_wherever_it_is_kept(small_kl, tmp_path, capsys):
    from pretrained_vae import load_vae

    small_kl.save_pretrained(tmp_path / "checkpoint" / "vae", variant="fp16")
    small_kl.save_pretrained(tmp_path / "alone")
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).save_pretrained(
        tmp_path / "tiny"
    )
    # Only the variant fp16 is there, and it is taken with a word about it.
    vae = load_vae(vae_options(pretrained_model_name_or_path=tmp_path / "checkpoint"))
    assert "took those of fp16" in capsys.readouterr().out
    for options in (
        {"pretrained_model_name_or_path": tmp_path / "checkpoint", "variant": "fp16"},
        {"pretrained_vae": tmp_path / "alone"},
        {"pretrained_vae": tmp_path / "alone", "variant": "fp16"},
    ):
        other = load_vae(vae_options(**options))
        assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), other.parameters(), strict=True))
    assert isinstance(load_vae(vae_options(pretrained_vae=tmp_path / "tiny")), AutoencoderTiny)
    tensors = {"first_stage_model." + vae_key(name): tensor for name, tensor in small_kl.state_dict().items()}
    tensors = {  # in the CompVis layout, attention's projections are convolutions of 1 x 1
        name: tensor[..., None, None] if "attn_1" in name and tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "one.safetensors")
    vae = load_vae(vae_options(pretrained_vae=tmp_path / "one.safetensors", vae_config=tmp_path / "alone"))
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), small_kl.parameters(), strict=True))
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3,
    ).save_pretrained(tmp_path / "wrong")  # fmt: skip
    with pytest.raises(SystemExit, match="4 channels, 4 times smaller"):
        load_vae(vae_options(pretrained_vae=tmp_path / "wrong"))
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, latent_channels=16
    ).save_pretrained(tmp_path / "sd3")
    with pytest.raises(SystemExit, match="16 channels"):
        load_vae(vae_options(pretrained_vae=tmp_path / "sd3"))


def test_a_batch_is_crops_maps_and_finest_scales():
    from argparse import Namespace

    from train_hsvlc import random_batch

    latents = [(torch.full((4, 40, 56), float(i)), "", {}) for i in range(3)]
    args = Namespace(resolution=256, train_batch_size=400, scale_dropout=0.25)
    crops, maps, finest = random_batch(latents, args, np.random.default_rng(0))
    assert crops.shape == (400, 4, 32, 32) and maps.shape == (400, 1, 4, 4)
    assert set(crops.flatten(1).unique(dim=1)[:, 0].tolist()) == {0.0, 1.0, 2.0}
    assert torch.equal(maps * 256, torch.round(maps * 256))  # whole 256ths, as the codec sees M
    share = [float((finest == scale).float().mean()) for scale in range(4)]
    assert share[:3] == pytest.approx([0.25 / 3] * 3, abs=0.05) and share[3] == pytest.approx(0.75, abs=0.06)


def test_random_weight_maps_are_what_users_may_ask_for():
    from weight_maps import random_weight_map

    rng = np.random.default_rng(0)
    maps = [random_weight_map(6, 8, rng)[0].numpy() for _ in range(300)]
    constant = [len(np.unique(values)) == 1 for values in maps]
    assert all(values.min() >= 0 and values.max() <= 1 for values in maps)
    assert 0.3 < np.mean(constant) < 0.6
    varied = [values for values, is_constant in zip(maps, constant, strict=True) if not is_constant]
    assert all(
        any(np.allclose(values * top, np.round(values * top), atol=1e-5) for top in range(1, 8)) for values in varied
    )
