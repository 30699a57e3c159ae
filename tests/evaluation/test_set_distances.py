"""FID and KID against other computations, on random networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from rsic_diffusers.evaluation.metrics import load_set_metrics, set_distances


class Pooled(torch.nn.Module):
    """Not Inception, but as it is called: uint8 crops in, features out."""

    num_features = 12

    def forward(self, x):
        return F.adaptive_avg_pool2d(x.double(), 2).flatten(1) / 20


@pytest.fixture
def large_pictures(monkeypatch):
    """Five damaged pictures and the originals, with 35 crops each, and that these suffice."""

    def inception_features(device):
        network = Pooled()
        return lambda images: set_distances.extract_features(images, set_distances.crops_side_by_side, network, device)

    monkeypatch.setattr(set_distances, "inception_features", inception_features)
    monkeypatch.setattr(set_distances, "FID_MIN_CROPS", 175)
    monkeypatch.setattr(set_distances, "KID_MIN_CROPS", 175)
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(5)]
    real = [one.resize((1100, 1450), Image.Resampling.BILINEAR) for one in noise]
    return [one.point(lambda value: 0.9 * value + 5) for one in real], real


def patches(image):
    """The same crops, cut by PyTorch: (number, 3, 256, 256)."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    cuts = [one.unfold(1, 256, 256).unfold(2, 256, 256) for one in (x, x[:, 128:, 128:])]
    return torch.cat([one.permute(1, 2, 0, 3, 4).reshape(-1, 3, 256, 256) for one in cuts])


def test_fid_and_kid_equal_torchmetrics(large_pictures):
    from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

    damaged, real = large_pictures
    fid = FrechetInceptionDistance(feature=Pooled(), input_img_size=(3, 256, 256)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=Pooled(), subset_size=175)  # all, so that nothing is random
    for is_real, pictures in ((True, real), (False, damaged)):
        for picture in pictures:
            for metric in (fid, kid):
                metric.update(patches(picture), real=is_real)
    ours = load_set_metrics(["fid", "kid"])
    too_small = Image.new("RGB", (255, 3000))
    assert ours["fid"].count([*damaged, too_small]) == (5, 175)
    features, reference = (ours["fid"].extract(pictures) for pictures in ([*damaged, too_small], real))
    expected = fid.compute().item()
    assert ours["fid"].distance(features, reference) == pytest.approx(expected, rel=1e-4) and expected > 0.01
    assert ours["kid"].distance(features, reference) == pytest.approx(kid.compute()[0].item(), rel=1e-4)


def test_kid_by_hand(monkeypatch):
    monkeypatch.setattr(set_distances, "KID_MIN_CROPS", 150)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 6)), rng.normal(size=(150, 6)) + 0.2

    def kernel(a, b):
        return (a @ b.T / 6 + 1) ** 3

    pairs = ~np.eye(150, dtype=bool)
    expected = kernel(x, x)[pairs].mean() + kernel(y, y)[pairs].mean() - 2 * kernel(x, y).mean()
    assert set_distances.kernel_distance(x, y) == pytest.approx(expected)


def test_inception_is_fed_as_by_torchmetrics(monkeypatch, pair):
    """Their reading of the crops and ours, with one random network."""
    from torch_fidelity import feature_extractor_inceptionv3 as library
    from torchmetrics.image.fid import NoTrainInceptionV3

    monkeypatch.setattr(library, "load_state_dict_from_url", lambda *args, **kwargs: None)
    monkeypatch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    picture = pair[0].resize((256, 300))
    torch.manual_seed(0)
    ours = set_distances.inception_features("cpu")([picture])
    torch.manual_seed(0)
    theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], antialias=False)
    crop = torch.from_numpy(np.array(picture.crop((0, 0, 256, 256)))).permute(2, 0, 1)[None]
    assert ours.shape == (1, 2048) and ours.std() > 0
    np.testing.assert_allclose(ours, theirs(crop).numpy(), rtol=1e-3)


def test_too_few_crops_are_refused(monkeypatch, photo):
    monkeypatch.setattr(set_distances, "inception_features", lambda device: pytest.fail)
    for name, minimum in (("fid", 2048), ("kid", 1000)):
        with pytest.raises(ValueError, match=f"{minimum} crops of 256 x 256 pixels in each set, not 10"):
            load_set_metrics([name])[name].count(2 * [photo])


def test_feature_distance_counts_what_it_uses(photo):
    """The distance itself is tested elsewhere, and takes seconds."""
    distance = load_set_metrics(["feature_distance"])["feature_distance"]
    pictures = [photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), photo.crop((0, 0, 100, 600))]
    assert distance.count(pictures) == (2, 2 * 7 * 8)
    assert distance.extract(pictures).shape == (2 * 7 * 8, 1280)
    with pytest.raises(ValueError, match="at least 100 crops of 128 x 128 pixels in each set, not 56"):
        distance.count(pictures[:1])
