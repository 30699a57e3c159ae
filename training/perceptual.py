"""Losses that follow what people see: LPIPS and DISTS with their published weights."""

import torch
from torch import nn


class PerceptualLoss(nn.Module):
    """LPIPS and DISTS, by torchmetrics, as losses between pictures with values in [-1, 1].

    `names` lists them. LPIPS on AlexNet takes a twelfth of the time of LPIPS on VGG-16, and DISTS takes twice
    the time of LPIPS on VGG-16.

    Raises:
        SystemExit: torchmetrics is not installed, or the networks' weights are not found.
    """

    names = ("LPIPS (AlexNet)", "LPIPS (VGG)", "DISTS")

    def __init__(self):
        super().__init__()
        try:
            from torchmetrics.functional.image.dists import DISTSNetwork
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.alex = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
            self.vgg = LearnedPerceptualImagePatchSimilarity(net_type="vgg").net
            self.dists = DISTSNetwork()
        except (ImportError, OSError) as error:
            raise SystemExit(
                'The perceptual loss needs torchmetrics (pip install "rsic-diffusers[evaluation]") and the weights of '
                f"AlexNet and VGG-16, which torchvision looks for in TORCH_HOME and then downloads: {error}"
            ) from None
        # DISTS compares means and covariances of features, which half precision is too coarse for.
        half_features = self.dists.forward_once
        self.dists.forward_once = lambda x: [features.float() for features in half_features(x)]
        self.requires_grad_(False).eval()

    def forward(self, name: str, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The distance `name`, one of `names`, of each pair of a batch; `image` is clamped to [-1, 1] first."""
        image = image.clamp(-1, 1)
        if name == "DISTS":
            return self.dists((image + 1) / 2, (target + 1) / 2, require_grad=True)
        network = {"LPIPS (AlexNet)": self.alex, "LPIPS (VGG)": self.vgg}[name]
        return network(image, target).flatten()
