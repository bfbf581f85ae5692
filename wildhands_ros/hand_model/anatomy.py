"""How each finger joint bends: axes and limits, found from the rest pose of any MANO-format hand.

Every joint gets three perpendicular axes in the rest pose's coordinates (those of MANO's rotations):

- flexion: positive curls the finger towards the palm.
- abduction: positive swings the finger towards the thumb's side; at the thumb it lifts the thumb away from the palm.
- twist: flexion × abduction, along the bone; positive turns the back of the finger away from the thumb (pronation).

A joint's rotation is E(flexion) E(abduction) E(twist), E(angle) being the turn about that axis: the flexion axis stays
with the bone before the joint and the abduction axis bends along, as at a real knuckle. Angles are zero in the rest
pose. The axes of a left hand are the mirror images, so the same angles make the mirrored pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wildhands_ros.errors import ModelFileError
from wildhands_ros.hands import Side
from wildhands_ros.rotations import exp_so3

FloatArray = NDArray[np.float64]

_WRIST = 0
_INDEX, _MIDDLE, _PINKY, _RING, _THUMB = 1, 4, 7, 10, 13  # first joint of each finger
_TIP_OF = {_THUMB: 0, _INDEX: 1, _MIDDLE: 2, _RING: 3, _PINKY: 4}

# Ranges of motion in degrees, lowest and highest (flexion, abduction, twist). Flexion is measured from the straight
# finger, abduction of the knuckles from the direction of the middle metacarpal, towards the thumb. Active ranges of
# adults (American Academy of Orthopaedic Surgeons, "Joint Motion", 1965; Hume et al., J. Hand Surg. 15A, 1990),
# widened by about 10° for passive motion, grasping under load and the model's own simplifications.
_KNUCKLE_ABDUCTION = {_INDEX: (-12, 28), _MIDDLE: (-20, 20), _RING: (-30, 12), _PINKY: (-45, 12)}
_KNUCKLE = ((-30, 95), (0, 0), (-8, 8))
_MIDDLE_JOINT = ((-10, 115), (-4, 4), (-4, 4))
_END_JOINT = ((-15, 90), (-4, 4), (-4, 4))
# The thumb's saddle joint has no straight position: measured from rest
_THUMB_BASE = ((-30, 45), (-35, 40), (-30, 30))
_THUMB_KNUCKLE = ((-25, 70), (-15, 15), (-12, 12))
_THUMB_END = ((-35, 90), (-4, 4), (-4, 4))


@dataclass(frozen=True)
class HandAnatomy:
    """Axes and limits of the 15 finger joints in MANO's order (row j is MANO joint j + 1).

    side: which hand.
    flexion, abduction, twist: (15, 3) unit vectors, perpendicular to each other, in rest-pose coordinates.
    rest: (15, 3) anatomical angles (flexion, abduction, twist; radians) that the rest pose has already: 0 is a straight
        finger parallel to the middle metacarpal. Zero for the thumb's base and for all twists.
    limits: (15, 3, 2) lowest and highest angle (flexion, abduction, twist; radians) *from the rest pose*; the rest pose
        itself always lies within. They bound the joint's whole rotation, the model's mean pose included.
    """

    side: Side
    flexion: FloatArray
    abduction: FloatArray
    twist: FloatArray
    rest: FloatArray
    limits: FloatArray

    @cached_property
    def _frames(self) -> FloatArray:
        """(15, 3, 3) rotation matrices whose rows are the three axes."""
        return np.stack([self.flexion, self.abduction, self.twist], axis=1)

    def rotations(self, angles: ArrayLike) -> FloatArray:
        """Angles from rest (..., 15, 3) (flexion, abduction, twist; radians) → joint rotations (..., 15, 3, 3)."""
        angles = np.asarray(angles, dtype=np.float64)
        flexion, abduction, twist = (
            exp_so3(axes * angles[..., slot, None])
            for slot, axes in enumerate((self.flexion, self.abduction, self.twist))
        )
        return flexion @ abduction @ twist

    def angles(self, rotations: ArrayLike) -> FloatArray:
        """Joint rotations (..., 15, 3, 3) → angles from rest (..., 15, 3) that make them, as `rotations` does.

        Unique for abduction within ±90°; at ±90°, where flexion and twist turn about the same axis, one of many.
        """
        local = self._frames @ np.asarray(rotations, dtype=np.float64) @ np.swapaxes(self._frames, -1, -2)
        flexion = np.arctan2(-local[..., 1, 2], local[..., 2, 2])
        abduction = np.arctan2(local[..., 0, 2], np.hypot(local[..., 1, 2], local[..., 2, 2]))
        # what is left after that flexion, so that both together are right also where neither is known by itself
        sine, cosine = np.sin(flexion), np.cos(flexion)
        twist = np.arctan2(
            cosine * local[..., 1, 0] + sine * local[..., 2, 0], cosine * local[..., 1, 1] + sine * local[..., 2, 1]
        )
        return np.stack([flexion, abduction, twist], axis=-1)

    def clamped(self, angles: ArrayLike) -> FloatArray:
        """Angles from rest (..., 15, 3) brought within the limits."""
        return np.clip(np.asarray(angles, dtype=np.float64), self.limits[..., 0], self.limits[..., 1])


def hand_anatomy(joints: ArrayLike, tips: ArrayLike, side: Side) -> HandAnatomy:
    """Axes and limits from rest joints (16, 3) in MANO's order and finger tips (5, 3), thumb to pinky.

    Any unit, any orientation of the rest pose. A finger's flexion axis is perpendicular to its bones and to the back
    of the hand at its knuckle (half way between that of the whole hand and that of the arch of knuckles). The back of
    the thumb points equally towards the wrist, the back of the hand and the thumb's side; on the open hand that is 6°
    from where the thumb's nail points. Raises ModelFileError if joints coincide.
    """
    joints = np.asarray(joints, dtype=np.float64)
    tips = np.asarray(tips, dtype=np.float64)
    mirror = 1.0 if side is Side.RIGHT else -1.0

    palm = joints[_MIDDLE] - joints[_WRIST]
    towards_wrist = -_unit(palm)
    towards_thumb = _perpendicular(joints[_INDEX] - joints[_PINKY], towards_wrist)
    back = mirror * np.cross(towards_thumb, towards_wrist)
    neighbours = {  # which knuckles span the arch at each finger, from the little finger's side to the thumb's
        _INDEX: (_MIDDLE, _INDEX), _MIDDLE: (_RING, _INDEX), _RING: (_PINKY, _MIDDLE), _PINKY: (_PINKY, _RING),
    }  # fmt: skip

    axes = np.zeros((15, 3, 3))
    rest = np.zeros((15, 3))
    limits = np.zeros((15, 3, 2))
    for finger in (_INDEX, _MIDDLE, _PINKY, _RING, _THUMB):
        if finger == _THUMB:
            finger_back = _unit(towards_wrist + back + towards_thumb)
            ranges = (_THUMB_BASE, _THUMB_KNUCKLE, _THUMB_END)
        else:
            inner, outer = neighbours[finger]
            arch = mirror * np.cross(_unit(joints[outer] - joints[inner]), towards_wrist)
            finger_back = _unit(back + _unit(arch))
            knuckle = (_KNUCKLE[0], _KNUCKLE_ABDUCTION[finger], _KNUCKLE[2])
            ranges = (knuckle, _MIDDLE_JOINT, _END_JOINT)
        points = [joints[_WRIST], *joints[finger : finger + 3], tips[_TIP_OF[finger]]]
        bones = [_unit(end - start) for start, end in zip(points[:-1], points[1:], strict=True)]
        for part, (before, bone, joint_ranges) in enumerate(zip(bones[:-1], bones[1:], ranges, strict=True)):
            joint = finger + part - 1
            flexion = _unit(np.cross(finger_back, bone))
            abduction = mirror * np.cross(bone, flexion)
            axes[joint] = flexion, abduction, np.cross(flexion, abduction)
            if not (finger == _THUMB and part == 0):
                rest[joint, 0] = _turn(before, bone, flexion)
            if finger != _THUMB and part == 0:
                rest[joint, 1] = _turn(-towards_wrist, bone, abduction)
            limits[joint] = np.radians(joint_ranges) - rest[joint][:, None]
    limits[..., 0] = np.minimum(limits[..., 0], 0)  # the rest pose can be reached whatever the template looks like
    limits[..., 1] = np.maximum(limits[..., 1], 0)
    return HandAnatomy(side, axes[:, 0], axes[:, 1], axes[:, 2], rest, limits)


def _unit(v: FloatArray) -> FloatArray:
    length = np.linalg.norm(v)
    if not length > 1e-9:
        raise ModelFileError("the hand model's joints coincide: its J_regressor or v_template is damaged")
    return v / length


def _perpendicular(v: FloatArray, to: FloatArray) -> FloatArray:
    return _unit(v - to * (v @ to))


def _turn(start: FloatArray, end: FloatArray, axis: FloatArray) -> float:
    """Signed angle about the unit vector `axis` from one direction to another."""
    return float(np.arctan2(axis @ np.cross(start, end), start @ end - (start @ axis) * (end @ axis)))
