"""The entropy coder: compressai's, reached without its package, and ours for the streams that it cannot write."""

import numpy as np
import torch

from rsic_diffusers.models.rans import RansDecoder, RansEncoder, encode_intervals, load_coder


TABLES = ([[0, 1, 30000, 65535, 65536], [0, 65534, 65535, 65536, 65536]], [5, 4], [-1, 0])


def encode(symbols, indexes):
    encoder = RansEncoder(TABLES)
    encoder.write(torch.tensor(symbols, dtype=torch.int64), torch.tensor(indexes, dtype=torch.int64))
    return encoder.finish()


def decode(data, indexes):
    return RansDecoder(TABLES, data, len(indexes)).read(torch.tensor(indexes, dtype=torch.int64)).tolist()


def test_few_symbols_are_coded_as_many_are():
    """Our coder against the compiled one, where that one has the room it needs."""
    rng = np.random.default_rng(0)
    cdfs, _, offsets = TABLES
    for _ in range(200):
        indexes = rng.integers(0, 2, rng.integers(3, 30)).tolist()
        places = [int(rng.integers(0, 3 if index == 0 else 2)) for index in indexes]
        symbols = [place + offsets[index] for place, index in zip(places, indexes, strict=True)]
        encoder = load_coder().BufferedRansEncoder()
        encoder.encode_with_indexes(symbols, indexes, *TABLES)
        intervals = [
            (cdfs[i][place], cdfs[i][place + 1] - cdfs[i][place]) for i, place in zip(indexes, places, strict=True)
        ]
        assert encode_intervals(intervals) == encoder.flush()


def test_streams_of_no_symbol_and_of_few():
    """The compiled coder writes outside of its memory for these."""
    assert encode([], []) == (1 << 31).to_bytes(8, "little")
    assert decode(encode([], []), []) == []
    rng = np.random.default_rng(0)
    for _ in range(300):
        indexes = rng.integers(0, 2, rng.integers(1, 4)).tolist()
        symbols = rng.integers(-3, 6, len(indexes)).tolist()  # with escapes on both sides
        data = encode(symbols, indexes)
        assert len(data) % 4 == 0 and decode(data, indexes) == symbols


def test_coding_leaves_the_packages_around_the_coder_alone(run_python, tmp_path):
    """In a fresh process, models are loaded, a photo is encoded and decoded; then compressai can still be imported."""
    code = """
import sys
import numpy as np
from PIL import Image
from rsic_diffusers import RSICDecoderPipeline, RSICEncoderPipeline
encoder, decoder = RSICEncoderPipeline.from_pretrained(), RSICDecoderPipeline.from_pretrained()
image = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
data = encoder(image, caption="").bitstream
decoder(data, num_inference_steps=1, num_recurrence_steps=1)
heavy = {"compressai", "compressai.zoo", "torch_geometric", "pandas"} & set(sys.modules)
assert not heavy, heavy
import compressai
from compressai import ans
from compressai.entropy_models import EntropyBottleneck
from rsic_diffusers.models.rans import load_coder
assert load_coder() is ans
assert encoder(image, caption="").bitstream == data
print("done")
"""
    assert run_python(code).split()[-1] == "done"


def test_the_coder_is_the_packages_own(run_python):
    """Where compressai was imported first, its copy is used: two would not load beside each other."""
    code = """
import compressai
from compressai import ans
from rsic_diffusers.models.rans import load_coder
assert load_coder() is ans
print("done")
"""
    assert run_python(code).split()[-1] == "done"
