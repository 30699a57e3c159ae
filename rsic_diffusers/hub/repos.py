"""What a repo is: its folder or Hub id, and its model_index.json, checked before anything is made of it."""

from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES


BASE_KEY = "_base_model_name_or_path"
# What else the base is loaded with: `prediction_type`, and `config` of a single file.
BASE_OPTIONS_KEY = "_base_options"
BASE_OPTIONS = ("config", "prediction_type")

BASE_COMPONENTS = ("vae", "unet", "text_encoder", "tokenizer")
COMPONENTS = (
    *BASE_COMPONENTS, "hsvlc", "scheduler", "referring_model", "captioner", "image_encoder", "feature_extractor",
)  # fmt: skip
# What says where a download comes from and goes to; the rest of `from_pretrained`'s arguments are about the pipeline.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")


def read_index(model: str, **kwargs) -> dict:
    """model_index.json of a repo, ours or a base's.

    Args:
        model (`str`): A folder or a Hub id.
        kwargs: Of `HUB_ARGUMENTS`, and `revision`.

    Raises:
        ValueError: It is not what diffusers writes. A stranger's file must not end in a traceback, nor import modules
            of any name.
        OSError: There is none, or it is no JSON.
    """
    index = DiffusionPipeline.load_config(model, **kwargs)
    what = f"model_index.json of {model}"
    if not isinstance(index, dict):
        raise ValueError(f"{what} holds no table of components; save the pipeline again with save_pretrained.")
    if not isinstance(index.get("_class_name", ""), str):
        raise ValueError(f"{what} asks for code of its own ({index['_class_name']}), which is not run.")
    for name in COMPONENTS:
        _check_entry(what, name, index.get(name, [None, None]))
    options = index.get(BASE_OPTIONS_KEY, {})
    if not isinstance(index.get(BASE_KEY, ""), str) or not isinstance(options, dict):
        raise ValueError(f"{what} names no base checkpoint under {BASE_KEY}, but {index.get(BASE_KEY)!r}.")
    for name, value in options.items():
        if name not in BASE_OPTIONS or not isinstance(value, str):
            raise ValueError(f"{what} gives its base the option {name}={value!r}, which this version does not know.")
    return index


def _check_entry(what: str, name: str, entry) -> None:
    """ValueError unless `entry` is the library and class of a component, or two nulls."""
    is_pair = isinstance(entry, (list, tuple)) and len(entry) == 2
    if not is_pair or not all(part is None or isinstance(part, str) for part in entry):
        raise ValueError(f"{what} gives {entry!r} for {name}; it should be the names of a library and of a class.")
    library, class_name = entry
    if (library is None) != (class_name is None):
        raise ValueError(f"{what} gives {entry!r} for {name}; it should be two names, or two nulls.")
    if library is not None and library not in LOADABLE_CLASSES:
        raise ValueError(
            f"{what} takes {name} from the library {library}; only {', '.join(sorted(LOADABLE_CLASSES))} are loaded."
        )


def holds(index: dict, name: str) -> bool:
    """Whether a repo with this index brings a component."""
    return index.get(name, [None, None])[0] is not None
