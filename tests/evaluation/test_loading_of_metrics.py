"""Metrics that cannot be had are one line, and what is not asked for is not loaded."""

import socket
import sys

import pytest

from rsic_diffusers.evaluation import downloads
from rsic_diffusers.evaluation.metrics import (
    PICTURE_METRICS,
    SET_METRICS,
    MetricUnavailable,
    learned_metrics,
    load_available,
    load_picture_metrics,
    load_set_metrics,
)


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
    assert reason.endswith("connect to the internet once, or see the offline hint of rsic evaluate --help.")
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
