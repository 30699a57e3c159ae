"""Encoding under torch's modes gives the same bytes."""

import pytest
import torch


OPTIONS = {"caption": "a woman in a cap", "box": (10, 10, 50, 50)}


@pytest.fixture(scope="module")
def crop(photo):
    return photo.crop((200, 80, 264, 144))


@pytest.fixture(scope="module")
def expected(encoder, crop):
    return encoder(crop, **OPTIONS).bitstream


def test_a_default_device_that_holds_nothing(encoder, crop, expected):
    torch.set_default_device("meta")
    try:
        assert encoder(crop, **OPTIONS).bitstream == expected
    finally:
        torch.set_default_device(None)


def test_inference_mode(encoder, crop, expected):
    with torch.inference_mode():
        assert encoder(crop, **OPTIONS).bitstream == expected
