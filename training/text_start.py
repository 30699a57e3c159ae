"""The first lessons of a text encoder: to predict from a caption what colours are where in its photo.

Trained through a small UNet alone, a text encoder can end up with the same output for every caption. So it is trained
alone first: from each of its tokens the coarse latents of the caption's photo are predicted.
"""

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm


COARSE_SIDE = 3  # the coarse latents are 3 x 3


def coarse_latents(crops: torch.Tensor) -> torch.Tensor:
    """Latents (B, 4, h, w) averaged over a 3 x 3 grid, (B, 36)."""
    return F.adaptive_avg_pool2d(crops, COARSE_SIDE).flatten(1)


def teach_text_encoder(text_encoder, batch_of, steps: int, learning_rate: float = 1e-3) -> float:
    """Train a text encoder to predict coarse latents from captions.

    Args:
        text_encoder ([`CLIPTextModel`]): Trained in place.
        batch_of (`Callable`): `batch_of(step)` gives latents (B, 4, h, w) and the token ids of captions (B, 77).
        steps (`int`): Optimiser steps.
        learning_rate (`float`): The largest; it falls to 0 along half a cosine.

    Returns:
        `float`: Share of the coarse latents' variance that captions explained in the last tenth of the steps.
    """
    head = nn.Linear(text_encoder.config.hidden_size, 4 * COARSE_SIDE**2)
    head.to(next(text_encoder.parameters()).device)
    parameters = [*text_encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    left, variance = [], []
    text_encoder.train()
    for step in tqdm(range(steps), desc="Text encoder", mininterval=5):
        crops, input_ids = batch_of(step)
        wanted = coarse_latents(crops)
        predicted = head(text_encoder(input_ids).last_hidden_state)  # (B, 77, 36): the padding must know it too
        loss = (predicted - wanted[:, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= 0.9 * steps:
            left.append(loss.item())
            variance.append(wanted.var(0).mean().item())
    return 1 - sum(left) / max(sum(variance), 1e-9)


@torch.no_grad()
def forget_captions(unet, text_states: torch.Tensor) -> None:
    """Make a UNet do for all captions what it did for one, so that another text encoder can take over.

    Args:
        unet ([`UNet2DConditionModel`]): Its cross-attentions then add what they added for `text_states`, as a
            constant; the weights that carry captions start at zero.
        text_states (`torch.Tensor` of shape (1, 77, width)): Of the old text encoder.
    """
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            out = module.to_out[0]
            out.bias.copy_(out(module.to_v(text_states)).mean(dim=(0, 1)))
            out.weight.zero_()
