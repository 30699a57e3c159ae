"""The models that come with this package, and the folder of a model by its name.

It imports nothing heavy: `rsic encode` asks before diffusers is there.
"""

from pathlib import Path


DEFAULT_MODEL = "rsic-tiny"
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def resolve_model(name) -> str:
    """The folder of an embedded model for its name, unless there is a model in a folder of that name here; any other
    folder or Hub id as it is.

    Raises:
        ValueError: A folder that holds no model.
    """
    folder = Path(name)
    if str(name) in [path.name for path in CHECKPOINTS.iterdir()] and not (folder / "model_index.json").is_file():
        folder = CHECKPOINTS / name
    if not folder.is_dir():
        return str(name)
    if not (folder / "model_index.json").exists():
        raise ValueError(
            f"{folder} is no model: it has no model_index.json; give the folder of a saved RSIC pipeline."
        )
    return str(folder)
