"""Building blocks of HSVLC's floating-point transforms."""

import torch
import torch.nn.functional as F
from torch import nn


class SFT(nn.Module):
    """Spatial feature transform: scale and shift of features, per position, as functions of the weight map M."""

    def __init__(self, channels: int, hidden_channels: int = 32):
        super().__init__()
        self.modulation = nn.Sequential(
            nn.Conv2d(1, hidden_channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden_channels, 2 * channels, 1),
        )
        nn.init.zeros_(self.modulation[-1].weight)
        nn.init.zeros_(self.modulation[-1].bias)

    def forward(self, weight_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = self.modulation(weight_map).chunk(2, dim=1)
        return 1 + scale, shift


class ResidualBlock(nn.Module):
    """Two convolutions modulated by M, around a skip connection; `modulation` is what its `sft` makes of M."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.sft = SFT(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, modulation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        scale, shift = modulation
        h = self.conv1(F.silu(x)) * scale + shift
        return x + self.conv2(F.silu(h))


class DownBlock(nn.Module):
    """Halve height and width, then a residual block."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.down = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, out_channels, 3, padding=1))
        self.block = ResidualBlock(out_channels)

    def forward(self, x: torch.Tensor, modulation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.block(self.down(x), modulation)


class UpBlock(nn.Module):
    """A residual block, then double height and width."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.block = ResidualBlock(in_channels)
        self.up = nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1), nn.PixelShuffle(2))

    def forward(self, x: torch.Tensor, modulation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.up(self.block(x, modulation))
