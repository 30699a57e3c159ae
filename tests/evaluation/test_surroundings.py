"""Whether surroundings look like photos, measured against other photos."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.evaluation.experiments import surroundings
from rsic_diffusers.evaluation.metrics.feature_distance import frechet_distance, overlapping_crops
from rsic_diffusers.evaluation.metrics.set_distances import kernel_distance


def of_each_crop(images):
    """Six features in place of a network's: means and deviations of the colours."""
    crops = np.stack([crop for image in images for crop in overlapping_crops(image)]) / 2.0
    return np.concatenate([crops.mean((1, 2)), crops.std((1, 2))], axis=1)


BOX = (0.3, 0.0, 0.7, 0.8)


@pytest.fixture
def folders(photo, tmp_path):
    """Five photos with boxes, seven other ones, the five blurred, and a folder for another method."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / name for name in ("photos", "others", "blurred", "replaced")]
    for path in paths:
        path.mkdir()
    images = [photo.point(lambda value, k=k: value * (1 - k / 8)) for k in range(5)]
    noise = [Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)) for _ in range(7)]
    for k, image in enumerate(images):
        image.save(paths[0] / f"{k}.png")
        image.resize((32, 38)).resize(image.size).save(paths[2] / f"{k}.png.png")
    for k, image in enumerate(noise):
        image.resize((600, 500), Image.Resampling.BICUBIC).save(paths[1] / f"{k}.png")
    annotations = [{"file": f"{k}.png", "box": BOX} for k in range(5)]
    (paths[0] / "annotations.json").write_text(json.dumps(annotations))
    return paths


def test_covered_shares_equal_areas():
    """Of a box in whole pixels: crops start at each 64th pixel."""
    region = np.zeros((300, 401), bool)
    region[30:290, 100:250] = True
    rows = [min(y + 128, 290) - max(y, 30) for y in (0, 64, 128)]
    columns = [max(0, min(x + 128, 250) - max(x, 100)) for x in (0, 64, 128, 192, 256)]
    expected = [row * column / 128**2 for row in rows for column in columns]
    np.testing.assert_allclose(surroundings.covered_shares(region), expected)
    assert min(expected) < 0.25 < max(expected)


def test_the_table_of_a_folder(folders, photo, monkeypatch, capsys):
    photos, others, blurred, replaced = folders
    fake = SimpleNamespace(extract=of_each_crop)
    monkeypatch.setattr(surroundings, "load_set_metrics", lambda names: dict.fromkeys(names, fake))
    # What the table's last column puts together, as a method of its own.
    real = surroundings.draw_photos(others, range(5), 300)
    box = [round(share * side) for share, side in zip(BOX, 2 * photo.size, strict=True)]
    for k in range(5):
        array = np.array(Image.open(photos / f"{k}.png"))
        # 600 x 500 cut to the photo's shape, from the middle, and resized.
        height, width = array.shape[:2]
        cut = 500 * width / height
        expected = real[k].resize((width, height), box=(300 - cut / 2, 0, 300 + cut / 2, 500))
        whole = np.array(expected)
        whole[box[1] : box[3], box[0] : box[2]] = array[box[1] : box[3], box[0] : box[2]]
        Image.fromarray(whole).save(replaced / f"{k}.png.png")
    (blurred / "replaced").mkdir()
    for path in blurred.glob("*.png"):
        path.rename(blurred / "replaced" / path.name)
    surroundings.main([*map(str, folders[:2]), str(blurred / "replaced"), str(replaced)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [row[0] for row in rows] == ["the photos themselves", str(blurred / "replaced"), str(replaced)]
    lines = {row[0]: row[1:] for row in rows}
    assert lines["the photos themselves"][2] == "0"
    assert lines["the photos themselves"][3] == lines[str(replaced)][2] == lines[str(replaced)][3]
    assert float(lines[str(replaced)][2]) > 100


def test_distances_are_of_crops_outside(folders):
    photos, others, blurred, _ = folders
    found = surroundings.find_photos(photos, annotated="box")
    pictures, real = surroundings.read_pictures(blurred, found), surroundings.draw_photos(others, found, 6)
    lines = surroundings.measure(of_each_crop, found, real, {"blurred": pictures})
    inside = np.zeros((600, 512, 3), np.uint8)
    inside[:480, round(0.3 * 512) : round(0.7 * 512)] = 1
    outside = np.tile([crop[..., 0].mean() <= 0.25 for crop in overlapping_crops(Image.fromarray(inside))], 5)
    features, reference = of_each_crop(pictures)[outside], of_each_crop(real)
    assert lines[0] == f"{outside.sum()} of 280 crops are outside; {len(reference)} crops of 6 other photos"
    cells = lines[-1].strip("| ").split(" | ")
    size = min(outside.sum(), len(reference))
    expected = frechet_distance(features, reference), 1000 * kernel_distance(features, reference, size)
    assert [float(cell) for cell in cells[1:3]] == pytest.approx(expected, abs=0.6) and min(expected) > 100


def test_what_cannot_be_measured_is_said(folders, capsys):
    photos, others, blurred, _ = (str(path) for path in folders)
    with pytest.raises(SystemExit, match="photos holds no 0.png.png; give folders of OUT/pictures"):
        surroundings.main([photos, others, photos])
    with pytest.raises(SystemExit, match="gives 3 photos of at least 128 x 128 .* as PHOTOS holds, 5; add"):
        surroundings.main([photos, others, blurred, "--limit", "3"])
    Image.new("RGB", (300, 300)).save(f"{blurred}/2.png.png")
    with pytest.raises(SystemExit, match="2.png.png has 300 x 300 pixels, its photo 512 x 600"):
        surroundings.main([photos, others, blurred])
    with open(f"{blurred}/2.png.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SystemExit, match="2.png.png"):
        surroundings.main([photos, others, blurred])
    for arguments, said in (
        ([photos, photos, blurred], "both are"),
        ([photos, others, blurred, "--limit", "-5"], "-5"),
    ):
        with pytest.raises(SystemExit):
            surroundings.main(arguments)
        assert said in capsys.readouterr().err
