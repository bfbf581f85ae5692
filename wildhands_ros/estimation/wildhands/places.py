"""Where in the network's frame a hand's crop lies, for both ways of cutting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera

SIZE = 224
"""Edge of the network's frame and crops in pixels."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class CropPlace:
    """One crop, in pixels of the network's 224 frame.

    center: (x, y). extent: edge of the square. box: (x0, y0, x1, y1) that is told to the network (KPE).
    """

    center: tuple[float, float]
    extent: float
    box: Box

    @classmethod
    def square(cls, center: tuple[float, float], extent: float) -> CropPlace:
        """The crop whose box is its own square."""
        (x, y), half = center, extent / 2
        return cls(center, extent, (x - half, y - half, x + half, y + half))


@dataclass(frozen=True)
class SquareFrame:
    """The network's frame: the picture padded to a square about its middle and scaled to 224 × 224.

    A pixel p of the picture lies at (p − half) · scale + middle.
    """

    half: tuple[float, float]
    scale: float
    middle: float
    matrix: NDArray[np.float32]  # K of the frame, (3, 3)

    @property
    def focal(self) -> float:
        """Mean focal length in pixels of the frame."""
        return float(self.matrix[0, 0] + self.matrix[1, 1]) / 2

    def in_picture(self, place: CropPlace) -> tuple[tuple[float, float], float]:
        """Centre (x, y) and edge of a crop in pixels of the picture."""
        x, y = ((c - self.middle) / self.scale + half for c, half in zip(place.center, self.half, strict=True))
        return (x, y), place.extent / self.scale


def unusable(box: Box, width: int, height: int) -> str | None:
    """Why there is nothing to cut at this box of a picture, or None where there is."""
    x0, y0, x1, y1 = box
    if not all(math.isfinite(v) for v in box):
        return "its box contains NaN or infinity"
    if x1 <= x0 or y1 <= y0:
        return "its box is empty"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return "its box lies outside the picture"
    return None


def square_frame(camera: Camera) -> SquareFrame:
    """The frame of a network trained on sharp pictures: exact at pixel centres (integer coordinates)."""
    scale = SIZE / max(camera.width, camera.height)
    half, middle = ((camera.width - 1) / 2, (camera.height - 1) / 2), (SIZE - 1) / 2
    center = ((camera.cx - half[0]) * scale + middle, (camera.cy - half[1]) * scale + middle)
    return SquareFrame(half, scale, middle, intrinsics(camera, scale, center))


def place_crop(frame: SquareFrame, box: Box, factor: float) -> CropPlace:
    """The crop of `factor` times the box's longer edge about its centre; nothing rounded, nothing clipped."""
    x0, y0, x1, y1 = box
    x = ((x0 + x1) / 2 - frame.half[0]) * frame.scale + frame.middle
    y = ((y0 + y1) / 2 - frame.half[1]) * frame.scale + frame.middle
    extent = max(x1 - x0, y1 - y0) * factor * frame.scale
    return CropPlace.square((x, y), extent)


def intrinsics(camera: Camera, scale: float, center: tuple[float, float]) -> NDArray[np.float32]:
    """K (3, 3) of a camera's picture scaled by `scale`, with the principal point at `center`."""
    return np.array([[camera.fx * scale, 0, center[0]], [0, camera.fy * scale, center[1]], [0, 0, 1]], dtype=np.float32)
