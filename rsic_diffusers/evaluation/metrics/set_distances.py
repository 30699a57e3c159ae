"""Distances between two sets of pictures, on features of their crops: FID, KID, and the one that needs no download."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from . import feature_distance
from .feature_distance import FeatureExtractor, check_number_of_crops, extract_features, frechet_distance


CROP = 256
# Of Inception's 2048 features: the covariance of fewer crops has no full rank.
FID_MIN_CROPS = 2048
# Binkowski et al. 2018 average over subsets of that size.
KID_MIN_CROPS = 1000


class SetDistance(NamedTuple):
    """A distance between the crops of two sets of pictures.

    Args:
        label: Its name in a sentence.
        crops_of: Cuts a picture up.
        extract: Turns a list of PIL images into the features of their crops, (number of crops, dimensions).
        distance: Of two such arrays.
        crop: The crops' side in pixels.
        min_crops: In either set.
    """

    label: str
    crops_of: Callable
    extract: Callable
    distance: Callable
    crop: int
    min_crops: int

    def count(self, images) -> tuple[int, int]:
        """How many pictures are large enough for a crop, and how many crops they have.

        Raises:
            ValueError: Too few.
        """
        counts = [len(self.crops_of(image)) for image in images]
        check_number_of_crops(sum(counts), self.label, self.crop, self.min_crops)
        return sum(count > 0 for count in counts), sum(counts)


def crops_side_by_side(image) -> list[np.ndarray]:
    """A picture cut into 256 x 256 pixels side by side, then again from (128, 128) on (Mentzer et al. 2020)."""
    array = np.asarray(image.convert("RGB"))
    return [
        array[y : y + CROP, x : x + CROP]
        for start in (0, CROP // 2)
        for y in range(start, array.shape[0] - CROP + 1, CROP)
        for x in range(start, array.shape[1] - CROP + 1, CROP)
    ]


def kernel_distance(features: np.ndarray, reference: np.ndarray, subset_size: int | None = None) -> float:
    """The squared maximum mean discrepancy (cubic kernel, unbiased), the mean of 100 random subsets.

    Args:
        features, reference (`np.ndarray` of shape (number, dimensions))
        subset_size (`int`, *optional*): Of each set; default 1000.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    features, reference = (torch.from_numpy(array.astype(np.float64)) for array in (features, reference))
    size = KID_MIN_CROPS if subset_size is None else subset_size
    options = {"kid_subsets": 100, "kid_subset_size": size, "rng_seed": 2020, "verbose": False}
    return kid_features_to_metric(features, reference, **options)[KEY_METRIC_KID_MEAN]


@cache
def inception_features(device):
    """The extractor of FID's own Inception network: TensorFlow's weights, and its way to enlarge crops to 299."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval().to(device)
    return lambda images: extract_features(images, crops_side_by_side, lambda crops: network(crops)[0], device)


def load_fid(device):
    """Heusel et al. 2017, on the crops of Mentzer et al. 2020."""
    return SetDistance("FID", crops_side_by_side, inception_features(device), frechet_distance, CROP, FID_MIN_CROPS)


def load_kid(device):
    """Binkowski et al. 2018, on the crops of Mentzer et al. 2020."""
    return SetDistance("KID", crops_side_by_side, inception_features(device), kernel_distance, CROP, KID_MIN_CROPS)


def load_feature_distance(device):
    """Not FID; see `feature_distance`."""
    return SetDistance(
        "A Frechet distance",
        feature_distance.overlapping_crops,
        FeatureExtractor(device),
        frechet_distance,
        feature_distance.CROP,
        feature_distance.MIN_CROPS,
    )


LOADERS = {"feature_distance": load_feature_distance, "fid": load_fid, "kid": load_kid}
