"""The file of `rsic encode --demands`."""

import json

import pytest

from rsic_diffusers.commands.demands_file import read_demands
from rsic_diffusers.referring.demands import collect_demands


def test_a_file_of_demands(tmp_path):
    path = tmp_path / "demands.json"
    demands = [{"phrase": "the dog", "weight": 0.6}, {"box": [1, 2, 30, 40], "mask": None}, {"mask": "masks/a.png"}]
    path.write_text(json.dumps({"a.jpg": {"caption": "a dog", "demands": demands}, "b.jpg": {"weight": 0.3}}))
    arguments = read_demands(path)
    assert arguments["b.jpg"] == {"weight": 0.3} and arguments["a.jpg"]["caption"] == "a dog"
    dog, box, mask = collect_demands(arguments["a.jpg"]["referring"], weight=0.7)
    assert mask.mask == tmp_path / "masks" / "a.png"
    assert (dog.phrase, dog.weight, box.box, box.weight) == ("the dog", 0.6, (1, 2, 30, 40), 0.7)
    for text, message in (
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "object of objects"),
        ('{"a.jpg": {"boxes": []}}', "a.jpg, holds boxes; known are caption, demands"),
        ('{"a.jpg": {"demands": [{"phrase": "a", "wait": 1}]}}', "A demand holds wait"),
        ('{"a.jpg": {"demands": [{"mask": 5}]}}', "a mask must be the path of a picture, got 5"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_demands(path)
