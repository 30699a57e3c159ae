"""Metrics by name."""

import numpy as np

from rsic_diffusers.evaluation.metrics import load_picture_metrics


def arrays(pair):
    return [np.asarray(one, dtype=np.float64) for one in pair]


def value_of(name, pair, **arguments):
    return load_picture_metrics([name])[name](*pair, **arguments)
