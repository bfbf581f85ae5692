"""Parts of the costs that fits minimise; each is a sum of squares in units of its own standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NEAREST = 1e-3
"""Metres along its ray that a seen landmark must lie in front of the camera."""


@dataclass(frozen=True)
class Prior:
    """What hands are like, before looking: ½ (x − mean)ᵀ precision (x − mean) over angles and betas, and limits.

    mean: (D + B,). precision: (D + B, D + B). lower, upper: (D,) radians, the range of each angle.
    limit_sigma: radians by which a joint may exceed its range at the cost of one standard deviation.
    """

    mean: FloatArray
    precision: FloatArray
    lower: FloatArray
    upper: FloatArray
    limit_sigma: float


@dataclass(frozen=True)
class Linearised:
    """The cost at an estimate, its gradient (N,) and Gauss–Newton matrix (N, N)."""

    cost: float
    gradient: FloatArray
    curvature: FloatArray


def impossible(size: int) -> Linearised:
    """Of an estimate that cannot be: infinite cost, no direction."""
    return Linearised(np.inf, np.zeros(size), np.eye(size))


def reprojection(
    rays: FloatArray, across: FloatArray, points: FloatArray, jacobian: FloatArray, depths: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Reprojection residuals (21, 2) of points (21, 3) and their derivatives (21, 2, n).

    rays, across: of the evidence, the latter divided by the standard deviation. jacobian: (21, 3, n) of the points.
    depths: (21,) of the points along their rays, positive.
    """
    residual = np.matmul(across, points[..., None])[..., 0] / depths[:, None]
    slope = (across - residual[..., None] * rays[:, None, :]) / depths[:, None, None]
    return residual, slope @ jacobian


def add_limits(
    angles: FloatArray, lower: FloatArray, upper: FloatArray, sigma: float, gradient: FloatArray, curvature: FloatArray
) -> float:
    """The cost of angles (D,) beyond their limits; its derivatives are added to those of steps (6 + D + …,)."""
    excess = (np.maximum(angles - upper, 0) + np.minimum(angles - lower, 0)) / sigma
    beyond = np.flatnonzero(excess)
    if not len(beyond):
        return 0.0
    gradient[6 + beyond] += excess[beyond] / sigma
    curvature[6 + beyond, 6 + beyond] += 1 / sigma**2
    return 0.5 * float(excess @ excess)


def small_log(rotation: FloatArray) -> FloatArray:
    """Rotation vector (3,) of one matrix, for turns well below π."""
    v = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine = 0.5 * np.sqrt(v @ v)
    if sine < 1e-8:
        return 0.5 * v
    return 0.5 * v * (np.arctan2(sine, 0.5 * (np.trace(rotation) - 1)) / sine)
