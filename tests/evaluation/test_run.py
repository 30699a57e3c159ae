"""`rsic evaluate` on real photos: every figure against what the files and pictures it left behind say."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rsic_diffusers.commands.rsic_cli import main
from rsic_diffusers.evaluation.methods import ablations
from rsic_diffusers.evaluation.metrics.pixel_metrics import LOADERS
from rsic_diffusers.evaluation.photos import find_photos
from rsic_diffusers.evaluation.run import Evaluation, evaluate
from rsic_diffusers.hub import CHECKPOINTS


WEIGHTS = ["0.857", "0.4"]
METRICS = ["psnr", "f_psnr", "ssim"]


def make_folder(folder, photo):
    """Three photos: with a box, with a mask, and in a subfolder with no region."""
    (folder / "sub").mkdir(parents=True)
    crops = {"a.png": (150, 40, 310, 170), "b.png": (0, 0, 128, 128), "sub/c.png": (300, 300, 428, 428)}
    for name, box in crops.items():
        photo.crop(box).save(folder / name)
    mask = np.zeros((128, 128), np.uint8)
    mask[20:70, 30:90] = 255
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "b.png")
    entries = [
        {"file": "a.png", "caption": "a woman", "phrase": "woman", "box": [0.25, 0.1, 0.75, 0.8], "width": 160},
        {"file": "b.png", "mask": "masks/b.png"},
        {"file": "sub/c.png", "caption": "a uniform"},
    ]
    (folder / "annotations.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, photo):
    folder = make_folder(tmp_path_factory.mktemp("evaluate") / "photos", photo)
    output = folder.parent / "out"
    command = ["evaluate", str(folder), "-o", str(output), "--weights", *WEIGHTS, "--codecs", "jpeg", "webp"]
    assert main([*command, "--metrics", *METRICS]) == 0
    return folder, output, command


def rows_of(output):
    with open(output / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


def test_figures_are_those_of_the_files_and_pictures(run):
    folder, output, _ = run
    rows = rows_of(output)
    # Photos, weights; two modes decoded and codec only, two other codecs; and the VAE alone.
    assert len(rows) == 3 * 2 * 6 + 3
    masks = {"a.png": np.zeros((130, 160), bool), "b.png": np.asarray(Image.open(folder / "masks" / "b.png")) > 0}
    masks["a.png"][13:104, 40:120] = True
    for row in rows:
        where = f"{row['method'].replace(', ', '-').replace(' ', '-')}-{float(row['weight']):.6g}"
        original = np.asarray(Image.open(folder / row["photo"]))
        picture = np.asarray(Image.open(output / "pictures" / where / f"{row['photo']}.png"))
        assert float(row["psnr"]) == pytest.approx(psnr(picture, original), abs=1e-6)
        if row["photo"] == "sub/c.png":
            assert row["f_psnr"] == ""
        else:
            inside = masks[row["photo"]]
            assert float(row["f_psnr"]) == pytest.approx(psnr(picture[inside], original[inside]), abs=1e-6)
        if row["method"] == "VAE alone":
            continue  # there is no file
        pixels = original.shape[0] * original.shape[1]
        assert float(row["bpp"]) == pytest.approx(8 * int(row["bytes"]) / pixels)
        if row["method"] not in ("JPEG", "WebP"):
            mode = row["method"].split(",")[0]
            file = output / "files" / f"{mode}-{float(row['weight']):.6g}" / f"{row['photo']}.rsic"
            assert int(row["bytes"]) == file.stat().st_size
            assert int(row["bytes"]) == sum(int(row[name]) for name in "header caption map f0 f1 f2 f3".split())
            assert (int(row["unet_evaluations"]) == 0) == row["method"].endswith("codec only")


def test_pictures_are_what_the_decoder_makes_of_the_files(run, decoder):
    _, output, _ = run
    file = output / "files" / "referring-0.857" / "a.png.rsic"
    for method, arguments in (("referring", {}), ("referring-codec-only", {"num_inference_steps": 0})):
        expected = np.asarray(decoder(file, **arguments).images[0])
        picture = np.asarray(Image.open(output / "pictures" / f"{method}-0.857" / "a.png.png"))
        np.testing.assert_array_equal(picture, expected)


def test_the_vae_alone_is_the_vae_of_the_model(run, decoder):
    folder, output, _ = run
    picture = np.asarray(Image.open(output / "pictures" / "VAE-alone-0.857" / "b.png.png"))  # 128 x 128: no padding
    pixels = torch.from_numpy(np.asarray(Image.open(folder / "b.png")).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latents = decoder.vae.encode(pixels.to(decoder.vae.dtype)).latents  # its forward would round them to a byte
        expected = decoder.vae.decode(latents).sample[0]
    expected = ((expected.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).float().numpy()
    assert np.abs(picture - expected).max() <= 0.51
    assert any(line.startswith("| VAE alone |") for line in (output / "table.md").read_text().splitlines())


def test_global_mode_takes_as_many_bytes(run):
    rows = [row for row in rows_of(run[1]) if row["bytes"]]
    sizes = {(row["photo"], row["weight"], row["method"]): int(row["bytes"]) for row in rows}
    for (photo, weight, method), size in sizes.items():
        wanted = sizes[photo, weight, "referring"]
        if method == "global" and wanted > 100:  # the coder's words of 4 bytes leave smaller ones little choice
            assert size == pytest.approx(wanted, rel=0.02, abs=4)


def test_table_holds_the_means(run):
    _, output, _ = run
    rows = [row for row in rows_of(output) if row["method"] == "global" and float(row["weight"]) == 0.857]
    line = next(line for line in (output / "table.md").read_text().splitlines() if line.startswith("| global |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    size, bpp, psnr_, ssim = (np.mean([float(row[name]) for row in rows]) for name in ("bytes", "bpp", "psnr", "ssim"))
    assert cells[1:6] == ["3", f"{size:.0f}", f"{bpp:.4f}", f"{psnr_:.2f}", f"{ssim:.4f}"]
    results = json.loads((output / "results.json").read_text())
    assert results["versions"]["torch"] and results["seed"] is None and len(results["rows"]) == len(rows_of(output))
    assert (output / "curves.png").stat().st_size > 10_000
    assert Image.open(output / "sheets" / "a.png.png").width > 4 * 160


def test_an_interrupted_run_goes_on_and_metrics_can_be_added(run):
    _, output, command = run
    before = rows_of(output)
    pictures = {path: path.stat().st_mtime_ns for path in output.glob("pictures/**/*.png")}
    gone = output / "pictures" / "referring-0.857" / "b.png.png"
    bytes_before = gone.read_bytes()
    gone.unlink()
    ledger = output / "ledger-0.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'\n{"photo": "a.png", "meth')  # killed while it wrote

    assert main([*command, "--metrics", *METRICS, "f_ssim"]) == 0
    assert gone.read_bytes() == bytes_before
    assert [path for path, time in pictures.items() if path.stat().st_mtime_ns != time] == [gone]
    assert "nan" not in (output / "results.json").read_text().lower()
    for old, new in zip(before, rows_of(output), strict=True):
        assert {name: value for name, value in old.items() if new[name] != value}.keys() <= (
            {"decode_seconds", "peak_memory"} if new["photo"] == "b.png" else set()
        )
        assert (new["f_ssim"] == "") == (new["photo"] == "sub/c.png")


def test_what_was_made_of_other_photos_or_settings_is_made_again(tmp_path, photo, encoder):
    folder = make_folder(tmp_path / "photos", photo)
    (folder / "annotations.json").unlink()  # global mode
    command = ["evaluate", str(folder), "-o", str(tmp_path / "out"), "--metrics", "psnr", "--codecs", "jpeg"]
    command += ["--presets", "fast", "--weights", "1", "--limit", "1"]
    assert main(command) == 0
    before = {row["method"]: row for row in rows_of(tmp_path / "out")}
    photo.crop((0, 200, 160, 330)).save(folder / "a.png")
    assert main(command) == 0
    after = {row["method"]: row for row in rows_of(tmp_path / "out")}
    for name in before:
        assert after[name]["psnr"] != before[name]["psnr"]
    data = (tmp_path / "out" / "files" / "global-1" / "a.png.rsic").read_bytes()
    assert int(after["global, fast"]["bytes"]) == len(data)
    assert main([*command, "--refine", "2"]) == 0
    refined = (tmp_path / "out" / "files" / "global-1" / "a.png.rsic").read_bytes()
    assert refined == encoder(Image.open(folder / "a.png"), weight=1, refinement_steps=2).bitstream != data


def test_another_region_or_caption_is_measured_anew(tmp_path, photo):
    """Also where the picture stays as it is: that of the VAE alone, and those of other codecs."""
    folder = make_folder(tmp_path / "photos", photo)
    command = ["evaluate", str(folder), "-o", str(tmp_path / "out"), "--metrics", "psnr", "f_psnr", "--codecs"]
    command += ["--presets", "fast", "--limit", "1"]
    assert main(command) == 0
    entries = json.loads((folder / "annotations.json").read_text())
    entries[0]["box"] = [0.5, 0.5, 1.0, 1.0]
    (folder / "annotations.json").write_text(json.dumps(entries), "utf-8-sig")  # as Windows' editors write it
    assert main([*command, "--metrics", "psnr"]) == 0  # what was measured for the other box is no figure any more
    assert {row["method"]: row.get("f_psnr") for row in rows_of(tmp_path / "out")}["VAE alone"] == ""
    assert main(command) == 0
    (row,) = (row for row in rows_of(tmp_path / "out") if row["method"] == "VAE alone")
    original = np.asarray(Image.open(folder / "a.png"))
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / "VAE-alone-0.714286" / "a.png.png"))
    inside = np.s_[65:, 80:]
    assert float(row["f_psnr"]) == pytest.approx(psnr(picture[inside], original[inside]), abs=1e-6)


def test_no_file_of_an_earlier_run_stands_for_one_that_failed(tmp_path, photo):
    photos = find_photos(make_folder(tmp_path / "photos", photo), limit=1)
    Evaluation(photos, tmp_path / "out", codecs=[], metrics=["psnr"]).encode()
    photos = [dataclasses.replace(photos[0], caption="word " * 200)]  # more than the text encoder reads
    evaluation = Evaluation(photos, tmp_path / "out", codecs=[], metrics=["psnr"])
    evaluation.encode()
    evaluation.decode()
    failures = "\n".join(evaluation.failures())
    assert "file, referring" in failures and "file, global" in failures and "global, M = 0.714: Its file" in failures
    assert evaluation.entries() == []


def test_another_codecs_pictures_are_taken_as_they_are(tmp_path, photo):
    folder = make_folder(tmp_path / "photos", photo)
    (folder / "annotations.json").unlink()
    (folder / "masks" / "b.png").unlink()
    theirs = tmp_path / "theirs"
    (theirs / "sub").mkdir(parents=True)
    sizes = {}
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.open(folder / name).quantize(16).convert("RGB").save(theirs / name)
        sizes[name] = 100 + len(sizes)
    (theirs / "sizes.json").write_text(json.dumps(sizes))
    command = ["evaluate", str(folder), "-o", str(tmp_path / "out"), "--metrics", "psnr", "--codecs"]
    command += ["--external", f"theirs={theirs}", "--weights", "1"]
    assert main(command) == 0
    rows = [row for row in rows_of(tmp_path / "out") if row["method"] == "theirs"]
    assert [int(row["bytes"]) for row in rows] == [100, 101, 102]
    for row in rows:
        expected = psnr(np.asarray(Image.open(theirs / row["photo"])), np.asarray(Image.open(folder / row["photo"])))
        assert float(row["psnr"]) == pytest.approx(expected)

    Image.open(folder / "b.png").quantize(4).convert("RGB").save(theirs / "b.png")
    (theirs / "sizes.json").write_text(json.dumps({**sizes, "a.png": 90}))
    assert main(command) == 0
    again = [row for row in rows_of(tmp_path / "out") if row["method"] == "theirs"]
    assert [int(row["bytes"]) for row in again] == [90, 101, 102]
    assert [new["psnr"] == old["psnr"] for new, old in zip(again, rows, strict=True)] == [True, False, True]


def beside_an_external_codec(tmp_path, photo, num_bytes):
    """Photos, the folder of a codec that gives the first one back as it is, and the command that compares them."""
    folder, theirs = make_folder(tmp_path / "photos", photo), tmp_path / "theirs"
    theirs.mkdir()
    photo.crop((150, 40, 310, 170)).save(theirs / "a.png")
    (theirs / "sizes.json").write_text(json.dumps({"a.png": num_bytes}))
    command = ["evaluate", str(folder), "-o", str(tmp_path / "out"), "--metrics", "psnr", "--limit", "1", "--codecs"]
    return folder, theirs, [*command, "--external", f"theirs={theirs}"]


def test_files_take_the_sizes_of_another_codecs(tmp_path, photo):
    folder, theirs, command = beside_an_external_codec(tmp_path, photo, num_bytes=170)
    assert main([*command, "--at-size-of", "theirs"]) == 0
    sizes = {row["method"]: int(row["bytes"]) for row in rows_of(tmp_path / "out") if row["bytes"]}
    assert sizes.pop("theirs") == 170
    assert len(sizes) == 4 and all(0.9 * 170 < size <= 1.01 * 170 + 4 for size in sizes.values()), sizes
    with pytest.raises(ValueError, match="no external codec 'others'"):
        Evaluation(find_photos(folder), tmp_path / "out", external=[("theirs", theirs)], at_size_of="others")


def test_an_external_picture_does_not_wait_for_our_file(tmp_path, photo, capsys):
    """Which cannot be as small as theirs. What failed at a weight that is not asked for any more counts no more."""
    _, theirs, command = beside_an_external_codec(tmp_path, photo, num_bytes=20)
    assert main([*command, "--at-size-of", "theirs"]) == 1
    (row,) = rows_of(tmp_path / "out")
    assert (row["method"], row["bytes"], row["psnr"]) == ("theirs", "20", "")  # infinite: it is the photo itself
    capsys.readouterr()
    (theirs / "a.png").unlink()
    assert main([*command, "--weights", "1"]) == 1  # their picture is not there
    photo.crop((150, 40, 310, 170)).save(theirs / "a.png")
    assert main([*command, "--weights", "0.5", "1"]) == 0


def test_photos_that_an_external_folder_cannot_tell_apart_are_refused(tmp_path, photo):
    folder, theirs = tmp_path / "photos", tmp_path / "theirs"
    for path in (folder / "a.png", folder / "a.jpg", theirs / "a.png"):
        path.parent.mkdir(exist_ok=True)
        photo.crop((0, 0, 128, 128)).save(path)
    (theirs / "sizes.json").write_text(json.dumps({"a": 170}))
    with pytest.raises(ValueError, match="a.jpg and a.png differ only in their suffix"):
        Evaluation(find_photos(folder), tmp_path / "out", external=[("theirs", theirs)])


def test_weights_and_names_are_kept_apart(tmp_path, photo):
    """Weights that differ in the fourth digit have files of their own; a name need not be UTF-8."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.crop((150, 40, 310, 170)).save(folder / "a\udce9.png")
    command = ["evaluate", str(folder), "-o", str(tmp_path / "out"), "--metrics", "psnr", "--codecs"]
    assert main([*command, "--weights", "0.5004", "0.4996"]) == 0
    for row in rows_of(tmp_path / "out"):
        if row["bytes"]:
            (file,) = (tmp_path / "out" / "files" / f"global-{row['weight']}").iterdir()
            assert file.stat().st_size == int(row["bytes"])
    assert "a\\udce9" in (tmp_path / "out" / "results.csv").read_text()


def test_a_vae_that_overflows_in_half_precision_is_not_blamed(tmp_path, photo):
    """The VAE alone is decoded again in float32, as all else is."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.crop((150, 40, 310, 170)).save(folder / "a.png")
    figures = []
    for overflows in (False, True):
        evaluation = Evaluation(
            find_photos(folder), tmp_path / f"out {overflows}", dtype=torch.bfloat16, codecs=[], metrics=["psnr"]
        )
        load = evaluation._load

        def load_spoilt(pipeline_class, load=load, **components):
            pipeline = load(pipeline_class, **components)

            def spoil(module, inputs, output):
                return output * float("nan") if output.dtype == torch.bfloat16 else output

            pipeline.vae.encoder.register_forward_hook(spoil)
            return pipeline

        evaluation._load = load_spoilt if overflows else load
        assert evaluate(evaluation, 0) == []
        figures.append([row["psnr"] for row in evaluation.entries() if row["method"] == "VAE alone"])
    assert figures[1] == pytest.approx(figures[0], abs=0.3)


def test_a_metric_that_fails_takes_nothing_else_with_it(tmp_path, photo, capsys, monkeypatch):
    folder = make_folder(tmp_path / "photos", photo)
    (folder / "annotations.json").unlink()  # global mode
    (folder / "masks" / "b.png").unlink()
    command = ["evaluate", str(folder), "-o", str(tmp_path / "out"), "--metrics", "psnr", "ssim", "--codecs"]
    command += ["--weights", "1", "--limit", "1"]

    def no_memory(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setitem(LOADERS, "ssim", lambda device: no_memory)
        assert main(command) == 1
    rows = rows_of(tmp_path / "out")
    assert rows and all(row["psnr"] and not row.get("ssim") for row in rows)
    assert all(row["bytes"] for row in rows if row["method"] != "VAE alone")
    assert "a.png, global, M = 1.000, ssim: out of memory" in (tmp_path / "out" / "table.md").read_text()
    pictures = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/pictures/**/*.png")}
    assert main(command) == 0
    assert all(row["ssim"] for row in rows_of(tmp_path / "out"))
    assert pictures == {path: path.stat().st_mtime_ns for path in pictures}


def test_a_photo_that_fails_is_reported_and_the_others_are_done(tmp_path, photo, capsys):
    folder = make_folder(tmp_path / "photos", photo)
    (folder / "b.png").write_bytes(b"no picture")
    command = ["evaluate", str(folder), "-o", str(tmp_path / "out"), "--metrics", "psnr", "--codecs", "jpeg"]
    assert main(command) == 1
    assert {row["photo"] for row in rows_of(tmp_path / "out")} == {"a.png", "sub/c.png"}
    assert "b.png" in capsys.readouterr().err
    assert "b.png is not an image" in (tmp_path / "out" / "table.md").read_text()


def test_ablations_are_the_papers():
    arguments = {method.name: method.decoding for method in ablations("fast", True, True)}
    assert [arguments[f"T = {T}"]["num_inference_steps"] for T in (10, 30, 50)] == [10, 30, 50]
    assert [arguments[f"T_r = {T_r}"]["num_recurrence_steps"] for T_r in (1, 4, 8)] == [1, 4, 8]
    # The paper's gamma is 1e3 in each step, however many there are; guidance_strength is their sum.
    arguments = {method.name: method.decoding for method in ablations("paper", True, True)}
    strengths = {name: arguments[name]["guidance_strength"] for name in ("T = 10", "T = 50", "T_r = 1", "T_r = 8")}
    assert strengths == {"T = 10": 80e3, "T = 50": 400e3, "T_r = 1": 50e3, "T_r = 8": 400e3}
    assert "without HSVLC" in arguments and "without HSVLC" not in [one.name for one in ablations("fast", True, False)]


def test_another_base_decodes_the_same_files(tmp_path, small_photo):
    """A base that predicts no noise at all: the codec's own pictures stay, and those of diffusion change."""
    (tmp_path / "photos").mkdir()
    small_photo.save(tmp_path / "photos" / "a.png")
    shutil.copytree(CHECKPOINTS / "rsic-tiny", tmp_path / "base")
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor * (not name.startswith("conv_out")) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    command = ["evaluate", str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--codecs", "--metrics", "psnr"]
    made = []
    for options in ([], ["--base-model", str(tmp_path / "base")]):
        assert main([*command, *options]) == 0
        files = [*(tmp_path / "out").glob("files/*/*"), *(tmp_path / "out").glob("pictures/*/*")]
        made.append({f"{file.parent.relative_to(tmp_path)}": file.read_bytes() for file in files})
    assert made[0].keys() == made[1].keys()
    changed = {folder for folder in made[0] if made[0][folder] != made[1][folder]}
    assert changed == {"out/pictures/global-0.714286"} and "out/pictures/global-codec-only-0.714286" in made[0]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["loading"] == {"base_model": str(tmp_path / "base")}


def test_another_start_of_the_sampler_is_noticed(tmp_path, small_photo):
    """start_noise_factors is no argument of the decoder: it stands in the model's own folder."""
    (tmp_path / "photos").mkdir()
    small_photo.save(tmp_path / "photos" / "a.png")
    model = shutil.copytree(CHECKPOINTS / "rsic-tiny", tmp_path / "model")
    config = model / "scheduler" / "scheduler_config.json"
    command = ["evaluate", str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--model", str(model)]
    command += ["--weights", "0.3", "--codecs", "--metrics", "psnr"]
    figures = []
    for factors in ([40.0, 1.0], [4.0, 0.1]):
        config.write_text(json.dumps({**json.loads(config.read_text()), "start_noise_factors": factors}))
        assert main(command) == 0
        figures.append({row["method"]: row["psnr"] for row in rows_of(tmp_path / "out")})
    assert {name for name in figures[0] if figures[0][name] != figures[1][name]} == {"global"}


def test_ablations_differ_as_they_should(tmp_path, photo, monkeypatch):
    long = ("T = 30", "T_r = 4", "T_r = 8")  # minutes that would say nothing more
    some = [method for method in ablations(None, True, False) if method.name not in long]
    monkeypatch.setattr("rsic_diffusers.evaluation.plan.ablations", lambda *_: some)
    folder = make_folder(tmp_path / "photos", photo)
    out = tmp_path / "out"
    command = ["evaluate", str(folder), "-o", str(out), "--limit", "1", "--metrics", "psnr", "f_psnr", "--codecs"]
    half_way = ["--decoding", "half way:strength=0.5,num_inference_steps=20"]
    assert main([*command, "--background", "0", "--ablations", *half_way]) == 0
    rows = {row["method"]: row for row in rows_of(out)}
    assert int(rows["without GDE"]["caption"]) < int(rows["referring"]["caption"])
    assert int(rows["without GDE"]["f3"]) == pytest.approx(int(rows["referring"]["f3"]), abs=1)
    assert int(rows["without RGE"]["bytes"]) < int(rows["referring"]["bytes"]) / 2
    assert float(rows["without RGE"]["f_psnr"]) < float(rows["referring"]["f_psnr"])
    assert [int(rows[name]["unet_evaluations"]) for name in ("T = 10", "T = 50", "T_r = 1")] == [10, 50, 8]
    assert int(rows["half way"]["unet_evaluations"]) == 20

    def picture(name):
        return (out / "pictures" / f"{name}-0.714286" / "a.png.png").read_bytes()

    assert picture("T_r1") == picture("referring") != picture("T50")  # the model's own setting by another name
    assert picture("without-guidance") != picture("referring")


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"file": "none.png"}, "does not hold"),
        ({"file": "a.png", "box": [0.5, 0, 0.2, 1]}, "fractions"),
        ({"file": "a.png", "mask": "none.png"}, "no mask"),
        ({"caption": "a dog"}, '"file"'),
        ({"file": "a.png", "box": ["a", 0, 1, 1]}, "fractions"),
        ({"file": "a.png", "mask": 5}, "must be text"),
        ({"file": "../photos/a.png"}, "must be the name"),
    ],
)
def test_annotations_that_cannot_be_are_refused(tmp_path, photo, entry, message):
    folder = make_folder(tmp_path / "photos", photo)
    (folder / "annotations.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=message):
        find_photos(folder)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "1.5"], "between 0 and 1"),
        (["--presets", "quick"], "no preset quick"),
        (["--decoding", "a:strenght=1"], "strenght"),
        (["--decoding", "referring:strength=1"], "names of their own"),
        (["--metrics", "psnr2"], "psnr2"),
        (["--codecs", "gif"], "gif"),
        (["--limit", "0"], "at least 1"),
        (["--external", "perco=nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_are_one_sentence_and_nothing_is_written(tmp_path, photo, capsys, arguments, message):
    folder = make_folder(tmp_path / "photos", photo)
    assert main(["evaluate", str(folder), "-o", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "out").exists()
