"""How much like photos the surroundings of what was referred to look.

    python -m rsic_diffusers.evaluation.experiments.surroundings PHOTOS OTHER_PHOTOS OUT/pictures/*

PHOTOS is a folder with an `annotations.json` that holds boxes, as `rsic evaluate` takes it. OUT is what that wrote:
each folder in OUT/pictures holds what one method decoded. OTHER_PHOTOS are some hundred real photos of other things,
of about the size of PHOTOS, since a crop of a much larger photo shows less of its scene. All are held in memory.
It takes pip install "rsic-diffusers[evaluation]".

Two things are measured, on the features of crops of 128 x 128 pixels (`feature_distance`):

- How far the crops outside the boxes are from crops of OTHER_PHOTOS. What is imagined well is near to photos in
  general, whatever PHOTOS show there. Read the kernel distance (KID's formula, times 1000): the Frechet distance of
  few crops depends on their number, and pictures of less variety can come out nearer than photos. The first row, of
  the photos themselves, shows what good surroundings would have.
- The Frechet distance of all crops from PHOTOS, as `rsic evaluate` has it; and the same with real surroundings of
  other things: all that is outside the boxes is replaced by one of OTHER_PHOTOS. A model that imagined perfect photos,
  but not these, would get that.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from ...images import open_image
from ..metrics import load_set_metrics
from ..metrics.feature_distance import CROP, check_number_of_crops, frechet_distance, overlapping_crops
from ..metrics.set_distances import kernel_distance
from ..photos import find_photos


# A crop of which the box covers at most this share is outside.
MAX_COVERED = 0.25
ORIGINALS = "the photos themselves"


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("others", type=Path, metavar="OTHER_PHOTOS")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURES", help="folders of decoded PHOTOS")
    parser.add_argument(
        "--limit", type=int, default=300, help="at most so many of OTHER_PHOTOS, drawn at random (300)"
    )
    args = parser.parse_args(arguments)
    if args.limit < 1:
        parser.error(f"--limit must be at least 1 photo, got {args.limit}.")
    if args.others.resolve() == args.photos.resolve():
        parser.error(f"OTHER_PHOTOS must show other things than PHOTOS, but both are {args.photos}.")
    return args


def covered_shares(region: np.ndarray) -> np.ndarray:
    """Which share of each crop (`overlapping_crops`) of a picture is inside a region, boolean (H, W)."""
    return np.array([crop.mean() / 255 for crop in overlapping_crops(Image.fromarray(region))])


def with_other_surroundings(picture: Image.Image, region: np.ndarray, other: Image.Image) -> Image.Image:
    """`other`, cut and resized to the size of a picture, with the picture's region (boolean, (H, W)) in it."""
    return Image.composite(picture, ImageOps.fit(other, picture.size), Image.fromarray(region))


def read_pictures(folder: Path, photos) -> list[Image.Image]:
    """The decoded pictures of photos, PIL images.

    Raises:
        ValueError: One is not there, or has another size than its photo.
    """
    pictures = []
    for photo in photos:
        path = folder / f"{photo.name}.png"
        if not path.is_file():
            raise ValueError(f"{folder} holds no {path.name}; give folders of OUT/pictures that hold all of PHOTOS.")
        picture, size = open_image(path), photo.open().size
        if picture.size != size:
            raise ValueError(
                f"{path} has {picture.size[0]} x {picture.size[1]} pixels, its photo {size[0]} x {size[1]}; give the "
                "pictures that rsic evaluate made of these photos."
            )
        pictures.append(picture)
    return pictures


def draw_photos(folder: Path, photos, limit: int) -> list[Image.Image]:
    """At most `limit` photos of a folder with a crop each, drawn at random; not fewer than `photos`.

    Raises:
        ValueError: There are fewer.
    """
    found = find_photos(folder)
    images = []
    for i in np.random.default_rng(0).permutation(len(found)):
        image = found[i].open()
        if min(image.size) >= CROP:
            images.append(image)
        if len(images) == limit:
            break
    if len(images) < len(photos):
        raise ValueError(
            f"{folder} gives {len(images)} photos of at least {CROP} x {CROP} pixels (--limit {limit}), but as many "
            f"are needed as PHOTOS holds, {len(photos)}; add photos or raise --limit."
        )
    return images


def measure(extract, photos, others, sets: dict[str, list]) -> list[str]:
    """The table, line by line.

    Args:
        extract: Turns PIL images into the features of their crops, (number of crops, dimensions).
        photos (`list[Photo]`): With boxes.
        others (`list[PIL.Image.Image]`): Real photos, at least as many.
        sets (`dict[str, list[PIL.Image.Image]]`): Decoded pictures of `photos` by method.
    """
    originals = [photo.open() for photo in photos]
    regions = [photo.region(image.size) for photo, image in zip(photos, originals, strict=True)]
    is_outside = np.concatenate([covered_shares(region) for region in regions]) <= MAX_COVERED
    check_number_of_crops(is_outside.sum(), "The distance of surroundings")
    reference, real = extract(originals), extract(others)
    subset_size = min(int(is_outside.sum()), len(real))
    replacements = others[: len(photos)]
    lines = [
        f"{is_outside.sum()} of {len(is_outside)} crops are outside; {len(real)} crops of {len(others)} other photos",
        "",
        "| | outside: Frechet distance | outside: kernel distance | all: Frechet distance "
        "| surroundings replaced: Frechet distance |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, pictures in tqdm({ORIGINALS: originals, **sets}.items(), desc="Methods"):
        features = extract(pictures)
        outside = features[is_outside]
        pairs = zip(pictures, regions, replacements, strict=True)
        replaced = extract([with_other_surroundings(*each) for each in pairs])
        figures = [
            f"{frechet_distance(outside, real):.0f}",
            f"{1000 * kernel_distance(outside, real, subset_size):.0f}",
            f"{max(0, frechet_distance(features, reference)):.0f}",  # -0 of the photos themselves
            f"{frechet_distance(replaced, reference):.0f}",
        ]
        lines.append("| " + " | ".join([name, *figures]) + " |")
    return lines


def main(arguments=None):
    args = parse_args(arguments)
    try:
        extract = load_set_metrics(["feature_distance"])["feature_distance"].extract
        photos = find_photos(args.photos, annotated="box")
        names = [folder.name for folder in args.pictures]
        names = names if len(set(names)) == len(names) else [str(folder) for folder in args.pictures]
        sets = {name: read_pictures(folder, photos) for name, folder in zip(names, args.pictures, strict=True)}
        others = draw_photos(args.others, photos, args.limit)
        lines = measure(extract, photos, others, sets)
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
