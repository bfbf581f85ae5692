"""How the hands and the head of the rendered sequence move: a script of key moments, smoothly interpolated.

World axes: x right, y ahead, z up, origin at the head's mean place (metres). Scripts are written for the right hand;
the left hand's is mirrored in x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from wildhands_ros.hands import Side
from wildhands_ros.rotations import exp_so3

FloatArray = NDArray[np.float64]

FINGER_POSES: dict[str, FloatArray] = {
    "flat": np.array([(0.0, 0.05, 0.05, -0.25), *[(0.05, 0.05, 0.03, 0.0)] * 4]),
    "spread": np.array([(-0.35, -0.1, 0.0, -0.05), (0.0, 0.06, 0.04, 0.12), (0.0, 0.05, 0.03, 0.0),
                        (0.02, 0.06, 0.04, -0.10), (0.02, 0.08, 0.05, -0.20)]),
    "relaxed": np.array([(0.15, 0.2, 0.15, 0.2), (0.30, 0.35, 0.20, 0.06), (0.38, 0.42, 0.25, 0.0),
                         (0.44, 0.46, 0.28, -0.04), (0.48, 0.46, 0.28, -0.10)]),
    "hold": np.array([(0.30, 0.35, 0.3, 0.35), (0.65, 0.75, 0.40, 0.08), (0.72, 0.85, 0.45, 0.0),
                      (0.76, 0.88, 0.46, -0.05), (0.74, 0.82, 0.44, -0.12)]),
    "fist": np.array([(0.55, 0.75, 0.75, 0.15), (1.25, 1.55, 0.95, 0.0), (1.30, 1.62, 1.0, 0.0),
                      (1.30, 1.60, 1.0, 0.0), (1.25, 1.52, 0.95, 0.0)]),
    "pinch": np.array([(0.33, 0.33, 0.39, 0.21), (0.96, 0.90, 0.50, 0.02), (0.50, 0.45, 0.25, 0.0),
                       (0.38, 0.40, 0.22, -0.06), (0.30, 0.36, 0.20, -0.14)]),
    "point": np.array([(0.40, 0.5, 0.5, 0.1), (0.05, 0.06, 0.04, 0.0), (1.15, 1.40, 0.85, 0.0),
                       (1.20, 1.45, 0.90, 0.0), (1.15, 1.40, 0.85, 0.0)]),
}  # fmt: skip
"""Named postures (5, 4): thumb to little finger, the angles that `FingerPoser` takes."""


@dataclass(frozen=True)
class _Moment:
    """at: fraction of the sequence. place: of the wrist in the world. turn: of the forearm in degrees: 0 shows the back
    of the hand, 90 the thumb's side up, 180 the palm. flexion, deviation: of the wrist towards the palm and towards the
    thumb, degrees. fingers: a name in FINGER_POSES."""

    at: float
    place: tuple[float, float, float]
    turn: float
    flexion: float
    deviation: float
    fingers: str


_RIGHT_SCRIPT = (
    _Moment(0.00, (0.15, 0.27, -0.31), 15, -5, 0, "relaxed"),
    _Moment(0.08, (0.14, 0.33, -0.30), 20, -10, 0, "spread"),
    _Moment(0.17, (0.10, 0.40, -0.30), 45, -8, 4, "hold"),
    _Moment(0.24, (0.10, 0.40, -0.30), 50, -5, 4, "fist"),
    _Moment(0.33, (0.12, 0.28, -0.22), 60, 0, 0, "hold"),
    _Moment(0.42, (0.15, 0.25, -0.22), 165, 0, 0, "flat"),
    _Moment(0.49, (0.15, 0.26, -0.23), 170, 5, 0, "relaxed"),
    _Moment(0.58, (0.12, 0.30, -0.26), 70, 0, 5, "pinch"),
    _Moment(0.65, (0.16, 0.30, -0.27), 55, -5, 5, "pinch"),
    _Moment(0.73, (0.60, -0.05, -0.55), 40, 0, 0, "relaxed"),
    _Moment(0.80, (0.64, -0.14, -0.58), 30, 0, 0, "relaxed"),
    _Moment(0.90, (0.16, 0.31, -0.29), 15, -10, 0, "spread"),
    _Moment(1.00, (0.15, 0.28, -0.30), 10, -5, 0, "flat"),
)
_LEFT_SCRIPT = (
    _Moment(0.00, (0.17, 0.24, -0.30), 10, -5, 0, "flat"),
    _Moment(0.10, (0.16, 0.25, -0.29), 20, -5, 0, "spread"),
    _Moment(0.20, (0.15, 0.28, -0.28), 60, 0, 0, "hold"),
    _Moment(0.30, (0.14, 0.36, -0.30), 25, -10, 0, "point"),
    _Moment(0.38, (0.10, 0.40, -0.30), 20, -8, 0, "point"),
    _Moment(0.48, (0.16, 0.30, -0.28), 30, -5, 0, "relaxed"),
    _Moment(0.58, (0.14, 0.24, -0.22), 90, 0, 0, "flat"),
    _Moment(0.68, (0.13, 0.24, -0.21), 160, 0, 0, "spread"),
    _Moment(0.78, (0.14, 0.25, -0.23), 150, 5, 0, "hold"),
    _Moment(0.88, (0.15, 0.30, -0.27), 40, -5, 0, "hold"),
    _Moment(1.00, (0.17, 0.26, -0.29), 15, -5, 0, "relaxed"),
)
_RIGHT_ELBOW = np.array([0.30, 0.02, -0.52])


@dataclass(frozen=True)
class HandMotion:
    """A hand at one time, in the world: wrist (3,), elbow (3,), orientation (3, 3) of the anatomical wrist frame,
    fingers (5, 4) as in FINGER_POSES."""

    wrist: FloatArray
    elbow: FloatArray
    orientation: FloatArray
    fingers: FloatArray


class HandScript:
    """One side's motion over a sequence, deterministic by the generator it is made from."""

    def __init__(self, side: Side, rng: np.random.Generator) -> None:
        self.side = side
        moments = _RIGHT_SCRIPT if side is Side.RIGHT else _LEFT_SCRIPT
        rows = []
        for moment in moments:
            place = np.array(moment.place) + rng.normal(0, 0.012, 3)
            angles = np.radians([moment.turn, moment.flexion, moment.deviation]) + rng.normal(0, 0.06, 3)
            fingers = FINGER_POSES[moment.fingers] * rng.uniform(0.93, 1.05, (5, 1)) + rng.normal(0, 0.02, (5, 4))
            rows.append(np.concatenate([place, angles, fingers.ravel()]))
        self._channels = PchipInterpolator([moment.at for moment in moments], np.stack(rows), axis=0)
        self._tremor = _Sway(rng, 6, 0.35, 1.6)

    def at(self, seconds: float, fraction: float) -> HandMotion:
        """The hand at a time; `fraction` is how far the script has come, 0 to 1."""
        values = np.asarray(self._channels(fraction))
        sway = self._tremor.at(seconds)
        wrist = values[:3] + 0.004 * sway[:3]
        turn, flexion, deviation = values[3:6] + 0.03 * sway[3:]
        orientation = _wrist_orientation(wrist - _RIGHT_ELBOW, turn, flexion, deviation)
        elbow, fingers = _RIGHT_ELBOW, values[6:].reshape(5, 4)
        if self.side is Side.LEFT:
            mirror = np.array([-1.0, 1.0, 1.0])
            x, z = orientation[:, 0] * mirror, orientation[:, 2] * mirror
            wrist, elbow, orientation = wrist * mirror, elbow * mirror, np.stack([x, np.cross(z, x), z], axis=1)
        return HandMotion(wrist, elbow, orientation, fingers)


class HeadScript:
    """Small movements of the head: it never keeps quite still."""

    def __init__(self, rng: np.random.Generator, pitch: float) -> None:
        self._pitch = pitch
        self._sway = _Sway(rng, 6, 0.08, 0.5)

    def at(self, seconds: float) -> tuple[FloatArray, FloatArray]:
        """Position (3,) of the camera and its optical axes as columns (3, 3), in the world."""
        sway = self._sway.at(seconds)
        down = self._pitch + 0.05 * sway[3]
        c, s = np.cos(down), np.sin(down)
        axes = np.array([[1, 0, 0], [0, -s, c], [0, -c, -s]], dtype=np.float64)
        yaw_roll = exp_so3([0.0, 0.03 * sway[5], 0.06 * sway[4]])
        return 0.015 * sway[:3], yaw_roll @ axes


class _Sway:
    """Slow random waves, (count,) of spread about one."""

    def __init__(self, rng: np.random.Generator, count: int, slowest: float, fastest: float) -> None:
        self._frequencies = rng.uniform(slowest, fastest, (count, 3))
        self._phases = rng.uniform(0, 2 * np.pi, (count, 3))

    def at(self, seconds: float) -> FloatArray:
        return np.asarray(np.sin(2 * np.pi * self._frequencies * seconds + self._phases).sum(axis=1) / np.sqrt(1.5))


def _wrist_orientation(forearm: FloatArray, turn: float, flexion: float, deviation: float) -> FloatArray:
    """Anatomical wrist frame (3, 3) of a right hand whose forearm points along `forearm`; angles in radians."""
    x = forearm / np.linalg.norm(forearm)
    up = np.array([0.0, -0.45, 0.9])  # the eye sees the back of the hand from above and behind
    up = up - (up @ x) * x
    up = up / np.linalg.norm(up)
    outward = np.cross(x, up)  # the little finger's side of a hand that shows its back
    z = np.cos(turn) * up + np.sin(turn) * outward
    frame = np.stack([x, np.cross(z, x), z], axis=1)
    return frame @ exp_so3([0.0, flexion, 0.0]) @ exp_so3([0.0, 0.0, deviation])
