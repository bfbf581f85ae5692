"""Mesh tools of the renderer: smooth subdivision, boundary loops, normals, simple solids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int64]


def subdivide(faces: Faces, vertex_count: int) -> tuple[sparse.csr_matrix, Faces]:
    """One step of Loop's subdivision (C. Loop, 1987; Warren's weights) as a matrix.

    faces: (F, 3). Returns the matrix (V', V) that takes vertices, or anything that is given at vertices, to the finer
    mesh, and its faces (4F, 3). Boundaries stay boundaries (cubic spline rule).
    """
    half_edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    opposite = np.roll(faces, -2, axis=1).reshape(-1)
    edges, numbers = np.unique(np.sort(half_edges, axis=1), axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)
    uses = np.bincount(numbers, minlength=len(edges))
    inner = uses == 2

    # new vertices on edges: 3/8 each end, 1/8 each opposite corner; on the boundary half each end
    rows = np.repeat(np.arange(len(edges)), 2)
    ends = np.repeat(np.where(inner, 3 / 8, 1 / 2), 2)
    wings = inner[numbers]
    edge_rows = np.concatenate([rows, numbers[wings]])
    edge_columns = np.concatenate([edges.ravel(), opposite[wings]])
    edge_weights = np.concatenate([ends, np.full(wings.sum(), 1 / 8)])

    # old vertices: Warren's weights inside; 1/8, 3/4, 1/8 along the boundary
    both_ways = np.concatenate([edges, edges[:, ::-1]])
    boundary_edges = edges[~inner]
    on_boundary = np.zeros(vertex_count, bool)
    on_boundary[boundary_edges] = True
    valence = np.bincount(both_ways[:, 0], minlength=vertex_count)
    beta = np.where(valence == 3, 3 / 16, 3 / (8 * np.maximum(valence, 1)))
    inside = both_ways[~on_boundary[both_ways[:, 0]]]
    along = np.concatenate([boundary_edges, boundary_edges[:, ::-1]])
    own = np.where(on_boundary, 3 / 4, 1 - valence * beta)
    own = np.where(valence == 0, 1.0, own)
    vertex_rows = np.concatenate([np.arange(vertex_count), inside[:, 0], along[:, 0]])
    vertex_columns = np.concatenate([np.arange(vertex_count), inside[:, 1], along[:, 1]])
    vertex_weights = np.concatenate([own, beta[inside[:, 0]], np.full(len(along), 1 / 8)])

    matrix = sparse.csr_matrix(
        (
            np.concatenate([vertex_weights, edge_weights]),
            (np.concatenate([vertex_rows, edge_rows + vertex_count]), np.concatenate([vertex_columns, edge_columns])),
        ),
        shape=(vertex_count + len(edges), vertex_count),
    )
    a, b, c = faces.T
    ab, bc, ca = (numbers.reshape(-1, 3) + vertex_count).T
    finer = np.concatenate(
        [np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    )  # fmt: skip
    return matrix, finer


def longest_boundary(faces: NDArray[np.integer]) -> NDArray[np.int64]:
    """Vertices around the longest hole, in the order in which the missing faces would go; empty if there is none."""
    half_edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    existing = {(int(a), int(b)) for a, b in half_edges}
    following = {b: a for a, b in existing if (b, a) not in existing}
    best: list[int] = []
    while following:
        start, vertex = following.popitem()
        loop = [start]
        while vertex != start and vertex in following:
            loop.append(vertex)
            vertex = following.pop(vertex)
        if len(loop) > len(best):
            best = loop
    return np.array(best, dtype=np.int64)


def vertex_normals(vertices: FloatArray, faces: Faces) -> FloatArray:
    """Unit normals (V, 3), each face counting by its area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    index = faces.T.ravel()
    normals = np.stack(
        [np.bincount(index, np.tile(cross[:, axis], 3), len(vertices)) for axis in range(3)], axis=1
    )  # fmt: skip
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def box(size: tuple[float, float, float], steps: int = 8) -> tuple[FloatArray, Faces]:
    """A box on the ground (z from 0 up), finely divided so that lenses bend it; sides do not share vertices."""
    grid = np.linspace(0, 1, steps + 1)
    u, v = (g.ravel() for g in np.meshgrid(grid, grid, indexing="ij"))
    quads = _grid_faces(steps + 1, steps + 1)
    vertices: list[FloatArray] = []
    faces: list[Faces] = []
    for axis in range(3):
        for sign in (0.0, 1.0):
            side = np.zeros((len(u), 3))
            side[:, axis], side[:, (axis + 1) % 3], side[:, (axis + 2) % 3] = sign, u, v
            faces.append((quads if sign else quads[:, ::-1]) + len(vertices) * len(u))
            vertices.append((side - (0.5, 0.5, 0)) * size)
    return np.concatenate(vertices), np.concatenate(faces)


def cup(radius: float, height: float, steps: int = 32) -> tuple[FloatArray, Faces]:
    """An open cylinder with a wall seen from outside and inside and a floor, on the ground (z from 0 up)."""
    profile = np.array(
        [(0.0, 0.0), (0.9, 0.0), (0.97, 0.04), (1.0, 0.15), (1.0, 0.5), (1.0, 0.97), (0.97, 1.0), (0.92, 0.98),
         (0.9, 0.5), (0.88, 0.12), (0.6, 0.08), (0.0, 0.08)]
    )  # fmt: skip
    around = np.arange(steps + 1) * 2 * np.pi / steps
    r, z = profile[:, :1] * radius, profile[:, 1:] * height
    rings = np.stack([r * np.cos(around), r * np.sin(around), np.broadcast_to(z, (len(r), steps + 1))], axis=-1)
    return rings.reshape(-1, 3), _grid_faces(len(profile), steps + 1)[:, ::-1]


def _grid_faces(rows: int, columns: int) -> Faces:
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1].ravel(), index[1:, :-1].ravel(), index[1:, 1:].ravel(), index[:-1, 1:].ravel()
    return np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
