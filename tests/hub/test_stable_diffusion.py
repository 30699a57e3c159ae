"""Stable Diffusion 1.x's own architecture (AutoencoderKL, four levels), random weights: small, and at true size.

`pytest -n 0 -m slow -s tests/hub/test_stable_diffusion.py` runs the true size: 1.07 billion weights, some minutes.
"""

import json
import re
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import stable_diffusion
import torch
from hub_server import HubServer
from safetensors.torch import load_file

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, RSICEncoderPipeline
from rsic_diffusers.evaluation.random_stable_diffusion import LEVEL_ERROR, SD15, make_components
from rsic_diffusers.hub import resolve_model


TOKENIZER = resolve_model("rsic-tiny") + "/tokenizer"
STEPS = {"num_inference_steps": 2, "num_recurrence_steps": 1, "strength": 1.0, "guidance_target": "clean"}


def save_thin(folder, base):
    """Codec and sampler, and where the rest is."""
    torch.manual_seed(1)
    hsvlc = HSVLC(scaling_factor=0.18215, level_error=LEVEL_ERROR)
    hsvlc.update()
    hsvlc.save_pretrained(folder / "hsvlc")
    GuidedSelfRecurrentDDIMScheduler().save_pretrained(folder / "scheduler")
    index = {"_class_name": "RSICDecoderPipeline", "_base_model_name_or_path": base}
    index |= {"hsvlc": ["rsic_diffusers", "HSVLC"]}
    index |= {"scheduler": ["rsic_diffusers", "GuidedSelfRecurrentDDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    components = make_components(stable_diffusion.SMALL)
    stable_diffusion.save_folder(components, TOKENIZER, root / "base")
    stable_diffusion.save_single_file(components, root / "base.safetensors")
    torch.save({"state_dict": load_file(root / "base.safetensors")}, root / "base.ckpt")
    save_thin(root / "thin", str(root / "base"))
    return root


def decode(photo, dtype, *arguments, **options):
    """Load by the arguments, encode and decode; the picture as an array, and the decoder."""
    encoder = RSICEncoderPipeline.from_pretrained(*arguments, dtype=dtype, **options)
    decoder = RSICDecoderPipeline.from_pretrained(*arguments, dtype=dtype, **options)
    for pipeline in (encoder, decoder):
        pipeline.set_progress_bar_config(disable=True)
    data = encoder(photo, caption="a woman in a cap", weight=0.3).bitstream
    out = decoder(data, **STEPS, output_type="np")
    assert np.isfinite(out.images).all()
    assert out.num_unet_evaluations == decoder.count_unet_evaluations(data, **STEPS) >= 1
    return out.images[0], decoder


def test_a_folder_a_single_file_and_a_thin_repo_are_one_model(small, small_photo):
    thin, _ = decode(small_photo, torch.float32, small / "thin")
    folder, decoder = decode(small_photo, torch.float32, small / "thin", base_model=small / "base")
    np.testing.assert_array_equal(thin, folder)
    for suffix in (".safetensors", ".ckpt"):
        single_file = {"base_model": small / f"base{suffix}", "config": str(small / "base")}
        single, other = decode(small_photo, torch.float32, small / "thin", **single_file)
        for name in ("unet", "vae", "text_encoder"):
            ours, theirs = decoder.components[name].state_dict(), other.components[name].state_dict()
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert decoder.scheduler.config.steps_offset == other.scheduler.config.steps_offset == 1
        np.testing.assert_array_equal(single, folder)


LOAD = """
import torch
from rsic_diffusers import RSICDecoderPipeline
pipeline = RSICDecoderPipeline.from_pretrained({arguments})
parts = [pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.hsvlc]
print(sum(p.double().sum().item() for p in pipeline.unet.parameters()), *[part.dtype for part in parts])
"""


def test_a_single_file_without_a_config_takes_that_of_stable_diffusion_over_http(small, run_python, tmp_path):
    """Sharded half-precision variants too, and only they are fetched."""
    shutil.copytree(small / "thin", tmp_path / "thin")
    index = json.loads((small / "thin" / "model_index.json").read_text())
    index["_base_model_name_or_path"] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    (tmp_path / "thin" / "model_index.json").write_text(json.dumps(index))
    base = tmp_path / "base"
    components = make_components(stable_diffusion.SMALL)
    stable_diffusion.save_folder(components, TOKENIZER, base)
    for component in components.values():
        component.half()
    shutil.rmtree(base / "tokenizer")
    stable_diffusion.save_folder(components, TOKENIZER, base, variant="fp16", max_shard_size="1MB")
    assert len(list((base / "unet").glob("*fp16-0*.safetensors"))) > 1

    hub = HubServer({"org/thin": tmp_path / "thin", "stable-diffusion-v1-5/stable-diffusion-v1-5": base})
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
    half = run_python(
        LOAD.format(arguments='"org/thin", variant="fp16", dtype=torch.float16, device_map="cpu"'), **environment
    )
    assert half.split()[1:] == ["torch.float16"] * 4
    weights = [path for _, path in hub.fetched if path.endswith(".safetensors")]
    assert all("fp16" in path or path.startswith("hsvlc") for path in weights) and len(weights) > 4

    hub.fetched.clear()
    single = run_python(LOAD.format(arguments=f'"org/thin", base_model="{small}/base.safetensors"'), **environment)
    assert single.split()[1:] == ["torch.float32"] * 4
    assert float(single.split()[0]) == pytest.approx(float(half.split()[0]), rel=1e-2)
    assert not [path for repo, path in hub.fetched if path.endswith(".safetensors") and not path.startswith("hsvlc")]
    hub.shutdown()


TABLE = """
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from rsic_diffusers import HSVLC, RSICDecoderPipeline, RSICEncoderPipeline
absent = {{"safety_checker": None, "feature_extractor": None}}
stable_diffusion = StableDiffusionPipeline.from_pretrained("user/dreamy-sd15", **absent)
my_unet = UNet2DConditionModel.from_pretrained("user/dreamy-sd15", subfolder="unet")
codec = HSVLC.from_pretrained("user/rsic-sd15", subfolder="hsvlc")
for line in {lines!r}:
    pipeline = eval(line)
    kind = "Encoder" if "Encoder" in line else "Decoder"
    assert type(pipeline).__name__ == f"RSIC{{kind}}Pipeline", line
    assert ("float16" in line) == (pipeline.vae.dtype == torch.float16), line
    # Whose weights they are: the dreamy checkpoint's VAE has a bias that the other's has not.
    dreamy = "dreamy" in line or "stable_diffusion" in line
    if "rsic-sd15" in line:
        assert (pipeline.vae.encoder.conv_in.bias.float().mean() > 0.5) == dreamy, line
    if "my_unet" in line:
        assert pipeline.unet is my_unet
"""


def documented_lines():
    """What the tables of README.md and docs/ say of loading: rows that begin with such a call."""
    root = Path(__file__).parents[2]
    text = "".join(path.read_text("utf-8") for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))])
    return re.findall(r"^\| `(\w+\.from_(?:pretrained|pipe)\(.*?)` \|", text, flags=re.MULTILINE)


def test_each_documented_way_to_load_loads(run_python, tmp_path):
    components = make_components(stable_diffusion.SMALL)
    base, thin, dreamy = tmp_path / "base", tmp_path / "thin", tmp_path / "dreamy"
    stable_diffusion.save_folder(components, TOKENIZER, base)
    torch.nn.init.ones_(components["vae"].encoder.conv_in.bias)
    stable_diffusion.save_folder(components, TOKENIZER, dreamy)
    stable_diffusion.save_single_file(components, tmp_path / "dreamy.safetensors")
    torch.nn.init.zeros_(components["vae"].encoder.conv_in.bias)
    for name, component in components.items():
        component.half().save_pretrained(base / name, variant="fp16")
    save_thin(thin, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    repos = {"user/rsic-sd15": thin, "user/rsic-sd15@v1": thin, "user/rsic-tiny": Path(resolve_model("rsic-tiny"))}
    repos |= {"user/dreamy-sd15": dreamy, "stable-diffusion-v1-5/stable-diffusion-v1-5": base}
    hub = HubServer(repos)
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
    lines = documented_lines()
    assert len(lines) >= 10
    run_python(TABLE.format(lines=lines), **environment)
    hub.shutdown()


@pytest.mark.slow
def test_true_size_in_bfloat16(tmp_path, photo):
    """From a thin repo two steps are decoded; folder and single file give the same weights."""
    crop = photo.crop((200, 80, 264, 144))
    components = make_components(SD15, torch.bfloat16)
    number = sum(p.numel() for component in components.values() for p in component.parameters())
    assert number == 859_520_964 + 83_653_863 + 123_060_480  # UNet, VAE, text encoder of Stable Diffusion 1.5
    stable_diffusion.save_folder(components, TOKENIZER, tmp_path / "base")
    stable_diffusion.save_single_file(components, tmp_path / "base.safetensors")
    save_thin(tmp_path / "thin", str(tmp_path / "base"))
    start = time.perf_counter()
    _, decoder = decode(crop, torch.bfloat16, tmp_path / "thin")
    report("a thin repo loaded, encoded and decoded", start)
    for title, options in {
        "folder": {"base_model": tmp_path / "base"},
        "single file": {"base_model": tmp_path / "base.safetensors", "config": str(tmp_path / "base")},
    }.items():
        start = time.perf_counter()
        other = RSICDecoderPipeline.from_pretrained(tmp_path / "thin", dtype=torch.bfloat16, **options)
        report(f"{title} loaded", start)
        for name, component in components.items():
            expected = component.state_dict()
            for pipeline in (decoder, other):
                loaded = pipeline.components[name].state_dict()
                assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def report(what, start):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what} in {time.perf_counter() - start:.0f} s; peak so far {peak:.1f} GiB, the test's own copy included")
