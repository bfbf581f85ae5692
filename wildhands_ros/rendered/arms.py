"""A forearm and a sleeve that continue a hand model's mesh from its open end at the wrist."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hand_model import HandLayer
from wildhands_ros.hands import FINGERS, Side, wrist_rotation
from wildhands_ros.rendered.vectors import cross, norm, unit
from wildhands_ros.synthetic.meshes import longest_boundary

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int32]

FOREARM = 0.25
"""Metres from the wrist to the elbow."""

_STEPS = np.array([0.010, 0.022, 0.036, 0.052, 0.070, 0.095, 0.125, 0.16, 0.20, 0.235, 0.26, 0.29, 0.33, 0.38, 0.44])
_BEND = 0.05
"""Metres over which the arm turns at the wrist and at the elbow."""


@dataclass(frozen=True)
class ArmPose:
    """Where an arm is, in metres of any frame.

    hand: (V, 3) the hand model's vertices. wrist (3,), orientation (3, 3): the anatomical wrist frame. elbow, shoulder:
    (3,). girth: of the forearm, 1 for a usual one.
    """

    hand: FloatArray
    wrist: FloatArray
    orientation: FloatArray
    elbow: FloatArray
    shoulder: FloatArray
    girth: float


@dataclass(frozen=True)
class SkinMap:
    """Where on a right or left hand each vertex of a hand model lies, (V,) each.

    along: joints of its finger passed so far: 1 at the knuckle, 2 and 3 at the finger's joints, less in the palm.
    dorsal: -1 on the palm's side to 1 on the back. nail: (V, 2) place on the finger's nail in half lengths and half
    widths, the nail being the unit disc on the dorsal side.
    """

    along: FloatArray
    dorsal: FloatArray
    nail: FloatArray


class ArmMesh:
    """Hand, forearm and sleeve of one side: how they hang together, and where what is on the skin.

    faces: of the hand model's vertices followed by the forearm's rings; the first `hand_faces` are the hand's.
    """

    def __init__(self, layer: HandLayer) -> None:
        self.layer = layer
        self.side = layer.side
        self._loop = longest_boundary(layer.faces)
        self.hand_vertices = layer.vertex_count
        self.hand_faces = len(layer.faces)
        rings = [self._loop, *(self.hand_vertices + len(self._loop) * i + np.arange(len(self._loop))
                               for i in range(len(_STEPS)))]  # fmt: skip
        self.faces = np.concatenate([layer.faces, *_walls(rings)]).astype(np.int32)
        self.skin = _skin_map(layer)
        joints = layer.rest_joints(np.zeros(10))
        self._rest_wrist = wrist_rotation(joints, layer.side)

    @cached_property
    def rest_points(self) -> FloatArray:
        """(V, 3) the average arm at rest, which textures stick to; metres."""
        joints = self.layer.rest_joints(np.zeros(10))
        elbow = joints[0] - FOREARM * self._rest_wrist[:, 0]
        shoulder = elbow - 0.3 * self._rest_wrist[:, 0]
        return self.vertices(ArmPose(self.layer.data.template, joints[0], self._rest_wrist, elbow, shoulder, 1.0))

    @cached_property
    def cap(self) -> Faces:
        """Faces (C, 3) that would close the hand model's open end."""
        loop = self._loop
        if len(loop) < 3:
            return np.zeros((0, 3), np.int32)
        fan = np.stack([np.full(len(loop) - 2, loop[0]), loop[1:-1], loop[2:]], axis=1)
        return fan.astype(np.int32)

    @property
    def has_open_wrist(self) -> bool:
        return len(self._loop) > 2

    def vertices(self, pose: ArmPose) -> FloatArray:
        """The hand's vertices (V, 3) followed by those of the forearm, which points to the elbow and bends there."""
        if not self.has_open_wrist:
            return pose.hand
        rings = self._rings(pose, _STEPS, _scales(_STEPS, pose.girth))
        return np.concatenate([pose.hand, rings.reshape(-1, 3)])

    def sleeve(self, pose: ArmPose, start: float, width: float) -> tuple[FloatArray, Faces, FloatArray]:
        """A sleeve that begins `start` metres from the wrist, `width` times as wide as the arm.

        Returns vertices (V, 3), faces (F, 3) and the places on a straight sleeve (V, 3) that textures stick to, metres.
        """
        steps = np.concatenate([[start, start + 0.002, start + 0.012, start + 0.03], _STEPS[_STEPS > start + 0.04]])
        scales = _scales(steps, pose.girth) * width
        scales[0] *= 0.90  # the hem turns inwards
        scales[3:] *= 1 + 0.05 * np.sin(np.arange(len(steps) - 3) * 2.1)[:, None]
        return _tube(self._rings(pose, steps, scales), steps)

    def band(
        self, pose: ArmPose, start: float, length: float, thickness: float
    ) -> tuple[FloatArray, Faces, FloatArray]:
        """A band round the arm (a watch's, say), `thickness` metres proud of the skin; returns what `sleeve` does."""
        steps = start + length * np.array([0.0, 0.0, 0.25, 0.75, 1.0, 1.0])
        proud = np.array([-0.3, 0.8, 1.0, 1.0, 0.8, -0.3]) * thickness
        scales = _scales(steps, pose.girth) * (1 + proud[:, None] / 0.028)
        return _tube(self._rings(pose, steps, scales), steps)

    def _rings(self, pose: ArmPose, steps: FloatArray, scales: FloatArray) -> FloatArray:
        """Cross-sections of the arm (len(steps), len(loop), 3), like the hand's open end."""
        wrist = pose.orientation
        offsets = (pose.hand[self._loop] - pose.wrist) @ wrist
        middle = offsets.mean(axis=0)
        flat = (offsets - middle) * (0.15, 1, 1)
        start, lower, upper = -wrist[:, 0], unit(pose.elbow - pose.wrist), unit(pose.shoulder - pose.elbow)
        first, second = _ease(steps / _BEND)[:, None], _ease((steps - FOREARM + _BEND / 2) / _BEND)[:, None]
        along = start + (lower - start) * first
        along = along + (upper - along) * second
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        centers = pose.wrist + wrist @ middle + np.cumsum(np.diff(steps, prepend=0.0)[:, None] * along, axis=0)
        turns = _turns(start, along)
        shapes = np.concatenate([np.ones((len(steps), 1)), scales], axis=1)[:, None] * flat
        return centers[:, None] + (shapes @ wrist.T) @ np.swapaxes(turns, 1, 2)


@lru_cache(maxsize=64)
def _tube_faces(rows: int, count: int) -> Faces:
    faces = np.concatenate(_walls(list(np.arange(rows * count).reshape(rows, count)))).astype(np.int32)
    faces.flags.writeable = False
    return faces


def _walls(rings: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    walls = []
    for near, far in zip(rings, rings[1:], strict=False):
        near_next, far_next = np.roll(near, -1), np.roll(far, -1)
        walls += [np.stack([near, near_next, far_next], axis=1), np.stack([near, far_next, far], axis=1)]
    return walls


def _tube(rings: FloatArray, steps: FloatArray) -> tuple[FloatArray, Faces, FloatArray]:
    rows, count, _ = rings.shape
    angle = np.arange(count) * 2 * np.pi / count
    places = np.empty((rows, count, 3))
    places[..., 0], places[..., 1] = 0.04 * np.cos(angle), 0.04 * np.sin(angle)
    places[..., 2] = steps[:, None]
    return rings.reshape(-1, 3), _tube_faces(rows, count), places.reshape(-1, 3)


def _scales(steps: FloatArray, girth: float) -> FloatArray:
    """Size of each ring relative to the wrist's, across and through the arm."""
    growth = np.clip(steps / 0.24, 0, 1.2)
    grown = 1 + (girth - 1) * _ease(steps / 0.08)
    return np.stack([(1 + 0.30 * growth) * grown, (1 + 0.62 * growth) * grown], axis=1)


def _ease(t: FloatArray) -> FloatArray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _turns(a: FloatArray, b: FloatArray) -> FloatArray:
    """The smallest rotations (N, 3, 3) that take unit vector a (3,) to unit vectors b (N, 3).

    Within 160° of each other; beyond, where no forearm bends, the matrices are finite and no rotations.
    """
    x, y, z = a.tolist()
    v, c = b @ np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]]), b @ a
    k = np.zeros((len(b), 3, 3))
    k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    k[:, 1, 0], k[:, 2, 0], k[:, 2, 1] = v[:, 2], -v[:, 1], v[:, 0]
    return np.eye(3) + k + k @ k / np.maximum(1 + c, 0.05)[:, None, None]


def _skin_map(layer: HandLayer) -> SkinMap:
    joints = layer.rest_joints(np.zeros(10))
    frame = wrist_rotation(joints, layer.side)
    points, joints = (layer.data.template - joints[0]) @ frame, (joints - joints[0]) @ frame
    if layer.side is Side.LEFT:  # in the right hand's frame y points to the thumb's side
        points, joints = points * (1, -1, 1), joints * (1, -1, 1)
    count = len(points)
    nearest = np.full(count, np.inf)
    along, dorsal, nail = np.zeros(count), np.zeros(count), np.full((count, 2), 9.0)
    for finger, chain in enumerate(FINGERS.values()):
        stops = (0, *chain)
        back = np.array([0.0, 0.0, 1.0]) if finger else np.array([0.15, 0.85, 0.5])  # the thumb is turned inwards
        for bone, (a, b) in enumerate(zip(stops, stops[1:], strict=False)):
            direction = joints[b] - joints[a]
            length = norm(direction)
            direction = direction / length
            up = unit(back - (back @ direction) * direction)
            relative = points - joints[a]
            t = np.clip(relative @ direction / length, 0, 1)
            across = relative - (t * length)[:, None] * direction
            distance = np.linalg.norm(across, axis=1)
            mine = distance < nearest
            nearest = np.where(mine, distance, nearest)
            along = np.where(mine, bone + t, along)
            dorsal = np.where(mine, (across @ up) / np.maximum(distance, 1e-6), dorsal)
            if bone >= 2:  # the nail's place is needed from the middle bone on: triangles reach across the joint
                end = joints[stops[4]]
                last = unit(end - joints[stops[3]])
                last_length = norm(end - joints[stops[3]])
                side = cross(last, unit(back - (back @ last) * last))
                u = ((points - joints[stops[3]]) @ last / last_length - 0.68) / 0.27
                v = (points - joints[stops[3]]) @ side / (0.0068 if finger else 0.0085)
                nail = np.where(mine[:, None], np.stack([u, v], axis=1), nail)
    return SkinMap(along, dorsal, nail)
