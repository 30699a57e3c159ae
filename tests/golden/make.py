"""Makes the golden files: run once for a version of the format, then never again for that version.

    python tests/golden/make.py

A small codec with random weights, so that retraining rsic-tiny does not touch these files.
"""

import json
from pathlib import Path

import numpy as np
import torch

from rsic_diffusers import HSVLC, Bitstream, WeightMap
from rsic_diffusers.bitstream import reduced_size


FOLDER = Path(__file__).parent
CASES = {
    "constant": (150, 200, WeightMap.constant(0.9, 150, 200), "a dog on a beach"),
    "levels": (200, 333, WeightMap(np.random.default_rng(0).integers(0, 8, (4, 6)).astype(np.uint8), 8), "naïve 🐕"),
    "low": (64, 64, WeightMap(np.zeros((1, 1), np.uint8), 2), ""),
    "reduced": (3000, 4000, WeightMap(np.arange(4).reshape(2, 2).astype(np.uint8), 4), "a harbour", 128),
}


def main():
    torch.manual_seed(0)
    hsvlc = HSVLC(hidden_channels=(8, 8, 8, 8), code_channels=(6, 6, 6, 6), prior_channels=8, num_scales=16)
    for name, parameter in hsvlc.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if "prior" in name else 0.08)
    for head in hsvlc.prior.head:  # scales from all of the ladder
        torch.nn.init.constant_(head.bias[head.bias.numel() // 2 :], 6.0)
    hsvlc.update()
    hsvlc.eval().save_pretrained(FOLDER / "codec")
    symbols = {}
    for name, (height, width, weight_map, caption, *coded_side) in CASES.items():
        values = torch.from_numpy(weight_map.values)[None, None]
        shape = tuple(-(-side // 8) for side in reduced_size(height, width, *(coded_side or [None])))
        codes = hsvlc.compress(torch.randn(1, 4, *shape), values).data
        file = Bitstream(width, height, weight_map, caption, codes, hsvlc.fingerprint, *coded_side)
        (FOLDER / f"{name}.rsic").write_bytes(file.to_bytes())
        symbols[name] = {
            "size": [width, height],
            "caption": caption,
            "weight_map": np.round(weight_map.values * 255).astype(int).tolist(),
            "symbols": [scale.flatten().tolist() for scale in hsvlc.decode_symbols(codes, values, shape)],
        }
    (FOLDER / "symbols.json").write_text(json.dumps(symbols, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
