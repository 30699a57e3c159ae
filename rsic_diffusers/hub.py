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
    folder = CHECKPOINTS / str(name)
    if not (folder / "model_index.json").exists():
        folder = Path(name)
    if not folder.is_dir():
        return str(name)
    index = folder / "model_index.json"
    if not index.exists():
        raise ValueError(
            f"{folder} is no model: it has no model_index.json; give the folder of a saved RSIC pipeline."
        )
    if "hsvlc" not in json.loads(index.read_text()):
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
        return super().from_pretrained(resolve_model(pretrained_model_name_or_path), **kwargs)
