"""Where models come from: the embedded default, folders and the Hub; full repos, and thin ones over a base checkpoint.

A *full* repo holds every component. A *thin* one holds the codec and the scheduler, and its model_index.json names the
base checkpoint (`_base_model_name_or_path`) that the rest comes from. `base_model=` puts another base in its place.
"""

from ..embedded_models import CHECKPOINTS, DEFAULT_MODEL, resolve_model
from .base_model import load_base
from .pipeline_mixin import FromPretrainedMixin
from .repos import BASE_KEY


__all__ = ["BASE_KEY", "CHECKPOINTS", "DEFAULT_MODEL", "FromPretrainedMixin", "load_base", "resolve_model"]
