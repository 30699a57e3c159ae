"""The command line: the main job, and one sentence with exit code 2 for all bad input."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.commands.arguments import parse_phrase
from rsic_diffusers.commands.loading import find_device
from rsic_diffusers.commands.rsic_cli import main
from rsic_diffusers.hub import CHECKPOINTS


def rsic(*arguments):
    return main([str(argument) for argument in arguments])


def test_encode_inspect_decode(photo_file, tmp_path, capsys):
    assert rsic("encode", photo_file, "--caption", "a woman", "--box", "50,20,150,140", "--background", "0") == 0
    file = Bitstream.read(tmp_path / "photo.rsic")
    assert file.caption == "a woman" and file.weight_map.mode == "referring"
    assert f"{(tmp_path / 'photo.rsic').stat().st_size} bytes" in capsys.readouterr().out

    assert rsic("inspect", tmp_path / "photo.rsic", "--map", tmp_path / "map.png") == 0
    shown = capsys.readouterr().out
    assert "'a woman'" in shown and "203 x 165" in shown and "referring (8 levels)" in shown
    grey = np.asarray(Image.open(tmp_path / "map.png"))
    np.testing.assert_array_equal(grey[::64, ::64, 0], np.round(255 * file.weight_map.values))

    arguments = ("--steps", "2", "--recurrences", "1", "--seed", "3")
    assert rsic("decode", tmp_path / "photo.rsic", "-o", tmp_path / "out.png", *arguments) == 0
    assert Image.open(tmp_path / "out.png").size == (203, 165)
    said = capsys.readouterr()
    assert "UNet evaluations: 2" in said.out and "UNet evaluations planned: 2" in said.err


def test_mask_point_and_global(photo_file, tmp_path, small_photo):
    mask = Image.new("L", small_photo.size)
    mask.paste(255, (64, 64, 128, 128))
    mask.save(tmp_path / "mask.png")
    assert rsic("encode", photo_file, "-o", tmp_path / "mask.rsic", "--mask", tmp_path / "mask.png") == 0
    assert Bitstream.read(tmp_path / "mask.rsic").weight_map.cells.tolist() == [[2] * 4, [2, 5, 2, 2], [2] * 4]
    assert rsic("encode", photo_file, "-o", tmp_path / "point.rsic", "--point", "32,32", "--background", "0") == 0
    assert Bitstream.read(tmp_path / "point.rsic").weight_map.values[2].tolist() == [0] * 4
    assert rsic("encode", photo_file, "-o", tmp_path / "global.rsic", "--weight", "0.4") == 0
    assert np.allclose(Bitstream.read(tmp_path / "global.rsic").weight_map.values, 0.4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["encode", "TEXT"], "not an image"),
        (["encode", "PHOTO", "-o", "EMPTY"], "is a folder"),
        (["decode", "CUT", "-o", "PHOTO"], "checksum"),
        (["decode", "GOOD NAME"], "exists already"),
        (["encode", "MISSING"], "There is no file"),
        (["encode", ""], "name of the photo is empty"),
        (["encode", "PHOTO", "--background-color", "foo"], "encode: A background colour is a name"),
        (
            ["decode", "FOREIGN", "-o", "OUT.png", "--base-model", "none.safetensors"],
            "There is no file none.safetensors",
        ),
        (["encode", "SMALL"], "at least 64"),
        (["encode", "PHOTO", "--box", "10,10,10,20"], "empty or inverted"),
        (["encode", "PHOTO", "--box", "10,10,999,20"], "outside the picture"),
        (["encode", "PHOTO", "--mask", "SMALL"], "mask is 40 x 40"),
        (["encode", "PHOTO", "--weight", "nan"], "weight must be"),
        (["encode", "PHOTO", "--caption", "zebra " * 100], "shorter"),
        (["encode", "PHOTO", "-o", "PHOTO"], "is the input"),
        (["encode", "PHOTO", "-o", "NOWHERE/photo.rsic"], "There is no folder"),
        (["encode", "PHOTO", "--model", "EMPTY"], "no model_index.json"),
        (["encode", "PHOTO", "--device", "cuda:99"], "cannot be used"),
        (["decode", "TEXT"], "not an .rsic file"),
        (["decode", "CUT"], "checksum"),
        (["decode", "FOREIGN"], "made for the codec"),
        (["decode", "FOREIGN", "-o", "OUT.xyz"], "not saved as .xyz files"),
        (["encode", "PHOTO", "--caption", "half a \ud83d"], "surrogate"),
        (["encode", "PHOTO", "--mask", "TEXT"], "not an image"),
        (["encode", "PHOTO", "--refer", "the dog"], "needs a model that finds it"),
        (["encode", "PHOTO", "--budget", "5"], "smallest possible file"),
        (["inspect", "CUT"], "checksum"),
        (["inspect", "FOREIGN", "--photo", "PHOTO"], "give --map"),
        (["inspect", "FOREIGN", "--map", "PHOTO", "--photo", "PHOTO"], "is the input"),
        (["demo", "TEXT"], "not an image"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, photo_file, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "small.png")
    from rsic_diffusers.bitstream.weight_map import WeightMap

    foreign = Bitstream(203, 165, WeightMap.constant(1, 165, 203), "", bytes(8), b"\0\0").to_bytes()
    (tmp_path / "foreign.rsic").write_bytes(foreign)
    if arguments == ["decode", "GOOD NAME"]:  # beside photo.png
        (tmp_path / "photo.rsic").write_bytes(foreign)
    (tmp_path / "cut.rsic").write_bytes(foreign[:-1])
    names = {
        "TEXT": "text.jpg",
        "MISSING": "missing.jpg",
        "SMALL": "small.png",
        "PHOTO": "photo.png",
        "EMPTY": "empty",
        "CUT": "cut.rsic",
        "GOOD NAME": "photo.rsic",
        "FOREIGN": "foreign.rsic",
        "NOWHERE/photo.rsic": "nowhere/photo.rsic",
        "OUT.xyz": "out.xyz",
    }
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    arguments = [str(tmp_path / names[argument]) if argument in names else argument for argument in arguments]
    if arguments[0] == "demo":
        arguments += ["-o", str(tmp_path / "sheet.png")]
    assert main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rsic")]
    assert len(error) == 1 and message in error[0] and error[0].endswith(".")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_demo_saves_one_sheet(photo_file, tmp_path, capsys, small_photo):
    sheet = tmp_path / "sheet.png"
    assert rsic("demo", photo_file, "--box", "50,20,150,140", "-o", sheet) == 0
    printed = capsys.readouterr().out
    assert "referring mode" in printed and "global mode" in printed and str(sheet) in printed
    # The first picture of the sheet is the photo; below the box's line it is untouched.
    picture = np.asarray(Image.open(sheet))[8 : 8 + 165, 8 : 8 + 203]
    np.testing.assert_array_equal(picture[145:], np.asarray(small_photo)[145:])


def test_the_program_itself_runs_the_demo(photo_file, tmp_path, small_photo):
    """In a process of its own, where `rsic encode` may leave imports out that decoding needs."""
    command = [sys.executable, "-m", "rsic_diffusers.commands.rsic_cli", "demo", str(photo_file)]
    subprocess.run([*command, "--box", "50,20,150,140", "-o", str(tmp_path / "sheet.png")], check=True)
    assert Image.open(tmp_path / "sheet.png").width > 2 * small_photo.width


def test_demo_reduces_a_large_photo(photo_file, tmp_path, capsys):
    """To the side that the model codes at."""
    model = shutil.copytree(CHECKPOINTS / "rsic-tiny", tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "default_max_side": 128}))
    sheet = ("-o", tmp_path / "sheet.png")
    assert rsic("demo", photo_file, "--box", "50,20,150,140", "--model", model, *sheet) == 0
    assert "203 x 165 pixels; everything here is done at 128 x 104" in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "sheet.png"), int)[8 : 8 + 104, 8 : 8 + 128]
    yellow = (picture[..., 0] > 200) & (picture[..., 1] > 150) & (picture[..., 2] < 60)
    rows, columns = np.nonzero(yellow.sum(axis=1) > 40)[0], np.nonzero(yellow.sum(axis=0) > 40)[0]
    expected = (20 * 104 / 165, 140 * 104 / 165, 50 * 128 / 203, 150 * 128 / 203)
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(
    "text, expected",
    [("the dog:0.6", ("the dog", 0.6)), ("7", ("7", None)), ("at 5: a clock", ("at 5: a clock", None))],
)
def test_a_phrase_has_a_weight_after_a_colon(text, expected):
    assert parse_phrase(text) == expected


def test_help_and_inspect_do_not_load_torch(tmp_path):
    from rsic_diffusers.bitstream.weight_map import WeightMap

    file = Bitstream(203, 165, WeightMap.constant(1, 165, 203), "", bytes(8), b"\0\0")
    (tmp_path / "photo.rsic").write_bytes(file.to_bytes())
    for arguments in (["--help"], ["inspect", str(tmp_path / "photo.rsic")]):
        code = (
            "import sys\n"
            "from rsic_diffusers.commands.rsic_cli import main\n"
            f"try: main({arguments!r})\n"
            "except SystemExit: pass\n"
            "assert not {'torch', 'diffusers', 'compressai', 'transformers'} & set(sys.modules)\n"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "capability, dtype, warned", [("AVX2", "bfloat16", 1), ("AVX2", "float32", 0), ("AVX512", "bfloat16", 0)]
)
def test_a_dtype_that_a_cpu_has_no_instructions_for_is_named(capability, dtype, warned, monkeypatch, capsys):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert str(find_device(SimpleNamespace(device="cpu", dtype=dtype))) == "cpu"
    assert capsys.readouterr().err.count("This CPU computes bfloat16 in software") == warned
