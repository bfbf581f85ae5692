"""A hand's 21 keypoints and 20 bones."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.drawing.style import Color
from wildhands_ros.hands import FINGERS

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

_SHIFT = 4
_HALO: Color = (16, 20, 24)
_TAPER: FloatArray = np.array([1.0, 0.86, 0.72, 0.58, 0.44])


def draw_skeleton(
    image: Image,
    keypoints: FloatArray,
    finger_colors: Mapping[str, Color],
    *,
    palm_color: Color,
    depths: FloatArray | None = None,
    width: float = 4.0,
    dashed: bool = False,
) -> None:
    """Draws bones, tapered towards the tips, and joints; in place.

    keypoints: (21, 2) pixels, NaN for those that are not to be drawn. depths: (21,) of any unit; nearer fingers are
    drawn over farther ones. width: of the bones at the wrist in pixels. dashed: hollow, for what is not to be trusted.
    """
    limit = 3 * max(image.shape[:2])
    with np.errstate(invalid="ignore"):
        drawable = np.all(np.abs(keypoints) < limit, axis=1)  # also False for NaN
    order = list(FINGERS)
    if depths is not None:
        order.sort(key=lambda finger: -float(np.nan_to_num(depths[list(FINGERS[finger])].mean())))
    for finger in order:
        chain = np.array((0, *FINGERS[finger]))
        color = finger_colors[finger]
        widths: FloatArray = _TAPER * np.float64(width)
        bones = np.flatnonzero(drawable[chain[:-1]] & drawable[chain[1:]])
        starts, ends = keypoints[chain[bones]], keypoints[chain[bones + 1]]
        if dashed:
            for a, b in zip(starts, ends, strict=True):
                _dashed_line(image, a, b, color, max(round(width / 2), 1))
        else:
            for halo, ink in ((1.6, _HALO), (0.0, color)):
                for corners in _bones(starts, ends, widths[bones] + halo, widths[bones + 1] + halo):
                    cv2.fillConvexPoly(image, corners, ink, cv2.LINE_AA, _SHIFT)
        for joint, size in zip(chain[1:], widths[1:], strict=True):
            if drawable[joint]:
                _joint(image, keypoints[joint], 0.78 * size, color, hollow=dashed)
    if drawable[0]:
        _joint(image, keypoints[0], 1.15 * width, palm_color, hollow=dashed)


def _bones(starts: FloatArray, ends: FloatArray, from_width: FloatArray, to_width: FloatArray) -> NDArray[np.int32]:
    """Tapered quadrilaterals (N, 4, 2) in fixed-point pixels."""
    along = ends - starts
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / (2 * length[:, None])
    at_start, at_end = across * from_width[:, None], across * to_width[:, None]
    return _fixed(np.stack([starts + at_start, ends + at_end, ends - at_end, starts - at_start], axis=1))


def _joint(image: Image, center: FloatArray, radius: float, color: Color, *, hollow: bool) -> None:
    point, scale = tuple(int(v) for v in _fixed(center)), 1 << _SHIFT
    if hollow:
        cv2.circle(image, point, round(radius * scale), color, max(round(radius / 2), 1), cv2.LINE_AA, _SHIFT)
        return
    cv2.circle(image, point, round((radius + 0.8) * scale), _HALO, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    cv2.circle(image, point, round(radius * scale), color, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    if radius >= 2.5:
        cv2.circle(image, point, round(0.45 * radius * scale), (255, 255, 255), cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _dashed_line(image: Image, a: FloatArray, b: FloatArray, color: Color, width: int) -> None:
    length = float(np.hypot(*(b - a)))
    count = max(int(length / (4 * width + 4)), 1)
    for i in range(count):
        ends = [a + (b - a) * t for t in (i / count, (i + 0.55) / count)]
        p, q = (tuple(int(v) for v in _fixed(end)) for end in ends)
        cv2.line(image, p, q, color, width, cv2.LINE_AA, _SHIFT)


def _fixed(points: FloatArray) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)
