"""Rotations as matrices, rotation vectors and unit quaternions, vectorised over leading axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def exp_so3(vectors: ArrayLike) -> FloatArray:
    """Rotation vectors (..., 3) in radians → matrices (..., 3, 3), by Rodrigues' formula."""
    v = np.asarray(vectors, dtype=np.float64)
    angle2 = np.sum(v * v, axis=-1)[..., None, None]
    angle = np.sqrt(angle2)
    small = angle2 < 1e-8
    with np.errstate(divide="ignore", invalid="ignore"):
        a = np.where(small, 1 - angle2 / 6, np.sin(angle) / angle)
        b = np.where(small, 0.5 - angle2 / 24, (1 - np.cos(angle)) / angle2)
    k = cross_matrices(v)
    return np.eye(3) + a * k + b * (k @ k)


def rotation_about(axes: FloatArray, sines: FloatArray, cosines: FloatArray) -> FloatArray:
    """Unit axes (..., 3) and an angle's sine and cosine (..., 1) → matrices (..., 3, 3), by Rodrigues' formula."""
    k = cross_matrices(axes)
    return np.eye(3) + sines[..., None] * k + (1 - cosines[..., None]) * (k @ k)


def log_so3(matrices: ArrayLike) -> FloatArray:
    """Rotation matrices (..., 3, 3) → rotation vectors (..., 3) with angles in [0, π]; the inverse of `exp_so3`."""
    q = quaternion_from_matrix(matrices)
    q = np.where(q[..., 3:] < 0, -q, q)  # w >= 0: the shorter way round
    xyz, w = q[..., :3], q[..., 3:]
    s = np.linalg.norm(xyz, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(s < 1e-9, 2.0, 2 * np.arctan2(s, w) / s)
    return xyz * scale


def quaternion_from_matrix(matrices: ArrayLike) -> FloatArray:
    """Rotation matrices (..., 3, 3) → unit quaternions (..., 4) as x, y, z, w (ROS's order).

    The component of largest size is computed from the diagonal and the others from it (Shepperd 1978), so that no
    rotation is ill-conditioned.
    """
    m = np.asarray(matrices, dtype=np.float64)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    candidates = np.stack(
        [
            np.stack([1 + xx - yy - zz, xy, xz, wx], axis=-1),
            np.stack([xy, 1 - xx + yy - zz, yz, wy], axis=-1),
            np.stack([xz, yz, 1 - xx - yy + zz, wz], axis=-1),
            np.stack([wx, wy, wz, 1 + xx + yy + zz], axis=-1),
        ],
        axis=-2,
    )
    best = np.argmax(np.diagonal(candidates, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def matrix_from_quaternion(quaternions: ArrayLike) -> FloatArray:
    """Quaternions (..., 4) as x, y, z, w of any length → rotation matrices (..., 3, 3)."""
    q = np.asarray(quaternions, dtype=np.float64)
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    x, y, z, w = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def nearest_rotation(matrices: ArrayLike) -> FloatArray:
    """Matrices (..., 3, 3), finite → the rotations that are nearest to them in the Frobenius norm.

    Of a mean of rotations that is their mean in the chordal metric (Hartley et al., Rotation Averaging, IJCV 2013,
    section 5.3), of a cross-covariance of points the turn that fits them best (Kabsch 1976).
    """
    u, _, vt = np.linalg.svd(np.asarray(matrices, dtype=np.float64))
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return np.asarray(u @ vt)


def angle_between(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Angle in radians of the rotation that leads from matrices a to b, (..., 3, 3) → (...)."""
    relative = np.swapaxes(np.asarray(a, dtype=np.float64), -1, -2) @ np.asarray(b, dtype=np.float64)
    return np.linalg.norm(log_so3(relative), axis=-1)


def cross_matrices(vectors: FloatArray) -> FloatArray:
    """a (..., 3) → (..., 3, 3), whose product with b is a × b."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    k = np.zeros((*vectors.shape[:-1], 3, 3))
    k[..., 0, 1], k[..., 0, 2], k[..., 1, 2] = -z, y, -x
    k[..., 1, 0], k[..., 2, 0], k[..., 2, 1] = z, -y, x
    return k
