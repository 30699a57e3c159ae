"""Every metric against a computation of another kind. No weights are downloaded: the networks' are random here."""

import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageFilter
from scipy.ndimage import correlate1d

from rsic_diffusers.evaluation import downloads
from rsic_diffusers.evaluation.metrics import (
    PICTURE_METRICS,
    SET_METRICS,
    MetricUnavailable,
    box_region,
    learned_metrics,
    load_available,
    load_picture_metrics,
    load_set_metrics,
    psnr,
    set_distances,
)


@pytest.fixture(scope="module")
def pair(photo):
    """A damaged picture and the original, 208 x 176."""
    original = photo.crop((150, 40, 358, 216))
    return original.filter(ImageFilter.GaussianBlur(2)), original


def arrays(pair):
    return [np.asarray(one, dtype=np.float64) for one in pair]


def value_of(name, pair, **arguments):
    return load_picture_metrics([name])[name](*pair, **arguments)


GAUSSIAN = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
GAUSSIAN /= GAUSSIAN.sum()


def ssim_maps(x, y):
    """SSIM, and its contrast and structure alone, where all of the window is inside: (H - 10, W - 10, channels)."""

    def mean(z):
        return correlate1d(correlate1d(z, GAUSSIAN, axis=0), GAUSSIAN, axis=1)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    contrast_structure = (2 * (mean(x * y) - mx * my) + c2) / (mean(x * x) - mx**2 + mean(y * y) - my**2 + c2)
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1) * contrast_structure, contrast_structure


def test_ssim_by_hand(pair):
    assert value_of("ssim", pair) == pytest.approx(ssim_maps(*arrays(pair))[0].mean(), abs=1e-9)
    assert value_of("ssim", (pair[1], pair[1])) == 1


def test_ms_ssim_by_hand(pair):
    x, y = arrays(pair)
    factors = []
    for exponent in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        ssim, contrast_structure = ssim_maps(x, y)
        last = len(factors) == 4
        factors.append((ssim if last else contrast_structure).mean(axis=(0, 1)) ** exponent)
        if not last:
            halves = (x.shape[0] // 2, 2, x.shape[1] // 2, 2, 3)
            x, y = (one.reshape(halves).mean(axis=(1, 3)) for one in (x, y))
    assert value_of("ms_ssim", pair) == pytest.approx(np.prod(factors, axis=0).mean(), abs=1e-5)


def test_metrics_of_a_region_by_hand(pair):
    region = np.zeros((176, 208), dtype=bool)
    region[20:90, 30:80] = True
    region[40, 150] = True
    x, y = arrays(pair)
    expected = 10 * np.log10(255**2 / np.mean((x - y)[region] ** 2))
    assert value_of("f_psnr", pair, region=region) == pytest.approx(expected)
    expected = ssim_maps(x, y)[0][region[5:-5, 5:-5]].mean()
    assert value_of("f_ssim", pair, region=region) == pytest.approx(expected, abs=1e-9)


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


def test_box_region_holds_whole_pixels():
    region = box_region((0.5, -3, 4.9, 2), (6, 4))
    np.testing.assert_array_equal(np.argwhere(region), [(y, x) for y in (0, 1) for x in (1, 2, 3)])
    assert 0.07 * 100 > 7  # a fraction of a side
    assert box_region((0.07 * 100, 0, 0.14 * 100, 1), (100, 1)).sum() == 7
    for box in ((2.1, 0, 2.9, 4), (7, 0, 9, 4), (-5, 0, -1, 4)):
        with pytest.raises(ValueError, match="holds no whole pixel"):
            box_region(box, (6, 4))


def test_psnr_of_a_box_is_that_of_its_region(pair):
    box = (20.5, 30, 90, 120.7)
    assert psnr(*pair, box) == value_of("f_psnr", pair, region=box_region(box, pair[0].size))
    assert psnr(*pair) == value_of("psnr", pair)


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


@pytest.fixture(autouse=True)
def no_network_of_another_test():
    set_distances.inception_features.cache_clear()


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
    layers = zip(*(activations(alexnet, (2 * x - 1 - shift) / scale, (1, 4, 7, 9, 11)) for x in tensors(pair)))
    expected = 0
    for index, (a, b) in enumerate(layers):
        difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)) ** 2
        expected += (difference * weights[f"lin{index}.model.1.weight"]).sum(dim=1).mean().item()
    assert expected > 0.01
    assert value_of("lpips", pair) == pytest.approx(expected, rel=1e-4)
    region = box_region((20, 30, 140, 130), pair[0].size)
    crops = [one.crop((20, 30, 140, 130)) for one in pair]
    assert value_of("f_lpips", pair, region=region) == value_of("lpips", crops)


def test_dists_by_hand(pair, random_networks, vgg16):
    from torchmetrics.functional.image import dists as library

    weights = torch.load(library.__file__.replace("dists.py", "dists_models/weights.pt"), map_location="cpu")
    window = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16

    def pool(x):
        kernel = window.expand(x.shape[1], 1, 3, 3)
        return F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]).sqrt()

    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    layers = zip(*([x, *activations(vgg16, (x - mean) / std, (3, 8, 15, 22, 29), pool)] for x in tensors(pair)))
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
        return lambda images: set_distances.extract_features(images, set_distances.crops_of, network, device)

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


def test_small_pictures(pair, random_networks):
    sides = {"ssim": 11, "f_ssim": 11, "ms_ssim": 161, "lpips": 64, "f_lpips": 64, "dists": 64}
    for name, side in sides.items():
        for size, expected in (((side, 170), False), ((170, side - 1), True)):
            small = [one.resize(size) for one in pair]
            region = box_region((0, 0, 9, 9), size)
            assert np.isnan(value_of(name, small, region=region)) == expected, (name, size)


def test_bad_arguments_are_refused(pair):
    with pytest.raises(ValueError, match="no metric vmaf here; choose from psnr, ssim"):
        load_picture_metrics(["psnr", "vmaf"])
    with pytest.raises(ValueError, match="choose from feature_distance, fid, kid"):
        load_available(load_set_metrics, ["psnr"])
    with pytest.raises(ValueError, match="two pictures of one size, not 208 x 176 and 207 x 176"):
        value_of("psnr", (pair[0], pair[1].crop((0, 0, 207, 176))))
    full = np.ones((176, 208), dtype=bool)
    for region in (None, full & False, full.T, full.astype(np.uint8)):
        with pytest.raises(ValueError, match="f-PSNR needs a region: a boolean array of shape .176, 208."):
            value_of("f_psnr", pair, region=region)


DOWNLOADED = {name: known[name] for known in (PICTURE_METRICS, SET_METRICS) for name in known if known[name].download}


@pytest.fixture
def no_internet(monkeypatch, tmp_path):
    """A proxy that takes connections and never answers, empty caches, and little patience."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(learned_metrics, "CLIP", "nobody/no-clip")
        monkeypatch.setattr(downloads, "PATIENCE", 0.3)
        yield


@pytest.mark.parametrize("name", DOWNLOADED)
def test_absent_weights_are_one_line(no_internet, name, capsys):
    load = load_picture_metrics if name in PICTURE_METRICS else load_set_metrics
    loaded, (reason,) = load_available(load, [name])
    assert not loaded and "\n" not in reason
    assert reason.startswith(f"{DOWNLOADED[name].label} is not available: {DOWNLOADED[name].download} could not")
    assert reason.endswith("connect to the internet once.")
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == ""  # where the tables go


def test_absent_libraries_are_one_line(monkeypatch):
    for name in ("skimage.metrics", "torchmetrics.image", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    loaded, reasons = load_available(load_picture_metrics, ["psnr", "ssim", "f_ssim", "lpips"])
    assert list(loaded) == ["psnr"]
    assert [reason.split(" is not available")[0] for reason in reasons] == ["SSIM", "f-SSIM", "LPIPS"]
    assert all(reason.endswith('pip install "rsic-diffusers[evaluation]".') for reason in reasons)
    loaded, reasons = load_available(load_set_metrics, ["feature_distance", "fid"])
    assert not loaded and len(reasons) == 2
    with pytest.raises(MetricUnavailable):
        load_picture_metrics(["psnr", "ssim"])


def test_heavy_libraries_wait_until_they_are_asked_for(run_python):
    code = (
        "import sys; from rsic_diffusers.evaluation.metrics import load_picture_metrics\n"
        "load_picture_metrics(['psnr', 'f_psnr'])\n"
        "print([name for name in ('skimage', 'torchmetrics', 'torch_fidelity') if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"
