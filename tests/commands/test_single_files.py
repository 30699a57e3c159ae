"""One photo or one file: pipes, names, links, options, and what is said about them."""

import io
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from rsic_diffusers.bitstream import Bitstream
from rsic_diffusers.bitstream.weight_map import WeightMap
from rsic_diffusers.commands.arguments import join_negative_numbers
from rsic_diffusers.commands.encode import asked_for, without_effect
from rsic_diffusers.commands.errors import as_sentence
from rsic_diffusers.commands.inspect import shares
from rsic_diffusers.commands.rsic_cli import build_parser, show_warnings
from rsic_diffusers.files import write_file
from rsic_diffusers.hub import CHECKPOINTS


RSIC = [sys.executable, "-m", "rsic_diffusers.commands.rsic_cli"]


@pytest.fixture
def file(photo_file, tmp_path, encoder, small_photo):
    encoder(small_photo, caption="a woman", box=(50, 20, 150, 140)).save(tmp_path / "made.rsic")
    return tmp_path / "made.rsic"


def test_a_photo_goes_through_pipes_both_ways(photo_file, tmp_path, rsic):
    with open(photo_file, "rb") as photo:
        command = [*RSIC, "encode", "-", "-o", "-", "--weight", "0.5"]
        encode = subprocess.Popen(command, stdin=photo, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    decode = subprocess.run(
        [*RSIC, "decode", "-", "-o", "-", "--steps", "0"], stdin=encode.stdout, capture_output=True
    )
    assert encode.wait() == 0 and decode.returncode == 0, decode.stderr.decode()
    assert b"standard output: " in encode.stderr.read() and b"standard output: 203 x 165" in decode.stderr
    rsic("encode", photo_file, "-o", tmp_path / "a.rsic", "--weight", "0.5")
    rsic("decode", tmp_path / "a.rsic", "-o", tmp_path / "a.png", "--steps", "0")
    piped = Image.open(io.BytesIO(decode.stdout))
    np.testing.assert_array_equal(np.asarray(piped), np.asarray(Image.open(tmp_path / "a.png")))


def test_codec_bytes_never_get_a_pictures_name_nor_the_other_way(photo_file, file, tmp_path, rsic, capsys):
    victim = tmp_path / "victim.png"
    victim.write_bytes(photo_file.read_bytes())
    for name in (victim, tmp_path / "new.JPG", tmp_path / "new.heic"):
        assert rsic("encode", photo_file, "-o", name) == 2
        assert "name of a picture" in capsys.readouterr().err
    assert victim.read_bytes() == photo_file.read_bytes()
    for name, option in (("new.rsic", "-o"), ("new.ico", "-o"), ("new.gif", "--overlay")):
        assert rsic("decode", file, "-o", tmp_path / "fine.png", option, tmp_path / name) == 2
        assert f"not saved as {name[-5:].lstrip('w')} files" in capsys.readouterr().err.replace("..", ".")
        assert not (tmp_path / name).exists()


def test_what_is_no_rsic_file_brings_no_advice_to_write_over_it(photo_file, rsic, capsys):
    assert rsic("decode", photo_file) == 2  # whose default output, photo.png, exists
    message = capsys.readouterr().err
    assert "not an .rsic file" in message and "write over" not in message


def test_what_has_the_wrong_name(photo_file, file, tmp_path, rsic, capsys):
    renamed = tmp_path / "renamed.png"
    renamed.write_bytes(file.read_bytes())
    assert rsic("decode", renamed) == 2
    assert "renamed.png has the name of its own result; give the result another name" in capsys.readouterr().err
    assert rsic("encode", file) == 2 and rsic("encode", file, "-o", tmp_path / "a.rsic") == 2
    assert capsys.readouterr().err.count("is an .rsic file, not a photo; `rsic decode` makes a picture of it") == 2
    assert rsic("encode", photo_file, "-o", "") == 2
    assert "name given with -o is empty" in capsys.readouterr().err


def test_warnings_name_options_as_they_are_typed(photo_file, tmp_path, rsic, capsys):
    """Also after an earlier command, whose standard error may be closed."""
    for _ in range(2):
        assert rsic("encode", photo_file, "-o", tmp_path / "a.rsic", "--weight", "1", "--budget", "99999") == 0
        assert capsys.readouterr().err.count("All of the photo is at M = 1, which takes") == 1
    assert rsic("decode", tmp_path / "a.rsic", "-o", tmp_path / "a.png", "--steps", "1") == 0
    assert "A larger --steps or --strength would change it" in capsys.readouterr().err


def test_a_log_keeps_its_tracebacks(capsys):
    show_warnings()
    try:
        raise ZeroDivisionError("division by zero")
    except ZeroDivisionError:
        logging.getLogger("rsic_diffusers.app.page").exception("An event failed; num_inference_steps=1.")
    message = capsys.readouterr().err
    assert "--steps 1" in message and "ZeroDivisionError: division by zero" in message


def test_a_huge_file_is_not_read(tmp_path, rsic, capsys):
    with open(tmp_path / "huge.rsic", "wb") as huge:
        huge.write(b"RS")
        huge.truncate(3 << 30)
    for command in ("decode", "inspect"):
        assert rsic(command, tmp_path / "huge.rsic") == 2
        assert "at most 5 MiB" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a folder in which not even root can write")
def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(photo_file, rsic, capsys):
    for name in ("/sys/kernel/photo.rsic", "/sys/kernel/folder"):
        source = photo_file if name.endswith("rsic") else photo_file.parent
        assert rsic("encode", source, "-o", name) == 2
        message = capsys.readouterr().err
        assert "may not be" in message and "/sys/kernel" in message and "Loading" not in message


def test_a_link_to_nothing_is_not_written_through(photo_file, tmp_path, rsic, capsys):
    (tmp_path / "link.rsic").symlink_to(tmp_path / "nowhere.rsic")
    assert rsic("encode", photo_file, "-o", tmp_path / "link.rsic") == 2
    assert "nowhere.rsic, which does not exist" in capsys.readouterr().err
    assert not (tmp_path / "nowhere.rsic").exists()
    (tmp_path / "nowhere.rsic").write_bytes(b"old")  # now the link leads to a file, and that is what changes
    assert rsic("encode", photo_file, "-o", tmp_path / "link.rsic") == 0
    assert (tmp_path / "link.rsic").is_symlink() and Bitstream.read(tmp_path / "nowhere.rsic").width == 203


def test_overwrite_of_a_default_name(photo_file, tmp_path, rsic, capsys):
    (tmp_path / "photo.rsic").write_bytes(b"old")
    assert rsic("encode", photo_file) == 2 and "exists already" in capsys.readouterr().err
    assert rsic("encode", photo_file, "--overwrite") == 0
    assert Bitstream.read(tmp_path / "photo.rsic").width == 203


def test_numbers_that_begin_with_a_minus():
    typed = ["encode", "a.png", "--box", "-5,0,9,9", "--point", "-.5,3:1", "--refer", "-5,0", "-o", "b.rsic"]
    joined = ["encode", "a.png", "--box=-5,0,9,9", "--point=-.5,3:1", "--refer", "-5,0", "-o", "b.rsic"]
    assert join_negative_numbers(typed) == joined


def test_a_box_that_begins_outside_is_named(photo_file, rsic, capsys):
    assert rsic("encode", photo_file, "--box", "-5,0,90,80") == 2
    assert "-5,0,90,80" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said, typed",
    [
        ("load it with referring_model= (a CLIPModel); or box=, point= or mask=, which need none.",
         "load it with --referring-model (a CLIPModel); or --box, --point or --mask, which need none."),
        ("num_inference_steps must be a whole number, got 1.5.", "--steps must be a whole number, got 1.5."),
        ("weight must be a number between 0 and 1, got nan", "--weight must be a number between 0 and 1, got nan."),
        ("The mask is empty; its weight is 0.", "The mask is empty; its weight is 0."),
        ("Give a max_side (768, say).", "Give a --max-side (768, say)."),
        ("use strength=0.5 or preset=\"paper\".", "use --strength 0.5 or --preset \"paper\"."),
        ("/tmp/max_side/box is no model", "/tmp/max_side/box is no model."),
    ],
)  # fmt: skip
def test_errors_name_options_as_they_are_typed(said, typed):
    assert as_sentence(ValueError(said)) == typed


@pytest.mark.parametrize(
    "arguments, note",
    [
        (["--background", "0.3"], "--background has no effect"),
        (["--levels", "4"], "--levels has no effect"),
        (["--fallback", "global"], "--fallback has no effect"),
        (["--caption-bytes", "30"], "--caption-bytes has no effect"),
        (["--box", "0,0,64,64", "--background", "0.2", "--levels", "4"], None),
    ],
)
def test_what_changes_nothing_is_said(arguments, note):
    args = build_parser().parse_args(["encode", "photo.png", *arguments])
    notes = without_effect(args, asked_for(args), {})
    assert len(notes) == (note is not None) and (note is None or note in notes[0])


def test_a_phrase_without_a_model_is_refused_before_anything_is_loaded(photo_file, rsic, capsys):
    assert rsic("encode", photo_file, "--refer", "the dog") == 2
    message = capsys.readouterr().err
    assert "--referring-model" in message and "referring_model" not in message and "Loading" not in message


def test_a_mistyped_model_names_what_there_is(photo_file, rsic, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for arguments in (["--model", "rsic-tyni"], ["--captioner", "nobody/blop"], ["--referring-model", "nobody/clop"]):
        assert rsic("encode", photo_file, "-o", photo_file.with_suffix(".rsic"), *arguments) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rsic encode: There")]
        assert len(error) == 1 and arguments[1] in error[0] and error[0].endswith("rsic-tiny.")


def test_a_budget_shows_its_progress(photo_file, rsic, capsys):
    arguments = ("--budget", "150", "--background", "0.3")
    assert rsic("encode", photo_file, "-o", photo_file.with_suffix(".rsic"), *arguments) == 0
    shown = capsys.readouterr().err
    assert "%|" in shown and "rsic encode: --background has no effect" in shown


def test_inspect_says_how_much_is_how_true(file, rsic, capsys):
    """On whole pixels of the picture, cells at the border being cut off."""
    cells = np.zeros((3, 4), np.uint8)
    cells[2, 3] = 7  # 37 x 11 of 165 x 203 pixels
    faithful = 37 * 11 / (165 * 203)
    (high, low), (first, second) = zip(*shares(WeightMap(cells, 8), (165, 203)), strict=True)
    assert (high, low) == (1, 0) and (first, second) == pytest.approx((faithful, 1 - faithful))
    assert rsic("inspect", file) == 0
    shown = capsys.readouterr().out
    assert "M = 0.71  close to the original" in shown and "M = 0.29  rough shapes and colours of the original" in shown


def test_a_terminal_of_few_letters_shows_a_caption_of_many(encoder, small_photo, tmp_path):
    encoder(small_photo, caption="ein Kätzchen \U0001f408").save(tmp_path / "cat.rsic")
    for encoding in ("ascii", "cp1252"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        command = [*RSIC, "inspect", str(tmp_path / "cat.rsic")]
        result = subprocess.run(command, capture_output=True, env=environment)
        assert result.returncode == 0 and rb"\U0001f408" in result.stdout, result.stderr


def test_a_reader_that_has_enough_is_no_error(file):
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([*RSIC, "inspect", str(file)], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert result.returncode == 0 and result.stderr == b""


def test_a_result_that_nobody_reads_to_its_end_is_an_error(photo_file, tmp_path):
    command = f"{sys.executable} -m rsic_diffusers.commands.rsic_cli encode {photo_file} -o -"
    result = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert result.stdout == "2\n" and "stopped before its end" in result.stderr
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr


def test_a_named_pipe_that_nobody_reads_to_its_end_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "picture.png")
    reader = threading.Thread(target=lambda: os.close(os.open(tmp_path / "picture.png", os.O_RDONLY)))
    reader.start()
    with pytest.raises(OSError, match="picture.png stopped before its end"):
        write_file(tmp_path / "picture.png", bytes(1 << 20))
    reader.join()


def test_what_would_do_nothing_is_refused(photo_file, file, tmp_path, rsic, capsys):
    for option, value in (("--overlay", ""), ("--batch-size", "0")):
        assert rsic("decode", file, "-o", tmp_path / "a.png", option, value) == 2
        assert option in capsys.readouterr().err and not (tmp_path / "a.png").exists()
    assert rsic("encode", photo_file, "-o", tmp_path / "a.rsic", "--max-side", "64") == 2
    assert "--max-side must be a whole number from 128 up, got 64" in capsys.readouterr().err


def test_decode_shows_what_is_imagined(file, tmp_path, rsic, decoder):
    picture, overlay, bare = tmp_path / "out.png", tmp_path / "over.png", tmp_path / "bare.png"
    assert rsic("decode", file, "-o", picture, "--overlay", overlay, "--steps", "0") == 0
    assert rsic("decode", file, "-o", bare, "--no-metadata", "--steps", "0") == 0
    expected = decoder(file, num_inference_steps=0).overlay()[0]
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), np.asarray(expected))
    assert all(b"compositeWithTrainedAlgorithmicMedia" in path.read_bytes() for path in (picture, overlay))
    assert rsic("decode", file, "-o", tmp_path / "new.png", "--overlay", tmp_path / "." / "new.png") == 2
    assert not (tmp_path / "new.png").exists()
    assert b"xmp" not in bare.read_bytes().lower()
    np.testing.assert_array_equal(np.asarray(Image.open(bare)), np.asarray(Image.open(picture)))


def test_options_of_the_sampler_reach_it(file, tmp_path, rsic, capsys):
    """A strength of 0 leaves diffusion out; guidance changes the picture of a file with a caption, of which
    rsic-tiny takes little notice: hence a scale that nobody would use."""
    assert rsic("decode", file, "-o", tmp_path / "0.png", "--preset", "fast", "--strength", "0") == 0
    assert "UNet evaluations: 0" in capsys.readouterr().out
    pictures = []
    for scale in ("1", "100"):
        assert rsic("decode", file, "-o", tmp_path / "a.png", "--preset", "fast", "--guidance-scale", scale) == 0
        pictures.append(np.asarray(Image.open(tmp_path / "a.png"), int))
    assert np.abs(pictures[0] - pictures[1]).max() > 2
    assert rsic("decode", file, "-o", tmp_path / "0.png", "--strength", "-1") == 2
    assert "--strength must be" in capsys.readouterr().err


def test_demo_takes_weight_budget_and_preset(photo_file, tmp_path, rsic, capsys):
    arguments = ("--box", "50,20,150,140", "-o", tmp_path / "sheet.png")
    assert rsic("demo", photo_file, *arguments, "--preset", "fats") == 2
    assert "--preset must be one of" in capsys.readouterr().err
    assert rsic("demo", photo_file, *arguments, "--weight", "0.4", "--budget", "120", "--preset", "fast") == 0
    sizes = [int(line.split(":")[1].split()[0]) for line in capsys.readouterr().out.splitlines() if "bytes {" in line]
    assert len(sizes) == 2 and max(sizes) <= 122


@pytest.mark.parametrize("caption", [(), ("--caption", "a woman")], ids=["no caption", "a caption"])
def test_quick_start_leaves_out_much_and_changes_nothing(caption, photo_file, tmp_path, rsic):
    """`rsic encode` in a process of its own: only its own lines on standard error, and the same file."""
    code = (
        "import sys\n"
        "from rsic_diffusers.commands.rsic_cli import program\n"
        "assert program() == 0\n"
        "print(*sys.modules)\n"
    )
    typed = ["encode", str(photo_file), *caption, "--box", "50,20,150,140", "-o"]
    command = [sys.executable, "-c", code, *typed, str(tmp_path / "quick.rsic")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "Loading rsic-tiny ...\n"
    unused = {"matplotlib", "pandas", "torch_geometric", "peft", "scipy.stats", "torch._dynamo.utils"}
    unused |= {"transformers.modeling_utils", "diffusers.models.transformers.ace_step_transformer"}
    unused |= set() if caption else {"transformers"}  # whose tokenizer tells how long a caption may be
    assert not unused & set(result.stdout.split())
    assert rsic(*typed, tmp_path / "slow.rsic") == 0
    assert (tmp_path / "quick.rsic").read_bytes() == (tmp_path / "slow.rsic").read_bytes()


def test_max_pixels_bounds_both_ways(photo_file, file, tmp_path, rsic, capsys):
    assert rsic("encode", photo_file, "-o", tmp_path / "a.rsic", "--max-pixels", "30000") == 2
    message = capsys.readouterr().err
    assert "203 x 165 pixels" in message and "Loading" not in message
    assert rsic("decode", file, "-o", tmp_path / "a.png", "--max-pixels", "30000") == 2
    assert "203 x 165 pixels" in capsys.readouterr().err
    assert not (tmp_path / "a.rsic").exists() and not (tmp_path / "a.png").exists()


def test_a_base_model_takes_the_place_of_the_models_own(photo_file, tmp_path, rsic, capsys, monkeypatch):
    """With itself as the base, rsic-tiny gives the same file and picture; without such a base, a sentence."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = []
    for options in ((), ("--base-model", CHECKPOINTS / "rsic-tiny")):
        assert rsic("encode", photo_file, "-o", tmp_path / "a.rsic", *options) == 0
        assert rsic("decode", tmp_path / "a.rsic", "-o", tmp_path / "a.png", "--steps", "0", *options) == 0
        made.append(((tmp_path / "a.rsic").read_bytes(), (tmp_path / "a.png").read_bytes()))
    assert made[0] == made[1]
    capsys.readouterr()
    for option in ("--base-model", "--lora"):
        assert rsic("decode", tmp_path / "a.rsic", "-o", tmp_path / "a.png", option, "nobody/nothing") == 2
        assert "nobody/nothing" in capsys.readouterr().err.splitlines()[-1]


def test_a_phone_photo_is_turned_upright_once(small_photo, tmp_path, rsic):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    small_photo.save(tmp_path / "phone.png", exif=exif)
    assert rsic("encode", tmp_path / "phone.png", "-o", tmp_path / "phone.rsic", "--box", "20,20,160,200") == 0
    file = Bitstream.read(tmp_path / "phone.rsic")
    assert (file.width, file.height) == small_photo.size[::-1]
