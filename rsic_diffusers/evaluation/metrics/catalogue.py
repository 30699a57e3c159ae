"""What there is to know of each metric before it is loaded."""

from dataclasses import dataclass


ALEXNET = "AlexNet's weights from download.pytorch.org"
VGG = "VGG16's weights from download.pytorch.org"
CLIP = "CLIP ViT-B/32 from huggingface.co"
INCEPTION = "FID's Inception network from github.com/toshas/torch-fidelity"


@dataclass(frozen=True)
class Metric:
    """What there is to know of a metric before it is loaded.

    Args:
        label: As it is written in a table.
        higher_is_better.
        digits: That are worth printing after the decimal point.
        needs_region, needs_caption: Arguments that the loaded metric cannot do without.
        download: What is downloaded the first time that it is loaded, and from where.
        by_default: Whether an evaluation measures it unless told otherwise (and leaves it out, with a line of why, if
            its weights cannot be had).
        min_side: Of the pictures, in pixels. The metric of smaller ones is NaN.
    """

    label: str
    higher_is_better: bool
    digits: int
    needs_region: bool = False
    needs_caption: bool = False
    download: str | None = None
    by_default: bool = True
    min_side: int = 1

    @property
    def needs_download(self) -> bool:
        return self.download is not None


PICTURE_METRICS = {
    "psnr": Metric("PSNR", True, 2),
    "ssim": Metric("SSIM", True, 4, min_side=11),
    "ms_ssim": Metric("MS-SSIM", True, 4, min_side=161),
    "lpips": Metric("LPIPS", False, 4, download=ALEXNET, min_side=64),
    "dists": Metric("DISTS", False, 4, download=VGG, min_side=64),
    "clip": Metric("CLIP score", True, 2, needs_caption=True, download=CLIP, by_default=False),
    "f_psnr": Metric("f-PSNR", True, 2, needs_region=True),
    "f_ssim": Metric("f-SSIM", True, 4, needs_region=True, min_side=11),
    "f_lpips": Metric("f-LPIPS", False, 4, needs_region=True, download=ALEXNET, min_side=64),
    "f_dists": Metric("f-DISTS", False, 4, needs_region=True, download=VGG, min_side=64),
    "b_psnr": Metric("b-PSNR", True, 2, needs_region=True),
    "b_lpips": Metric("b-LPIPS", False, 4, needs_region=True, download=ALEXNET, min_side=64),
    "b_dists": Metric("b-DISTS", False, 4, needs_region=True, download=VGG, min_side=64),
}
SET_METRICS = {
    "feature_distance": Metric("Frechet distance (EfficientNet-Lite0)", False, 1),
    "fid": Metric("FID", False, 2, download=INCEPTION, by_default=False),
    "kid": Metric("KID", False, 5, download=INCEPTION, by_default=False),
}
