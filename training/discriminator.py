"""The patch discriminator of the adversarial stage, and the weight that its verdict gets."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges patches of some 70 pixels, as that of pix2pix (arXiv 1611.07004), with spectral norms for batch norms.

    Its output is a map of verdicts, larger where the picture looks real.
    """

    def __init__(self, channels: int = 64):
        super().__init__()
        widths = (3, channels, 2 * channels, 4 * channels)
        halving = [
            spectral_norm(nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1))
            for in_channels, out_channels in pairwise(widths)
        ]
        last = [spectral_norm(nn.Conv2d(widths[-1], widths[-1], 4, padding=1)), nn.Conv2d(widths[-1], 1, 4, padding=1)]
        self.layers = nn.ModuleList(halving + last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            image = F.leaky_relu(layer(image), 0.2)
        return self.layers[-1](image)

    def generator_loss(self, image: torch.Tensor) -> torch.Tensor:
        """Minus the mean verdict on `image`. Its gradient goes to the image, not to the discriminator's weights."""
        self.requires_grad_(False)
        loss = -self(image).float().mean()
        self.requires_grad_(True)
        return loss

    def hinge_loss(self, real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the discriminator itself minimises, and how far the mean verdicts lie apart."""
        real, fake = self(real).float(), self(fake.detach()).float()
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), (real.mean() - fake.mean()).detach()


def adaptive_weight(reconstruction: torch.Tensor, adversarial: torch.Tensor, last_layer: torch.Tensor) -> torch.Tensor:
    """The ratio of the two losses' gradients in the decoder's last layer (arXiv 2012.09841, Eq. 7)."""
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0, 1e4).detach()
