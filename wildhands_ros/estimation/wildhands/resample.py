"""Cutting squares out of pictures in torch, on any device, as products with two thin matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wildhands_ros.estimation.wildhands.places import SIZE
from wildhands_ros.estimation.wildhands.published import BLUR_KERNEL, BLUR_SIGMA

_Kernel = Callable[[Tensor, Tensor, float, int], Tensor]  # samples, pixels, reach, length → weights

_CUBIC = -0.75
"""The free parameter of the cubic kernel (Keys, 1981), as OpenCV has it."""


def cut_sharp(image: Tensor, center: tuple[float, float], extent: float) -> Tensor:
    """A square of a picture, anti-aliased: (3, H, W) float → (3, 224, 224).

    center: (x, y) in pixels, pixel centres at integers. extent: edge of the square in pixels. Averages with a triangle
    as wide as the distance between samples (two pixels at least: bilinear where it enlarges). Black outside.
    """
    step = extent / SIZE
    first = [c - extent / 2 + step / 2 for c in center]
    return _cut(image, first, step, reach=max(step, 1.0), kernel=_triangle)


def cut_cubic(image: Tensor, center: tuple[float, float], extent: float) -> Tensor:
    """The published cut (cubic interpolation, no averaging; the middle of the square lies at pixel 112)."""
    step = extent / SIZE
    return _cut(image, [c - extent / 2 for c in center], step, reach=2.0, kernel=_cubic)


def blur(image: Tensor) -> Tensor:
    """The published blur of a picture (3, H, W), 0 to 255, rounded to whole grey levels as OpenCV rounds uint8."""
    offsets = torch.arange(BLUR_KERNEL, device=image.device, dtype=image.dtype) - BLUR_KERNEL // 2
    weights = torch.exp(-offsets.square() / (2 * BLUR_SIGMA**2))
    weights = weights / weights.sum()
    pad = BLUR_KERNEL // 2
    mode = "reflect" if min(image.shape[1:]) > pad else "replicate"
    padded = torch.nn.functional.pad(image[:, None], (pad, pad, pad, pad), mode=mode)
    across = torch.nn.functional.conv2d(padded, weights.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(across, weights.view(1, 1, -1, 1))[:, 0].round()


def cut_perspective(image: Tensor, homography: Tensor) -> Tensor:
    """What a turned camera sees: (3, H, W) float, H (3, 3) from its pixels to the picture's → (3, 224, 224).

    Anti-aliased by averaging 4 × 4 bilinear samples to a pixel. Black outside the picture.
    """
    samples = 4
    steps = (torch.arange(SIZE * samples, device=image.device, dtype=image.dtype) + 0.5) / samples - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ homography.to(image).T
    places = places[..., :2] / places[..., 2:]
    height, width = image.shape[1:]
    size = torch.tensor([width, height], device=image.device, dtype=image.dtype)
    grid = (2 * places + 1) / size - 1
    found = torch.nn.functional.grid_sample(image[None], grid[None], padding_mode="zeros", align_corners=False)
    return torch.nn.functional.avg_pool2d(found, samples)[0]


def _cut(image: Tensor, first: list[float], step: float, reach: float, kernel: _Kernel) -> Tensor:
    """Samples a square grid that starts at `first` (x, y); only the part of the picture that it needs is touched."""
    (columns, x0, x1), (rows, y0, y1) = (
        _weights(start, step, length, reach, kernel, image)
        for start, length in zip(first, (image.shape[2], image.shape[1]), strict=True)
    )
    return rows @ image[:, y0:y1, x0:x1] @ columns.T


def _weights(
    first: float, step: float, length: int, reach: float, kernel: _Kernel, like: Tensor
) -> tuple[Tensor, int, int]:
    """How much of each pixel goes into each sample: (224, end − start), start, end."""
    last = first + step * (SIZE - 1)
    start = min(max(math.floor(first - reach), 0), length)
    end = max(min(math.ceil(last + reach) + 1, length), start)
    samples = first + step * torch.arange(SIZE, device=like.device, dtype=torch.float64)
    pixels = torch.arange(start, end, device=like.device, dtype=torch.float64)
    return kernel(samples, pixels, reach, length).to(like.dtype), start, end


def _triangle(samples: Tensor, pixels: Tensor, reach: float, length: int) -> Tensor:
    weights = (1 - (samples[:, None] - pixels).abs() / reach).clamp(min=0)
    inside = ((samples > -0.5) & (samples < length - 0.5))[:, None]
    return torch.where(inside, weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12), 0)


def _cubic(samples: Tensor, pixels: Tensor, reach: float, length: int) -> Tensor:
    t = (samples[:, None] - pixels).abs()
    near = ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1
    far = ((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0))
