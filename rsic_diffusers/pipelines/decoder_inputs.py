"""What the decoder is given: the files, read and checked before any network runs, and its arguments about them."""

from numbers import Integral

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback

from ..bitstream import Bitstream, BitstreamError
from ..bitstream.sizes import MAX_PIXELS, MAX_RETURNED_PIXELS
from ..models.hsvlc import expand_to_latents


OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def read_files(bitstream) -> list[Bitstream]:
    """The files of `bytes`, a path, or a list of them.

    Raises:
        BitstreamError: One of them is damaged, or no `.rsic` file.
    """
    sources = list(bitstream) if isinstance(bitstream, list | tuple) else [bitstream]
    return [Bitstream.read(source) for source in sources]


def returned_size(file: Bitstream, upscale: bool) -> tuple[int, int]:
    """Height and width of the picture that the decoder returns."""
    return (file.height, file.width) if upscale else file.coded_size


def weight_maps(files: list[Bitstream]) -> tuple[torch.Tensor, torch.Tensor]:
    """M by cell, (B, 1, rows, columns), and at each position of the latents, (B, 1, h, w); both on the CPU."""
    weight_map = torch.from_numpy(np.stack([file.weight_map.values for file in files]))[:, None]
    return weight_map, expand_to_latents(weight_map, tuple(-(-side // 8) for side in files[0].coded_size))


def check_files(
    files: list[Bitstream], fingerprint: bytes, upscale: bool = True, max_pixels: int | None = None
) -> None:
    """Refuse files that cannot or may not be decoded together.

    Args:
        files (`list[Bitstream]`): The files.
        fingerprint (`bytes`): Of the codec.
        upscale (`bool`), max_pixels (`int`, *optional*): The decoder's arguments.

    Raises:
        ValueError: There are none, they are of several sizes, or of more pixels than is allowed.
        BitstreamError: A file was made for another codec.
    """
    if max_pixels is not None and not (isinstance(max_pixels, Integral) and max_pixels > 0):
        raise ValueError(f"max_pixels must be a whole number above 0, or None, got {max_pixels!r}.")
    if not files:
        raise ValueError("There is nothing to decode: the list is empty.")
    if len({(file.coded_size, returned_size(file, upscale)) for file in files}) > 1:
        raise ValueError("Files decoded together must hold pictures of one size; decode these one after another.")
    (coded_height, coded_width), (height, width) = files[0].coded_size, returned_size(files[0], upscale)
    if coded_height * coded_width > (max_pixels or MAX_PIXELS):
        raise ValueError(
            f"The picture is coded at {coded_width} x {coded_height} pixels, more than max_pixels = "
            f"{max_pixels or MAX_PIXELS}; raise max_pixels if the file is to be trusted."
        )
    if height * width > (max_pixels or MAX_RETURNED_PIXELS):
        raise ValueError(
            f"The picture has {width} x {height} pixels, more than max_pixels = {max_pixels or MAX_RETURNED_PIXELS}; "
            "raise max_pixels, or take the picture as it is coded, with upscale=False."
        )
    for file in files:
        if file.fingerprint != fingerprint:
            raise BitstreamError(
                f"The file was made for the codec {file.fingerprint.hex()}, this model's is {fingerprint.hex()}; "
                "load the model that encoded it."
            )


def check_output_type(output_type) -> None:
    """ValueError unless the decoder can return pictures so."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")


def check_callback(callback) -> None:
    """ValueError for what cannot be called, and for one of diffusers' callbacks that would do nothing here."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end must be a function or None, got {callback!r}.")
    callbacks = callback.callbacks if isinstance(callback, MultiPipelineCallbacks) else [callback]
    if any(isinstance(one, SDCFGCutoffCallback) for one in callbacks):
        raise ValueError(
            "SDCFGCutoffCallback expects the embeddings of caption and negative prompt in one tensor, and a guidance "
            "scale without a map; give a function instead that returns negative_prompt_embeds equal to prompt_embeds."
        )


def check_generator(generator, batch_size: int) -> None:
    """ValueError unless `generator` is None, a `torch.Generator`, or a list of one for each file."""
    generators = generator if isinstance(generator, list) else [generator]
    if generator is not None and not all(isinstance(item, torch.Generator) for item in generators):
        raise ValueError(
            f"generator must be a torch.Generator, a list of them, or None, got {generator!r}; for a seed, write "
            "torch.Generator().manual_seed(seed)."
        )
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"{batch_size} files need as many generators, got {len(generator)}.")


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
    if text_encoder is None and (prompt_embeds is None or negative_prompt_embeds is None):
        raise ValueError("Without a text encoder both prompt_embeds and negative_prompt_embeds are needed.")
    tokens = text_encoder.config.max_position_embeddings if text_encoder else None
    _check_embeds(unet, tokens, batch_size, prompt_embeds, negative_prompt_embeds)
    layers = text_encoder.config.num_hidden_layers if text_encoder else 0
    if clip_skip is not None and not (isinstance(clip_skip, Integral) and 0 <= clip_skip < layers):
        raise ValueError(f"clip_skip must be a whole number from 0 to {layers - 1}, or None, got {clip_skip!r}.")
    if not isinstance(cross_attention_kwargs, dict | None):
        raise ValueError(f"cross_attention_kwargs must be a dict, got {cross_attention_kwargs!r}.")
    if ip_adapter_image is not None and ip_adapter_image_embeds is not None:
        raise ValueError("Give ip_adapter_image or ip_adapter_image_embeds, not both.")
    _check_image_embeds(ip_adapter_image_embeds)
    given = ip_adapter_image is not None or ip_adapter_image_embeds is not None
    loaded = unet.config.encoder_hid_dim_type == "ip_image_proj"
    if given and not loaded:
        raise ValueError("An image prompt needs an IP-Adapter; call load_ip_adapter first.")
    if loaded and not given:
        raise ValueError(
            "The UNet has an IP-Adapter, which needs an image prompt; give ip_adapter_image, or "
            "call unload_ip_adapter."
        )


def _check_image_embeds(embeds) -> None:
    if embeds is None:
        return
    tensors = embeds if isinstance(embeds, list) else [None]
    if not all(torch.is_tensor(tensor) and tensor.ndim in (3, 4) and len(tensor) == 2 for tensor in tensors):
        raise ValueError(
            "ip_adapter_image_embeds must be a list of a tensor for each adapter, of shape (2, images, D) or (2, "
            "images, tokens, D): the negative embeddings, then the positive ones."
        )


def _check_embeds(unet, max_tokens: int | None, batch_size: int, prompt_embeds, negative_prompt_embeds) -> None:
    width = unet.config.cross_attention_dim
    given = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    for name, embeds in given.items():
        if embeds is None:
            continue
        if not torch.is_tensor(embeds) or embeds.ndim != 3 or len(embeds) != batch_size or embeds.shape[2] != width:
            found = tuple(embeds.shape) if torch.is_tensor(embeds) else type(embeds).__name__
            raise ValueError(f"{name} must be a tensor of shape ({batch_size}, tokens, {width}), got {found}.")
    alone = [name for name, embeds in given.items() if embeds is not None]
    if len(alone) == 1 and given[alone[0]].shape[1] != max_tokens:
        (other,) = given.keys() - alone
        raise ValueError(f"{alone[0]} of {given[alone[0]].shape[1]} tokens need {other} of the same shape.")
    shapes = {tuple(embeds.shape) for embeds in given.values() if embeds is not None}
    if len(shapes) > 1:
        raise ValueError(f"prompt_embeds and negative_prompt_embeds must be of one shape, got {sorted(shapes)}.")
