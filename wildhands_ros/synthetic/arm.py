"""A hand with its forearm and sleeve: one smooth skin over a hand model's mesh, with the colours of skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wildhands_ros.hand_model import HandLayer
from wildhands_ros.hands import FINGERS, wrist_rotation
from wildhands_ros.rotations import cross_matrices
from wildhands_ros.synthetic.meshes import Faces, FloatArray, longest_boundary, subdivide
from wildhands_ros.synthetic.renderer import face_edges

_RING_STEPS = np.array([0.008, 0.018, 0.032, 0.05, 0.07, 0.092, 0.094, 0.12, 0.15, 0.19, 0.24, 0.30, 0.37, 0.46])
_CUFF_RING = 6
"""Where the sleeve begins; two rings at nearly the same place make the cuff's step."""
_BEND_LENGTH = 0.06
"""Metres over which the forearm turns from the hand's direction to the elbow's."""


@dataclass(frozen=True)
class ArmLook:
    """How a person's arm looks. Colours are linear RGB reflectances, 0 to 1.

    skin, sleeve: colours. bare: no sleeve. texture_seed: of the skin's irregularities.
    """

    skin: tuple[float, float, float] = (0.50, 0.27, 0.18)
    sleeve: tuple[float, float, float] = (0.10, 0.14, 0.24)
    bare: bool = False
    texture_seed: int = 0


class Arm:
    """The renderable arm of one side with one shape.

    The hand's own vertices come first in the coarse mesh; a tube continues its open end (the wrist) towards the elbow.
    Two steps of subdivision smooth both together. `coarse` → `medium` → `fine` are linear maps.

    faces: of the fine mesh. albedo: (V, 3) linear colours. skin: (V,) 1 on skin, 0 on cloth. hand: (V,) 1 on what
    belongs to the hand model's mesh, 0 on forearm and sleeve, in between where they meet.
    """

    def __init__(self, layer: HandLayer, betas: FloatArray, look: ArmLook) -> None:
        identity = np.tile(np.eye(3), (16, 1, 1))
        vertices, joints = layer.numpy(identity, betas, np.zeros(3))
        self.side = layer.side
        self._hand_vertices = len(vertices)
        self._loop = longest_boundary(layer.faces)
        wrist = wrist_rotation(joints, self.side)
        self._offsets = (vertices[self._loop] - joints[0]) @ wrist

        faces = np.concatenate([layer.faces.astype(np.int64), self._tube_faces()])
        count = self._hand_vertices + len(_RING_STEPS) * len(self._loop)
        self.to_medium, self.medium_faces = subdivide(faces, count)
        self.to_fine, self.faces = subdivide(self.medium_faces, self.to_medium.shape[0])
        self.edges = face_edges(self.faces)

        along = np.zeros(count)
        along[self._hand_vertices :] = np.repeat(_RING_STEPS, len(self._loop))
        sleeve = np.zeros(count)
        if not look.bare:
            sleeve[self._hand_vertices + _CUFF_RING * len(self._loop) :] = 1
        self._scale = _forearm_scale(bare=look.bare)
        belongs = np.zeros(count)
        belongs[: self._hand_vertices] = 1
        self.hand = self.fine(belongs)
        cloth = np.clip(self.fine(sleeve) * 3 - 1, 0, 1)
        self.skin = 1 - cloth

        rest = self.coarse(vertices, joints, joints[0] - 0.3 * wrist[:, 0])
        points = (self.fine(rest) - joints[0]) @ wrist
        local_joints = (joints - joints[0]) @ wrist
        if self.side.value == "left":  # paint in the right hand's frame, in which y points to the thumb's side
            points, local_joints = points * (1, -1, 1), local_joints * (1, -1, 1)
        painted = _skin_colors(points, local_joints, look)
        weave = _noise(points, np.random.default_rng(look.texture_seed + 1), 900.0)[:, None]
        fabric = np.array(look.sleeve) * (1 + 0.12 * weave)
        self.albedo = np.clip(painted * self.skin[:, None] + fabric * cloth[:, None], 0.01, 0.95)

    def coarse(self, vertices: FloatArray, joints: FloatArray, elbow: FloatArray) -> FloatArray:
        """Coarse vertices of the whole arm: the hand's (V, 3), then the forearm's, pointing to the elbow (3,)."""
        if not len(self._loop):
            return vertices
        wrist = wrist_rotation(joints, self.side)
        start = -wrist[:, 0]
        end = elbow - joints[0]
        end = end / max(np.linalg.norm(end), 1e-9)
        rings = []
        center, last = joints[0] + wrist @ self._offsets.mean(axis=0), 0.0
        flat = self._offsets - self._offsets.mean(axis=0)
        flat = flat * (0.15, 1, 1)
        for step, scale in zip(_RING_STEPS, self._scale, strict=True):
            blend = np.clip(step / _BEND_LENGTH, 0, 1)
            direction = start + (end - start) * (blend * blend * (3 - 2 * blend))
            direction = direction / max(np.linalg.norm(direction), 1e-9)
            center, last = center + direction * (step - last), step
            turn = _turn(start, direction)
            rings.append(center + flat * (1, *scale) @ wrist.T @ turn.T)
        return np.concatenate([vertices, *rings])

    def medium(self, values: FloatArray) -> FloatArray:
        """What is given at coarse vertices (V,) or (V, C), at the medium mesh's."""
        return np.asarray(self.to_medium @ values)

    def fine(self, values: FloatArray) -> FloatArray:
        """What is given at coarse vertices (V,) or (V, C), at the fine mesh's."""
        return np.asarray(self.to_fine @ (self.to_medium @ values))

    def _tube_faces(self) -> Faces:
        n = len(self._loop)
        if not n:
            return np.zeros((0, 3), np.int64)
        ring_starts = self._hand_vertices + n * np.arange(len(_RING_STEPS))
        rings = [self._loop, *(start + np.arange(n) for start in ring_starts)]
        walls = []
        for near, far in zip(rings, rings[1:], strict=False):
            near_next, far_next = np.roll(near, -1), np.roll(far, -1)
            walls += [np.stack([near, near_next, far_next], axis=1), np.stack([near, far_next, far], axis=1)]
        return np.concatenate(walls)


def _forearm_scale(*, bare: bool) -> FloatArray:
    """Size of each ring relative to the wrist's, across (y) and through (z) the arm."""
    growth = np.clip(_RING_STEPS / 0.24, 0, 1.2)
    across, through = 1 + 0.30 * growth, 1 + 0.62 * growth
    if not bare:
        across[_CUFF_RING:] = across[_CUFF_RING:] * 1.22 + 0.05
        through[_CUFF_RING:] = through[_CUFF_RING:] * 1.28 + 0.08
    return np.stack([across, through], axis=1)


def _turn(a: FloatArray, b: FloatArray) -> FloatArray:
    """The smallest rotation (3, 3) that takes unit vector a to unit vector b, which must not be opposite."""
    k = cross_matrices(np.cross(a, b))
    return np.eye(3) + k + k @ k / max(1 + float(a @ b), 1e-6)


def _skin_colors(points: FloatArray, joints: FloatArray, look: ArmLook) -> FloatArray:
    """Linear colours (V, 3) of a right hand at rest, in its wrist frame (x to the fingers, y to the thumb, z back)."""
    rng = np.random.default_rng(look.texture_seed)
    color = np.tile(np.array(look.skin), (len(points), 1))
    blotches = 0.07 * _noise(points, rng, 60.0) + 0.05 * _noise(points, rng, 220.0) + 0.05 * _noise(points, rng, 900.0)
    color = color * (1 + blotches)[:, None] * (1 + 0.05 * _noise(points, rng, 45.0)[:, None] * (1.0, -0.4, -0.6))

    surface = _Fingers(points, joints)
    palm = np.clip(0.5 - surface.dorsal * 1.4, 0, 1)[:, None]
    color = color * (1 - palm) + (0.55 * color + 0.45 * np.array([0.62, 0.36, 0.27])) * palm
    color = color * (1 + surface.tip[:, None] * (0.06, -0.10, -0.08))
    color = color * (1 - surface.knuckle[:, None] * (0.16, 0.26, 0.26))
    color = color * (1 - surface.crease[:, None] * (0.30, 0.42, 0.42))
    nail = surface.nail[:, None]
    color = color * (1 - nail) + (0.45 * color + 0.55 * np.array([0.70, 0.46, 0.40])) * nail
    rim = surface.nail_rim[:, None]
    return color * (1 - rim * (0.32, 0.42, 0.42))


class _Fingers:
    """Weights (V,), 0 to 1, of the places where skin has a colour of its own.

    dorsal: -1 on the palm's side to 1 on the back. tip, knuckle, crease, nail, nail_rim: as they say.
    """

    def __init__(self, points: FloatArray, joints: FloatArray) -> None:
        bones = [(a, b) for chain in FINGERS.values() for a, b in zip((0, *chain), chain, strict=False)]
        distance = np.stack([_segment_distance(points, joints[a], joints[b]) for a, b in bones])
        nearest = np.argmin(distance, axis=0)
        zero = np.zeros(len(points))
        self.dorsal, self.tip, self.knuckle, self.crease, self.nail, self.nail_rim = (zero.copy() for _ in range(6))
        for i, (a, b) in enumerate(bones):
            mine = nearest == i
            direction = joints[b] - joints[a]
            length = np.linalg.norm(direction)
            direction = direction / length
            back = _back_of_bone(i // 4, direction)
            along = (points[mine] - joints[a]) @ direction
            height = (points[mine] - joints[a] - along[:, None] * direction) @ back
            sideways = (points[mine] - joints[a]) @ np.cross(direction, back)
            radius = np.maximum(np.hypot(height, sideways), 1e-5)
            self.dorsal[mine] = height / radius
            upper, lower = np.clip(height / radius, 0, 1), np.clip(-height / radius, 0, 1)
            finger_joint = i % 4
            if finger_joint > 0:  # at the bone's base: a knuckle above, a crease below
                self.knuckle[mine] += upper**2 * np.exp(-((along / 0.0065) ** 2))
                self.crease[mine] += lower**0.5 * np.exp(-((along / 0.0014) ** 2))
            if finger_joint < 3:  # and from the near side of the next joint
                self.knuckle[mine] += upper**2 * np.exp(-(((along - length) / 0.0065) ** 2)) * (finger_joint > 0)
                self.crease[mine] += lower**0.5 * np.exp(-(((along - length) / 0.0014) ** 2)) * (finger_joint > 0)
            else:
                self.tip[mine] = np.clip((along / length - 0.35) / 0.65, 0, 1)
                half_width = max(float(np.abs(sideways).max()) * 0.72, 1e-4)
                u = (along - 0.66 * length) / (0.30 * length)
                ellipse = np.sqrt(u * u + (sideways / half_width) ** 2)
                top = np.clip((height / radius - 0.2) / 0.2, 0, 1)
                self.nail[mine] = top * np.clip((1 - ellipse) / 0.18, 0, 1)
                self.nail_rim[mine] = top * np.exp(-(((ellipse - 1.05) / 0.12) ** 2))


def _back_of_bone(finger: int, direction: FloatArray) -> FloatArray:
    """Unit vector across a bone that points to the nail's side, in the right hand's wrist frame."""
    back = np.array([0.0, 0.0, 1.0]) if finger else np.array([0.15, 0.85, 0.5])  # the thumb is turned inwards
    back = back - (back @ direction) * direction
    return back / np.linalg.norm(back)


def _segment_distance(points: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    along = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return np.asarray(np.linalg.norm(points - a - along[:, None] * (b - a), axis=1))


def _noise(points: FloatArray, rng: np.random.Generator, frequency: float) -> FloatArray:
    """Smooth irregularity (V,), about -1 to 1: waves of random direction and about `frequency` radians a metre."""
    directions = rng.normal(size=(12, 3))
    directions *= frequency * rng.uniform(0.6, 1.6, (12, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, 12)
    return np.asarray(np.sin(points @ directions.T + phases).mean(axis=1) * 2.4)
