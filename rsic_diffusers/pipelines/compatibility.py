"""Whether components belong together: codec and VAE, UNet and text encoder, all of Stable Diffusion 1.x's kind."""


def check_latent_space(vae, hsvlc) -> None:
    """ValueError if the codec was trained for other latents than the VAE's."""
    if hsvlc.config.latent_channels != vae.config.latent_channels:
        raise ValueError(
            f"The codec codes latents of {hsvlc.config.latent_channels} channels, the VAE's have "
            f"{vae.config.latent_channels}; use the VAE that the codec was trained for."
        )
    if hsvlc.config.scaling_factor not in (None, vae.config.scaling_factor):
        raise ValueError(
            f"The codec was trained for latents with scaling_factor {hsvlc.config.scaling_factor}, the VAE's is "
            f"{vae.config.scaling_factor}; use the VAE that the codec was trained for."
        )


def check_stable_diffusion_1(unet_config: dict, text_config) -> None:
    """ValueError unless the UNet is one of Stable Diffusion 1.x (of any width) and reads this text encoder.

    Args:
        unet_config (`dict`): Config of a `UNet2DConditionModel`.
        text_config ([`CLIPTextConfig`]).
    """
    if unet_config.get("addition_embed_type") is not None:
        raise ValueError("The UNet wants further embeddings, as that of SDXL does; give one of Stable Diffusion 1.x.")
    channels, width = unet_config.get("in_channels", 4), unet_config.get("cross_attention_dim", 1280)
    if channels != 4:
        kind = "an inpainting model's" if channels == 9 else "not Stable Diffusion 1.x's"
        raise ValueError(f"The UNet takes {channels} channels, so it is {kind}; give one that takes 4.")
    if width != text_config.hidden_size:
        raise ValueError(
            f"The UNet reads text embeddings of width {width}, the text encoder makes {text_config.hidden_size} "
            "(768 in Stable Diffusion 1.x, 1024 in 2.x); give the two of one checkpoint."
        )
