"""The UNet's prediction under classifier-free guidance."""

import torch

from .text_conditions import TextConditions


class NoisePredictor:
    """eps(z_t) + omega (eps(z_t, c) - eps(z_t)), with one call of the UNet for each prediction.

    Args:
        unet ([`UNet2DConditionModel`]).
        text ([`TextConditions`]): c, and what stands in place of no caption.
        cross_attention_kwargs (`dict`, *optional*): For the UNet's attention processors.

    Attributes:
        num_evaluations (`int`): Calls of the UNet so far.
    """

    def __init__(self, unet, text: TextConditions, cross_attention_kwargs: dict | None = None):
        self.unet = unet
        self.text = text
        self.cross_attention_kwargs = cross_attention_kwargs
        self.num_evaluations = 0

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, omega: float | torch.Tensor) -> torch.Tensor:
        """
        Args:
            latents (`torch.Tensor` of shape (B, 4, h, w)): z_t.
            timestep (`torch.Tensor` without dimensions): t.
            omega (`float` or `torch.Tensor` of shape (B, 1, h, w)): 1 takes the caption's prediction alone, 0 that
                without it; anything else takes the pair, in one call.

        Returns:
            `torch.Tensor` of shape (B, 4, h, w), float32.
        """
        positive, negative = self.text.prompt_embeds, self.text.negative_prompt_embeds
        if self.text.alike or (not torch.is_tensor(omega) and omega == 1):
            return self._call_unet(latents, timestep, positive, part=1)
        if not torch.is_tensor(omega) and omega == 0:
            return self._call_unet(latents, timestep, negative, part=0)
        pair = torch.cat([latents] * 2), timestep, torch.cat([negative, positive])
        without_caption, with_caption = self._call_unet(*pair).chunk(2)
        return without_caption + omega * (with_caption - without_caption)

    def _call_unet(self, latents, timestep, embeddings, part: int | None = None) -> torch.Tensor:
        """`part`: which half of the image embeddings goes with these text embeddings, 0 the negative or 1 the positive
        one; None: both."""
        self.num_evaluations += 1
        image_embeds = self.text.image_embeds
        if image_embeds is not None and part is not None:
            image_embeds = [embeds.chunk(2)[part] for embeds in image_embeds]
        return self.unet(
            latents.to(self.unet.dtype),
            timestep,
            embeddings.to(self.unet.dtype),
            cross_attention_kwargs=self.cross_attention_kwargs,
            added_cond_kwargs=None if image_embeds is None else {"image_embeds": image_embeds},
            return_dict=False,
        )[0].float()
