"""Arithmetic of single vectors in space: several times as fast as NumPy's functions for arrays of any shape."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """The cross product (3,) of two vectors (3,)."""
    (a0, a1, a2), (b0, b1, b2) = a.tolist(), b.tolist()
    return np.array([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0])


def norm(v: FloatArray) -> float:
    """The length of a vector (3,)."""
    return math.sqrt(v @ v)


def unit(v: FloatArray) -> FloatArray:
    """A vector (3,) brought to length 1; that of length 0 stays."""
    return v / max(norm(v), 1e-9)


def frame_of(x: FloatArray, z: FloatArray) -> FloatArray:
    """The rotation (3, 3) with these unit vectors (3,), perpendicular to each other, as its first and last columns."""
    return np.array([x, cross(z, x), z]).T


def turn(axis: int, angle: float) -> FloatArray:
    """The rotation (3, 3) by an angle in radians about axis 0, 1 or 2."""
    c, s = math.cos(angle), math.sin(angle)
    if axis == 0:
        return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])
    if axis == 1:
        return np.array([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def random_rotation(rng: np.random.Generator) -> FloatArray:
    """A rotation (3, 3), uniformly at random: a unit quaternion from a normal distribution."""
    x, y, z, w = rng.standard_normal(4).tolist()
    s = 2 / (x * x + y * y + z * z + w * w)
    return np.array(
        [[1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
         [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
         [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)]]
    )  # fmt: skip
