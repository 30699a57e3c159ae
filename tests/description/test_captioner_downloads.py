"""What is said before a captioner is downloaded."""

from types import SimpleNamespace

import pytest
import transformers

from rsic_diffusers import Captioner
from rsic_diffusers.description import captioners
from rsic_diffusers.description.captioners import download_size


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Let the Hub list files of these sizes, and the cache hold what is in `cached`."""

    def pretend(sizes, cached=()):
        def model_info(self, name, revision=None, token=None, files_metadata=False):
            assert files_metadata
            siblings = [SimpleNamespace(rfilename=file, size=size) for file, size in sizes.items()]
            return SimpleNamespace(siblings=siblings, sha="c0ffee")

        def look_up(name, file, cache_dir=None, revision=None):
            assert revision == "c0ffee"
            return f"cache/{file}" if file in cached else None

        monkeypatch.setattr(captioners.HfApi, "model_info", model_info)
        monkeypatch.setattr(captioners, "try_to_load_from_cache", look_up)

    return pretend


SHARDS = {f"model-0000{i}-of-00003.safetensors": 5_000_000_000 for i in (1, 2, 3)}


@pytest.mark.parametrize(
    "files, cached, size",
    [
        ({"model.safetensors": 7, "pytorch_model.bin": 9, "tf_model.h5": 5, "onnx/model.safetensors": 3}, [], 7),
        ({**SHARDS, "model.safetensors.index.json": 9, "README.md": 1, "consolidated.safetensors": 9}, [], 15 * 10**9),
        (SHARDS, list(SHARDS)[:1], 10 * 10**9),
        (SHARDS, list(SHARDS), 0),
        ({"pytorch_model.bin": 9, "model.fp16.safetensors": 4}, [], 9),
        ({"pytorch_model-00001-of-00002.bin": 9, "pytorch_model-00002-of-00002.bin": 2}, [], 11),
        ({"model.safetensors": None}, [], 0),
        ({"config.json": 2}, [], 0),
    ],
)
def test_only_weights_that_will_be_fetched_count(hub, files, cached, size):
    hub({"config.json": 1, **files}, cached)
    assert download_size("org/model") == size


def test_nothing_is_asked_about_a_folder_and_nothing_fails_offline(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(captioners.HfApi, "model_info", offline)
    assert download_size(tmp_path) == download_size("org/model") == 0


def test_the_size_is_said_before_the_weights_are_fetched(hub, llava_folder, photo, monkeypatch, capsys):
    hub(SHARDS)
    real = transformers.AutoModelForImageTextToText.from_pretrained

    def fetch(name, **kwargs):
        assert "Downloading org/llava: 15.0 GB of weights." in capsys.readouterr().err
        return real(llava_folder, **kwargs)

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", fetch)
    for auto in (transformers.AutoConfig, transformers.AutoProcessor):
        monkeypatch.setattr(
            auto, "from_pretrained", lambda name, load=auto.from_pretrained, **kwargs: load(llava_folder, **kwargs)
        )
    assert Captioner.from_pretrained("org/llava")(photo)
