"""One answer from several looks at the same hands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.wildhands.decode import Decoded
from wildhands_ros.rotations import nearest_rotation

FloatArray = NDArray[np.float64]

FURTHER_ROLLS = (math.radians(15), math.radians(-15))
"""By how much more the camera is rolled in each further look at a right hand, and the other way at a left one."""

MOST_LOOKS = 1 + len(FURTHER_ROLLS)


def mean_of_looks(looks: Sequence[Decoded]) -> Decoded:
    """The mean of what looks at the same N hands found, each in the camera's frame.

    Which way the hands point, and how sure the network is of them, is what the first look says.
    """
    grasps = [look.grasp for look in looks if look.grasp is not None]
    return replace(
        looks[0],
        pose=_mean_rotations(np.stack([look.pose for look in looks])),
        betas=np.mean([look.betas for look in looks], axis=0),
        # the wrist at rest depends linearly on the betas, so this is the mean of the wrists' places, too
        translation=np.mean([look.translation for look in looks], axis=0),
        grasp=np.mean(grasps, axis=0) if grasps else None,
    )


def _mean_rotations(rotations: FloatArray) -> FloatArray:
    """(K, ..., 3, 3) → (..., 3, 3), the mean in the chordal metric; NaN where one is not finite."""
    mean = rotations.mean(axis=0)
    known = np.isfinite(mean).all(axis=(-2, -1), keepdims=True)
    return np.where(known, nearest_rotation(np.where(known, mean, np.eye(3))), np.nan)
