"""What users write, for mypy (see pyproject.toml); it is not run. A comment marks what must be found wrong."""

from pathlib import Path

import numpy as np
from PIL import Image

from rsic_diffusers import (
    HSVLC,
    Bitstream,
    Demand,
    RSICDecoderPipeline,
    RSICEncoderPipeline,
    WeightMap,
)


def round_trip(path: Path) -> Image.Image:
    encoder = RSICEncoderPipeline.from_pretrained("rsic-tiny")
    out = encoder(Image.open(path), caption="a lighthouse", box=(120, 40, 300, 300), target_bytes=600)
    decoder = RSICDecoderPipeline.from_pretrained(base_model="dreamy.safetensors", prediction_type="v_prediction")
    decoder = RSICDecoderPipeline.from_pipe(decoder, hsvlc=HSVLC())
    decoder.save_pretrained(path.with_suffix(""), full=True)
    return decoder(out.bitstream, preset="fast").images[0]


def inspect(data: bytes) -> tuple[str, np.ndarray]:
    file = Bitstream.read(data)
    return file.caption, file.weight_map.values


def wrong(decoder: RSICDecoderPipeline) -> None:
    decoder.save_pretrained("folder", full="yes")  # type: ignore[arg-type]
    WeightMap.constant("high", 64, 64)  # type: ignore[arg-type]
    Demand(weight="all")  # type: ignore[arg-type]
