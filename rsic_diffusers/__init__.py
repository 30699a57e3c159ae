"""RSIC for diffusers: photos in a few hundred bytes, faithful where you ask for it.

Names are imported when first used, so that importing the package stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register


if TYPE_CHECKING:
    from .bitstream.container import Bitstream as Bitstream
    from .bitstream.container import BitstreamError as BitstreamError
    from .bitstream.weight_map import WeightMap as WeightMap
    from .description.captioners import Captioner as Captioner
    from .models.hsvlc import HSVLC as HSVLC
    from .pipelines.pipeline_output import RSICDecoderOutput as RSICDecoderOutput
    from .pipelines.pipeline_output import RSICEncoderOutput as RSICEncoderOutput
    from .pipelines.pipeline_rsic_decoder import RSICDecoderPipeline as RSICDecoderPipeline
    from .pipelines.pipeline_rsic_encoder import RSICEncoderPipeline as RSICEncoderPipeline
    from .referring.demands import Demand as Demand
    from .referring.heat_maps import ReferringModel as ReferringModel
    from .schedulers.scheduling_guided_self_recurrent_ddim import (
        GuidedSelfRecurrentDDIMScheduler as GuidedSelfRecurrentDDIMScheduler,
    )


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
    "WeightMap": "rsic_diffusers.bitstream.weight_map",
    "ReferringModel": "rsic_diffusers.referring.heat_maps",
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
