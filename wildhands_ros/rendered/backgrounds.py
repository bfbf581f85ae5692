"""What lies behind the hands: procedural textures for table tops, floors and walls, and planes that carry them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.rendered.vectors import cross, unit

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]
Texture = Callable[[np.random.Generator], Image]

SIZE = 512
"""Edge of a texture in texels; it repeats."""

LEVELS = 6
"""How often a texture is halved, for far surfaces: 512 down to 16."""


@dataclass(frozen=True)
class TextureBank:
    """Repeating textures with their smaller copies.

    texels: (T, 349440, 3) uint8, sRGB; level l of each (SIZE / 2**l squared) starts at the sum of the larger ones.
    """

    texels: NDArray[np.uint8]

    @classmethod
    def made(cls, rng: np.random.Generator, count: int, *, held_out: bool) -> TextureBank:
        """count: textures. held_out: from the families kept for evaluation, which training never sees, for a half."""
        banks = []
        for index in range(count):
            families = _HELD_OUT if held_out and index % 2 else _FAMILIES
            picture = families[int(rng.integers(len(families)))](rng)
            banks.append(_pyramid(_finished(picture, rng)))
        return cls(np.stack(banks))


def _pyramid(picture: Image) -> NDArray[np.uint8]:
    levels = [picture]
    for _ in range(LEVELS - 1):
        edge = levels[-1].shape[0] // 2
        levels.append(np.asarray(cv2.resize(levels[-1], (edge, edge), interpolation=cv2.INTER_AREA)))
    flat = np.concatenate([level.reshape(-1, 3) for level in levels])
    return np.clip(flat * 255 + 0.5, 0, 255).astype(np.uint8)


def _finished(picture: Image, rng: np.random.Generator) -> Image:
    """Stains, wear and a random overall tone."""
    wear = 1 + np.float32(rng.uniform(0, 0.18)) * _clouds(rng, int(rng.integers(2, 6)))
    tone = np.float32(rng.uniform(0.55, 1.15)) * (1 + 0.08 * rng.standard_normal(3).astype(np.float32))
    grain = np.float32(rng.uniform(0, 0.05)) * _grain(rng)
    channels = [
        channel * (wear * share) + grain for channel, share in zip(cv2.split(picture), tone.tolist(), strict=True)
    ]
    return np.asarray(np.clip(cv2.merge(channels), 0.01, 1), np.float32)


# --- pieces -----------------------------------------------------------------------------------------------------------


def _color(rng: np.random.Generator, saturation: float = 0.5) -> Image:
    """A colour, sRGB 0 to 1; mostly muted."""
    hue, value = rng.uniform(0, 360), rng.uniform(0.1, 0.97)
    if rng.random() < 0.5:  # most rooms are of wood, stone and plaster
        hue = rng.normal(32, 14) % 360
    strength = float(np.clip(rng.beta(1.0, 4.0) * 2 * saturation, 0, 1))
    pixel = np.array([[[hue, strength, value]]], np.float32)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def _smooth(rng: np.random.Generator, cells: int, cells_across: int | None = None) -> Image:
    """Repeating smooth noise (SIZE, SIZE), about -1 to 1, with this many bumps along each edge."""
    across = cells if cells_across is None else cells_across
    grid = rng.uniform(-1, 1, (cells, across)).astype(np.float32)
    if max(cells, across) > 64:  # where cubes are blended at few texels each, that is faster
        pad = 2
        wrapped = np.pad(grid, pad, mode="wrap")
        scale_y, scale_x = SIZE // cells, SIZE // across
        size = (wrapped.shape[1] * scale_x, wrapped.shape[0] * scale_y)
        large = np.asarray(cv2.resize(wrapped, size, interpolation=cv2.INTER_CUBIC))
        return np.asarray(large[pad * scale_y :, pad * scale_x :][:SIZE, :SIZE], np.float32)
    return np.asarray(_blending(cells) @ grid @ _blending(across).T)


@lru_cache(maxsize=16)
def _blending(cells: int) -> Image:
    """(SIZE, cells) how much each of the values round a circle counts at each texel: cubic interpolation."""
    pad = 2
    wrapped = np.pad(np.eye(cells, dtype=np.float32), ((pad, pad), (0, 0)), mode="wrap")
    scale = SIZE // cells
    large = cv2.resize(wrapped, (cells, len(wrapped) * scale), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large[pad * scale :][:SIZE], np.float32)


def _clouds(rng: np.random.Generator, octaves: int, start: int = 4) -> Image:
    """Sum of noises of growing fineness, about -1 to 1."""
    total = np.zeros((SIZE, SIZE), np.float32)
    for octave in range(octaves):
        total += _smooth(rng, min(start << octave, 256)) * np.float32(0.55**octave / 1.4)
    return total


def _grain(rng: np.random.Generator) -> Image:
    return rng.standard_normal((SIZE, SIZE), np.float32)


def _mix(a: Image, b: Image, t: Image) -> Image:
    """From colour or picture a, where t is 0 or less, to b, where it is 1 or more."""
    share = np.clip(t, 0, 1)
    if a.ndim > 1 or b.ndim > 1:
        return a + (b - a) * share[..., None]
    return _tinted(b - a, share) + a


def _tinted(color: Image, factor: Image) -> Image:
    """A colour (3,) times a factor at each texel (SIZE, SIZE): NumPy is slow along axes of three."""
    return np.asarray(cv2.merge([factor * np.float32(c) for c in color.tolist()]), np.float32)


@lru_cache(maxsize=1)
def _grid() -> tuple[Image, Image]:
    """Row and column of each texel, 0 to 1."""
    u: Image = np.tile(np.arange(SIZE, dtype=np.float32) / np.float32(SIZE), (SIZE, 1))
    v: Image = np.ascontiguousarray(u.T)
    u.flags.writeable = v.flags.writeable = False
    return v, u


# --- families ---------------------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator) -> Image:
    field = _clouds(rng, int(rng.integers(2, 7)), int(2 ** rng.integers(1, 5)))
    return _mix(_color(rng), _color(rng), 0.5 + field * rng.uniform(0.4, 2.5))


def _plain(rng: np.random.Generator) -> Image:
    return _mix(_color(rng, 0.4), _color(rng, 0.4), 0.3 + 0.3 * _clouds(rng, 3, 2))


def _wood(rng: np.random.Generator) -> Image:
    v, u = _grid()
    planks = int(rng.integers(1, 7))
    plank = np.floor(v * planks)
    shift = rng.uniform(0, 1, planks + 1).astype(np.float32)[plank.astype(int)]
    warp = _smooth(rng, 4, 2) * 0.5 + _smooth(rng, 16, 4) * 0.12
    rings = np.sin((v * rng.uniform(12, 40) + shift * 20 + warp * rng.uniform(2, 6)) * 2 * np.pi)
    fibre = _smooth(rng, 256, 8) * 0.5 + _smooth(rng, 128, 4) * 0.5
    light = np.array([rng.uniform(0.45, 0.85), rng.uniform(0.3, 0.62), rng.uniform(0.15, 0.42)], np.float32)
    dark = light * np.float32(rng.uniform(0.5, 0.8))
    picture = _mix(light, dark, 0.4 + 0.25 * rings + 0.35 * fibre) * (0.85 + 0.3 * shift)[..., None]
    gap = np.abs(v * planks - np.round(v * planks)) < 0.006 * planks
    return np.where(gap[..., None] & (planks > 1), picture * 0.4, picture).astype(np.float32)


def _tiles(rng: np.random.Generator) -> Image:
    v, u = _grid()
    rows, columns = int(rng.integers(2, 9)), int(rng.integers(2, 9))
    row = np.floor(v * rows)
    shift = np.float32(0.5 / columns if rng.random() < 0.5 else 0)
    u = np.asarray((u + shift * (row % 2)) % 1, np.float32)
    column = np.floor(u * columns)
    tone = rng.uniform(0.8, 1.15, (rows, columns)).astype(np.float32)[
        row.astype(int) % rows, column.astype(int) % columns
    ]
    joint = np.minimum(
        np.abs(v * rows - np.round(v * rows)) / rows, np.abs(u * columns - np.round(u * columns)) / columns
    )
    color, grout = _color(rng), _color(rng, 0.2)
    picture = color * tone[..., None] * (1 + 0.08 * _clouds(rng, 4, 8)[..., None])
    return np.where((joint < rng.uniform(0.003, 0.012))[..., None], grout, picture).astype(np.float32)


def _checker(rng: np.random.Generator) -> Image:
    v, u = _grid()
    n = 2 * int(rng.integers(1, 9))
    odd = (np.floor(v * n) + np.floor(u * n)) % 2
    return _mix(_color(rng), _color(rng), odd)


def _stripes(rng: np.random.Generator) -> Image:
    v, u = _grid()
    picture = np.broadcast_to(_color(rng), (SIZE, SIZE, 3)).astype(np.float32)
    for _ in range(int(rng.integers(1, 5))):
        n, phase, share = int(rng.integers(1, 20)), rng.uniform(), rng.uniform(0.1, 0.6)
        band = ((u if rng.random() < 0.5 else v) * n + phase) % 1 < share
        picture = _mix(picture, _color(rng), band * np.float32(rng.uniform(0.3, 1)))
    return picture


def _fabric(rng: np.random.Generator) -> Image:
    v, u = _grid()
    n = int(2 ** rng.integers(5, 8))
    weave = np.sin(2 * np.pi * n * u) * np.sin(2 * np.pi * n * v) + 0.6 * _grain(rng) * 0.5
    folds = _smooth(rng, int(2 ** rng.integers(1, 4)), 4)
    base = _stripes(rng) if rng.random() < 0.4 else np.broadcast_to(_color(rng, 0.8), (SIZE, SIZE, 3))
    return (base * (1 + 0.12 * weave + 0.25 * folds)[..., None]).astype(np.float32)


def _marble(rng: np.random.Generator) -> Image:
    v, u = _grid()
    warp = _clouds(rng, 6, 4)
    veins = np.abs(np.sin(2 * np.pi * (u * rng.integers(1, 4) + v * rng.integers(1, 4) + rng.uniform(0.5, 1.5) * warp)))
    return _mix(_color(rng, 0.2), _color(rng, 0.4), np.asarray(veins ** rng.uniform(0.2, 0.8), np.float32))


def _terrazzo(rng: np.random.Generator) -> Image:
    picture = np.ascontiguousarray(np.broadcast_to(_color(rng, 0.3), (SIZE, SIZE, 3)), np.float32)
    palette = [_color(rng, 0.7).tolist() for _ in range(4)]
    for _ in range(int(rng.integers(150, 500))):
        x, y = (int(c) for c in rng.integers(0, SIZE, 2))
        axes = (int(rng.integers(1, 12)), int(rng.integers(1, 8)))
        cv2.ellipse(picture, (x, y), axes, rng.uniform(0, 360), 0, 360, palette[int(rng.integers(4))], -1, cv2.LINE_AA)
    return picture


def _clutter(rng: np.random.Generator) -> Image:
    """Flat things lying about: papers, books, cloths, coins, with shadows."""
    picture = np.array(_FAMILIES[int(rng.integers(len(_FAMILIES) - 2))](rng), np.float32, order="C")
    for _ in range(int(rng.integers(6, 40))):
        center, angle = rng.uniform(0, SIZE, 2), rng.uniform(0, 360)
        size = rng.uniform(0.02, 0.3, 2) * SIZE * rng.uniform(0.3, 1)
        color = _color(rng, 0.9).tolist()
        shape = cv2.boxPoints(((center[0], center[1]), (size[0], size[1]), angle))
        kind = rng.random()
        offset = rng.uniform(1, 7, 2)
        if kind < 0.55:
            fallen = np.round(shape + offset).astype(np.int32)
            (x0, y0), (x1, y1) = np.maximum(fallen.min(axis=0) - 2, 0), np.maximum(fallen.max(axis=0) + 3, 0)
            lit = picture[y0:y1, x0:x1]
            shadow = lit.copy()
            if shadow.size:
                cv2.fillConvexPoly(shadow, fallen - (x0, y0), (0, 0, 0), cv2.LINE_AA)
                cv2.addWeighted(lit, 0.6, shadow, 0.4, 0, dst=shadow)
                lit[...] = shadow
            cv2.fillConvexPoly(picture, np.round(shape).astype(np.int32), color, cv2.LINE_AA)
            if rng.random() < 0.5:
                _write(picture, np.asarray(shape, np.float32), rng)
        elif kind < 0.8:
            middle, axes = tuple(np.round(center).astype(int)), tuple(np.round(size / 2 + 1).astype(int))
            cv2.ellipse(picture, middle, axes, angle, 0, 360, color, -1, cv2.LINE_AA)
            cv2.ellipse(
                picture, middle, axes, angle, 0, 360, _color(rng).tolist(), int(rng.integers(1, 6)), cv2.LINE_AA
            )
        else:
            points = (center + rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * size).astype(np.int32)
            if rng.random() < 0.5:
                cv2.polylines(picture, [points], False, color, int(rng.integers(1, 7)), cv2.LINE_AA)
            else:
                cv2.fillPoly(picture, [points], color, cv2.LINE_AA)
    return np.asarray(picture, np.float32)


def _write(picture: Image, shape: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Lines of text, seen from too far to read."""
    a, b, d = shape[0], shape[1] - shape[0], shape[3] - shape[0]
    ink = _color(rng, 0.3).tolist()
    lines = int(rng.integers(3, 16))
    for line in range(1, lines):
        x = 0.1
        while x < 0.85:
            word = rng.uniform(0.03, 0.16)
            start, end = a + b * x + d * line / lines, a + b * min(x + word, 0.9) + d * line / lines
            cv2.line(picture, tuple(np.round(start).astype(int)), tuple(np.round(end).astype(int)), ink, 1, cv2.LINE_AA)
            x += word + 0.03


def _keys(rng: np.random.Generator) -> Image:
    """Rows of keys or drawers."""
    picture = np.ascontiguousarray(np.broadcast_to(_color(rng, 0.3), (SIZE, SIZE, 3)), np.float32)
    rows, color, edge = int(rng.integers(3, 12)), _color(rng, 0.4).tolist(), _color(rng, 0.2).tolist()
    height = SIZE / rows
    for row in range(rows):
        x = rng.uniform(-1, 0) * height
        while x < SIZE:
            width = height * rng.choice([1, 1, 1, 1, 1.5, 2.2])
            gap = 0.08 * height
            corner = int(x + gap), int(row * height + gap)
            other = int(x + width - gap), int((row + 1) * height - gap)
            cv2.rectangle(picture, corner, other, color, -1)
            cv2.rectangle(picture, corner, other, edge, 2)
            x += width
    return picture


def _room(rng: np.random.Generator) -> Image:
    """Large upright blocks of different brightness: shelves, windows, people far away; out of focus."""
    picture = _mix(_color(rng, 0.3), _color(rng, 0.3), _grid()[0])
    picture = np.ascontiguousarray(picture)
    for _ in range(int(rng.integers(8, 30))):
        x, y = rng.uniform(-0.1, 1, 2) * SIZE
        w, h = rng.uniform(0.03, 0.4) * SIZE, rng.uniform(0.05, 0.7) * SIZE
        color = (_color(rng, 0.6) * rng.choice([0.5, 1.0, 1.3])).tolist()
        cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), color, -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 9)), np.float32)


def _grass(rng: np.random.Generator) -> Image:
    """Blades, straw, hair or scratches: many thin strokes."""
    picture = np.ascontiguousarray(np.broadcast_to(_color(rng, 0.6), (SIZE, SIZE, 3)), np.float32)
    base, spread, turn = _color(rng, 0.8), rng.uniform(0.1, 1.5), rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(300, 1200))):
        start, angle, length = rng.uniform(0, SIZE, 2), turn + rng.normal(0, spread), rng.uniform(5, 60)
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        color = np.clip(base * rng.uniform(0.4, 1.5), 0, 1).tolist()
        cv2.line(picture, tuple(start.astype(int)), tuple(end.astype(int)), color, int(rng.integers(1, 3)))
    return picture


def _dots(rng: np.random.Generator) -> Image:
    v, u = _grid()
    n, share = int(rng.integers(3, 24)), rng.uniform(0.2, 0.45)
    x, y = (u * n) % 1 - 0.5, (v * n) % 1 - 0.5
    return _mix(_color(rng), _color(rng), (np.hypot(x, y) < share).astype(np.float32))


def _hexagons(rng: np.random.Generator) -> Image:
    """Hexagonal tiles. Kept for evaluation."""
    v, u = _grid()
    n = 2 * int(rng.integers(2, 6))
    y = v * n
    best = np.full((SIZE, SIZE), np.inf, np.float32)
    second = best.copy()
    tone = np.zeros_like(best)
    tones = rng.uniform(0.75, 1.2, (64, 64)).astype(np.float32)
    for dy in (-1, 0, 1):
        row = np.floor(y) + dy
        x = u * n - 0.5 * (row % 2)
        for dx in (-1, 0, 1):
            column = np.floor(x) + dx
            distance = np.hypot(x - column - 0.5, (y - row - 0.5) * 0.87)
            closer = distance < best
            second = np.where(closer, best, np.minimum(second, distance))
            tone = np.where(closer, tones[(row % n).astype(int), (column % n).astype(int)], tone)
            best = np.minimum(best, distance)
    return np.where((second - best < 0.06)[..., None], _color(rng, 0.2), _color(rng) * tone[..., None]).astype(
        np.float32
    )


def _herringbone(rng: np.random.Generator) -> Image:
    """Slanted strips that change direction. Kept for evaluation."""
    v, u = _grid()
    columns, n = 2 * int(rng.integers(2, 5)), int(rng.integers(6, 18))
    column = np.floor(u * columns)
    slanted = v * n + np.where(column % 2 == 0, 1, -1) * (u * columns % 1) * n / columns
    strip = np.floor(slanted)
    tone = rng.uniform(0.7, 1.2, (columns, 4 * n)).astype(np.float32)[column.astype(int), strip.astype(int) % n]
    picture = _color(rng) * (tone * (1 + 0.1 * _smooth(rng, 128, 16)))[..., None]
    edge = np.minimum(np.abs(slanted - np.round(slanted)), np.abs(u * columns - np.round(u * columns)) * 2)
    return np.where((edge < 0.04)[..., None], picture * 0.45, picture).astype(np.float32)


def _contours(rng: np.random.Generator) -> Image:
    """Lines of equal height of a smooth landscape. Kept for evaluation."""
    height = _clouds(rng, 3, 4) * rng.uniform(4, 12)
    line = np.abs(height - np.round(height)) < 0.12
    return _mix(_mix(_color(rng), _color(rng), 0.5 + 0.1 * height), _color(rng), line.astype(np.float32))


_FAMILIES: tuple[Texture, ...] = (
    _noise, _plain, _plain, _wood, _wood, _tiles, _checker, _stripes, _fabric, _fabric, _marble, _terrazzo, _keys,
    _room, _grass, _dots, _clutter, _clutter,
)  # fmt: skip
_HELD_OUT: tuple[Texture, ...] = (_hexagons, _herringbone, _contours)


# --- planes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """A textured plane in the camera's frame: points X with normal · X = distance; normal (3,) towards the camera.

    right, down: unit vectors in the plane. texels: a metre. offset: of the texture. texture: index into the bank.
    tint: linear RGB factors. softness: levels by which it is out of focus.
    """

    normal: FloatArray
    distance: float
    right: FloatArray
    down: FloatArray
    texels: float
    offset: tuple[float, float]
    texture: int
    tint: FloatArray
    softness: float

    def row(self) -> FloatArray:
        """The numbers that the shader takes."""
        return np.concatenate(
            [
                self.normal, [self.distance], self.right, self.down, [self.texels], self.offset, [self.texture],
                self.tint, [2.0**self.softness],
            ]
        )  # fmt: skip

    @classmethod
    def facing(
        cls, rng: np.random.Generator, point: FloatArray, normal: FloatArray, texels: float, count: int, softness: float
    ) -> Plane:
        """The plane through a point, with a random texture of `count` turned at random."""
        normal = unit(normal)
        if normal @ point > 0:  # the camera must lie on its front
            normal = -normal
        turned = rng.normal(size=3)
        right = unit(turned - (turned @ normal) * normal)
        tint = np.clip(rng.normal(1, 0.06, 3), 0.7, 1.3) * rng.uniform(0.6, 1.1)
        offset = rng.uniform(0, SIZE, 2)
        return cls(
            normal, float(normal @ point), right, cross(normal, right), texels, (float(offset[0]), float(offset[1])),
            int(rng.integers(count)), tint, softness,
        )  # fmt: skip
