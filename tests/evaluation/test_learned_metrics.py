"""LPIPS, DISTS and CLIP score by hand, on random networks: no weights are downloaded."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from metric_values import arrays, value_of
from PIL import Image

from rsic_diffusers.evaluation.metrics import box_region, learned_metrics, load_picture_metrics


def test_damage_outside_a_region_is_not_seen(pair, random_networks):
    damaged, original = pair
    region = box_region((100, 60, 180, 150), original.size)
    outside = Image.composite(original, damaged, Image.fromarray(region))
    assert value_of("f_psnr", (outside, original), region=region) == float("inf")
    assert value_of("f_lpips", (outside, original), region=region) == 0
    inside = Image.composite(damaged, original, Image.fromarray(region))
    both = [value_of("f_lpips", (picture, original), region=region) for picture in (damaged, inside)]
    assert both[0] == both[1] > 0
    # SSIM's windows reach 5 pixels out of it.
    assert value_of("f_ssim", (outside, original), region=region) < 1
    core = box_region((105, 65, 175, 145), original.size)
    assert value_of("f_ssim", (outside, original), region=core) == pytest.approx(1, abs=1e-12)


def test_damage_inside_a_region_is_not_seen_by_the_metrics_of_the_background(pair, random_networks):
    damaged, original = pair
    region = box_region((100, 60, 180, 150), original.size)
    inside = Image.composite(damaged, original, Image.fromarray(region))
    outside = Image.composite(original, damaged, Image.fromarray(region))
    assert value_of("b_psnr", (inside, original), region=region) == float("inf")
    x, y = arrays(pair)
    expected = 10 * np.log10(255**2 / np.mean((x - y)[~region] ** 2))
    assert value_of("b_psnr", pair, region=region) == pytest.approx(expected, abs=1e-9)
    for name, whole in (("b_lpips", "lpips"), ("b_dists", "dists")):
        assert value_of(name, (inside, original), region=region) == pytest.approx(0, abs=1e-6)
        # The original is put inside the region in both pictures.
        assert value_of(name, pair, region=region) == value_of(whole, (outside, original)) > 1e-3
        assert np.isnan(value_of(name, pair, region=np.ones_like(region)))


@pytest.mark.parametrize(
    "region, window",
    [
        ((10, 20, 150, 120), (slice(20, 120), slice(10, 150))),
        ((100, 100, 120, 110), (slice(73, 137), slice(78, 142))),
        ((0, 170, 3, 176), (slice(112, 176), slice(0, 64))),
    ],
)
def test_window_around_a_region(region, window):
    assert learned_metrics.window_around(box_region(region, (208, 176)), 64) == window


def random_features(network, seed=0):
    """Weights for layers made on the meta device, whose activations then neither fade nor grow."""
    network.to_empty(device="cpu")
    generator = torch.Generator("cpu").manual_seed(seed)
    for layer in network:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator, device="cpu")
            layer.weight.data *= (2 / layer.weight[0].numel()) ** 0.5
            layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=generator, device="cpu")
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def alexnet():
    with torch.device("meta"):
        return random_features(torchvision.models.alexnet(weights=None).features)


@pytest.fixture(scope="module")
def vgg16():
    with torch.device("meta"):
        return random_features(torchvision.models.vgg16(weights=None).features)


@pytest.fixture
def random_networks(monkeypatch, alexnet, vgg16):
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: SimpleNamespace(features=alexnet))
    dists = pytest.importorskip("torchmetrics.functional.image.dists")
    monkeypatch.setattr(dists, "vgg16", lambda weights: SimpleNamespace(features=vgg16))


def tensors(pair):
    return [torch.from_numpy(one / 255).float().permute(2, 0, 1)[None] for one in arrays(pair)]


def activations(network, x, ends, pool=None):
    """After some of a network's layers, with other pooling than its own if one is given."""
    found = []
    for index, layer in enumerate(network):
        x = pool(x) if pool and isinstance(layer, torch.nn.MaxPool2d) else layer(x)
        if index in ends:
            found.append(x.clone())
    return found


def test_lpips_by_hand(pair, random_networks, alexnet):
    from torchmetrics.functional.image import lpips as library

    weights = torch.load(library.__file__.replace("lpips.py", "lpips_models/alex.pth"), map_location="cpu")
    shift, scale = (torch.tensor(one)[:, None, None] for one in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    features = [activations(alexnet, (2 * x - 1 - shift) / scale, (1, 4, 7, 9, 11)) for x in tensors(pair)]
    layers = zip(*features, strict=True)
    expected = 0
    for index, (a, b) in enumerate(layers):
        difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)) ** 2
        expected += (difference * weights[f"lin{index}.model.1.weight"]).sum(dim=1).mean().item()
    assert expected > 0.01
    assert value_of("lpips", pair) == pytest.approx(expected, rel=1e-4)
    region = box_region((20, 30, 140, 130), pair[0].size)
    crops = [one.crop((20, 30, 140, 130)) for one in pair]
    assert value_of("f_lpips", pair, region=region) == value_of("lpips", crops)
    assert value_of("f_dists", pair, region=region) == value_of("dists", crops)


def test_dists_by_hand(pair, random_networks, vgg16):
    from torchmetrics.functional.image import dists as library

    weights = torch.load(library.__file__.replace("dists.py", "dists_models/weights.pt"), map_location="cpu")
    window = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16

    def pool(x):
        kernel = window.expand(x.shape[1], 1, 3, 3)
        return F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]).sqrt()

    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features = [[x, *activations(vgg16, (x - mean) / std, (3, 8, 15, 22, 29), pool)] for x in tensors(pair)]
    layers = zip(*features, strict=True)
    similarity, start = 0, 0
    for a, b in layers:
        a, b = (one.double().flatten(2)[0] for one in (a, b))
        ma, mb = a.mean(1), b.mean(1)
        covariance = ((a - ma[:, None]) * (b - mb[:, None])).mean(1)
        texture = (2 * ma * mb + 1e-6) / (ma**2 + mb**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (a.var(1, correction=0) + b.var(1, correction=0) + 1e-6)
        alpha, beta = (weights[name].flatten()[start : start + len(ma)] for name in ("alpha", "beta"))
        similarity += (alpha * texture + beta * structure).sum().item()
        start += len(ma)
    expected = 1 - similarity / (weights["alpha"].sum() + weights["beta"].sum()).item()
    assert expected > 0.01
    assert value_of("dists", pair) == pytest.approx(expected, rel=1e-3)


@pytest.fixture
def random_clip(monkeypatch, tmp_path, decoder):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tower = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {**tower, "vocab_size": len(decoder.tokenizer), "eos_token_id": decoder.tokenizer.eos_token_id}
    torch.manual_seed(2)  # of the three scores below, two are above 0
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**tower, "patch_size": 32}, projection_dim=16))
    model.save_pretrained(tmp_path)
    CLIPProcessor(CLIPImageProcessor(), decoder.tokenizer).save_pretrained(tmp_path)
    monkeypatch.setattr(learned_metrics, "CLIP", str(tmp_path))
    return model.eval()


def test_clip_score_by_hand(photo, random_clip, decoder):
    clip = load_picture_metrics(["clip"])["clip"]
    image = photo.crop((150, 40, 374, 264))  # 224 x 224: not resized
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = torch.from_numpy((np.asarray(image) / 255 - mean) / std).float().permute(2, 0, 1)[None]
    scores = []
    for caption in ("a woman in a uniform", "two dogs", 200 * "long "):
        ids = decoder.tokenizer(caption, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            one = random_clip.get_image_features(pixels).pooler_output
            other = random_clip.get_text_features(ids).pooler_output
        expected = max(100 * F.cosine_similarity(one, other).item(), 0)
        scores.append(clip(image, image, caption=caption))
        assert scores[-1] == pytest.approx(expected, abs=1e-3)
    assert min(scores) == 0 and sum(score > 1 for score in scores) == 2
    with pytest.raises(ValueError, match="needs a caption"):
        clip(image, image)


def test_small_pictures(pair, random_networks):
    sides = {"ssim": 11, "f_ssim": 11, "ms_ssim": 161, "lpips": 64, "f_lpips": 64, "dists": 64}
    for name, side in sides.items():
        for size, expected in (((side, 170), False), ((170, side - 1), True)):
            small = [one.resize(size) for one in pair]
            region = box_region((0, 0, 9, 9), size)
            assert np.isnan(value_of(name, small, region=region)) == expected, (name, size)
