"""What an evaluation compares: ways to make a file of a photo, and ways to decode it."""

import argparse
import json
from dataclasses import dataclass, field

from ..pipelines.presets import GAMMA, PAPER


# The row of the pictures that the VAE makes of the photos' own latents: what no codec of latents can do better than.
VAE_ALONE = "VAE alone"


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Args:
        name (`str`)
        encoding (`str`): How the file is made at the weight w.
            "referring": M = w in the region, and the evaluation's background elsewhere.
            "global": M constant, with as many bytes as the referring file; M = w where nothing is referred to.
            "without GDE": As referring, without a caption.
            "without RGE": M = 0 everywhere: the caption and the coarsest codes alone.
            "without HSVLC": As referring, with a codec of a single layer.
        decoding (`dict`): Arguments of the decoder.
        on_curve (`bool`): At all weights, for the curves; otherwise at the first alone.
    """

    name: str
    encoding: str
    decoding: dict = field(default_factory=dict)
    on_curve: bool = False


def own_methods(presets: list[str | None], has_regions: bool) -> list[Method]:
    """Both modes without diffusion and by the first preset of the decoder (None: the model's own settings), at all
    weights; the other presets in the first mode at the first weight."""
    modes = ["referring", "global"] if has_regions else ["global"]
    methods = [Method(f"{mode}, codec only", mode, {"num_inference_steps": 0}, True) for mode in modes]
    for preset in presets:
        suffix = "" if preset is None else f", {preset}"
        is_first = preset == presets[0]
        methods += [
            Method(mode + suffix, mode, {"preset": preset}, is_first) for mode in modes[: 2 if is_first else 1]
        ]
    return methods


def ablations(preset: str | None, has_regions: bool, has_single_layer: bool) -> list[Method]:
    """The paper's Table I around one preset of the decoder.

    Args:
        preset (`str`, *optional*)
        has_regions (`bool`): Whether anything is referred to; otherwise everything is in global mode.
        has_single_layer (`bool`): Whether there is a codec for "without HSVLC".
    """
    base = "referring" if has_regions else "global"
    parts = ["without GDE"] + ["without RGE"] * has_regions + ["without HSVLC"] * has_single_layer
    methods = [Method(part, part, {"preset": preset}) for part in parts]
    methods.append(Method("without guidance", base, {"preset": preset, "guidance_strength": 0.0}))
    for symbol, name, values in (
        ("T", "num_inference_steps", (10, 30, 50)),
        ("T_r", "num_recurrence_steps", (1, 4, 8)),
    ):
        for value in values:
            decoding = {"preset": preset, name: value}
            if preset == "paper":  # its gamma is that of each step, and guidance_strength is their sum
                steps = PAPER | decoding
                decoding["guidance_strength"] = GAMMA * steps["num_inference_steps"] * steps["num_recurrence_steps"]
            methods.append(Method(f"{symbol} = {value}", base, decoding))
    return methods


def parse_decoding(text: str) -> tuple[str, dict]:
    """ "half way:strength=0.5,num_inference_steps=20" as a name and settings; values are JSON, or else words."""
    name, _, rest = text.partition(":")
    settings = {}
    for setting in rest.split(","):
        key, _, value = setting.partition("=")
        if not (name and key and value):
            raise argparse.ArgumentTypeError(f"expected NAME:SETTING=VALUE,..., got {text!r}")
        try:
            settings[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            settings[key.strip()] = value.strip()
    return name.strip(), settings
