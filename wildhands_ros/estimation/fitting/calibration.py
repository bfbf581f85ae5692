"""What the landmark network means by its 21 landmarks.

Its wrist, knuckles and tips are not the joints of a hand model: the tips lie on the nails, not at the ends, and the
root of the thumb lies towards the palm. Leaving that out makes hands seem smaller than they are, 7 % farther away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hand_model import HandSkeleton
from wildhands_ros.hands import MANO_TO_KEYPOINTS, MIDDLE_MCP, Side, wrist_rotation

FloatArray = NDArray[np.float64]

# From each keypoint to the landmark, in units of the distance from wrist to middle knuckle: towards the middle finger,
# towards the thumb, out of the back of the hand (wrist; thumb; index; middle; ring; pinky). Robust least squares over
# 860 rendered open hands in random poses, seen by MediaPipe's full hand landmark model; docs/landmark_fit.md.
_OFFSETS = (
    (0.07, -0.01, -0.01),
    (0.00, 0.04, -0.07), (0.01, 0.01, 0.00), (-0.01, -0.03, 0.02), (0.03, -0.03, 0.09),
    (0.03, 0.00, 0.00), (0.00, -0.02, 0.00), (-0.01, -0.01, -0.01), (-0.10, -0.01, 0.05),
    (0.03, 0.01, 0.00), (-0.01, 0.02, 0.00), (-0.04, 0.02, -0.01), (-0.11, 0.03, 0.01),
    (0.03, 0.00, 0.00), (-0.01, 0.01, -0.02), (-0.02, 0.01, -0.03), (-0.12, 0.05, 0.00),
    (0.03, 0.00, -0.01), (0.00, 0.01, -0.02), (0.00, 0.01, -0.03), (-0.04, 0.06, 0.00),
)  # fmt: skip


def landmark_offsets(skeleton: HandSkeleton, side: Side) -> FloatArray:
    """(21, 3) metres, in the axes of the rest pose: from each keypoint to where the landmark network sees it."""
    rest = np.concatenate([skeleton.joints_template, skeleton.tips_template])[list(MANO_TO_KEYPOINTS)]
    axes = wrist_rotation(rest, side)
    if side is Side.LEFT:
        axes[:, 1] *= -1  # that frame's y points away from a left hand's thumb
    length = float(np.linalg.norm(rest[MIDDLE_MCP] - rest[0]))
    return length * np.array(_OFFSETS) @ axes.T
