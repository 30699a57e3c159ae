"""The prior networks' gradients, which training needs where coding does not look."""

import torch

from rsic_diffusers.models.entropy import ConditionalPrior, gaussian_bits


def test_an_index_below_the_table_is_led_back_into_it():
    """A channel whose bits would fall with a wider Gaussian gets a gradient there, and a quiet one is left alone."""
    prior = ConditionalPrior((1,), 4, num_scales=8)
    head = prior.head[0]
    head.weight.data.zero_()
    head.bias.data.copy_(torch.tensor([0.0, -2.5]))  # mean, and an index below 0
    for residual, is_led_back in ((0.7, True), (0.0, False)):
        head.bias.grad = None
        _, index, _ = prior(0, torch.zeros(1, 1, 2, 2))
        assert index.min() == index.max() == 0.0
        gaussian_bits(torch.full_like(index, residual), 0.11 * torch.exp(index)).sum().backward()
        gradient = float(head.bias.grad[1])
        assert gradient < -0.1 if is_led_back else gradient == 0.0


def test_a_symbol_far_outside_has_finite_bits_and_a_way_back():
    residual = torch.tensor([2.0, 0.25], requires_grad=True)
    bits = gaussian_bits(residual, torch.tensor([0.3, 0.3]))
    bits.sum().backward()
    assert torch.isfinite(bits).all() and (residual.grad > 0).all()
    # Of the second, the bits of a Gaussian by hand.
    normal = torch.distributions.Normal(0.0, 0.3)
    expected = -torch.log2(normal.cdf(torch.tensor(0.75)) - normal.cdf(torch.tensor(-0.25)))
    torch.testing.assert_close(bits[1], expected, rtol=1e-4, atol=1e-5)
