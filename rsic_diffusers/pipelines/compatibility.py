"""Whether components belong together: codec and VAE, UNet and text encoder, all of Stable Diffusion 1.x's kind."""

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from ..example_photo import example_path
from ..schedulers.scheduling_guided_self_recurrent_ddim import GuidedSelfRecurrentDDIMScheduler
from .latents import encode_image


# Of one photo's latents against those of many: single photos differ by about 2, and a scaling that is missing or that
# comes twice by 30.
VARIANCE_RATIO = 6


def check_complete(**components) -> None:
    """ValueError if one of the components that a pipeline needs is None."""
    missing = [name for name, component in components.items() if component is None]
    if missing:
        raise ValueError(
            f"The pipeline got no {', '.join(missing)}. DiffusionPipeline.from_pretrained does not fetch the base of "
            "a thin repo; use RSICDecoderPipeline.from_pretrained or RSICEncoderPipeline.from_pretrained, which do."
        )


def check_latent_space(vae, hsvlc) -> None:
    """ValueError if the codec was trained for other latents than the VAE's.

    The VAE's `scaling_factor` tells, where it was chosen so that latents have a variance of about 1 (`AutoencoderKL`).
    An `AutoencoderTiny` is trained on latents that are scaled already, so its number is 1 whatever they are. For it,
    the variance of the latents of a photo is compared instead.
    """
    channels = vae.config.get("latent_channels")
    if channels is None:
        raise ValueError(f"{type(vae).__name__} is no VAE with latents; give an AutoencoderKL or an AutoencoderTiny.")
    if hsvlc.config.latent_channels != channels:
        raise ValueError(
            f"The codec codes latents of {hsvlc.config.latent_channels} channels, the VAE's have {channels}; use the "
            "VAE that the codec was trained for."
        )
    ours, theirs = hsvlc.config.scaling_factor, vae.config.scaling_factor
    if ours in (None, theirs):
        return
    if not isinstance(vae, AutoencoderTiny):
        raise ValueError(
            f"The codec was trained for latents with scaling_factor {ours}, the VAE's is {theirs}; use the VAE that "
            "the codec was trained for."
        )
    # Stable Diffusion scales its latents so that this is about 1.
    expected = float(np.mean(hsvlc.config.get("latent_variance") or 1.0))
    measured = latent_variance(vae)
    if measured is not None and not expected / VARIANCE_RATIO < measured < expected * VARIANCE_RATIO:
        raise ValueError(
            f"The codec was trained for latents with a variance of {expected:.3g}, and a photo's latents of this VAE "
            f"have {measured:.3g}; use the VAE that the codec was trained for, or one made to replace it."
        )


@torch.no_grad()
def latent_variance(vae) -> float | None:
    """Variance of a photo's latents; None for a VAE that cannot be called as it lies here: without data (on the meta
    device), or offloaded."""
    if vae.device.type == "meta" or hasattr(vae, "_hf_hook"):
        return None
    with Image.open(example_path()) as opened:
        photo = opened.convert("RGB").resize((128, 128), Image.Resampling.BICUBIC, box=(100, 50, 400, 350))
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, 128, 128)
    latents = encode_image(vae, image.to(vae.device, vae.dtype)).float()
    return float(latents.var(dim=(0, 2, 3)).mean())


def check_stable_diffusion_1(unet_config: dict, text_config) -> None:
    """ValueError unless the UNet is one of Stable Diffusion 1.x (of any width) and reads this text encoder.

    Args:
        unet_config (`dict`): Config of a `UNet2DConditionModel`.
        text_config ([`CLIPTextConfig`]).
    """
    if unet_config.get("addition_embed_type") is not None:
        raise ValueError("The UNet wants further embeddings, as that of SDXL does; give one of Stable Diffusion 1.x.")
    if unet_config.get("time_cond_proj_dim") is not None:
        raise ValueError(
            "The UNet takes the guidance scale as an embedding (time_cond_proj_dim), so it is a latent consistency "
            "model (LCM), which denoises in a few long steps of its own; give one of Stable Diffusion 1.x."
        )
    channels, width = unet_config.get("in_channels", 4), unet_config.get("cross_attention_dim", 1280)
    if channels != 4:
        kind = "an inpainting model's" if channels == 9 else "not Stable Diffusion 1.x's"
        raise ValueError(f"The UNet takes {channels} channels, so it is {kind}; give one that takes 4.")
    if width != text_config.hidden_size:
        raise ValueError(
            f"The UNet reads text embeddings of width {width}, the text encoder makes {text_config.hidden_size} "
            "(768 in Stable Diffusion 1.x, 1024 in 2.x); give the two of one checkpoint."
        )


def check_scheduler(scheduler) -> None:
    """ValueError unless the scheduler is the decoder's own sampler."""
    if not isinstance(scheduler, GuidedSelfRecurrentDDIMScheduler):
        raise ValueError(
            f"The decoder samples with a GuidedSelfRecurrentDDIMScheduler, not with a {type(scheduler).__name__}; "
            "make one of its noise schedule with GuidedSelfRecurrentDDIMScheduler.from_config(scheduler.config)."
        )
