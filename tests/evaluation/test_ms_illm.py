"""MS-ILLM by torch.hub, with a stand-in for its repository."""

import numpy as np
import pytest
import torch

from rsic_diffusers.evaluation.peers import PeerUnavailable, load_peer


# Averages of square blocks, each level's smaller; a coder that must be updated before it is used.
HUB_ENTRIES = """
from collections import namedtuple
import torch
import torch.nn.functional as F

Compressed = namedtuple("Compressed", "latent_strings hyper_latent_strings image_size padded_size")

class Model(torch.nn.Module):
    factor = 64

    def __init__(self, block):
        super().__init__()
        self.block, self.updated = block, False

    def update(self):
        self.updated = True

    def compress(self, x):
        assert self.updated and not self.training and x.shape[:2] == (1, 3) and 0 <= x.min() and x.max() <= 1
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate")
        means = (255 * F.avg_pool2d(x, self.block)).round().byte()
        return Compressed([means.numpy().tobytes()], [b"hyper"], (height, width), tuple(x.shape[-2:]))

    def decompress(self, compressed):
        assert self.updated and compressed.hyper_latent_strings == [b"hyper"]
        rows, columns = (side // self.block for side in compressed.padded_size)
        means = torch.frombuffer(bytearray(compressed.latent_strings[0]), dtype=torch.uint8)
        x = F.interpolate(means.reshape(1, 3, rows, columns) / 255, scale_factor=self.block, mode="nearest")
        return x[..., : compressed.image_size[0], : compressed.image_size[1]]

def entry(block):
    return lambda pretrained=True: Model(block)

msillm_quality_vlo1, msillm_quality_vlo2 = entry(64), entry(32)
msillm_quality_1, msillm_quality_2, msillm_quality_3 = entry(16), entry(8), entry(4)
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's cache in an empty folder, and no connection."""
    from rsic_diffusers.evaluation.peers import ms_illm

    def no_connection(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr(torch.hub, "urlopen", no_connection)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    ms_illm._load.cache_clear()
    yield tmp_path
    ms_illm._load.cache_clear()


def test_ms_illm_takes_the_nearest_level(hub, detail):
    repository = hub / "facebookresearch_NeuralCompression_main"
    repository.mkdir()
    (repository / "hubconf.py").write_text(HUB_ENTRIES)
    peer = load_peer("ms-illm")
    # 97 x 81 is padded to 128 x 128: 3 bytes a block, 5 of the hyper latent, 7 of the header.
    sizes = {"vlo1": 24, "vlo2": 60, "1": 204, "2": 780}
    for num_bytes, level in [
        (10, "vlo1"),
        (24, "vlo1"),
        (37, "vlo1"),
        (39, "vlo2"),
        (130, "1"),
        (300, "1"),
        (500, "2"),
    ]:
        result = peer(detail, num_bytes)
        assert (result.setting, result.num_bytes) == (f"msillm_quality_{level}", sizes[level])
        assert result.fits == (num_bytes >= 24) and len(result.data) == sizes[level]
    padded = np.pad(np.asarray(detail, float), ((0, 47), (0, 31), (0, 0)), mode="edge")
    means = padded.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3)).repeat(8, axis=0).repeat(8, axis=1)[:81, :97]
    assert np.abs(np.asarray(result.image) - means).max() <= 0.5 + 1e-4


def test_ms_illm_without_a_connection(hub):
    with pytest.raises(PeerUnavailable, match="cannot be loaded from torch.hub .*no connection"):
        load_peer("ms-illm")
