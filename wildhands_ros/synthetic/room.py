"""The place in which the hands move: a table with things on it, a floor and a wall, painted procedurally.

World axes: x right, y ahead, z up, origin at the head's mean place. Table, floor and wall are one unfolded sheet with
coordinates (x, v): v is y up to the wall and continues up the wall, so that one texture look-up paints everything.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.synthetic.light import Lights, shade, to_display
from wildhands_ros.synthetic.meshes import Faces, FloatArray, box, cup, vertex_normals
from wildhands_ros.synthetic.renderer import Mesh, face_edges

Image = NDArray[np.float32]

_TEXEL = 0.0015  # metres
_LEFT, _NEAR, _WALL, _TOP = -2.4, -0.9, 1.7, 3.6  # extent of the sheet: x from -_LEFT to _LEFT, v from _NEAR to _TOP
_COARSE = 4  # texture coordinates are computed at every fourth pixel and interpolated
_SHADOW_TEXEL = 0.006


class Room:
    """Textures and objects of one place, made from a seed.

    table: height of its surface in world z, metres (negative: below the head).
    """

    def __init__(self, seed: int, table: float, lights: Lights) -> None:
        rng = np.random.default_rng(seed)
        self.table = table
        self._lights = lights
        self._texture = _sheet(rng)
        self._objects = _objects(rng, table, lights)
        self._rays: tuple[Camera, FloatArray] | None = None

    def picture(self, camera: Camera, position: FloatArray, axes: FloatArray, casters: FloatArray) -> Image:
        """Table, floor and wall, (H, W, 3), 0 to 255.

        position (3,), axes (3, 3): of the camera in the world (its axes as columns). casters: (N, 3) world points that
        throw a soft shadow on the table.
        """
        x, v = self._sheet_coordinates(camera, position, axes)
        size = (camera.width, camera.height)
        coordinates = []
        for values, low in ((x, _LEFT), (v, _NEAR)):
            texels = ((values - low) / _TEXEL).astype(np.float32)
            coordinates.append(np.asarray(cv2.resize(texels, size, interpolation=cv2.INTER_LINEAR)))
        picture = cv2.remap(
            self._texture, coordinates[0], coordinates[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        brightness = cv2.resize(self._shadow(casters, x, v), size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.multiply(picture, cv2.merge([brightness] * 3), dtype=cv2.CV_32F))

    def objects(self, position: FloatArray, axes: FloatArray, channels: int) -> list[Mesh]:
        """What stands on the table, in the camera's frame; values past red, green and blue are 0."""
        meshes = []
        for vertices, faces, colors, edges in self._objects:
            values = np.zeros((len(vertices), channels))
            values[:, :3] = colors
            meshes.append(Mesh((vertices - position) @ axes, faces, values, edges))
        return meshes

    def _sheet_coordinates(
        self, camera: Camera, position: FloatArray, axes: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        if self._rays is None or self._rays[0] != camera:
            small = camera.resized(camera.width // _COARSE, camera.height // _COARSE)
            v, u = np.mgrid[0 : small.height, 0 : small.width]
            rays = small.unproject(np.stack([u, v], axis=-1))
            self._rays = camera, np.nan_to_num(rays, nan=0.0)
        rays = self._rays[1] @ axes.T
        right, ahead, up = np.moveaxis(rays, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            to_table = np.where(up < -1e-4, (self.table - position[2]) / up, np.inf)
            to_wall = np.where(ahead > 1e-4, (_WALL - position[1]) / ahead, np.inf)
        t = np.minimum(np.minimum(to_table, to_wall), 30.0)
        x = position[0] + t * right
        on_wall = to_wall < to_table
        v = np.where(on_wall, _WALL + position[2] + t * up - self.table, position[1] + t * ahead)
        return np.clip(x, 2 * _LEFT, -2 * _LEFT), np.clip(v, _NEAR, _TOP)

    def _shadow(self, casters: FloatArray, x: FloatArray, v: FloatArray) -> Image:
        """Brightness (h, w) of the sheet at coordinates x, v: 1 in the open, less where casters hide the light."""
        light = np.array(self._lights.direction)
        width, depth = round(2.4 / _SHADOW_TEXEL), round(1.8 / _SHADOW_TEXEL)
        sharp, contact = (np.zeros((depth, width), np.float32) for _ in range(2))
        if len(casters):
            height = casters[:, 2] - self.table
            foot = casters[:, :2] - light[:2] / light[2] * height[:, None]
            _splat(sharp, foot, np.clip(1.2 - height / 0.5, 0.25, 1))
            _splat(contact, casters[:, :2], np.clip(1 - height / 0.16, 0, 1))
        cast = np.asarray(cv2.GaussianBlur(cv2.dilate(sharp, np.ones((3, 3), np.uint8)), (0, 0), 4.0))
        touching = np.asarray(cv2.GaussianBlur(contact, (0, 0), 5.0))
        brightness = (1 - 0.42 * cast) * (1 - 0.35 * touching)
        column, row = (((values - low) / _SHADOW_TEXEL).astype(np.float32) for values, low in ((x, -1.2), (v, -0.6)))
        return np.asarray(
            cv2.remap(brightness, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=1.0)
        )


def _splat(image: Image, points: FloatArray, values: FloatArray) -> None:
    columns = np.round((points[:, 0] + 1.2) / _SHADOW_TEXEL).astype(int)
    rows = np.round((points[:, 1] + 0.6) / _SHADOW_TEXEL).astype(int)
    inside = (columns >= 0) & (rows >= 0) & (columns < image.shape[1]) & (rows < image.shape[0])
    np.maximum.at(image, (rows[inside], columns[inside]), values[inside].astype(np.float32))


def _sheet(rng: np.random.Generator) -> NDArray[np.uint8]:
    """The painted sheet: floor, wall, table top and flat things on the table, (rows of v, columns of x, 3)."""
    height, width = round((_TOP - _NEAR) / _TEXEL), round(-2 * _LEFT / _TEXEL)
    sheet = np.empty((height, width, 3), np.float32)
    wall_row = round((_WALL - _NEAR) / _TEXEL)

    floor = np.array(rng.choice([(96, 88, 80), (78, 80, 86), (112, 100, 84)]), np.float32)
    sheet[:wall_row] = floor * (1 + 0.06 * _grain(rng, wall_row, width, 24, 120))[..., None]
    wall = np.array(rng.choice([(196, 192, 182), (172, 184, 190), (202, 186, 166)]), np.float32)
    fade = np.linspace(0.82, 1.06, height - wall_row, dtype=np.float32)[:, None, None]
    sheet[wall_row:] = wall * fade * (1 + 0.012 * _grain(rng, height - wall_row, width, 200, 200))[..., None]
    _rectangle(sheet, -5, _WALL, 5, _WALL + 0.10, (206, 204, 198))
    for _ in range(4):  # pictures and a window
        x, v = rng.uniform(-1.9, 1.4), _WALL + rng.uniform(0.35, 1.0)
        w, h = rng.uniform(0.3, 0.7, 2)
        _rectangle(sheet, x, v, x + w, v + h, (60, 52, 46))
        color = rng.uniform(60, 220, 3)
        _rectangle(sheet, x + 0.02, v + 0.02, x + w - 0.02, v + h - 0.02, color)
        _rectangle(sheet, x + 0.02, v + 0.02, x + w - 0.02, v + 0.02 + h * 0.4, color * 0.7)
    sheet[wall_row - 60 :] = cv2.GaussianBlur(sheet[wall_row - 60 :], (0, 0), 5.0)
    sheet[:wall_row] = cv2.GaussianBlur(sheet[:wall_row], (0, 0), 2.5)

    _wooden_top(sheet, rng, -0.95, -0.30, 0.95, 0.98)
    _flat_things(sheet, rng)
    return np.clip(sheet, 0, 255).astype(np.uint8)


def _wooden_top(sheet: Image, rng: np.random.Generator, x0: float, v0: float, x1: float, v1: float) -> None:
    c0, c1 = round((x0 - _LEFT) / _TEXEL), round((x1 - _LEFT) / _TEXEL)
    r0, r1 = round((v0 - _NEAR) / _TEXEL), round((v1 - _NEAR) / _TEXEL)
    base = np.array(rng.choice([(158, 124, 88), (120, 88, 62), (186, 164, 132), (142, 134, 124)]), np.float32)
    plank_rows = np.linspace(r0, r1, 8).astype(int)
    for top, bottom in zip(plank_rows, plank_rows[1:], strict=False):
        rows, columns = bottom - top, c1 - c0
        rings = 2.5 * _grain(rng, rows, columns, 26, 420) + np.linspace(0, rng.uniform(2, 5), rows)[:, None]
        grain = 0.06 * np.sin(2 * np.pi * rings) + 0.05 * _grain(rng, rows, columns, 2, 60)
        plank = base * rng.uniform(0.90, 1.08) * (1 + grain[..., None] * np.array([1.0, 1.15, 1.3]))
        sheet[top:bottom, c0:c1] = plank
        sheet[bottom - 2 : bottom, c0:c1] *= 0.72
    sheet[max(r1 - 3, 0) : r1 + 9, c0:c1] *= 0.6  # the far edge
    daylight = np.linspace(1.12, 0.86, c1 - c0, dtype=np.float32)[None, :, None]  # the window is on the left
    sheet[r0:r1, c0:c1] *= daylight


def _flat_things(sheet: Image, rng: np.random.Generator) -> None:
    """A woven mat, sheets of paper with lines of writing, a tablet."""
    x, v = rng.uniform(-0.30, -0.18), rng.uniform(0.12, 0.2)
    color = np.array(rng.choice([(54, 92, 104), (128, 58, 52), (92, 104, 70)]), np.float32)
    r0, r1 = round((v - _NEAR) / _TEXEL), round((v + 0.36 - _NEAR) / _TEXEL)
    c0, c1 = round((x - _LEFT) / _TEXEL), round((x + 0.52 - _LEFT) / _TEXEL)
    rows, columns = np.mgrid[0 : r1 - r0, 0 : c1 - c0]
    weave = 0.10 * np.sin(rows * 2 * np.pi / 5) * np.sin(columns * 2 * np.pi / 5)
    stripes = np.where(((columns // 22) % 5) == 0, 0.25, 0.0)
    sheet[r0:r1, c0:c1] = color * (1 + weave + stripes)[..., None]
    sheet[r1 : r1 + 4, c0:c1] *= 0.7
    for _ in range(2):
        x, v = rng.choice([-0.75, 0.4]) + rng.uniform(-0.08, 0.12), rng.uniform(0.2, 0.55)
        _rectangle(sheet, x, v, x + 0.21, v + 0.29, (226, 224, 216))
        for line in range(12):
            _rectangle(sheet, x + 0.02, v + 0.03 + 0.019 * line, x + rng.uniform(0.1, 0.19),
                       v + 0.034 + 0.019 * line, (128, 130, 140))  # fmt: skip


def _objects(
    rng: np.random.Generator, table: float, lights: Lights
) -> list[tuple[FloatArray, Faces, FloatArray, NDArray[np.int64]]]:
    """World vertices, faces, colours (0 to 255) and edges of a few things near the table's far side."""
    things = []
    colors = rng.permutation([(0.55, 0.09, 0.07), (0.08, 0.20, 0.42), (0.68, 0.60, 0.42), (0.10, 0.30, 0.16)])
    places = rng.permutation([(-0.42, 0.68), (-0.12, 0.80), (0.20, 0.74), (0.50, 0.62)])
    for i, (color, place) in enumerate(zip(colors, places, strict=True)):
        if i % 2:
            vertices, faces = cup(rng.uniform(0.034, 0.046), rng.uniform(0.08, 0.11))
        else:
            size = (rng.uniform(0.06, 0.14), rng.uniform(0.05, 0.10), rng.uniform(0.05, 0.17))
            vertices, faces = box(size)
        angle = rng.uniform(-0.6, 0.6)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        vertices = vertices @ turn.T + (*place, table)
        normals = vertex_normals(vertices, faces)
        view = -vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
        low = np.clip((vertices[:, 2] - table) / 0.05, 0, 1)
        albedo = np.tile(color, (len(vertices), 1)) * (0.97 + 0.05 * rng.normal(size=(len(vertices), 1)))
        lit = shade(albedo, normals, view, np.ones(len(vertices)), 0.6 + 0.4 * low, np.zeros(len(vertices)), lights)
        things.append((vertices, faces, to_display(lit).astype(np.float64), face_edges(faces)))
    return things


def _rectangle(
    sheet: Image, x0: float, v0: float, x1: float, v1: float, color: tuple[float, float, float] | FloatArray
) -> None:
    c0, c1 = (max(round((x - _LEFT) / _TEXEL), 0) for x in (x0, x1))
    r0, r1 = (max(round((v - _NEAR) / _TEXEL), 0) for v in (v0, v1))
    sheet[r0:r1, c0:c1] = color


def _grain(rng: np.random.Generator, rows: int, columns: int, tall: int, wide: int) -> Image:
    """Smooth noise (rows, columns) of mean 0 and spread about 1, with features of `tall` × `wide` texels."""
    total = np.zeros((rows, columns), np.float32)
    for octave in (1, 2, 4):
        h, w = max(rows * octave // tall, 2) + 1, max(columns * octave // wide, 2) + 1
        noise = rng.normal(size=(h, w)).astype(np.float32)
        total += np.asarray(cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC)) / octave
    return total
