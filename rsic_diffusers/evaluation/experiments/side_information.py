"""What the caption and the map cost, as two Markdown tables: bytes against zlib, and against raw cells.

    python -m rsic_diffusers.evaluation.experiments.side_information --annotations PHOTOS/annotations.json

The captions are those of the annotations (as `rsic evaluate` takes them, with the photos beside them), if given, and
those of `held_out_captions.txt`, which no dictionary was made from. The maps have 8 levels and are those of the
annotations' boxes and masks, of random boxes, and of random smooth heat maps such as GEM makes, in pictures of 256 to
1024 pixels a side. Raw cells take 3 bits each, rounded up to bytes. Sizes are those of the parts in the file.
"""

import argparse
import zlib
from importlib import resources
from pathlib import Path

import numpy as np

from ...bitstream.caption_coding import encode_caption
from ...bitstream.map_coding import encode_map
from ...bitstream.weight_map import WeightMap, grid_size
from ...referring.demands import Demand, make_weight_map
from ..photos import Photo, find_photos


LEVELS = 8
MAPS = 200  # of each random kind
SIDES = (256, 1024)  # pixels
MIN_BOX = 32  # pixels


def held_out_captions() -> list[str]:
    """Ordinary captions of 8 to 40 words, written before the dictionary."""
    text = resources.files(__package__).joinpath("held_out_captions.txt").read_text("utf-8")
    return text.splitlines()


def annotated_maps(photos: list[Photo]) -> list[WeightMap]:
    """M of the box or mask of each photo that has one."""
    maps = []
    for photo in photos:
        width, height = size = photo.open().size
        demand = photo.demand(size)
        if demand:
            maps.append(make_weight_map(height, width, [Demand(**demand)], levels=LEVELS))
    return maps


def random_box_map(rng: np.random.Generator, height: int, width: int) -> WeightMap:
    """M of one box of at least 32 pixels a side, with any weight above 1/2 and any background below it."""
    x0, y0 = (rng.uniform(0, side - MIN_BOX) for side in (width, height))
    x1, y1 = rng.uniform(x0 + MIN_BOX, width), rng.uniform(y0 + MIN_BOX, height)
    weight, background = rng.uniform(0.5, 1), rng.uniform(0, 0.5)
    return make_weight_map(height, width, [Demand(box=(x0, y0, x1, y1), weight=weight)], background, LEVELS)


def random_heat_map(rng: np.random.Generator, height: int, width: int) -> WeightMap:
    """M of one to three Gaussian blobs of any direction, deviations of 8 to 30 % of a side, stretched to 0 to 1."""
    rows, columns = grid_size(height, width)
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    heat = np.zeros((rows, columns))
    for _ in range(rng.integers(1, 4)):
        (x0, y0), angle, peak = rng.uniform(0.15, 0.85, 2), rng.uniform(0, np.pi), rng.uniform(0.5, 1)
        along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
        across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
        deviations = rng.uniform(0.08, 0.3, 2)
        blob = peak * np.exp(-((along / deviations[0]) ** 2 + (across / deviations[1]) ** 2) / 2)
        heat = np.maximum(heat, blob)
    return WeightMap.quantize((heat - heat.min()) / np.ptp(heat), LEVELS)


def random_maps(make, seed: int = 0, sides=SIDES) -> list[WeightMap]:
    """200 maps by `make(rng, height, width)`, heights and widths even between `sides`."""
    rng = np.random.default_rng(seed)
    return [make(rng, *rng.integers(sides[0], sides[1] + 1, 2).tolist()) for _ in range(MAPS)]


def caption_bytes(captions: list[str]) -> dict[str, float]:
    """Mean bytes of a caption: raw, by zlib, and as files hold it."""
    texts = [caption.encode() for caption in captions]
    return {
        "raw": np.mean([len(text) for text in texts]),
        "zlib": np.mean([len(zlib.compress(text, 9)) for text in texts]),
        "chosen": np.mean([len(encode_caption(caption)[1]) for caption in captions]),
    }


def map_bytes(maps: list[WeightMap]) -> dict[str, float]:
    """Mean bytes of a map: raw cells, and as files hold it."""
    return {
        "raw": np.mean([-(-weight_map.cells.size * 3 // 8) for weight_map in maps]),
        "chosen": np.mean([len(encode_map(weight_map)) for weight_map in maps]),
    }


def saving(sizes: dict[str, float], reference: str) -> float:
    """How many percent fewer bytes than `reference`, on average."""
    return 100 * (1 - sizes["chosen"] / sizes[reference])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="an annotations.json with captions and boxes")
    args = parser.parse_args()
    if args.annotations and not args.annotations.is_file():
        parser.error(f"{args.annotations} is no file; give an annotations.json, or leave it out.")
    try:
        photos = find_photos(args.annotations.parent, args.annotations) if args.annotations else []
    except ValueError as error:
        parser.error(str(error))

    captions = {"held-out list": held_out_captions()}
    maps = {"random boxes": random_maps(random_box_map), "heat maps": random_maps(random_heat_map)}
    own_captions, own_maps = [photo.caption for photo in photos if photo.caption], annotated_maps(photos)
    if own_captions:
        captions = {"annotations": own_captions, **captions}
    if own_maps:
        maps = {"annotated regions": own_maps, **maps}

    print("| captions | number | raw | zlib | chosen | under zlib |\n|---|---:|---:|---:|---:|---:|")
    for name, some in captions.items():
        sizes = caption_bytes(some)
        columns = f"{sizes['raw']:.1f} | {sizes['zlib']:.1f} | {sizes['chosen']:.1f}"
        print(f"| {name} | {len(some)} | {columns} | {saving(sizes, 'zlib'):.1f} % |")
    print("\n| maps | number | raw | chosen | under raw |\n|---|---:|---:|---:|---:|")
    for name, some in maps.items():
        sizes = map_bytes(some)
        print(f"| {name} | {len(some)} | {sizes['raw']:.1f} | {sizes['chosen']:.1f} | {saving(sizes, 'raw'):.1f} % |")


if __name__ == "__main__":
    main()
