"""Metrics of pictures and regions against a computation of another kind."""

import numpy as np
import pytest
from metric_values import arrays, value_of
from PIL import Image
from scipy.ndimage import correlate1d

from rsic_diffusers.evaluation.metrics import box_region, load_available, load_picture_metrics, load_set_metrics, psnr


def test_psnr_by_hand():
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (16, 16, 16))
    assert psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 256))
    half = black.copy()
    half.paste((16, 16, 16), (0, 0, 4, 8))
    assert psnr(half, black) == pytest.approx(10 * np.log10(255**2 / 128))
    assert psnr(half, black, box=(4, 0, 8, 8)) == float("inf")
    assert psnr(half, black, box=(0.5, 0, 4, 8)) == pytest.approx(10 * np.log10(255**2 / 256))


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
