"""What must hold for any bytes: a sentence, or a file that is written again as the same bytes."""

import random
from pathlib import Path

import torch

from rsic_diffusers import Bitstream, BitstreamError

from .mutators import hostile_file, hostile_stream


SHAPE = (21, 26)
GOLDEN_CODEC = Path(__file__).parent.parent / "golden" / "codec"


def check_parse(rng: random.Random) -> bool:
    """Parse one hostile file; returns whether it was sound after all."""
    data = hostile_file(rng)
    try:
        file = Bitstream.from_bytes(data)
    except BitstreamError as error:
        assert len(str(error)) > 10
        return False
    assert file.to_bytes() == data, "two spellings of one file"
    assert sum(file.breakdown().values()) == len(data)
    return True


class StreamChecker:
    """Decodes hostile code streams with a codec; the weight maps and sound streams are made once."""

    def __init__(self, hsvlc):
        self.hsvlc = hsvlc
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(1, 4, *SHAPE, generator=generator)
        shape = hsvlc.map_shape(*SHAPE)
        self.maps = [torch.randint(8, shape, generator=generator) / 7 for _ in range(4)]
        self.maps += [torch.zeros(shape), torch.ones(shape)]
        self.streams = [hsvlc.compress(latents, weight_map).data for weight_map in self.maps]

    def check(self, rng: random.Random) -> bool:
        """Decode one hostile stream; returns whether it was sound after all."""
        number = rng.randrange(len(self.maps))
        data = hostile_stream(self.streams[number], rng)
        weight_map = self.maps[rng.choice((number, rng.randrange(len(self.maps))))]
        try:
            symbols = self.hsvlc.decode_symbols(data, weight_map, SHAPE)
        except ValueError as error:
            assert "damaged" in str(error)
            return False
        assert all(int(scale.abs().max()) <= 127 for scale in symbols)
        return True
