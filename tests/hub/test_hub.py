"""Loading from the Hub (a stand-in on loopback, in a process of its own with an empty cache), and other bases."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from hub_server import TOKEN, HubServer
from transformers import CLIPConfig, CLIPModel

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, RSICEncoderPipeline
from rsic_diffusers.hub import resolve_model
from rsic_diffusers.schedulers.scheduling_guided_self_recurrent_ddim import adopt_noise_schedule


FULL = Path(resolve_model("rsic-tiny"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Stable Diffusion 1.x checkpoint of rsic-tiny's shapes, with another UNet and its own noise schedule."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(FULL / name, folder / name)
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(FULL, subfolder="unet")).save_pretrained(
        folder / "unet"
    )
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"never to be fetched")
    index = {"_class_name": "StableDiffusionPipeline", "safety_checker": ["transformers", "CLIPModel"]}
    index |= {"vae": ["diffusers", "AutoencoderTiny"], "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"scheduler": ["diffusers", "PNDMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thin")
    for name in ("hsvlc", "scheduler"):
        shutil.copytree(FULL / name, folder / name)
    index = json.loads((FULL / "model_index.json").read_text())
    index = {name: index[name] for name in ("_class_name", "hsvlc", "scheduler")}
    (folder / "model_index.json").write_text(json.dumps({**index, "_base_model_name_or_path": "org/base"}))
    return folder


@pytest.fixture
def hub(base, thin):
    server = HubServer({"org/full": FULL, "org/thin": thin, "org/base": base})
    yield server
    server.shutdown()


LOAD = """
import sys
import {imports}
from diffusers import DiffusionPipeline
from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline
pipeline = {cls}.from_pretrained({arguments})
print(type(pipeline).__name__, pipeline.unet.conv_in.weight.sum().item() if hasattr(pipeline, "unet") else "")
"""
WEIGHTS = {
    "RSICEncoderPipeline": {"vae", "hsvlc", "tokenizer"},
    "RSICDecoderPipeline": {"vae", "hsvlc", "tokenizer", "text_encoder", "unet", "scheduler"},
}


def folders(fetched, repo):
    return {path.split("/")[0] for one, path in fetched if one == repo and "/" in path}


def test_the_other_pipelines_components_may_be_given(hub, run_python, tmp_path):
    code = """
from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline
for cls, given in ((RSICEncoderPipeline, {"unet": None}), (RSICDecoderPipeline, {"captioner": len})):
    print(type(cls.from_pretrained("org/full", **given)).__name__)
"""
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
    assert run_python(code, **environment).split()[-2:] == ["RSICEncoderPipeline", "RSICDecoderPipeline"]


@pytest.mark.parametrize("cls", WEIGHTS)
def test_a_full_repo_over_http_is_fetched_once_and_only_what_is_wanted(hub, cls, run_python, tmp_path):
    code = LOAD.format(imports="rsic_diffusers", cls=cls, arguments='"org/full"')
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
    first = run_python(code, **environment)
    assert cls in first and folders(hub.fetched, "org/full") == WEIGHTS[cls]
    sizes = [(FULL / path).stat().st_size for _, path in hub.fetched if path.endswith(".safetensors")]
    weights = WEIGHTS[cls] - {"tokenizer", "scheduler"}
    assert sum(sizes) == sum(p.stat().st_size for name in weights for p in (FULL / name).glob("*.safetensors"))
    hub.fetched.clear()
    assert run_python(code, **environment, HF_HUB_OFFLINE="1") == first and not hub.fetched


def test_a_thin_repo_takes_the_rest_from_its_base(hub, run_python, tmp_path):
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
    code = LOAD.format(imports="rsic_diffusers", cls="RSICEncoderPipeline", arguments='"org/thin"')
    assert "RSICEncoderPipeline" in run_python(code, **environment)
    assert folders(hub.fetched, "org/thin") == {"hsvlc"}
    assert folders(hub.fetched, "org/base") == {"vae", "tokenizer"}
    hub.fetched.clear()
    code = LOAD.format(imports="rsic_diffusers", cls="RSICDecoderPipeline", arguments='"org/thin"')
    decoder = run_python(code, **environment)
    # What the encoder fetched is not fetched again; no safety checker ever.
    assert folders(hub.fetched, "org/thin") == {"scheduler"}
    assert folders(hub.fetched, "org/base") == {"unet", "text_encoder", "scheduler"}
    hub.fetched.clear()
    assert run_python(code, **environment, HF_HUB_OFFLINE="1") == decoder and not hub.fetched


def test_a_base_in_place_of_the_repos_own_is_all_that_is_fetched(hub, run_python, tmp_path):
    code = LOAD.format(
        imports="rsic_diffusers", cls="RSICDecoderPipeline", arguments='"org/full", base_model="org/base"'
    )
    run_python(code, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "cache"))
    assert folders(hub.fetched, "org/full") == {"hsvlc", "scheduler"}
    assert folders(hub.fetched, "org/base") == {"unet", "text_encoder", "scheduler", "vae", "tokenizer"}


def test_the_generic_pipeline_class_gives_a_decoder_that_decodes(hub, encoder, small_photo, run_python, tmp_path):
    encoder(small_photo, weight=0.5).save(tmp_path / "photo.rsic")
    code = LOAD.format(imports="diffusers, rsic_diffusers", cls="DiffusionPipeline", arguments='"org/full"')
    code += 'print(pipeline("photo.rsic").images[0].size)'
    printed = run_python(code, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "cache"))
    assert "RSICDecoderPipeline" in printed and str(small_photo.size) in printed


def test_a_component_by_name_takes_the_place_of_the_repos(swapped):
    pipeline = RSICDecoderPipeline.from_pretrained(unet=swapped.unet)
    assert pipeline.unet is swapped.unet and pipeline.scheduler.config.prediction_type == "epsilon"


@pytest.fixture(scope="module")
def swapped(base):
    pipeline = RSICDecoderPipeline.from_pretrained(base_model=base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_another_base_changes_the_picture_and_no_symbol(encoder, decoder, swapped, small_photo):
    data = encoder(small_photo, caption="a woman", box=(40, 20, 150, 120)).bitstream
    assert swapped.hsvlc.fingerprint == decoder.hsvlc.fingerprint
    assert swapped.scheduler.config.prediction_type == "v_prediction"
    ours, theirs = (np.asarray(pipeline(data).images[0], np.float64) for pipeline in (decoder, swapped))
    assert np.abs(ours - theirs).mean() > 1
    coded = [pipeline(data, num_inference_steps=0, output_type="latent").images for pipeline in (decoder, swapped)]
    assert torch.equal(*coded)


def test_from_pipe_shares_components_and_takes_the_noise_schedule(base, swapped, encoder, small_photo):
    stock = StableDiffusionPipeline.from_pretrained(
        base, safety_checker=None, feature_extractor=None, torch_dtype=torch.float32
    )
    pipeline = RSICDecoderPipeline.from_pipe(stock, hsvlc=swapped.hsvlc)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet is stock.unet and pipeline.scheduler.config.prediction_type == "v_prediction"
    assert (pipeline.scheduler.config.num_inference_steps, pipeline.scheduler.config.strength) == (50, 1.0)
    data = encoder(small_photo, caption="a woman").bitstream
    settings = {"num_inference_steps": 2, "num_recurrence_steps": 1, "strength": 0.5, "guidance_target": "clean"}
    settings |= {"guidance_strength": 0.0, "guidance_scale": 1.0, "referring_scale": 0.5}
    ours, theirs = (np.asarray(one(data, **settings).images[0]) for one in (pipeline, swapped))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="has no hsvlc"):
        RSICDecoderPipeline.from_pipe(stock)
    with pytest.raises(ValueError, match="RSICDecoderPipeline has no component refering_model"):
        RSICDecoderPipeline.from_pipe(stock, hsvlc=swapped.hsvlc, refering_model=len)
    reduced = RSICEncoderPipeline.from_pipe(pipeline, default_max_side=256)
    large = small_photo.resize((400, 320))
    assert reduced(large).bitstream == RSICEncoderPipeline.from_pipe(pipeline)(large, max_side=256).bitstream
    both = RSICEncoderPipeline.from_pipe(pipeline)
    both.set_progress_bar_config(disable=True)
    assert both.vae is stock.vae and both(small_photo, caption="a woman").bitstream == data
    # Photos are coded at the side that the UNet was trained on, whichever way the components came.
    side = 8 * stock.unet.config.sample_size
    assert [made.config.default_max_side for made in (pipeline, both)] == [side, side]
    assert RSICDecoderPipeline.from_pipe(pipeline, torch_dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_the_noise_schedule_is_the_bases_whatever_its_class_defaults_are():
    """`from_config` of a live config would drop what was left at its class's defaults: DDIM's betas are not ours."""
    ours = GuidedSelfRecurrentDDIMScheduler(num_inference_steps=7)
    adopted = adopt_noise_schedule(ours, DDIMScheduler().config)
    torch.testing.assert_close(adopted.alphas_cumprod, DDIMScheduler().alphas_cumprod)
    assert adopted.config.num_inference_steps == 7


def test_what_is_not_stable_diffusion_1_is_refused_by_name(base, decoder, tmp_path):
    def with_unet(**changes):
        config = {**decoder.unet.config, "block_out_channels": (16, 16, 16), **changes}
        return {**decoder.components, "unet": UNet2DConditionModel.from_config(config)}

    with pytest.raises(ValueError, match="SDXL"):
        RSICDecoderPipeline(
            **with_unet(
                addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64
            )
        )
    with pytest.raises(ValueError, match="inpainting"):
        RSICDecoderPipeline(**with_unet(in_channels=9))
    with pytest.raises(ValueError, match="width 1024"):
        RSICDecoderPipeline(**with_unet(cross_attention_dim=1024))
    with pytest.raises(ValueError, match="codes latents of 16 channels"):
        RSICDecoderPipeline(**{**decoder.components, "hsvlc": HSVLC(latent_channels=16)})
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for cls in (RSICDecoderPipeline, RSICEncoderPipeline):
        with pytest.raises(ValueError, match="StableDiffusion3Pipeline, not Stable Diffusion 1.x"):
            cls.from_pretrained(base_model=tmp_path)


def test_a_missing_base_or_codec_is_named(hub, thin, run_python, tmp_path):
    code = """
from rsic_diffusers import RSICDecoderPipeline
try:
    RSICDecoderPipeline.from_pretrained("org/{repo}")
except (ValueError, OSError) as error:
    print(error)
"""
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
    assert "no HSVLC" in run_python(code.format(repo="base"), **environment)
    hub.repos = {"org/thin": thin}
    assert "org/base" in run_python(code.format(repo="thin"), **environment)


PUBLISH = [sys.executable, "-W", "ignore", Path(__file__).parents[2] / "training" / "publish.py"]


def test_publish_makes_a_repo_that_loads(base, encoder, tmp_path):
    # A base that is a folder, named from its own place, is found from every other.
    command = [*PUBLISH, "--hsvlc", FULL / "hsvlc", "--base", base.name, "--output", tmp_path / "repo"]
    subprocess.run([*command, "--dry_run"], check=True, cwd=base.parent)
    decoder = RSICDecoderPipeline.from_pretrained(tmp_path / "repo")
    assert decoder.hsvlc.fingerprint == encoder.hsvlc.fingerprint
    assert decoder.scheduler.config.num_recurrence_steps == 1
    assert "intended use" in (tmp_path / "repo" / "README.md").read_text().lower()
    inpainting = tmp_path / "inpainting"
    shutil.copytree(base, inpainting)
    config = json.loads((base / "unet" / "config.json").read_text())
    (inpainting / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    other = [*PUBLISH, "--hsvlc", FULL / "hsvlc", "--base", inpainting, "--output", tmp_path / "other", "--dry_run"]
    assert "inpainting" in subprocess.run(other, capture_output=True, text=True).stderr
    assert not (tmp_path / "other").exists()
    assert "exists" in subprocess.run([*command, "--dry_run"], capture_output=True, text=True).stderr


LOAD_SECRET = """
import sys
from rsic_diffusers import RSICEncoderPipeline
for options in ({"token": False}, {"token": sys.argv[1], "revision": "v2"}, {"token": sys.argv[1], "revision": "v1"}):
    try:
        print(type(RSICEncoderPipeline.from_pretrained("org/secret", **options)).__name__)
    except Exception as error:
        print(str(error).replace("\\n", " "))
"""


def test_a_codec_is_pushed_and_loaded_from_a_private_repo_by_token(base, run_python, tmp_path):
    server = HubServer({"org/base": base}, private=["org/secret"], uploads=tmp_path)
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "cache")}
    arguments = ["--hsvlc", FULL / "hsvlc", "--base", "org/base", "--output", tmp_path / "repo"]
    arguments += ["--repo_id", "org/secret", "--private"]
    subprocess.run([*PUBLISH, *arguments], check=True, env={**os.environ, **environment, "HF_TOKEN": TOKEN})
    server.repos["org/secret@v1"] = server.repos["org/secret"]
    refused, missing, loaded = run_python(LOAD_SECRET, TOKEN, **environment).splitlines()[-3:]
    assert "pass a token" in refused and "v2" in missing and loaded == "RSICEncoderPipeline"
    server.shutdown()


def test_a_folder_of_an_embedded_models_name_comes_first(encoder, tmp_path, monkeypatch):
    """As in diffusers; a folder of that name without a model does not count."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rsic-tiny").mkdir()
    for name in ("rsic-tiny", Path("rsic-tiny")):
        assert resolve_model(name) == str(FULL)
    (tmp_path / "rsic-tiny" / "model_index.json").write_text("{}")
    for name in ("rsic-tiny", Path("rsic-tiny")):
        assert resolve_model(name) == "rsic-tiny"


def test_what_the_encoder_saves_gives_the_same_bytes_and_serves_no_decoder(encoder, small_photo, tmp_path):
    encoder.save_pretrained(tmp_path / "encoder")
    again = RSICEncoderPipeline.from_pretrained(tmp_path / "encoder")
    again.set_progress_bar_config(disable=True)
    ours, theirs = (one(small_photo, caption="a woman", weight=0.8).bitstream for one in (encoder, again))
    assert ours == theirs
    with pytest.raises(ValueError, match="unet"):
        RSICDecoderPipeline.from_pretrained(tmp_path / "encoder")


def test_a_referring_model_is_the_encoders_alone(run_python, tmp_path):
    """In a cache of one's own, and from there without asking the Hub."""
    torch.manual_seed(0)
    tiny = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(text_config=tiny, vision_config={**tiny, "patch_size": 32, "image_size": 64})
    shutil.copytree(FULL, tmp_path / "repo")
    CLIPModel(config).save_pretrained(tmp_path / "repo" / "referring_model")
    index = json.loads((tmp_path / "repo" / "model_index.json").read_text())
    index["referring_model"] = ["transformers", "CLIPModel"]
    (tmp_path / "repo" / "model_index.json").write_text(json.dumps(index))
    server = HubServer({"org/refers": tmp_path / "repo"})
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "unused")}
    options = f'"org/refers", cache_dir="{tmp_path}/cache"'
    code = LOAD.format(imports="rsic_diffusers", cls="RSICDecoderPipeline", arguments=options)
    run_python(code, **environment)
    assert folders(server.fetched, "org/refers") == WEIGHTS["RSICDecoderPipeline"]
    server.fetched.clear()
    code = LOAD.format(imports="rsic_diffusers", cls="RSICEncoderPipeline", arguments=options)
    code += "print(type(pipeline.referring_model).__name__)"
    assert "CLIPModel" in run_python(code, **environment)
    assert folders(server.fetched, "org/refers") == {"referring_model"}
    server.shutdown()
    again = code.replace('cache"', 'cache", local_files_only=True')
    assert "CLIPModel" in run_python(again, **environment)
