"""What the decoder returns beside the picture: M, the caption, and both shown."""

import numpy as np
import pytest
import torch

from rsic_diffusers import RSICDecoderOutput


BOX = (64, 64, 128, 128)
PICTURE = {"num_inference_steps": 0}


@pytest.fixture(scope="module")
def encoded(encoder, small_photo):
    return encoder(small_photo, caption="a woman in a cap", box=BOX, weight=1.0, background=0)


def test_weight_maps_are_the_encoders_at_pixels(decoder, encoded, small_photo):
    out = decoder([encoded.bitstream] * 2, **PICTURE)
    assert out.captions == ["a woman in a cap"] * 2 and len(out.weight_maps) == 2
    expected = np.zeros((165, 203), np.float32)
    expected[64:128, 64:128] = 1
    for weights, image in zip(out.weight_maps, out.images, strict=True):
        assert weights.dtype == np.float32 and weights.shape == image.size[::-1]
        np.testing.assert_array_equal(weights, expected)
    for output_type in ("np", "pt", "latent"):
        other = decoder(encoded.bitstream, **PICTURE, output_type=output_type)
        np.testing.assert_array_equal(other.weight_maps[0], expected)


def test_weight_maps_of_enlarged_pictures_follow_the_picture(encoder, decoder, photo):
    data = encoder(photo, box=(150, 40, 370, 310), background=2 / 7, max_side=512).bitstream
    out = decoder(data, **PICTURE)
    (weights,) = out.weight_maps
    cells = out.files[0].weight_map.values
    # 512 x 600 is coded as 437 x 512: a cell of 64 coded pixels is 75 pixels high and 74.98 wide.
    for y, x in [(0, 0), (37, 37), (180, 260), (599, 511), (74, 74), (76, 76), (310, 299), (305, 301)]:
        assert weights[y, x] == cells[int((y + 0.5) * 512 / 600 / 64), int((x + 0.5) * 437 / 512 / 64)]
    (as_coded,) = decoder(data, **PICTURE, upscale=False).weight_maps
    np.testing.assert_array_equal(as_coded, np.kron(cells, np.ones((64, 64), np.float32))[:512, :437])


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_the_overlay_keeps_what_is_faithful_and_marks_the_rest(decoder, encoded, output_type):
    out = decoder(encoded.bitstream, **PICTURE, output_type=output_type)
    (shown,) = (np.asarray(image).astype(int) for image in out.overlay())
    picture = np.asarray(decoder(encoded.bitstream, **PICTURE).images[0]).astype(int)
    assert shown.shape == picture.shape
    np.testing.assert_allclose(shown[65:127, 65:127], picture[65:127, 65:127], atol=1)
    assert (shown[64:128, 64] == (255, 196, 0)).all() and (shown[63, 64:128] == (255, 196, 0)).all()
    # Outside: darker and greyer, but for the diagonals, which are lighter.
    outside = np.s_[130:160, 130:160]
    rows, columns = np.mgrid[130:160, 130:160]
    diagonal = (rows + columns) % 16 == 0
    spread = np.ptp(picture[outside], axis=-1).mean()
    assert shown[outside][~diagonal].mean() < 0.7 * picture[outside][~diagonal].mean()
    assert np.ptp(shown[outside], axis=-1)[~diagonal].mean() < 0.5 * spread
    assert (shown[outside][diagonal] > shown[outside][~diagonal].mean()).all()


@pytest.mark.parametrize("weight, hatched", [(0.9, False), (0.1, True)])
def test_a_constant_map_has_no_outline(encoder, decoder, small_photo, weight, hatched):
    (shown,) = decoder(encoder(small_photo, weight=weight).bitstream, **PICTURE).overlay()
    shown = np.asarray(shown).astype(int)
    assert not (shown == (255, 196, 0)).all(-1).any()
    rows, columns = np.mgrid[:165, :203]
    diagonal = (rows + columns) % 16 == 0
    step = shown[diagonal].mean() - shown[~diagonal].mean()
    assert (step > 20) == hatched


def test_latents_cannot_be_shown(decoder, encoded):
    out = decoder(encoded.bitstream, **PICTURE, output_type="latent")
    assert isinstance(out, RSICDecoderOutput) and torch.is_tensor(out.images)
    with pytest.raises(ValueError, match="output_type"):
        out.overlay()
