"""Hands cut out of whole pictures, as samples have them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from wildhands_ros.estimation.wildhands.resample import cut_sharp
from wildhands_ros.samples import BOX_FACTOR, CROP_SIZE

Box = tuple[float, float, float, float]


def square_of(box: Box) -> tuple[tuple[float, float], float]:
    """Center (x, y) and edge of the square that is cut out for a box."""
    x0, y0, x1, y1 = box
    return ((x0 + x1) / 2, (y0 + y1) / 2), BOX_FACTOR * max(x1 - x0, y1 - y0)


def cut(image: NDArray[np.uint8], center: tuple[float, float], extent: float) -> NDArray[np.uint8]:
    """The square of a picture (H, W, 3), anti-aliased, black outside the picture → (224, 224, 3)."""
    half = extent / 2 + 2 * max(extent / CROP_SIZE, 1.0) + 1  # only this part of a large picture is turned into floats
    x0, y0 = (max(int(c - half), 0) for c in center)
    x1, y1 = (max(int(c + half) + 2, 0) for c in center)  # slices end where the picture does
    part = torch.from_numpy(np.ascontiguousarray(image[y0:y1, x0:x1])).permute(2, 0, 1).float()
    found = cut_sharp(part, (center[0] - x0, center[1] - y0), extent)
    return np.asarray(found.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
