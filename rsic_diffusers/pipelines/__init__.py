"""The two pipelines: photo to file, file to picture."""

from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES


# Lets diffusers' loader and `save_pretrained` name our classes as ["rsic_diffusers", "HSVLC"].
LOADABLE_CLASSES.setdefault("rsic_diffusers", {})
