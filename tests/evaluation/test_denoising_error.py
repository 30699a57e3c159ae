"""The error of the predicted noise, and what captions do to it."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from rsic_diffusers.evaluation.experiments import denoising_error


@torch.no_grad()
def test_errors_are_those_of_diffusers_own_schedule(decoder):
    torch.manual_seed(0)
    latents, captions = torch.randn(2, 4, 8, 8), [["a fox", "a dog"], ["a dog", "a fox"]]
    errors = denoising_error.denoising_errors(decoder, latents, captions, 400, draws=2)
    schedule = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alpha = schedule.alphas_cumprod[400]
    expected = np.zeros(2)
    for draw in range(2):
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(draw))
        noisy = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
        for i, texts in enumerate(captions):
            for j, text in enumerate(texts):
                ids = decoder.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
                states = decoder.text_encoder(ids).last_hidden_state
                predicted = decoder.unet(noisy[j : j + 1], 400, states).sample
                expected[i] += float((predicted - noise[j : j + 1]).square().mean()) / 4
    np.testing.assert_allclose(errors, expected, rtol=1e-4)


def test_the_command_prints_a_row_for_each_timestep(tmp_path, small_photo, capsys):
    for name in ("a.png", "b.png"):
        small_photo.save(tmp_path / name)
    annotations = [{"file": "a.png", "caption": "a woman"}, {"file": "b.png", "caption": "a fox"}]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations[:1]))
    command = [str(tmp_path), "--timesteps", "900", "300", "--draws", "1", "--side", "64"]
    with pytest.raises(SystemExit, match="one photo with a caption"):
        denoising_error.main(command)
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    denoising_error.main(command)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["900", "300"]
    assert float(rows[0][1]) < float(rows[1][1]) < 1  # of much noise a UNet can tell more than of little
