import os
import subprocess
import sys


# Each of pytest-xdist's workers, and what it starts, has its share of the cores; torch reads this when it is imported.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    cores = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))

import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image


@pytest.fixture(scope="session")
def photo():
    """A real photo that a dependency ships, 512 x 600."""
    return Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


@pytest.fixture(scope="session")
def small_photo(photo):
    """Odd sides, so that every padding is used: 203 x 165."""
    return photo.crop((150, 40, 353, 205))


@pytest.fixture(scope="session")
def encoder():
    from rsic_diffusers import RSICEncoderPipeline

    pipeline = RSICEncoderPipeline.from_pretrained("rsic-tiny")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def decoder():
    from rsic_diffusers import RSICDecoderPipeline

    pipeline = RSICDecoderPipeline.from_pretrained("rsic-tiny")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def hsvlc(decoder):
    return decoder.hsvlc


@pytest.fixture
def run_python(tmp_path):
    """Run code in a fresh process and return what it printed."""

    def run(code, *argv, **environment):
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *map(str, argv)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def photo_latents(encoder, small_photo):
    """z_0 of the small photo, (1, 4, 21, 26)."""
    from rsic_diffusers.pipelines.latents import encode_image

    with torch.no_grad():
        return encode_image(encoder.vae, encoder.image_processor.preprocess(small_photo))


@pytest.fixture(scope="session")
def files(encoder, photo):
    """Three of 64 x 64: two with one caption, one with none."""
    photos = [photo.crop((x, 80, x + 64, 144)) for x in (150, 200, 250)]
    return encoder(photos, caption=["a woman in a cap", None, "a woman in a cap"], weight=0.2).bitstream
