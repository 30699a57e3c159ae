"""What HSVLC returns, and what it makes of M for many calls."""

from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput


@dataclass
class HSVLCOutput(BaseOutput):
    """
    Output of [`HSVLC.forward`].

    Args:
        sample (`torch.Tensor` of shape (B, 4, h, w)): The decoded latents.
        bits (`list[torch.Tensor]`, *optional*): For each coded scale, coarse to fine, bits by code element,
            (B, C_i, h_i, w_i); zero behind closed gates. None unless they were asked for.
    """

    sample: torch.Tensor
    bits: list[torch.Tensor] | None = None


@dataclass
class HSVLCCompressOutput(BaseOutput):
    """
    Output of [`HSVLC.compress`].

    Args:
        data (`bytes`): The rANS stream.
        bits_per_scale (`list[float]`): Information content of each coded scale in bits, coarse to fine (digits
            after an escape not counted).
    """

    data: bytes
    bits_per_scale: list[float]


@dataclass
class Conditions:
    """All that HSVLC computes from M alone, coarse to fine. Many calls with one M can share it.

    Args:
        maps (`list[torch.Tensor]`): M on the grids of 1/16, 1/8, 1/4, 1/2 and 1 of the padded latents.
        down, up (`list[tuple[torch.Tensor, torch.Tensor]]`): Scale and shift in the blocks of each of the first four
            grids.
        out (`tuple[torch.Tensor, torch.Tensor]`): Scale and shift in the last block.
        gains (`list[torch.Tensor]`): What each code is multiplied by before rounding, and divided by afterwards.
    """

    maps: list[torch.Tensor]
    down: list[tuple[torch.Tensor, torch.Tensor]]
    up: list[tuple[torch.Tensor, torch.Tensor]]
    out: tuple[torch.Tensor, torch.Tensor]
    gains: list[torch.Tensor]
