"""Metrics that are networks: LPIPS, DISTS and CLIP score. Their weights are downloaded when they are first loaded."""

from functools import cache

import numpy as np
import torch
from PIL import Image

from .. import downloads
from .pixel_metrics import to_tensor


# Not ViT-L/14: its text encoder is Stable Diffusion 1.x's, which the decoder itself follows.
CLIP = "openai/clip-vit-base-patch32"
MIN_SIDE = 64  # of a crop, in pixels: the networks halve it five times


@cache
def load_lpips(device):
    """Zhang et al. 2018, version 0.1, on AlexNet, at the pictures' own size."""
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)
    return lambda image, reference: without_gradients(network, image, reference, device)


@cache
def load_dists(device):
    """Ding et al. 2020, at the pictures' own size: the authors' script first makes the shorter side 256 pixels."""
    from torchmetrics.functional.image.dists import DISTSNetwork

    network = DISTSNetwork().eval().to(device)
    return lambda image, reference: without_gradients(network, image, reference, device)


def load_inside(load_metric):
    """A metric of the crop around a region, with the original's pixels outside the region in both pictures."""

    def load(device):
        metric = load_metric(device)

        def inside(image, reference, region):
            window = window_around(region, MIN_SIDE)
            return metric(np.where(region[..., None], image, reference)[window], reference[window])

        return inside

    return load


def load_outside(load_metric):
    """A metric of the whole picture, with the original's pixels inside the region in both pictures."""

    def load(device):
        metric = load_metric(device)

        def outside(image, reference, region):
            if region.all():
                return float("nan")
            return metric(np.where(region[..., None], reference, image), reference)

        return outside

    return load


def load_clip(device):
    """100 cos(picture, caption), 0 where it is negative (Hessel et al. 2021), on CLIP ViT-B/32.

    It looks at the decoded picture alone, and at the first 77 tokens of the caption. By transformers itself:
    torchmetrics' takes what its version 5 gives for features to be tensors.
    """
    from huggingface_hub import HfApi
    from transformers import CLIPModel, CLIPProcessor

    try:
        model, processor = (kind.from_pretrained(CLIP, local_files_only=True) for kind in (CLIPModel, CLIPProcessor))
    except OSError:
        HfApi().model_info(CLIP, timeout=downloads.PATIENCE)  # transformers itself would try for minutes
        model, processor = (kind.from_pretrained(CLIP) for kind in (CLIPModel, CLIPProcessor))
    model = model.eval().to(device)

    @torch.no_grad()
    def clip_score(image, reference, caption):
        inputs = processor(
            text=[caption], images=[Image.fromarray(image)], return_tensors="pt", padding=True, truncation=True
        )
        out = model(**inputs.to(device))
        return max(100 * (out.image_embeds @ out.text_embeds.T).item(), 0)

    return clip_score


@torch.no_grad()
def without_gradients(network, image, reference, device) -> float:
    return network(to_tensor(image, device), to_tensor(reference, device)).item()


def window_around(region, min_side) -> tuple[slice, slice]:
    """The rows and columns of a region's bounding box, grown to `min_side` and moved into the picture."""

    def span(occupied):
        first, last = np.flatnonzero(occupied)[[0, -1]]
        length = max(last + 1 - first, min_side)
        start = np.clip((first + last + 1 - length) // 2, 0, len(occupied) - length)
        return slice(start, start + length)

    return span(region.any(axis=1)), span(region.any(axis=0))


LOADERS = {
    "lpips": load_lpips,
    "f_lpips": load_inside(load_lpips),
    "b_lpips": load_outside(load_lpips),
    "dists": load_dists,
    "f_dists": load_inside(load_dists),
    "b_dists": load_outside(load_dists),
    "clip": load_clip,
}
