"""One photo, encoded and decoded by the embedded default."""

import pytest


# For what does not depend on how good the picture is.
QUICK = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0}
BOX = (50, 20, 150, 140)


@pytest.fixture(scope="module")
def encoded(encoder, small_photo):
    return encoder(small_photo, caption="a woman in a cap", box=BOX, weight=1.0)


@pytest.fixture(scope="module")
def decoded(decoder, encoded):
    return decoder(encoded.bitstream, **QUICK).images[0]


@pytest.fixture(scope="module")
def decoded_by_default(decoder, encoded):
    return decoder(encoded.bitstream).images[0]
