"""How the codec trades bits against error as a function of M: its gates and lambda(M).

It imports nothing of this package, so that every module may use it.
"""

import math
from typing import Any


MEASURED_LEVELS = 8  # what a codec costs and loses is measured at M = 0, 1/7, ..., 1

# The paper's gates, and its lambda(M) = 0.01 exp(7 M) for a rate in bits per pixel. Here the rate is in bits per
# latent position, which stands for 64 pixels.
PAPER_PROFILE: dict[str, Any] = {"gates": (0.0, 0.5, 0.75, 0.875), "rate_lambda": 0.64, "lambda_growth": 7.0}
# Gates that open where a scale starts to be worth its bits, so that the rate grows with M without a leap.
SMOOTH_PROFILE: dict[str, Any] = {"gates": (0.0, 0.0, 0.1, 0.2), "rate_lambda": 0.14, "lambda_growth": 8.2}


def distortion_weight(weight, rate_lambda: float, lambda_growth: float):
    """lambda(M): how many bits per latent position the codec gives for one unit of relative squared error.

    Args:
        weight (`float`, `np.ndarray` or `torch.Tensor`): M, values in [0, 1].
        rate_lambda (`float`): lambda(0). It multiplies the mean squared error divided by the latents' variance.
        lambda_growth (`float`): lambda(1) is exp(lambda_growth) times as much.

    Returns:
        lambda(M), of the type and shape of `weight`.
    """
    return rate_lambda * math.exp(lambda_growth) ** weight
