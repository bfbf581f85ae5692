"""Hands as TF frames: where they are and how they are turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from wildhands_ros import rotations
from wildhands_ros.hands import FINGERS, KEYPOINT_NAMES, Hand
from wildhands_ros.node.stencil import Serializer

FloatArray = NDArray[np.float64]

_FINGERS = np.array(list(FINGERS.values()))
"""(5, 4) keypoint indices, base to tip."""

NamedHands: TypeAlias = Sequence[tuple[str, Hand]]

_Frames: TypeAlias = tuple[str, tuple[str, ...]]
"""The parent's name and its children's."""


def quaternions(matrices: FloatArray) -> FloatArray:
    """Rotation matrices (N, 3, 3) → unit quaternions (N, 4) as x, y, z, w with w >= 0."""
    q = rotations.quaternion_from_matrix(matrices)
    return np.where(q[:, 3:] < 0, -q, q)


def joint_rotations(hand: Hand) -> FloatArray:
    """Orientations (21, 3, 3) of the joint frames in the camera frame; columns are their axes.

    The wrist's is the anatomical wrist frame. Along each finger the frame of the joint before is turned by the smallest
    rotation that points x along the bone to the next joint, so that z goes on pointing out of the back of the finger
    however far it curls. A tip continues the last bone. Bones of no length keep the frame before them.
    """
    return _all_joint_rotations([hand])[0]


def hand_transforms(
    named: NamedHands, header: Header, *, prefix: str = "", joints: bool = True
) -> list[TransformStamped]:
    """The TF frames of the hands of one image, all children of the camera frame `header.frame_id`.

    named: as `FrameNames` names them: `left` gives `<prefix>left_wrist`, `<prefix>left_index_mcp`, ...
    """
    names, places = _placed_frames(named, prefix, joints)
    return list(_transforms((header.frame_id, names), places.reshape(-1), header.stamp).transforms)


class SerializedTransforms:
    """`hand_transforms` as serialised TFMessage, in half the time; empty where there are no frames."""

    def __init__(self) -> None:
        self._serializer: Serializer[_Frames] = Serializer(_transforms)

    def __call__(self, named: NamedHands, header: Header, *, prefix: str = "", joints: bool = True) -> bytes:
        names, places = _placed_frames(named, prefix, joints)
        return self._serializer((header.frame_id, names), places.reshape(-1), header.stamp) if names else b""


def _placed_frames(named: NamedHands, prefix: str, joints: bool) -> tuple[tuple[str, ...], FloatArray]:
    """Names, and (N, 7): x, y, z in metres and the quaternion x, y, z, w of each frame."""
    if not named:
        return (), np.zeros((0, 7))
    hands = [hand for _, hand in named]
    turns = _all_joint_rotations(hands) if joints else np.array([[hand.wrist[1]] for hand in hands])
    count = turns.shape[1]
    places = np.concatenate([hand.joints[:count] for hand in hands])
    names = tuple(f"{prefix}{name}_{part}" for name, _ in named for part in KEYPOINT_NAMES[:count])
    return names, np.hstack([places, quaternions(turns.reshape(-1, 3, 3))])


def _transforms(frames: _Frames, numbers: FloatArray, stamp: Time) -> TFMessage:
    """numbers: those of `_placed_frames`, one after the other."""
    parent, children = frames
    header = Header(stamp=stamp, frame_id=parent)
    message = TFMessage()
    for child, (x, y, z, qx, qy, qz, qw) in zip(children, numbers.reshape(-1, 7).tolist(), strict=True):
        frame = TransformStamped(header=header, child_frame_id=child)
        translation, rotation = frame.transform.translation, frame.transform.rotation
        translation.x, translation.y, translation.z = x, y, z
        rotation.x, rotation.y, rotation.z, rotation.w = qx, qy, qz, qw
        message.transforms.append(frame)
    return message


def _all_joint_rotations(hands: Sequence[Hand]) -> FloatArray:
    """(N, 21, 3, 3), see `joint_rotations`; all hands at once, since numpy's calls cost more than its sums."""
    joints = np.array([hand.joints for hand in hands]).reshape(-1, 21, 3)
    result = np.empty((len(hands), 21, 3, 3))
    result[:, 0] = np.array([hand.wrist[1] for hand in hands]).reshape(-1, 3, 3)
    frames = np.repeat(result[:, :1], len(_FINGERS), axis=1)
    for near, far in zip(_FINGERS.T[:-1], _FINGERS.T[1:], strict=True):
        bones = joints[:, far] - joints[:, near]
        frames = _turned(frames.reshape(-1, 3, 3), bones.reshape(-1, 3)).reshape(frames.shape)
        result[:, near] = frames
    result[:, _FINGERS[:, -1]] = frames
    return result


def _turned(frames: FloatArray, directions: FloatArray) -> FloatArray:
    """Frames (N, 3, 3) turned by the smallest rotations that point their x axes along `directions` (N, 3)."""
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    x = frames[:, :, 0]
    targets = np.where(lengths > 1e-9, directions / np.maximum(lengths, 1e-9), x)
    axes = np.cross(x, targets)
    sines = np.linalg.norm(axes, axis=1, keepdims=True)
    cosines = np.sum(x * targets, axis=1, keepdims=True)
    # straight on, or folded back by exactly half a turn, there is no axis: take z
    axes = np.where(sines < 1e-9, frames[:, :, 2], axes / np.maximum(sines, 1e-9))
    return rotations.rotation_about(axes, sines, cosines) @ frames
