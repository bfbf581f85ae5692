"""What a mesh covers in a picture, from its outline alone.

The triangles that face the viewer form a patch; a ray from a pixel to the side crosses the patch's border as often,
counted with signs, as triangles of the patch lie over that pixel (the winding number). So the few hundred edges
between triangles that face the viewer and triangles that do not decide what is covered, and no triangle is ever drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Outline:
    """The edges of a mesh, whose openings (a hand's wrist) are closed by flat lids.

    faces: (F, 3) vertex numbers, all turned the same way. Raises ValueError for faces that are no surface, such as
        where an edge has more than two triangles.

    edges: (E, 2) vertices of each edge, in the direction that its first triangle has it.
    edge_faces: (E, 2) the two triangles of each edge. faces: (F', 3) with the lids.
    """

    def __init__(self, faces: NDArray[np.integer]) -> None:
        self.faces = _with_lids(np.asarray(faces, dtype=np.int64))
        half = _half_edges(self.faces)
        owners = np.tile(np.arange(len(self.faces)), 3)
        low, high = half.min(axis=1), half.max(axis=1)
        order = np.lexsort((half[:, 0] > half[:, 1], high, low))  # opposite half edges side by side
        first, second = order[0::2], order[1::2]
        if len(order) % 2 or np.any(half[first] != half[second, ::-1]):
            raise ValueError("an edge has more than two triangles, or triangles that are turned differently")
        self.edges: IntArray = half[first]
        self.edge_faces: IntArray = np.stack([owners[first], owners[second]], axis=1)

    def border(self, pixels: FloatArray) -> IntArray:
        """(K, 2) edges between triangles with positive and with negative area, in the direction of the positive ones.

        pixels: (V, 2) the vertices in the picture.
        """
        corners = pixels[self.faces]
        a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        positive = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0
        first, second = positive[self.edge_faces].T
        return np.concatenate([self.edges[first & ~second], self.edges[second & ~first][:, ::-1]])

    def mask(self, pixels: FloatArray, size: int) -> NDArray[np.bool_]:
        """(size, size): whether the mesh covers the centre of each pixel.

        pixels: (V, 2) the vertices in the picture, pixel centres at integers; all must lie in front of the camera.
        """
        start, end = (pixels[column] for column in self.border(pixels).T)
        rows = np.arange(size)[:, None]
        down, up = start[:, 1] <= rows, end[:, 1] <= rows  # (size, K): which end lies above or on the row
        row, edge = np.nonzero(down != up)
        (ax, ay), (bx, by) = start[edge].T, end[edge].T
        crossing = ax + (row - ay) * (bx - ax) / (by - ay)
        last = np.ceil(crossing) - 1  # the last pixel to the left of the crossing
        seen = last >= 0
        sign = np.where(down[row, edge], -1.0, 1.0)
        counts = np.zeros((size, size))
        np.add.at(counts, (row[seen], np.minimum(last[seen], size - 1).astype(np.int64)), sign[seen])
        return np.asarray(np.abs(counts[:, ::-1].cumsum(axis=1)[:, ::-1]) > 0.5)


def _half_edges(faces: IntArray) -> IntArray:
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def _with_lids(faces: IntArray) -> IntArray:
    """The triangles, and for each loop of edges with one triangle a fan that closes it."""
    half = _half_edges(faces)
    count = int(faces.max()) + 1
    open_edges = half[~np.isin(half[:, 0] * count + half[:, 1], half[:, 1] * count + half[:, 0])]
    following = dict(open_edges.tolist())
    if len(following) != len(open_edges):
        raise ValueError("two openings of the mesh share a vertex")
    if set(following.values()) != set(following):
        raise ValueError("the edges of an opening of the mesh form no loop")
    lids = []
    while following:
        start, vertex = following.popitem()
        loop = [start]
        while vertex != start:
            loop.append(vertex)
            vertex = following.pop(vertex)
        lids += [(start, loop[i + 1], loop[i]) for i in range(1, len(loop) - 1)]
    return np.concatenate([faces, np.array(lids, dtype=np.int64).reshape(-1, 3)])
