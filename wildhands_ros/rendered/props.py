"""Things that lie about: simple solids, and normals that keep their edges sharp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from wildhands_ros.synthetic.meshes import box, cup

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int32]

_CREASE = math.cos(math.radians(38))


@dataclass(frozen=True)
class Prop:
    """vertices: (V, 3) metres. faces: (F, 3), counter-clockwise from outside."""

    name: str
    vertices: FloatArray
    faces: Faces


def sample_prop(rng: np.random.Generator, *, held_out: bool = False) -> Prop:
    """A thing of 3 to 20 cm standing on the ground (z from 0 up). held_out: also shapes that training never sees."""
    kind = rng.random()
    if kind < 0.35:
        vertices, faces = box(tuple(float(v) for v in np.exp(rng.uniform(-4.2, -1.8, 3))), steps=1)
        name = "box"
    elif kind < 0.55:
        vertices, faces = cup(rng.uniform(0.02, 0.05), rng.uniform(0.03, 0.14), steps=20)
        name = "cup"
    else:
        name, vertices, faces = _lathed(rng, wavy=held_out and rng.random() < 0.5)
    return Prop(name, vertices, faces.astype(np.int32))


def _lathed(rng: np.random.Generator, *, wavy: bool) -> tuple[str, FloatArray, NDArray[np.int64]]:
    kind, height = rng.random(), rng.uniform(0.03, 0.2)
    t = np.linspace(0, 1, 9)
    if wavy:
        name, radius = "turned", rng.uniform(0.015, 0.04) * (1 + 0.45 * np.sin(t * rng.uniform(6, 14)))
    elif kind < 0.4:
        name, radius = "cylinder", np.full(9, math.exp(rng.uniform(-5.0, -2.9)))
    elif kind < 0.7:
        radius = math.exp(rng.uniform(-4.2, -3.0)) * np.sqrt(np.maximum(1 - (2 * t - 1) ** 2, 0)) + 1e-4
        name, height = "ball", 2 * float(radius.max())
    else:
        name, radius = "bottle", rng.uniform(0.02, 0.04) * np.where(t < 0.6, 1, np.maximum(0.35, 1 - (t - 0.6) * 3))
    rings = 18
    angle = np.arange(rings) * 2 * np.pi / rings
    profile = np.concatenate([[[1e-5, 0]], np.stack([radius, t * height], axis=1), [[1e-5, height]]])
    r, z = profile[:, :1], np.broadcast_to(profile[:, 1:], (len(profile), rings))
    points = np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=-1)
    index = np.arange(len(profile) * rings).reshape(len(profile), rings)
    a, b = index[:-1], index[1:]
    a_next, b_next = np.roll(a, -1, axis=1), np.roll(b, -1, axis=1)
    faces = np.concatenate(
        [np.stack([a, a_next, b_next], -1).reshape(-1, 3), np.stack([a, b_next, b], -1).reshape(-1, 3)]
    )
    return name, points.reshape(-1, 3), faces


def corner_normals(vertices: FloatArray, faces: Faces) -> tuple[FloatArray, FloatArray]:
    """Corners (3F, 3) of the faces and their normals (3F, 3): smooth where the surface is, sharp across creases."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    order = np.argsort(faces.ravel(), kind="stable")
    starts = np.searchsorted(faces.ravel()[order], np.arange(len(vertices) + 1))
    smoothed = np.empty((len(faces) * 3, 3))
    _blend(normals, faces.ravel(), order, starts, smoothed)
    return corners.reshape(-1, 3), smoothed


@njit(cache=True)
def _blend(normals, vertex_of_corner, order, starts, out):  # type: ignore[no-untyped-def]
    for corner in range(vertex_of_corner.shape[0]):
        face = corner // 3
        x, y, z = normals[face, 0], normals[face, 1], normals[face, 2]
        own = np.sqrt(x * x + y * y + z * z) + 1e-20
        tx, ty, tz = 0.0, 0.0, 0.0
        vertex = vertex_of_corner[corner]
        for k in range(starts[vertex], starts[vertex + 1]):
            other = order[k] // 3
            ox, oy, oz = normals[other, 0], normals[other, 1], normals[other, 2]
            length = np.sqrt(ox * ox + oy * oy + oz * oz) + 1e-20
            if x * ox + y * oy + z * oz > _CREASE * own * length:
                tx, ty, tz = tx + ox, ty + oy, tz + oz
        length = np.sqrt(tx * tx + ty * ty + tz * tz) + 1e-20
        out[corner, 0], out[corner, 1], out[corner, 2] = tx / length, ty / length, tz / length
