"""Files are written whole or not at all."""

import pytest

from rsic_diffusers.files import write_file


def test_write_file_is_all_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / "photo.rsic"
    write_file(target, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_file(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]
