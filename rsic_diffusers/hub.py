"""Where models come from: the embedded default, folders and the Hub."""

import json
from pathlib import Path

import torch


DEFAULT_MODEL = "rsic-tiny"
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def resolve_model(name) -> str:
    """The folder of an embedded model for its name; any other folder or Hub id as it is.

    Raises:
        ValueError: A folder that holds no codec.
    """
    embedded = [path.name for path in CHECKPOINTS.iterdir()]
    folder = CHECKPOINTS / name if name in embedded else Path(name)
    if not folder.is_dir():
        return str(name)
    index = folder / "model_index.json"
    if not index.exists():
        raise ValueError(
            f"{folder} is no model: it has no model_index.json; give the folder of a saved RSIC pipeline."
        )
    if json.loads(index.read_text()).get("hsvlc", [None])[0] is None:
        raise ValueError(
            f"{folder} holds no HSVLC, so it cannot code latents; train one for it with training/train_hsvlc.py and "
            "save it with the pipeline."
        )
    return str(folder)


class FromPretrainedMixin:
    """`from_pretrained` that also knows the embedded models by name."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=DEFAULT_MODEL, **kwargs):
        """Load from a folder, a Hub id, or (the default) the embedded "rsic-tiny"; see `DiffusionPipeline`."""
        if "torch_dtype" not in kwargs:
            # Without a dtype, transformers would keep a float16 text encoder beside diffusers' float32 UNet.
            kwargs.setdefault("dtype", torch.float32)
        pipeline = super().from_pretrained(resolve_model(pretrained_model_name_or_path), **kwargs)
        for name, component in pipeline.components.items():
            if isinstance(component, torch.nn.Module):
                # diffusers only logs what a checkpoint lacks, and leaves it without data.
                missing = [key for key, tensor in component.state_dict().items() if tensor.is_meta]
                if missing:
                    raise ValueError(f"The weights of {name} lack {len(missing)} tensors, {missing[0]} for one.")
        return pipeline
