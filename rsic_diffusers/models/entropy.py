"""The gated conditional entropy model: p(f_i | f_<i, M), a Gaussian with mean and scale, and its integer twin."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .fixed_point import ACTIVATION_ONE, INT16_MAX, FixedPointConv2d
from .rans import CDF_PRECISION


LEAST_LIKELIHOOD = 1e-9  # of a symbol, so that its logarithm is finite


class _LowerBound(torch.autograd.Function):
    """max(x, bound), with the gradient that leads back up where x is below the bound.

    By `clamp` a scale index below 0 would never come back, and its channel would be lost. compressai has such a bound
    too, but importing the package takes seconds, and decoding runs this.
    """

    @staticmethod
    def forward(ctx, x, bound):
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return torch.where((x >= ctx.bound) | (gradient < 0), gradient, 0), None


class ConditionalPrior(nn.Module):
    """The prior networks, coarse to fine, one for each coded scale.

    The network of scale i sees the decoded codes of the scale above (enlarged to its own grid), that scale's hidden
    features (through which it sees all coarser ones), and the weight map. Nothing else: the decoder has all of it
    before it reads a symbol of scale i, and all of it is whole numbers.

    Args:
        code_channels (`tuple[int]`): Channels of the coded scales, coarse to fine.
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

    def forward(self, place, weight_map, codes=None, hidden=None):
        """Floating-point prior of one scale.

        Args:
            place (`int`): Of the scale among the coded ones, coarse to fine.
            weight_map (`torch.Tensor` of shape (B, 1, h, w)): M on the grid of the scale, values in [0, 1].
            codes (`torch.Tensor` of shape (B, C', h', w')): Decoded, of the coded scale before; None for the first.
            hidden (`torch.Tensor` of shape (B, hidden_channels, h', w')): That scale's features; None for the first.

        Returns:
            mean (B, C, h, w), index into the table of scales in [0, num_scales - 1] (same shape, real-valued), hidden
            features (B, hidden_channels, h, w).
        """
        # As in `_apply`; under autocast training would see another network.
        with torch.autocast(weight_map.device.type, enabled=False):
            mean, index, hidden = self._run(place, weight_map, codes, hidden, integer=False)
        return mean, _LowerBound.apply(index, 0.0).clamp_max(self.num_scales - 1), hidden

    def forward_integer(self, place, weight_map, codes=None, hidden=None):
        """Integer prior of one scale: as `forward`, with every value times 256: whole numbers in float64 on the CPU.

        Returns:
            Of the shapes that `forward` has: mean in units of 1/256, scale index (int64, not times 256), hidden
            features in units of 1/256.
        """
        mean, index, hidden = self._run(place, weight_map, codes, hidden, integer=True)
        index = torch.floor((index + ACTIVATION_ONE // 2) / ACTIVATION_ONE).clamp(0, self.num_scales - 1)
        return mean, index.long(), hidden

    def _run(self, place, weight_map, codes, hidden, integer):
        limit = INT16_MAX if integer else INT16_MAX / ACTIVATION_ONE
        x = weight_map
        if self.conditional and place > 0:
            above = torch.cat([codes.clamp(-limit, limit), hidden], dim=1)
            x = torch.cat([x, F.interpolate(above, size=x.shape[-2:], mode="nearest-exact")], dim=1)
        if not integer:
            x = x.to(self.head[place].weight)
        for layer in self.body[place]:
            x = layer.forward_integer(x) if integer else layer(x)
        out = self.head[place].forward_integer(x) if integer else self.head[place](x)
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
        """Three lists, CDFs, their lengths and their offsets, as compressai's coder takes them."""
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
    return -torch.log2(_LowerBound.apply(upper - lower, LEAST_LIKELIHOOD))
