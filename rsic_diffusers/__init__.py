"""RSIC for diffusers: photos in a few hundred bytes, faithful where you ask for it.

Names are imported when first used, so that importing the package stays quick.
"""

from importlib import import_module

from .registration import register


__version__ = "0.1.0"

_NAMES = {
    "RSICEncoderPipeline": "rsic_diffusers.pipelines.pipeline_rsic_encoder",
    "RSICDecoderPipeline": "rsic_diffusers.pipelines.pipeline_rsic_decoder",
    "RSICEncoderOutput": "rsic_diffusers.pipelines.pipeline_output",
    "RSICDecoderOutput": "rsic_diffusers.pipelines.pipeline_output",
    "HSVLC": "rsic_diffusers.models.hsvlc",
    "GuidedSelfRecurrentDDIMScheduler": "rsic_diffusers.schedulers.scheduling_guided_self_recurrent_ddim",
    "Captioner": "rsic_diffusers.description.captioners",
    "Bitstream": "rsic_diffusers.bitstream.container",
    "BitstreamError": "rsic_diffusers.bitstream.container",
    "Demand": "rsic_diffusers.referring.demands",
    "WeightMap": "rsic_diffusers.referring.weight_map",
    "ReferringModel": "rsic_diffusers.referring.heat_maps",
    "load_referring_model": "rsic_diffusers.referring.heat_maps",
    # diffusers' loader looks for these in the library that a model_index.json names.
    "ModelMixin": "diffusers",
    "SchedulerMixin": "diffusers",
}

__all__ = [name for name in _NAMES if not name.endswith("Mixin")]


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_NAMES[name]), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})


register()
