"""What a Hub repo of a trained codec holds, put together in a folder, and a check that both pipelines open it."""

import ast
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoModel, UNet2DConditionModel
from huggingface_hub import add_space_variable, create_repo, upload_folder
from pretrained_vae import public_name
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, RSICEncoderPipeline
from rsic_diffusers.hub import BASE_KEY, load_base
from rsic_diffusers.hub.base_model import trained_side
from rsic_diffusers.pipelines.compatibility import check_stable_diffusion_1
from rsic_diffusers.schedulers.scheduling_guided_self_recurrent_ddim import adopt_noise_schedule


HUB_CONFIGS = Path(__file__).parent.parent / "hub_configs"
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
EXAMPLE_REPO = "user/rsic-sd15"
THIN = (
    "This repo holds the codec and the sampler's settings; VAE, UNet and text encoder are fetched from the base's own "
    "repo."
)
FULL = "This repo holds the codec, the sampler's settings, and the base's weights in float16."


def load_trained_codec(folder) -> HSVLC:
    """The codec in a folder that train_hsvlc.py exported.

    Raises:
        ValueError: It has no CDF tables, or its config lacks what was measured of it.
    """
    hsvlc = HSVLC.from_pretrained(folder, torch_dtype=torch.float32)
    hsvlc.require_tables()
    missing = [name for name in ("latent_variance", "level_bpp", "level_error") if not hsvlc.config[name]]
    if missing:
        raise ValueError(
            f"The config of {folder} lacks {', '.join(missing)}; measure the codec with training/measure_hsvlc.py, or "
            "train it with today's train_hsvlc.py."
        )
    hsvlc.register_to_config(_name_or_path="")  # a published model need not name the folder that it came from
    return hsvlc


def make_scheduler(settings: list[str]) -> GuidedSelfRecurrentDDIMScheduler:
    """The sampler of hub_configs/rsic-sd15 with other defaults.

    Args:
        settings (`list[str]`): NAME=VALUE, where VALUE is a Python literal or a bare word.

    Raises:
        ValueError: There is no such setting.
    """
    scheduler = GuidedSelfRecurrentDDIMScheduler.from_pretrained(HUB_CONFIGS / "rsic-sd15", subfolder="scheduler")
    changed = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or name not in scheduler.config or name.startswith("_"):
            known = ", ".join(sorted(name for name in scheduler.config if not name.startswith("_")))
            raise ValueError(f"--scheduler {setting}: expected NAME=VALUE with one of the names {known}.")
        try:
            changed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changed[name] = value
    return GuidedSelfRecurrentDDIMScheduler.from_config({**scheduler.config, **changed, "_use_default_values": []})


def check_base(base: str):
    """The config of the UNet of a checkpoint that a thin repo may name. Gigabytes stay where they are.

    Raises:
        SystemExit: It is no Stable Diffusion 1.x, or its files cannot be read.
    """
    try:
        unet = UNet2DConditionModel.load_config(base, subfolder="unet")
        check_stable_diffusion_1(unet, CLIPTextConfig.from_pretrained(base, subfolder="text_encoder"))
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{base} cannot be the base of a published codec, which must be a Stable Diffusion 1.x checkpoint with "
            f"its UNet and text encoder: {error}"
        ) from None
    return unet


@contextmanager
def _all_or_nothing(output: Path):
    """The folder stays only if nothing fails."""
    output.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(output)
        raise


def assemble_thin_repo(
    output: Path, hsvlc_folder: Path, base: str, settings=(), repo_id=None, variant=None, max_side=None
) -> str:
    """Codec, sampler, model_index.json with the base's id, and a model card with what training measured.

    Args:
        output (`Path`): Folder that does not exist yet; it is removed again if the repo does not load.
        base (`str`): Hub id (or a local folder, for a test) of the checkpoint that the codec is for.
        settings (`list[str]`): For `make_scheduler`.
        repo_id (`str`, *optional*): Where it will be pushed; the card's example names it.
        variant (`str`, *optional*): Of the base's weights, with which the repo is tried.
        max_side (`int`, *optional*): The encoder's default limit of the long side, in pixels; by default the side that
            the base was trained on.

    Returns:
        `str`: The codec's fingerprint in hexadecimal digits.
    """
    with _all_or_nothing(output):
        load_trained_codec(hsvlc_folder).save_pretrained(output / "hsvlc")
        make_scheduler(settings).save_pretrained(output / "scheduler")
        unet = check_base(base)
        index = json.loads((HUB_CONFIGS / "rsic-sd15" / "model_index.json").read_text())
        index[BASE_KEY] = str(Path(base).resolve()) if Path(base).is_dir() else base
        index["default_max_side"] = max_side or trained_side(unet)
        (output / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        write_card(output, hsvlc_folder, base, repo_id)
        options = {"variant": variant} if variant else {}
        return RSICEncoderPipeline.from_pretrained(output, **options).hsvlc.fingerprint.hex()


def assemble_full_repo(
    output: Path, hsvlc_folder: Path, base: str, settings=(), repo_id=None, variant=None, max_side=None
) -> str:
    """As `assemble_thin_repo`, with the base's own weights in float16 in the repo."""
    with _all_or_nothing(output):
        components, base_scheduler = load_components(base, variant)
        scheduler = adopt_noise_schedule(make_scheduler(settings), base_scheduler)
        pipeline = RSICDecoderPipeline(
            **components,
            hsvlc=load_trained_codec(hsvlc_folder),
            scheduler=scheduler,
            default_max_side=max_side or trained_side(components["unet"].config),
        )
        pipeline.to(dtype=torch.float16).save_pretrained(output)
        remove_traces(output)
        write_card(output, hsvlc_folder, base, repo_id, is_thin=False)
        RSICDecoderPipeline.from_pretrained(output)
        return RSICEncoderPipeline.from_pretrained(output).hsvlc.fingerprint.hex()


def load_components(base, variant=None) -> tuple[dict, dict]:
    """VAE, UNet, text encoder and tokenizer of a checkpoint, and the config of its scheduler."""
    folder, options = Path(base), {"variant": variant} if variant else {}
    if (folder / "model_index.json").exists() or not folder.is_dir():
        return load_base(base, ["vae", "unet", "text_encoder", "tokenizer", "scheduler"], **options)
    components = {
        "vae": AutoModel.from_pretrained(base, subfolder="vae", **options),
        "unet": UNet2DConditionModel.from_pretrained(base, subfolder="unet", **options),
        "text_encoder": CLIPTextModel.from_pretrained(base, subfolder="text_encoder", **options),
        "tokenizer": CLIPTokenizer.from_pretrained(base, subfolder="tokenizer"),
    }
    return components, json.loads((folder / "scheduler" / "scheduler_config.json").read_text())


def remove_traces(output: Path) -> None:
    """Take out of the configs the folder that each component came from, and an attribute that diffusers notes for an
    AutoencoderTiny and then warns about at each loading."""
    for path in output.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        if config.get("_class_name") == "AutoencoderTiny":
            config.pop("block_out_channels", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_card(output: Path, hsvlc_folder: Path, base: str, repo_id: str | None, is_thin=True) -> None:
    """The model card of hub_configs/rsic-sd15 with this base and repo, and the codec's own card below it."""
    card = (HUB_CONFIGS / "rsic-sd15" / "README.md").read_text()
    if Path(base).exists():
        card = card.replace(f"base_model: {BASE}\n", "")  # which the Hub takes ids for
    card = card.replace(BASE, public_name(base))
    card = card.replace(EXAMPLE_REPO, repo_id or EXAMPLE_REPO)
    if not is_thin:
        card = card.replace(THIN, FULL)
    measured = hsvlc_folder / "README.md"
    if measured.exists():
        own = measured.read_text().split("---\n", 2)[-1].strip().replace("# An", "## An", 1)
        card = f"{card.rstrip()}\n\n{own}\n"
    (output / "README.md").write_text(card)


def push_repo(folder: Path, repo_id: str, private=False, message="HSVLC codec") -> str:
    """Upload an assembled folder; returns its address."""
    create_repo(repo_id, private=private, exist_ok=True)
    return str(upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message))


def push_space(space_id: str, repo_id: str, private=False) -> str:
    """Upload hub_configs/space, the page that shows a codec, with the codec's repo written into it."""
    source = HUB_CONFIGS / "space"
    if not source.is_dir():
        raise ValueError(f"There is no {source} to make a Space of.")
    create_repo(space_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    address = upload_folder(repo_id=space_id, repo_type="space", folder_path=source, commit_message="RSIC page")
    add_space_variable(space_id, "RSIC_MODEL", repo_id)
    return str(address)
