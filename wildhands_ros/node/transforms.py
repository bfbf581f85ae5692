"""Hands as TF frames: their names, their orientations, and who sends them.

tf2_ros and tf_transformations are used where a ROS distribution provides them; the stand-ins do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from wildhands_ros import rotations
from wildhands_ros.hands import FINGERS, KEYPOINT_NAMES, Hand, Side
from wildhands_ros.node.qos import TF_OUTPUT
from wildhands_ros.node.rigid import RigidTransform

try:
    from tf_transformations import quaternion_from_matrix as _tf_quaternion
except ImportError:
    _tf_quaternion = None

FloatArray = NDArray[np.float64]

_FINGERS = np.array(list(FINGERS.values()))
"""(5, 4) keypoint indices, base to tip."""


class TransformSender(Protocol):
    """What sends transforms; tf2_ros.TransformBroadcaster is one."""

    def sendTransform(self, transform: list[TransformStamped]) -> None:  # noqa: N802 (tf2_ros's name)
        """Sends transforms together, in one message."""
        ...


class Broadcaster(TransformSender, Protocol):
    """One that can be put away."""

    def close(self) -> None:
        """Withdraws from /tf."""
        ...


class TopicBroadcaster:
    """Sends transforms as tf2_ros.TransformBroadcaster does: reliable, volatile, depth 100, on /tf."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(TFMessage, "/tf", TF_OUTPUT)

    def sendTransform(self, transform: list[TransformStamped]) -> None:  # noqa: N802
        """Sends transforms together, in one message."""
        self._publisher.publish(TFMessage(transforms=transform))

    def close(self) -> None:
        """Withdraws from /tf."""
        self._node.destroy_publisher(self._publisher)


class RosBroadcaster:
    """tf2_ros's broadcaster, which knows no way to withdraw."""

    def __init__(self, broadcaster: TransformSender, node: Node) -> None:
        self._broadcaster = broadcaster
        self._node = node

    def sendTransform(self, transform: list[TransformStamped]) -> None:  # noqa: N802
        """Sends transforms together, in one message."""
        self._broadcaster.sendTransform(transform)

    def close(self) -> None:
        """Withdraws from /tf."""
        publisher = getattr(self._broadcaster, "pub_tf", None)
        if publisher is not None:
            self._node.destroy_publisher(publisher)


def make_broadcaster(node: Node) -> Broadcaster:
    """tf2_ros's broadcaster where there is one, else the stand-in."""
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError:
        return TopicBroadcaster(node)
    return RosBroadcaster(TransformBroadcaster(node), node)


def quaternions(matrices: FloatArray) -> FloatArray:
    """Rotation matrices (N, 3, 3) → unit quaternions (N, 4) as x, y, z, w with w >= 0."""
    if _tf_quaternion is None:
        q = rotations.quaternion_from_matrix(matrices)
    else:
        homogeneous = np.tile(np.eye(4), (len(matrices), 1, 1))
        homogeneous[:, :3, :3] = matrices
        q = np.array([_tf_quaternion(m) for m in homogeneous]).reshape(-1, 4)
    return np.where(q[:, 3:] < 0, -q, q)


def joint_rotations(hand: Hand) -> FloatArray:
    """Orientations (21, 3, 3) of the joint frames in the camera frame; columns are their axes.

    The wrist's is the anatomical wrist frame. Along each finger the frame of the joint before is turned by the smallest
    rotation that points x along the bone to the next joint, so that z goes on pointing out of the back of the finger
    however far it curls. A tip continues the last bone. Bones of no length keep the frame before them.
    """
    return _all_joint_rotations([hand])[0]


def hand_transforms(
    hands: Sequence[Hand], header: Header, *, prefix: str = "", joints: bool = True
) -> list[TransformStamped]:
    """The TF frames of the hands of one image, all children of the camera frame `header.frame_id`.

    `<prefix>left_wrist`, `<prefix>left_index_mcp`, ... The most probable hand of a side has the plain names, further
    ones `left_2_wrist`, `left_3_wrist`, ... Hands that are not valid have no frames: TF cannot say "do not use".
    """
    named = named_hands(hands)
    if not named:
        return []
    valid = [hand for _, hand in named]
    turns = _all_joint_rotations(valid) if joints else np.array([[hand.wrist[1]] for hand in valid])
    q = quaternions(turns.reshape(-1, 3, 3)).reshape(len(valid), -1, 4)
    return [
        _transform(header, f"{prefix}{name}_{KEYPOINT_NAMES[joint]}", hand.joints[joint], q[place, joint])
        for place, (name, hand) in enumerate(named)
        for joint in range(q.shape[1])
    ]


def named_hands(hands: Sequence[Hand]) -> list[tuple[str, Hand]]:
    """The valid hands with the first part of their frames' names: left, right, and left_2 for a second left hand."""
    named = []
    for side in Side:
        of_side = [h for h in hands if h.side is side and h.valid and np.isfinite(h.joints).all()]
        of_side.sort(key=lambda h: -h.score)
        for rank, hand in enumerate(of_side, 1):
            named.append((side.value if rank == 1 else f"{side.value}_{rank}", hand))
    return named


def moved_hand(hand: Hand, transform: RigidTransform) -> Hand:
    """The same hand in another frame; `box` and `keypoints` stay in the picture.

    The hand model turns about its root, the wrist joint, whose place at rest the translation is added to. With the
    wrist at joint = rest + translation, the translation in the new frame is (R joint + t) - rest.
    """
    joints = transform.apply(hand.joints)
    pose = hand.pose.copy()
    pose[0] = transform.rotation @ pose[0]
    return replace(
        hand,
        joints=joints,
        pose=pose,
        translation=joints[0] - (hand.joints[0] - hand.translation),
        vertices=None if hand.vertices is None else transform.apply(hand.vertices),
    )


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
    return rotations.exp_so3(axes * np.arctan2(sines, cosines)) @ frames


def _transform(header: Header, child: str, place: FloatArray, turn: FloatArray) -> TransformStamped:
    message = TransformStamped(header=header, child_frame_id=child)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = place.tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = turn.tolist()
    return message
