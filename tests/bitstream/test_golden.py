"""Files written by this version must decode forever: `golden/` holds files, and what was in them.

If one of these fails, the change breaks every file that users have. Undo it, or give the format a new version that
keeps reading the old one; never make the golden files anew (golden/make.py is for a new version's files).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rsic_diffusers import HSVLC, Bitstream


GOLDEN = Path(__file__).parent.parent / "golden"
EXPECTED = json.loads((GOLDEN / "symbols.json").read_text())


@pytest.fixture(scope="module")
def golden_codec():
    return HSVLC.from_pretrained(GOLDEN / "codec")


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_files_hold_what_they_held(golden_codec, name):
    file, expected = Bitstream.read(GOLDEN / f"{name}.rsic"), EXPECTED[name]
    assert [file.width, file.height] == expected["size"] and file.caption == expected["caption"]
    np.testing.assert_array_equal(np.round(file.weight_map.values * 255), expected["weight_map"])
    assert file.fingerprint == golden_codec.fingerprint
    values = torch.from_numpy(file.weight_map.values)[None, None]
    symbols = golden_codec.decode_symbols(file.codes, values, tuple(-(-side // 8) for side in file.coded_size))
    assert [scale.flatten().tolist() for scale in symbols] == expected["symbols"]


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_parts_are_written_as_they_were(name):
    """The container and its parts, from what was read: the same bytes, so that older versions read new files."""
    assert Bitstream.read(GOLDEN / f"{name}.rsic").to_bytes() == (GOLDEN / f"{name}.rsic").read_bytes()
