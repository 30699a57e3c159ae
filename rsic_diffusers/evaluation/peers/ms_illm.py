"""MS-ILLM (Muckley et al. 2023), by its torch.hub entries."""

import struct
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from ..downloads import limited_patience
from .peer import Peer, PeerUnavailable
from .search import nearest_level


# With the branch named and the check for forks skipped, a cached repository is used without a connection.
REPOSITORY = "facebookresearch/NeuralCompression:main"
# Bits per pixel: 0.002, 0.004, 0.035, 0.07, 0.14, 0.3, 0.45, 0.9.
LEVELS = ("vlo1", "vlo2", "1", "2", "3", "4", "5", "6")
HEADER = struct.Struct("<BHHH")  # level, height, width, bytes of the hyper latent


@cache
def _load(level):
    try:
        with limited_patience():
            model = torch.hub.load(REPOSITORY, f"msillm_quality_{level}", trust_repo=True, skip_validation=True)
    # A repository and its dependencies can fail in every way: no connection, a missing package, another torch.
    except Exception as error:
        raise PeerUnavailable(
            f"MS-ILLM cannot be loaded from torch.hub ({type(error).__name__}: {error}); it needs a connection to "
            f"GitHub once, and the packages that {REPOSITORY.partition(':')[0]} asks for."
        ) from None
    model = model.eval()
    model.update()
    return model


class MSILLM(Peer):
    """Eight fixed models, so the nearest file may be larger than asked. On the CPU, where its coder must run."""

    name = "MS-ILLM"
    search = staticmethod(nearest_level)

    def __init__(self):
        _load(LEVELS[0])

    def settings(self, image):
        return LEVELS

    @torch.no_grad()
    def encode(self, image, setting):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        compressed = _load(setting).compress(pixels)
        (hyper,), (latent,) = compressed.hyper_latent_strings, compressed.latent_strings
        return HEADER.pack(LEVELS.index(setting), image.height, image.width, len(hyper)) + hyper + latent

    @torch.no_grad()
    def decode(self, data, size):
        level, height, width, length = HEADER.unpack_from(data)
        model, streams = _load(LEVELS[level]), data[HEADER.size :]
        compressed = SimpleNamespace(
            hyper_latent_strings=[streams[:length]],
            latent_strings=[streams[length:]],
            image_size=(height, width),
            padded_size=tuple(-(-side // model.factor) * model.factor for side in (height, width)),
        )
        pixels = model.decompress(compressed)[0].clamp(0, 1).permute(1, 2, 0)
        return Image.fromarray((255 * pixels).round().byte().numpy())

    def describe(self, setting):
        return f"msillm_quality_{setting}"
