"""Pack folders of photos into zip files of small JPEGs, to carry them to a machine that trains.

    python training/pack_photos.py photos more_photos --output packed --max_side 512
    unzip -d photos 'packed/*.zip'                                     # there, then --train_data_dir photos

Each zip file is of at most `--megabytes`. The last one holds the labels of all photos, as `labels.tsv`.
"""

import argparse
import csv
import io
import zipfile
from pathlib import Path

from PIL import Image
from training_photos import find_photos, load_photo_arrays


ZIP_OVERHEAD = 200  # bytes, at most, for the two headers of a file


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="Folders of photos, with or without labels.tsv.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Folder for the zip files; must be empty.")
    parser.add_argument("--max_side", type=int, default=512, help="Larger photos are reduced to it. Default: 512.")
    parser.add_argument("--quality", type=int, default=90, help="Of the JPEGs. Default: 90.")
    parser.add_argument("--megabytes", type=float, default=55, help="Largest size of a zip file. Default: 55.")
    args = parser.parse_args()
    if args.output.exists() and any(args.output.iterdir()):
        parser.error(f"{args.output} is not empty; give a new folder.")
    return args


def packed_files(photos, max_side, quality):
    """Yield name and bytes of a JPEG for each readable photo, and of labels.tsv last."""
    labels = io.StringIO()
    table = csv.writer(labels, delimiter="\t", lineterminator="\n")
    table.writerow(("file", "label"))
    for i, (array, label) in enumerate(load_photo_arrays(photos, 1, max_side)):
        name, file = f"{i:06d}.jpg", io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=quality)
        table.writerow((name, label))
        yield name, file.getvalue()
    yield "labels.tsv", labels.getvalue().encode()


def main():
    args = parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    room, archive, count = 0.0, None, 0
    for name, content in packed_files(find_photos(args.folders), args.max_side, args.quality):
        size = len(content) + ZIP_OVERHEAD
        if archive is None or size > room:
            if archive is not None:
                archive.close()
            archive = zipfile.ZipFile(args.output / f"photos-{count:03d}.zip", "w", zipfile.ZIP_STORED)
            room, count = args.megabytes * 1e6, count + 1
        archive.writestr(name, content)
        room -= size
    archive.close()
    print(f"{args.output}: {count} zip files.")


if __name__ == "__main__":
    main()
