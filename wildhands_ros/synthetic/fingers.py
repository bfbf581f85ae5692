"""Finger postures in a hand model's own rotations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hand_model import HandLayer
from wildhands_ros.hands import FINGERS

FloatArray = NDArray[np.float64]

_FIRST_JOINT = {"index": 0, "middle": 3, "pinky": 6, "ring": 9, "thumb": 12}  # row in the anatomy's tables


class FingerPoser:
    """Turns the same few angles into poses of any hand model, left or right."""

    def __init__(self, layer: HandLayer) -> None:
        self._layer = layer

    def rotations(self, fingers: FloatArray) -> FloatArray:
        """Pose (16, 3, 3) as a `Hand` has it, with identity as global orientation.

        fingers: (5, 4) radians, thumb to little finger: flexion of the base, middle and end joint, measured from the
        straight finger (the thumb's base: from rest), and abduction of the base from rest, positive towards the
        thumb's side (the thumb: away from the palm). Angles past a joint's limits are brought back to them.
        """
        anatomy, angles = self._layer.anatomy, np.zeros((15, 3))
        for finger, (base, middle, end, spread) in zip(FINGERS, fingers, strict=True):
            rows = _FIRST_JOINT[finger] + np.arange(3)
            angles[rows, 0] = np.array([base, middle, end]) - anatomy.rest[rows, 0]
            angles[rows[0], 1] = spread
        turned = anatomy.rotations(anatomy.clamped(angles))
        return self._layer.pose_from_rotations(np.concatenate([np.eye(3)[None], turned]))
