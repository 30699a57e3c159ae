"""Random weight maps for training HSVLC: everything a user may ask for, from one constant to several regions."""

import numpy as np
import torch
import torch.nn.functional as F


def random_weight_map(rows: int, columns: int, rng: np.random.Generator) -> torch.Tensor:
    """One map of shape (1, rows, columns): uniform, boxes, ellipses, a gradient or blobs, in 1 to 8 levels."""
    kind = rng.choice(["uniform", "boxes", "ellipses", "gradient", "blobs"], p=[0.4, 0.25, 0.15, 0.1, 0.1])
    if kind == "uniform":
        return torch.full((1, rows, columns), float(rng.random()) if rng.random() < 0.8 else float(rng.integers(2)))
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    if kind == "gradient":
        angle = rng.random() * 2 * np.pi
        coverage = y / rows * np.sin(angle) + x / columns * np.cos(angle)
        coverage = (coverage - coverage.min()) / (coverage.max() - coverage.min()).clamp_min(1e-6)
    elif kind == "blobs":
        noise = torch.from_numpy(rng.random((1, 1, 3, 3)))
        coverage = F.interpolate(noise, size=(rows, columns), mode="bicubic", align_corners=True)[0, 0]
        coverage = (coverage - coverage.min()) / (coverage.max() - coverage.min()).clamp_min(1e-6)
    else:
        coverage = torch.zeros(rows, columns)
        for _ in range(rng.integers(1, 3)):
            cy, cx = rng.random() * rows, rng.random() * columns
            half_h, half_w = (0.15 + 0.5 * rng.random(2)) * (rows, columns)
            if kind == "boxes":
                # The part of each cell that the box covers: softer borders than the encoder makes, for variety.
                inside_y = (half_h + 0.5 - (y - cy).abs()).clamp(0, 1)
                inside = inside_y * (half_w + 0.5 - (x - cx).abs()).clamp(0, 1)
            else:
                inside = (((y - cy) / half_h) ** 2 + ((x - cx) / half_w) ** 2 <= 1).float()
            coverage = torch.maximum(coverage, inside * float(rng.choice([1.0, rng.random()])))
    background = float(rng.choice([0.0, 0.6 * rng.random()]))
    weight_map = torch.maximum(coverage.float(), torch.tensor(background))
    top = int(rng.integers(1, 8))
    return (torch.round(weight_map * top) / top)[None]
