"""Device, pipeline and noise as the command line asks for them; torch is imported only here, when it is needed."""

import sys
from pathlib import Path

from ..embedded_models import CHECKPOINTS, resolve_model
from .errors import as_sentence
from .startup import leave_out_unused_imports


HTTP_LIBRARIES = ("http", "requests", "urllib3")  # how the names of such packages begin


def find_device(args):
    """The device asked for, refused before anything is loaded if it cannot be used."""
    import torch

    quiet_libraries()
    name = args.device
    if name == "cpu" and args.dtype != "float32" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        # An x86 processor before AVX-512: 16 times slower and more, measured on convolutions in bfloat16.
        print(f"This CPU computes {args.dtype} in software, many times slower than float32.", file=sys.stderr)
    if name != "cpu":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"The device {name!r} cannot be used here ({as_sentence(error)})") from None
    if name == "cuda":
        from ..folders import share_of_work

        return share_of_work().device  # under `accelerate launch`, this process's own
    return torch.device(name)


def quiet_libraries() -> None:
    """Leave standard error to what the command itself has to say."""
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def load_pipeline(class_name: str, args):
    """The pipeline that `--model` and the other arguments of loading name, on its device.

    Raises:
        ValueError: A model that cannot be found or loaded, in words that say what there is.
    """
    print(f"Loading {args.model} ...", file=sys.stderr)
    import torch

    import rsic_diffusers

    starts_quickly = class_name == "RSICEncoderPipeline" and _can_start_quickly(args)
    if starts_quickly:
        leave_out_unused_imports()
    device, dtype = find_device(args), getattr(torch, args.dtype)
    components = load_helpers(args, dtype, device) if class_name == "RSICEncoderPipeline" else {}
    options = loading_options(args)
    pipeline_class = getattr(rsic_diffusers, class_name)
    quiet_libraries()
    if starts_quickly:
        components["tokenizer"] = None  # diffusers would import all models of transformers to check its class
    pipeline = _load(args.model, pipeline_class.from_pretrained, args.model, dtype=dtype, **options, **components)
    if getattr(args, "lora", None):
        _load_loras(pipeline, args.lora)
    if starts_quickly and (args.caption is not None or args.demands):  # it tells which captions are too long
        pipeline.register_modules(tokenizer=_load_tokenizer(args.model))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def check_model(args) -> None:
    """ValueError, in words that say what there is, unless the model that `--model` names can be found."""
    from ..hub.repos import read_index

    revision = {"revision": args.revision} if args.revision else {}
    _load(args.model, read_index, resolve_model(args.model), **revision)


def loading_options(args) -> dict:
    """What of `--base-model`, `--variant` and `--revision` was given, as `from_pretrained` takes it."""
    options = {name: getattr(args, name, None) for name in ("base_model", "variant", "revision")}
    return {name: value for name, value in options.items() if value is not None}


def load_helpers(args, dtype, device) -> dict:
    """The captioner and the referring model that were asked for, as components of an encoder."""
    helpers = {}
    if getattr(args, "captioner", None) and getattr(args, "caption", None) is None:  # else it would not be asked
        from ..description.captioners import Captioner

        helpers["captioner"] = _load(args.captioner, Captioner.from_pretrained, args.captioner, dtype, device)
    if getattr(args, "referring_model", None):
        from ..referring.heat_maps import ReferringModel

        helpers["referring_model"] = _load(
            args.referring_model, ReferringModel.from_pretrained, args.referring_model, device
        )
    return helpers


def _can_start_quickly(args) -> bool:
    """Whether this process only encodes, with a model on this disk, and may leave out what that does not need."""
    from_elsewhere = ("captioner", "referring_model", "base_model", "revision", "variant")
    return (
        args.command == "encode"
        and getattr(args, "owns_process", False)
        and not any(getattr(args, name, None) for name in from_elsewhere)
        and _tokenizer_folder(args.model) is not None
    )


def _tokenizer_folder(model: str) -> Path | None:
    """Where a full model in a folder, or an embedded one, has its tokenizer."""
    folder = Path(resolve_model(model)) / "tokenizer"
    return folder if (folder / "tokenizer_config.json").exists() else None


def _load_tokenizer(model: str):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(_tokenizer_folder(model))


def _load(name: str, load, *args, **kwargs):
    """Call `load`; where it finds no model, say what there is."""
    from huggingface_hub.errors import HFValidationError

    try:
        return load(*args, **kwargs)
    except Exception as error:
        # Without a network the Hub's client may raise an error of its HTTP library, which depends on its version.
        is_of_network = type(error).__module__.split(".")[0].startswith(HTTP_LIBRARIES)
        if Path(name).exists() or not (is_of_network or isinstance(error, (OSError, HFValidationError))):
            raise
        raise ValueError(_not_found(name, error)) from None


def _not_found(name: str, error: Exception) -> str:
    embedded = sorted(path.name for path in CHECKPOINTS.iterdir() if path.is_dir())
    looked = f"There is no folder {name} here, and no such model could be had from the Hub"
    # The reason that the Hub's client gives runs over many lines; its first sentence tells offline from unknown.
    reason = " ".join(str(error.__cause__ or error).split()).split(". ")[0].rstrip(".:")
    return (
        f"{looked} ({reason}). Give a folder, the id of a Hub repository, or an embedded model: {', '.join(embedded)}."
    )


def _load_loras(pipeline, loras: list[tuple[str, float | None]]) -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ValueError('--lora needs the package peft; pip install "rsic-diffusers[lora]".') from None
    adapters = {f"lora_{i}": 1.0 if weight is None else weight for i, (_, weight) in enumerate(loras)}
    for adapter, (name, _) in zip(adapters, loras, strict=True):
        _load(name, pipeline.load_lora_weights, name, adapter_name=adapter)
    pipeline.set_adapters(list(adapters), list(adapters.values()))


def make_generator(seed):
    if seed is None:
        return None
    import torch

    return torch.Generator("cpu").manual_seed(seed)
