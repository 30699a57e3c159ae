"""The gated conditional entropy model: p(f_i | f_<i, M), a Gaussian with mean and scale, and its integer twin."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .fixed_point import ACTIVATION_ONE, INT16_MAX, FixedPointConv2d
from .rans import CDF_PRECISION


class ConditionalPrior(nn.Module):
    """The prior networks, coarse to fine, one for each scale.

    The network of scale i sees the decoded codes of the scale above (enlarged to its own grid), that scale's hidden
    features (through which it sees all coarser ones), and the weight map. Nothing else: the decoder has all of it
    before it reads a symbol of scale i, and all of it is whole numbers.

    Args:
        code_channels (`tuple[int]`): Channels of f_0 (coarsest) to f_3 (finest).
        hidden_channels (`int`): Width of the networks.
        num_scales (`int`): Entries in the table of Gaussian scales that the last layer points into.
        conditional (`bool`): False leaves the weight map alone to choose p(f_i | M): an ablation.
    """

    def __init__(
        self, code_channels: tuple[int, ...], hidden_channels: int, num_scales: int, conditional: bool = True
    ):
        super().__init__()
        self.num_scales = num_scales
        self.conditional = conditional
        self.body = nn.ModuleList()
        self.head = nn.ModuleList()
        for i, channels in enumerate(code_channels):
            in_channels = 1 + code_channels[i - 1] + hidden_channels if conditional and i > 0 else 1
            self.body.append(
                nn.ModuleList(
                    [
                        FixedPointConv2d(in_channels, hidden_channels, 3),
                        FixedPointConv2d(hidden_channels, hidden_channels, 3),
                    ]
                )
            )
            self.head.append(FixedPointConv2d(hidden_channels, 2 * channels, 1, relu=False))
            nn.init.zeros_(self.head[i].bias)
            # Start in the middle of the scale table, where gradients reach both ends.
            nn.init.constant_(self.head[i].bias[channels:], num_scales / 2)
            nn.init.normal_(self.head[i].weight, std=0.02)

    def _apply(self, fn, recurse=True):
        """Moves go through, casts to half precision do not: it cannot hold the weights' whole 1/4096ths."""

        def apply(tensor):
            changed = fn(tensor)
            if tensor.dtype == torch.float32 and changed.dtype in (torch.float16, torch.bfloat16):
                return tensor.to(changed.device)
            return changed

        return super()._apply(apply, recurse)

    def forward(self, i, weight_map, codes=None, hidden=None):
        """Floating-point prior of scale i.

        Args:
            weight_map (`torch.Tensor` of shape (B, 1, h_i, w_i)): M on the grid of scale i, values in [0, 1].
            codes, hidden (`torch.Tensor`): Decoded codes and hidden features of scale i - 1; None for i = 0.

        Returns:
            mean (B, C_i, h_i, w_i), scale index in [0, num_scales - 1] (same shape, real-valued), hidden features.
        """
        # As in `_apply`; under autocast training would see another network.
        with torch.autocast(weight_map.device.type, enabled=False):
            mean, index, hidden = self._run(i, weight_map, codes, hidden, integer=False)
        return mean, index.clamp(0, self.num_scales - 1), hidden

    def forward_integer(self, i, weight_map, codes=None, hidden=None):
        """Integer prior of scale i: the same with every value times 256, whole numbers in float64 on the CPU.

        Returns:
            mean in units of 1/256, scale index (int64), hidden features in units of 1/256.
        """
        mean, index, hidden = self._run(i, weight_map, codes, hidden, integer=True)
        index = torch.floor((index + ACTIVATION_ONE // 2) / ACTIVATION_ONE).clamp(0, self.num_scales - 1)
        return mean, index.long(), hidden

    def _run(self, i, weight_map, codes, hidden, integer):
        limit = INT16_MAX if integer else INT16_MAX / ACTIVATION_ONE
        x = weight_map
        if self.conditional and i > 0:
            above = torch.cat([codes.clamp(-limit, limit), hidden], dim=1)
            x = torch.cat([x, F.interpolate(above, size=x.shape[-2:], mode="nearest-exact")], dim=1)
        if not integer:
            x = x.to(self.head[i].weight)
        for layer in self.body[i]:
            x = layer.forward_integer(x) if integer else layer(x)
        out = self.head[i].forward_integer(x) if integer else self.head[i](x)
        mean, index = out.chunk(2, dim=1)
        return mean, index, x

    def update(self) -> None:
        for module in self.modules():
            if isinstance(module, FixedPointConv2d):
                module.update()


class IntegerPriors:
    """The integer priors along the scales, each from the codes before it: the walk of encoder and decoder alike.

    Call `predict` and then `take` for each coded scale, coarse to fine.

    Args:
        prior ([`ConditionalPrior`]).
        coded_scales (`list[int]`): The scales that have a code.
        gates (`tuple[float]`): f_i is coded where M >= gates[i].
        maps (`list[torch.Tensor]`): M on all grids in units of 1/256, whole numbers in float64 on the CPU.

    Attributes:
        symbols (`list[torch.Tensor]`): q_i, int64 of shape (1, C_i, h_i, w_i), 0 behind closed gates.
        codes (`dict[int, torch.Tensor]`): f_i by scale, float64, same shape.
    """

    def __init__(self, prior: ConditionalPrior, coded_scales: list[int], gates: tuple[float, ...], maps: list):
        self.prior, self.coded_scales, self.gates, self.maps = prior, coded_scales, gates, maps
        self.symbols, self.codes = [], {}
        self._code = self._hidden = None  # of the scale before, in units of 1/256

    def predict(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The prior of f_i.

        Returns:
            Mean in units of 1/256 (float64), index into the CDFs (int64) and where the gate is open (bool), each of
            shape (1, C_i, h_i, w_i).
        """
        place = self.coded_scales.index(i)
        mean, index, self._hidden = self.prior.forward_integer(place, self.maps[i], self._code, self._hidden)
        gate = (self.maps[i] / ACTIVATION_ONE >= self.gates[i]).expand_as(mean)
        self._predicted = i, mean, gate
        return mean, index, gate

    def take(self, symbols: torch.Tensor) -> torch.Tensor:
        """Give the symbols where the gate is open, (N,) int64; returns f_i, float64."""
        i, mean, gate = self._predicted
        spread = torch.zeros(mean.shape, dtype=torch.int64, device="cpu")
        spread[gate] = symbols
        self._code = mean + ACTIVATION_ONE * spread
        self.symbols.append(spread)
        self.codes[i] = self._code / ACTIVATION_ONE
        return self.codes[i]


class GaussianCDFTables(nn.Module):
    """Integer CDFs of zero-mean Gaussians on a logarithmic ladder of scales.

    The tables are made once, by `update` at the end of training, and travel in the checkpoint: recomputed on another
    machine, a last bit could differ and old files would decode to noise.

    Args:
        num_scales (`int`): Number of Gaussians.
        scale_min, scale_max (`float`): Their smallest and largest standard deviation, in symbols.
    """

    def __init__(self, num_scales: int, scale_min: float, scale_max: float):
        super().__init__()
        self.scale_min = scale_min
        self.log_step = math.log(scale_max / scale_min) / (num_scales - 1)
        # Buffers of a size known before loading; the longest CDF has a bin per symbol within 6.2 deviations, a tail
        # bin, and the leading zero.
        max_length = 2 * math.ceil(6.2 * scale_max) + 3
        self.register_buffer("cdf", torch.zeros(num_scales, max_length, dtype=torch.int32))
        self.register_buffer("cdf_length", torch.zeros(num_scales, dtype=torch.int32))
        self.register_buffer("offset", torch.zeros(num_scales, dtype=torch.int32))

    def scale(self, index: torch.Tensor) -> torch.Tensor:
        """Standard deviation at a (real-valued) index."""
        return self.scale_min * torch.exp(self.log_step * index)

    @torch.no_grad()
    def update(self) -> None:
        # Training alone needs the package, whose import takes seconds.
        from compressai.entropy_models import GaussianConditional

        scales = self.scale(torch.arange(len(self.cdf), dtype=torch.float64)).tolist()
        gaussian = GaussianConditional(scales, scale_bound=self.scale_min)
        gaussian.update()
        cdf = gaussian.quantized_cdf
        self.cdf.zero_()
        self.cdf[:, : cdf.shape[1]] = cdf
        self.cdf_length.copy_(gaussian.cdf_length)
        self.offset.copy_(gaussian.offset)

    @property
    def ready(self) -> bool:
        return bool((self.cdf_length > 0).all())

    def as_lists(self):
        """`(cdfs, cdf_lengths, offsets)` as compressai's coder takes them."""
        return self.cdf.tolist(), self.cdf_length.tolist(), self.offset.tolist()

    def bits(self, symbols: torch.Tensor, indexes: torch.Tensor) -> float:
        """Bits of integer `symbols` under the integer tables (the digits that follow an escape not counted)."""
        position = symbols.long().cpu() - self.offset.cpu().long()[indexes]
        escape = self.cdf_length.cpu().long()[indexes] - 2  # the last bin stands for all symbols outside the table
        position = torch.where((position < 0) | (position > escape), escape, position)
        cdf = self.cdf.cpu().double()
        frequency = cdf[indexes, position + 1] - cdf[indexes, position]
        return float((CDF_PRECISION - torch.log2(frequency)).sum())


def gaussian_bits(residual: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Differentiable bits of `residual` (a symbol, or a symbol with uniform noise) under a unit-binned Gaussian."""
    # In the upper tail both CDFs are near 1 and their difference is lost to rounding; the lower tail is exact.
    residual = -residual.abs()
    upper = torch.special.ndtr((residual + 0.5) / scale)
    lower = torch.special.ndtr((residual - 0.5) / scale)
    return -torch.log2((upper - lower).clamp_min(1e-9))
