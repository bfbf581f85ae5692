"""Detected landmarks as a fit can use them: rays of the camera, and a shape in the camera's axes.

All lens models are dealt with here, once per picture. Around each landmark the lens is linearised: a 3D point p seen
near a landmark with ray u differs from it by about L · (B p / u·p) pixels, where the rows of B span the plane across u
and L is the derivative of the projection at u. That is exact where the difference vanishes and needs no lens model
any more; it holds beyond 90° from the axis, where a pinhole's normalised coordinates end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.hands import Landmarks

FloatArray = NDArray[np.float64]

_STEP = 1e-4  # radians, for the numerical derivative of the projection


@dataclass(frozen=True)
class Evidence:
    """What one hand's landmarks say. Landmarks that say nothing have seen = 0 and finite numbers.

    pixels: (21, 2) as detected. size: the longer edge of their box, in pixels.
    seen: (21,) 1 where the landmark has a ray, else 0.
    rays: (21, 3) unit vectors. across: (21, 2, 3) rows that span the plane across each ray, in pixels per radian
        (L B of the module's docstring).
    world: (21, 3) the network's 3D landmarks turned into the camera's axes, centred, in its own guess of metres.
    """

    pixels: FloatArray
    size: float
    seen: FloatArray
    rays: FloatArray
    across: FloatArray
    world: FloatArray


def gather(landmarks: Sequence[Landmarks], camera: Camera) -> list[Evidence | str]:
    """The evidence of each hand of a picture, or the reason why there is none."""
    if not landmarks:
        return []
    pixels = np.stack([each.image for each in landmarks]).astype(np.float64)
    finite: NDArray[np.bool_] = np.all(np.isfinite(pixels), axis=-1)
    rays = camera.unproject(np.where(finite[..., None], pixels, (camera.cx, camera.cy)))
    bases = _planes(rays)
    lens = _derivative(camera, rays, bases)
    usable: NDArray[np.bool_] = np.all(np.isfinite(rays), axis=-1) & np.all(np.isfinite(lens), axis=(-1, -2))
    seen = finite & usable
    return [_one(each, pixels[i], seen[i], rays[i], bases[i], lens[i]) for i, each in enumerate(landmarks)]


def _one(
    landmarks: Landmarks, pixels: FloatArray, seen: NDArray[np.bool_], rays: FloatArray, bases: FloatArray,
    lens: FloatArray,
) -> Evidence | str:  # fmt: skip
    if np.count_nonzero(seen) < 8:
        return f"only {np.count_nonzero(seen)} of 21 landmarks can be seen through this lens, 8 are needed"
    if not np.isfinite(landmarks.world).all():
        return "its world landmarks are not finite numbers"
    size = float(np.max(np.ptp(pixels[seen], axis=0)))
    if size < 3:
        return f"its landmarks span only {size:.1f} pixels"
    world = landmarks.world - landmarks.world.mean(axis=0)
    if np.linalg.matrix_rank(world, tol=1e-4) < 2:
        return "its world landmarks lie on one line"

    # the network saw a crop, and answers in its axes: as if the camera looked straight at the hand
    center = rays[seen].mean(axis=0)
    center /= np.linalg.norm(center)
    basis = _planes(center)
    world = world[:, :2] @ basis + world[:, 2:] * center

    hidden = ~seen
    if hidden.any():
        rays, bases, lens = rays.copy(), bases.copy(), lens.copy()
        rays[hidden], bases[hidden], lens[hidden] = center, basis, 0.0
    return Evidence(pixels, size, seen.astype(np.float64), rays, lens @ bases, world)


def _planes(rays: FloatArray) -> FloatArray:
    """(..., 2, 3): the camera's x and y axes turned by the shortest turn that leads z to each ray."""
    a, b, c = rays[..., 0], rays[..., 1], rays[..., 2]
    k = 1 / np.maximum(1 + c, 1e-6)
    return np.stack(
        [np.stack([1 - a * a * k, -a * b * k, -a], axis=-1), np.stack([-a * b * k, 1 - b * b * k, -b], axis=-1)],
        axis=-2,
    )


def _derivative(camera: Camera, rays: FloatArray, bases: FloatArray) -> FloatArray:
    """(..., 2, 2) pixels per radian at each ray: column j for a turn towards row j of its basis."""
    offset = _STEP * bases
    ends = np.concatenate([rays[..., None, :] + offset, rays[..., None, :] - offset], axis=-2)
    seen = camera.project(ends)
    return np.swapaxes(seen[..., :2, :] - seen[..., 2:, :], -1, -2) / (2 * _STEP)
