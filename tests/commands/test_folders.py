"""Folders from the command line: each file once, whatever fails, however many processes."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.bitstream.weight_map import WeightMap
from rsic_diffusers.commands.decode import _checksum
from rsic_diffusers.commands.rsic_cli import main
from rsic_diffusers.folders import plan, run


@pytest.fixture
def photos(tmp_path, photo):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "b.jpg", "below/c.png", "d.jpg")):
        photo.crop((40 * i, 30 * i, 40 * i + (128 if i < 3 else 100), 30 * i + 128)).save(folder / name)
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not a photo")
    return folder


def rsic(*arguments):
    return main([str(argument) for argument in arguments])


def report(folder):
    lines = [line for path in folder.glob("report*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_there_and_back(photos, tmp_path, capsys):
    files, pictures = tmp_path / "files", tmp_path / "pictures"
    demands = {"a.jpg": {"caption": "a cap", "demands": [{"box": [0, 0, 64, 64], "weight": 0.8}]}}
    demands["below/c.png"] = {"target_bytes": 120}
    (tmp_path / "demands.json").write_text(json.dumps(demands))
    asked = ("--weight", "0.7", "--demands", tmp_path / "demands.json")
    assert rsic("encode", photos, "-o", files, *asked) == 1  # one failed
    assert "4 done, 0 skipped, 1 failed" in capsys.readouterr().out
    entries = {os.path.relpath(entry["file"], photos): entry for entry in report(files)}
    assert "not an image" in entries["broken.jpg"]["error"]
    for name in ("a", "b", "below/c", "d"):
        file = Bitstream.read(files / f"{name}.rsic")
        entry = next(entry for path, entry in entries.items() if path.startswith(f"{name}."))
        assert entry["bytes"] == len(file.to_bytes()) == sum(entry["breakdown"].values())
    a, b = Bitstream.read(files / "a.rsic"), Bitstream.read(files / "b.rsic")
    assert a.caption == "a cap" and np.allclose(a.weight_map.values, [[6 / 7, 2 / 7], [2 / 7, 2 / 7]])
    assert b.caption == "" and b.weight_map.mode == "global" and np.allclose(b.weight_map.values, 0.7, atol=0.01)
    assert len((files / "below" / "c.rsic").read_bytes()) <= 120

    before = {path: path.stat().st_mtime_ns for path in files.rglob("*.rsic")}
    assert rsic("encode", photos, "-o", files, *asked) == 1
    assert "0 done, 4 skipped, 1 failed" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*.rsic")} == before

    (files / "b.rsic").write_bytes((files / "b.rsic").read_bytes()[:-1])
    settings = ("--steps", "2", "--batch-size", "2")
    assert rsic("decode", files, "-o", pictures, "--preset", "fats") == 2
    assert "preset must be one of" in capsys.readouterr().err and not pictures.exists()
    assert rsic("decode", files, "-o", pictures, *settings) == 1
    assert "3 done, 0 skipped, 1 failed" in capsys.readouterr().out
    # What a batch gives is what the file alone gives.
    assert rsic("decode", files / "a.rsic", "-o", tmp_path / "a.png", "--steps", "2") == 0
    together, alone = (np.asarray(Image.open(path), int) for path in (pictures / "a.png", tmp_path / "a.png"))
    assert np.abs(together - alone).max() <= 2 and Image.open(pictures / "d.png").size == (100, 128)


def test_no_failure_of_one_file_stops_the_others(photos, tmp_path):
    """Pillow's plugins raise all kinds of exceptions; in a batch, only the culprit fails."""
    output = photos / "out"

    def work(inputs, outputs):
        if any(path.name == "b.jpg" for path in inputs):
            raise struct.error("unpack requires a buffer")
        for path in outputs:
            path.write_bytes(b"done")
        return [{}] * len(inputs)

    jobs = plan(photos, output, [".jpg", ".PNG"], ".rsic")
    assert run(jobs, work, output, "Working", batch_size=3) == {"done": 4, "skipped": 0, "failed": 1}
    assert [entry["file"] for entry in report(output) if "error" in entry] == [str(photos / "b.jpg")]
    # What lies in the output folder was made from the photos; it is none itself.
    (output / "picture.png").write_bytes(b"decoded")
    assert plan(photos, output, [".jpg", ".png"], ".rsic") == jobs


def test_two_processes_write_each_file_once(photos, tmp_path):
    (photos / "broken.jpg").unlink()
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["-m", "rsic_diffusers.commands.rsic_cli", "encode", str(photos), "-o", str(tmp_path / "files")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    entries = report(tmp_path / "files")
    assert len(entries) == len({entry["file"] for entry in entries}) == 4
    assert len(list((tmp_path / "files").glob("report-*.jsonl"))) == 2
    assert len(list((tmp_path / "files").rglob("*.rsic"))) == 4 == sum("bytes" in entry for entry in entries)


def test_bad_folders_are_named_before_any_work(photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "demands.json").write_text('{"z.jpg": {}}')
    Image.new("RGB", (64, 64)).save(photos / "a.png")
    for arguments, message in (
        (("encode", photos), "give it with -o"),
        (("encode", photos, "-o", photos / "a.jpg"), "is a file"),
        (("encode", tmp_path / "empty", "-o", tmp_path / "files"), "holds no file"),
        (("encode", photos, "-o", tmp_path / "files"), "would both become"),
        (("encode", photos / "below", "-o", tmp_path / "files", "--demands", tmp_path / "demands.json"), "z.jpg"),
        (("encode", photos / "below", "-o", tmp_path / "files", "--weight", "5"), "weight must be"),
        (("encode", photos / "below", "-o", tmp_path / "files", "--refer", "dog"), "needs a model"),
        (("decode", tmp_path / "empty", "-o", tmp_path / "files", "--batch-size", "0"), "at least 1"),
    ):
        assert rsic(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "files").exists()


def test_other_files_have_other_checksums(tmp_path):
    """Of a file that ends in its own CRC-32, the CRC-32 has few values: 256 if 24 bits of it are kept."""
    weight_map = WeightMap.constant(1, 64, 64)
    for i in range(64):
        file = Bitstream(64, 64, weight_map, f"{i}", bytes(8), b"\0\0")
        (tmp_path / f"{i}.rsic").write_bytes(file.to_bytes())
    assert len({_checksum(tmp_path / f"{i}.rsic") for i in range(64)}) == 64
