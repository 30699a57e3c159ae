"""Refinement of the latents before they are coded: what it minimises, and what that is good for."""

import copy

import numpy as np
import pytest
import torch

from rsic_diffusers import Bitstream, Demand, RSICEncoderPipeline
from rsic_diffusers.commands.rsic_cli import main
from rsic_diffusers.evaluation.metrics import psnr
from rsic_diffusers.pipelines import refinement
from rsic_diffusers.pipelines.latents import decode_latents, encode_image
from rsic_diffusers.pipelines.refinement import refine_latents
from rsic_diffusers.referring.demands import weigh_pixels


BOX = (50, 20, 150, 140)


def weights_by_hand(height, width, boxes, background=0.0):
    """M and the pixels' weights; boxes are (x0, y0, x1, y1, weight) with whole corners."""
    weights = np.full((height, width), background)
    for x0, y0, x1, y1, weight in boxes:
        for y in range(y0, y1):
            for x in range(x0, x1):
                weights[y, x] = max(weights[y, x], weight)
    cells = np.zeros((-(-height // 64), -(-width // 64)))
    for y in range(height):
        for x in range(width):
            cells[y // 64, x // 64] = max(cells[y // 64, x // 64], weights[y, x])
    return cells, weights


def lambda_of(encoder, weights):
    """lambda(m) = c exp(g m), for the latents' squared error in units of their variance; c and g from the config."""
    config = encoder.hsvlc.config
    variance = np.mean(config.latent_variance)
    return torch.from_numpy(config.rate_lambda * np.exp(config.lambda_growth * np.asarray(weights)) / variance).float()


def error_ratio(encoder, latents, weight_map, weights, size):
    """How many times as large the codec's error is in the latents as in the picture, weighed by lambda."""
    with torch.no_grad():
        coded = encoder.hsvlc(latents, weight_map).sample
        pictures = [decode_latents(encoder.vae, z, size) for z in (coded, latents)]
    of_latents = ((coded - latents) ** 2).mean(dim=1)[0]  # (h, w)
    of_picture = ((pictures[0] - pictures[1]) ** 2).mean(dim=1)[0]  # (H, W)
    pixels, in_latents = lambda_of(encoder, weights), 0.0
    for i in range(of_latents.shape[0]):
        for j in range(of_latents.shape[1]):
            block = pixels[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            in_latents += block.mean() * of_latents[i, j]
    return in_latents / ((pixels * of_picture).sum() / 64)


def cost(encoder, latents, weight_map, weights, image, ratio):
    """Bits and weighed errors of pixels, `ratio` converting these to errors of latents."""
    output = encoder.hsvlc(latents, weight_map, return_bits=True)
    picture = decode_latents(encoder.vae, output.sample, image.shape[-2:])
    error = ((picture - image) ** 2).mean(dim=1)[0]
    return sum(bits.sum() for bits in output.bits) + ratio * (lambda_of(encoder, weights) * error).sum() / 64


def test_one_step_goes_down_the_gradient(encoder, small_photo, photo_latents):
    image = encoder.image_processor.preprocess(small_photo)
    cells, weights = weights_by_hand(165, 203, [(*BOX, 6 / 7)])
    weight_map = torch.from_numpy(cells).float()[None, None]
    ours = refine_latents(encoder.vae, encoder.hsvlc, image, photo_latents, weight_map, weights, 1)

    # In the cells that the box covers in part, positions of 8 x 8 pixels of which it has none start from what the
    # codec makes of them at M = 0. The one cell that it covers wholly keeps its M.
    least = torch.zeros_like(weight_map)
    least[..., 1, 1] = 6 / 7
    with torch.no_grad():
        without = encoder.hsvlc(photo_latents, least).sample
    start = photo_latents.clone()
    for i in range(21):
        for j in range(26):
            cell = weights[i // 8 * 64 : i // 8 * 64 + 64, j // 8 * 64 : j // 8 * 64 + 64]
            if cell.max() > weights[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].max() == cell.min():
                start[..., i, j] = without[..., i, j]
    start.requires_grad_()
    ratio = error_ratio(encoder, photo_latents, weight_map, weights, (165, 203))
    assert 2 < ratio < 40
    before = cost(encoder, start, weight_map, weights, image, ratio)
    (gradient,) = torch.autograd.grad(before, start)
    pixels = np.exp(encoder.hsvlc.config.lambda_growth * weights)
    size = 0.09 * np.sqrt(pixels.mean() / pixels.max())
    expected = (start - size * gradient / gradient.square().mean().sqrt()).detach()
    after = cost(encoder, expected, weight_map, weights, image, ratio)
    assert after < before  # else the start would be the best
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-3)


def test_refinement_works_under_inference_mode_and_autocast(encoder, small_photo):
    tile = small_photo.crop((60, 20, 124, 84))
    expected = encoder(tile, box=(0, 0, 40, 64), refinement_steps=1).bitstream
    with torch.inference_mode():
        assert encoder(tile, box=(0, 0, 40, 64), refinement_steps=1).bitstream == expected
        # Loaded there, too: parameters that no gradient may go through.
        parts = {name: copy.deepcopy(encoder.components[name]) for name in ("vae", "hsvlc")}
        loaded = RSICEncoderPipeline(**{**encoder.components, **parts})
        loaded.set_progress_bar_config(disable=True)
    assert loaded(tile, box=(0, 0, 40, 64), refinement_steps=1).bitstream == expected
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder(tile, box=(0, 0, 40, 64), refinement_steps=1).bitstream
    assert len(inside) == pytest.approx(len(expected), abs=12)


def test_a_codec_that_was_never_measured_is_named(encoder, small_photo, photo_latents, monkeypatch):
    monkeypatch.setattr(encoder.hsvlc, "_internal_dict", {**encoder.hsvlc.config, "latent_variance": None})
    with pytest.raises(ValueError, match="no latent_variance"):
        encoder(small_photo, refinement_steps=1)


@pytest.mark.parametrize("asked", [{"box": BOX, "weight": 6 / 7}, {"weight": 0.6}], ids=["referring", "global"])
def test_refined_files_are_better_at_no_more_bytes(encoder, decoder, small_photo, asked):
    plain = encoder(small_photo, **asked, refinement_steps=0).bitstream
    refined = encoder(small_photo, **asked, refinement_steps=8, target_bytes=len(plain)).bitstream
    pictures = [decoder(data, num_inference_steps=0).images[0] for data in (plain, refined)]
    assert len(refined) <= len(plain)
    region = asked.get("box")
    before, after = (psnr(picture, small_photo, region) for picture in pictures)
    assert after > before + 0.2


def test_the_cost_never_rises(encoder, small_photo, photo_latents, monkeypatch):
    monkeypatch.setattr(refinement, "STEP_SIZE", 3.0)  # far too long
    image = encoder.image_processor.preprocess(small_photo)
    weight_map, weights = torch.full((1, 1, 3, 4), 0.6), np.full((165, 203), 0.6)
    for steps in (1, 3):
        ours = refine_latents(encoder.vae, encoder.hsvlc, image, photo_latents, weight_map, weights, steps)
        ratio = error_ratio(encoder, photo_latents, weight_map, weights, (165, 203))
        with torch.no_grad():
            before, after = (cost(encoder, z, weight_map, weights, image, ratio) for z in (photo_latents, ours))
        assert after <= before + 0.5


@pytest.mark.parametrize("steps", [1, 4])
def test_a_small_region_is_better_too(encoder, decoder, photo, steps):
    box = (192, 128, 256, 192)  # one cell of eighty: the steps of its latents must not grow by that
    plain, refined = (encoder(photo, box=box, weight=1.0, refinement_steps=n).bitstream for n in (0, steps))
    before, after = (psnr(decoder(data, num_inference_steps=0).images[0], photo, box) for data in (plain, refined))
    assert len(refined) <= len(plain) + 4 and after > before + 0.2


def test_a_budget_for_all_is_spent_on_all(encoder, decoder, photo):
    picture = photo.crop((120, 20, 376, 276))
    box = (40, 40, 150, 150)
    out = encoder(picture, box=box, refinement_steps=4, target_bytes=100_000)
    np.testing.assert_array_equal(out.weight_map, 1)
    same = encoder(picture, weight=1.0, refinement_steps=4)
    decoded = [decoder(one.bitstream, num_inference_steps=0).images[0] for one in (out, same)]
    beside = (150, 128, 190, 190)  # in a cell of the box, but outside it
    assert psnr(decoded[0], picture, beside) == pytest.approx(psnr(decoded[1], picture, beside), abs=0.3)


def test_a_border_cell_spends_no_bits_on_what_was_not_asked_for(encoder, small_photo):
    # Of the cell 0..64 x 64..128 only the lower right quarter is asked for.
    out = encoder(small_photo, box=(32, 96, 64, 128), weight=1.0, background=0, refinement_steps=4)
    file = Bitstream.from_bytes(out.bitstream)
    np.testing.assert_array_equal(out.weight_map, [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    weight_map = torch.from_numpy(out.weight_map)[None, None]
    finest = encoder.hsvlc.decode_symbols(file.codes, weight_map, (21, 26))[3].abs()
    asked, elsewhere = finest[:, 6:8, 2:4], finest[:, 4:6, 0:2]  # at half the latents' size
    assert asked.float().mean() > 4 * elsewhere.float().mean()


def test_a_reduced_photo_is_refined_at_its_coded_size(encoder, decoder, photo):
    box = (150, 40, 370, 310)
    out = encoder(photo, box=box, background=0, max_side=256, refinement_steps=2)
    expected, _ = weigh_pixels(600, 512, [Demand(box=box)], coded_size=Bitstream.from_bytes(out.bitstream).coded_size)
    np.testing.assert_array_equal(out.weight_map, expected.values)
    assert decoder(out.bitstream, num_inference_steps=0).images[0].size == photo.size


def test_half_precision_refines_as_well(small_photo):
    photo = small_photo.crop((60, 20, 124, 84))
    encoders = [
        RSICEncoderPipeline.from_pretrained("rsic-tiny", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    ]
    for one in encoders:
        one.set_progress_bar_config(disable=True)
    full, half = (one(photo, box=(0, 0, 40, 64), refinement_steps=2) for one in encoders)
    assert len(half.bitstream) == pytest.approx(len(full.bitstream), rel=0.1)
    decoded = []
    for out in (full, half):
        file = Bitstream.from_bytes(out.bitstream)
        latents = encoders[0].hsvlc.decompress(file.codes, torch.from_numpy(out.weight_map)[None, None], (8, 8))
        decoded.append(latents)
    with torch.no_grad():
        z = encode_image(encoders[0].vae, encoders[0].image_processor.preprocess(photo))
    errors = [(latents - z)[..., :5].square().mean().item() for latents in decoded]
    assert errors[1] == pytest.approx(errors[0], rel=0.2)


def test_progress_is_one_step_at_a_time(encoder, small_photo, monkeypatch):
    seen = []

    class Bar:
        n = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, amount=1):
            self.n += amount
            seen.append(self.n)

    monkeypatch.setattr(encoder, "progress_bar", lambda total: seen.append(f"of {total}") or Bar())
    encoder([small_photo] * 2, weight=0.3, refinement_steps=2)
    assert seen == ["of 4", 1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("steps", [-1, 1.5, "4"])
def test_refinement_steps_must_be_a_count(encoder, small_photo, steps):
    with pytest.raises(ValueError, match="refinement_steps must be a whole number"):
        encoder(small_photo, refinement_steps=steps)


def test_command_line_refines(tmp_path, small_photo, encoder, capsys):
    small_photo.save(tmp_path / "photo.png")
    box = ",".join(map(str, BOX))
    command = ["encode", str(tmp_path / "photo.png"), "-o", str(tmp_path / "photo.rsic"), "--box", box]
    assert main([*command, "--refine", "2"]) == 0
    assert "2/2" in capsys.readouterr().err  # long work shows how far it is
    same = encoder(small_photo, box=BOX, refinement_steps=2).bitstream
    assert (tmp_path / "photo.rsic").read_bytes() == same
    assert main([*command, "--refine", "-2"]) == 2
    assert "--refine must be a whole number" in capsys.readouterr().err
