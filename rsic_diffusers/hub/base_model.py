"""Components of a Stable Diffusion 1.x checkpoint: a folder, a Hub id, or a single file."""

from pathlib import Path

import diffusers
from diffusers.loaders.single_file_utils import VALID_URL_PREFIXES

from ..schedulers.scheduling_guided_self_recurrent_ddim import GuidedSelfRecurrentDDIMScheduler
from .component_options import dtype_of
from .repos import BASE_COMPONENTS, HUB_ARGUMENTS, holds, read_index


WEIGHT_ARGUMENTS = ("variant", "use_safetensors", "low_cpu_mem_usage")
PREDICTION_TYPES = ("epsilon", "v_prediction")


def is_single_file(base_model) -> bool:
    return Path(base_model).suffix in (".safetensors", ".ckpt")


def load_base(
    base_model, names, dtype=None, quantization=None, config=None, prediction_type=None, **kwargs
) -> tuple[dict, dict | None]:
    """Components of a checkpoint, and the config of its scheduler if that is among `names`.

    Args:
        base_model: A diffusers folder, a Hub id, or a single `.safetensors` or `.ckpt` file in the CompVis layout (a
            path or a URL).
        names (`list[str]`): Of vae, unet, text_encoder, tokenizer, scheduler; only these are downloaded and loaded
            (of a single file, everything).
        dtype (`torch.dtype` or `dict`): Of all components, or by component.
        quantization (`dict`): Quantization configs by component.
        config (`str`, *optional*): For a single file, a folder or Hub id with the configs that it lacks (default:
            diffusers guesses).
        prediction_type (`str`, *optional*): "epsilon" or "v_prediction": what the UNet predicts, where the checkpoint
            does not say so or says it wrong, as single files do.
        kwargs: Of `HUB_ARGUMENTS` and `WEIGHT_ARGUMENTS`; others are ignored.

    Raises:
        ValueError: The checkpoint is not of Stable Diffusion 1.x, or an option does not go with it.
    """
    if prediction_type not in (None, *PREDICTION_TYPES):
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}; got {prediction_type!r}.")
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    if is_single_file(base_model):
        components, scheduler = _load_single_file(base_model, names, dtype, quantization or {}, config, hub)
    elif config is not None:
        raise ValueError(f"config= goes with a single file, and {base_model} is none; leave it out.")
    else:
        weights = {name: kwargs[name] for name in WEIGHT_ARGUMENTS if name in kwargs}
        components, scheduler = _load_repo(str(base_model), names, dtype, quantization or {}, hub, weights)
    if scheduler is not None and prediction_type is not None:
        scheduler["prediction_type"] = prediction_type
    return components, scheduler


def _load_single_file(path, names, dtype, quantization, config, hub):
    from diffusers import StableDiffusionPipeline

    if quantization:
        raise ValueError(
            f"quantization_config names {', '.join(quantization)}, but does not reach the single file {path}; save it "
            "as a folder first, with StableDiffusionPipeline.from_single_file(...).save_pretrained(...)."
        )
    options = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    if not str(path).startswith(tuple(VALID_URL_PREFIXES)) and not Path(path).exists():
        raise ValueError(f"There is no file {path}; give the path of one, or its address on the Hub.")
    if config is not None:
        options["config"] = str(config)
    # With types by component all are loaded in float32 and cast after.
    first = None if isinstance(dtype, dict) else dtype
    pipeline = StableDiffusionPipeline.from_single_file(str(path), torch_dtype=first, **options, **hub)
    components = {name: pipeline.components[name] for name in names}
    scheduler = components.pop("scheduler", None)
    if isinstance(dtype, dict):
        for name, component in components.items():
            if name != "tokenizer":
                component.to(dtype_of(dtype, name))
    return components, None if scheduler is None else dict(scheduler.config)


def _load_repo(repo, names, dtype, quantization, hub, weights):
    index = read_index(repo, **hub)
    missing = [name for name in BASE_COMPONENTS if not holds(index, name)]
    if missing or "text_encoder_2" in index:
        raise ValueError(
            f"{repo} is a {index.get('_class_name')}, not Stable Diffusion 1.x"
            + (f" (it has no {', '.join(missing)})" if missing else " (it has two text encoders)")
            + "; give a checkpoint of Stable Diffusion 1.x as base_model."
        )
    # Not at the top: each of these imports takes long, and encoding with a full repo needs none.
    import transformers

    classes = (diffusers.AutoModel, diffusers.UNet2DConditionModel, transformers.CLIPTextModel)
    classes = dict(zip(BASE_COMPONENTS, (*classes, transformers.CLIPTokenizer), strict=True))
    components = {}
    for name in [name for name in names if name in BASE_COMPONENTS]:
        options = {} if name == "tokenizer" else {**weights, "torch_dtype": dtype_of(dtype, name)}
        if name == "text_encoder":  # transformers' own names
            options = {"dtype": dtype_of(dtype, name)}
            options |= {"variant": weights["variant"]} if "variant" in weights else {}
        if name in quantization:
            options["quantization_config"] = quantization[name]
        components[name] = classes[name].from_pretrained(repo, subfolder=name, **hub, **options)
    if "scheduler" not in names:
        return components, None
    return components, GuidedSelfRecurrentDDIMScheduler.load_config(repo, subfolder="scheduler", **hub)


def trained_side(unet_config) -> int | None:
    """The side, in pixels, of the pictures that a UNet was trained on; None where its config does not say.

    Args:
        unet_config (`dict`): Config of a `UNet2DConditionModel` for latents of 1/8 of the pictures' size.
    """
    sample_size = unet_config.get("sample_size")
    return 8 * sample_size if isinstance(sample_size, int) else None
