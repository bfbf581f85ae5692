"""Rigid transforms between frames, of points and of hands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hands import Hand
from wildhands_ros.rotations import exp_so3, log_so3

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RigidTransform:
    """x in the source frame → rotation @ x + translation in the target frame.

    rotation: (3, 3). translation: (3,) metres.
    """

    rotation: FloatArray
    translation: FloatArray

    def __matmul__(self, first: RigidTransform) -> RigidTransform:
        """First `first`, then this one."""
        return RigidTransform(self.rotation @ first.rotation, self.rotation @ first.translation + self.translation)

    def inverse(self) -> RigidTransform:
        return RigidTransform(self.rotation.T, -self.rotation.T @ self.translation)

    def towards(self, other: RigidTransform, share: float) -> RigidTransform:
        """Between this (0) and the other (1): straight in place, and turning at constant speed (slerp)."""
        turn = log_so3(self.rotation.T @ other.rotation)
        return RigidTransform(
            self.rotation @ exp_so3(share * turn), (1 - share) * self.translation + share * other.translation
        )

    def apply(self, points: FloatArray) -> FloatArray:
        """(N, 3) in the source frame → (N, 3) in the target frame."""
        return points @ self.rotation.T + self.translation


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
