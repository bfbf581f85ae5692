"""One moment in front of a head camera: hands with arms, what they hold, what lies around, light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.wildhands.variant import GRASPS
from wildhands_ros.hand_model import HandModel
from wildhands_ros.hands import Side, wrist_rotation
from wildhands_ros.rendered.appearance import ATTRIBUTES, Glove, Lights, ShadowMap
from wildhands_ros.rendered.arms import FOREARM, ArmMesh, ArmPose
from wildhands_ros.rendered.backgrounds import Plane
from wildhands_ros.rendered.cameras import View, sample_distance, sample_place, sample_view
from wildhands_ros.rendered.grasps import NO_GRASP, GraspedHand, GraspSampler
from wildhands_ros.rendered.identities import sample_identity
from wildhands_ros.rendered.looks import ArmLook, sample_lights, sample_look, thing_material
from wildhands_ros.rendered.objects import TriangleMesh
from wildhands_ros.rendered.poses import PoseSampler, sample_wrist
from wildhands_ros.rendered.rasteriser import depth_map, smooth_normals
from wildhands_ros.rendered.things import HELD_OUT_THINGS, corner_normals, sample_thing
from wildhands_ros.rendered.vectors import cross, frame_of, norm, random_rotation, turn, unit

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int32]

HELD_SHARE = 0.45
TWO_HANDS_SHARE = 0.45
OCCLUDER_SHARE = 0.13
"""How many hands hold something, scenes show two hands, scenes have something in front.

The last two where there is room for it."""

IDENTITIES = 100_000
"""Different people of a split; those of the held-out split come after them."""

INSIDE_SHARE = 0.6
"""A hand is in the picture if at least this part of its joints is."""

_SHADOW_CELLS = 192
_UPPER_ARM = 0.29
_NEAREST = 0.12  # metres from the camera's plane to a hand's nearest point
_APART = 0.007  # metres between two hands' vertices


@dataclass(frozen=True)
class SceneHand:
    """One hand of a scene, in the camera's frame, as a `Hand` has it.

    part: of the scene; its forearm is the next one. cap: (C, 3) faces of the scene's vertices that would close the
    hand's open end. grasp: index of GRASPS. pose_name, held: what it does; held is empty where it holds nothing.
    """

    side: Side
    pose: FloatArray
    betas: FloatArray
    translation: FloatArray
    vertices: FloatArray
    joints: FloatArray
    part: int
    cap: Faces
    grasp: int
    pose_name: str
    held: str


@dataclass(frozen=True)
class Geometry:
    """All triangles of a scene in the camera's frame.

    vertices (V, 3), corners (V, 14) attributes as in `appearance` and normals, faces (F, 3), parts: (F,) which part of
    the scene each face belongs to; the faces of a part follow each other. materials: (P, M) rows of `Material`.
    """

    vertices: FloatArray
    corners: NDArray[np.float32]
    faces: Faces
    parts: NDArray[np.int32]
    materials: FloatArray

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First face of each part, and the end of the last."""
        return np.searchsorted(self.parts, np.arange(len(self.materials) + 1))


@dataclass(frozen=True)
class Scene:
    """What there is to see. identity: number of the person. skin: fifth of the tones, 1 (light) to 5 (dark)."""

    view: View
    hands: tuple[SceneHand, ...]
    geometry: Geometry
    lights: Lights
    shadows: ShadowMap
    planes: FloatArray
    far: FloatArray
    identity: int
    skin: int
    glove: Glove


class SceneSampler:
    """Makes scenes of a hand model's hands; the same generator gives the same scene."""

    def __init__(self, model: HandModel, textures: int, *, held_out: bool = False) -> None:
        self._arms = {side: ArmMesh(model.layer(side)) for side in Side}
        self._poses = PoseSampler(model.layer(Side.RIGHT))
        self._grasps = GraspSampler(model.layer(Side.RIGHT))
        self._textures = textures
        self._held_out = held_out

    def sample(self, rng: np.random.Generator) -> Scene | None:
        """A scene with at least one hand in the picture, or None where a draw did not succeed."""
        view = sample_view(rng)
        identity = int(rng.integers(IDENTITIES)) + (IDENTITIES if self._held_out else 0)
        person = np.random.default_rng(identity)
        betas = sample_identity(person)
        look = sample_look(rng, person, held_out=self._held_out)

        side = Side.RIGHT if rng.random() < 0.5 else Side.LEFT
        lean = 1.0 if side is Side.RIGHT else -1.0
        place = sample_place(rng, view, lean) * sample_distance(rng)
        first = self._hand(rng, view, side, place, betas, look)
        if first is None:
            return None
        hands = [first]
        if rng.random() < TWO_HANDS_SHARE:
            second = self._second(rng, view, first, betas, look)
            if second is not None:
                hands.append(second)
        if not any(_inside(hand.joints, view) for hand in hands):
            return None
        return self._composed(rng, view, hands, identity, look)

    # --- hands ------------------------------------------------------------------------------------------------------

    def _second(
        self, rng: np.random.Generator, view: View, first: _Placed, betas: FloatArray, look: ArmLook
    ) -> _Placed | None:
        """The other hand of the same person, close to the first or anywhere; None where it finds no room."""
        side = first.side.other
        lean = 1.0 if side is Side.RIGHT else -1.0
        middle = first.joints.mean(axis=0)
        close = rng.random() < 0.6
        aside = view.right * lean
        for attempt in range(4):
            if close:
                gap = rng.uniform(0.05, 0.22) + 0.05 * attempt
                place = middle + aside * gap + rng.normal(0, 0.05, 3)
            else:
                place = sample_place(rng, view, lean) * sample_distance(rng)
            hand = self._hand(rng, view, side, place, betas, look)
            if hand is not None and _distance(first.solid, hand.solid) > _APART:
                return hand
        return None

    def _hand(
        self, rng: np.random.Generator, view: View, side: Side, place: FloatArray, betas: FloatArray, look: ArmLook
    ) -> _Placed | None:
        """A hand whose middle is at `place`; None where that is too close to the camera."""
        arm = self._arms[side]
        doing, name = self._doing(rng, betas)
        mirror = np.ones(3)
        if side is Side.LEFT:
            doing = doing.mirrored()
            mirror = np.array([-1.0, 1.0, 1.0])
        pose = doing.rotations.copy()
        orientation, elbow_offset, shoulder = _reach(rng, view, place * mirror, mirror)
        if side is Side.LEFT:
            elbow_offset, shoulder = elbow_offset * mirror, shoulder * mirror
            x, z = orientation[:, 0] * mirror, orientation[:, 2] * mirror
            orientation = frame_of(x, z)
        rest = arm.layer.rest_joints(betas)
        pose[0] = orientation @ wrist_rotation(rest, side).T
        vertices, joints = arm.layer.numpy(pose, betas, np.zeros(3))
        translation = place - joints.mean(axis=0)
        vertices, joints = vertices + translation, joints + translation
        if vertices[:, 2].min() < _NEAREST:
            return None
        held, solid = doing.held, vertices[::3]
        if held is not None:
            held = held.moved(pose[0], rest[0] - pose[0] @ rest[0] + translation)
            if held.vertices[:, 2].min() < _NEAREST:
                return None
            solid = np.concatenate([solid, held.vertices])
        posed = ArmPose(vertices, joints[0], orientation, joints[0] + elbow_offset, shoulder, look.girth)
        return _Placed(side, pose, betas, translation, vertices, joints, posed, doing, name, held, solid)

    def _doing(self, rng: np.random.Generator, betas: FloatArray) -> tuple[GraspedHand, str]:
        """What a right hand does: holds something, or takes an empty hand's pose; and its name."""
        if rng.random() < HELD_SHARE:
            for _ in range(4):
                grasped = self._grasps.sample(rng, betas)
                if self._held_out or grasped.object_name not in HELD_OUT_THINGS:
                    return grasped, GRASPS[grasped.grasp].lower()
        posed = self._poses.sample(rng)
        return GraspedHand(posed.rotations, None, NO_GRASP, ""), posed.name

    # --- everything else --------------------------------------------------------------------------------------------

    def _composed(
        self, rng: np.random.Generator, view: View, hands: list[_Placed], identity: int, look: ArmLook
    ) -> Scene:
        parts = _Parts()
        scene_hands = []
        lights = sample_lights(rng, view.down)
        for hand in hands:
            number, cap = self._add_arm(parts, hand, look)
            if hand.held is not None:
                parts.add_thing(hand.held, thing_material(rng, held_out=self._held_out), rng)
            scene_hands.append(
                SceneHand(
                    hand.side, hand.pose, hand.betas, hand.translation, hand.vertices, hand.joints, number,
                    cap, hand.doing.grasp, hand.name, hand.doing.object_name,
                )
            )  # fmt: skip
        middle = hands[0].joints.mean(axis=0)
        planes = self._planes(rng, view, hands, middle, parts)
        if rng.random() < OCCLUDER_SHARE:
            self._add_occluder(rng, parts, hands[int(rng.integers(len(hands)))])
        geometry = parts.geometry()
        far = rng.uniform(0.02, 0.7) * np.clip(rng.normal(1, 0.1, 3), 0.6, 1.4)
        shadows = _shadow_map(lights.key, geometry, np.concatenate([hand.vertices for hand in hands]))
        return Scene(
            view, tuple(scene_hands), geometry, lights, shadows, planes, far, identity, look.skin_type, look.skin.glove
        )

    def _add_arm(self, parts: _Parts, hand: _Placed, look: ArmLook) -> tuple[int, Faces]:
        """Adds hand, forearm, sleeve and what is worn; returns the hand's part and the faces of its open end."""
        arm = self._arms[hand.side]
        number, cap = parts.add_hand(arm, arm.vertices(hand.arm), look)
        if arm.has_open_wrist and look.sleeve is not None:
            parts.add(*arm.sleeve(hand.arm, look.sleeve_start, look.sleeve_width), look.sleeve.row())
        if arm.has_open_wrist and look.band is not None and (look.band_side is hand.side or look.both_bands):
            parts.add(*arm.band(hand.arm, look.band_start, look.band_length, look.band_thickness), look.band.row())
        return number, cap

    def _planes(
        self, rng: np.random.Generator, view: View, hands: list[_Placed], middle: FloatArray, parts: _Parts
    ) -> FloatArray:
        """Table or floor, wall, and what stands on the table."""
        lowest = max(float((hand.solid @ view.down).max()) for hand in hands)
        planes = []
        softness = (0.0, 0.0, 0.5, 1.0, 2.0)[int(rng.integers(5))]
        texels = math.exp(rng.uniform(math.log(350), math.log(2200)))
        kind = rng.random()
        if kind < 0.72:  # a table below the hands
            gap = rng.uniform(0.0, 0.012) if rng.random() < 0.35 else rng.uniform(0.01, 0.35)
            height = max(lowest + gap, 0.12)
            tilted = view.down + rng.normal(0, 0.04, 3)
            planes.append(Plane.facing(rng, view.down * height, -tilted, texels, self._textures, 0.5 * softness))
            self._add_clutter(rng, parts, view, middle, height, hands)
        elif kind < 0.88:  # the floor far below
            height = rng.uniform(0.8, 1.6)
            planes.append(Plane.facing(rng, view.down * height, -view.down, texels * 0.4, self._textures, softness))
        else:  # something close behind, turned anyhow
            normal = -unit(middle) + rng.normal(0, 0.35, 3)
            behind = middle * (1 + rng.uniform(0.25, 0.9))
            planes.append(Plane.facing(rng, behind, normal, texels, self._textures, softness))
        wall = view.ahead + rng.normal(0, 0.25, 3)
        far = rng.uniform(0.7, 3.5)
        planes.append(
            Plane.facing(
                rng, view.ahead * far, -wall, rng.uniform(80, 450), self._textures, softness + rng.uniform(0, 1.5)
            )
        )
        return np.stack([plane.row() for plane in planes])

    def _add_clutter(
        self,
        rng: np.random.Generator,
        parts: _Parts,
        view: View,
        middle: FloatArray,
        height: float,
        hands: list[_Placed],
    ) -> None:
        """Things on the table around the hands."""
        solid = np.concatenate([hand.solid for hand in hands])
        up = -view.down
        foot = middle + view.down * (height - float(middle @ view.down))
        level = frame_of(view.right, up)
        for _ in range(int(rng.integers(0, 5))):
            thing = sample_thing(rng, held_out=self._held_out)
            towards, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.04, 0.38)
            axes = level @ turn(2, rng.uniform(0, 6.28))
            if rng.random() < 0.5:
                axes = axes @ turn(0, np.pi / 2)
            lowest = float((thing.vertices @ (up @ axes)).min())
            aside = away * (math.cos(towards) * level[:, 0] + math.sin(towards) * level[:, 1])
            placed = thing.moved(axes, foot + aside - lowest * up)
            if _is_free(placed, solid, 0.01):
                parts.add_thing(placed, thing_material(rng, held_out=self._held_out), rng)

    def _add_occluder(self, rng: np.random.Generator, parts: _Parts, hand: _Placed) -> None:
        """Something between camera and hand, off its middle."""
        thing = sample_thing(rng, held_out=self._held_out)
        target = hand.joints[int(rng.integers(21))] + rng.normal(0, 0.02, 3)
        near = rng.uniform(0.55, 0.85)
        placed = thing.moved(0.75 * near * random_rotation(rng), target * near)
        if placed.vertices[:, 2].min() > 0.08 and _is_free(placed, hand.solid, 0.004):
            parts.add_thing(placed, thing_material(rng, held_out=self._held_out), rng)


@dataclass(frozen=True)
class _Placed:
    """A hand and its arm in the camera's frame. solid: points of hand and held thing, for finding room."""

    side: Side
    pose: FloatArray
    betas: FloatArray
    translation: FloatArray
    vertices: FloatArray
    joints: FloatArray
    arm: ArmPose
    doing: GraspedHand
    name: str
    held: TriangleMesh | None
    solid: FloatArray


class _Parts:
    """Collects the parts of a scene."""

    def __init__(self) -> None:
        self._vertices: list[FloatArray] = []
        self._corners: list[NDArray[np.float32]] = []
        self._faces: list[Faces] = []
        self._materials: list[FloatArray] = []
        self._parts: list[int] = []
        self._count = 0

    def add_hand(self, arm: ArmMesh, vertices: FloatArray, look: ArmLook) -> tuple[int, Faces]:
        """The hand as one part and its forearm as the next, sharing vertices; returns what `_add_arm` does."""
        attributes = look.attributes(arm)
        part = len(self._materials)
        first = self._count
        self._append(vertices, smooth_normals(vertices, arm.faces), attributes)
        self._part(arm.faces[: arm.hand_faces] + first, look.skin.row())
        self._part(arm.faces[arm.hand_faces :] + first, look.skin.row())
        return part, arm.cap + np.int32(first)

    def add(self, vertices: FloatArray, faces: Faces, places: FloatArray, material: FloatArray) -> None:
        """A smooth mesh, textured by places (V, 3) in metres."""
        attributes = np.zeros((len(vertices), ATTRIBUTES))
        attributes[:, :3] = places
        first = self._count
        self._append(vertices, smooth_normals(vertices, faces), attributes)
        self._part(faces + first, material)

    def add_thing(self, thing: TriangleMesh, material: FloatArray, rng: np.random.Generator) -> None:
        """A thing with creased edges, its solid texture turned at random."""
        corners, normals = corner_normals(thing.vertices, thing.faces)
        attributes = np.zeros((len(corners), ATTRIBUTES))
        attributes[:, :3] = (thing.texture @ random_rotation(rng).T)[thing.faces.ravel()]
        first = self._count
        self._append(corners, normals, attributes)
        self._part(np.arange(len(corners), dtype=np.int32).reshape(-1, 3) + first, material)

    def _append(self, vertices: FloatArray, normals: FloatArray, attributes: FloatArray) -> None:
        self._vertices.append(vertices)
        self._corners.append(np.concatenate([attributes, normals], axis=1, dtype=np.float32))
        self._count += len(vertices)

    def _part(self, faces: Faces, material: FloatArray) -> None:
        self._parts.append(len(faces))
        self._faces.append(faces)
        self._materials.append(material)

    def geometry(self) -> Geometry:
        return Geometry(
            np.concatenate(self._vertices),
            np.concatenate(self._corners),
            np.concatenate(self._faces).astype(np.int32),
            np.repeat(np.arange(len(self._parts), dtype=np.int32), self._parts),
            np.stack(self._materials),
        )


def _reach(
    rng: np.random.Generator, view: View, place: FloatArray, mirror: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """How a right arm brings its hand to a place.

    mirror: factors that take the camera's axes to those of `place`. Returns the orientation (3, 3) of the anatomical
    wrist frame, the elbow (3,) relative to the wrist, and the shoulder (3,).
    """
    down, ahead = view.down * mirror, view.ahead * mirror
    right = view.right * mirror * mirror[0]
    flexion, deviation, _ = sample_wrist(rng)
    bend = turn(1, flexion) @ turn(2, deviation)
    shoulder = 0.18 * right + 0.21 * down - 0.04 * ahead + rng.normal(0, 0.03, 3)
    if rng.random() < 0.15:
        forearm = random_rotation(rng)
        return forearm @ bend, -FOREARM * forearm[:, 0], shoulder
    to = place - shoulder
    length = norm(to)
    if length > 0.97 * (FOREARM + _UPPER_ARM):  # leaning: the arm is stretched
        elbow = place - FOREARM * unit(to / length + rng.normal(0, 0.12, 3))
    else:
        along = (length**2 + _UPPER_ARM**2 - FOREARM**2) / (2 * length)
        radius = math.sqrt(max(_UPPER_ARM**2 - along**2, 0.0))
        pole = down + right * rng.uniform(-0.2, 1.2) + rng.normal(0, 0.25, 3)
        pole = unit(pole - (pole @ to) * to / length**2)
        elbow = shoulder + to * (along / length) + pole * radius
    x = unit(place - elbow + rng.normal(0, 0.02, 3))
    up = -down - 0.45 * ahead
    up = unit(up - (up @ x) * x)
    outward = cross(x, up)
    forearm_turn = rng.normal(0.9, 0.75) if rng.random() < 0.75 else rng.uniform(-0.9, 3.4)
    z = math.cos(forearm_turn) * up + math.sin(forearm_turn) * outward
    forearm = frame_of(x, z)
    return forearm @ bend, -FOREARM * x, shoulder


def _inside(joints: FloatArray, view: View) -> bool:
    pixels = view.camera.project(joints)
    size = (view.camera.width - 0.5, view.camera.height - 0.5)
    inside = ((pixels > -0.5) & (pixels < size)).all(axis=1)
    return bool(inside.mean() >= INSIDE_SHARE)


def _is_free(thing: TriangleMesh, solid: FloatArray, margin: float) -> bool:
    """Whether none of the points lies in the box around a thing."""
    low, high = thing.vertices.min(axis=0) - margin, thing.vertices.max(axis=0) + margin
    return not ((solid > low) & (solid < high)).all(axis=1).any()


def _distance(a: FloatArray, b: FloatArray) -> float:
    """The least distance between two sets of points."""
    if (a.min(axis=0) > b.max(axis=0) + _APART).any() or (b.min(axis=0) > a.max(axis=0) + _APART).any():
        return _APART * 2
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return math.sqrt(max(float(squared.min()), 0.0))


def _shadow_map(key: FloatArray, geometry: Geometry, around: FloatArray) -> ShadowMap:
    """Who is lit: heights across the key light over a square round the hands."""
    other = np.array([0.0, 1.0, 0.0]) if abs(key[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    frame = frame_of(unit(cross(other, key)), key).T
    local = around @ frame[:2].T
    low, high = local.min(axis=0) - 0.10, local.max(axis=0) + 0.10
    cell = max(float((high - low).max()) / (_SHADOW_CELLS - 1), 0.0012)
    points = geometry.vertices @ frame.T
    points[:, :2] = (points[:, :2] - low) / cell
    heights = depth_map(points, geometry.faces, _SHADOW_CELLS)
    return ShadowMap(frame, (float(low[0]), float(low[1])), cell, heights)
