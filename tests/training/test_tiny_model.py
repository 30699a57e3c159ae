"""What rsic-tiny's VAE and base are trained with: widened weights, captions, perceptual losses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPTextModel

from rsic_diffusers.hub import resolve_model


def make_vae(channels, encoder_blocks, decoder_blocks):
    return AutoencoderTiny(
        encoder_block_out_channels=(channels,) * 4,
        decoder_block_out_channels=(channels,) * 4,
        num_encoder_blocks=encoder_blocks,
        num_decoder_blocks=decoder_blocks,
    ).eval()


def test_a_widened_vae_is_the_same_function(photo):
    from widening import widen_vae

    torch.manual_seed(0)
    small, large = make_vae(8, (0, 1, 1, 2), (2, 1, 1, 0)), make_vae(12, (0, 1, 2, 3), (3, 2, 1, 0))
    widen_vae(small, large)
    image = torch.tensor(np.asarray(photo.crop((0, 0, 64, 96)))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latents = small.encode(image).latents
        torch.testing.assert_close(large.encode(image).latents, latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(large.decode(latents).sample, small.decode(latents).sample, rtol=1e-4, atol=1e-5)
    large.decode(large.encode(image).latents).sample.square().mean().backward()
    assert large.decoder.layers[-1].weight.grad[:, 8:].abs().min() > 0  # the new channels can learn
    with pytest.raises(ValueError, match="fit|lacks"):
        widen_vae(large, small)


def test_transforms_are_those_of_pillow(photo):
    """Mirrored, halved or reduced to three quarters in the share of draws that is asked for; else untouched."""
    from train_tiny_vae import random_transform

    photo = photo.crop((0, 0, 128, 96))
    image = torch.tensor(np.asarray(photo)).permute(2, 0, 1)[None].float()
    expected = {
        "mirrored": photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "half": photo.resize((64, 48), Image.Resampling.BILINEAR),
        "three quarters": photo.resize((96, 72), Image.Resampling.BILINEAR),
    }
    rng, seen = np.random.default_rng(0), dict.fromkeys([*expected, "untouched"], 0)
    for _ in range(400):
        transform = random_transform(rng, 0.4)
        if transform is None:
            seen["untouched"] += 1
            continue
        pixels = transform(image)[0].permute(1, 2, 0).numpy()
        name = {128: "mirrored", 64: "half", 96: "three quarters"}[pixels.shape[1]]
        np.testing.assert_allclose(pixels, np.asarray(expected[name]), atol=1.5)
        seen[name] += 1
    assert 200 < seen["untouched"] < 280 and 50 < seen["mirrored"] < 110
    assert all(20 < seen[name] < 60 for name in ("half", "three quarters"))


def test_the_perceptual_losses_look_from_every_offset(photo):
    """A period of 4 or 8 pixels in the decoder's output must not go unseen: AlexNet has a stride of 4."""
    from train_tiny_vae import shifted_window

    photo = np.asarray(photo.crop((0, 0, 48, 40)))
    picture = torch.tensor(photo).permute(2, 0, 1)[None]
    rng, offsets = np.random.default_rng(0), set()
    for _ in range(600):
        window, negative = shifted_window(rng, picture, 255 - picture)
        assert torch.equal(window, 255 - negative)
        pixels = window[0].permute(1, 2, 0).numpy()
        (offset,) = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.array_equal(pixels, photo[top : top + 32, left : left + 40])
        ]
        offsets.add(offset)
    assert offsets == {(top, left) for top in range(8) for left in range(8)}


def vae_arguments(**options):
    from argparse import Namespace

    args = {"equivariance": 0.0, "latent_noise": 0.0, "freeze_encoder": False, "gradient_weight": 0.3}
    args |= {"perceptual_weight": 0.5, "standardisation_weight": 0.0, "adversarial_start": 200}
    return Namespace(**{**args, "adversarial_weight": 0.0, **options})


def test_the_loss_of_the_vae_is_the_sum_of_its_parts(photo):
    """Pixels and their differences (Charbonnier) by NumPy, and LPIPS and one costly loss at three times its weight."""
    from train_tiny_vae import NoisyAutoencoder, vae_loss

    torch.manual_seed(0)
    model = NoisyAutoencoder(make_vae(8, (0, 1, 1, 1), (1, 1, 1, 0)), with_discriminator=False)
    target = np.asarray(photo.crop((100, 50, 164, 98))).astype(np.float32) / 127.5 - 1
    image = torch.tensor(target).permute(2, 0, 1)[None]
    with torch.no_grad():
        latents = model.vae.encode(image).latents
        decoded = model.vae.decode(latents).sample
    error = decoded[0].permute(1, 2, 0).numpy().astype(float) - target

    def charbonnier(x):
        return np.sqrt(x**2 + 1e-4).mean()

    pixels = charbonnier(error) + 0.3 * (charbonnier(np.diff(error, axis=0)) + charbonnier(np.diff(error, axis=1)))
    mean, std = latents.mean((0, 2, 3)).numpy(), latents.std((0, 2, 3)).numpy()
    standard = (mean**2).mean() + (np.log(std) ** 2).mean()
    seen = []

    def perceptual(name, picture, original):
        seen.append(name)
        assert picture.shape == original.shape == (1, 3, 40, 56)
        return torch.full((1,), 0.25)

    args = vae_arguments(standardisation_weight=0.125)
    loss, figures = vae_loss(model, image, args, perceptual, np.random.default_rng(0), step=0)
    assert loss.item() == pytest.approx(pixels + 0.5 * (1 + 3) * 0.25 + 0.125 * standard, rel=1e-4)
    assert float(figures["pixels"]) == pytest.approx(pixels, rel=1e-4)
    assert seen[0] == "LPIPS (AlexNet)" and seen[1] in ("DISTS", "LPIPS (VGG)") and len(seen) == 2


def test_a_frozen_encoder_gets_no_gradient(photo):
    from train_tiny_vae import NoisyAutoencoder, vae_loss

    model = NoisyAutoencoder(make_vae(8, (0, 1, 1, 1), (1, 1, 1, 0)), with_discriminator=False)
    image = torch.tensor(np.asarray(photo.crop((0, 0, 64, 64)))).permute(2, 0, 1)[None] / 127.5 - 1
    args = vae_arguments(freeze_encoder=True, latent_noise=0.1, standardisation_weight=0.5)
    vae_loss(model, image, args, None, np.random.default_rng(0), step=0)[0].backward()
    assert all(parameter.grad is None for parameter in model.vae.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.vae.decoder.parameters())


@pytest.mark.parametrize("has_new_text_encoder", [False, True])
def test_a_base_goes_on_from_another(has_new_text_encoder):
    """As it was, or with a new text encoder, whose captions change nothing at first."""
    from argparse import Namespace

    from train_tiny_base import make_base

    base = resolve_model("rsic-tiny")
    args = Namespace(pretrained_base=base, new_text_encoder=has_new_text_encoder)
    tokenizer, text_encoder, unet = make_base(args, [])
    old = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").float()
    before = UNet2DConditionModel.from_pretrained(base, subfolder="unet").float()
    latents, timestep = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(0)), torch.tensor([400])

    def predict(unet, text_encoder, caption):
        ids = tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            return unet(latents, timestep, text_encoder(ids).last_hidden_state).sample

    expected = [predict(before, old, caption) for caption in ("", "a red bus")]
    ours = [predict(unet, text_encoder, caption) for caption in ("", "a red bus")]
    if has_new_text_encoder:
        torch.testing.assert_close(ours[1], ours[0], rtol=0, atol=0)
        assert (ours[0] - expected[0]).square().mean() < 1e-3  # the captionless UNet, but for what differs by token
    else:
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "rgb, name",
    [((0.9, 0.1, 0.1), "red"), ((0.1, 0.2, 0.9), "blue"), ((0.05, 0.05, 0.1), "black"), ((0.5, 0.5, 0.5), "gray")]
    + [((0.95, 0.95, 0.95), "white"), ((0.45, 0.3, 0.15), "brown"), ((1, 0.4, 0.75), "pink")],
)
def test_colours_have_their_everyday_names(rgb, name):
    from captions import name_colour

    assert name_colour(rgb) == name


def test_captions_name_what_the_photo_shows():
    from captions import describe_colours, make_caption

    image = Image.new("RGB", (160, 120), (20, 60, 220))
    ImageDraw.Draw(image).rectangle((40, 30, 120, 90), fill=(230, 20, 20))
    colours = describe_colours(np.asarray(image))
    assert colours["middle"] == "red" and colours["border"] == "blue"
    rng = np.random.default_rng(0)
    captions = [make_caption("bus", colours, rng, dropout=0.25) for _ in range(400)]
    assert 60 < captions.count("") < 140
    assert "a red bus on a blue background" in captions and all("bus" in text for text in captions if text)
    captions = [make_caption("bus", colours, rng, dropout=0, label_dropout=0.75) for _ in range(400)]
    assert 60 < sum("bus" in text.split() for text in captions) < 140
    assert all("bus" not in make_caption("", colours, rng, dropout=0) for _ in range(20))


def test_half_of_the_captions_hold_random_words():
    """They stand anywhere; none of them is a colour or a label, which would be a lie."""
    from captions import MAX_OTHER_WORDS, make_caption, other_words

    others = other_words(["bus", "fire engine"])
    assert not {"bus", "engine", "red", "grey", "golden", "dark", "light"} & set(others)
    assert {"street", "wooden"} <= set(others) and len(others) > 1000
    assert {"bus"} < set(other_words([])) - set(others)
    marked = [f"<{word}>" for word in others]
    colours, rng = {"middle": "red", "border": "blue", "light": "clear"}, np.random.default_rng(0)
    captions = [make_caption("bus", colours, rng, 0, others=marked).split() for _ in range(600)]
    counts = [sum(word in marked for word in words) for words in captions]
    assert 250 < counts.count(0) < 350 and set(counts) == set(range(MAX_OTHER_WORDS + 1))
    assert min(sum(words[i] in marked for words in captions) for i in (0, -1)) > 30
    # Without them the same sentences are left.
    plain = {make_caption("bus", colours, rng, 0) for _ in range(600)}
    assert {" ".join(word for word in words if word not in marked) for words in captions} == plain


def test_a_long_photo_is_enlarged_before_it_is_padded(photo):
    """What `max_side` made small, too: by 1.5 at most, and the rest of the crop's side is reflected."""
    from train_tiny_base import CaptionedPhoto

    strip = photo.resize((1600, 400))
    array, _ = CaptionedPhoto(256, 768)(strip)  # 768 x 192, then 1024 x 256
    assert array.shape == (256, 1024, 3)
    reduced = strip.resize((768, 192), Image.Resampling.LANCZOS).resize((1024, 256), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(array, np.asarray(reduced))
    array, _ = CaptionedPhoto(256, 768)(photo.resize((3000, 400)))  # 768 x 102, 1152 x 153, then padded
    assert array.shape == (256, 1152, 3)
    np.testing.assert_array_equal(array[153:], array[49:152][::-1])


def test_objects_cut_out_on_white_are_told_from_photos(photo):
    from captions import is_cut_out

    assert not is_cut_out(np.asarray(photo))
    on_white = Image.new("RGB", (300, 300), "white")
    on_white.paste(photo.resize((150, 180)), (75, 60))
    assert is_cut_out(np.asarray(on_white))
    assert not is_cut_out(np.asarray(on_white.crop((80, 65, 220, 230))))


has_vgg = any((Path(torch.hub.get_dir()) / "checkpoints").glob("vgg16-*.pth"))


@pytest.mark.skipif(not has_vgg, reason="needs the weights of VGG-16")
def test_perceptual_losses_are_those_of_torchmetrics(photo):
    from perceptual import PerceptualLoss
    from torchmetrics.functional.image import (
        deep_image_structure_and_texture_similarity,
        learned_perceptual_image_patch_similarity,
    )

    target = torch.tensor(np.asarray(photo.crop((100, 50, 196, 146)))).permute(2, 0, 1)[None] / 127.5 - 1
    image = (target + 0.3 * torch.randn(target.shape, generator=torch.manual_seed(0))).clamp(-1, 1)
    loss = PerceptualLoss()
    expected = {
        "LPIPS (AlexNet)": learned_perceptual_image_patch_similarity(image, target, net_type="alex"),
        "LPIPS (VGG)": learned_perceptual_image_patch_similarity(image, target, net_type="vgg"),
        "DISTS": deep_image_structure_and_texture_similarity((image + 1) / 2, (target + 1) / 2),
    }
    for name in loss.names:
        torch.testing.assert_close(loss(name, image, target).mean(), expected[name], rtol=1e-4, atol=1e-5)
    image.requires_grad_()
    sum(loss(name, image, target).mean() for name in loss.names).backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0


def test_the_discriminator_learns_from_its_own_loss_only():
    from discriminator import PatchDiscriminator, adaptive_weight

    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    decoder = torch.nn.Conv2d(3, 3, 1)
    image = torch.rand(2, 3, 64, 64)
    decoded = decoder(image)
    discriminator.generator_loss(decoded).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert decoder.weight.grad.abs().sum() > 0
    decoder.weight.grad = None
    discriminator.hinge_loss(image, decoded)[0].backward()
    assert decoder.weight.grad is None and all(p.grad is not None for p in discriminator.parameters())
    # The weight is the ratio of the gradients' norms.
    a, b = 3 * decoder.weight.square().sum(), decoder.weight.square().sum()
    torch.testing.assert_close(adaptive_weight(a, b, decoder.weight), torch.tensor(3.0), rtol=1e-3, atol=0)
