"""A hand made of balls: fast kinematics of fingers with flesh, for finding touches and collisions.

Each finger is 8 balls, each of them rigid with one bone, fitted to the hand model's mesh; the palm is a sample of its
vertices. Everything is for right hands (left ones are mirrored afterwards) and in the hand model's own coordinates with
identity global orientation and no translation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import WildHandsError
from wildhands_ros.hand_model import HandAnatomy, HandLayer
from wildhands_ros.hands import Side
from wildhands_ros.rendered.vectors import cross, frame_of, norm, unit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

THUMB, INDEX, MIDDLE, RING, PINKY = range(5)
PALM = 5
FIRST_ROW = (12, 0, 3, 9, 6)
"""Each digit's first row, thumb to little finger, in tables of 15 joints (those of `HandAnatomy`)."""

BALLS_A_DIGIT = 8
PAD, TIP = 6, 7
"""Which of a digit's balls lie at the end's pad and at its very tip."""

_ALONG = (((0.3, 0.62, 0.92), (0.35, 0.78), (0.3, 0.62, 1.0)), ((0.45, 0.75, 1.0), (0.4, 0.78), (0.3, 0.62, 1.0)))
"""Where along its bones a finger's and the thumb's balls lie; the last is set back by its radius."""
_PALM_POINTS = 64


@dataclass(frozen=True)
class BallHand:
    """One person's hand. B balls: 8 a digit (thumb to little finger), then the palm's vertices, of radius 0.

    joints: (16, 3) at rest, metres, MANO's order. axes: (15, 3, 3) rows flexion, abduction, twist.
    joint: (B,) which joint carries each. offset: (B, 3) centre from that joint at rest. radius: (B,) metres.
    digit: (B,) 0 to 4, or 5 for the palm. segment: (B,) 0 to 2, base to end.
    frame: (3, 3) columns: towards the fingers, the thumb's side, out of the back. palm: (3,) centre of the palm's skin.
    size: length over that of the average hand.
    """

    joints: FloatArray
    axes: FloatArray
    joint: IntArray
    offset: FloatArray
    radius: FloatArray
    digit: IntArray
    segment: IntArray
    frame: FloatArray
    palm: FloatArray
    size: float

    def turned(self, angles: FloatArray) -> FloatArray:
        """Angles from rest (15, 3) → each joint's own rotation (15, 3, 3); as `HandAnatomy.rotations`, faster."""
        return _rotations(angles, self.axes)  # type: ignore[no-any-return]

    def centers(self, angles: FloatArray, first: int = 0, last: int | None = None) -> FloatArray:
        """Angles from rest (N, 15, 3) → centres (N, last - first, 3) of the balls first … last - 1 (default: all)."""
        last = len(self.radius) if last is None else last
        return _centers(angles, self.axes, self.joints, self.joint, self.offset, first, last)  # type: ignore[no-any-return]


class BallHandModel:
    """The hands of all people, from a hand model. Raises WildHandsError for a left hand's layer."""

    def __init__(self, layer: HandLayer) -> None:
        if layer.side is not Side.RIGHT:
            raise WildHandsError(
                "poses and grasps are made for right hands: give the right layer and mirror the result"
            )
        self.anatomy: HandAnatomy = layer.anatomy
        self.axes = np.ascontiguousarray(
            np.stack([self.anatomy.flexion, self.anatomy.abduction, self.anatomy.twist], 1)
        )
        self._layer = layer
        self._select()
        zero = self._fitted(np.zeros(10))
        units = [self._fitted(unit) for unit in np.eye(10)]
        self._template = zero
        self._shapes = [np.stack([unit[part] - zero[part] for unit in units], axis=-1) for part in range(3)]
        self.average = self.person(np.zeros(10))

    def person(self, betas: FloatArray) -> BallHand:
        """The hand of shape coefficients (10,); about 0.05 ms."""
        joints, offset, radius = (t + s @ betas for t, s in zip(self._template, self._shapes, strict=True))
        x = joints[4] - joints[0]
        x = unit(x)
        frame = frame_of(x, unit(cross(x, joints[1] - joints[7])))
        palm_points = joints[0] + offset[self._palm_skin]
        size = norm(joints[4] - joints[0]) / self._palm_length
        return BallHand(
            joints, self.axes, self._joint, offset, np.maximum(radius, 0), self._digit, self._segment, frame,
            palm_points.mean(axis=0), size,
        )  # fmt: skip

    def _select(self) -> None:
        """Which vertices each ball is fitted to, and the palm's."""
        skeleton, data = self._layer.skeleton(), self._layer.data
        joints, tips, vertices = skeleton.joints_template, skeleton.tips_template, data.template
        self._palm_length = float(np.linalg.norm(joints[4] - joints[0]))
        owner = data.weights.argmax(axis=1)
        self._slabs: list[tuple[int, int, float, NDArray[np.intp]]] = []
        joint, digit, segment = [], [], []
        for d, row in enumerate(FIRST_ROW):
            chain = [joints[row + 1 + i] for i in range(3)] + [tips[d]]
            mine = (owner >= row + 1) & (owner <= row + 3)
            for s in range(3):
                bone = chain[s + 1] - chain[s]
                length = np.linalg.norm(bone)
                along = (vertices - chain[s]) @ bone / length**2
                for t in _ALONG[d == THUMB][s]:
                    at = t if t < 1 else (0.72 if s == 2 else 1.0)
                    near = mine & (np.abs(along - at) < 0.006 / length)
                    widen = 0.008
                    while near.sum() < 8 and widen < 0.02:
                        near = mine & (np.abs(along - at) < widen / length)
                        widen += 0.002
                    self._slabs.append((row + 1 + s, d, t, np.flatnonzero(near)))
                    joint.append(row + 1 + s)
                    digit.append(d)
                    segment.append(s)
        # The palm's skin: vertices of the wrist and the thumb's base whose normals look away from the back
        normals = _normals(vertices, data.faces)
        x = joints[4] - joints[0]
        back = np.cross(x, joints[1] - joints[7])
        back /= np.linalg.norm(back)
        inside = (vertices - joints[0]) @ x / (x @ x) > 0.12
        skin = np.flatnonzero(((owner == 0) | (owner == 13)) & (normals @ back < -0.25) & inside)
        chosen = [int(skin[0])]
        distance = np.full(len(skin), np.inf)
        while len(chosen) < min(_PALM_POINTS, len(skin)):  # farthest points first: evenly spread
            distance = np.minimum(distance, np.linalg.norm(vertices[skin] - vertices[chosen[-1]], axis=1))
            chosen.append(int(skin[distance.argmax()]))
        self._palm_vertices = np.array(chosen)
        palm_joints = np.where(owner[chosen] == 13, 13, 0)
        self._joint = np.concatenate([joint, palm_joints]).astype(np.int64)
        self._digit = np.concatenate([digit, np.full(len(chosen), PALM)]).astype(np.int64)
        self._segment = np.concatenate([segment, np.zeros(len(chosen))]).astype(np.int64)
        self._palm_skin = np.flatnonzero((self._digit == PALM) & (self._joint == 0))

    def _fitted(self, betas: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Joints (16, 3), offsets (B, 3) and radii (B,) for a shape."""
        skeleton, data = self._layer.skeleton(), self._layer.data
        joints = skeleton.joints_template + skeleton.joints_shapedirs @ betas
        tips = skeleton.tips_template + skeleton.tips_shapedirs @ betas
        vertices = data.template + data.shapedirs @ betas
        offsets, radii = [], []
        for joint, digit, along, slab in self._slabs:
            end = joints[joint + 1] if joint % 3 else tips[digit]
            bone = end - joints[joint]
            length = float(np.linalg.norm(bone))
            bone = bone / length
            across, back = self.axes[joint - 1, 0], self.axes[joint - 1, 1]
            u, v = ((vertices[slab] - joints[joint]) @ axis for axis in (across, back))
            radius = (np.ptp(u) + np.ptp(v)) / 4
            place = along * length
            if along == 1.0 and joint % 3 == 0:
                radius *= 0.88
                place = length - radius
            offsets.append(bone * place + across * (u.max() + u.min()) / 2 + back * (v.max() + v.min()) / 2)
            radii.append(radius)
        palm = vertices[self._palm_vertices] - joints[self._joint[len(offsets) :]]
        return joints, np.concatenate([offsets, palm]), np.concatenate([radii, np.zeros(len(palm))])


def _normals(vertices: FloatArray, faces: NDArray[np.int32]) -> FloatArray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(b - a, c - a))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def ball(digit: int, which: int) -> int:
    """Number of a digit's ball (0 at its base to 7 at its tip)."""
    return digit * BALLS_A_DIGIT + which


# --- kernels --------------------------------------------------------------------------------------------------------


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _turn(axis: FloatArray, angle: float, out: FloatArray) -> None:
    s, c = np.sin(angle), np.cos(angle)
    x, y, z = axis[0], axis[1], axis[2]
    d = 1 - c
    out[0, 0], out[0, 1], out[0, 2] = c + x * x * d, x * y * d - z * s, x * z * d + y * s
    out[1, 0], out[1, 1], out[1, 2] = y * x * d + z * s, c + y * y * d, y * z * d - x * s
    out[2, 0], out[2, 1], out[2, 2] = z * x * d - y * s, z * y * d + x * s, c + z * z * d


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _times(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _rotations(angles: FloatArray, axes: FloatArray) -> FloatArray:
    out, one, two, three = np.empty((15, 3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    for row in range(15):
        _turn(axes[row, 0], angles[row, 0], one)
        _turn(axes[row, 1], angles[row, 1], two)
        _times(one, two, three)
        _turn(axes[row, 2], angles[row, 2], one)
        _times(three, one, out[row])
    return out


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _chain(
    angles: FloatArray, axes: FloatArray, joints: FloatArray, digit_row: int, turned: FloatArray, placed: FloatArray
) -> None:
    """Fills orientations and places of one digit's three joints."""
    one, two, three = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    for k in range(3):
        row = digit_row + k
        joint = row + 1
        parent = 0 if k == 0 else joint - 1
        _turn(axes[row, 0], angles[row, 0], one)
        _turn(axes[row, 1], angles[row, 1], two)
        _times(one, two, three)
        _turn(axes[row, 2], angles[row, 2], one)
        _times(three, one, two)
        _times(turned[parent], two, turned[joint])
        for i in range(3):
            value = placed[parent, i]
            for j in range(3):
                value += turned[parent, i, j] * (joints[joint, j] - joints[parent, j])
            placed[joint, i] = value


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _forward(angles: FloatArray, axes: FloatArray, joints: FloatArray) -> tuple[FloatArray, FloatArray]:
    turned, placed = np.zeros((16, 3, 3)), np.zeros((16, 3))
    turned[0] = np.eye(3)
    placed[0] = joints[0]
    for digit in range(5):
        _chain(angles, axes, joints, 3 * digit, turned, placed)
    return turned, placed


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _centers(
    angles: FloatArray, axes: FloatArray, joints: FloatArray, joint: IntArray, offset: FloatArray, first: int, last: int
) -> FloatArray:
    out = np.empty((len(angles), last - first, 3))
    turned, placed = np.zeros((16, 3, 3)), np.zeros((16, 3))
    turned[0] = np.eye(3)
    placed[0] = joints[0]
    needed = np.zeros(5, np.bool_)
    for ball in range(first, last):
        if joint[ball] > 0:
            needed[(joint[ball] - 1) // 3] = True
    for n in range(len(angles)):
        for digit in range(5):
            if needed[digit]:
                _chain(angles[n], axes, joints, 3 * digit, turned, placed)
        for ball in range(first, last):
            j = joint[ball]
            for i in range(3):
                value = placed[j, i]
                for k in range(3):
                    value += turned[j, i, k] * offset[ball, k]
                out[n, ball - first, i] = value
    return out


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def overlaps(centers: FloatArray, radius: FloatArray, digit: IntArray, allowed: FloatArray) -> FloatArray:
    """(6, 6) how much deeper than allowed (B, B) balls of two digits (5: the palm) overlap, metres; 0 where none does.

    Only above the diagonal.
    """
    worst = np.zeros((6, 6))
    for a in range(len(radius)):
        if digit[a] == 5:
            break
        for b in range(a + 1, len(radius)):
            if digit[b] == digit[a]:
                continue
            d2 = 0.0
            for i in range(3):
                d2 += (centers[a, i] - centers[b, i]) ** 2
            reach = radius[a] + radius[b] - allowed[a, b]
            if reach > 0 and d2 < reach * reach:
                deep = reach - np.sqrt(d2)
                if deep > worst[digit[a], digit[b]]:
                    worst[digit[a], digit[b]] = deep
    return worst
