"""The photo of `rsic demo`, the page and the benchmarks: a portrait in the public domain that matplotlib ships."""

from pathlib import Path


CAPTION = "a woman in a navy uniform and cap in front of a flag"
BOX = (150, 40, 370, 310)  # her face: corners (x0, y0, x1, y1) in pixels


def example_path() -> Path:
    """A JPEG of 512 x 600 pixels."""
    from matplotlib.cbook import get_sample_data  # takes long

    return Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
