"""Photos are found, brought to size, encoded once, and found again by their content."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from rsic_diffusers.hub import resolve_model
from rsic_diffusers.pipelines.latents import encode_image


ACCELERATOR = SimpleNamespace(
    process_index=0, num_processes=1, is_main_process=True, mixed_precision="no", wait_for_everyone=lambda: None
)


@pytest.fixture(scope="module")
def vae():
    return AutoencoderTiny.from_pretrained(resolve_model("rsic-tiny"), subfolder="vae").float().eval()


class CountingVAE:
    """The VAE, which counts the photos that it encodes."""

    def __init__(self, vae):
        self.vae, self.count = vae, 0
        self.config, self.device, self.dtype, self.state_dict = vae.config, vae.device, vae.dtype, vae.state_dict

    def encode(self, image):
        self.count += len(image)
        return self.vae.encode(image)


@pytest.fixture
def folder(tmp_path, photo):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for i, (name, size) in enumerate([("a.png", (96, 64)), ("b.png", (96, 64)), ("below/a.png", (70, 130))]):
        photo.crop((40 * i, 30, 40 * i + size[0], 30 + size[1])).save(folder / name)
    return folder


def latents_by_label(latents):
    return {label: tensor for tensor, label, _ in (latents[i] for i in range(len(latents)))}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_latents_are_those_of_the_vae(num_workers, folder, vae, tmp_path):
    from latent_cache import load_latents
    from training_photos import FitPhoto, find_photos

    names = ["a.png", "b.png", "below/a.png"]
    (folder / "labels.tsv").write_text("file\tlabel\n" + "".join(f"{name}\t{name}\n" for name in names))
    listed = find_photos([folder])
    cached = load_latents(vae, listed, FitPhoto(64, 768), tmp_path / "cache", ACCELERATOR, num_workers)
    found = latents_by_label(cached)
    assert sorted(found) == names
    assert cached.areas().tolist() == [cached[i][0][0].numel() for i in range(3)]
    for name in names:
        pixels = np.asarray(Image.open(folder / name))
        height, width = (side - side % 8 for side in pixels.shape[:2])
        image = torch.tensor(pixels[:height, :width]).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            expected = encode_image(vae, image)[0]
        assert found[name].dtype == torch.bfloat16
        torch.testing.assert_close(found[name].float(), expected, rtol=2**-8, atol=2**-8)


def test_mirror_images_are_encoded_too(folder, vae, tmp_path):
    """As photos: the latents of a mirrored photo are not its latents mirrored. And found again, without encoding."""
    from latent_cache import load_latents
    from training_photos import FitPhoto, find_photos

    for name in ("b.png", "below/a.png"):
        (folder / name).unlink()
    arguments = (find_photos([folder]), FitPhoto(64, 768), tmp_path / "cache", ACCELERATOR)
    load_latents(vae, *arguments)
    counting = CountingVAE(vae)
    cached = load_latents(counting, *arguments, mirror=True)
    assert counting.count == 1
    load_latents(counting, *arguments, mirror=True)
    assert counting.count == 1
    pixels = np.asarray(Image.open(folder / "a.png"))
    expected = []
    for view in (pixels, pixels[:, ::-1]):
        image = torch.tensor(view.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            expected.append(encode_image(vae, image)[0])
    found = [cached[i][0].float() for i in sorted(range(2), key=cached.is_mirror_image)]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=2**-8, atol=2**-8)


def test_latents_are_found_by_content_vae_and_size(folder, vae, tmp_path, photo):
    from latent_cache import load_latents
    from training_photos import FitPhoto, find_photos

    counting, cache, fit = CountingVAE(vae), tmp_path / "cache", FitPhoto(64, 768)
    load_latents(counting, find_photos([folder]), fit, cache, ACCELERATOR)
    assert counting.count == 3
    # The same photos under other names: nothing to encode. Another photo under an old name: encoded.
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    (moved / "a.png").rename(moved / "c.png")
    load_latents(counting, find_photos([moved]), fit, cache, ACCELERATOR)
    assert counting.count == 3
    photo.crop((200, 200, 296, 264)).save(moved / "b.png")
    latents = load_latents(counting, find_photos([moved]), fit, cache, ACCELERATOR)
    assert counting.count == 4 and len(latents) == 3
    # Another size, another VAE.
    load_latents(counting, find_photos([folder]), FitPhoto(128, 768), cache, ACCELERATOR)
    assert counting.count == 7
    torch.manual_seed(0)
    other = CountingVAE(AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4))
    load_latents(other, find_photos([folder]), fit, cache, ACCELERATOR)
    assert other.count == 3


def test_an_interrupted_run_goes_on_where_it_was(folder, vae, tmp_path, monkeypatch):
    import latent_cache
    from training_photos import FitPhoto, find_photos

    monkeypatch.setattr(latent_cache, "SHARD_PHOTOS", 1)
    monkeypatch.setattr(latent_cache, "PIXELS_AT_ONCE", {"cpu": 1})
    counting, listed = CountingVAE(vae), find_photos([folder])

    def interrupted(image):
        if counting.count == 2:
            raise KeyboardInterrupt
        counting.count += 1
        return vae.encode(image)

    counting.encode = interrupted
    with pytest.raises(KeyboardInterrupt):
        latent_cache.load_latents(counting, listed, FitPhoto(64, 768), tmp_path / "cache", ACCELERATOR)
    fresh = CountingVAE(vae)
    latents = latent_cache.load_latents(fresh, listed, FitPhoto(64, 768), tmp_path / "cache", ACCELERATOR)
    assert fresh.count == 1 and len(latents) == 3


def test_processes_share_the_work(folder, vae, tmp_path):
    from latent_cache import find_shards, load_latents
    from training_photos import FitPhoto, find_photos

    counts = []
    for index in range(2):
        counting = CountingVAE(vae)
        alone = SimpleNamespace(**{**vars(ACCELERATOR), "process_index": index, "num_processes": 2})
        # What the other process has is gathered by accelerate, which one process cannot do.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latent_cache.gather_object", lambda entries: entries)
            load_latents(counting, find_photos([folder]), FitPhoto(64, 768), tmp_path / "cache", alone)
        counts.append(counting.count)
    assert counts == [2, 1]
    (cache,) = (tmp_path / "cache").iterdir()
    assert len(find_shards(cache)) == 3


def test_photos_of_one_size_are_encoded_together():
    from latent_cache import ReadPhoto, equal_size_batches

    sizes = [(64, 96), (64, 64), (64, 96), (64, 96), (128, 128)]
    photos = [ReadPhoto(str(i), pixels=torch.zeros(*size, 3)) for i, size in enumerate(sizes)]
    batches = [[photo.key for photo in batch] for batch in equal_size_batches(photos, 2 * 64 * 96)]
    assert sorted(map(sorted, batches)) == [["0", "2"], ["1"], ["3"], ["4"]]


def test_variance_is_that_of_all_latents():
    from latent_cache import measure_latent_variance

    rng = np.random.default_rng(0)
    latents = [rng.normal(3, [[[1]], [[2]], [[3]], [[4]]], size=(4, 8, 8 + i)) for i in range(5)]
    together = np.concatenate([values.reshape(4, -1) for values in latents], axis=1)
    measured = measure_latent_variance([(torch.tensor(values), "", {}) for values in latents])
    np.testing.assert_allclose(measured, together.var(axis=1), rtol=1e-3)


@pytest.mark.parametrize(
    "size, expected",
    [((1600, 900), (768, 432)), ((500, 40), (800, 64)), ((300, 200), (300, 200)), ((64, 4000), (64, 4000))],
)
def test_photos_are_read_at_the_size_that_is_coded(size, expected, tmp_path):
    """Reduced as the encoder does; a short side goes before a long one."""
    from training_photos import find_photos, load_photo_arrays

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(256, size=(*size[::-1], 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    ((array, _),) = load_photo_arrays(find_photos([tmp_path]), 64, 768)
    np.testing.assert_array_equal(array, np.asarray(image.resize(expected, Image.Resampling.LANCZOS)))


def test_a_row_without_an_image_is_skipped(vae, photo, tmp_path, capsys):
    from latent_cache import load_latents
    from training_photos import DatasetPhotos, FitPhoto

    photo.crop((0, 0, 96, 64)).save(tmp_path / "a.png")
    rows = [{"image": None}, {"image": {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}}]
    photos = DatasetPhotos(rows, "image")
    assert len(load_latents(vae, photos, FitPhoto(64, 768), tmp_path / "cache", ACCELERATOR)) == 1
    assert "1 photos were not used" in capsys.readouterr().out


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_is_what_its_folder_is(streaming, folder, vae, tmp_path):
    """The same photos as a folder and through the package datasets: the same latents, from one cache."""
    pytest.importorskip("datasets", reason="the package datasets is optional", exc_type=ImportError)
    from latent_cache import load_latents
    from training_photos import FitPhoto, dataset_photos, find_photos

    counting, cache = CountingVAE(vae), tmp_path / "cache"
    from_folder = load_latents(counting, find_photos([folder]), FitPhoto(64, 768), cache, ACCELERATOR)
    photos = dataset_photos(folder, "image", streaming=streaming)
    from_dataset = load_latents(counting, photos, FitPhoto(64, 768), cache, ACCELERATOR, num_workers=2)
    assert counting.count == 3
    assert [key for key, _ in from_folder.entries] == [key for key, _ in from_dataset.entries]
    some = dataset_photos(folder, "image", streaming=streaming, limit=2)
    assert len(load_latents(counting, some, FitPhoto(64, 768), cache, ACCELERATOR)) == 2
    with pytest.raises(ValueError, match="no column"):
        dataset_photos(folder, "picture", streaming=streaming)


def test_a_photo_that_is_there_twice_keeps_its_label(folder, vae, tmp_path):
    """Whichever of two folders is read first."""
    from latent_cache import load_latents
    from training_photos import FitPhoto, find_photos

    shutil.copytree(folder, tmp_path / "copy")
    names = ["a.png", "b.png", "below/a.png"]
    (folder / "labels.tsv").write_text("file\tlabel\n" + "".join(f"{name}\t{name}\n" for name in names))
    for folders in ([folder, tmp_path / "copy"], [tmp_path / "copy", folder]):
        latents = load_latents(vae, find_photos(folders), FitPhoto(64, 768), tmp_path / "cache", ACCELERATOR)
        assert sorted(label for _, label in latents.entries) == names


def test_runs_that_share_a_cache_keep_each_others_latents(tmp_path):
    from latent_cache import ShardWriter, find_shards

    writers = [ShardWriter(tmp_path) for _ in range(2)]
    for keys, writer in zip((("a", "b", "c"), ("a",)), writers, strict=True):
        for key in keys:
            writer.add(key, torch.zeros(4, 1, 1), {})
        writer.flush()
    assert set(find_shards(tmp_path)) == {"a", "b", "c"}
