"""Where models come from: the embedded default, folders and the Hub; full repos, and thin ones over a base checkpoint.

A *full* repo holds every component. A *thin* one holds the codec and the scheduler, and its model_index.json names the
base checkpoint (`_base_model_name_or_path`) that the rest comes from. `base_model=` puts another base in its place.
"""

from pathlib import Path

import diffusers
import torch
from diffusers import AutoModel, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from transformers import CLIPTextModel, CLIPTokenizer

from .schedulers.scheduling_guided_self_recurrent_ddim import (
    GuidedSelfRecurrentDDIMScheduler,
    adopt_noise_schedule,
)


# Lets diffusers' loader and `save_pretrained` name our classes as ["rsic_diffusers", "HSVLC"].
LOADABLE_CLASSES.setdefault("rsic_diffusers", {})

DEFAULT_MODEL = "rsic-tiny"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
BASE_KEY = "_base_model_name_or_path"

BASE_CLASSES = {
    "vae": AutoModel,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
}
# What says where a download comes from and goes to; the rest of `from_pretrained`'s arguments are about the pipeline.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
WEIGHT_ARGUMENTS = ("variant", "use_safetensors", "low_cpu_mem_usage")


def resolve_model(name) -> str:
    """The folder of an embedded model for its name; any other folder or Hub id as it is.

    Raises:
        ValueError: A folder that holds no model.
    """
    embedded = [path.name for path in CHECKPOINTS.iterdir()]
    folder = CHECKPOINTS / name if name in embedded else Path(name)
    if not folder.is_dir():
        return str(name)
    if not (folder / "model_index.json").exists():
        raise ValueError(
            f"{folder} is no model: it has no model_index.json; give the folder of a saved RSIC pipeline."
        )
    return str(folder)


def load_base(base_model, names, dtype=None, **kwargs) -> tuple[dict, dict | None]:
    """Components of a Stable Diffusion 1.x checkpoint, and the config of its scheduler if that is among `names`.

    Args:
        base_model: A diffusers folder, a Hub id, or a single `.safetensors` or `.ckpt` file in the CompVis layout (a
            path or a URL).
        names (`list[str]`): Of vae, unet, text_encoder, tokenizer, scheduler; only these are downloaded and loaded
            (of a single file, everything).
        kwargs: Of `HUB_ARGUMENTS` and `WEIGHT_ARGUMENTS`; for a single file also `config`, a folder or Hub id with the
            configs that the file lacks (default: diffusers guesses).

    Raises:
        ValueError: The checkpoint is not of Stable Diffusion 1.x.
    """
    if Path(base_model).suffix in (".safetensors", ".ckpt"):
        from diffusers import StableDiffusionPipeline

        absent = {name: None for name in ("safety_checker", "feature_extractor", "image_encoder")}
        options = {name: kwargs[name] for name in (*HUB_ARGUMENTS, "config") if name in kwargs}
        pipeline = StableDiffusionPipeline.from_single_file(str(base_model), torch_dtype=dtype, **absent, **options)
        components = {name: pipeline.components[name] for name in names}
        scheduler = components.pop("scheduler", None)
        return components, scheduler and dict(scheduler.config)

    base_model = str(base_model)
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    index = DiffusionPipeline.load_config(base_model, **hub)
    missing = [name for name in BASE_CLASSES if index.get(name, [None, None])[1] is None]
    if missing or "text_encoder_2" in index:
        raise ValueError(
            f"{base_model} is a {index.get('_class_name')}, not Stable Diffusion 1.x"
            + (f" (it has no {', '.join(missing)})" if missing else " (it has two text encoders)")
            + "; give a checkpoint of Stable Diffusion 1.x as base_model."
        )
    weights = {name: kwargs[name] for name in WEIGHT_ARGUMENTS if name in kwargs}
    components = {}
    for name in [name for name in names if name in BASE_CLASSES]:
        options = {} if name == "tokenizer" else {**weights, "torch_dtype": dtype}
        if name == "text_encoder":  # transformers' own names
            options = {"dtype": dtype} | ({"variant": weights["variant"]} if "variant" in weights else {})
        components[name] = BASE_CLASSES[name].from_pretrained(base_model, subfolder=name, **hub, **options)
    if "scheduler" not in names:
        return components, None
    return components, GuidedSelfRecurrentDDIMScheduler.load_config(base_model, subfolder="scheduler", **hub)


class FromPretrainedMixin:
    """`from_pretrained` that also knows the embedded models by name, thin repos, and `base_model`."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Where `DiffusionPipeline.from_pretrained` looks for the class that an index names.
        setattr(diffusers, cls.__name__, cls)

    # Both pipelines read one index, and neither is to complain of what is the other's.
    has_compatibles = True

    @classmethod
    def _get_compatibles(cls):
        return [_RepoContents]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=DEFAULT_MODEL, base_model=None, **kwargs):
        """Load from a folder, a Hub id, or (the default) the embedded "rsic-tiny".

        Args:
            pretrained_model_name_or_path (`str` or path): A full or a thin repo.
            base_model (*optional*): Another Stable Diffusion 1.x checkpoint for all but codec and sampling settings:
                a diffusers folder, a Hub id, or a single `.safetensors` or `.ckpt` file. Single components can be
                given by name (`unet=`, `vae=`, ...).
            kwargs: As for `DiffusionPipeline.from_pretrained`: dtype, variant, revision, cache_dir, token,
                local_files_only, device_map (with a base: one device), ... `revision` is that of the repo, not of the
                base.

        Raises:
            ValueError: A folder without a codec, a base that is not Stable Diffusion 1.x, weights that lack tensors.
        """
        model = resolve_model(pretrained_model_name_or_path)
        if "torch_dtype" not in kwargs:
            # Without a dtype, transformers would keep a float16 text encoder beside diffusers' float32 UNet.
            kwargs.setdefault("dtype", torch.float32)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        hub = {name: kwargs[name] for name in (*HUB_ARGUMENTS, "revision") if name in kwargs}
        index = cls.load_config(model, **hub)
        if kwargs.get("hsvlc") is None and (index.get("hsvlc") or [None])[0] is None:
            raise ValueError(
                f"{model} holds no HSVLC, so it cannot code latents; train one for it with training/train_hsvlc.py "
                "and save it with the pipeline, or give it as hsvlc=."
            )
        base_model = base_model or index.get(BASE_KEY)
        base_config = None
        if base_model is not None:
            device = kwargs.get("device_map")
            if device in ("balanced", "auto"):
                raise ValueError(
                    f'device_map="{device}" does not reach a base model; give one device, "cuda" say, or load without '
                    "it and use enable_model_cpu_offload()."
                )
            shared = [*BASE_CLASSES, "scheduler"]
            names = [name for name in cls._get_signature_keys(cls)[0] if name in shared and name not in kwargs]
            base, base_config = load_base(base_model, names, **{**kwargs, "dtype": dtype})
            kwargs.pop("config", None)
            for component in base.values():
                if device is not None and isinstance(component, torch.nn.Module):
                    component.to(device)
            kwargs.update(base)
        try:
            pipeline = super().from_pretrained(model, **kwargs)
        except ValueError:
            # `variant` is the base's; of the few megabytes that a thin repo holds there need not be one.
            if base_model is None or kwargs.pop("variant", None) is None:
                raise
            pipeline = super().from_pretrained(model, **kwargs)
        scheduler = pipeline.components.get("scheduler")
        if scheduler is not None and not isinstance(scheduler, GuidedSelfRecurrentDDIMScheduler):
            pipeline.scheduler = adopt_noise_schedule(None, scheduler.config)
        elif base_config is not None:
            pipeline.scheduler = adopt_noise_schedule(pipeline.scheduler, base_config)
        for name, component in pipeline.components.items():
            if isinstance(component, torch.nn.Module):
                # diffusers only logs what a checkpoint lacks, and leaves it without data.
                missing = [key for key, tensor in component.state_dict().items() if tensor.is_meta]
                if missing:
                    raise ValueError(f"The weights of {name} lack {len(missing)} tensors, {missing[0]} for one.")
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline, hsvlc=None, scheduler=None, dtype=None, torch_dtype=None, **kwargs):
        """A pipeline of the components of another one, shared and as they are.

        Args:
            pipeline ([`DiffusionPipeline`]): A `StableDiffusionPipeline`, say.
            hsvlc ([`HSVLC`]): The codec, trained for the pipeline's VAE; not needed if `pipeline` has one.
            scheduler ([`GuidedSelfRecurrentDDIMScheduler`], *optional*): Of a decoder. Default: the paper's settings
                over the noise schedule of the pipeline's scheduler.
            dtype (`torch.dtype`, *optional*): Cast the shared components to it; by default they stay as they are.
            kwargs: Components to take in place of the pipeline's.
        """
        given = {"hsvlc": hsvlc, "scheduler": scheduler, **kwargs}
        own = {}
        for name in cls._get_signature_keys(cls)[0]:
            own[name] = pipeline.components.get(name) if given.get(name) is None else given[name]
        missing = [name for name in own if own[name] is None and name not in cls._optional_components]
        if missing:
            raise ValueError(f"{type(pipeline).__name__} has no {', '.join(missing)}; give them by name.")
        if "scheduler" in own and not isinstance(own["scheduler"], GuidedSelfRecurrentDDIMScheduler):
            own["scheduler"] = adopt_noise_schedule(None, own["scheduler"].config)
        own["hsvlc"].to(own["vae"].device)
        made = cls(**own)
        dtype = dtype or torch_dtype
        return made if dtype is None else made.to(dtype)

    @classmethod
    def download(cls, pretrained_model_name, **kwargs):
        """Fetch only what this pipeline is made of (and was not given by name): no UNet for the encoder."""
        # diffusers fetches every folder that the index names, but for components that the caller passes.
        own = cls._get_signature_keys(cls)[0]
        others = {name: None for name in cls._get_signature_keys(_RepoContents)[0] if name not in own}
        return _RepoContents.download(pretrained_model_name, **others, **kwargs)


class _RepoContents(DiffusionPipeline):
    """All that a repo may hold, for both pipelines. Only its signature is used."""

    def __init__(self, vae, hsvlc, unet, text_encoder, tokenizer, scheduler, referring_model, captioner):
        super().__init__()
