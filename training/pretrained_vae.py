"""The VAE that a codec is trained for, wherever it is kept."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoModel


SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")


def add_vae_arguments(parser):
    """Where the VAE comes from."""
    parser.add_argument(
        "--pretrained_model_name_or_path",
        help="A folder or Hub id of a Stable Diffusion 1.x checkpoint; only its `vae` is loaded.",
    )
    parser.add_argument(
        "--pretrained_vae",
        help="Another VAE in place of the checkpoint's: a folder or Hub id of an AutoencoderKL or AutoencoderTiny "
        "(madebyollin/taesd), or a single .safetensors or .ckpt file.",
    )
    parser.add_argument("--vae_config", help="Folder or Hub id with the config for a single file. Default: a guess.")
    parser.add_argument("--variant", help="Of the weights' files: fp16. Without such files, others are taken.")
    parser.add_argument("--revision", help="Of the repo that the VAE comes from.")


def public_name(source: str) -> str:
    """What a model card calls a checkpoint: a Hub id as it is, of a path on this machine the last part alone."""
    path = Path(source)
    if not path.exists():
        return source
    return path.stem if path.is_file() else path.resolve().name


def load_vae(args):
    """The VAE of `--pretrained_vae` or of the checkpoint, in float32.

    Raises:
        SystemExit: There is none, or it is no VAE with 4-channel latents 8 times smaller than the photo.
    """
    source = args.pretrained_vae or args.pretrained_model_name_or_path
    if Path(source).suffix in SINGLE_FILE_SUFFIXES:
        config = {"config": args.vae_config} if args.vae_config else {}
        vae = AutoencoderKL.from_single_file(source, torch_dtype=torch.float32, **config)
    else:
        vae = _load_from_repo(source, args.variant, args.revision)
    if not hasattr(vae, "encode"):
        raise SystemExit(f"{source} holds a {type(vae).__name__}, which is no VAE.")
    downscaling = 2 ** (len(vae.config.get("block_out_channels", vae.config.get("encoder_block_out_channels"))) - 1)
    if (vae.config.latent_channels, downscaling) != (4, 8):
        raise SystemExit(
            f"{source} holds a {type(vae).__name__} that makes latents of {vae.config.latent_channels} channels, "
            f"{downscaling} times smaller than the photo; expected 4 channels and 8 times, as in Stable Diffusion 1.x."
        )
    return vae.eval().requires_grad_(False)


def _load_from_repo(source, variant, revision):
    """A VAE in the repo's folder `vae`, or the repo itself; of the wanted variant, or of one that is there."""
    problems = []
    for tried in dict.fromkeys([variant, None, "fp16"]):
        for subfolder in ("vae", None):
            try:
                vae = AutoModel.from_pretrained(
                    source, subfolder=subfolder, variant=tried, revision=revision, torch_dtype=torch.float32
                )
            except (OSError, ValueError) as error:
                problems.append(str(error))
                continue
            if tried != variant:
                print(f"{source} has no weights of the variant {variant}; took those of {tried}.", flush=True)
            return vae
    raise SystemExit(f"No VAE could be loaded from {source}: {problems[0]}")
