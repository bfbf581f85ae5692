"""Cutting squares out of pictures, as products with two thin matrices: dense on a GPU, sparse on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from wildhands_ros.estimation.wildhands.places import SIZE
from wildhands_ros.estimation.wildhands.published import BLUR_KERNEL, BLUR_SIGMA

_Kernel = Callable[[Tensor, Tensor, float, int], Tensor]
"""samples (N,), pixels (K,) or (N, K), reach, length of the picture → weights (N, K)."""

_CUBIC = -0.75
"""The free parameter of the cubic kernel (Keys, 1981), as OpenCV has it."""


def cut_sharp(image: Tensor, center: tuple[float, float], extent: float) -> Tensor:
    """A square of a picture, anti-aliased: (3, H, W) float or uint8 → (3, 224, 224) float.

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
    axes = [_Axis(f, step, reach, length) for f, length in zip(first, (image.shape[2], image.shape[1]), strict=True)]
    x, y = axes
    window = image[:, y.start : y.end, x.start : x.end]
    if image.device.type != "cpu":
        columns, rows = (axis.dense(kernel, image.device) for axis in axes)
        return rows @ window.to(rows.dtype) @ columns.T
    # row by row, so that memory is read in order
    height, width = window.shape[1:]
    lines = window.permute(1, 2, 0).reshape(height, width * 3).float().numpy()
    across = y.sparse(kernel) @ lines
    turned = np.ascontiguousarray(across.reshape(SIZE, width, 3).swapaxes(0, 1)).reshape(width, SIZE * 3)
    cut = (x.sparse(kernel) @ turned).reshape(SIZE, SIZE, 3)  # x, y, colour
    return torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 1, 0)))


class _Axis:
    """How the samples along one axis are made of the picture's pixels start … end − 1."""

    def __init__(self, first: float, step: float, reach: float, length: int) -> None:
        self._first, self._step, self._reach, self._length = first, step, reach, length
        last = first + step * (SIZE - 1)
        self.start = min(max(math.floor(first - reach), 0), length)
        self.end = max(min(math.ceil(last + reach) + 1, length), self.start)

    def dense(self, kernel: _Kernel, device: torch.device) -> Tensor:
        """(224, end − start) how much of each pixel goes into each sample."""
        pixels = torch.arange(self.start, self.end, device=device, dtype=torch.float64)
        return kernel(self._samples(device), pixels, self._reach, self._length).float()

    def sparse(self, kernel: _Kernel) -> csr_matrix:
        """The same, with only the few pixels that each sample can reach."""
        samples = self._samples(torch.device("cpu"))
        near = torch.arange(math.floor(2 * self._reach) + 2, dtype=torch.float64)
        pixels = (samples[:, None] - self._reach).floor() + near
        weights = kernel(samples, pixels, self._reach, self._length)
        width = self.end - self.start
        places = (pixels - self.start).clamp(0, max(width - 1, 0)).int().numpy()  # those outside weigh nothing
        starts = np.arange(SIZE + 1, dtype=np.int32) * len(near)
        if width == 0:
            return csr_matrix((SIZE, 0), dtype=np.float32)
        return csr_matrix((weights.float().numpy().ravel(), places.ravel(), starts), shape=(SIZE, width))

    def _samples(self, device: torch.device) -> Tensor:
        return self._first + self._step * torch.arange(SIZE, device=device, dtype=torch.float64)


def _triangle(samples: Tensor, pixels: Tensor, reach: float, length: int) -> Tensor:
    weights = (1 - (samples[:, None] - pixels).abs() / reach).clamp(min=0) * _in_picture(pixels, length)
    inside = ((samples > -0.5) & (samples < length - 0.5))[:, None]
    return torch.where(inside, weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12), 0)


def _cubic(samples: Tensor, pixels: Tensor, reach: float, length: int) -> Tensor:
    t = (samples[:, None] - pixels).abs()
    near = ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1
    far = ((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0)) * _in_picture(pixels, length)


def _in_picture(pixels: Tensor, length: int) -> Tensor:
    return (pixels >= 0) & (pixels < length)
