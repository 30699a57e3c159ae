"""Pictures to measure."""

import pytest
from PIL import ImageFilter

from rsic_diffusers.evaluation.metrics import learned_metrics, set_distances


@pytest.fixture(scope="module")
def pair(photo):
    """A damaged picture and the original, 208 x 176."""
    original = photo.crop((150, 40, 358, 216))
    return original.filter(ImageFilter.GaussianBlur(2)), original


@pytest.fixture(autouse=True)
def no_network_of_another_test():
    for load in (set_distances.inception_features, learned_metrics.load_lpips, learned_metrics.load_dists):
        load.cache_clear()


@pytest.fixture(scope="module")
def detail(photo):
    """The face, small enough for brute force: 97 x 81, odd sides."""
    face = photo.crop((210, 80, 307, 161))
    face.info.clear()  # the file has a comment
    return face
