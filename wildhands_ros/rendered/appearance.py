"""What surfaces look like: materials, lights, and the compiled loop that shades a crop.

All colours are linear RGB, reflectances 0 to 1. Skin keeps its creases, nails, veins and blotches by solid textures,
evaluated at the place on the hand at rest that a sample shows, so that they move with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import NDArray

from wildhands_ros.rendered.backgrounds import LEVELS, SIZE
from wildhands_ros.rendered.rasteriser import weights

FloatArray = NDArray[np.float64]
Color = tuple[float, float, float]

ATTRIBUTES = 11
"""Numbers at each vertex: place at rest (3), factors on the colour (3), along, dorsal, nail (2), cover.

along, dorsal, nail: as in `arms.SkinMap`. cover: 1 where a glove would cover the skin.
"""


class Kind(IntEnum):
    """How a material's two colours are laid out."""

    SKIN = 0
    PLAIN = 1
    STRIPES = 2
    CHECKS = 3
    RINGS = 4
    SPECKLES = 5
    PATCHES = 6


class Glove(IntEnum):
    """What covers a hand."""

    NONE = 0
    SMOOTH = 1
    KNIT = 2
    STRIPED = 3
    WORK = 4


@dataclass(frozen=True)
class Material:
    """kind: layout of the colours. frequency: of that layout, 1/m. noise: irregularity of the colour, 0 to 1. gloss:
    strength of the highlight, sharpness: how small it is. bump, bump_frequency: irregularity of the surface and its
    1/m. metal: 0 or 1. glove: over skin, in the second colour. detail: strength of creases, knuckles and veins.
    nails: their colour, polished where `polish`.
    """

    kind: Kind
    color: Color
    second: Color = (0.5, 0.5, 0.5)
    frequency: float = 60.0
    noise: float = 0.1
    gloss: float = 0.1
    sharpness: float = 20.0
    bump: float = 0.05
    bump_frequency: float = 300.0
    metal: float = 0.0
    seed: float = 0.0
    glove: Glove = Glove.NONE
    detail: float = 1.0
    nails: Color = (0.6, 0.4, 0.35)
    polish: float = 0.0

    def row(self) -> FloatArray:
        """The numbers that the shader takes."""
        return np.array(
            [
                self.kind, *self.color, *self.second, self.frequency, self.noise, self.gloss, self.sharpness, self.bump,
                self.bump_frequency, self.metal, self.seed, self.glove, self.detail, *self.nails, self.polish,
            ]
        )  # fmt: skip


@dataclass(frozen=True)
class Lights:
    """Light from a direction with shadows (key), from another without (fill), and from all around (sky, ground).

    Directions are unit vectors towards the light in the camera's frame; `up` is where the sky is. name: what kind.
    """

    name: str
    key: FloatArray
    key_color: FloatArray
    fill: FloatArray
    fill_color: FloatArray
    up: FloatArray
    sky: FloatArray
    ground: FloatArray

    def row(self) -> FloatArray:
        """The numbers that the shader takes."""
        return np.concatenate(
            [self.key, self.key_color, self.fill, self.fill_color, self.up, self.sky, self.ground]
        )  # fmt: skip


_TURNS = 16
_around = np.arange(6) * (np.pi / 3) + np.arange(_TURNS)[:, None] * (np.pi / 3 / _TURNS)
_RADII = np.array([0.5, 1.0, 1.6, 0.7, 1.0, 2.0])
_NEIGHBOURS = np.stack([np.cos(_around) * _RADII, np.sin(_around) * _RADII], axis=-1)
"""(16, 6, 2): where occlusion of a sample by its neighbours is looked for, in several turns against patterns."""


@dataclass(frozen=True)
class ShadowMap:
    """Heights over a plane across the key light. frame: (3, 3) rows across, down, towards the light. A point p lies in
    cell (frame[:2] @ p − low) / cell at height frame[2] @ p."""

    frame: FloatArray
    low: tuple[float, float]
    cell: float
    heights: NDArray[np.float32]


@njit(cache=True, inline="always")
def _hash(x, y, z):  # type: ignore[no-untyped-def]
    h = (x * 374761393 + y * 668265263 + z * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1103515245) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 668265263) & 0xFFFFFFFF
    return (h ^ (h >> 15)) & 0xFFFFFFFF


_LATTICE = 512
_dice = np.random.default_rng(20)
_ORDER = _dice.permutation(_LATTICE).astype(np.int32)
_VALUES = _dice.uniform(-1, 1, _LATTICE)


@njit(cache=True, fastmath=True, error_model="numpy")
def noise(x, y, z):  # type: ignore[no-untyped-def]
    """Smooth noise with one bump a unit, -1 to 1, and its gradient; repeats after 512 units.

    Values on a lattice, chosen by repeated look-ups in a permutation (K. Perlin, "An image synthesizer", 1985).
    """
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    x, y, z = x - fx, y - fy, z - fz
    u, v, w = x * x * (3 - 2 * x), y * y * (3 - 2 * y), z * z * (3 - 2 * z)
    du, dv, dw = 6 * x * (1 - x), 6 * y * (1 - y), 6 * z * (1 - z)
    m = _LATTICE - 1
    p, q = _ORDER[i & m], _ORDER[(i + 1) & m]
    pj, qj, pk, qk = _ORDER[(p + j) & m], _ORDER[(q + j) & m], _ORDER[(p + j + 1) & m], _ORDER[(q + j + 1) & m]
    a, b, c, d = _VALUES[(pj + k) & m], _VALUES[(qj + k) & m], _VALUES[(pk + k) & m], _VALUES[(qk + k) & m]
    k += 1
    e, f, g, h = _VALUES[(pj + k) & m], _VALUES[(qj + k) & m], _VALUES[(pk + k) & m], _VALUES[(qk + k) & m]
    ab, cd, ef, gh = a + u * (b - a), c + u * (d - c), e + u * (f - e), g + u * (h - g)
    low, high = ab + v * (cd - ab), ef + v * (gh - ef)
    gx0, gx1 = (b - a) + v * ((d - c) - (b - a)), (f - e) + v * ((h - g) - (f - e))
    gx = du * (gx0 + w * (gx1 - gx0))
    gy = dv * ((cd - ab) + w * ((gh - ef) - (cd - ab)))
    gz = dw * (high - low)
    return low + w * (high - low), gx, gy, gz


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _smoothstep(low, high, t):  # type: ignore[no-untyped-def]
    t = min(max((t - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _bell(t):  # type: ignore[no-untyped-def]
    """Close to exp(-t²), and nothing beyond 2.2."""
    rest = 1.0 - t * t * 0.2066
    return rest * rest * rest * rest if rest > 0 else 0.0


@njit(cache=True, fastmath=True, error_model="numpy")
def _lit_shadow(x, y, z, frame, low_x, low_y, cell, heights, bias):  # type: ignore[no-untyped-def]
    """How much of the key light reaches a point, 0 to 1: four cells blended."""
    column = (frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z - low_x) / cell
    row = (frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z - low_y) / cell
    height = frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + bias
    size = heights.shape[0]
    i, j = int(np.floor(column)), int(np.floor(row))
    if i < 1 or j < 1 or i >= size - 2 or j >= size - 2:
        return 1.0
    s, t = column - i, row - j
    lit = 0.0
    for dj in range(-1, 3):  # a soft box of three cells
        wj = 1.0 - t if dj == -1 else (t if dj == 2 else 1.0)
        for di in range(-1, 3):
            wi = 1.0 - s if di == -1 else (s if di == 2 else 1.0)
            if heights[j + dj, i + di] <= height:
                lit += wi * wj
    return lit / 9.0


@njit(cache=True, fastmath=True, error_model="numpy")
def _surface(attribute, material, part, out):  # type: ignore[no-untyped-def]
    """Colour (3), bump (3), gloss, sharpness, softness of a material at a place; all into out."""
    kind = int(material[part, 0])
    x, y, z = (
        attribute[0] + material[part, 14],
        attribute[1] - material[part, 14],
        attribute[2] + 0.5 * material[part, 14],
    )
    along, dorsal, cover = attribute[6], attribute[7], attribute[10]
    f = material[part, 12]
    bump, bx, by, bz = noise(x * f, y * f, z * f)
    amount = material[part, 11]
    gloss, sharpness, soft = material[part, 9], material[part, 10], 0.0
    r, g, b = material[part, 1], material[part, 2], material[part, 3]
    if kind == 0 and not (material[part, 15] > 0 and cover > 0.5):  # skin
        soft = 1.0
        detail = material[part, 16]
        large = noise(x * 38, y * 38, z * 38)[0]
        middle = noise(x * 130, y * 130, z * 130)[0]
        palm = _smoothstep(0.25, -0.45, dorsal) * cover
        dark = 1.0 - min(1.0, (r + g + b) / 1.2)  # palms differ most from dark skin
        lighter = palm * (0.10 + 0.50 * dark)
        r, g, b = r + (0.56 - r) * lighter, g + (0.33 - g) * lighter, b + (0.25 - b) * lighter
        red = 0.10 * detail * large + 0.10 * detail * palm * middle
        r *= attribute[3] * (1 + 0.06 * middle + 0.4 * red)
        g *= attribute[4] * (1 + 0.08 * middle - 0.6 * red + 0.08 * bump * material[part, 8])
        b *= attribute[5] * (1 + 0.08 * middle - 0.6 * red + 0.10 * bump * material[part, 8])
        if cover > 0.5 and along > 0.5:
            joint = np.floor(along + 0.5)
            off = (along - joint) / (0.035 + 0.02 * (joint < 2))
            if joint <= 3:
                wobble = 0.6 * large
                line = _bell((off + wobble) * 1.48) + 0.6 * _bell((off + wobble - 2.4) * 1.48)
                crease = 0.38 * detail * line * _smoothstep(0.1, -0.5, dorsal)
                wrinkle = _bell(off * 0.22) * _smoothstep(0.1, 0.8, dorsal) * detail
                folds = 0.5 + 0.5 * np.sin(off * 5.2 + 2.5 * middle)
                shade = 1 - crease - wrinkle * (0.10 + 0.16 * folds)
                r, g, b = r * (0.35 + 0.65 * shade), g * shade, b * shade
        elif dorsal < 0 and cover > 0.5:  # lines of the palm
            fold = abs(large + 0.4 * middle)
            line = _bell(fold / 0.06) * 0.30 * detail * palm
            r, g, b = r * (1 - 0.7 * line), g * (1 - line), b * (1 - line)
        if dorsal > 0 and along < 1.2:  # veins of the back
            vein = noise(x * 55 + 7, y * 18, z * 55 + 3)[0]
            blue = _bell(vein / 0.13) * 0.20 * detail * dorsal
            r, g, b = r * (1 - blue), g * (1 - 0.45 * blue), b * (1 - 0.15 * blue)
        u, v = attribute[8], attribute[9]
        ellipse = u * u * u * u + v * v * v * v
        if ellipse < 1.5 and dorsal > 0.1 and along > 3:
            nail = _smoothstep(1.0, 0.8, ellipse)
            rim = _smoothstep(1.5, 1.0, ellipse) * (1 - nail) * 0.35
            r, g, b = r * (1 - rim), g * (1 - 1.2 * rim), b * (1 - 1.2 * rim)
            nr, ng, nb = material[part, 17], material[part, 18], material[part, 19]
            if material[part, 20] < 0.5 and u > 0.72:  # the free edge
                nr, ng, nb = 0.4 + 0.45 * nr, 0.34 + 0.45 * ng, 0.28 + 0.45 * nb
            r, g, b = r + (nr - r) * nail, g + (ng - g) * nail, b + (nb - b) * nail
            gloss, sharpness = gloss + (0.28 + 0.5 * material[part, 20]) * nail, sharpness + 40 * nail
            amount *= 1 - nail
    else:
        if kind == 0:  # a glove
            r, g, b = material[part, 4], material[part, 5], material[part, 6]
            glove = int(material[part, 15])
            if glove == 1:
                gloss, sharpness, amount = 0.35, 30.0, 0.10
                wrinkle = noise(x * 160, y * 160, z * 160)
                bx, by, bz = wrinkle[1], wrinkle[2], wrinkle[3]
            elif glove == 2 or glove == 3:
                gloss, sharpness, amount = 0.02, 5.0, 0.35
                knit = 0.5 + 0.5 * np.sin(along * 75) * np.sin(attribute[2] * 2200 + attribute[0] * 900)
                if glove == 3 and np.sin(along * 14 + 1.0) > 0.2:
                    r, g, b = material[part, 17], material[part, 18], material[part, 19]
                r, g, b = r * (0.72 + 0.35 * knit), g * (0.72 + 0.35 * knit), b * (0.72 + 0.35 * knit)
            else:
                gloss, sharpness, amount = 0.06, 8.0, 0.25
                if dorsal < 0.15 or along > 3.1:  # coated palm and finger tips
                    r, g, b = material[part, 17], material[part, 18], material[part, 19]
                    gloss = 0.2
        else:
            f2 = material[part, 7]
            t = 0.0
            if kind == 2:
                t = 1.0 if np.sin((x * 0.8 + y * 0.5 + z * 0.33) * f2 * 6.283) > 0 else 0.0
            elif kind == 3:
                t = float((int(np.floor(x * f2)) + int(np.floor(y * f2)) + int(np.floor(z * f2))) & 1)
            elif kind == 4:
                ring = noise(x * f2 * 0.3, y * f2 * 0.3, z * f2 * 0.06)[0]
                t = 0.5 + 0.5 * np.sin((x * f2 + 0.6 * ring * 6) * 3.0)
            elif kind == 5:
                t = _smoothstep(0.35, 0.5, noise(x * f2, y * f2, z * f2)[0])
            elif kind == 6:
                t = _smoothstep(-0.05, 0.05, noise(x * f2 * 0.4, y * f2 * 0.4, z * f2 * 0.4)[0])
            r, g, b = r + (material[part, 4] - r) * t, g + (material[part, 5] - g) * t, b + (material[part, 6] - b) * t
        irregular = 1 + material[part, 8] * (0.6 * noise(x * 45, y * 45, z * 45)[0] + 0.4 * bump)
        r, g, b = r * irregular, g * irregular, b * irregular
    out[0], out[1], out[2] = max(r, 0.004), max(g, 0.004), max(b, 0.004)
    out[3], out[4], out[5] = amount * bx, amount * by, amount * bz
    out[6], out[7], out[8] = gloss, sharpness, soft


_STARTS = np.cumsum([0, *(np.uint64((SIZE >> level) ** 2) for level in range(LEVELS - 1))]).astype(np.uint64)


@njit(cache=True, fastmath=True, error_model="numpy")
def _texel(texels, texture, level, u, v, out):  # type: ignore[no-untyped-def]
    """A texture's linear colour by bilinear interpolation at one level; u, v in texels of the largest."""
    shrink = 1.0 / (1 << level)
    u, v = (u + 0.5) * shrink - 0.5, (v + 0.5) * shrink - 0.5
    fu, fv = np.floor(u), np.floor(v)
    s, t = np.float32(u - fu), np.float32(v - fv)
    edge = SIZE >> level
    i, j = int(fu), int(fv)
    # unsigned numbers: compiled code need not look for negative ones
    start = _STARTS[np.uint64(level)]
    row0 = start + np.uint64((j & (edge - 1)) * edge)
    row1 = start + np.uint64(((j + 1) & (edge - 1)) * edge)
    i0, i1 = np.uint64(i & (edge - 1)), np.uint64((i + 1) & (edge - 1))
    which = np.uint64(texture)
    a, b, c, d = (1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t
    for channel in range(3):
        k = np.uint64(channel)
        value = (a * texels[which, row0 + i0, k] + b * texels[which, row0 + i1, k]
                 + c * texels[which, row1 + i0, k] + d * texels[which, row1 + i1, k]) * np.float32(1 / 255)  # fmt: skip
        out[channel] = value * value * (0.8 + 0.2 * value)  # close to sRGB's curve


@njit(cache=True, fastmath=True, error_model="numpy")
def shade(  # type: ignore[no-untyped-def]
    faces_seen,
    inverse,
    vertices,
    normals,
    attributes,
    faces,
    part_of_face,
    materials,
    lights,
    shadow_frame,
    shadow_low_x,
    shadow_low_y,
    shadow_cell,
    shadow_heights,
    planes,
    texels,
    far,
    fx,
    fy,
    cx,
    cy,
    in_rows,
    in_columns,
    out,
):
    """Shades a raster of two samples along each edge of a pixel into out (S / 2, S / 2, 3), linear.

    Each surface seen by a pixel's four samples is shaded once and counts by its samples. Pixels where in_rows or
    in_columns is False are left black.
    """
    size = out.shape[0]
    grid = faces_seen.shape[0]
    place = np.empty(ATTRIBUTES)
    surface = np.empty(9)
    color = np.empty(3)
    done = np.empty(4, np.bool_)
    reach = 0.011 * fx  # samples to which a centimetre reaches at a metre
    for row in range(size):
        for column in range(size):
            if not (in_rows[row] and in_columns[column]):
                out[row, column, 0], out[row, column, 1], out[row, column, 2] = 0.0, 0.0, 0.0
                continue
            total_r, total_g, total_b = 0.0, 0.0, 0.0
            for sample in range(4):
                done[sample] = False
            for sample in range(4):
                if done[sample]:
                    continue
                sj, si = 2 * row + sample // 2, 2 * column + sample % 2
                face = faces_seen[sj, si]
                part = part_of_face[face] if face >= 0 else -1
                depth = inverse[sj, si]
                share = 0.0
                for other in range(sample, 4):
                    oj, oi = 2 * row + other // 2, 2 * column + other % 2
                    other_face = faces_seen[oj, oi]
                    other_part = part_of_face[other_face] if other_face >= 0 else -1
                    if other_part == part and abs(inverse[oj, oi] - depth) <= 0.015 * depth:
                        done[other] = True
                        share += 0.25
                x, y = (si - cx) / fx, (sj - cy) / fy
                if face < 0:
                    _background(x, y, lights, shadow_frame, shadow_low_x, shadow_low_y, shadow_cell, shadow_heights,
                                planes, texels, far, fx, color)  # fmt: skip
                    total_r += share * color[0]
                    total_g += share * color[1]
                    total_b += share * color[2]
                    continue
                i0, i1, i2 = faces[face, 0], faces[face, 1], faces[face, 2]
                wa, wb, wc = weights(vertices, i0, i1, i2, x, y)
                for k in range(ATTRIBUTES):
                    place[k] = wa * attributes[i0, k] + wb * attributes[i1, k] + wc * attributes[i2, k]
                _surface(place, materials, part, surface)
                nx = wa * normals[i0, 0] + wb * normals[i1, 0] + wc * normals[i2, 0]
                ny = wa * normals[i0, 1] + wb * normals[i1, 1] + wc * normals[i2, 1]
                nz = wa * normals[i0, 2] + wb * normals[i1, 2] + wc * normals[i2, 2]
                length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
                nx, ny, nz = nx * length, ny * length, nz * length
                smooth_x, smooth_y, smooth_z = nx, ny, nz
                nx, ny, nz = nx - surface[3], ny - surface[4], nz - surface[5]
                length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
                nx, ny, nz = nx * length, ny * length, nz * length
                z = 1 / depth
                px, py, pz = x * z, y * z, z
                length = 1 / np.sqrt(x * x + y * y + 1)
                ex, ey, ez = -x * length, -y * length, -length

                # what neighbours in the picture hide of the light from all around
                radius = max(reach * depth, 2.0)
                hidden = 0.0
                turn = _hash(row, column, 7) & (_TURNS - 1)
                for k in range(6):
                    ni = min(max(int(si + radius * _NEIGHBOURS[turn, k, 0]), 0), grid - 1)
                    nj = min(max(int(sj + radius * _NEIGHBOURS[turn, k, 1]), 0), grid - 1)
                    near = inverse[nj, ni]
                    if near > 0:
                        qz = 1 / near
                        qx, qy = (ni - cx) / fx * qz - px, (nj - cy) / fy * qz - py
                        qz -= pz
                        q = np.sqrt(qx * qx + qy * qy + qz * qz) + 1e-6
                        rise = (qx * smooth_x + qy * smooth_y + qz * smooth_z) / q
                        if rise > 0.15:
                            hidden += (rise - 0.15) / (1 + (q / 0.035) ** 2)
                ambient = max(0.15, 1 - 0.44 * hidden)

                lit = _lit_shadow(px + 0.003 * smooth_x, py + 0.003 * smooth_y, pz + 0.003 * smooth_z, shadow_frame,
                                  shadow_low_x, shadow_low_y, shadow_cell, shadow_heights, 0.004)  # fmt: skip
                key = nx * lights[0] + ny * lights[1] + nz * lights[2]
                fill = nx * lights[6] + ny * lights[7] + nz * lights[8]
                up = 0.5 + 0.5 * (nx * lights[12] + ny * lights[13] + nz * lights[14])
                soft = surface[8]
                sharpness, gloss, metal = surface[7], surface[6], materials[part, 13]
                hx, hy, hz = ex + lights[0], ey + lights[1], ez + lights[2]
                length = 1 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
                half = max((nx * hx + ny * hy + nz * hz) * length, 0.0)
                highlight = (
                    gloss
                    * lit
                    * (1 if key > 0 else 0)
                    * half
                    / (sharpness - sharpness * half + half)
                    * (0.3 + 0.06 * sharpness)
                )
                facing = max(nx * ex + ny * ey + nz * ez, 0.0)
                edge = (1 - facing) ** 4 * (0.12 + 0.5 * gloss) * ambient
                for k in range(3):
                    wrap = soft * (0.30 if k == 0 else (0.14 if k == 1 else 0.09))
                    direct = max((key + wrap) / (1 + wrap), 0.0) * (
                        lit + (1 - lit) * 0.18 * soft * (1 if k == 0 else 0.4)
                    )
                    other = max((fill + wrap) / (1 + wrap), 0.0) * (0.35 + 0.65 * ambient)
                    around = (lights[18 + k] + (lights[15 + k] - lights[18 + k]) * up) * ambient
                    around *= 1 + soft * (1 - ambient) * (0.45 if k == 0 else 0.0)  # light in folds of skin is red
                    base = surface[k]
                    tint = 1 + metal * (base - 1)
                    value = base * (1 - 0.7 * metal) * (direct * lights[3 + k] + other * lights[9 + k] + around)
                    value += tint * (highlight * lights[3 + k] + edge * around * 1.5)
                    if metal > 0:
                        value += 0.5 * base * around * (0.3 + 0.7 * up)
                    if k == 0:
                        total_r += share * value
                    elif k == 1:
                        total_g += share * value
                    else:
                        total_b += share * value
            out[row, column, 0], out[row, column, 1], out[row, column, 2] = total_r, total_g, total_b


@njit(cache=True, fastmath=True, error_model="numpy")
def _background(  # type: ignore[no-untyped-def]
    x, y, lights, shadow_frame, shadow_low_x, shadow_low_y, shadow_cell, shadow_heights, planes, texels, far, fx, color
):
    """The nearest plane that the ray (x, y, 1) meets, or the far colour."""
    best, hit = 30.0, -1
    for index in range(planes.shape[0]):
        slope = planes[index, 0] * x + planes[index, 1] * y + planes[index, 2]
        if abs(slope) > 1e-6:
            t = planes[index, 3] / slope
            if 0.1 < t < best:
                best, hit = t, index
    if hit < 0:
        color[0], color[1], color[2] = far[0], far[1], far[2]
        return
    px, py, pz = x * best, y * best, best
    u = (px * planes[hit, 4] + py * planes[hit, 5] + pz * planes[hit, 6]) * planes[hit, 10] + planes[hit, 11]
    v = (px * planes[hit, 7] + py * planes[hit, 8] + pz * planes[hit, 9]) * planes[hit, 10] + planes[hit, 12]
    cosine = abs(planes[hit, 0] * x + planes[hit, 1] * y + planes[hit, 2]) / np.sqrt(x * x + y * y + 1)
    # texels to a pixel, and out of focus
    footprint = planes[hit, 10] * best * 2 / fx / max(cosine, 0.25) * planes[hit, 17]
    level = 0
    while footprint > 1.6 and level < LEVELS - 1:
        footprint *= 0.5
        level += 1
    _texel(texels, int(planes[hit, 13]), level, u, v, color)
    lit = _lit_shadow(px, py, pz, shadow_frame, shadow_low_x, shadow_low_y, shadow_cell, shadow_heights, 0.006)
    key = max(planes[hit, 0] * lights[0] + planes[hit, 1] * lights[1] + planes[hit, 2] * lights[2], 0.0) * lit
    fill = max(planes[hit, 0] * lights[6] + planes[hit, 1] * lights[7] + planes[hit, 2] * lights[8], 0.0)
    up = 0.5 + 0.5 * (planes[hit, 0] * lights[12] + planes[hit, 1] * lights[13] + planes[hit, 2] * lights[14])
    for k in range(3):
        around = lights[18 + k] + (lights[15 + k] - lights[18 + k]) * up
        color[k] *= planes[hit, 14 + k] * (key * lights[3 + k] + fill * lights[9 + k] + around)
