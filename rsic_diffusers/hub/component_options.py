"""`dtype`, `quantization_config` and `device_map`, each for all components or by component."""

import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module
from diffusers.quantizers import PipelineQuantizationConfig

from .repos import COMPONENTS


def check_names(argument: str, names, also=()) -> None:
    """ValueError for a name that no component of an RSIC pipeline has.

    The encoder takes what is meant for the decoder too, so that both can be loaded with the same arguments.
    """
    unknown = [str(name) for name in names if name not in (*COMPONENTS, *also)]
    if unknown:
        raise ValueError(f"{argument} names {', '.join(unknown)}; components are {', '.join((*COMPONENTS, *also))}.")


def _check_dtype(dtype) -> torch.dtype:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type of torch, torch.float16 say; got {dtype!r}.")
    return found


def check_dtype(dtype) -> torch.dtype | dict[str, torch.dtype]:
    """The `dtype` argument with types in place of their names; None is float32 for all.

    (Without a dtype, transformers would keep a float16 text encoder beside diffusers' float32 UNet, and a string means
    float32 to diffusers, whatever it says.)
    """
    if dtype is None:
        return torch.float32
    if isinstance(dtype, dict):
        check_names("dtype", dtype, also=("default",))
        return {name: _check_dtype(value) for name, value in dtype.items()}
    return _check_dtype(dtype)


def dtype_of(dtype: torch.dtype | dict[str, torch.dtype], name: str) -> torch.dtype:
    """The type of one component."""
    return dtype.get(name, dtype.get("default", torch.float32)) if isinstance(dtype, dict) else dtype


def quantization_by_component(quantization_config, names) -> dict:
    """The quantization config of each of the components `names` that has one.

    Args:
        quantization_config ([`PipelineQuantizationConfig`] or `dict`, *optional*): A dict holds configs of diffusers
            (of transformers for the text encoder) by component.
    """
    if quantization_config is None:
        return {}
    if isinstance(quantization_config, dict):
        check_names("quantization_config", quantization_config)
        quantization_config = PipelineQuantizationConfig(quant_mapping=quantization_config)
    named = quantization_config.quant_mapping or quantization_config.components_to_quantize or ()
    check_names("quantization_config", named)
    if "hsvlc" in named:
        raise ValueError("quantization_config names hsvlc, which is small and must stay as it is; leave it out.")
    configs = {}
    for name in names:
        # Only neural networks: neither the codec nor tokenizer and scheduler.
        if name in ("vae", "unet", "text_encoder", "referring_model"):
            is_diffusers = name in ("vae", "unet")
            config = quantization_config._resolve_quant_config(is_diffusers=is_diffusers, module_name=name)
            configs.update({} if config is None else {name: config})
    return configs


def check_device_map(device_map, has_base: bool) -> None:
    """ValueError for what cannot be placed; the names of devices are left to torch."""
    if isinstance(device_map, dict):
        check_names("device_map", device_map, also=("",))
    elif has_base and device_map in ("balanced", "auto"):
        raise ValueError(
            f'device_map="{device_map}" does not reach a base model; give one device ("cuda"), a dict of devices by '
            "component, or load without it and use enable_model_cpu_offload()."
        )


def place_components(pipeline, device_map: dict) -> None:
    """Put components on devices of their own; what they take in and give back moves with each call.

    The codec and the pipeline's own tensors are on hsvlc's device; without one on that of the others, else the UNet's
    (the VAE's for the encoder).

    Args:
        device_map (`dict`): Devices by component; "" is that of the others.
    """
    main = device_map.get("hsvlc", device_map.get("", device_map.get("unet", device_map.get("vae", "cpu"))))
    main = torch.device(main)
    for name, component in pipeline.components.items():
        if not isinstance(component, torch.nn.Module):
            continue
        device = torch.device(device_map.get(name, device_map.get("", main)))
        device = main if name == "hsvlc" else device
        component.to(device)
        if device != main:
            # A VAE is called by `encode` and `decode`, which a hook on its `forward` would not see.
            for part in component.children() if name == "vae" else [component]:
                add_hook_to_module(part, AlignDevicesHook(execution_device=device, io_same_device=True))
            if name == "vae":
                add_hook_to_module(component, ModelHook())  # by which `reset_device_map` finds those of its parts
