"""A hand's mesh, shaded softly and laid over the picture.

The triangles are painted far to near into a map of face numbers, normals are interpolated within each face, and a
table of shades indexed by the normal ("matcap") gives colour and opacity, so that a mesh of a thousand triangles looks
smooth. Vertices are projected by the camera, whatever its lens; all that follows happens in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.drawing.style import Color

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

_SHIFT = 4  # fractional bits of coordinates given to OpenCV
_TABLE_SIZE = 96
_FAR_OUTSIDE = 2.0  # picture sizes: triangles with a corner beyond are dropped


@dataclass(frozen=True)
class Layer:
    """A picture of a region with opacity, colours already multiplied by it.

    x0, y0: where its top left pixel lies. rgba: (h, w, 4) uint8.
    """

    x0: int
    y0: int
    rgba: Image


def mesh_layer(
    vertices: FloatArray, faces: NDArray[np.integer], camera: Camera, color: Color, opacity: float
) -> Layer | None:
    """The mesh as seen by the camera, cut to the picture; None where none of it can be seen.

    vertices: (V, 3) metres in the camera frame, NaN allowed. faces: (F, 3), counter-clockwise from outside.
    """
    pixels = camera.project(vertices)
    faces = _drawable(faces, pixels, camera)
    if not len(faces):
        return None
    x0, y0, x1, y1 = _region(pixels[faces.ravel()], camera.width, camera.height)
    if x1 <= x0 or y1 <= y0:
        return None
    # numbers at double size give smooth edges; shades need only one sample a pixel
    local = pixels - (x0, y0)
    fine = _paint(2 * local + 0.5, faces, _far_to_near(faces, vertices), 2 * (x1 - x0), 2 * (y1 - y0))
    quarters = [fine[i::2, j::2] for i in range(2) for j in range(2)]
    numbers = np.maximum(np.maximum(quarters[0], quarters[1]), np.maximum(quarters[2], quarters[3]))
    coverage = cv2.resize((fine > 0).astype(np.uint8) * 255, numbers.shape[::-1], interpolation=cv2.INTER_AREA)

    nx, ny = _interpolate(numbers, local, faces, _view_normals(vertices, faces))
    rgba = cv2.remap(_shades(color, round(opacity, 3)), nx, ny, cv2.INTER_LINEAR)
    rgba = cv2.multiply(rgba, cv2.merge([coverage] * 4), scale=1 / 255)
    return Layer(x0, y0, np.asarray(rgba, dtype=np.uint8))


def composite(image: Image, layer: Layer) -> None:
    """Lays the layer over the image, in place."""
    height, width = layer.rgba.shape[:2]
    part = image[layer.y0 : layer.y0 + height, layer.x0 : layer.x0 + width]
    rest = cv2.merge([255 - layer.rgba[..., 3]] * 3)
    cv2.add(cv2.multiply(part, rest, scale=1 / 255), layer.rgba[..., :3], dst=part)


def draw_outline(image: Image, layer: Layer, color: Color, width: int) -> None:
    """Draws the layer's silhouette as a dashed line, in place."""
    mask = (layer.rgba[..., 3] > 127).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    dash = 4 * width + 4
    for contour in contours:
        points = contour[:, 0] + (layer.x0, layer.y0)
        if len(points) < dash:
            continue
        dashes = [points[i : i + dash // 2 + 1] for i in range(0, len(points), dash)]
        cv2.polylines(image, dashes, False, color, width, cv2.LINE_AA)


def _drawable(faces: NDArray[np.integer], pixels: FloatArray, camera: Camera) -> NDArray[np.integer]:
    """The faces that face the viewer with three corners that can be seen in or near the picture."""
    size = np.array([camera.width, camera.height])
    with np.errstate(invalid="ignore"):
        near = np.all((pixels > -_FAR_OUTSIDE * size) & (pixels < (1 + _FAR_OUTSIDE) * size), axis=-1)
    faces = faces[near[faces].all(axis=1)]
    corners = pixels[faces]
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return faces[u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0] < 0]  # y points down: counter-clockwise has negative area


def _region(pixels: FloatArray, width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0 = np.maximum(np.floor(pixels.min(axis=0)) - 1, 0).astype(int)
    x1, y1 = np.minimum(np.ceil(pixels.max(axis=0)) + 2, (width, height)).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def _far_to_near(faces: NDArray[np.integer], vertices: FloatArray) -> NDArray[np.int64]:
    """The faces' numbers, the farthest first."""
    return np.argsort(-np.linalg.norm(vertices, axis=1)[faces].sum(axis=1))


def _paint(
    pixels: FloatArray, faces: NDArray[np.integer], order: NDArray[np.int64], width: int, height: int
) -> NDArray[np.int32]:
    """Map of face numbers plus one, 0 where there is none, (height, width)."""
    numbers = np.zeros((height, width), np.int32)
    corners = np.round(pixels[faces[order]] * (1 << _SHIFT)).astype(np.int32)
    for number, triangle in zip((order + 1).tolist(), corners, strict=True):
        cv2.fillConvexPoly(numbers, triangle, number, cv2.LINE_8, _SHIFT)
    return numbers


def _view_normals(vertices: FloatArray, faces: NDArray[np.integer]) -> FloatArray:
    """Normals (V, 3) of the faces' vertices in axes that look along the ray to the mesh's middle."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)  # twice the area long: large faces count more
    normals = np.zeros_like(vertices)
    for i in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(faces[:, i], face_normals[:, axis], len(vertices))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(length > 0, length, 1)
    z = np.mean(vertices[np.unique(faces)], axis=0)
    z = z / max(np.linalg.norm(z), 1e-9)
    x = np.cross([0.0, 1.0, 0.0], z)
    x = x / max(np.linalg.norm(x), 1e-9)
    return normals @ np.stack([x, np.cross(z, x), z], axis=1)


def _interpolate(
    numbers: NDArray[np.int32], pixels: FloatArray, faces: NDArray[np.integer], normals: FloatArray
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where in the table of shades each pixel looks: the normal's x and y, linear within a face."""
    a, b, c = (pixels[faces[:, i]] for i in range(3))
    u, v = b - a, c - a
    det = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    half = (_TABLE_SIZE - 1) / 2
    where = np.flatnonzero(numbers)
    y, x = np.divmod(where.astype(np.int32), numbers.shape[1])
    face = numbers.ravel()[where] - 1
    maps = []
    for axis in range(2):
        na, nb, nc = (normals[faces[:, i], axis] * half for i in range(3))
        gx = ((nb - na) * v[:, 1] - (nc - na) * u[:, 1]) / det
        gy = ((nc - na) * u[:, 0] - (nb - na) * v[:, 0]) / det
        offset = na - gx * a[:, 0] - gy * a[:, 1]
        low, high = np.minimum(np.minimum(na, nb), nc), np.maximum(np.maximum(na, nb), nc)
        gx, gy, offset, low, high = np.stack([gx, gy, offset, low, high]).astype(np.float32)[:, face]
        image = np.zeros(numbers.shape, np.float32)
        image.ravel()[where] = np.clip(gx * x + gy * y + offset, low, high) + half
        maps.append(image)
    return maps[0], maps[1]


@lru_cache(maxsize=16)
def _shades(color: Color, opacity: float) -> Image:
    """Colour and opacity by the normal's x and y, (size, size, 4): light from the upper left, a solid rim."""
    axis = np.linspace(-1, 1, _TABLE_SIZE)
    nx, ny = np.meshgrid(axis, axis)
    r2 = nx * nx + ny * ny
    rim = np.sqrt(np.maximum(r2, 1e-9))
    nx, ny = (np.where(r2 > 1, n / rim, n) for n in (nx, ny))
    nz = -np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    light = np.array([-0.45, -0.65, -0.62]) / np.linalg.norm([0.45, 0.65, 0.62])
    halfway = light + (0, 0, -1)
    halfway = halfway / np.linalg.norm(halfway)
    diffuse = np.maximum(nx * light[0] + ny * light[1] + nz * light[2] + 0.25, 0) / 1.25
    gloss = np.maximum(nx * halfway[0] + ny * halfway[1] + nz * halfway[2], 0) ** 40
    edge = np.clip((-nz - 0.12) / 0.38, 0, 1)  # 0 at the silhouette
    base = np.array(color, dtype=np.float64)
    shade = base * (0.34 + 0.82 * diffuse)[..., None] * (0.55 + 0.45 * edge)[..., None]
    shade += (255 - shade) * (0.42 * gloss)[..., None]
    alpha = opacity + (1 - opacity) * 0.75 * (1 - edge) ** 1.5
    rgba = np.concatenate([np.clip(shade, 0, 255) * alpha[..., None], 255 * alpha[..., None]], axis=-1)
    return np.round(rgba).astype(np.uint8)
