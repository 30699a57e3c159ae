"""2,000 hostile files and some hostile streams; `python -m fuzz` (in tests/) runs as many as one likes."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.checks import GOLDEN_CODEC, StreamChecker, check_parse
from rsic_diffusers import HSVLC, Bitstream, BitstreamError


BUDGET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=2000, **BUDGET)
@given(st.randoms(use_true_random=False))
def test_hostile_files(rng):
    check_parse(rng)


@settings(max_examples=300, **BUDGET)
@given(st.binary(max_size=200))
def test_any_bytes(data):
    try:
        assert Bitstream.from_bytes(b"RS" + data).to_bytes() == b"RS" + data
    except BitstreamError as error:
        assert len(str(error)) > 10


def test_hostile_streams():
    checker = StreamChecker(HSVLC.from_pretrained(GOLDEN_CODEC))
    sound = sum(checker.check(random.Random(seed)) for seed in range(200))
    assert sound < 60


@pytest.mark.slow
def test_many_hostile_files():
    """Most changes are noticed, and yet some make another sound file: the mutator reaches behind every check."""
    sound = sum(check_parse(random.Random(seed)) for seed in range(100_000))
    assert 1_000 < sound < 50_000
