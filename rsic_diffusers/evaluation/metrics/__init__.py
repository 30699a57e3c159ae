"""Metrics by name: on a picture, on a region of it, and on sets of pictures.

    metrics = load_picture_metrics(["psnr", "f_psnr"])
    metrics["f_psnr"](decoded, original, region=box_region(box, original.size))

What is inside a region, and how its border is treated, is said once, here:

- f-PSNR: over the region's pixels, and no others.
- f-SSIM: the mean over the region's pixels of the whole picture's SSIM map. Windows (11 x 11) at the region's border
  see pixels outside it; at the picture's border they see it mirrored.
- f-LPIPS, f-DISTS: of the crop to the region's bounding box, grown to 64 pixels a side where it is smaller. Pixels of
  the crop outside the region are the original's in both pictures, so that they add no difference of their own.
- b-PSNR, b-LPIPS, b-DISTS: of the background, all that is not in the region. b-PSNR is over its pixels. The other two
  are of the whole picture, with the original's pixels inside the region in both pictures. They have no value where the
  region is the whole picture.
"""

from .catalogue import PICTURE_METRICS, SET_METRICS, Metric
from .loaders import MetricUnavailable, load_available, load_picture_metrics, load_set_metrics
from .pixel_metrics import box_region, psnr


__all__ = [
    "PICTURE_METRICS",
    "SET_METRICS",
    "Metric",
    "MetricUnavailable",
    "box_region",
    "load_available",
    "load_picture_metrics",
    "load_set_metrics",
    "psnr",
]
