"""Things that hands hold, made by rule: closed triangle meshes with a signed distance.

Everything is in metres. A thing's own coordinates have its long axis, or the axis that it was turned about, along z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numba  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import ArrayLike, NDArray

from wildhands_ros.rendered.poses import MIRROR

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int32]

_BOX, _LATHE, _TORUS, _SUPER = range(4)
_AROUND = 24  # corners of a turned thing


@dataclass(frozen=True)
class TriangleMesh:
    """vertices: (V, 3) metres. faces: (F, 3), counter-clockwise seen from outside. texture: (V, 3) metres, where each
    vertex lies in the thing's own coordinates, for solid textures that do not slide as it moves."""

    vertices: FloatArray
    faces: Faces
    texture: FloatArray

    def moved(self, rotation: FloatArray, translation: FloatArray) -> TriangleMesh:
        """Turned by (3, 3), then shifted by (3,)."""
        return replace(self, vertices=self.vertices @ rotation.T + translation)

    def mirrored(self) -> TriangleMesh:
        """The mirror image in x, still facing outwards."""
        return replace(self, vertices=self.vertices @ MIRROR, faces=np.ascontiguousarray(self.faces[:, ::-1]))


@dataclass(frozen=True)
class _Parts:
    """Convex and turned parts whose union is a thing: kinds (P,), frames (P, 3, 3) and places (P, 3) in the thing,
    numbers (P, 5), and the outlines of all turned parts, (Q, 2)."""

    kinds: NDArray[np.int64]
    frames: FloatArray
    places: FloatArray
    numbers: FloatArray
    outlines: FloatArray


@dataclass(frozen=True)
class Thing:
    """Something to hold, somewhere in space.

    size: (3,) half extents of the box around it in its own coordinates. rotation (3, 3), translation (3,): where it is;
    `mirror` says that it was mirrored in x after that.
    grip: (3,) where it is usually held, in its own coordinates; grip_half: how far that place reaches along ±z.
    """

    name: str
    mesh: TriangleMesh
    size: FloatArray
    grip: FloatArray
    grip_half: float
    parts: _Parts
    rotation: FloatArray
    translation: FloatArray
    mirror: bool = False

    def distance(self, points: ArrayLike) -> FloatArray:
        """Signed distances (N,) of points (N, 3) from the surface, metres; negative inside.

        Exact outside and within single parts; a lower bound around superquadrics (exact at their surface) and where
        parts overlap.
        """
        points = np.asarray(points, dtype=np.float64)
        local = ((points @ MIRROR if self.mirror else points) - self.translation) @ self.rotation
        parts = self.parts
        distances: FloatArray = _distance(
            np.ascontiguousarray(local), parts.kinds, parts.frames, parts.places, parts.numbers, parts.outlines
        )
        return distances

    def placed(self, rotation: FloatArray, translation: FloatArray) -> Thing:
        """The same thing, its own coordinates turned by (3, 3) and shifted to (3,)."""
        mesh = replace(self.mesh, vertices=self.mesh.texture @ rotation.T + translation)
        return replace(self, mesh=mesh, rotation=rotation, translation=translation, mirror=False)

    def mirrored(self) -> Thing:
        """The mirror image in x."""
        return replace(self, mesh=self.mesh.mirrored(), mirror=not self.mirror)


# --- parts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    kind: int
    numbers: tuple[float, ...]
    outline: FloatArray
    vertices: FloatArray
    faces: Faces
    frame: FloatArray
    place: FloatArray


_NO_OUTLINE = np.zeros((0, 2))


def _part(
    kind: int, numbers: tuple[float, ...], vertices: FloatArray, faces: Faces, frame: FloatArray | None,
    place: Sequence[float], outline: FloatArray = _NO_OUTLINE,
) -> _Part:  # fmt: skip
    return _Part(kind, numbers, outline, vertices, faces, np.eye(3) if frame is None else frame, np.array(place, float))


def _box(
    half: Sequence[float] | FloatArray, edge: float, place: Sequence[float] = (0, 0, 0), frame: FloatArray | None = None
) -> _Part:
    """A box of these half extents whose edges are rounded with this radius."""
    size = np.array(half, float)
    edge = min(edge, float(size.min()) * 0.98)
    directions, faces = _sphere_grid(16, 12)
    vertices = np.sign(np.where(np.abs(directions) < 1e-9, 0, directions)) * (size - edge) + edge * directions
    return _part(_BOX, (*size, edge), vertices, faces, frame, place)


def _superquadric(
    half: Sequence[float] | FloatArray, tall: float, wide: float, place: Sequence[float] = (0, 0, 0)
) -> _Part:
    """|z/c|^(2/tall) + (|x/a|^(2/wide) + |y/b|^(2/wide))^(wide/tall) = 1: 1 is as round as a ball, 0.2 nearly a box."""
    directions, faces = _sphere_grid(_AROUND, 16)
    scaled = directions * 1.0
    flat = np.abs(scaled[:, 0]) ** (2 / wide) + np.abs(scaled[:, 1]) ** (2 / wide)
    level = (flat ** (wide / tall) + np.abs(scaled[:, 2]) ** (2 / tall)) ** (tall / 2)
    vertices = directions / level[:, None] * np.array(half, float)
    return _part(_SUPER, (*half, tall, wide), vertices, faces, None, place)


def _lathe(
    outline: ArrayLike, place: Sequence[float] = (0, 0, 0), frame: FloatArray | None = None, around: int = _AROUND
) -> _Part:
    """A body turned about z: its outline (Q, 2) of radius and height, from the axis at the bottom to the axis at the
    top, outside first (a cup's goes up outside and down inside)."""
    profile = np.array(outline, float)
    profile[0, 0] = profile[-1, 0] = 0.0
    vertices, faces = _turned(profile, around)
    return _part(_LATHE, (), vertices, faces, frame, place, profile)


def _turned(profile: FloatArray, around: int) -> tuple[FloatArray, Faces]:
    angle = np.arange(around) * 2 * np.pi / around
    inner = profile[1:-1]
    height = np.broadcast_to(inner[:, 1:], (len(inner), around))
    rings = np.stack([inner[:, :1] * np.cos(angle), inner[:, :1] * np.sin(angle), height], axis=-1)
    ends = np.array([[0, 0, profile[0, 1]], [0, 0, profile[-1, 1]]])
    vertices = np.concatenate([rings.reshape(-1, 3), ends])
    return vertices, _turned_faces(len(inner), around)


@lru_cache(maxsize=64)
def _turned_faces(rings: int, around: int) -> Faces:
    here = np.arange(rings * around).reshape(rings, around)
    beside = np.roll(here, -1, axis=1)
    a, b, c, d = here[:-1].ravel(), beside[:-1].ravel(), beside[1:].ravel(), here[1:].ravel()
    bottom, top = rings * around, rings * around + 1
    faces = np.concatenate(
        [
            np.stack([a, b, c], 1),
            np.stack([a, c, d], 1),
            np.stack([np.full(around, bottom), beside[0], here[0]], 1),
            np.stack([np.full(around, top), here[-1], beside[-1]], 1),
        ]
    )
    faces = faces.astype(np.int32)
    faces.flags.writeable = False
    return faces


@lru_cache(maxsize=8)
def _sphere_grid(around: int, rings: int) -> tuple[FloatArray, Faces]:
    """Directions all over the sphere and the faces between them; none lies in a coordinate plane but the poles."""
    polar = (np.arange(rings) + 0.5) / rings * np.pi
    profile = np.concatenate([[[0, -1]], np.stack([np.sin(polar), -np.cos(polar)], 1), [[0, 1]]])
    vertices, faces = _turned(profile, around)
    half = np.pi / around
    c, s = np.cos(half), np.sin(half)
    return vertices @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]), faces


def _torus(
    radius: float, thickness: float, opening: float = np.pi, place: Sequence[float] = (0, 0, 0),
    frame: FloatArray | None = None,
) -> _Part:  # fmt: skip
    """A ring about z, or the part of it within ±opening of x, its ends rounded."""
    whole = opening > np.pi - 1e-6
    steps, round_ = (_AROUND, 12) if whole else (14, 10)
    along = np.arange(steps) * 2 * np.pi / steps if whole else np.linspace(-opening, opening, steps)
    turn = np.arange(round_) * 2 * np.pi / round_
    reach = radius + thickness * np.cos(turn)
    height = np.broadcast_to(thickness * np.sin(turn), (steps, round_))
    rings = np.stack([np.cos(along)[:, None] * reach, np.sin(along)[:, None] * reach, height], axis=-1)
    here = np.arange(steps * round_).reshape(steps, round_)
    beside, ahead = np.roll(here, -1, axis=1), np.roll(here, -1, axis=0)
    both = np.roll(ahead, -1, axis=1)
    upto = steps if whole else steps - 1
    a, b, c, d = (grid[:upto].ravel() for grid in (here, ahead, both, beside))
    faces = [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    vertices = rings.reshape(-1, 3)
    if not whole:
        caps = np.array([[np.cos(v) * radius, np.sin(v) * radius, 0] for v in (-opening, opening)])
        out = np.array([[np.sin(-opening), -np.cos(opening), 0], [-np.sin(opening), np.cos(opening), 0]])
        vertices = np.concatenate([vertices, caps + thickness * 0.8 * out])
        first, last = here[0], here[-1]
        faces.append(np.stack([np.full(round_, steps * round_), first, np.roll(first, -1)], 1))
        faces.append(np.stack([np.full(round_, steps * round_ + 1), np.roll(last, -1), last], 1))
    return _part(_TORUS, (radius, thickness, opening), vertices, np.concatenate(faces).astype(np.int32), frame, place)


def _thing(name: str, *parts: _Part) -> Thing:
    numbers, outlines = np.zeros((len(parts), 5)), []
    start = 0
    vertices, faces, count = [], [], 0
    for row, part in enumerate(parts):
        if part.kind == _LATHE:
            numbers[row, :2] = start, len(part.outline)
            outlines.append(part.outline)
            start += len(part.outline)
        else:
            numbers[row, : len(part.numbers)] = part.numbers
        vertices.append(part.vertices @ part.frame.T + part.place)
        faces.append(part.faces + count)
        count += len(part.vertices)
    points = np.concatenate(vertices)
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    points = points - middle
    mesh = TriangleMesh(points, np.concatenate(faces).astype(np.int32), points)
    described = _Parts(
        np.array([part.kind for part in parts]),
        np.stack([part.frame for part in parts]),
        np.stack([part.place for part in parts]) - middle,
        numbers,
        np.concatenate(outlines) if outlines else _NO_OUTLINE,
    )
    held = points[: len(parts[0].vertices)]
    grip = (held.max(axis=0) + held.min(axis=0)) / 2
    half = float(np.ptp(held[:, 2])) / 2
    return Thing(name, mesh, np.ptp(points, axis=0) / 2, grip, half, described, np.eye(3), np.zeros(3))


# --- things ---------------------------------------------------------------------------------------------------------

_X_TO_Z = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]).T
_STANDING = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a ring about z now lies in the x-z plane


def _rod_outline(radius: float, length: float, edge: float) -> FloatArray:
    e = min(edge, 0.9 * radius, 0.4 * length)
    h = length / 2
    return np.array([(0, -h), (radius - e, -h), (radius - 0.3 * e, -h + 0.3 * e), (radius, -h + e), (radius, h - e),
                     (radius - 0.3 * e, h - 0.3 * e), (radius - e, h), (0, h)])  # fmt: skip


def make_box(rng: np.random.Generator) -> Thing:
    """Cartons and blocks, 2 to 12 cm."""
    return _thing("box", _box(rng.uniform(0.01, 0.06, 3), 0.0012))


def make_block(rng: np.random.Generator) -> Thing:
    """Long, thin boxes with rounded edges: sticks of butter, remote controls, chocolate bars."""
    half = (rng.uniform(0.008, 0.022), rng.uniform(0.015, 0.03), rng.uniform(0.05, 0.1))
    return _thing("block", _box(half, rng.uniform(0.002, 0.008)))


def make_cylinder(rng: np.random.Generator) -> Thing:
    """Cans, jars and pipes."""
    radius = rng.uniform(0.012, 0.037)
    return _thing("cylinder", _lathe(_rod_outline(radius, rng.uniform(0.09, 0.22), rng.uniform(0.001, 0.004))))


def make_handle(rng: np.random.Generator) -> Thing:
    """A tool: a long handle, thicker in the middle, some with a head."""
    radius, length = rng.uniform(0.010, 0.018), rng.uniform(0.11, 0.16)
    bulge = rng.uniform(0.0, 0.25)
    h = length / 2
    outline = [(0, -h), (0.7 * radius, -h), (radius, -h + 0.006), (radius * (1 + bulge), -0.3 * h), (radius, 0.4 * h),
               (0.85 * radius, 0.9 * h), (0.6 * radius, h), (0, h)]  # fmt: skip
    grip = _lathe(outline)
    kind = rng.integers(4)
    if kind == 0:  # a screwdriver
        return _thing("screwdriver", grip, _lathe(_rod_outline(0.003, 0.11, 0.001), (0, 0, h + 0.05)))
    if kind == 1:  # a hammer
        neck = _lathe(_rod_outline(0.009, 0.12, 0.001), (0, 0, h + 0.05))
        head = _lathe(_rod_outline(rng.uniform(0.012, 0.018), 0.09, 0.003), (0, 0, h + 0.11), _X_TO_Z)
        return _thing("hammer", grip, neck, head)
    if kind == 2:  # a brush
        return _thing("brush", grip, _box((0.008, 0.022, 0.045), 0.003, (0, 0, h + 0.03)))
    return _thing("handle", grip)


def make_knife(rng: np.random.Generator) -> Thing:
    """A kitchen knife."""
    h, blade = rng.uniform(0.05, 0.065), rng.uniform(0.05, 0.11)
    handle = _box((rng.uniform(0.007, 0.01), rng.uniform(0.011, 0.015), h), 0.005)
    return _thing(
        "knife", handle, _box((0.001, rng.uniform(0.009, 0.018), blade), 0.0008, (0, 0.002, h + blade - 0.01))
    )


def make_bottle(rng: np.random.Generator) -> Thing:
    """Bottles with necks and caps."""
    r, h = rng.uniform(0.022, 0.036), rng.uniform(0.07, 0.13)
    neck = rng.uniform(0.35, 0.5) * r
    shoulder = rng.uniform(0.25, 0.6)
    outline = [(0, -h), (0.9 * r, -h), (r, -h + 0.006), (r * rng.uniform(0.88, 1), -0.3 * h), (r, shoulder * h),
               (0.8 * r, (shoulder + 0.2) * h), (neck, 0.88 * h), (neck, h), (1.15 * neck, h), (1.15 * neck, h + 0.018),
               (0, h + 0.018)]  # fmt: skip
    return _thing("bottle", _lathe(outline))


def make_cup(rng: np.random.Generator, handle: bool | None = None) -> Thing:
    """Mugs and beakers."""
    r, h = rng.uniform(0.03, 0.042), rng.uniform(0.035, 0.055)
    flare, wall = rng.uniform(0.92, 1.0), 0.0035
    outline = [(0, -h), (flare * r - 0.004, -h), (flare * r, -h + 0.004), (r, h - 0.002), (r - wall / 2, h),
               (r - wall, h - 0.002), (flare * r - wall, -h + 0.008), (0, -h + 0.006)]  # fmt: skip
    body = _lathe(outline)
    if not (rng.random() < 0.6 if handle is None else handle):
        return _thing("beaker", body)
    ring = _torus(
        rng.uniform(0.55, 0.65) * h, rng.uniform(0.0038, 0.0055), np.radians(94), (r - 0.001, 0, 0), _STANDING
    )
    return _thing("mug", body, ring)


def make_bowl(rng: np.random.Generator) -> Thing:
    """Bowls."""
    r, h = rng.uniform(0.05, 0.085), rng.uniform(0.03, 0.05)
    angle = np.linspace(0.5, np.pi / 2, 7)
    outside = np.stack([r * np.sin(angle), h * (1 - np.cos(angle))], 1)
    inside = outside[::-1] * ((r - 0.004) / r, 1) + np.linspace(0, 0.004, 7)[:, None] * (0, 1)
    return _thing("bowl", _lathe([(0, outside[0, 1]), *outside, *inside, (0, outside[0, 1] + 0.004)], around=32))


def make_plate(rng: np.random.Generator) -> Thing:
    """Plates."""
    r = rng.uniform(0.07, 0.12)
    outline = [(0, 0), (0.6 * r, 0), (r, 0.016), (r, 0.02), (0.6 * r, 0.005), (0, 0.005)]
    return _thing("plate", _lathe(outline, around=32))


def make_ball(rng: np.random.Generator, low: float = 0.018, high: float = 0.045) -> Thing:
    """Balls and round fruit, 4 to 9 cm across."""
    r = rng.uniform(low, high)
    return _thing("ball", _superquadric(r * (1 + np.array([0, 0, rng.uniform(-0.08, 0.05)])), 1.0, 1.0))


def make_pebble(rng: np.random.Generator, low: float = 0.015, high: float = 0.04) -> Thing:
    """Anything from eggs to soap: superquadrics."""
    return _thing("pebble", _superquadric(rng.uniform(low, high, 3), rng.uniform(0.5, 1.1), rng.uniform(0.5, 1.1)))


def make_cone(rng: np.random.Generator) -> Thing:
    """Cones, blunt at the tip."""
    r, h = rng.uniform(0.02, 0.035), rng.uniform(0.04, 0.09)
    return _thing("cone", _lathe([(0, -h), (r - 0.002, -h), (r, -h + 0.002), (0.12 * r, h), (0, h + 0.05 * r)]))


def make_pen(rng: np.random.Generator) -> Thing:
    """Pens, pencils, thin brushes, toothbrushes."""
    r, h = rng.uniform(0.0032, 0.0065), rng.uniform(0.06, 0.09)
    return _thing(
        "pen",
        _lathe(
            [(0, -h - 0.012), (0.15 * r, -h - 0.012), (r, -h), (r, h), (0.7 * r, h + 0.002), (0, h + 0.002)], around=12
        ),
    )


def make_phone(rng: np.random.Generator) -> Thing:
    """Telephones and other flat, rounded slabs."""
    half = (rng.uniform(0.0038, 0.0055), rng.uniform(0.033, 0.039), rng.uniform(0.068, 0.082))
    return _thing("phone", _box(half, half[0] * 0.7))


def make_card(rng: np.random.Generator) -> Thing:
    """Cards, tickets, thin notebooks."""
    return _thing(
        "card", _box((rng.uniform(0.0005, 0.002), rng.uniform(0.025, 0.03), rng.uniform(0.04, 0.045)), 0.0004)
    )


def make_key(rng: np.random.Generator) -> Thing:
    """Keys."""
    bow = _lathe(_rod_outline(rng.uniform(0.01, 0.014), 0.003, 0.0005), frame=_X_TO_Z)
    shaft = _box((0.001, 0.004, 0.018), 0.0005, (0, 0, 0.024))
    return _thing("key", bow, shaft, _box((0.001, 0.003, 0.007), 0.0005, (0, 0.005, 0.033)))


def make_ring(rng: np.random.Generator, low: float = 0.012, high: float = 0.045) -> Thing:
    """Rings, rolls of tape, bangles."""
    r = rng.uniform(low, high)
    return _thing("ring", _torus(r, min(rng.uniform(0.002, 0.007), 0.3 * r)))


def make_band(radius: float, thickness: float) -> Thing:
    """A finger ring."""
    return _thing("band", _torus(radius, thickness))


def make_lid(rng: np.random.Generator) -> Thing:
    """Lids, caps, coasters, knobs: flat and round."""
    return _thing("lid", _lathe(_rod_outline(rng.uniform(0.015, 0.042), rng.uniform(0.01, 0.022), 0.0015)))


def make_bag(rng: np.random.Generator) -> Thing:
    """A bag or a bucket hanging from its handle."""
    half = (rng.uniform(0.075, 0.12), rng.uniform(0.02, 0.06), rng.uniform(0.06, 0.12))
    rod, wide, high = rng.uniform(0.005, 0.01), rng.uniform(0.055, 0.065), rng.uniform(0.05, 0.08)
    bar = _lathe(_rod_outline(rod, 2 * wide, 0.3 * rod), (0, 0, high), _X_TO_Z, around=16)
    posts = [_lathe(_rod_outline(0.8 * rod, high, 0.001), (x, 0, high / 2), around=12) for x in (-wide, wide)]
    return _thing("bag", bar, *posts, _box(half, 0.012, (0, 0, -half[2])))


def make_slab(rng: np.random.Generator) -> Thing:
    """Books, boards, table tops, screens: larger than a hand."""
    return _thing("slab", _box((rng.uniform(0.005, 0.02), rng.uniform(0.07, 0.16), rng.uniform(0.09, 0.2)), 0.002))


THINGS: dict[str, Callable[[np.random.Generator], Thing]] = {
    "box": make_box, "block": make_block, "cylinder": make_cylinder, "handle": make_handle, "knife": make_knife,
    "bottle": make_bottle, "cup": make_cup, "bowl": make_bowl, "plate": make_plate, "ball": make_ball,
    "pebble": make_pebble, "cone": make_cone, "pen": make_pen, "phone": make_phone, "card": make_card, "key": make_key,
    "ring": make_ring, "lid": make_lid, "bag": make_bag, "slab": make_slab,
}  # fmt: skip
"""Makers of things, each of random shape and size, lying at the origin."""


# --- distance -------------------------------------------------------------------------------------------------------


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _distance(
    points: FloatArray, kinds: NDArray[np.int64], frames: FloatArray, places: FloatArray, numbers: FloatArray,
    outlines: FloatArray,
) -> FloatArray:  # fmt: skip
    out = np.full(len(points), 1e9)
    for n in range(len(points)):
        for part in range(len(kinds)):
            p0 = points[n, 0] - places[part, 0]
            p1 = points[n, 1] - places[part, 1]
            p2 = points[n, 2] - places[part, 2]
            f = frames[part]
            x = p0 * f[0, 0] + p1 * f[1, 0] + p2 * f[2, 0]
            y = p0 * f[0, 1] + p1 * f[1, 1] + p2 * f[2, 1]
            z = p0 * f[0, 2] + p1 * f[1, 2] + p2 * f[2, 2]
            k = numbers[part]
            if kinds[part] == _BOX:
                d = _box_distance(x, y, z, k)
            elif kinds[part] == _LATHE:
                d = _outline_distance(np.sqrt(x * x + y * y), z, outlines, int(k[0]), int(k[1]))
            elif kinds[part] == _TORUS:
                d = _torus_distance(x, y, z, k)
            else:
                d = _super_distance(x, y, z, k)
            out[n] = min(out[n], d)
    return out


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _box_distance(x: float, y: float, z: float, k: FloatArray) -> float:
    a, b, c = abs(x) - k[0] + k[3], abs(y) - k[1] + k[3], abs(z) - k[2] + k[3]
    outside = np.sqrt(max(a, 0.0) ** 2 + max(b, 0.0) ** 2 + max(c, 0.0) ** 2)
    return outside + min(max(a, max(b, c)), 0.0) - k[3]  # type: ignore[no-any-return]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _outline_distance(r: float, z: float, outlines: FloatArray, start: int, count: int) -> float:
    """Of a closed polygon whose last edge lies on the axis and is no surface."""
    nearest, inside = 1e18, False
    for i in range(count - 1):
        ar, az = outlines[start + i, 0], outlines[start + i, 1]
        br, bz = outlines[start + i + 1, 0], outlines[start + i + 1, 1]
        er, ez = br - ar, bz - az
        length = er * er + ez * ez
        t = ((r - ar) * er + (z - az) * ez) / length if length > 0 else 0.0
        t = min(max(t, 0.0), 1.0)
        nearest = min(nearest, (r - ar - t * er) ** 2 + (z - az - t * ez) ** 2)
        if (az > z) != (bz > z) and r < ar + (z - az) / (bz - az) * er:
            inside = not inside
    # Points on a ray to larger radii: the axis is behind them, so its edge is never crossed
    return -np.sqrt(nearest) if inside else np.sqrt(nearest)  # type: ignore[no-any-return]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _torus_distance(x: float, y: float, z: float, k: FloatArray) -> float:
    if abs(np.arctan2(y, x)) <= k[2]:
        return np.sqrt((np.sqrt(x * x + y * y) - k[0]) ** 2 + z * z) - k[1]  # type: ignore[no-any-return]
    end_x, end_y = k[0] * np.cos(k[2]), k[0] * np.sin(k[2])
    return np.sqrt((x - end_x) ** 2 + (abs(y) - end_y) ** 2 + z * z) - k[1]  # type: ignore[no-any-return]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _super_distance(x: float, y: float, z: float, k: FloatArray) -> float:
    """Of the function of degree one that is 1 on the surface: its excess over its slope."""
    if x * x + y * y + z * z < 1e-12:
        return -min(k[0], min(k[1], k[2]))  # type: ignore[no-any-return]
    u, v, w = abs(x) / k[0] + 1e-12, abs(y) / k[1] + 1e-12, abs(z) / k[2] + 1e-12
    tall, wide = k[3], k[4]
    pu, pv, pw = u ** (2 / wide), v ** (2 / wide), w ** (2 / tall)
    flat = pu + pv
    waist = flat ** (wide / tall)
    level = (waist + pw) ** (tall / 2)
    scale = level ** (1 - 2 / tall)
    gx, gy, gz = waist / flat * pu / u / k[0], waist / flat * pv / v / k[1], pw / w / k[2]
    return (level - 1) / (scale * np.sqrt(gx * gx + gy * gy + gz * gz))  # type: ignore[no-any-return]
