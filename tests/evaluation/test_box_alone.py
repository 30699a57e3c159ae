"""The box coded alone, as the bound of what referring mode can gain."""

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.evaluation.metrics import psnr


def test_the_box_alone_is_measured_against_the_cut(photo):
    """With a codec that adds a known error to every pixel."""
    from types import SimpleNamespace

    from rsic_diffusers.evaluation.experiments.box_alone import box_alone_table, compare

    class File(bytes):
        pass

    image = Image.fromarray(np.asarray(photo) // 2)
    box = (150.2, 40.0, 370.4, 310.0)  # rounded: 220 x 270 pixels
    asked = []

    def encoder(picture, box=None, target_bytes=None, **arguments):
        asked.append((picture.size, box, target_bytes, arguments))
        file = File(500 if target_bytes is None else int(target_bytes))
        file.picture, file.error = picture, 4 if box else 16 if picture.size == image.size else 2
        return SimpleNamespace(bitstream=file)

    def decoder(file, num_inference_steps):
        assert num_inference_steps == 0
        array = np.asarray(file.picture).astype(int)
        if file.picture.size == image.size:  # far off outside the box, which must not count
            array[:40], array[310:] = 255, 255
        return SimpleNamespace(images=[Image.fromarray((array + file.error).clip(0, 255).astype(np.uint8))])

    row = compare(encoder, decoder, image, box, weight=0.8, caption="a woman")
    assert [entry[0] for entry in asked] == [(512, 600), (512, 600), (220, 270)]
    assert asked[0][3] == {"weight": 0.8, "background": 0, "caption": "a woman"} and asked[2][3] == {
        "caption": "a woman"
    }
    assert asked[0][2] is None and asked[1][2] == asked[2][2] == pytest.approx(505)
    expected = {"referring": 4, "global": 16, "alone": 2}
    for name, error in expected.items():
        assert row[f"{name} psnr"] == pytest.approx(20 * np.log10(255 / error))
    assert row["share"] == pytest.approx(220 * 270 / (512 * 600))
    last = box_alone_table({"a": row, "b": {**row, "alone psnr": row["alone psnr"] + 2}}).splitlines()[-1]
    assert last.endswith("| 36.09 | 24.05 | 43.11 | +12.04 | +19.06 |")


def test_the_box_alone_of_a_folder(small_photo, encoder, decoder, tmp_path, capsys):
    import json

    from rsic_diffusers.evaluation.experiments import box_alone

    small_photo.save(tmp_path / "one.png")
    small_photo.save(tmp_path / "two.png")
    box = (50, 20, 150, 140)
    fractions = [side / of for side, of in zip(box, 2 * small_photo.size, strict=True)]
    annotations = [
        {"file": "one.png", "caption": "a woman", "box": fractions},
        {"file": "two.png", "box": [0.2, 0.2, 0.4, 0.9]},  # 41 pixels wide
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    box_alone.main([str(tmp_path), "--weight", "0.7"])
    printed = capsys.readouterr().out
    assert "two.png is left out" in printed
    row, mean = printed.splitlines()[-2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [cell.strip() for cell in mean.strip("|").split("|")][1:] == cells[1:]
    assert cells[:2] == ["one.png", f"{100 * 100 * 120 / (203 * 165):.0f} %"]
    out = encoder(small_photo, box=box, weight=0.7, background=0, caption="a woman")
    assert cells[2] == str(len(out.bitstream))
    picture = decoder(out.bitstream, num_inference_steps=0).images[0]
    assert float(cells[5]) == pytest.approx(psnr(picture, small_photo, box), abs=0.01)
    sizes = [int(cell) for cell in cells[2:5]]
    assert max(sizes) - min(sizes) <= 0.05 * sizes[0]
    assert float(cells[9]) == pytest.approx(float(cells[7]) - float(cells[6]), abs=0.011)
