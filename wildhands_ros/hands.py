"""Hands as data: sides, boxes, the 21 keypoints, the anatomical wrist frame, and the `Hand` itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

KEYPOINT_NAMES: tuple[str, ...] = (
    "wrist",
    "thumb_cmc", "thumb_mcp", "thumb_ip", "thumb_tip",
    "index_mcp", "index_pip", "index_dip", "index_tip",
    "middle_mcp", "middle_pip", "middle_dip", "middle_tip",
    "ring_mcp", "ring_pip", "ring_dip", "ring_tip",
    "pinky_mcp", "pinky_pip", "pinky_dip", "pinky_tip",
)  # fmt: skip
"""The 21 keypoints in the OpenPose/MediaPipe order, used everywhere in this package."""

FINGERS: dict[str, tuple[int, int, int, int]] = {
    "thumb": (1, 2, 3, 4),
    "index": (5, 6, 7, 8),
    "middle": (9, 10, 11, 12),
    "ring": (13, 14, 15, 16),
    "pinky": (17, 18, 19, 20),
}
"""Keypoint indices of each finger, from base to tip."""

SKELETON: tuple[tuple[int, int], ...] = tuple(
    bone for finger in FINGERS.values() for bone in zip((0, *finger[:-1]), finger, strict=True)
)
"""The 20 bones as (parent, child) keypoint indices."""

MANO_TO_KEYPOINTS: tuple[int, ...] = (
    0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20,
)  # fmt: skip
"""Keypoint k is row MANO_TO_KEYPOINTS[k] of the 16 MANO joints followed by the 5 tips (thumb … pinky)."""

MIDDLE_MCP, INDEX_MCP, PINKY_MCP = 9, 5, 17


class Side(str, Enum):
    """Which of the person's hands."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def other(self) -> Side:
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


@dataclass(frozen=True, eq=False)
class Landmarks:
    """What the hand landmark network saw in one region of the picture.

    image: (21, 2) pixels of the frame, keypoint order.
    world: (21, 3) metres, in the axes of the picture (x right, y down, z away from the camera), origin
        near the hand's centre; the scale is the network's guess, not a measurement.
    presence: probability that there is a hand.
    """

    image: FloatArray
    world: FloatArray
    presence: float

    def __post_init__(self) -> None:
        _require_shape("landmarks.image", self.image, (21, 2))
        _require_shape("landmarks.world", self.world, (21, 3))
        seal(self, "image", "world")


@dataclass(frozen=True)
class HandBox:
    """One hand found in a picture.

    side: the most probable side, after voting over the frames in which the hand was followed.
    xyxy: (x0, y0, x1, y1) in pixels of the frame; may reach over the frame's edge.
    score: probability that this is a hand, 0 to 1.
    side_probability: probability that `side` is right, 0.5 to 1.
    landmarks: what the landmark network saw, or None for boxes that came without (from a file, say).
    follow_id: the same non-negative number while the detector follows the same hand from frame to frame; -1 for a
        hand that is not followed (a single picture, boxes from a file).
    """

    side: Side
    xyxy: tuple[float, float, float, float]
    score: float
    side_probability: float = 1.0
    landmarks: Landmarks | None = None
    follow_id: int = -1

    def __post_init__(self) -> None:
        """Accepts what other detectors give: sides as text, numbers of numpy or torch."""
        object.__setattr__(self, "side", Side(self.side))
        object.__setattr__(self, "xyxy", tuple(float(edge) for edge in self.xyxy))
        if len(self.xyxy) != 4:
            raise ValueError(f"a box has four numbers, not {len(self.xyxy)}")
        for name in ("score", "side_probability"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def center(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def size(self) -> float:
        """The longer edge, in pixels."""
        x0, y0, x1, y1 = self.xyxy
        return max(x1 - x0, y1 - y0)


@dataclass(frozen=True, eq=False)
class Hand:
    """One hand in metric 3D, in the camera's optical frame (x right, y down, z forward; REP-103).

    Its arrays are read-only (trackers keep the hands that they give out): copy what you want to change. Hands compare
    by identity, as comparing arrays gives no single answer.

    side: which of the person's hands.
    score: probability that this is a hand, 0 to 1.
    side_probability: probability that `side` is right, 0.5 to 1.
    box: (x0, y0, x1, y1) pixels of the frame.
    joints: (21, 3) metres, keypoint order (`KEYPOINT_NAMES`).
    keypoints: (21, 2) pixels: `joints` projected into the picture by its camera (NaN behind the camera).
    pose: (16, 3, 3) rotation matrices, MANO order: global orientation, then 15 joints (index, middle, pinky,
        ring, thumb, base to tip), relative to the hand model's mean pose (smplx `flat_hand_mean=False`).
    betas: (10,) shape coefficients of the hand model.
    translation: (3,) metres, added to the hand model's output. This is not the wrist: that is `joints[0]`.
    vertices: (V, 3) metres, or None where no mesh was asked for.
    estimator, hand_model: the names of what made this.
    reprojection_error: mean distance in pixels between the estimate and the 2D evidence it was made from; NaN
        where there was none.
    expected_error: how far the joints are likely to be off, in metres, with the wrists on top of each other: half of
        the rendered hands of which the network is as sure are better. NaN where it does not tell.
    valid: False where the estimate is likely to be wrong, or contradicts itself or the picture: it should not be used
        to move a robot.
    jump: True in the first frame after the hand's place or turn changed faster than a hand can, or its side changed.
    smoothed: True where `joints` and the rest went through a temporal filter.
    track_id: stable over the frames in which the same hand is seen; -1 for single pictures.
    follow_id: that of the `HandBox` it was estimated from.
    grasp: (class index, probabilities) or None where unknown.
    """

    side: Side
    score: float
    box: tuple[float, float, float, float]
    joints: FloatArray
    keypoints: FloatArray
    pose: FloatArray
    betas: FloatArray
    translation: FloatArray
    estimator: str
    hand_model: str
    vertices: FloatArray | None = None
    side_probability: float = 1.0
    reprojection_error: float = float("nan")
    expected_error: float = float("nan")
    valid: bool = True
    jump: bool = False
    smoothed: bool = False
    track_id: int = -1
    follow_id: int = -1
    grasp: tuple[int, FloatArray] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", Side(self.side))
        _require_shape("joints", self.joints, (21, 3))
        _require_shape("keypoints", self.keypoints, (21, 2))
        _require_shape("pose", self.pose, (16, 3, 3))
        _require_shape("betas", self.betas, (10,))
        _require_shape("translation", self.translation, (3,))
        seal(self, "joints", "keypoints", "pose", "betas", "translation", "vertices")
        if self.grasp is not None:
            probabilities = self.grasp[1].view()
            probabilities.flags.writeable = False
            object.__setattr__(self, "grasp", (self.grasp[0], probabilities))

    @cached_property
    def wrist(self) -> tuple[FloatArray, FloatArray]:
        """Position (3,) in metres and orientation (3, 3) of the anatomical wrist frame in the camera frame."""
        rotation = wrist_rotation(self.joints, self.side)
        rotation.flags.writeable = False
        return self.joints[0], rotation


def wrist_rotation(joints: FloatArray, side: Side) -> FloatArray:
    """Orientation (3, 3) of the anatomical wrist frame; its columns are the frame's axes in the joints' frame.

    joints: (21, 3), keypoint order, any unit. x points from the wrist to the middle finger's mcp, z out of the back
    of the hand, y = z × x (towards the thumb's side on a right hand, towards the little finger's on a left). The
    same rule for every hand model, since it uses joints only. The frame of a mirrored hand (other side) is the
    mirrored frame: x and z mirror, and y, being their cross product, mirrors with the opposite sign.
    """
    x = joints[MIDDLE_MCP] - joints[0]
    across = joints[INDEX_MCP] - joints[PINKY_MCP]  # towards the thumb's side
    z = np.cross(x, across) if Side(side) is Side.RIGHT else np.cross(across, x)
    x_length, z_length = np.linalg.norm(x), np.linalg.norm(z)
    if not (x_length > 0 and z_length > 1e-12 * x_length):  # collapsed or NaN joints have no orientation
        return np.eye(3)
    x, z = x / x_length, z / z_length
    return np.stack([x, np.cross(z, x), z], axis=1)


def seal(record: object, *names: str) -> None:
    """Replaces a record's arrays by read-only views; their maker may still write to the originals."""
    for name in names:
        array = getattr(record, name)
        if array is not None:
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(record, name, view)


def _require_shape(name: str, array: FloatArray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
