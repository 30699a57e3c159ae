"""The experiment on start levels: its figures against NumPy, and the command over one photo."""

import argparse
import json

import numpy as np
import pytest
import torch

from rsic_diffusers import GuidedSelfRecurrentDDIMScheduler
from rsic_diffusers.evaluation.experiments import start_levels
from rsic_diffusers.evaluation.methods import parse_decoding


def test_a_wave_has_its_power_in_the_band_of_its_frequency():
    """Waves of known frequencies; powers of two latents add up as Parseval's theorem has it."""
    y, x = np.mgrid[:32, :48]
    for band, frequency in enumerate((1 / 12, 1 / 6, 3 / 8)):
        wave = torch.from_numpy(np.cos(2 * np.pi * frequency * x) * np.ones_like(y)).expand(1, 4, 32, 48)
        powers = start_levels.band_powers(wave)
        assert powers[band] > 0.95 * powers.sum()
    noise = torch.randn(1, 4, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    window = np.outer(np.hanning(33)[:-1], np.hanning(49)[:-1])
    total = np.abs(np.fft.fft2((noise - noise.mean((-2, -1), keepdim=True)).numpy() * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(48))
    expected = total.mean((0, 1))[frequency >= 1 / 16].sum()
    assert start_levels.band_powers(noise).sum() == pytest.approx(expected, rel=1e-3)


def test_decodings_are_names_and_settings():
    name, settings = parse_decoding("k 4 to 0.5:preset=fast,k0=4,k1=0.5")
    assert (name, settings) == ("k 4 to 0.5", {"preset": "fast", "k0": 4, "k1": 0.5})
    base = GuidedSelfRecurrentDDIMScheduler(prediction_type="v_prediction")
    scheduler = start_levels.scheduler_of(base, settings)
    assert settings == {"preset": "fast"}
    assert tuple(scheduler.config.start_noise_factors) == (4, 0.5)
    assert scheduler.config.prediction_type == "v_prediction"
    with pytest.raises(argparse.ArgumentTypeError, match="SETTING=VALUE"):
        parse_decoding("fast:preset")


def test_the_command_writes_a_row_for_each_mode_weight_and_decoding(tmp_path, small_photo, capsys):
    small_photo.save(tmp_path / "a.png")
    small_photo.save(tmp_path / "b.png")
    annotations = [{"file": "b.png"}, {"file": "a.png", "caption": "a woman", "box": [0.2, 0.2, 0.8, 0.9]}]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    command = [str(tmp_path), "--weights", "0.857", "--draws", "1", "--max_side", "128"]
    command += ["--decoding", "codec:strength=0", "--decoding", "eight:preset=fast"]
    start_levels.main([*command, "--output", str(tmp_path / "table.md")])
    table = (tmp_path / "table.md").read_text()
    assert table.strip() in capsys.readouterr().out
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["mode"], row["decoding"]) for row in rows] == [
        (mode, decoding) for mode in ("referring", "global") for decoding in ("codec", "eight")
    ]
    assert rows[0]["evaluations"] == "0.0" and 0 < float(rows[1]["evaluations"]) <= 8
    assert all(15 < float(row["f-PSNR"]) < 40 and 0 < float(row["1/16-1/8"]) < 3 for row in rows)


@pytest.mark.parametrize("arguments, message", [(["--draws", "0"], "--draws"), (["--max_side", "8"], "--max_side")])
def test_arguments_that_cannot_be_are_refused(tmp_path, arguments, message, capsys):
    with pytest.raises(SystemExit):
        start_levels.main([str(tmp_path), *arguments])
    assert message in capsys.readouterr().err
