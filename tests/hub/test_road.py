"""The whole way of a person with Stable Diffusion 1.5: from an empty folder to a codec on the Hub, and what it serves.

The checkpoint has Stable Diffusion's architecture, small and with random weights; a stand-in for the Hub serves it.
`pytest -n 0 -m slow -s tests/hub/test_road.py` prints the transcript.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stable_diffusion
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from hub_server import TOKEN, HubServer
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image

from rsic_diffusers import HSVLC
from rsic_diffusers.evaluation.random_stable_diffusion import make_components
from rsic_diffusers.hub import resolve_model
from rsic_diffusers.pipelines.compatibility import latent_variance


pytestmark = pytest.mark.slow
TRAINING = Path(__file__).parents[2] / "training"
TOKENIZER = resolve_model("rsic-tiny") + "/tokenizer"
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CODEC = "somebody/rsic-sd15"

DECODE_IN_PYTHON = f"""
from pathlib import Path
import numpy as np
from diffusers import AutoencoderTiny
from PIL import Image
from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline

few = dict(num_inference_steps=2, num_recurrence_steps=1, output_type="np")

def decode(data, **options):
    decoder = RSICDecoderPipeline.from_pretrained("{CODEC}", **options)
    decoder.set_progress_bar_config(disable=True)
    return decoder, decoder(data, **few).images[0]

_, picture = decode("photo.rsic")
# A single file of a model that predicts v, which it does not say.
as_eps, wrong = decode("photo.rsic", base_model="dreamy.safetensors")
as_v, right = decode("photo.rsic", base_model="dreamy.safetensors", prediction_type="v_prediction")
kinds = [decoder.scheduler.config.prediction_type for decoder in (as_eps, as_v)]
as_v.save_pretrained("dreamy-rsic")
again = RSICDecoderPipeline.from_pretrained("dreamy-rsic")
again.set_progress_bar_config(disable=True)
same = again("photo.rsic", **few).images[0]
# A small VAE in the place of the large one, on both ends.
taesd = AutoencoderTiny.from_pretrained("taesd")
encoder = RSICEncoderPipeline.from_pretrained("{CODEC}", vae=taesd)
encoder.set_progress_bar_config(disable=True)
out = encoder(Image.open("photos/photo.png"), caption="a woman in a cap", box=(20, 20, 100, 110))
_, small = decode(out.bitstream, vae=taesd)
np.savez("pictures.npz", picture=picture, wrong=wrong, right=right, same=same, small=small)
print(*kinds, *sorted(path.name for path in Path("dreamy-rsic").iterdir()))
"""


@torch.no_grad()
def give_usual_ranges(vae) -> None:
    """Latents with a variance of 1, as Stable Diffusion's have, and pictures that are neither black nor white."""
    scale = latent_variance(vae) ** -0.5
    vae.quant_conv.weight[:4] *= scale
    vae.quant_conv.bias[:4] *= scale
    decoded = vae.decode(torch.randn(1, 4, 16, 16) / vae.config.scaling_factor).sample
    vae.decoder.conv_out.weight *= 0.3 / decoded.std()
    vae.decoder.conv_out.bias -= decoded.mean(dim=(0, 2, 3))
    vae.decoder.conv_out.bias *= 0.3 / decoded.std()


def make_world(folder: Path, photo) -> Path:
    """What there is before: checkpoints and a LoRA of other people, and some photos of one's own. Gives the base."""
    components = make_components(stable_diffusion.SMALL)
    give_usual_ranges(components["vae"])
    stable_diffusion.save_folder(components, TOKENIZER, folder / "hub" / "base")
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder / "hub" / "base", safety_checker=None, dtype=torch.float32
    )
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_q"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipeline.unet)
    StableDiffusionPipeline.save_lora_weights(folder / "lora", unet_lora_layers=layers)

    torch.manual_seed(5)
    for parameter in components["unet"].parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    stable_diffusion.save_single_file(components, folder / "dreamy.safetensors")
    (folder / "photos" / "more").mkdir(parents=True)
    photo.crop((150, 40, 278, 168)).save(folder / "photos" / "photo.png")
    photo.crop((0, 300, 256, 492)).save(folder / "photos" / "more" / "another.jpg")
    annotations = [{"file": "photo.png", "caption": "a woman in a cap", "box": [0.25, 0.25, 0.75, 0.75]}]
    (folder / "photos" / "annotations.json").write_text(json.dumps(annotations))
    return folder / "hub" / "base"


def make_tiny_vae(folder: Path, variance: float) -> None:
    """As TAESD is to Stable Diffusion's VAE: latents of the same size without a scaling factor."""
    torch.manual_seed(2)
    channels, blocks = {"encoder_block_out_channels": (16,) * 4}, {"num_encoder_blocks": (1,) * 4}
    vae = AutoencoderTiny(**channels, **blocks, decoder_block_out_channels=(16,) * 4, num_decoder_blocks=(1,) * 4)
    with torch.no_grad():
        vae.encoder.layers[-1].weight.mul_((variance / latent_variance(vae)) ** 0.5)
    vae.save_pretrained(folder)


def test_from_an_empty_folder_to_pictures(photo, tmp_path):
    base = make_world(tmp_path, photo)
    hub = HubServer({BASE: base}, uploads=tmp_path / "uploads")
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN}
    environment |= {"ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}

    def run(*command):
        shown = " ".join(str(word) if len(str(word)) < 80 else "..." for word in command)
        print(f"\n$ {shown}")
        if command[0] == "rsic":
            command = ("-m", "rsic_diffusers.commands.rsic_cli", *command[1:])
        result = subprocess.run(
            [sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )
        print(result.stdout + result.stderr)
        assert result.returncode == 0, result.stderr
        return result.stdout

    # 1. A codec for the checkpoint's VAE, and its repo
    run(
        TRAINING / "train_hsvlc.py", "--pretrained_model_name_or_path", BASE, "--train_data_dir", "photos",
        "--output_dir", "run", "--resolution", 128, "--train_batch_size", 2, "--max_train_steps", 2,
        "--measured_photos", 1, "--report_to", "none",
    )  # fmt: skip
    hsvlc = HSVLC.from_pretrained(tmp_path / "run" / "hsvlc")
    assert len(hsvlc.config.level_bpp) == len(hsvlc.config.level_error) == 8 and len(hsvlc.config.latent_variance) == 4
    run(TRAINING / "publish.py", "--hsvlc", "run/hsvlc", "--base", BASE, "--output", "repo", "--repo_id", CODEC)
    pushed = {path.name for path in hub.repos[CODEC].iterdir()}
    assert {"hsvlc", "scheduler", "model_index.json", "README.md"} <= pushed and "unet" not in pushed

    # 2. A photo to a file, and back by each preset; neither end has anything but names
    box = ["--caption", "a woman in a cap", "--box", "20,20,100,110"]
    run("rsic", "encode", "photos/photo.png", "-o", "photo.rsic", "--model", CODEC, *box)
    assert {path.split("/")[0] for repo, path in hub.fetched if repo == BASE and "/" in path} >= {"vae", "tokenizer"}
    few = ["--steps", 2, "--recurrences", 2]
    decode = ["rsic", "decode", "photo.rsic", "--model", CODEC]
    run(*decode, "-o", "fast.png", "--preset", "fast")
    for preset in ("balanced", "paper"):
        run(*decode, "-o", f"{preset}.png", "--preset", preset, *few)
    run(*decode, "-o", "lora.png", "--preset", "balanced", *few, "--lora", "lora")
    pictures = {
        name: np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), np.float64)
        for name in ("fast", "balanced", "paper", "lora")
    }
    assert all(picture.shape == (128, 128, 3) for picture in pictures.values())
    for name in ("fast", "paper", "lora"):
        assert np.abs(pictures[name] - pictures["balanced"]).mean() > 0.05, name

    # 3. Other people's models
    make_tiny_vae(tmp_path / "taesd", float(np.mean(hsvlc.config.latent_variance)))
    kinds = run("-c", DECODE_IN_PYTHON).split()
    assert kinds == ["epsilon", "v_prediction", "hsvlc", "model_index.json", "scheduler"]
    arrays = np.load(tmp_path / "pictures.npz")
    assert all(np.isfinite(array).all() and array.shape == (128, 128, 3) for array in arrays.values())
    assert np.abs(arrays["right"] - arrays["wrong"]).mean() > 1e-3
    assert np.abs(arrays["right"] - arrays["picture"]).mean() > 1e-3
    np.testing.assert_array_equal(arrays["same"], arrays["right"])

    # 4. The figures
    run(
        "rsic", "evaluate", "photos", "-o", "figures", "--model", CODEC, "--limit", 1, "--codecs", "jpeg",
        "--metrics", "psnr", "f_psnr", "--decoding", "few:preset=balanced,num_inference_steps=2",
    )  # fmt: skip
    table = (tmp_path / "figures" / "table.md").read_text()
    assert "few" in table and "PSNR" in table
    hub.shutdown()
