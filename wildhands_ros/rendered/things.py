"""Things that lie about or get in the way, and normals that keep the edges of things sharp."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from wildhands_ros.rendered.objects import THINGS, TriangleMesh

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int32]

HELD_OUT_THINGS = frozenset({"bowl", "cone", "hammer", "key"})
"""Names of things that training never sees."""

_CREASE = math.cos(math.radians(38))


def sample_thing(rng: np.random.Generator, *, held_out: bool) -> TriangleMesh:
    """A thing about its own middle."""
    makers = list(THINGS.values())
    while True:
        thing = makers[int(rng.integers(len(makers)))](rng)
        if held_out or thing.name not in HELD_OUT_THINGS:
            return thing.mesh


def corner_normals(vertices: FloatArray, faces: Faces) -> tuple[FloatArray, FloatArray]:
    """Corners (3F, 3) of the faces and their normals (3F, 3): smooth where the surface is, sharp across creases."""
    corners = vertices[faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.stack(
        [a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1], a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
         a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]], axis=1,
    )  # fmt: skip
    smoothed = np.empty((len(faces) * 3, 3))
    _blend(normals, faces.ravel(), len(vertices), smoothed)
    return corners.reshape(-1, 3), smoothed


@njit(cache=True, error_model="numpy")
def _blend(normals, vertex_of_corner, vertices, out):  # type: ignore[no-untyped-def]
    corners = vertex_of_corner.shape[0]
    following = np.full(corners, -1, np.int64)  # corners of the same vertex, as linked lists
    head = np.full(vertices, -1, np.int64)
    for corner in range(corners):
        following[corner] = head[vertex_of_corner[corner]]
        head[vertex_of_corner[corner]] = corner
    for corner in range(corners):
        face = corner // 3
        x, y, z = normals[face, 0], normals[face, 1], normals[face, 2]
        own = np.sqrt(x * x + y * y + z * z) + 1e-20
        tx, ty, tz = 0.0, 0.0, 0.0
        other_corner = head[vertex_of_corner[corner]]
        while other_corner >= 0:
            other = other_corner // 3
            ox, oy, oz = normals[other, 0], normals[other, 1], normals[other, 2]
            length = np.sqrt(ox * ox + oy * oy + oz * oz) + 1e-20
            if x * ox + y * oy + z * oz > _CREASE * own * length:
                tx, ty, tz = tx + ox, ty + oy, tz + oz
            other_corner = following[other_corner]
        length = np.sqrt(tx * tx + ty * ty + tz * tz) + 1e-20
        out[corner, 0], out[corner, 1], out[corner, 2] = tx / length, ty / length, tz / length
