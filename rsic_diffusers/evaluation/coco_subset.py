"""The paper's MS-COCO subset: photos whose foreground covers 5 % to 25 %, with mask, referring word and caption.

    python -m rsic_diffusers.evaluation.coco_subset COCO -o SUBSET

COCO is the folder as it is unpacked: `val2017/*.jpg`, and `instances_val2017.json` and `captions_val2017.json` in
`annotations`. SUBSET gets the photos (hard links where possible: do not edit them), `masks/<stem>.png` (0 or 255, of
the photo's size), and `annotations.json`, as the other evaluation commands read it: a list of {"file", "width",
"height", "caption", "phrase", "mask", "box", "foreground"}, the box as fractions (x0, y0, x1, y1) of width and height,
the foreground as a share of the photo's pixels. The list is written last: where there is one, the rest is there too.

The paper does not say what foreground is. Here one word denotes it: it is all instances of one category together,
without the regions that COCO marks as crowds, and the phrase is the category's name. If several categories of a photo
keep to the bounds (inclusive), it is the largest; other categories do not count, however much they cover. The caption
is the photo's first.

Needs the extra: pip install "rsic-diffusers[evaluation]"
"""

import argparse
import contextlib
import json
from collections import Counter, defaultdict
from pathlib import Path

from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from tqdm import tqdm

from ..bitstream import MIN_SIDE
from ..files import write_file
from ..images import open_image


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path, metavar="COCO")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="SUBSET")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--limit", type=int, help="stop when so many are found, in the order of their ids")
    parser.add_argument("--min_share", type=float, default=0.05, help="of the pixels (0.05)")
    parser.add_argument("--max_share", type=float, default=0.25, help="of the pixels (0.25)")
    args = parser.parse_args()
    if not (args.coco / args.split).is_dir():
        parser.error(f"{args.coco / args.split} is no folder; COCO must hold the photos in {args.split}.")
    for kind in ("instances", "captions"):
        if not annotation_file(args, kind).is_file():
            parser.error(f"{annotation_file(args, kind)} is missing; unpack COCO's annotations there.")
    if args.output.exists() and (not args.output.is_dir() or args.output.samefile(args.coco / args.split)):
        parser.error(f"{args.output} is a file or the folder of COCO's photos; give another folder.")
    if not 0 < args.min_share <= args.max_share <= 1:
        parser.error(f"Shares must be above 0 and up to 1, in order; got {args.min_share} and {args.max_share}.")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be at least 1, got {args.limit}.")
    return args


def annotation_file(args, kind: str) -> Path:
    return args.coco / "annotations" / f"{kind}_{args.split}.json"


def read_annotations(path: Path) -> COCO:
    try:
        with contextlib.redirect_stdout(None):  # pycocotools prints what it does
            coco = COCO(path)
        if coco.imgs:
            return coco
    except (AssertionError, KeyError, TypeError, ValueError):
        pass
    raise SystemExit(f"{path} lists no images as COCO's annotations do; it may be damaged, unpack it again.")


def find_foreground(instances: COCO, image: dict, min_share: float, max_share: float):
    """Share, category's name and mask (a compressed RLE) of the largest foreground in the bounds, or None."""
    parts = defaultdict(list)
    for annotation in instances.loadAnns(instances.getAnnIds(image["id"], iscrowd=False)):
        parts[annotation["category_id"]].append(instances.annToRLE(annotation))
    unions = {category: rle.merge(masks) for category, masks in parts.items()}
    shares = {
        category: int(rle.area(union)) / (image["width"] * image["height"]) for category, union in unions.items()
    }
    found = [category for category, share in shares.items() if min_share <= share <= max_share]
    if not found:
        return None
    largest = max(found, key=shares.get)
    return shares[largest], instances.cats[largest]["name"], unions[largest]


def is_sound(photo: Path, size: tuple[int, int]) -> bool:
    try:
        return open_image(photo).size == size
    except ValueError:
        return False


def write_photo(photo: Path, target: Path) -> None:
    if target.exists() and target.samefile(photo):
        return
    try:
        target.hardlink_to(photo.resolve())
    except OSError:  # on another disk, or there is a file of that name
        write_file(target, photo.read_bytes())


def write_entry(photo: Path, size: tuple[int, int], caption: str, foreground, output: Path) -> dict:
    share, phrase, region = foreground
    mask = f"masks/{photo.stem}.png"
    Image.fromarray(255 * rle.decode(region)).save(output / mask)
    write_photo(photo, output / photo.name)
    x, y, width, height = rle.toBbox(region).tolist()
    return {
        "file": photo.name, "width": size[0], "height": size[1], "caption": caption, "phrase": phrase, "mask": mask,
        "box": [x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1]], "foreground": share,
    }  # fmt: skip


def main():
    args = parse_args()
    instances, captions = (read_annotations(annotation_file(args, kind)) for kind in ("instances", "captions"))
    images = [instances.imgs[i] for i in sorted(instances.imgs)]
    there = {path.name for path in (args.coco / args.split).iterdir()}
    missing = [image["file_name"] for image in images if image["file_name"] not in there]
    if missing:
        raise SystemExit(
            f"{args.coco / args.split} lacks {len(missing)} of the {len(images)} photos that the annotations list, "
            f"{missing[0]} for one; unpack the photos there again."
        )
    (args.output / "masks").mkdir(parents=True, exist_ok=True)
    listing = args.output / "annotations.json"
    listing.unlink(missing_ok=True)  # one of an earlier run, with other bounds perhaps, would belie the new masks

    entries, skipped = [], Counter()
    for image in tqdm(images, desc="Photos"):
        size, photo = (image["width"], image["height"]), args.coco / args.split / image["file_name"]
        caption = next((entry["caption"].strip() for entry in captions.imgToAnns.get(image["id"], [])), "")
        foreground = find_foreground(instances, image, args.min_share, args.max_share)
        if foreground is None:
            skipped["no category in the bounds"] += 1
        elif min(size) < MIN_SIDE:
            skipped[f"under {MIN_SIDE} pixels a side"] += 1
        elif not caption:
            skipped["no caption"] += 1
        elif not is_sound(photo, size):
            skipped["damaged, or not of the size that the annotations say"] += 1
        else:
            entries.append(write_entry(photo, size, caption, foreground, args.output))
        if len(entries) == args.limit:
            break
    print(f"{len(entries)} of {len(entries) + skipped.total()} photos kept" + "; the others:" * bool(skipped))
    for reason, number in skipped.most_common():
        print(f"{number:6d}  {reason}")
    if not entries:
        raise SystemExit("No photo was kept, and no list written; give wider bounds.")
    write_file(listing, json.dumps(entries, indent=1).encode())


if __name__ == "__main__":
    main()
