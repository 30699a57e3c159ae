"""What a trained codec costs and what it loses at each level of M, measured and stored in its config."""

from collections.abc import Iterable

import torch

from .rate import MEASURED_LEVELS


@torch.no_grad()
def measure_codec(hsvlc, latents: Iterable[torch.Tensor]) -> None:
    """Measure a codec on photos' latents and register `latent_variance`, `level_bpp` and `level_error` in its config.

    Every latent is coded to a real stream and decoded again, with M = 0, 1/7, ..., 1 everywhere.

    Args:
        hsvlc ([`HSVLC`]): Ready to code, that is after `update()`.
        latents (iterable of `torch.Tensor` of shape (1, 4, h, w)): scaling_factor x the VAE's latents, of photos that
            the codec will meet the like of. A few dozen are enough.
    """
    bits, squared_error, positions = [0.0] * MEASURED_LEVELS, [0.0] * MEASURED_LEVELS, 0
    total = squared_total = torch.zeros(hsvlc.config.latent_channels, dtype=torch.float64)
    for latent in latents:
        latent = latent.to(hsvlc.device, hsvlc.dtype)
        shape = tuple(latent.shape[-2:])
        positions += shape[0] * shape[1]
        total = total + latent.double().sum(dim=(0, 2, 3)).cpu()
        squared_total = squared_total + latent.double().square().sum(dim=(0, 2, 3)).cpu()
        for k in range(MEASURED_LEVELS):
            weight_map = torch.full(hsvlc.map_shape(*shape), k / (MEASURED_LEVELS - 1))
            data = hsvlc.compress(latent, weight_map).data
            decoded = hsvlc.decompress(data, weight_map, shape)
            bits[k] += 8 * len(data)
            squared_error[k] += float((decoded - latent).double().square().mean(dim=1).sum())
    if not positions:
        raise ValueError("There are no latents to measure the codec on; give those of at least one photo.")
    variance = squared_total / positions - (total / positions).square()
    hsvlc.register_to_config(
        latent_variance=[_rounded(value) for value in variance.tolist()],
        level_bpp=[_rounded(value / (64 * positions)) for value in bits],
        level_error=[_rounded(value / positions) for value in squared_error],
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
