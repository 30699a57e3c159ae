"""The measuring instruments themselves."""

import io

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.evaluation.metrics import psnr
from rsic_diffusers.evaluation.standard_codecs import best_standard_codec


def test_psnr_by_hand():
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (16, 16, 16))
    assert psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 256))
    half = black.copy()
    half.paste((16, 16, 16), (0, 0, 4, 8))
    assert psnr(half, black) == pytest.approx(10 * np.log10(255**2 / 128))
    assert psnr(half, black, box=(4, 0, 8, 8)) == float("inf")
    assert psnr(half, black, box=(0.5, 0, 4, 8)) == pytest.approx(10 * np.log10(255**2 / 256))


def test_standard_codec_fits_and_decodes(small_photo):
    result = best_standard_codec(small_photo, 1500)
    assert result.fits and len(result.data) <= 1500
    np.testing.assert_array_equal(
        np.asarray(result.image), np.asarray(Image.open(io.BytesIO(result.data)).convert("RGB"))
    )
    assert psnr(result.image, small_photo) > 20


def test_standard_codec_that_cannot_go_so_low_gives_its_smallest_file(small_photo):
    result = best_standard_codec(small_photo, 30)
    assert not result.fits and len(result.data) < 700
