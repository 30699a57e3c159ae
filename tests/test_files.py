"""Files are written whole or not at all, or line by line."""

import pytest

from rsic_diffusers.files import append_json_line, read_json_lines, write_file


def test_write_file_is_all_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / "photo.rsic"
    write_file(target, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_file(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_line_that_was_cut_off_costs_no_other(tmp_path):
    path = tmp_path / "report.jsonl"
    append_json_line(path, file="a\udcff.jpg")
    with open(path, "ab") as file:
        file.write(b'{"file": "b.jpg", "tim')
    append_json_line(path, file="c.jpg")
    append_json_line(path, file="d.jpg")
    assert [line["file"] for line in read_json_lines([path])] == ["a\udcff.jpg", "c.jpg", "d.jpg"]
    assert path.read_bytes().count(b"\n") == 4 and b"\n\n" not in path.read_bytes()
