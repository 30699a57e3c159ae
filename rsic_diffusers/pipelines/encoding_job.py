"""One photo on its way through the encoder."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..bitstream import reduced_size
from ..bitstream.weight_map import WeightMap
from ..referring.demands import Demand


@dataclass
class PhotoJob:
    """A photo, what is asked for in it, and what the steps of the encoder make of it.

    Args:
        image (`torch.Tensor` of shape (1, 3, H, W)): The photo, values in [-1, 1].
        caption (`str`, *optional*): None until the captioner was asked.
        demands (`list[Demand]`): What must stay faithful.
        coded_side (`int`, *optional*): Long side at which the photo is coded, if not at its own size.
        weight_map (`WeightMap`, *optional*): M as asked for, before any budget.
        pixel_weights (`np.ndarray` of shape (h, w), *optional*): Weights of the pixels at the coded size, for
            refinement.
        vae_input (`torch.Tensor` of shape (1, 3, h, w), *optional*): The photo at its coded size.
        latents (`torch.Tensor` of shape (1, 4, ceil(h/8), ceil(w/8)), *optional*): z_0.
    """

    image: torch.Tensor
    caption: str | None
    demands: list[Demand]
    coded_side: int | None
    weight_map: WeightMap | None = None
    pixel_weights: np.ndarray | None = None
    vae_input: torch.Tensor | None = None
    latents: torch.Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photo as given."""
        return tuple(self.image.shape[-2:])

    @property
    def coded_size(self) -> tuple[int, int]:
        return reduced_size(*self.size, self.coded_side)


class EncodedFile(NamedTuple):
    data: bytes
    breakdown: dict[str, int]
    weight_map: WeightMap


def share_bytes(total: int, bits: dict[int, float]) -> dict[str, int]:
    """Split the bytes of the one stream over the scales, by their information; the parts sum to `total`.

    Args:
        total (`int`): Bytes.
        bits (`dict[int, float]`): Bits by scale, the coarsest first.

    Returns:
        `dict[str, int]`: Bytes by the scales' names, "f0" and so on.
    """
    ends = np.round(np.cumsum(list(bits.values())) / max(sum(bits.values()), 1e-9) * total).astype(int)
    ends[-1] = total
    return {f"f{i}": int(size) for i, size in zip(bits, np.diff(ends, prepend=0), strict=True)}
