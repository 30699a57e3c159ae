"""All of rsic-tiny by one command, and the photos that are packed for it."""

import json
import zipfile

import numpy as np
from PIL import Image


def test_one_command_trains_all_stages_and_goes_on_where_it_was_interrupted(photos, photo, tmp_path, launch_script):
    from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline

    common = "--max_train_steps 2 --train_batch_size 2 --report_to none"
    shape = "--channels 8 --encoder_blocks 0 1 1 1 --decoder_blocks 1 1 1 0"
    vae = f"{common} {shape} --resolution 64 --perceptual_weight 0"
    base = f"{common} --block_out_channels 16 16 16 --text_width 32 --resolution 128 --text_steps 2 --focus_below 400"
    hsvlc = f"{common} --resolution 128 --measured_photos 1"

    def run(hsvlc, **kwargs):
        return launch_script(
            "train_tiny.py", "--train_data_dir", photos, "--validation_dir", photos, "--output_dir", tmp_path,
            "--vae", vae, "--adversarial", "--adversarial_start 1", "--base", base, "--hsvlc", hsvlc, **kwargs,
        )  # fmt: skip

    printed = run(f"{hsvlc} --code_channels 1", expect=1)  # an error in the last training
    assert "The stage hsvlc failed" in printed
    assert "Skipped" in printed and "broken.jpg" in printed and "PSNR" in printed
    printed = run(hsvlc)
    assert all(f"{stage}: finished before" in printed for stage in ("vae", "adversarial", "base"))
    assert "hsvlc: finished before" not in printed
    vae = "--max_train_steps 3"
    assert "The stage vae in" in run(hsvlc, expect=1)  # other options than before

    card = (tmp_path / "hsvlc" / "hsvlc" / "README.md").read_text()
    assert "| 1.000 |" in card and "fixed point cost" in card
    model = tmp_path / "rsic-tiny"
    assert not any("_name_or_path" in json.loads(path.read_text()) for path in model.glob("*/config.json"))
    encoder = RSICEncoderPipeline.from_pretrained(model)
    decoder = RSICDecoderPipeline.from_pretrained(model)
    assert decoder.scheduler.config.num_inference_steps == 8
    assert encoder.config.default_max_side == 768  # as of rsic-tiny, whatever the crops' side was
    image = photo.crop((0, 0, 128, 128))
    decoded = decoder(encoder(image, box=(0, 0, 64, 64)).bitstream, num_recurrence_steps=1)
    assert np.isfinite(np.asarray(decoded.images[0])).all()


def test_the_adversarial_stage_starts_from_the_stage_before(monkeypatch):
    """And not from the VAE that the first stage is told to go on from; the latents are settled by then."""
    from train_tiny import list_stages, parse_args

    folders = ["--train_data_dir", "a", "--validation_dir", "b", "--output_dir", "out"]
    options = "--pretrained_vae old --equivariance 0.5"
    monkeypatch.setattr("sys.argv", ["train_tiny.py", *folders, "--vae", options])
    first, second, *_ = list_stages(parse_args())

    def last(option, command):  # the one that argparse takes
        return [command[i + 1] for i, word in enumerate(command) if word == option][-1]

    assert last("--pretrained_vae", first.command) == "old"
    assert last("--pretrained_vae", second.command) == str(first.result)
    assert (last("--equivariance", first.command), last("--equivariance", second.command)) == ("0.5", "0")


def test_packed_photos_are_the_photos(photos, tmp_path, run_script):
    from training_photos import find_photos, load_photo_arrays

    run_script("pack_photos.py", photos, "-o", tmp_path / "packed", "--max_side", 200, "--megabytes", 0.03)
    pieces = sorted((tmp_path / "packed").iterdir())
    assert len(pieces) > 1 and all(piece.stat().st_size <= 30_000 for piece in pieces)
    for piece in pieces:
        with zipfile.ZipFile(piece) as archive:
            archive.extractall(tmp_path / "unpacked")
    unpacked = find_photos([tmp_path / "unpacked"])
    expected = list(load_photo_arrays(find_photos([photos]), 1, 200))
    assert [label for _, label in unpacked] == [label for _, label in expected]
    for (path, _), (array, _) in zip(unpacked, expected, strict=True):
        difference = np.asarray(Image.open(path)).astype(float) - array
        assert np.sqrt(np.square(difference).mean()) < 6
    assert "not empty" in run_script("pack_photos.py", photos, "-o", tmp_path / "packed", refused=True)
