"""The Frechet distance that needs no download."""

import numpy as np
import pytest
from PIL import Image


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
