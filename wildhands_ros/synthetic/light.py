"""Light on skin: a window's directional light with shadows, and light from all around that reaches folds less."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_CELL = 0.004  # metres, of the shadow maps
_BIAS = 0.009  # metres by which something must be nearer to the light to throw a shadow
_WRAP = np.array([0.38, 0.18, 0.12])  # light that bleeds past the terminator: red most, as skin does


@dataclass(frozen=True)
class Lights:
    """direction: unit vector towards the window, in the world's axes (x right, y ahead, z up).

    key, sky, ground: linear RGB of the window, of what comes from above and of what comes from below.
    """

    direction: tuple[float, float, float] = (-0.45, 0.10, 0.89)
    key: tuple[float, float, float] = (1.55, 1.46, 1.32)
    sky: tuple[float, float, float] = (0.62, 0.66, 0.72)
    ground: tuple[float, float, float] = (0.36, 0.29, 0.22)
    around: tuple[tuple[float, float, float], ...] = field(
        default=((0.75, 0.3, 0.6), (-0.75, 0.3, 0.6), (0.0, -0.8, 0.6), (0.1, 0.8, 0.5), (0.0, 0.1, 1.0))
    )
    """Directions (x right, y ahead, z up) from which the sky's reach into folds is tested."""


def reach(points: FloatArray, direction: FloatArray) -> FloatArray:
    """How much light from a direction arrives at each point (V,), 0 to 1, where the points hide each other.

    points: (V, 3) of closely sampled surfaces. Each cell of a plane across the light remembers the point nearest to the
    light; points farther behind than a small bias lie in its shadow. Four neighbouring cells are blended.
    """
    z = direction / np.linalg.norm(direction)
    x = np.cross((0.0, 1.0, 0.0) if abs(z[1]) < 0.9 else (1.0, 0.0, 0.0), z)
    x = x / np.linalg.norm(x)
    local = points @ np.stack([x, np.cross(z, x), z], axis=1)
    low = local[:, :2].min(axis=0)
    cell = (local[:, :2] - low) / _CELL + 2
    columns, rows = np.ceil(cell.max(axis=0)).astype(int) + 3
    index = np.floor(cell).astype(int)
    top = np.full(rows * columns, -1e3)
    np.maximum.at(top, index[:, 1] * columns + index[:, 0], local[:, 2])
    top = np.asarray(cv2.dilate(top.reshape(rows, columns).astype(np.float32), np.ones((2, 2), np.uint8))).ravel()
    light = np.zeros(len(points))
    base = np.floor(cell - 0.5).astype(int)
    fraction = cell - 0.5 - base
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dx - fraction[:, 0]) * np.abs(1 - dy - fraction[:, 1])
            behind = top[(base[:, 1] + dy) * columns + base[:, 0] + dx] - local[:, 2]
            light += weight * np.clip(1.8 - behind / _BIAS, 0, 1)
    return light


def shade(
    albedo: FloatArray, normals: FloatArray, view: FloatArray, key_reach: FloatArray, sky_reach: FloatArray,
    gloss: FloatArray, lights: Lights,
) -> FloatArray:  # fmt: skip
    """Linear colours (V, 3) of surface points.

    albedo: (V, 3). normals, view: (V, 3) unit vectors in the world's axes, view towards the eye. key_reach, sky_reach:
    (V,) light that arrives, 0 to 1. gloss: (V,) how much the surface shines.
    """
    to_light = np.array(lights.direction) / np.linalg.norm(lights.direction)
    facing = (normals @ to_light)[:, None]
    diffuse = np.maximum((facing + _WRAP * gloss[:, None]) / (1 + _WRAP * gloss[:, None]), 0)
    upward = (0.5 + 0.5 * normals[:, 2])[:, None]
    ambient = np.array(lights.ground) * (1 - upward) + np.array(lights.sky) * upward
    halfway = to_light + view
    halfway = halfway / np.maximum(np.linalg.norm(halfway, axis=1, keepdims=True), 1e-9)
    shine = np.maximum((normals * halfway).sum(axis=1), 0) ** 22 * 0.10 * gloss * key_reach
    key = np.array(lights.key) * diffuse * (0.12 + 0.88 * key_reach[:, None])
    folds = (0.3 + 0.7 * sky_reach[:, None]) ** np.array([0.75, 1.0, 1.05])  # skin around reddens the light in folds
    return albedo * (0.62 * key + 0.75 * ambient * folds) + shine[:, None]


def to_display(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """Linear 0 to 1 → sRGB-like 0 to 255 (exponent 1/2.2, soft shoulder for what is brighter than white)."""
    soft = np.where(linear > 0.7, 0.7 + 0.3 * (1 - np.exp(-(linear - 0.7) / 0.3)), linear)
    return (255 * np.clip(soft, 0, 1) ** (1 / 2.2)).astype(np.float32)
