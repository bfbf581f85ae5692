"""Which triangle each sample of a grid sees: a z-buffer rasteriser in compiled loops.

Triangles are drawn in homogeneous coordinates (M. Olano and T. Greer, "Triangle scan conversion using 2D homogeneous
coordinates", 1997): a vertex (x, y, z) of the camera's frame becomes (fx x + cx z, fy y + cy z, z), the cross products
of two such vertices are the triangle's edge functions, and these divided by the determinant of all three sum up to 1/z.
So nothing has to be clipped where a forearm passes the camera, and barycentric coordinates are correct in perspective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.samples import CROP_SIZE

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int32]

NEAR = 0.05
"""Metres from the camera below which nothing is drawn."""

SAMPLES = 2
"""Samples along each edge of a pixel."""


@dataclass(frozen=True)
class Window:
    """A grid of samples in a picture: sample (column, row) looks along ((column − cx) / fx, (row − cy) / fy, 1)."""

    fx: float
    fy: float
    cx: float
    cy: float
    size: int

    @classmethod
    def of_crop(cls, camera: Camera, center: tuple[float, float], extent: float, samples: int = SAMPLES) -> Window:
        """The samples of a crop as a `Sample` defines it: `samples` along each edge of its pixels.

        camera: undistorted, of the whole picture. center, extent: of the crop's square, in pixels of the picture.
        """
        size = CROP_SIZE * samples
        scale, middle = size / extent, (size - 1) / 2
        return cls(
            camera.fx * scale, camera.fy * scale,
            (camera.cx - center[0]) * scale + middle, (camera.cy - center[1]) * scale + middle, size,
        )  # fmt: skip

    def homogeneous(self, points: FloatArray) -> FloatArray:
        """Points (..., 3) of the camera's frame → (column · z, row · z, z)."""
        return points @ np.array([[self.fx, 0, 0], [0, self.fy, 0], [self.cx, self.cy, 1.0]])


@dataclass(frozen=True)
class Raster:
    """What each sample sees. faces: (S, S), -1 where nothing. inverse_depth: (S, S) 1/z in 1/m, 0 where nothing."""

    faces: NDArray[np.int32]
    inverse_depth: NDArray[np.float32]

    @classmethod
    def empty(cls, size: int) -> Raster:
        return cls(np.full((size, size), -1, np.int32), np.zeros((size, size), np.float32))


def draw(raster: Raster, points: FloatArray, faces: Faces, first: int = 0) -> None:
    """Draws triangles into the raster, in place, where they are nearer than what is there.

    points: (V, 3) vertices as `Window.homogeneous` gives them. faces: (F, 3), counter-clockwise from outside; back
    faces are left out. first: the number that the first of these faces has in `raster.faces`.
    """
    _draw(points, faces, first, raster.faces, raster.inverse_depth, 1 / NEAR)


def depth_map(points: FloatArray, faces: Faces, size: int) -> NDArray[np.float32]:
    """The highest surface over each cell of a grid, seen along its axis (for shadows), (size, size).

    points: (V, 3) as column, row and height. Both sides of the triangles count; -1e9 where there is nothing.
    """
    heights = np.full((size, size), -1e9, np.float32)
    _draw_heights(points, faces, heights)
    return heights


@njit(cache=True, error_model="numpy")
def _draw(points, faces, first, out_faces, out_inverse, largest):  # type: ignore[no-untyped-def]
    rows, columns = out_faces.shape
    nearest = 1.0 / largest
    for number in range(faces.shape[0]):
        i, j, k = faces[number, 0], faces[number, 1], faces[number, 2]
        a0, a1, a2 = points[i, 0], points[i, 1], points[i, 2]
        b0, b1, b2 = points[j, 0], points[j, 1], points[j, 2]
        c0, c1, c2 = points[k, 0], points[k, 1], points[k, 2]
        if a2 < nearest and b2 < nearest and c2 < nearest:
            continue
        # edge functions: cross products, exactly opposite for the two triangles that share an edge
        ax, ay, az = b1 * c2 - b2 * c1, b2 * c0 - b0 * c2, b0 * c1 - b1 * c0
        volume = a0 * ax + a1 * ay + a2 * az
        if volume >= 0:  # seen from behind
            continue
        bx, by, bz = c1 * a2 - c2 * a1, c2 * a0 - c0 * a2, c0 * a1 - c1 * a0
        cx, cy, cz = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
        left, right, top, bottom = 0, columns - 1, 0, rows - 1
        if a2 > nearest and b2 > nearest and c2 > nearest:
            u0, u1, u2 = a0 / a2, b0 / b2, c0 / c2
            low, high = min(u0, u1, u2), max(u0, u1, u2)
            if high < 0 or low > columns - 1:
                continue
            left, right = max(0, int(np.ceil(low))), min(columns - 1, int(np.floor(high)))
            v0, v1, v2 = a1 / a2, b1 / b2, c1 / c2
            low, high = min(v0, v1, v2), max(v0, v1, v2)
            if high < 0 or low > rows - 1:
                continue
            top, bottom = max(0, int(np.ceil(low))), min(rows - 1, int(np.floor(high)))
        ix, iy, iz = (ax + bx + cx) / volume, (ay + by + cy) / volume, (az + bz + cz) / volume
        a_turn, b_turn, c_turn = -1 / ax, -1 / bx, -1 / cx
        own = np.int32(first + number)
        for row in range(top, bottom + 1):
            # between which columns all edge functions are at most 0; neighbours get the very same ends
            low, high = np.float64(left), np.float64(right)
            low, high = _span(ax, ay * row + az, a_turn, low, high)
            low, high = _span(bx, by * row + bz, b_turn, low, high)
            low, high = _span(cx, cy * row + cz, c_turn, low, high)
            if low > high:
                continue
            i_row = iy * row + iz
            inverses, numbers = out_inverse[row], out_faces[row]
            for column in range(np.uint64(np.ceil(low)), np.uint64(np.floor(high)) + np.uint64(1)):
                inverse = np.float32(ix * np.float64(column) + i_row)
                if inverses[column] < inverse < largest:
                    inverses[column] = inverse
                    numbers[column] = own


@njit(cache=True, error_model="numpy", inline="always")
def _span(slope, value, turn, low, high):  # type: ignore[no-untyped-def]
    """The part of low … high where slope · x + value ≤ 0; turn: −1 / slope."""
    if slope > 0:
        high = min(high, value * turn)
    elif slope < 0:
        low = max(low, value * turn)
    elif value > 0:
        low = high + 1.0
    return low, high


@njit(cache=True, error_model="numpy")
def _draw_heights(points, faces, heights):  # type: ignore[no-untyped-def]
    rows, columns = heights.shape
    for number in range(faces.shape[0]):
        i, j, k = faces[number, 0], faces[number, 1], faces[number, 2]
        a0, a1, a2 = points[i, 0], points[i, 1], points[i, 2]
        b0, b1, b2 = points[j, 0], points[j, 1], points[j, 2]
        c0, c1, c2 = points[k, 0], points[k, 1], points[k, 2]
        area = (b0 - a0) * (c1 - a1) - (b1 - a1) * (c0 - a0)
        if area == 0:
            continue
        left, right = max(0, int(np.ceil(min(a0, b0, c0)))), min(columns - 1, int(np.floor(max(a0, b0, c0))))
        top, bottom = max(0, int(np.ceil(min(a1, b1, c1)))), min(rows - 1, int(np.floor(max(a1, b1, c1))))
        # minus the barycentric coordinates: at x, y they are ax · x + ay · y + az, …
        ax, ay, az = (c1 - b1) / area, (b0 - c0) / area, (b1 * c0 - b0 * c1) / area
        bx, by, bz = (a1 - c1) / area, (c0 - a0) / area, (c1 * a0 - c0 * a1) / area
        cx, cy, cz = (b1 - a1) / area, (a0 - b0) / area, (a1 * b0 - a0 * b1) / area
        hx, hy, hz = -ax * a2 - bx * b2 - cx * c2, -ay * a2 - by * b2 - cy * c2, -az * a2 - bz * b2 - cz * c2
        a_turn, b_turn, c_turn = -1 / ax, -1 / bx, -1 / cx
        for row in range(top, bottom + 1):
            low, high = np.float64(left), np.float64(right)
            low, high = _span(ax, ay * row + az, a_turn, low, high)
            low, high = _span(bx, by * row + bz, b_turn, low, high)
            low, high = _span(cx, cy * row + cz, c_turn, low, high)
            if low > high:
                continue
            h_row = hy * row + hz
            line = heights[row]
            for column in range(np.uint64(np.ceil(low)), np.uint64(np.floor(high)) + np.uint64(1)):
                height = np.float32(hx * np.float64(column) + h_row)
                if height > line[column]:
                    line[column] = height


@njit(cache=True, error_model="numpy", inline="always")
def weights(points, i, j, k, x, y):  # type: ignore[no-untyped-def]
    """Barycentric coordinates (wa, wb, wc) of the point of triangle i, j, k (camera frame) on the ray (x, y, 1)."""
    a0, a1, a2 = points[i, 0], points[i, 1], points[i, 2]
    b0, b1, b2 = points[j, 0], points[j, 1], points[j, 2]
    c0, c1, c2 = points[k, 0], points[k, 1], points[k, 2]
    wa = (b1 * c2 - b2 * c1) * x + (b2 * c0 - b0 * c2) * y + (b0 * c1 - b1 * c0)
    wb = (c1 * a2 - c2 * a1) * x + (c2 * a0 - c0 * a2) * y + (c0 * a1 - c1 * a0)
    wc = (a1 * b2 - a2 * b1) * x + (a2 * b0 - a0 * b2) * y + (a0 * b1 - a1 * b0)
    total = wa + wb + wc
    if total == 0:
        return 1.0, 0.0, 0.0
    return wa / total, wb / total, wc / total


def smooth_normals(vertices: FloatArray, faces: Faces) -> FloatArray:
    """Unit normals (V, 3), each face counting by its area."""
    normals = np.zeros_like(vertices)
    _add_normals(vertices, faces, normals)
    return np.asarray(normals)


@njit(cache=True, error_model="numpy")
def _add_normals(vertices, faces, normals):  # type: ignore[no-untyped-def]
    for number in range(faces.shape[0]):
        i, j, k = faces[number, 0], faces[number, 1], faces[number, 2]
        ax, ay, az = (vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2])
        bx, by, bz = (vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2])
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for corner in (i, j, k):
            normals[corner, 0] += x
            normals[corner, 1] += y
            normals[corner, 2] += z
    for vertex in range(normals.shape[0]):
        x, y, z = normals[vertex, 0], normals[vertex, 1], normals[vertex, 2]
        length = np.sqrt(x * x + y * y + z * z)
        if length > 0:
            normals[vertex, 0], normals[vertex, 1], normals[vertex, 2] = x / length, y / length, z / length
