"""What captions and maps cost, as the experiment prints it."""

import json
import zlib

from rsic_diffusers.bitstream.caption_coding import encode_caption
from rsic_diffusers.bitstream.map_coding import encode_map
from rsic_diffusers.evaluation.experiments import side_information
from rsic_diffusers.referring.demands import Demand, make_weight_map


def test_side_information_of_annotations(tmp_path, small_photo, monkeypatch, capsys):
    """The least that `rsic evaluate` takes: a caption here, a box there."""
    for name in "abc":
        small_photo.save(tmp_path / f"{name}.png")
    entries = [
        {"file": "a.png", "caption": "a dog"},
        {"file": "b.png", "box": [0.1, 0.1, 0.5, 0.5]},
        {"file": "c.png"},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(entries))
    monkeypatch.setattr(side_information, "MAPS", 2)
    monkeypatch.setattr("sys.argv", ["side_information", "--annotations", str(tmp_path / "annotations.json")])
    side_information.main()
    table = capsys.readouterr().out
    box = make_weight_map(165, 203, [Demand(box=(20.3, 16.5, 101.5, 82.5))])
    zipped, chosen = len(zlib.compress(b"a dog", 9)), len(encode_caption("a dog")[1])
    assert f"| annotations | 1 | 5.0 | {zipped:.1f} | {chosen:.1f} |" in table
    assert f"| annotated regions | 1 | 5.0 | {len(encode_map(box)):.1f} |" in table
