"""Captioners on the command line."""

import json

from rsic_diffusers import Bitstream, Captioner
from rsic_diffusers.bitstream.caption_coding import encode_caption
from rsic_diffusers.commands.rsic_cli import main


def rsic(*arguments):
    return main([str(argument) for argument in arguments])


def test_command_line(llava_folder, llava, small_photo, tmp_path, capsys, encoder_with):
    photo, output = tmp_path / "photo.png", tmp_path / "photo.rsic"
    small_photo.save(photo)
    assert rsic("encode", photo, "-o", output, "--captioner", llava_folder) == 0
    expected = encoder_with(Captioner(*llava))(small_photo).caption
    assert Bitstream.read(output).caption == expected != ""
    assert rsic("encode", photo, "-o", output, "--captioner", llava_folder, "--caption-bytes", 20) == 0
    assert len(encode_caption(Bitstream.read(output).caption)[1]) <= 20
    # A caption given, or none: there is no captioner to load.
    assert rsic("encode", photo, "-o", output, "--captioner", tmp_path / "no such", "--caption", "") == 0
    assert Bitstream.read(output).caption == ""
    capsys.readouterr()
    assert rsic("encode", photo, "-o", output, "--captioner", tmp_path, "--caption-bytes", 20) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_command_line_folder(llava_folder, small_photo, tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "files"
    photos.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        small_photo.save(photos / name)
    (tmp_path / "demands.json").write_text(json.dumps({"a.png": {"caption": "a woman"}, "b.png": {"caption": ""}}))
    listed = ("--demands", tmp_path / "demands.json")
    assert rsic("encode", photos, "-o", output, "--captioner", llava_folder, *listed) == 0
    captions = [Bitstream.read(output / f"{name}.rsic").caption for name in "abc"]
    assert captions[:2] == ["a woman", ""] and captions[2] != ""
