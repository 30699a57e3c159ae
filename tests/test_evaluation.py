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


def test_frechet_distance_equals_scipys_matrix_root():
    from scipy.linalg import sqrtm

    from rsic_diffusers.evaluation.feature_distance import frechet_distance

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

    from rsic_diffusers.evaluation.feature_distance import FeatureExtractor, frechet_distance

    extract = FeatureExtractor()
    pictures = [photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), photo.resize((640, 700))]
    reference = extract(pictures)
    distances = [
        frechet_distance(extract([one.filter(ImageFilter.GaussianBlur(radius)) for one in pictures]), reference)
        for radius in (1, 2, 4)
    ]
    assert 0 < distances[0] < distances[1] < distances[2]
