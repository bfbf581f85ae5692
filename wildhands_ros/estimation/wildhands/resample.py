"""Cutting squares out of pictures, as products with two thin matrices: dense on a GPU, sparse on a CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from wildhands_ros.estimation.wildhands.devices import on_device
from wildhands_ros.estimation.wildhands.places import SIZE
from wildhands_ros.estimation.wildhands.published import BLUR_KERNEL, crop_affine

_FloatArray = NDArray[np.float64]
_Kernel = Callable[[_FloatArray, _FloatArray, float, int], _FloatArray]
"""samples (N, 1), pixels (N, K), reach, length of the picture → weights (N, K)."""

_Picture = NDArray[np.uint8] | NDArray[np.float32]

_BLUR_256THS = (50.0, 52.0, 52.0, 52.0, 50.0)
"""The Gaussian of `BLUR_KERNEL` pixels with `BLUR_SIGMA`, as OpenCV's 8-bit filter has it."""

_CUBIC = -0.75
"""The free parameter of the cubic kernel (Keys, 1981), as OpenCV has it."""


def cut_sharp(image: Tensor, center: tuple[float, float], extent: float) -> Tensor:
    """A square of a picture, anti-aliased: (3, H, W) float or uint8 → (3, 224, 224) float.

    center: (x, y) in pixels, pixel centres at integers. extent: edge of the square in pixels. Averages with a triangle
    as wide as the distance between samples (two pixels at least: bilinear where it enlarges). Black outside.
    """
    return _cut(image, _sharp_axes(center, extent, (image.shape[2], image.shape[1])))


def cut_sharp_host(picture: _Picture, center: tuple[float, float], extent: float) -> NDArray[np.float32]:
    """The same of a picture (H, W, 3) in the computer's own memory → (224, 224, 3), without torch."""
    return _cut_host(picture, _sharp_axes(center, extent, (picture.shape[1], picture.shape[0])))


def _sharp_axes(center: tuple[float, float], extent: float, size: tuple[int, int]) -> tuple[_Axis, _Axis]:
    """size: (width, height) of the picture."""
    step = extent / SIZE
    x, y = (
        _Axis(c - extent / 2 + step / 2 + step * np.arange(SIZE), max(step, 1.0), length, _triangle)
        for c, length in zip(center, size, strict=True)
    )
    return x, y


def cut_cubic(image: Tensor, center: tuple[float, float], extent: float) -> Tensor:
    """The published cut (cubic interpolation, no averaging; the middle of the square lies at pixel 112).

    Samples lie where OpenCV 5's float32 has them, which decides most ties between grey levels.
    """
    affine, steps = crop_affine(center, extent).astype(np.float64), np.arange(SIZE, dtype=np.float32)
    x, y = (
        _Axis(np.float32(1 / affine[i, i]) * steps + np.float32(-affine[i, 2] / affine[i, i]), 2.0, length, _cubic)
        for i, length in enumerate((image.shape[2], image.shape[1]))
    )
    return _cut(image, (x, y))


def blur(image: Tensor) -> Tensor:
    """The published blur of a picture (3, H, W), float32 of whole grey levels 0 to 255, to the very grey levels that
    OpenCV gives uint8: its weights are whole 256ths, and the sum over both directions is rounded once."""
    pad, blurred = BLUR_KERNEL // 2, image
    for dim in (1, 2):
        length = image.shape[dim]
        period = max(2 * length - 2, 1)
        places = torch.arange(-pad, length + pad, device=image.device) % period
        mirrored = torch.minimum(places, period - places)  # at the first and the last pixel
        padded = blurred.index_select(dim, mirrored)
        parts = (weight * padded.narrow(dim, start, length) for start, weight in enumerate(_BLUR_256THS))
        blurred = functools.reduce(torch.add, parts)  # whole numbers below 2^24: exact, unlike some convolutions
    return ((blurred + 2.0**15) / 2.0**16).floor()


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
    size = on_device([width, height], image.device, image.dtype)
    grid = (2 * places + 1) / size - 1
    found = torch.nn.functional.grid_sample(image[None], grid[None], padding_mode="zeros", align_corners=False)
    return torch.nn.functional.avg_pool2d(found, samples)[0]


def _planes(picture: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def _cut(image: Tensor, axes: tuple[_Axis, _Axis]) -> Tensor:
    """Samples a grid of a picture (3, H, W); only the part of the picture that it needs is touched."""
    if image.device.type == "cpu":
        return _planes(_cut_host(image.permute(1, 2, 0).numpy(), axes))
    x, y = axes
    window = image[:, y.start : y.end, x.start : x.end].float()
    return y.dense(image.device) @ window @ x.dense(image.device).T


def _cut_host(picture: _Picture, axes: tuple[_Axis, _Axis]) -> NDArray[np.float32]:
    """The same of a picture (H, W, 3) → (224, 224, 3)."""
    x, y = axes
    window = picture[y.start : y.end, x.start : x.end].astype(np.float32)
    height, width = window.shape[:2]
    if window.size == 0:
        return np.zeros((SIZE, SIZE, 3), np.float32)
    # row by row, so that memory is read in order
    across = y.sparse() @ window.reshape(height, width * 3)
    turned = cv2.transpose(across.reshape(SIZE, width, 3))
    cut = x.sparse() @ turned.reshape(width, SIZE * 3)
    return np.asarray(cv2.transpose(cut.reshape(SIZE, SIZE, 3)), np.float32)


class _Axis:
    """How the samples along one axis are made of the picture's pixels start … end − 1.

    places: (224,) of the samples, pixels. reach: of the kernel. length: of the picture.
    """

    def __init__(self, places: NDArray[np.floating], reach: float, length: int, kernel: _Kernel) -> None:
        samples: _FloatArray = places.astype(np.float64)[:, None]
        near = np.arange(math.floor(2 * reach) + 2)  # the few pixels that a sample can reach
        pixels: _FloatArray = np.floor(samples - reach) + near
        self.start = min(max(math.floor(samples[0, 0] - reach), 0), length)
        self.end = max(min(math.ceil(samples[-1, 0] + reach) + 1, length), self.start)
        self._weights = kernel(samples, pixels, reach, length).astype(np.float32)
        # those outside weigh nothing
        self._places = np.clip(pixels - self.start, 0, max(self.end - self.start - 1, 0)).astype(np.int32)

    def dense(self, device: torch.device) -> Tensor:
        """(224, end − start) how much of each pixel goes into each sample."""
        weights, places = (torch.from_numpy(v).to(device, non_blocking=True) for v in (self._weights, self._places))
        whole = torch.zeros(SIZE, self.end - self.start, device=device)
        return whole.scatter_add_(1, places.long(), weights) if whole.numel() else whole

    def sparse(self) -> csr_matrix:
        """The same; there must be pixels."""
        taps = self._weights.shape[1]
        starts = np.arange(SIZE + 1, dtype=np.int32) * taps
        shape = (SIZE, self.end - self.start)
        return csr_matrix((self._weights.ravel(), self._places.ravel(), starts), shape=shape)


def _triangle(samples: _FloatArray, pixels: _FloatArray, reach: float, length: int) -> _FloatArray:
    weights = np.maximum(1 - np.abs(samples - pixels) / reach, 0) * _in_picture(pixels, length)
    inside = (samples > -0.5) & (samples < length - 0.5)
    return np.where(inside, weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12), 0)


def _cubic(samples: _FloatArray, pixels: _FloatArray, reach: float, length: int) -> _FloatArray:
    t = np.abs(samples - pixels)
    near = ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1
    far = ((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC
    return np.where(t <= 1, near, np.where(t < 2, far, 0)) * _in_picture(pixels, length)


def _in_picture(pixels: _FloatArray, length: int) -> NDArray[np.bool_]:
    return (pixels >= 0) & (pixels < length)
