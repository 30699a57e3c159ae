"""Entropy coding: symbols to bytes and back, by compressai's compiled rANS coder."""

import importlib.util
import sys
from functools import cache
from importlib.machinery import PathFinder

import torch


CDF_PRECISION = 16  # probabilities are multiples of 2^-16
INITIAL_STATE = 1 << 31  # of the coder, and all that is in a stream of no symbols
WORD_BYTES = 4
STATE_BYTES = 8


@cache
def load_coder():
    """The module `compressai.ans`, loaded without the package around it.

    `import compressai` imports its model zoo and data sets, and with them torch_geometric and pandas: seconds of work
    that coding has no use for.
    """
    name = "compressai.ans"
    if name not in sys.modules:
        package = importlib.util.find_spec("compressai")  # finds the package, does not run it
        spec = package and PathFinder.find_spec(name, package.submodule_search_locations)
        if spec is None:
            raise ImportError("compressai's compiled coder was not found; pip install compressai.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # Under its own name, so that a later `import compressai` takes this copy and does not load a second.
        sys.modules[name] = module
    return sys.modules[name]


class CodeStreamError(ValueError):
    """A stream that no encoder writes: it is damaged, or of another codec or map."""


class RansEncoder:
    """Collects the symbols of all scales and codes them into one stream.

    Args:
        tables (`tuple[list, list, list]`): CDFs, their lengths and offsets: `GaussianCDFTables.as_lists()`.
    """

    def __init__(self, tables: tuple[list, list, list]):
        self.tables = tables
        self.symbols, self.indexes = [], []

    def write(self, symbols: torch.Tensor, indexes: torch.Tensor) -> None:
        """Append symbols.

        Args:
            symbols (`torch.Tensor` of shape (N,), int64): Any 16-bit integers.
            indexes (`torch.Tensor` of shape (N,), int64): The CDF of each.
        """
        self.symbols += symbols.tolist()
        self.indexes += indexes.tolist()

    def finish(self) -> bytes:
        """The stream: the coder's state of 8 bytes, then words of 4 bytes."""
        intervals = self._intervals() if len(self.symbols) <= 2 else None
        if intervals is not None:
            return encode_intervals(intervals)
        encoder = load_coder().BufferedRansEncoder()
        encoder.encode_with_indexes(self.symbols, self.indexes, *self.tables)
        return encoder.flush()

    def _intervals(self) -> list[tuple[int, int]] | None:
        """Start and size of each symbol's interval; None if one is outside its table and takes an escape."""
        cdfs, lengths, offsets = self.tables
        intervals = []
        for symbol, index in zip(self.symbols, self.indexes, strict=True):
            place = symbol - offsets[index]
            if not 0 <= place < lengths[index] - 2:
                return None
            intervals.append((cdfs[index][place], cdfs[index][place + 1] - cdfs[index][place]))
        return intervals


def encode_intervals(intervals: list[tuple[int, int]]) -> bytes:
    """What the compiled coder makes of symbols without escapes.

    The compiled coder reserves a word per symbol and then writes the state's two words besides: for fewer than three
    symbols it can write outside of its memory. These few are coded here.

    Args:
        intervals (`list[tuple[int, int]]`): Start and size of each symbol's interval, in units of 2^-16.
    """
    state, words = INITIAL_STATE, []
    for start, size in reversed(intervals):
        if state >= size << 47:
            words.insert(0, state & 0xFFFFFFFF)
            state >>= 32
        state = (state // size << CDF_PRECISION) + start + state % size
    return state.to_bytes(STATE_BYTES, "little") + b"".join(word.to_bytes(WORD_BYTES, "little") for word in words)


class RansDecoder:
    """Reads symbols from a stream.

    Args:
        tables (`tuple[list, list, list]`): As for [`RansEncoder`].
        data (`bytes`): The stream, trusted in nothing.
        max_symbols (`int`): At most so many symbols will be read.
    """

    def __init__(self, tables: tuple[list, list, list], data: bytes, max_symbols: int):
        self.tables = tables
        self.decoder = load_coder().RansDecoder()
        # The compiled decoder does not know where its input ends. Zeros after the end keep every read inside memory,
        # whatever the bytes say. A symbol takes at most one word. An escape spells its length in half bytes of 15
        # until a smaller one; these must come from the data (or the state), and each can call for 15 more half bytes:
        # less than 16 bytes for each byte.
        self.decoder.set_stream(data + bytes(WORD_BYTES * max_symbols + 16 * (len(data) + STATE_BYTES)))

    def read(self, indexes: torch.Tensor) -> torch.Tensor:
        """The next symbols, one for each index: (N,) int64 on the CPU."""
        symbols = self.decoder.decode_stream(indexes.tolist(), *self.tables)
        return torch.tensor(symbols, dtype=torch.int64, device="cpu")
