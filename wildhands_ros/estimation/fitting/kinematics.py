"""Joints of a MANO-format hand from anatomical angles, with the derivatives of every joint.

Only joints, no mesh: a hand is a wrist with five chains of three joints and a tip. Everything is vectorised over the
five chains, so that one evaluation with all derivatives costs about a tenth of a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hand_model import HandSkeleton
from wildhands_ros.hand_model.data import PARENTS
from wildhands_ros.hands import MANO_TO_KEYPOINTS, SKELETON
from wildhands_ros.rotations import cross_matrices, exp_so3, log_so3

FloatArray = NDArray[np.float64]

_BASES = np.array([1, 4, 7, 10, 13])  # MANO joints next to the wrist; base + 1 and base + 2 follow in each chain
_PARENTS = np.array(PARENTS[1:])
_IDENTITY = np.eye(3)


@dataclass(frozen=True)
class Posture:
    """A hand as the fit moves it.

    orientation: (3, 3) of the hand in the camera frame. wrist: (3,) metres. angles: (D,) radians, in the order of
    `Kinematics.dofs`. betas: (B,) the first shape coefficients.
    """

    orientation: FloatArray
    wrist: FloatArray
    angles: FloatArray
    betas: FloatArray

    def moved(self, step: FloatArray) -> Posture:
        """This posture after a step (6 + D + B,): turn about the camera's axes, shift, angles, betas."""
        d = 6 + len(self.angles)
        return Posture(
            small_turn(step[:3]) @ self.orientation,
            self.wrist + step[3:6],
            self.angles + step[6:d],
            self.betas + step[d:],
        )


class Kinematics:
    """The joints-only forward kinematics of one side of a hand model.

    skeleton: rest joints and their shape directions.
    axes: (15, 3, 3) for the MANO joints 1 to 15 the flexion, abduction and twist axes, row by row, in the axes of the
        rest pose. A joint turns by E(flexion) E(abduction) E(twist), as in `HandAnatomy`.
    offsets: (21, 3) metres, in the axes of the rest pose: from each keypoint to the place that the landmark network
        means by it. It is carried along by the bone that ends at the keypoint.
    dofs: which angles move: pairs (MANO joint 1 to 15, slot: 0 flexion, 1 abduction, 2 twist).
    shape_count: how many betas the posture carries.
    """

    def __init__(
        self,
        skeleton: HandSkeleton,
        axes: FloatArray,
        offsets: FloatArray,
        dofs: Sequence[tuple[int, int]],
        shape_count: int,
    ) -> None:
        self.dofs = tuple(dofs)
        self.shape_count = shape_count
        self.hands_mean = np.asarray(skeleton.hands_mean, dtype=np.float64).reshape(15, 3)

        self._dof_joint = np.array([joint for joint, _ in self.dofs])
        self._dof_slot = np.array([slot for _, slot in self.dofs])
        self._axes = np.asarray(axes, dtype=np.float64)
        self._hat = cross_matrices(self._axes)
        self._offsets = np.asarray(offsets, dtype=np.float64)
        self._hat2 = self._hat @ self._hat

        to_keypoints = list(MANO_TO_KEYPOINTS)
        template = np.concatenate([skeleton.joints_template, skeleton.tips_template])[to_keypoints]
        shapedirs = np.concatenate([skeleton.joints_shapedirs, skeleton.tips_shapedirs])[to_keypoints]
        self.root_template, self.root_shapedirs = template[0], shapedirs[0]
        parent = np.zeros(21, dtype=int)
        for a, b in SKELETON:
            parent[b] = a
        self._parent = parent
        self._bones = template - template[parent]
        self._bones[0] = 0
        self._bone_shapes = (shapedirs - shapedirs[parent])[..., :shape_count]
        self._bone_shapes[0] = 0
        # bone k is carried by the MANO joint at its start, and shifts every keypoint after it
        self._carrier = np.array([to_keypoints[p] for p in parent])
        self._carried_by = np.zeros(16, dtype=int)  # the keypoint at the end of each joint's bone
        self._carried_by[self._carrier[self._carrier > 0]] = np.flatnonzero(self._carrier > 0)
        self._after = np.zeros((21, 21))
        for k in range(21):
            j = k
            while j != 0:
                self._after[k, j] = 1
                j = parent[j]
        # angle d turns, about keypoint pivot[d], every keypoint after it
        keypoint_of = {joint: k for k, joint in enumerate(to_keypoints)}
        self._pivot = np.array([keypoint_of[j] for j in self._dof_joint])
        moved = self._after[:, self._pivot].copy()
        moved[self._pivot, np.arange(len(self.dofs))] = 0
        self._moved = moved[..., None]

    @property
    def size(self) -> int:
        """Length of a step: 6 + angles + betas."""
        return 6 + len(self.dofs) + self.shape_count

    def bones(self, betas: FloatArray) -> FloatArray:
        """(21, 3) rest-pose vectors from each keypoint's parent to it; the wrist's is zero."""
        return self._bones + self._bone_shapes @ betas

    def rest_landmarks(self, betas: FloatArray) -> FloatArray:
        """(21, 3) rest-pose landmarks relative to the wrist joint."""
        return self._after @ self.bones(betas) + self._offsets

    def keypoints(self, posture: Posture) -> FloatArray:
        """(21, 3) keypoints in the camera frame, metres."""
        carried, _ = self._chain(posture)
        rotated = np.matmul(carried[self._carrier], self.bones(posture.betas)[..., None])[..., 0]
        return self._after @ rotated + posture.wrist

    def landmarks(self, posture: Posture) -> FloatArray:
        """(21, 3) where the landmark network would see the keypoints, in the camera frame, metres."""
        carried, _ = self._chain(posture)
        return self.keypoints(posture) + np.matmul(carried[self._carrier], self._offsets[..., None])[..., 0]

    def landmarks_and_jacobian(self, posture: Posture) -> tuple[FloatArray, FloatArray]:
        """`landmarks` (21, 3) and their derivatives (21, 3, size) by a step of `Posture.moved`."""
        carried, turned_axes = self._chain(posture)
        carriers = carried[self._carrier]
        joints = self._after @ np.matmul(carriers, self.bones(posture.betas)[..., None])[..., 0]
        relative = joints + np.matmul(carriers, self._offsets[..., None])[..., 0]

        jacobian = np.empty((21, 3, self.size))
        # a turn by ω about the wrist moves p by ω × p
        jacobian[:, :, :3] = np.swapaxes(cross_matrices(relative), 1, 2)
        jacobian[:, :, 3:6] = _IDENTITY
        arms = relative[:, None, :] - joints[self._pivot]
        d = 6 + len(self.dofs)
        jacobian[:, :, 6:d] = np.swapaxes(_cross(turned_axes, arms) * self._moved, 1, 2)
        shifts = np.matmul(carriers, self._bone_shapes)
        jacobian[:, :, d:] = (self._after @ shifts.reshape(21, -1)).reshape(21, 3, -1)
        return relative + posture.wrist, jacobian

    def bent_like(self, points: FloatArray, orientation: FloatArray) -> FloatArray:
        """(D,) angles that bend each joint about its flexion axis like `points` (21, 3) do; others are zero.

        A first guess: joints are taken from the wrist outwards, each bone is compared to its rest direction.
        """
        angles = np.zeros((15, 3))
        bones = points - points[self._parent]
        parents = np.broadcast_to(orientation, (5, 3, 3))
        for joints in (_BASES, _BASES + 1, _BASES + 2):
            keypoints = self._carried_by[joints]
            axes, rest = self._axes[joints - 1, 0], self._bones[keypoints]
            local = np.matmul(np.swapaxes(parents, 1, 2), bones[keypoints][..., None])[..., 0]
            sine = np.sum(axes * _cross(rest, local), axis=1)
            cosine = np.sum(rest * local, axis=1) - np.sum(axes * rest, axis=1) * np.sum(axes * local, axis=1)
            angles[joints - 1, 0] = np.arctan2(sine, cosine)
            parents = parents @ exp_so3(angles[joints - 1, 0, None] * axes)
        return angles[self._dof_joint - 1, self._dof_slot]

    def local_rotations(self, angles: FloatArray) -> FloatArray:
        """(15, 3, 3) rotations of the MANO joints 1 to 15, relative to the rest pose."""
        e = self._elementary(angles)
        return e[:, 0] @ e[:, 1] @ e[:, 2]

    def mano_pose(self, posture: Posture) -> FloatArray:
        """(16, 3, 3): global orientation, then 15 joints relative to the model's mean pose."""
        local = self.local_rotations(posture.angles)
        if self.hands_mean.any():
            local = exp_so3(log_so3(local) - self.hands_mean)
        return np.concatenate([posture.orientation[None], local])

    def translation(self, posture: Posture) -> FloatArray:
        """(3,) what the hand model's output must be shifted by for its wrist to lie at `posture.wrist`."""
        return posture.wrist - self.root_template - self.root_shapedirs[:, : self.shape_count] @ posture.betas

    def _elementary(self, angles: FloatArray) -> FloatArray:
        full = np.zeros((15, 3))
        full[self._dof_joint - 1, self._dof_slot] = angles
        full = full[..., None, None]
        return _IDENTITY + np.sin(full) * self._hat + (1 - np.cos(full)) * self._hat2  # Rodrigues

    def _chain(self, posture: Posture) -> tuple[FloatArray, FloatArray]:
        """Global rotations (16, 3, 3) of the MANO joints, and the axes (D, 3) of the angles in the camera frame."""
        e = self._elementary(posture.angles)
        outer = e[:, 0]
        inner = outer @ e[:, 1]
        local = inner @ e[:, 2]
        carried = np.empty((16, 3, 3))
        carried[0] = posture.orientation
        chains, links = carried[1:].reshape(5, 3, 3, 3), local.reshape(5, 3, 3, 3)
        chains[:, 0] = posture.orientation @ links[:, 0]
        chains[:, 1] = chains[:, 0] @ links[:, 1]
        chains[:, 2] = chains[:, 1] @ links[:, 2]
        # the outer turns carry the axes of the inner ones
        axes = self._axes.copy()
        axes[:, 1] = np.matmul(outer, axes[:, 1, :, None])[..., 0]
        axes[:, 2] = np.matmul(inner, axes[:, 2, :, None])[..., 0]
        turned = axes @ np.swapaxes(carried[_PARENTS], 1, 2)
        return carried, turned[self._dof_joint - 1, self._dof_slot]


def small_turn(v: FloatArray) -> FloatArray:
    """`exp_so3` of one vector, ten times as fast."""
    x, y, z = float(v[0]), float(v[1]), float(v[2])
    angle2 = x * x + y * y + z * z
    if angle2 < 1e-12:
        a, b = 1.0, 0.5
    else:
        angle = math.sqrt(angle2)
        a, b = math.sin(angle) / angle, (1 - math.cos(angle)) / angle2
    return np.array(
        [
            [1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
            [b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x],
            [b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)],
        ]
    )


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """np.cross without its overhead on small arrays."""
    result = np.empty(np.broadcast_shapes(a.shape, b.shape))
    result[..., 0] = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    result[..., 1] = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    result[..., 2] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return result
