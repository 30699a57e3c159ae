"""Rates and distortions, summed up."""

import numpy as np


def test_half_the_bits_are_half_the_bits():
    """A decibel of latent error and half a one of the picture for each doubling of the rate: a line, done by hand."""
    from rsic_diffusers.evaluation.experiments.rate_distortion import against_constant_maps

    def row(kind, k, share, inside=1.0):
        bpp, error = 0.001 * 2**k * share, inside * 10 ** (-k / 10)
        return {"codec": "a", "maps": kind, "k": k, "bpp": bpp, "mse inside": error, "psnr inside": 15 + k / 2}

    rows = [row("constant", k, 1.0) for k in range(8)] + [row("referring", k, 0.5) for k in range(1, 8)]
    without_box = [row("constant", k, 9.0, np.nan) for k in range(8)]  # a photo without a box, which must not count
    assert against_constant_maps(rows + without_box, "a") == [
        "BD-rate of referring to constant M, a, latent mse inside: -50.0 %",
        "BD-PSNR of referring to constant M, a, latents inside: +1.00 dB",
        "BD-PSNR of referring to constant M, a, pictures inside: +0.50 dB",
    ]


def test_curves_that_fall_have_no_difference():
    """The package takes a curve that falls as a whole, that of a hardly trained codec, for a fault of the caller's."""
    from rsic_diffusers.evaluation.experiments.rate_distortion import bjontegaard, bjontegaard_difference

    rates = np.array([0.01, 0.02, 0.04, 0.08])
    rising = {"bpp": rates, "mse": np.array([0.4, 0.3, 0.2, 0.1])}
    for falling in ([0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1, 0.4]):
        curve = {"bpp": rates, "mse": np.array(falling)}
        for pair in ((curve, rising), (rising, curve)):
            assert np.isnan(bjontegaard_difference(bjontegaard.bd_rate, *pair, "mse"))
