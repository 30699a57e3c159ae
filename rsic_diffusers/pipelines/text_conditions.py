"""What the UNet is told beside the latents."""

from dataclasses import dataclass

import torch


@dataclass
class TextConditions:
    """
    Args:
        prompt_embeds (`torch.Tensor` of shape (B, 77, D)): Of the captions.
        negative_prompt_embeds (`torch.Tensor` of shape (B, 77, D)): Of the negative prompts; of "" without one.
        image_embeds (`list[torch.Tensor]`, *optional*): For each IP-Adapter, (2B, images, D), the negative ones first.
        alike (`bool`): Both say the same, so that classifier-free guidance would change nothing.
    """

    prompt_embeds: torch.Tensor
    negative_prompt_embeds: torch.Tensor
    image_embeds: list[torch.Tensor] | None = None
    alike: bool = False
