"""Fixed-point convolutions: the arithmetic that must give the same integers on every machine.

A prior that picks probabilities by floating point breaks files: one rounding that differs between two machines moves a
symbol into another CDF, and all that follows is noise. So the networks that pick them compute on integers:

    activations   integers in units of 1/256, clamped to 16 bits
    weights       integers in units of 1/4096, at most 16 bits
    accumulator   sum of products in units of 2^-20; exact in float64 since every partial sum stays below 2^53,
                  so that the order of summation cannot matter
    requantise    (accumulator + 2^11) // 2^12, then ReLU and clamp

Training runs the same network in floating point with rounding passed straight through, so what is trained is what is
exported.
"""

import torch
import torch.nn.functional as F
from torch import nn


ACTIVATION_BITS = 8
WEIGHT_BITS = 12
ACTIVATION_ONE = 1 << ACTIVATION_BITS
WEIGHT_ONE = 1 << WEIGHT_BITS
INT16_MAX = (1 << 15) - 1


def round_ste(x: torch.Tensor) -> torch.Tensor:
    """Round to the nearest integer; the gradient passes straight through."""
    return x + (torch.round(x) - x).detach()


class FixedPointConv2d(nn.Conv2d):
    """A convolution with a floating-point face for training and an integer face for coding.

    `forward` takes and gives floating-point activations; `forward_integer` takes and gives the same activations
    times 256, as whole numbers in a float64 tensor. `update` fills the integer weights from the floating-point ones.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, relu: bool = True):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.relu = relu
        # Integer buffers: no cast of the model to another dtype touches them.
        self.register_buffer("weight_integer", torch.zeros(self.weight.shape, dtype=torch.int16))
        self.register_buffer("bias_integer", torch.zeros(self.bias.shape, dtype=torch.int32))

    @property
    def activation_range(self) -> tuple[int, int]:
        return (0 if self.relu else -INT16_MAX, INT16_MAX)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        limit = INT16_MAX / WEIGHT_ONE
        weight = round_ste(self.weight.clamp(-limit, limit) * WEIGHT_ONE) / WEIGHT_ONE
        x = F.conv2d(x, weight, self.bias, padding=self.padding)
        low, high = self.activation_range
        return round_ste(x.clamp(low / ACTIVATION_ONE, high / ACTIVATION_ONE) * ACTIVATION_ONE) / ACTIVATION_ONE

    @torch.no_grad()
    def update(self) -> None:
        """ValueError if a weight is not finite, or a bias is too large for 32 bits."""
        largest_bias = (1 << 31) / (ACTIVATION_ONE * WEIGHT_ONE)
        if not (bool(self.weight.isfinite().all()) and bool((self.bias.abs() < largest_bias).all())):
            raise ValueError("A prior of this HSVLC holds NaN, infinite or huge weights: its training diverged.")
        weight = torch.round(self.weight.double() * WEIGHT_ONE).clamp(-INT16_MAX, INT16_MAX)
        self.weight_integer.copy_(weight)
        self.bias_integer.copy_(torch.round(self.bias.double() * (ACTIVATION_ONE * WEIGHT_ONE)))

    def forward_integer(self, x: torch.Tensor) -> torch.Tensor:
        # Always on the CPU: the integers are few, and not every accelerator has an exact float64 convolution.
        weight, bias = self.weight_integer.cpu().double(), self.bias_integer.cpu().double()
        x = F.conv2d(x, weight, bias, padding=self.padding)
        return torch.floor((x + WEIGHT_ONE // 2) / WEIGHT_ONE).clamp(*self.activation_range)
