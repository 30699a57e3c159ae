"""A text encoder that learns from captions before the UNet does, and a UNet that changes its text encoder."""

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def make_text_encoder():
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def test_captions_tell_the_coarse_latents():
    """Latents of which a third is noise: two words say the rest, so two thirds of the variance can be told."""
    from text_start import teach_text_encoder

    torch.manual_seed(0)
    levels = torch.randn(10, 4, 1, 1)

    def batch_of(step):
        words = torch.randint(2, 12, (64, 2))
        clean = (levels[words - 2].sum(1) + torch.randn(64, 4, 1, 1)).expand(-1, -1, 6, 6)
        return clean, torch.cat([torch.zeros(64, 1, dtype=torch.long), words, torch.ones(64, 5, dtype=torch.long)], 1)

    encoder = make_text_encoder()
    told = teach_text_encoder(encoder, batch_of, 300, learning_rate=5e-3)
    expected = 2 * levels.var(0).mean() / (2 * levels.var(0).mean() + 1)
    # The first token knows no word and the second one word of two, of eight tokens.
    assert 0.65 * expected < told < expected
    with torch.no_grad():
        red, blue = (encoder(torch.tensor([[0, word, word, 1, 1, 1, 1, 1]])).last_hidden_state for word in (2, 3))
    assert (red - blue)[:, 3:].std() > 0.3


def test_a_unet_that_forgets_captions_adds_what_it_added_for_one():
    from text_start import forget_captions

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    constant, other = torch.randn(1, 1, 16).expand(-1, 8, -1), torch.randn(1, 8, 16)
    z = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        before, differs = unet(z, 500, constant).sample, unet(z, 500, other).sample
        forget_captions(unet, constant)
        after = unet(z, 500, other).sample
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    assert (differs - before).abs().max() > 1e-3
    next(module for name, module in unet.named_modules() if name.endswith("attn2")).to_out[0].weight.requires_grad_()
    loss = unet(z, 500, other).sample.square().mean()
    loss.backward()
    grads = [m.to_out[0].weight.grad for n, m in unet.named_modules() if n.endswith("attn2")]
    assert all(grad.abs().max() > 0 for grad in grads)  # captions can be learnt again


def test_loss_weight_is_that_of_v_prediction():
    """The noise's error times this weight is the error of v, computed by diffusers itself."""
    from diffusers import DDIMScheduler
    from train_tiny_base import loss_weight

    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    timesteps = torch.tensor([10, 300, 600])
    clean, noise, guess = torch.randn(3, 3, 4, 8, 8)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    alpha = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    guessed_clean = (noisy - (1 - alpha) ** 0.5 * guess) / alpha**0.5
    difference = scheduler.get_velocity(clean, noise, timesteps) - scheduler.get_velocity(
        guessed_clean, guess, timesteps
    )
    expected = difference.square().mean((1, 2, 3)) / (guess - noise).square().mean((1, 2, 3))
    torch.testing.assert_close(loss_weight(scheduler, timesteps, "v"), expected, rtol=1e-4, atol=0)
    assert loss_weight(scheduler, torch.tensor([999]), "v") == 20
    assert loss_weight(scheduler, timesteps, "epsilon").tolist() == [1, 1, 1]
