"""How the two pipelines are loaded, made of another one, saved and offloaded."""

import copy
import inspect
from importlib import import_module
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers import PipelineQuantizationConfig
from diffusers.utils import logging

from ..embedded_models import DEFAULT_MODEL, resolve_model
from ..schedulers.scheduling_guided_self_recurrent_ddim import (
    GuidedSelfRecurrentDDIMScheduler,
    adopt_noise_schedule,
)
from ..torch_state import loading_alone, own_torch_state
from .base_model import load_base, trained_side
from .component_options import check_device_map, check_dtype, place_components, quantization_by_component
from .repos import (
    BASE_COMPONENTS,
    BASE_KEY,
    BASE_OPTIONS_KEY,
    COMPONENTS,
    HUB_ARGUMENTS,
    holds,
    read_index,
)


logger = logging.get_logger(__name__)


class FromPretrainedMixin:
    """`from_pretrained` that also knows the embedded models by name, thin repos, and `base_model`."""

    # Both pipelines read one index, and neither is to complain of what is the other's.
    has_compatibles = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # So that `DiffusionPipeline.from_pretrained` gets as far as our own check of what a thin repo lacks
        # (`check_complete`), which says what to do.
        cls._optional_components = [*cls._optional_components, *BASE_COMPONENTS, "scheduler"]

    @classmethod
    def _get_compatibles(cls):
        return [_RepoContents]

    @classmethod
    def _required(cls) -> list[str]:
        """Names of the components that the pipeline cannot do without."""
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]

    @classmethod
    @loading_alone()
    @own_torch_state()
    def from_pretrained(
        cls,
        pretrained_model_name_or_path=DEFAULT_MODEL,
        base_model=None,
        config=None,
        prediction_type=None,
        device_map=None,
        quantization_config=None,
        **kwargs,
    ):
        """Load from a folder, a Hub id, or (the default) the embedded "rsic-tiny".

        Args:
            pretrained_model_name_or_path (`str` or path): A full or a thin repo.
            base_model (*optional*): Another Stable Diffusion 1.x checkpoint for all but codec and sampling settings
                (and, in a thin repo, for what the repo brings itself): a diffusers folder, a Hub id, or a single
                `.safetensors` or `.ckpt` file. Single components can be given by name (`unet=`, `vae=`, ...).
            config (`str`, *optional*): For a single file: a folder or Hub id with the configs that it lacks.
            prediction_type (`str`, *optional*): "epsilon" or "v_prediction", where the checkpoint does not say what
                its UNet predicts, or says it wrong.
            device_map (`str` or `dict`, *optional*): One device, or devices by component, with "" for the others; a
                component on another device than the codec has its inputs moved to it. "balanced" goes with full repos.
            quantization_config ([`PipelineQuantizationConfig`] or `dict`, *optional*): A dict holds configs by
                component. The codec is not quantized; single files cannot be.
            kwargs: As for `DiffusionPipeline.from_pretrained`: dtype (also by component, with "default" for the
                others; float32 if there is none), variant, revision, cache_dir, token, local_files_only, ...
                `revision` is that of the repo, not of the base.

        Raises:
            ValueError: A folder without a codec, a base that is not Stable Diffusion 1.x, weights that lack tensors,
                an argument that names no component.
        """
        # 1. Check inputs
        model = resolve_model(pretrained_model_name_or_path)
        if "torch_dtype" in kwargs and "dtype" in kwargs:
            raise ValueError("dtype and torch_dtype are two names of one argument; give dtype.")
        kwargs["dtype"] = check_dtype(kwargs.pop("torch_dtype", None) or kwargs.get("dtype"))
        own = cls._get_signature_keys(cls)[0]
        quantization = quantization_by_component(quantization_config, [name for name in own if name not in kwargs])

        # 2. The repo's index, and the base that it names
        hub = {name: kwargs[name] for name in (*HUB_ARGUMENTS, "revision") if name in kwargs}
        index = read_index(model, **hub)
        if kwargs.get("hsvlc") is None and not holds(index, "hsvlc"):
            raise ValueError(
                f"{model} holds no HSVLC, so it cannot code latents; train one for it with training/train_hsvlc.py "
                "and save it with the pipeline, or give it as hsvlc=."
            )
        options = {"config": config, "prediction_type": prediction_type}
        if base_model is None:
            base_model = index.get(BASE_KEY)
            options = {name: value or index.get(BASE_OPTIONS_KEY, {}).get(name) for name, value in options.items()}
        check_device_map(device_map, base_model is not None)

        # 3. Components of the base
        base, noise_schedule = {}, {"prediction_type": prediction_type} if prediction_type else None
        if base_model is not None:
            # A thin repo may bring a VAE of its own, say.
            kept = [name for name in BASE_COMPONENTS if BASE_KEY in index and holds(index, name)]
            names = [n for n in own if n in (*BASE_COMPONENTS, "scheduler") and n not in kwargs and n not in kept]
            base, noise_schedule = load_base(base_model, names, quantization=quantization, **{**kwargs, **options})
            kwargs.update(base)
            if noise_schedule is not None and not holds(index, "scheduler"):
                logger.warning(
                    f"{model} holds no scheduler, so the sampler takes its class's defaults. (Saving an encoder "
                    "leaves the scheduler out; save the decoder to keep it.)"
                )
                kwargs["scheduler"] = adopt_noise_schedule(None, noise_schedule)

        # 4. The others, from the repo
        cls._check_repo(model, index, kwargs)
        kwargs |= cls._foreign_noise_schedule(model, index, kwargs, hub)
        own_quantization = {name: quantization[name] for name in quantization if name not in kwargs}
        if own_quantization:
            kwargs["quantization_config"] = PipelineQuantizationConfig(quant_mapping=own_quantization)
        if isinstance(device_map, str):
            kwargs["device_map"] = device_map
        try:
            pipeline = super().from_pretrained(model, **kwargs)
        except ValueError:
            # `variant` is the base's; of the few megabytes that a thin repo holds there need not be one.
            if base_model is None or kwargs.pop("variant", None) is None:
                raise
            pipeline = super().from_pretrained(model, **kwargs)

        # 5. What diffusers leaves to us
        pipeline._finish(noise_schedule)
        if base_model is not None:
            pipeline._record_base(base_model, base, options)
        pipeline._place(base, device_map)
        return pipeline

    @classmethod
    def _foreign_noise_schedule(cls, model, index, given, hub) -> dict:
        """{"scheduler": ours} over the repo's noise schedule, if its scheduler is of another kind; else {}."""
        if "scheduler" not in cls._required() or "scheduler" in given or not holds(index, "scheduler"):
            return {}
        if index["scheduler"][1] == GuidedSelfRecurrentDDIMScheduler.__name__:
            return {}
        schedule = GuidedSelfRecurrentDDIMScheduler.load_config(model, subfolder="scheduler", **hub)
        return {"scheduler": adopt_noise_schedule(None, schedule)}

    @classmethod
    def _check_repo(cls, model, index, given):
        """ValueError if repo and arguments do not make a pipeline, or the index names what is no model."""
        removed = [name for name in cls._required() if name in given and given[name] is None]
        if removed:
            raise ValueError(
                f"{cls.__name__} cannot be loaded with {removed[0]}=None; without it the repo's is loaded."
            )
        missing = [name for name in cls._required() if name not in given and not holds(index, name)]
        if missing:
            raise ValueError(
                f"{model} holds no {', '.join(missing)}, which {cls.__name__} needs; load the repo that brings all, "
                "give base_model=, or give them by name."
            )
        for name in cls._get_signature_keys(cls)[0]:
            if holds(index, name) and name not in given:
                library, class_name = index[name]
                if not hasattr(getattr(import_module(library), class_name, None), "from_pretrained"):
                    raise ValueError(
                        f"model_index.json of {model} makes {name} a {class_name}; {library} has no such model."
                    )

    def _finish(self, base_scheduler: dict | None) -> None:
        """Our scheduler over the base's noise schedule; ValueError for weights that were not in the files."""
        scheduler = self.components.get("scheduler")
        if scheduler is not None and base_scheduler is not None:
            self.scheduler = adopt_noise_schedule(scheduler, base_scheduler)
        for name, component in self.components.items():
            if isinstance(component, torch.nn.Module):
                # diffusers only logs what a checkpoint lacks, and leaves it without data.
                missing = [key for key, tensor in component.state_dict().items() if tensor.is_meta]
                if missing:
                    raise ValueError(f"The weights of {name} lack {len(missing)} tensors, {missing[0]} for one.")

    def _place(self, base: dict, device_map: str | dict | None) -> None:
        """Put what diffusers did not load on its device: the base's components, or all by their own device."""
        if isinstance(device_map, dict):
            place_components(self, device_map)
            self.hf_device_map = device_map
        elif device_map is not None:
            for component in base.values():
                if isinstance(component, torch.nn.Module):
                    component.to(device_map)

    def _record_base(self, base_model, components: dict, options: dict) -> None:
        """Remember what came from where, for `save_pretrained`."""
        name = str(Path(base_model).resolve()) if Path(base_model).exists() else str(base_model)
        options = {key: str(value) for key, value in options.items() if value is not None}
        self.register_to_config(**{BASE_KEY: name, **({BASE_OPTIONS_KEY: options} if options else {})})
        self._base_components = components

    def save_pretrained(self, save_directory, *args, full: bool = False, **kwargs):
        """Save what `from_pretrained` loads; thin, if a base was loaded: without its components, and with its name.

        What has taken the place of a base's component since (`decoder.vae = ...`) is saved. Changes within one, a LoRA
        for instance, are not.

        Args:
            save_directory (`str` or path): The folder.
            full (`bool`): Save the base's components as well, and do not name it.
            args, kwargs: As for `DiffusionPipeline.save_pretrained`.
        """
        left_out = {BASE_KEY, BASE_OPTIONS_KEY}
        if not full and BASE_KEY in self.config:
            left_out = {name for name, part in self._base_components.items() if getattr(self, name, None) is part}
            adapted = [name for name in sorted(left_out) if getattr(getattr(self, name), "peft_config", None)]
            if adapted:
                logger.warning(
                    f"The adapters (LoRA) of {', '.join(adapted)} are not saved, since a thin repo takes it from its "
                    "base; load them again after loading, or save with full=True."
                )
        # diffusers saves what the config names.
        saved = copy.copy(self)
        saved._internal_dict = FrozenDict({key: value for key, value in self.config.items() if key not in left_out})
        super(FromPretrainedMixin, saved).save_pretrained(str(save_directory), *args, **kwargs)

    @classmethod
    def from_pipe(
        cls, pipeline, hsvlc=None, scheduler=None, dtype=None, torch_dtype=None, default_max_side=None, **kwargs
    ):
        """A pipeline of the components of another one, shared and as they are, offloaded if they are.

        Args:
            pipeline ([`DiffusionPipeline`]): A `StableDiffusionPipeline`, say.
            hsvlc ([`HSVLC`]): The codec, trained for the pipeline's VAE; not needed if `pipeline` has one.
            scheduler ([`GuidedSelfRecurrentDDIMScheduler`], *optional*): Of a decoder. Default: the class's settings
                over the noise schedule of the pipeline's scheduler.
            dtype (`torch.dtype`, *optional*): Cast the shared components to it; by default they stay as they are.
            default_max_side (`int`, *optional*): By default the pipeline's, or the side its UNet was trained on.
            kwargs: Components to take in place of the pipeline's.

        Raises:
            ValueError: A component is missing, or one is given that these pipelines do not have.
        """
        unknown = kwargs.keys() - cls._get_signature_keys(cls)[0]
        if unknown:
            raise ValueError(f"A {cls.__name__} has no component {', '.join(sorted(unknown))}.")
        given = {"hsvlc": hsvlc, "scheduler": scheduler, **kwargs}
        own = {}
        for name in cls._get_signature_keys(cls)[0]:
            own[name] = pipeline.components.get(name) if given.get(name) is None else given[name]
        missing = [name for name in cls._required() if own[name] is None]
        if missing:
            raise ValueError(f"{type(pipeline).__name__} has no {', '.join(missing)}; give them by name.")
        if "scheduler" in own and not isinstance(own["scheduler"], GuidedSelfRecurrentDDIMScheduler):
            own["scheduler"] = adopt_noise_schedule(None, own["scheduler"].config)
        if not isinstance(own["hsvlc"], torch.nn.Module):
            raise ValueError(f"hsvlc must be an HSVLC, got {own['hsvlc']!r}; load it by HSVLC.from_pretrained.")
        # Where the others run, which is not where an offloaded VAE lies.
        own["hsvlc"].to(pipeline._execution_device)
        made = cls(**own, default_max_side=default_max_side or _max_side_of(pipeline))
        if isinstance(pipeline, FromPretrainedMixin) and BASE_KEY in pipeline.config:
            options = {key: pipeline.config[key] for key in (BASE_KEY, BASE_OPTIONS_KEY) if key in pipeline.config}
            made.register_to_config(**options)
            made._base_components = pipeline._base_components
        dtype = dtype or torch_dtype
        if dtype is not None:
            made.to(dtype)
        if getattr(pipeline, "_all_hooks", None):
            # The hooks of model offloading send away one another's models, so each pipeline has a chain of its own.
            made.enable_model_cpu_offload(device=pipeline._offload_device)
        return made

    @property
    def _execution_device(self):
        if isinstance(getattr(self, "hf_device_map", None), dict):
            return self.hsvlc.device  # see `place_components`
        return super()._execution_device

    def enable_group_offload(self, onload_device, *args, exclude_modules=None, **kwargs):
        """As diffusers' own. The codec, and a referring model that is a module, stay on `onload_device`; with
        offload_type="block_level" an AutoencoderTiny does too.

        Offloading hooks see calls of `forward`, and these models are called by other methods.
        """
        excluded = [exclude_modules] if isinstance(exclude_modules, str) else list(exclude_modules or ())
        excluded += [name for name in self._exclude_from_cpu_offload if name in self.components]
        by_leaves = "leaf_level" in (kwargs.get("offload_type"), *args[1:2])
        if not by_leaves and not hasattr(self.vae, "_group_offload_block_modules"):
            excluded.append("vae")
        super().enable_group_offload(torch.device(onload_device), *args, exclude_modules=excluded, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name, **kwargs):
        """Fetch only what this pipeline is made of (and was not given by name): no UNet for the encoder."""
        # diffusers fetches every folder that the index names, but for components that the caller passes.
        own = cls._get_signature_keys(cls)[0]
        others = {name: None for name in COMPONENTS if name not in own}
        return _RepoContents.download(pretrained_model_name, **{**others, **kwargs})


def _max_side_of(pipeline) -> int | None:
    """What a pipeline's config keeps, or the side of the pictures that its UNet was trained on."""
    # diffusers' own `from_pipe` keeps what its pipeline does not know under another name.
    kept = pipeline.config.get("default_max_side") or pipeline.config.get("_default_max_side")
    unet = pipeline.components.get("unet")
    return kept or (None if unet is None else trained_side(unet.config))


class _RepoContents(DiffusionPipeline):
    """All that a repo may hold, for both pipelines. Only its signature is used."""

    def __init__(
        self,
        vae,
        hsvlc,
        unet,
        text_encoder,
        tokenizer,
        scheduler,
        referring_model,
        captioner,
        image_encoder,
        feature_extractor,
        default_max_side=None,
    ):
        super().__init__()
