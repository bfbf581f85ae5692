"""The field's error measures for 3D hands. Joints are (21, 3) in metres, results in metres unless said."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def mpjpe(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean per-joint position error after moving both wrists to the origin (root-aligned)."""
    return _mean_distance(estimate - estimate[0], truth - truth[0])


def pa_mpjpe(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean per-joint position error after the best similarity transform (Procrustes-aligned)."""
    return _mean_distance(similarity_align(estimate, truth), truth)


def absolute_error(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean per-joint position error in the camera frame, nothing aligned."""
    return _mean_distance(estimate, truth)


def wrist_error(estimate: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Distance of the wrists, and the same as a fraction of the true wrist's distance from the camera."""
    error = float(np.linalg.norm(estimate[0] - truth[0]))
    return error, error / float(np.linalg.norm(truth[0]))


def mrrpe(left: FloatArray, right: FloatArray, true_left: FloatArray, true_right: FloatArray) -> float:
    """Mean relative-root position error of one pair: how far the left wrist is off, seen from the right one."""
    return float(np.linalg.norm((left[0] - right[0]) - (true_left[0] - true_right[0])))


def keypoint_error(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean distance of 2D keypoints (21, 2), in their own unit; keypoints that are NaN on either side do not count."""
    distances = np.linalg.norm(estimate - truth, axis=-1)
    finite = np.isfinite(distances)
    return float(distances[finite].mean()) if finite.any() else float("nan")


def similarity_align(points: FloatArray, target: FloatArray) -> FloatArray:
    """`points` (N, D) moved, turned (no mirroring) and scaled to lie closest to `target`; Umeyama, PAMI 1991."""
    mean, target_mean = points.mean(axis=0), target.mean(axis=0)
    p, t = points - mean, target - target_mean
    u, s, vt = np.linalg.svd(t.T @ p)
    flip = np.ones(len(s))
    if np.linalg.det(u @ vt) < 0:
        flip[-1] = -1
    rotation = (u * flip) @ vt
    spread = float((p * p).sum())
    scale = float((s * flip).sum()) / spread if spread > 0 else 1.0
    return scale * p @ rotation.T + target_mean


def _mean_distance(a: FloatArray, b: FloatArray) -> float:
    return float(np.linalg.norm(a - b, axis=-1).mean())
