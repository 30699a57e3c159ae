"""Fixed-point convolutions: exact, and what training sees."""

import numpy as np
import pytest
import torch

from rsic_diffusers.models.fixed_point import FixedPointConv2d


def test_fixed_point_convolution_equals_python_integers():
    torch.manual_seed(0)
    layer = FixedPointConv2d(3, 2, 3)
    torch.nn.init.normal_(layer.weight, std=2)
    layer.update()
    x = torch.randint(-32767, 32768, (1, 3, 4, 5)).double()
    ours = layer.forward_integer(x)
    weight, bias = layer.weight_integer.tolist(), layer.bias_integer.tolist()
    padded = np.pad(x[0].numpy().astype(object), ((0, 0), (1, 1), (1, 1)))
    for o in range(2):
        for row in range(4):
            for column in range(5):
                total = bias[o]
                for c in range(3):
                    for dy in range(3):
                        for dx in range(3):
                            total += weight[o][c][dy][dx] * int(padded[c, row + dy, column + dx])
                assert int(ours[0, o, row, column]) == min(max((total + 2048) >> 12, 0), 32767)


@pytest.mark.parametrize("name, value", [("weight", float("inf")), ("bias", float("nan")), ("bias", 3000.0)])
def test_what_no_integer_can_be_is_refused(name, value):
    layer = FixedPointConv2d(3, 2, 3)
    getattr(layer, name).data.view(-1)[0] = value
    with pytest.raises(ValueError, match="training diverged"):
        layer.update()


def test_fixed_point_convolution_is_what_training_sees():
    torch.manual_seed(0)
    layer = FixedPointConv2d(8, 8, 3)
    layer.update()
    x = torch.randint(0, 2000, (1, 8, 9, 9)).double()
    difference = layer.forward_integer(x) - 256 * layer((x / 256).float()).double()
    assert difference.abs().max() <= 1  # one unit of 1/256, from float32's own rounding at ties
