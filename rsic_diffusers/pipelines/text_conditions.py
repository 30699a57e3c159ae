"""What the UNet is told beside the latents, and its prediction under classifier-free guidance."""

from dataclasses import dataclass
from numbers import Integral

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
        """`part` is the half of the image embeddings that belongs to the text: 0 the negative one, None both."""
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


def check_text_inputs(
    unet,
    text_encoder,
    batch_size: int,
    negative_prompt=None,
    prompt_embeds=None,
    negative_prompt_embeds=None,
    clip_skip=None,
    cross_attention_kwargs=None,
    ip_adapter_image=None,
    ip_adapter_image_embeds=None,
) -> None:
    """ValueError for the first of the decoder's arguments about text and image prompts that cannot be used."""
    if isinstance(negative_prompt, list) and len(negative_prompt) != batch_size:
        raise ValueError(f"{batch_size} files need as many negative prompts, got {len(negative_prompt)}.")
    if not isinstance(negative_prompt, str | list | None):
        raise ValueError(f"negative_prompt must be a text or a list of texts, got {negative_prompt!r}.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("Give negative_prompt or negative_prompt_embeds, not both.")
    tokens = text_encoder.config.max_position_embeddings
    _check_embeds(unet, tokens, batch_size, prompt_embeds, negative_prompt_embeds)
    layers = text_encoder.config.num_hidden_layers
    if clip_skip is not None and not (isinstance(clip_skip, Integral) and 0 <= clip_skip < layers):
        raise ValueError(f"clip_skip must be a whole number from 0 to {layers - 1}, or None, got {clip_skip!r}.")
    if not isinstance(cross_attention_kwargs, dict | None):
        raise ValueError(f"cross_attention_kwargs must be a dict, got {cross_attention_kwargs!r}.")
    if ip_adapter_image is not None and ip_adapter_image_embeds is not None:
        raise ValueError("Give ip_adapter_image or ip_adapter_image_embeds, not both.")
    given = ip_adapter_image is not None or ip_adapter_image_embeds is not None
    loaded = unet.config.encoder_hid_dim_type == "ip_image_proj"
    if given and not loaded:
        raise ValueError("An image prompt needs an IP-Adapter; call load_ip_adapter first.")
    if loaded and not given:
        raise ValueError(
            "The UNet has an IP-Adapter, which needs an image prompt; give ip_adapter_image, or "
            "call unload_ip_adapter."
        )


def _check_embeds(unet, max_tokens: int, batch_size: int, prompt_embeds, negative_prompt_embeds) -> None:
    width = unet.config.cross_attention_dim
    given = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    for name, embeds in given.items():
        if embeds is None:
            continue
        if not torch.is_tensor(embeds) or embeds.ndim != 3 or len(embeds) != batch_size or embeds.shape[2] != width:
            found = tuple(embeds.shape) if torch.is_tensor(embeds) else type(embeds).__name__
            raise ValueError(f"{name} must be a tensor of shape ({batch_size}, tokens, {width}), got {found}.")
    if prompt_embeds is not None and negative_prompt_embeds is None and prompt_embeds.shape[1] != max_tokens:
        raise ValueError(
            f"prompt_embeds of {prompt_embeds.shape[1]} tokens need negative_prompt_embeds of the same shape."
        )
    shapes = {tuple(embeds.shape) for embeds in given.values() if embeds is not None}
    if len(shapes) > 1:
        raise ValueError(f"prompt_embeds and negative_prompt_embeds must be of one shape, got {sorted(shapes)}.")
