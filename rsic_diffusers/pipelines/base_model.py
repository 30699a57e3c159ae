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


def check_stable_diffusion_1(unet, text_encoder) -> None:
    """ValueError unless the UNet is one of Stable Diffusion 1.x (of any width) and reads this text encoder."""
    config = unet.config
    if getattr(config, "addition_embed_type", None) is not None:
        raise ValueError("The UNet wants further embeddings, as that of SDXL does; give one of Stable Diffusion 1.x.")
    if config.in_channels != 4:
        kind = "an inpainting model's" if config.in_channels == 9 else "not Stable Diffusion 1.x's"
        raise ValueError(f"The UNet takes {config.in_channels} channels, so it is {kind}; give one that takes 4.")
    width = text_encoder.config.hidden_size
    if config.cross_attention_dim != width:
        raise ValueError(
            f"The UNet reads text embeddings of width {config.cross_attention_dim}, the text encoder makes {width} "
            "(768 in Stable Diffusion 1.x, 1024 in 2.x); give the two of one checkpoint."
        )
