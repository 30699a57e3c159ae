"""Rates and distortions of codecs, and what they are summed up to."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from rsic_diffusers import HSVLC
from rsic_diffusers.hub import resolve_model


ABLATIONS = {"single layer": {"single_layer": True}, "no conditional prior": {"conditional_prior": False}}


def test_half_the_bits_are_half_the_bits():
    """A decibel of latent error and half a one of the picture for each doubling of the rate: a line, done by hand."""
    from rsic_diffusers.evaluation.experiments.rate_distortion import against_constant_maps

    def row(kind, k, share, inside=1.0):
        bpp, error = 0.001 * 2**k * share, inside * 10 ** (-k / 10)
        return {"codec": "a", "maps": kind, "k": k, "bpp": bpp, "mse inside": error, "psnr inside": 15 + k / 2}

    rows = [row("constant", k, 1.0) for k in range(8)] + [row("referring", k, 0.5) for k in range(1, 8)]
    without_box = [row("constant", k, 9.0, np.nan) for k in range(8)]  # a photo without a box, which must not count
    assert against_constant_maps(rows + without_box, "a") == [
        "BD-rate of referring to constant M, a, latent mse inside: -50.0 %",
        "BD-PSNR of referring to constant M, a, latents inside: +1.00 dB",
        "BD-PSNR of referring to constant M, a, pictures inside: +0.50 dB",
    ]


def test_curves_that_fall_have_no_difference():
    """The package takes a curve that falls as a whole, that of a hardly trained codec, for a fault of the caller's."""
    from rsic_diffusers.evaluation.experiments.rate_distortion import bjontegaard, bjontegaard_difference

    rates = np.array([0.01, 0.02, 0.04, 0.08])
    rising = {"bpp": rates, "mse": np.array([0.4, 0.3, 0.2, 0.1])}
    for falling in ([0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1, 0.4]):
        curve = {"bpp": rates, "mse": np.array(falling)}
        for pair in ((curve, rising), (rising, curve)):
            assert np.isnan(bjontegaard_difference(bjontegaard.bd_rate, *pair, "mse"))


def test_the_command_compares_codecs_and_the_vae_alone(photo, tmp_path):
    photo = photo.crop((0, 0, 200, 152))
    (tmp_path / "photos").mkdir()
    photo.save(tmp_path / "photos" / "photo.png")
    annotations = [{"file": "photo.png", "box": [0.25, 0.25, 0.5, 0.75]}]
    (tmp_path / "photos" / "annotations.json").write_text(json.dumps(annotations))
    rsic_tiny = Path(resolve_model("rsic-tiny"))
    codecs = ["--codec", f"ours={rsic_tiny / 'hsvlc'}"]
    trained = HSVLC.from_pretrained(rsic_tiny / "hsvlc")
    for name, options in ABLATIONS.items():
        torch.manual_seed(0)
        codec = HSVLC.from_config(trained.config, **options).eval()  # untrained: what is tested is the command
        codec.update()
        codec.save_pretrained(tmp_path / name)
        codecs += ["--codec", f"{name}={tmp_path / name}"]
    module = "rsic_diffusers.evaluation.experiments.rate_distortion"
    output = tmp_path / "rd"
    subprocess.run([sys.executable, "-m", module, tmp_path / "photos", "--output", output] + codecs, check=True)
    table = (output / "table.md").read_text()
    for name in ABLATIONS:
        assert f"BD-rate of ours to {name}, constant M" in table
    assert (output / "curve.png").exists()

    vae = AutoencoderTiny.from_pretrained(rsic_tiny, subfolder="vae").float()
    original = np.asarray(photo).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(original / 127.5 - 1).permute(2, 0, 1)[None]
        picture = vae.decode(vae.encode(pixels).latents).sample[0].permute(1, 2, 0).clamp(-1, 1).numpy()
    error = (np.round((picture + 1) * 127.5) - original) ** 2
    whole, inside = (-10 * np.log10(part.mean() / 255**2) for part in (error, error[38:114, 50:100]))
    assert f"The VAE alone: PSNR {whole:.2f} dB, {inside:.2f} dB inside the box" in table
