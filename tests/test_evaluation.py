"""The measuring instruments themselves."""

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.evaluation.metrics import psnr


def test_psnr_by_hand():
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (16, 16, 16))
    assert psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 256))
    half = black.copy()
    half.paste((16, 16, 16), (0, 0, 4, 8))
    assert psnr(half, black) == pytest.approx(10 * np.log10(255**2 / 128))
    assert psnr(half, black, box=(4, 0, 8, 8)) == float("inf")
    assert psnr(half, black, box=(0.5, 0, 4, 8)) == pytest.approx(10 * np.log10(255**2 / 256))


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


def test_the_box_alone_is_measured_against_the_cut(photo):
    """With a codec that adds a known error to every pixel."""
    from types import SimpleNamespace

    from rsic_diffusers.evaluation.experiments.box_alone import box_alone_table, compare

    class File(bytes):
        pass

    image = Image.fromarray(np.asarray(photo) // 2)
    box = (150.2, 40.0, 370.4, 310.0)  # rounded: 220 x 270 pixels
    asked = []

    def encoder(picture, box=None, target_bytes=None, **arguments):
        asked.append((picture.size, box, target_bytes, arguments))
        file = File(500 if target_bytes is None else int(target_bytes))
        file.picture, file.error = picture, 4 if box else 16 if picture.size == image.size else 2
        return SimpleNamespace(bitstream=file)

    def decoder(file, num_inference_steps):
        assert num_inference_steps == 0
        array = np.asarray(file.picture).astype(int)
        if file.picture.size == image.size:  # far off outside the box, which must not count
            array[:40], array[310:] = 255, 255
        return SimpleNamespace(images=[Image.fromarray((array + file.error).clip(0, 255).astype(np.uint8))])

    row = compare(encoder, decoder, image, box, weight=0.8, caption="a woman")
    assert [entry[0] for entry in asked] == [(512, 600), (512, 600), (220, 270)]
    assert asked[0][3] == {"weight": 0.8, "caption": "a woman"} and asked[2][3] == {"caption": "a woman"}
    assert asked[0][2] is None and asked[1][2] == asked[2][2] == pytest.approx(505)
    expected = {"referring": 4, "global": 16, "alone": 2}
    for name, error in expected.items():
        assert row[f"{name} psnr"] == pytest.approx(20 * np.log10(255 / error))
    assert row["share"] == pytest.approx(220 * 270 / (512 * 600))
    last = box_alone_table({"a": row, "b": {**row, "alone psnr": row["alone psnr"] + 2}}).splitlines()[-1]
    assert last.endswith("| 36.09 | 24.05 | 43.11 | +12.04 | +19.06 |")


def test_the_box_alone_of_a_folder(small_photo, encoder, decoder, tmp_path, capsys):
    import json

    from rsic_diffusers.evaluation.experiments import box_alone

    small_photo.save(tmp_path / "one.png")
    small_photo.save(tmp_path / "two.png")
    box = (50, 20, 150, 140)
    fractions = [side / of for side, of in zip(box, 2 * small_photo.size)]
    annotations = [
        {"file": "one.png", "caption": "a woman", "box": fractions},
        {"file": "two.png", "box": [0.2, 0.2, 0.4, 0.9]},  # 41 pixels wide
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    box_alone.main([str(tmp_path), "--weight", "0.7"])
    printed = capsys.readouterr().out
    assert "two.png is left out" in printed
    row, mean = printed.splitlines()[-2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [cell.strip() for cell in mean.strip("|").split("|")][1:] == cells[1:]
    assert cells[:2] == ["one.png", f"{100 * 100 * 120 / (203 * 165):.0f} %"]
    out = encoder(small_photo, box=box, weight=0.7, caption="a woman")
    assert cells[2] == str(len(out.bitstream))
    picture = decoder(out.bitstream, num_inference_steps=0).images[0]
    assert float(cells[5]) == pytest.approx(psnr(picture, small_photo, box), abs=0.01)
    sizes = [int(cell) for cell in cells[2:5]]
    assert max(sizes) - min(sizes) <= 0.05 * sizes[0]
    assert float(cells[9]) == pytest.approx(float(cells[7]) - float(cells[6]), abs=0.011)


def test_frechet_distance_equals_scipys_matrix_root():
    from scipy.linalg import sqrtm

    from rsic_diffusers.evaluation.metrics.feature_distance import frechet_distance

    rng = np.random.default_rng(0)
    one = rng.normal(size=(150, 12)) @ rng.normal(size=(12, 12))
    other = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 0.3
    c1, c2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 100"):
        frechet_distance(one[:50], other)


def test_feature_distance_grows_with_damage(photo):
    from PIL import ImageFilter

    from rsic_diffusers.evaluation.metrics.feature_distance import FeatureExtractor, frechet_distance

    extract = FeatureExtractor()
    pictures = [photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), photo.resize((640, 700))]
    reference = extract(pictures)
    distances = [
        frechet_distance(extract([one.filter(ImageFilter.GaussianBlur(radius)) for one in pictures]), reference)
        for radius in (1, 2, 4)
    ]
    assert 0 < distances[0] < distances[1] < distances[2]
