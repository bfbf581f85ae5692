"""The field's error measures for 3D hands. Joints are (21, 3) in metres, results in metres unless said.

Each measure comes twice: for one hand as a number, and (named `…_errors`) for many hands at once, with any leading
dimensions. Hands of which anything that a measure looks at is not finite, in the estimate or the truth, get NaN, they
alone: of a finger tip that nobody knows all but the errors of the wrist and its orientation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hands import INDEX_MCP, MIDDLE_MCP, PINKY_MCP

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# --- one hand -----------------------------------------------------------------------------------------------------


def mpjpe(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean per-joint position error after moving both wrists to the origin (root-aligned)."""
    return float(mpjpe_errors(estimate, truth))


def pa_mpjpe(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean per-joint position error after the best similarity transform (Procrustes-aligned)."""
    return float(pa_mpjpe_errors(estimate, truth))


def absolute_error(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean per-joint position error in the camera frame, nothing aligned."""
    return float(absolute_errors(estimate, truth))


def wrist_error(estimate: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Distance of the wrists, and the same as a fraction of the true wrist's distance from the camera (NaN where that
    is zero)."""
    error, distance = float(wrist_errors(estimate, truth)), float(np.linalg.norm(truth[0]))
    return error, error / distance if distance > 0 else float("nan")


def mrrpe(left: FloatArray, right: FloatArray, true_left: FloatArray, true_right: FloatArray) -> float:
    """Mean relative-root position error of one pair: how far the left wrist is off, seen from the right one."""
    return float(_known(np.linalg.norm((left[0] - right[0]) - (true_left[0] - true_right[0]), axis=-1)))


def keypoint_error(estimate: FloatArray, truth: FloatArray) -> float:
    """Mean distance of 2D keypoints (21, 2), in their own unit; keypoints that are NaN on either side do not count."""
    distances = np.linalg.norm(estimate - truth, axis=-1)
    finite = np.isfinite(distances)
    return float(distances[finite].mean()) if finite.any() else float("nan")


# --- many hands ---------------------------------------------------------------------------------------------------


def mpjpe_errors(estimates: FloatArray, truths: FloatArray) -> FloatArray:
    """`mpjpe` of hands (…, 21, 3) → (…)."""
    return absolute_errors(estimates - estimates[..., :1, :], truths - truths[..., :1, :])


def pa_mpjpe_errors(estimates: FloatArray, truths: FloatArray) -> FloatArray:
    """`pa_mpjpe` of hands (…, 21, 3) → (…); NaN where an estimate or a truth is not finite."""
    good = np.asarray((np.isfinite(estimates) & np.isfinite(truths)).all(axis=(-1, -2)))
    # one hand that is not finite would make the decomposition of all of them fail
    found, wanted = (np.where(good[..., None, None], joints, 0.0) for joints in (estimates, truths))
    return np.where(good, absolute_errors(similarity_align(found, wanted), wanted), np.nan)


def absolute_errors(estimates: FloatArray, truths: FloatArray) -> FloatArray:
    """`absolute_error` of hands (…, 21, 3) → (…)."""
    return _known(np.linalg.norm(estimates - truths, axis=-1).mean(axis=-1))


def wrist_errors(estimates: FloatArray, truths: FloatArray) -> FloatArray:
    """Distance of the wrists of hands (…, 21, 3) → (…)."""
    return _known(np.linalg.norm(estimates[..., 0, :] - truths[..., 0, :], axis=-1))


def orientation_errors(estimates: FloatArray, truths: FloatArray) -> FloatArray:
    """Angle in radians between the anatomical wrist frames of hands (…, 21, 3) of the same side → (…)."""
    trace = np.einsum("...ij,...ij->...", _wrist_frames(estimates), _wrist_frames(truths))
    return np.asarray(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def weighted_keypoint_errors(estimates: FloatArray, truths: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean distance of keypoints (…, 21, 2), weights (…, 21) → (…); NaN where all weights are zero.

    Keypoints whose truth or weight is not finite do not count.
    """
    weights = np.where(np.isfinite(weights) & np.isfinite(truths).all(axis=-1), weights, 0.0)
    distances = np.where(weights > 0, np.linalg.norm(estimates - truths, axis=-1), 0.0)
    total = weights.sum(axis=-1)
    return _known(np.where(total > 0, (weights * distances).sum(axis=-1) / np.where(total > 0, total, 1), np.nan))


def intersection_over_union(estimate: BoolArray, truth: BoolArray, known: BoolArray) -> float:
    """IoU of two masks over the pixels that are known; NaN where both are empty there."""
    union = np.count_nonzero((estimate | truth) & known)
    return np.count_nonzero(estimate & truth & known) / union if union else float("nan")


def similarity_align(points: FloatArray, target: FloatArray) -> FloatArray:
    """`points` (…, N, D) moved, turned (no mirroring) and scaled to lie closest to `target`; Umeyama, PAMI 1991."""
    mean, target_mean = points.mean(axis=-2, keepdims=True), target.mean(axis=-2, keepdims=True)
    p, t = points - mean, target - target_mean
    u, s, vt = np.linalg.svd(np.swapaxes(t, -1, -2) @ p)
    flip = np.ones_like(s)
    flip[..., -1] = np.where(np.linalg.det(u @ vt) < 0, -1, 1)
    rotation = (u * flip[..., None, :]) @ vt
    spread = (p * p).sum(axis=(-1, -2))
    scale = np.where(spread > 0, (s * flip).sum(axis=-1) / np.where(spread > 0, spread, 1), 1.0)
    return np.asarray(scale[..., None, None] * p @ np.swapaxes(rotation, -1, -2) + target_mean)


def _known(errors: FloatArray) -> FloatArray:
    return np.where(np.isfinite(errors), errors, np.nan)


def _wrist_frames(joints: FloatArray) -> FloatArray:
    """(…, 3, 3), columns x, y, z as in `hands.wrist_rotation` for a right hand; angles are the same for both sides."""
    x = joints[..., MIDDLE_MCP, :] - joints[..., 0, :]
    z = np.cross(x, joints[..., INDEX_MCP, :] - joints[..., PINKY_MCP, :])
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=-1)
