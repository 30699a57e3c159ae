"""The MS-COCO subset, from a small COCO folder made here: masks and shares drawn independently of pycocotools."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rsic_diffusers.evaluation import coco_subset


WIDTH, HEIGHT = 120, 100  # a rectangle of n pixels covers n / 12000
CATEGORIES = {1: "person", 18: "dog", 44: "wine bottle", 90: "ball"}


def rectangle(x0, y0, x1, y1):
    """Polygon around the pixels x0 to x1 - 1, y0 to y1 - 1."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def painted(*boxes, size=(WIDTH, HEIGHT)):
    mask = np.zeros(size[::-1], bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def run_lengths(mask):
    """Uncompressed RLE by its definition: runs down the columns in turn, zeros first."""
    flat = mask.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0] * int(flat[0]) + counts}


def blob(seed):
    """A ragged region of about a tenth of the picture."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    edge = 20 + 3 * np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH))
    return np.hypot(x - 70, y - 45) < edge


class Coco:
    """Writes a COCO folder, image by image."""

    def __init__(self, folder):
        self.folder, self.images, self.instances, self.captions = folder, [], [], []
        (folder / "val2017").mkdir(parents=True)
        (folder / "annotations").mkdir()

    def add(self, image_id, *regions, captions=("A caption.",), size=(WIDTH, HEIGHT), mode="RGB", photo_size=None):
        """Regions are (category, segmentation) or (category, segmentation, iscrowd)."""
        name = f"{image_id:012d}.jpg"
        pixels = np.random.default_rng(image_id).integers(0, 256, (*(photo_size or size)[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(self.folder / "val2017" / name)
        self.images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for category, segmentation, *crowd in regions:
            self.instances.append(
                {
                    "id": len(self.instances) + 1, "image_id": image_id, "category_id": category,
                    "segmentation": segmentation, "iscrowd": int(bool(crowd)), "area": 0, "bbox": [0, 0, 0, 0],
                }
            )  # fmt: skip
        for caption in captions:
            self.captions.append({"id": len(self.captions) + 1, "image_id": image_id, "caption": caption})

    def write(self):
        categories = [{"id": i, "name": name, "supercategory": "thing"} for i, name in CATEGORIES.items()]
        instances = {"images": self.images, "annotations": self.instances, "categories": categories}
        captions = {"images": self.images, "annotations": self.captions}
        for kind, content in (("instances", instances), ("captions", captions)):
            (self.folder / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path / "coco")


@pytest.fixture
def run(coco, tmp_path, monkeypatch):
    """Run the command and return the list and the photos' masks by name."""

    def run(*arguments):
        coco.write()
        output = tmp_path / "subset"
        monkeypatch.setattr("sys.argv", ["coco_subset", *map(str, (coco.folder, "-o", output, *arguments))])
        coco_subset.main()
        entries = json.loads((output / "annotations.json").read_text())
        masks = {entry["file"]: np.asarray(Image.open(output / entry["mask"])) for entry in entries}
        return {int(entry["file"][:12]): (entry, masks[entry["file"]]) for entry in entries}

    return run


def check(result, phrase, mask):
    """Against a mask of our own: pixels, share and box."""
    entry, found = result
    assert entry["phrase"] == phrase
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.where(mask, 255, 0))
    assert entry["foreground"] == pytest.approx(mask.mean(), abs=1e-12)
    (rows, columns), (height, width) = np.nonzero(mask), mask.shape
    box = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert entry["box"] == pytest.approx(box, abs=1e-12)


def test_masks_phrases_and_shares(coco, run, capsys, tmp_path):
    # Two overlapping dogs are one region; a ball in the bounds is smaller, a person over them larger.
    dogs = (10, 10, 50, 40), (40, 30, 60, 60)
    coco.add(
        9,
        (90, [rectangle(90, 70, 120, 95)]),
        (18, [rectangle(*dogs[0])]),
        (1, [rectangle(0, 0, 120, 60)]),
        (18, [rectangle(*dogs[1])]),
        captions=(" Two dogs,\n one ball. ", "Not this one."),
    )
    coco.add(4, (44, run_lengths(blob(0))), mode="L")
    # One instance of two parts, as behind a pole; and a crowd of its category, which does not count.
    parts = (0, 0, 30, 20), (100, 80, 120, 100)
    coco.add(7, (1, [rectangle(*one) for one in parts]), (1, run_lengths(painted((40, 20, 100, 60))), True))
    results = run()

    assert list(results) == [4, 7, 9]
    check(results[9], "dog", painted(*dogs))
    check(results[4], "wine bottle", blob(0))
    check(results[7], "person", painted(*parts))
    assert results[9][0]["caption"] == "Two dogs,\n one ball."
    assert (results[9][0]["width"], results[9][0]["height"]) == (WIDTH, HEIGHT)
    assert "3 of 3 photos" in capsys.readouterr().out
    for i in results:
        photos = [tmp_path / folder / f"{i:012d}.jpg" for folder in ("coco/val2017", "subset")]
        assert photos[0].read_bytes() == photos[1].read_bytes()


def test_slanted_polygons_agree_with_pillows_but_for_the_edge(coco, run):
    corners = [20.5, 15.25, 90.0, 30.5, 60.75, 80.0]
    coco.add(1, (18, [corners]))
    entry, mask = run()[1]
    drawing = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(drawing).polygon(corners, fill=255)
    perimeter = np.hypot(*(np.reshape(corners, (3, 2)) - np.roll(np.reshape(corners, (3, 2)), 1, axis=0)).T).sum()
    assert (mask != np.asarray(drawing)).sum() < perimeter
    (x0, y0), (x1, y1), (x2, y2) = np.reshape(corners, (3, 2))
    area = abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) / 2
    assert entry["foreground"] == pytest.approx(area / (WIDTH * HEIGHT), rel=0.03)


def test_what_is_left_out_and_why(coco, run, capsys):
    inside = (1, [rectangle(0, 0, 50, 40)])
    coco.add(1, (18, run_lengths(painted((0, 0, 40, 15)))))  # 5 % exactly
    coco.add(2, (18, run_lengths(painted((0, 0, 60, 50)))))  # 25 % exactly
    coco.add(3, (18, run_lengths(painted((0, 0, 40, 15), (0, 15, 1, 16)) ^ painted((0, 0, 2, 1)))))  # a pixel less
    coco.add(4, (18, run_lengths(painted((0, 0, 60, 50), (0, 50, 1, 51)))))  # a pixel more
    coco.add(5, (18, run_lengths(painted((0, 0, 50, 40))), True), (18, [rectangle(80, 80, 90, 90)]))
    coco.add(6)
    coco.add(7, (1, [rectangle(0, 0, 30, 20)]), size=(120, 63))
    coco.add(8, inside, captions=())
    coco.add(9, inside, captions=("  ",))
    coco.add(10, inside, photo_size=(100, 120))
    coco.add(11, inside)
    damaged = coco.folder / "val2017" / f"{11:012d}.jpg"
    damaged.write_bytes(damaged.read_bytes()[:1000])

    results = run()
    assert list(results) == [1, 2]
    check(results[1], "dog", painted((0, 0, 40, 15)))
    check(results[2], "dog", painted((0, 0, 60, 50)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 of 11 photos")
    counts = {line[8:].split(",")[0]: int(line[:6]) for line in lines[1:]}
    assert counts == {"no category in the bounds": 4, "under 64 pixels a side": 1, "no caption": 2, "damaged": 2}

    assert list(run("--min_share", "0.001", "--max_share", "0.1666", "--limit", "2")) == [1, 3]


def test_other_bounds_into_the_same_folder_give_the_other_masks(coco, run, tmp_path):
    coco.add(1, (18, [rectangle(0, 0, 50, 40)]), (1, [rectangle(10, 10, 110, 90)]))
    check(run()[1], "dog", painted((0, 0, 50, 40)))
    photo = tmp_path / "subset" / f"{1:012d}.jpg"
    photo.unlink()
    photo.write_bytes(b"of another time")
    check(run("--max_share", "0.9")[1], "person", painted((10, 10, 110, 90)))
    assert photo.read_bytes() == (coco.folder / "val2017" / photo.name).read_bytes()


def test_links_where_it_can_and_copies_where_not(coco, run, tmp_path, monkeypatch):
    coco.add(1, (18, [rectangle(0, 0, 50, 40)]))
    name = f"{1:012d}.jpg"
    run()
    assert (tmp_path / "subset" / name).samefile(coco.folder / "val2017" / name)
    (tmp_path / "subset" / name).unlink()

    def refuse(*args, **kwargs):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(pathlib.Path, "hardlink_to", refuse)
    run()
    copy, photo = tmp_path / "subset" / name, coco.folder / "val2017" / name
    assert not copy.samefile(photo) and copy.read_bytes() == photo.read_bytes()


def test_an_interrupted_run_leaves_no_list(coco, run, tmp_path, monkeypatch):
    for i in (1, 2):
        coco.add(i, (18, [rectangle(0, 0, 50, 40)]))
    run()

    def interrupt(photo, size):
        if photo.stem.endswith("2"):
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patch:
        patch.setattr(coco_subset, "is_sound", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not (tmp_path / "subset" / "annotations.json").exists()
    assert list(run()) == [1, 2]


@pytest.mark.parametrize(
    "spoil, arguments, message",
    [
        (lambda coco: None, ["--split", "val2014"], "val2014 is no folder"),
        (lambda coco: (coco / "annotations/captions_val2017.json").unlink(), [], "captions_val2017.json is missing"),
        (lambda coco: (coco / "val2017" / f"{1:012d}.jpg").unlink(), [], "lacks 1 of the 2 photos"),
        (lambda coco: (coco / "annotations/instances_val2017.json").write_text('{"images": ['), [], "damaged"),
        (lambda coco: (coco / "annotations/instances_val2017.json").write_text("[]"), [], "damaged"),
        (lambda coco: None, ["--min_share", "0.3"], "in order"),
        (lambda coco: None, ["--limit", "0"], "at least 1"),
        (lambda coco: (coco.parent / "subset").write_text("mine"), [], "is a file"),
    ],
)
def test_bad_input_is_met_at_the_door(coco, tmp_path, monkeypatch, capsys, spoil, arguments, message):
    for i in (1, 2):
        coco.add(i, (18, [rectangle(0, 0, 50, 40)]))
    coco.write()
    spoil(coco.folder)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("sys.argv", ["coco_subset", *map(str, (coco.folder, "-o", tmp_path / "subset", *arguments))])
    with pytest.raises(SystemExit) as stop:
        coco_subset.main()
    assert message in f"{stop.value}{capsys.readouterr().err}"
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_in_the_bounds_is_said_and_no_list_written(coco, run, tmp_path):
    coco.add(1, (18, [rectangle(0, 0, 10, 10)]))
    with pytest.raises(SystemExit, match="No photo was kept"):
        run()
    assert not (tmp_path / "subset" / "annotations.json").exists()
