"""Folders as people have them: settings that change, names that are no text, links, killed runs, two runs at once."""

import json
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
from PIL import Image

from rsic_diffusers import files, folders
from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.files import remove_leftovers, write_file
from rsic_diffusers.folders import find_files, plan, run


@pytest.fixture
def photos(tmp_path, photo):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.crop((150, 40, 278, 168)).save(folder / "a.png")
    photo.crop((200, 90, 328, 218)).save(folder / "b.png")
    return folder


def copy(inputs, outputs):
    for source, target in zip(inputs, outputs, strict=True):
        write_file(target, source.read_bytes())
    return [{}] * len(inputs)


def test_other_settings_are_said_and_done_again(photos, tmp_path, rsic, capsys, caplog):
    output = tmp_path / "files"
    assert rsic("encode", photos, "-o", output, "--weight", "0.4") == 0
    assert rsic("encode", photos, "-o", output, "--weight", "0.2") == 0
    assert "2 done, 0 skipped" in capsys.readouterr().out and "weight was 0.4, is 0.2" in caplog.text
    for path in output.glob("*.rsic"):
        assert np.allclose(Bitstream.read(path).weight_map.values, 0.2, atol=0.01)
    caplog.clear()
    assert rsic("encode", photos, "-o", output, "--weight", "0.2") == 0
    assert "0 done, 2 skipped" in capsys.readouterr().out and not caplog.text
    # Of one photo only: another picture under the same name, and what was made of it before.
    pictures = tmp_path / "pictures"
    assert rsic("decode", output, "-o", pictures, "--steps", "0") == 0
    Image.open(photos / "a.png").transpose(Image.Transpose.ROTATE_180).save(photos / "a.png")
    assert rsic("encode", photos, "-o", output, "--weight", "0.2") == 0
    assert rsic("decode", output, "-o", pictures, "--steps", "0") == 0
    assert capsys.readouterr().out.count("1 done, 1 skipped") == 2
    # Without a report nobody knows; what is there stays unless it is to go.
    (output / "report.jsonl").unlink()
    caplog.clear()
    assert rsic("encode", photos, "-o", output, "--weight", "0.2") == 0
    assert "0 done, 2 skipped" in capsys.readouterr().out and "--overwrite makes them again" in caplog.text
    assert rsic("encode", photos, "-o", output, "--weight", "0.2", "--overwrite") == 0
    assert "2 done, 0 skipped" in capsys.readouterr().out


def test_warnings_name_the_file_that_they_are_about(photos, tmp_path, rsic, capsys):
    files = tmp_path / "files"
    assert rsic("encode", photos, "-o", files, "--weight", "1", "--budget", "99999") == 0
    warned = capsys.readouterr().err
    assert all(warned.count(f"{photos / name}: All of the photo is at M = 1") == 1 for name in ("a.png", "b.png"))
    assert rsic("decode", files, "-o", tmp_path / "pictures", "--steps", "1") == 0
    warned = capsys.readouterr().err
    assert all(warned.count(f"{files / name}: No step of diffusion is run") == 1 for name in ("a.rsic", "b.rsic"))


def test_an_output_above_the_photos_hides_none(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in (".", "..", "photos"):
        assert len(plan(folders.Path("photos"), folders.Path(output), [".png"], ".rsic")) == 2
    (photos / "made").mkdir()
    Image.new("RGB", (64, 64)).save(photos / "made" / "c.png")
    assert len(plan(folders.Path("photos"), folders.Path("photos/made"), [".png"], ".rsic")) == 2


def test_names_that_are_no_text_or_as_long_as_can_be(photos, tmp_path, rsic):
    strange = os.fsdecode(b"caf\xe9.png")
    long = "x" * 246 + ".png"  # 250 bytes; with .rsic 251, of 255
    for name in (strange, long):
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    assert rsic("encode", photos, "-o", tmp_path / "files", "--weight", "0.3") == 0
    assert (tmp_path / "files" / os.fsdecode(b"caf\xe9.rsic")).exists()
    assert (tmp_path / "files" / ("x" * 246 + ".rsic")).exists()
    entries = [json.loads(line) for line in (tmp_path / "files" / "report.jsonl").read_text("ascii").splitlines()]
    assert str(photos / strange) in {entry["file"] for entry in entries}


def test_a_name_that_is_too_long_with_its_new_end_fails_alone(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("x" * 253 + ".a", "short.a"):
        (tmp_path / "in" / name).write_bytes(b"content")
    jobs = plan(tmp_path / "in", tmp_path / "out", [".a"], ".rsic")
    counts = run(jobs, copy, tmp_path / "out", "Copying")
    assert counts == {"done": 1, "skipped": 0, "failed": 1}
    assert "too long" in (tmp_path / "out" / "report.jsonl").read_text()


def test_links_are_named(photos, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir()
    (photos / "folder").symlink_to(tmp_path / "elsewhere")
    (photos / "gone.png").symlink_to(tmp_path / "gone.png")
    (photos / "link.png").symlink_to(photos / "a.png")
    assert [path.name for path in find_files(photos, [".png"], tmp_path)] == ["a.png", "b.png", "link.png"]
    assert "gone.png is a link to" in caplog.text and "folder is a link to a folder" in caplog.text


def test_a_link_to_nothing_among_the_outputs_fails_before_the_work(photos, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "a.rsic").symlink_to(tmp_path / "nowhere")
    worked = []

    def work(inputs, outputs):
        worked.extend(path.name for path in inputs)
        return copy(inputs, outputs)

    counts = run(plan(photos, output, [".png"], ".rsic"), work, output, "Copying")
    assert counts == {"done": 1, "skipped": 0, "failed": 1} and worked == ["b.png"]
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_made_fails_alone(tmp_path):
    for name in ("photos/holiday/a.txt", "photos/z.txt", "out/holiday"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    jobs = plan(tmp_path / "photos", tmp_path / "out", [".txt"], ".copy")
    counts = run(jobs, copy, tmp_path / "out", "Copying")
    assert (counts["done"], counts["failed"]) == (1, 1)
    assert (tmp_path / "out" / "z.copy").read_text() == "photos/z.txt"


def test_what_a_killed_run_left_is_removed(photos, tmp_path):
    """A process is killed while it writes; the next run removes its file, and none of a living process."""
    output = tmp_path / "out"
    output.mkdir()
    code = (
        "import os, signal, sys\n"
        "from rsic_diffusers import files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_file(sys.argv[1], b'half')\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(output / "a.rsic")])
    assert result.returncode == -9 and len(list(output.iterdir())) == 1
    living = output / f".rsic-{files._MACHINE}-{psutil.Process().ppid()}-abc.part"
    living.write_bytes(b"half")
    assert run(plan(photos, output, [".png"], ".rsic"), copy, output, "Copying")["done"] == 2
    assert sorted(path.name for path in output.iterdir()) == sorted([living.name, "a.rsic", "b.rsic", "report.jsonl"])
    assert remove_leftovers(output) == 0


def test_files_are_as_open_as_the_umask_lets_them_be(tmp_path, monkeypatch):
    umask = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("os.umask", lambda _: pytest.fail("another thread may be making a file now"))
            write_file(tmp_path / "a", b"content")
    finally:
        os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_written_over_stays_as_open_as_it_was(tmp_path):
    path = tmp_path / "a.rsic"
    write_file(path, b"old")
    path.chmod(0o640)
    write_file(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640


def test_what_macs_leave_beside_photos_is_none(photos):
    (photos / "._a.png").write_bytes(b"resource fork")
    assert [path.name for path in find_files(photos, [".png"], photos / "out")] == ["a.png", "b.png"]


def test_a_limit_of_pixels_makes_nothing_again(photos, tmp_path, rsic, capsys):
    files, pictures = tmp_path / "files", tmp_path / "pictures"
    for limit in ((), ("--max-pixels", "400000")):
        assert rsic("encode", photos, "-o", files, *limit) == 0
        assert rsic("decode", files, "-o", pictures, "--steps", "0", *limit) == 0
    assert capsys.readouterr().out.count("0 done, 2 skipped") == 2


def test_two_runs_on_one_folder_share_the_work(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(12):
        (tmp_path / "in" / f"{i:02d}.a").write_bytes(b"content")
    code = (
        "import pathlib, sys, time\n"
        "from rsic_diffusers.folders import plan, run\n"
        "source, output, log, start = map(pathlib.Path, sys.argv[1:])\n"
        "def work(inputs, outputs):\n"
        "    with open(log, 'a') as file: print(inputs[0].name, file=file)\n"
        "    time.sleep(0.1)\n"
        "    outputs[0].write_bytes(b'done')\n"
        "    return [{}]\n"
        "jobs = plan(source, output, ['.a'], '.b')\n"
        "import accelerate\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "print(run(jobs, work, output, 'Working'))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    command += [str(tmp_path / name) for name in ("in", "out", "log", "start")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    runs = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in runs:
        assert process.stdout.readline() == "ready\n"
    for process in runs:
        process.stdin.close()
    counts = [json.loads(process.stdout.readline().replace("'", '"')) for process in runs]
    assert [process.wait() for process in runs] == [0, 0]
    worked = (tmp_path / "log").read_text().split()
    assert sorted(worked) == [f"{i:02d}.a" for i in range(12)]  # each once
    assert min(count["done"] for count in counts) > 0 and sum(count["done"] for count in counts) == 12
    assert not list((tmp_path / "out").glob(".rsic*"))


@pytest.mark.parametrize(
    "demands, message",
    [
        ('{"a.png": {}, "b.png": {"demands": {"box": [300, 0, 900, 64]}}}', "b.png: "),
        ('{"b.png": {"demands": {"mask": "missing.png"}}}', "b.png: There is no file"),
        ('{"b.png": {"demands": {"phrase": "the hat"}}}', "b.png: A phrase needs"),
        ('{"b.png": {"demands": {"box": [1, 2, 3]}}}', "b.png: "),
        ('{"b.png": {"weight": 7}}', "b.png: --weight must be"),
        ('{"a.png": {}, "b.png": {}, "a.png": {"weight": 0.1}}', "'a.png' twice"),
        ('{"a.png": {"weight": 0.1, "weight": 0.2}}', "'weight' twice"),
    ],
)
def test_all_demands_are_checked_before_the_first_photo(demands, message, photos, tmp_path, rsic, capsys):
    (tmp_path / "demands.json").write_text(demands)
    assert rsic("encode", photos, "-o", tmp_path / "files", "--demands", tmp_path / "demands.json") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and "referring_model" not in error
    assert not (tmp_path / "files").exists()


def test_a_demands_file_with_a_byte_order_mark_and_null(photos, tmp_path, rsic):
    demands = {"a.png": {"weight": 0.2, "caption": None}, "b.png": None}
    (tmp_path / "demands.json").write_text(json.dumps(demands), "utf-8-sig")
    asked = ("--demands", tmp_path / "demands.json", "--weight", "0.6")
    assert rsic("encode", photos, "-o", tmp_path / "files", *asked) == 0
    for name, weight in (("a", 0.2), ("b", 0.6)):
        assert np.allclose(Bitstream.read(tmp_path / "files" / f"{name}.rsic").weight_map.values, weight, atol=0.01)
