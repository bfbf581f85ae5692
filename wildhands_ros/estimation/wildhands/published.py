"""What the published weights go with, oddities included; nothing else belongs in this module.

The published code turns boxes into integers, shifted by one, blurs the picture before shrinking it, cuts the crops from
the shrunk picture and counts the middle of a W wide picture as W/2. Its weights were trained that way (with crops 1.5
times the box) and its demo runs that way (1.75 times), so all of it is kept, in one place.
"""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.estimation.wildhands.places import SIZE, Box, CropPlace, SquareFrame, intrinsics
from wildhands_ros.rotations import exp_so3, quaternion_from_matrix

BLUR_KERNEL, BLUR_SIGMA = 5, 8.0

_LAST = SIZE - 1
_LARGEST = float(np.finfo(np.float32).max)
_Number = TypeVar("_Number", np.uint8, np.float32)


def published_frame(camera: Camera) -> SquareFrame:
    """The frame as published: the picture's (W/2, H/2) lies at 112, where its only principal point is.

    The camera's own principal point is moved with the picture. Half a pixel lies between W/2 and the middle of the
    pixel grid, (W − 1)/2; principal points between the two count as the middle, so that a camera centred by either
    convention gives the published numbers. The half pixel before those leads back to the true place, at twice the
    pace, so that a calibration that changes a little never makes the place jump.
    """
    scale = SIZE / max(camera.width, camera.height)
    half = (camera.width / 2, camera.height / 2)
    off = (camera.cx - half[0], camera.cy - half[1])
    x, y = (SIZE / 2 + scale * (max(0.0, d) + min(0.0, max(d, 2 * d + 1))) for d in off)
    return SquareFrame(half, scale, SIZE / 2, intrinsics(camera, scale, (x, y)))


def place_published_crop(camera: Camera, box: Box, factor: float) -> CropPlace | None:
    """The crop of a box (x0, y0, x1, y1) in pixels of the picture; None where rounding leaves nothing of it.

    The arithmetic is done in the published code's own order and types, which decide what becomes of a box whose corners
    come close to whole pixels: the box in float32, then float64 up to the normalised corners, and float32 after.
    """
    edge = _edge(camera.width, camera.height)
    x, y = (SIZE * (-half / edge + 0.5) for half in (camera.width / 2, camera.height / 2))
    to_frame = np.array([[SIZE / edge, 0.0, x], [0.0, SIZE / edge, y], [0.0, 0.0, 1.0]])
    ends = np.clip(box, -_LARGEST, _LARGEST).astype(np.float32).astype(np.float64).reshape(2, 2)
    placed = np.array([np.dot(to_frame, [*((end + 1) - 1), 1.0])[:2] for end in ends])
    corners = np.clip(placed, -2 * SIZE, 3 * SIZE).astype(int) + 1  # truncated towards zero, then the shift by one
    normalised = (2.0 * corners / SIZE - 1.0).astype(np.float32)
    first, last = np.clip((normalised + 1) / 2 * SIZE, 0, _LAST).astype(np.float32)
    start, end = first.astype(int), (first + (last - first)).astype(int)
    side = int((end - start).max())
    if side <= 0:
        return None
    center = (start + end) // 2
    reach = side * factor // 2
    x0, y0, x1, y1 = np.clip([*(center - reach), *(center + reach)], 0, _LAST).astype(int).tolist()
    return CropPlace((float(center[0]), float(center[1])), side * factor, (x0, y0, x1, y1))


def joint_rotations(pose: ArrayLike, hands_mean: ArrayLike) -> NDArray[np.float64]:
    """The rotations (16, 3, 3) that the published code gives MANO's joints for a pose (16, 3, 3) and mean pose (45,).

    It adds the rotation vectors of pose and mean. Theirs is the vector of the quaternion whose largest component is
    positive, so it may go the long way round, by more than 180°; after adding a mean that leads elsewhere than the
    short way would. Differs from the hand model's own rule only where a finger joint turns by more than about 90°.
    """
    pose = np.asarray(pose, dtype=np.float64)
    mean = np.asarray(hands_mean, dtype=np.float64).reshape(15, 3)
    if not mean.any():
        return pose
    quaternions = quaternion_from_matrix(pose[1:])
    axes, w = quaternions[:, :3], quaternions[:, 3:]
    sine = np.linalg.norm(axes, axis=1, keepdims=True)
    vectors = axes * np.where(sine < 1e-9, 2.0, 2 * np.arctan2(sine, w) / np.maximum(sine, 1e-9))
    return np.concatenate([pose[:1], exp_so3(vectors + mean)])


def shrink(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture (H, W, 3) uint8 as the network's frame (224, 224, 3), 0 to 1: blurred, padded with black, shrunk."""
    height, width = image.shape[:2]
    return _cut(blur(image), (width / 2, height / 2), frame_edge(width, height)).astype(np.float32) / np.float32(255)


def blur(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) before it is shrunk."""
    return np.asarray(cv2.GaussianBlur(image, (BLUR_KERNEL, BLUR_KERNEL), BLUR_SIGMA), dtype=np.uint8)


def frame_edge(width: int, height: int) -> float:
    """Edge in pixels of the square of a picture that the frame shows: its longer edge, or a pixel less where 200 times
    a 200th of it is, in float64, a hair less (of 456, for one, which is the width of EPIC-KITCHENS' small videos)."""
    return float(int(_edge(width, height)))


def cut_crop(frame: NDArray[np.float32], place: CropPlace) -> NDArray[np.float32]:
    """The crop (224, 224, 3) of a frame from `shrink`; cubic, so it may reach a little past 0 and 1."""
    return _cut(frame, place.center, place.extent)


def crop_affine(center: tuple[float, float], extent: float) -> NDArray[np.float32]:
    """(2, 3), pixels of the picture → of the crop; in float32 as published, which decides ties between grey levels."""
    c, half = np.array(center, np.float32), np.float32(extent * 0.5)
    source = c + np.array([[0, 0], [0, half], [half, 0]], dtype=np.float32)
    target = np.array([[SIZE / 2, SIZE / 2], [SIZE / 2, SIZE], [SIZE, SIZE / 2]], dtype=np.float32)
    return cv2.getAffineTransform(source.astype(np.float32), target).astype(np.float32)


def _edge(width: int, height: int) -> float:
    """The longer edge, after a detour over a scale in 200ths of it."""
    return 200 * (max(width, height) / 200)


def _cut(image: NDArray[_Number], center: tuple[float, float], extent: float) -> NDArray[_Number]:
    cut = cv2.warpAffine(image, crop_affine(center, extent), (SIZE, SIZE), flags=cv2.INTER_CUBIC)
    return np.asarray(cut, dtype=image.dtype)
