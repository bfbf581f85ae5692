"""The compiled loops that shade a crop, one row of pixels at a time.

Each surface that a pixel's four samples show is one fragment: it is shaded once and counts by its samples. A row's
fragments go through the stages together, each number of theirs in a line of its own, so that the stages without
branches run on several fragments at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from wildhands_ros.rendered.appearance import ATTRIBUTES, Glove, Kind
from wildhands_ros.rendered.backgrounds import LEVELS, SIZE
from wildhands_ros.rendered.rasteriser import weights
from wildhands_ros.samples import CROP_SIZE

# Indices are unsigned throughout: compiled code need not look for negative ones
_U = np.uint64
_LINE = _U(4 * CROP_SIZE)  # most fragments of a row
_2LINES, _3LINES = _U(8 * CROP_SIZE), _U(12 * CROP_SIZE)

# Lines of a row's numbers. The first are the attributes of `appearance`, interpolated
_ALONG, _DORSAL, _NAIL, _COVER = _U(6), _U(7), _U(8), _U(10)
_NORMAL = _U(ATTRIBUTES)
_PLACE = _NORMAL + _U(3)  # in the camera's frame
_BUMP = _PLACE + _U(3)  # noise with its gradient
_LARGE, _MIDDLE, _FINE = _BUMP + _U(4), _BUMP + _U(5), _BUMP + _U(6)  # noises
_COLOR = _BUMP + _U(7)
_GLOSS, _SHARPNESS, _SOFT = _COLOR + _U(3), _COLOR + _U(4), _COLOR + _U(5)
_LIT = _COLOR + _U(6)
_HIDDEN = _COLOR + _U(7)
_RADIUS, _TOWARDS = _COLOR + _U(8), _COLOR + _U(9)
_LINES = int(_TOWARDS) + 3
_CORNER = ATTRIBUTES + 3  # numbers at each vertex: its attributes and its normal

# Columns of materials' numbers, as `Material.row` has them; three of a colour begin at its column
_M_KIND, _M_COLOR, _M_SECOND, _M_FREQUENCY, _M_NOISE, _M_GLOSS, _M_SHARPNESS = 0, 1, 4, 7, 8, 9, 10
_M_BUMP, _M_BUMP_FREQUENCY, _M_METAL, _M_SEED, _M_GLOVE, _M_DETAIL, _M_NAILS, _M_POLISH = 11, 12, 13, 14, 15, 16, 17, 20
_SKIN, _STRIPES, _CHECKS = int(Kind.SKIN), int(Kind.STRIPES), int(Kind.CHECKS)
_RINGS, _SPECKLES, _PATCHES = int(Kind.RINGS), int(Kind.SPECKLES), int(Kind.PATCHES)
_SMOOTH, _KNIT, _STRIPED = int(Glove.SMOOTH), int(Glove.KNIT), int(Glove.STRIPED)

_TURNS, _WAYS = 16, 6
_around = np.arange(_WAYS)[:, None] * (np.pi / 3) + np.arange(_TURNS) * (np.pi / 3 / _TURNS)
_RADII = np.array([0.5, 1.0, 1.6, 0.7, 1.0, 2.0])[:, None]
_ASIDE = (np.cos(_around) * _RADII).astype(np.float32).ravel()
_BELOW = (np.sin(_around) * _RADII).astype(np.float32).ravel()
"""(6 · 16,): where occlusion of a fragment by its neighbours is looked for, in several turns against patterns."""


@njit(cache=True, fastmath=True, error_model="numpy")
def shade(  # type: ignore[no-untyped-def]
    faces_seen, inverse, vertices, corners, faces, part_of_face, materials, lights, shadow, planes, texels, far, lens,
    in_rows, in_columns, out,
):  # fmt: skip
    """Shades a raster of two samples along each edge of a pixel into out (S, S, 3), linear.

    faces_seen, inverse: as in `Raster`. vertices (V, 3), corners (V, 14) attributes and normals, faces, part_of_face,
    materials, planes, far, lights: as in `Scene`. shadow: numbers of a `ShadowMap`. texels: of a `TextureBank`, flat.
    lens: fx, fy, cx, cy of a `Window`. Pixels where in_rows or in_columns is False are left black.
    """
    size = out.shape[0]
    numbers = np.empty(_LINES * 4 * CROP_SIZE, np.float32)
    columns = np.empty(4 * CROP_SIZE, np.int32)
    samples = np.empty(4 * CROP_SIZE, np.int32)
    shares = np.empty(4 * CROP_SIZE, np.float32)
    parts = np.empty(4 * CROP_SIZE, np.int32)
    turns = np.empty(4 * CROP_SIZE, np.uint32)
    rest = np.empty(CROP_SIZE, np.float32)
    points = np.empty(3 * 4 * CROP_SIZE, np.float32)
    values = np.empty(4 * 4 * CROP_SIZE, np.float32)
    tints = _plane_tints(planes, lights)
    for row in range(size):
        for column in range(size):
            out[row, column, 0], out[row, column, 1], out[row, column, 2] = 0.0, 0.0, 0.0
        if not in_rows[row]:
            continue
        count = _split(row, faces_seen, inverse, part_of_face, in_columns, columns, samples, shares, rest)
        _backdrop(row, rest, planes, tints, texels, far, shadow, lens, numbers, out)
        if count:
            _interpolate(row, count, faces_seen, inverse, vertices, corners, faces, part_of_face, lens, columns,
                         samples, parts, numbers)  # fmt: skip
            _add_noises(count, materials, parts, numbers, points, values)
            _surfaces(count, materials, parts, numbers)
            _light(row, count, inverse, materials, parts, lights, shadow, lens, columns, samples, shares, turns,
                   numbers, out)  # fmt: skip


@njit(cache=True, fastmath=True, error_model="numpy")
def _split(row, faces_seen, inverse, part_of_face, in_columns, columns, samples, shares, rest):  # type: ignore[no-untyped-def]
    """A row's fragments: their columns, first samples (0 to 3), and shares of the pixel; returns how many there are.

    rest: (S,) what of each pixel shows no surface.
    """
    count = _U(0)
    done = np.zeros(4, np.bool_)
    top, low = faces_seen[2 * row], faces_seen[2 * row + 1]
    top_inverse, low_inverse = inverse[2 * row], inverse[2 * row + 1]
    for column in range(rest.shape[0]):
        rest[column] = 0.0
        if not in_columns[column]:
            continue
        i = _U(2 * column)
        a, b, c, d = top[i], top[i + _U(1)], low[i], low[i + _U(1)]
        if a < 0 and b < 0 and c < 0 and d < 0:
            rest[column] = 1.0
            continue
        for sample in range(4):
            done[sample] = False
        for sample in range(4):
            if done[sample]:
                continue
            face = a if sample == 0 else (b if sample == 1 else (c if sample == 2 else d))
            if face < 0:
                rest[column] += 0.25
                continue
            part = part_of_face[face]
            at = i + _U(sample & 1)
            depth = top_inverse[at] if sample < 2 else low_inverse[at]
            share = 0.25
            for other in range(sample + 1, 4):
                other_face = b if other == 1 else (c if other == 2 else d)
                if other_face < 0 or part_of_face[other_face] != part:
                    continue
                at = i + _U(other & 1)
                other_depth = top_inverse[at] if other < 2 else low_inverse[at]
                if abs(other_depth - depth) <= 0.015 * depth:
                    done[other] = True
                    share += 0.25
            columns[count], samples[count], shares[count] = column, sample, share
            count += _U(1)
    return count


# --- surfaces ---------------------------------------------------------------------------------------------------------


@njit(cache=True, fastmath=True, error_model="numpy")
def _interpolate(  # type: ignore[no-untyped-def]
    row, count, faces_seen, inverse, vertices, corners, faces, part_of_face, lens, columns, samples, parts, numbers
):
    """Each fragment's part, place in the camera's frame, attributes and normal."""
    fx, fy, cx, cy = lens
    for n in range(count):
        f = _U(n)
        i, j = 2 * columns[f] + (samples[f] & 1), 2 * row + (samples[f] >> 1)
        face = faces_seen[j, i]
        parts[f] = part_of_face[face]
        x, y, z = (i - cx) / fx, (j - cy) / fy, 1 / inverse[j, i]
        ia, ib, ic = _U(faces[face, 0]), _U(faces[face, 1]), _U(faces[face, 2])
        wa, wb, wc = weights(vertices, ia, ib, ic, x, y)
        wa, wb, wc = np.float32(wa), np.float32(wb), np.float32(wc)
        for k in range(_CORNER):
            u = _U(k)
            numbers[u * _LINE + f] = wa * corners[ia, u] + wb * corners[ib, u] + wc * corners[ic, u]
        numbers[_PLACE * _LINE + f] = x * z
        numbers[(_PLACE + _U(1)) * _LINE + f] = y * z
        numbers[(_PLACE + _U(2)) * _LINE + f] = z


_X, _Y, _Z = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)
_MIX, _MIX_AGAIN = np.uint32(0x2C1B3C6D), np.uint32(0x297A2D39)
_15, _12 = np.uint32(15), np.uint32(12)
_1, _2, _3, _6 = np.float32(1), np.float32(2), np.float32(3), np.float32(6)
_UNIT = np.float32(2.0**-31)


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _dice(key):  # type: ignore[no-untyped-def]
    """A number from -1 to 1 for each uint32."""
    key = np.uint32(key ^ np.uint32(key >> _15))
    key = np.uint32(key * _MIX)
    key = np.uint32(key ^ np.uint32(key >> _12))
    key = np.uint32(key * _MIX_AGAIN)
    key = np.uint32(key ^ np.uint32(key >> _15))
    return np.float32(np.int32(key)) * _UNIT


@njit(cache=True, fastmath=True, error_model="numpy")
def noises(count, points, out):  # type: ignore[no-untyped-def]
    """Smooth noise with one bump a unit, -1 to 1, and its gradient, at `count` points (3 lines) into out (4 lines).

    Values on a lattice blended by smooth steps (K. Perlin, "An image synthesizer", 1985).
    """
    for n in range(count):
        x, y, z = points[n], points[_LINE + n], points[_2LINES + n]
        fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
        i0 = np.uint32(np.uint32(np.int32(fx)) * _X)
        j0 = np.uint32(np.uint32(np.int32(fy)) * _Y)
        k0 = np.uint32(np.uint32(np.int32(fz)) * _Z)
        i1, j1, k1 = np.uint32(i0 + _X), np.uint32(j0 + _Y), np.uint32(k0 + _Z)
        x, y, z = x - fx, y - fy, z - fz
        u, v, w = x * x * (_3 - _2 * x), y * y * (_3 - _2 * y), z * z * (_3 - _2 * z)
        a, b = _dice(np.uint32(i0 ^ j0 ^ k0)), _dice(np.uint32(i1 ^ j0 ^ k0))
        c, d = _dice(np.uint32(i0 ^ j1 ^ k0)), _dice(np.uint32(i1 ^ j1 ^ k0))
        e, f = _dice(np.uint32(i0 ^ j0 ^ k1)), _dice(np.uint32(i1 ^ j0 ^ k1))
        g, h = _dice(np.uint32(i0 ^ j1 ^ k1)), _dice(np.uint32(i1 ^ j1 ^ k1))
        ab, cd, ef, gh = a + u * (b - a), c + u * (d - c), e + u * (f - e), g + u * (h - g)
        low, high = ab + v * (cd - ab), ef + v * (gh - ef)
        gx0, gx1 = (b - a) + v * ((d - c) - (b - a)), (f - e) + v * ((h - g) - (f - e))
        out[n] = low + w * (high - low)
        out[_LINE + n] = _6 * x * (_1 - x) * (gx0 + w * (gx1 - gx0))
        out[_2LINES + n] = _6 * y * (_1 - y) * ((cd - ab) + w * ((gh - ef) - (cd - ab)))
        out[_3LINES + n] = _6 * z * (_1 - z) * (high - low)


@njit(cache=True, fastmath=True, error_model="numpy")
def _add_noises(count, materials, parts, numbers, points, out):  # type: ignore[no-untyped-def]
    """The noises that `_surfaces` takes: irregularities of the surface, and three that are finer or coarser."""
    for n in range(count):  # the texture's place, shifted by the material's seed
        part = _U(parts[n])
        shift = np.float32(materials[part, _M_SEED])
        numbers[n] += shift
        numbers[_LINE + n] -= shift
        numbers[_2LINES + n] += np.float32(0.5) * shift
        bump = np.float32(
            160.0 if _smooth_glove(part, materials, numbers[_COVER * _LINE + n]) else materials[part, _M_BUMP_FREQUENCY]
        )
        points[n], points[_LINE + n], points[_2LINES + n] = (
            numbers[n] * bump, numbers[_LINE + n] * bump, numbers[_2LINES + n] * bump)  # fmt: skip
    noises(count, points, out)
    for n in range(count):
        for k in range(4):
            numbers[(_BUMP + _U(k)) * _LINE + n] = out[_U(k) * _LINE + n]

    for n in range(count):
        f = np.float32(38.0 if materials[_U(parts[n]), _M_KIND] == _SKIN else 45.0)
        points[n], points[_LINE + n], points[_2LINES + n] = (
            numbers[n] * f, numbers[_LINE + n] * f, numbers[_2LINES + n] * f)  # fmt: skip
    noises(count, points, out)
    for n in range(count):
        numbers[_LARGE * _LINE + n] = out[n]

    for n in range(count):
        part = _U(parts[n])
        kind, frequency = materials[part, _M_KIND], materials[part, _M_FREQUENCY]
        across = 130.0 if kind == _SKIN else frequency * (0.3 if kind == _RINGS else (0.4 if kind == _PATCHES else 1.0))
        along = np.float32(0.2 * across if kind == _RINGS else across)  # rings of wood
        f = np.float32(across)
        points[n], points[_LINE + n], points[_2LINES + n] = (
            numbers[n] * f, numbers[_LINE + n] * f, numbers[_2LINES + n] * along)  # fmt: skip
    noises(count, points, out)
    for n in range(count):
        numbers[_MIDDLE * _LINE + n] = out[n]

    for n in range(count):
        points[n] = numbers[n] * np.float32(55) + np.float32(7)
        points[_LINE + n] = numbers[_LINE + n] * np.float32(18)
        points[_2LINES + n] = numbers[_2LINES + n] * np.float32(55) + _3
    noises(count, points, out)
    for n in range(count):
        numbers[_FINE * _LINE + n] = out[n]


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _color(materials, part, first):  # type: ignore[no-untyped-def]
    return materials[part, first], materials[part, first + 1], materials[part, first + 2]


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _smooth_glove(part, materials, cover):  # type: ignore[no-untyped-def]
    return materials[part, _M_KIND] == _SKIN and materials[part, _M_GLOVE] == _SMOOTH and cover > 0.5


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _smoothstep(low, high, t):  # type: ignore[no-untyped-def]
    t = min(max((t - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _bell(t):  # type: ignore[no-untyped-def]
    """Close to exp(-t²), and nothing beyond 2.2."""
    rest = max(1.0 - t * t * 0.2066, 0.0)
    return rest * rest * rest * rest


@njit(cache=True, fastmath=True, error_model="numpy")
def _surfaces(count, materials, parts, numbers):  # type: ignore[no-untyped-def]
    """Colour, bump, gloss, sharpness and softness of each fragment's material at its place."""
    for n in range(count):
        part = _U(parts[n])
        kind = int(materials[part, _M_KIND])
        x, y, z = numbers[n], numbers[_LINE + n], numbers[_2LINES + n]
        along, dorsal = numbers[_ALONG * _LINE + n], numbers[_DORSAL * _LINE + n]
        cover = numbers[_COVER * _LINE + n]
        bump, large, middle = numbers[_BUMP * _LINE + n], numbers[_LARGE * _LINE + n], numbers[_MIDDLE * _LINE + n]
        amount = materials[part, _M_BUMP]
        gloss, sharpness, soft = materials[part, _M_GLOSS], materials[part, _M_SHARPNESS], 0.0
        r, g, b = _color(materials, part, _M_COLOR)
        if kind == _SKIN and not (materials[part, _M_GLOVE] > 0 and cover > 0.5):
            soft = 1.0
            detail = materials[part, _M_DETAIL]
            palm = _smoothstep(0.25, -0.45, dorsal) * cover
            dark = 1.0 - min(1.0, (r + g + b) / 1.2)  # palms differ most from dark skin
            lighter = palm * (0.10 + 0.50 * dark)
            r, g, b = r + (0.56 - r) * lighter, g + (0.33 - g) * lighter, b + (0.25 - b) * lighter
            red = 0.10 * detail * large + 0.10 * detail * palm * middle
            r *= numbers[_U(3) * _LINE + n] * (1 + 0.06 * middle + 0.4 * red)
            g *= numbers[_U(4) * _LINE + n] * (1 + 0.08 * middle - 0.6 * red + 0.08 * bump * materials[part, _M_NOISE])
            b *= numbers[_U(5) * _LINE + n] * (1 + 0.08 * middle - 0.6 * red + 0.10 * bump * materials[part, _M_NOISE])
            if cover > 0.5 and along > 0.5:
                joint = np.floor(along + 0.5)
                off = (along - joint) / (0.035 + 0.02 * (joint < 2))
                if joint <= 3:
                    wobble = 0.6 * large
                    line = _bell((off + wobble) * 1.48) + 0.6 * _bell((off + wobble - 2.4) * 1.48)
                    crease = 0.38 * detail * line * _smoothstep(0.1, -0.5, dorsal)
                    wrinkle = _bell(off * 0.22) * _smoothstep(0.1, 0.8, dorsal) * detail
                    folds = 0.0
                    if wrinkle > 0:
                        folds = 0.5 + 0.5 * np.sin(off * 5.2 + 2.5 * middle)
                    shade = 1 - crease - wrinkle * (0.10 + 0.16 * folds)
                    r, g, b = r * (0.35 + 0.65 * shade), g * shade, b * shade
            elif dorsal < 0 and cover > 0.5:  # lines of the palm
                fold = abs(large + 0.4 * middle)
                line = _bell(fold / 0.06) * 0.30 * detail * palm
                r, g, b = r * (1 - 0.7 * line), g * (1 - line), b * (1 - line)
            if dorsal > 0 and along < 1.2:  # veins of the back
                blue = _bell(numbers[_FINE * _LINE + n] / 0.13) * 0.20 * detail * dorsal
                r, g, b = r * (1 - blue), g * (1 - 0.45 * blue), b * (1 - 0.15 * blue)
            u, v = numbers[_NAIL * _LINE + n], numbers[(_NAIL + _U(1)) * _LINE + n]
            ellipse = u * u * u * u + v * v * v * v
            if ellipse < 1.5 and dorsal > 0.1 and along > 3:
                nail = _smoothstep(1.0, 0.8, ellipse)
                rim = _smoothstep(1.5, 1.0, ellipse) * (1 - nail) * 0.35
                r, g, b = r * (1 - rim), g * (1 - 1.2 * rim), b * (1 - 1.2 * rim)
                nr, ng, nb = _color(materials, part, _M_NAILS)
                if materials[part, _M_POLISH] < 0.5 and u > 0.72:  # the free edge
                    nr, ng, nb = 0.4 + 0.45 * nr, 0.34 + 0.45 * ng, 0.28 + 0.45 * nb
                r, g, b = r + (nr - r) * nail, g + (ng - g) * nail, b + (nb - b) * nail
                gloss, sharpness = gloss + (0.28 + 0.5 * materials[part, _M_POLISH]) * nail, sharpness + 40 * nail
                amount *= 1 - nail
        else:
            if kind == _SKIN:  # under a glove
                r, g, b = _color(materials, part, _M_SECOND)
                glove = int(materials[part, _M_GLOVE])
                if glove == _SMOOTH:
                    gloss, sharpness, amount = 0.35, 30.0, 0.10
                elif glove == _KNIT or glove == _STRIPED:
                    gloss, sharpness, amount = 0.02, 5.0, 0.35
                    shift = materials[part, _M_SEED]  # the knit follows the hand, not the seed
                    knit = 0.5 + 0.5 * np.sin(along * 75) * np.sin(
                        (z - 0.5 * shift) * 2200 + (x - shift) * 900
                    )  # fmt: skip
                    if glove == _STRIPED and np.sin(along * 14 + 1.0) > 0.2:
                        r, g, b = _color(materials, part, _M_NAILS)
                    r, g, b = r * (0.72 + 0.35 * knit), g * (0.72 + 0.35 * knit), b * (0.72 + 0.35 * knit)
                else:
                    gloss, sharpness, amount = 0.06, 8.0, 0.25
                    if dorsal < 0.15 or along > 3.1:  # coated palm and finger tips
                        r, g, b = _color(materials, part, _M_NAILS)
                        gloss = 0.2
            else:
                f = materials[part, _M_FREQUENCY]
                t = 0.0
                if kind == _STRIPES:
                    t = 1.0 if np.sin((x * 0.8 + y * 0.5 + z * 0.33) * f * 6.283) > 0 else 0.0
                elif kind == _CHECKS:
                    t = float((int(np.floor(x * f)) + int(np.floor(y * f)) + int(np.floor(z * f))) & 1)
                elif kind == _RINGS:
                    t = 0.5 + 0.5 * np.sin((x * f + 3.6 * middle) * 3.0)
                elif kind == _SPECKLES:
                    t = _smoothstep(0.35, 0.5, middle)
                elif kind == _PATCHES:
                    t = _smoothstep(-0.05, 0.05, middle)
                second_r, second_g, second_b = _color(materials, part, _M_SECOND)
                r, g, b = r + (second_r - r) * t, g + (second_g - g) * t, b + (second_b - b) * t
            irregular = 1 + materials[part, _M_NOISE] * (0.6 * large + 0.4 * bump)
            r, g, b = r * irregular, g * irregular, b * irregular
        numbers[_COLOR * _LINE + n] = max(r, 0.004)
        numbers[(_COLOR + _U(1)) * _LINE + n] = max(g, 0.004)
        numbers[(_COLOR + _U(2)) * _LINE + n] = max(b, 0.004)
        for k in range(1, 4):
            numbers[(_BUMP + _U(k)) * _LINE + n] *= amount
        numbers[_GLOSS * _LINE + n], numbers[_SHARPNESS * _LINE + n] = gloss, sharpness
        numbers[_SOFT * _LINE + n] = soft


# --- light ------------------------------------------------------------------------------------------------------------


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _hash(x, y):  # type: ignore[no-untyped-def]
    h = (x * 374761393 + y * 668265263 + 7 * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1103515245) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 668265263) & 0xFFFFFFFF
    return (h ^ (h >> 15)) & 0xFFFFFFFF


@njit(cache=True, fastmath=True, error_model="numpy")
def _add_shadows(count, places, normals, off, bias, shadow, numbers):  # type: ignore[no-untyped-def]
    """How much of the key light reaches each place, 0 to 1: a soft box of three cells.

    places, normals: first lines of the places and, where `off` is not 0, of the directions in which to move them by as
    much. Lines _LIT below 0 are left alone.
    """
    frame, low_x, low_y, cell, heights, lowest, highest = shadow
    size = heights.shape[0]
    flat, flat_lowest, flat_highest = heights.ravel(), lowest.ravel(), highest.ravel()
    f00, f01, f02 = frame[0, 0] / cell, frame[0, 1] / cell, frame[0, 2] / cell
    f10, f11, f12 = frame[1, 0] / cell, frame[1, 1] / cell, frame[1, 2] / cell
    f20, f21, f22 = frame[2, 0], frame[2, 1], frame[2, 2]
    low_x, low_y = low_x / cell, low_y / cell
    for n in range(count):
        if numbers[_LIT * _LINE + n] < 0:
            continue
        x, y, z = (numbers[places * _LINE + n], numbers[(places + _U(1)) * _LINE + n],
                   numbers[(places + _U(2)) * _LINE + n])  # fmt: skip
        if off != 0.0:
            x += off * numbers[normals * _LINE + n]
            y += off * numbers[(normals + _U(1)) * _LINE + n]
            z += off * numbers[(normals + _U(2)) * _LINE + n]
        column = f00 * x + f01 * y + f02 * z - low_x
        row = f10 * x + f11 * y + f12 * z - low_y
        if not (column >= 1 and row >= 1 and column < size - 2 and row < size - 2):
            numbers[_LIT * _LINE + n] = 1.0
            continue
        height = f20 * x + f21 * y + f22 * z + bias
        i, j = int(column), int(row)
        at = _U(j * size + i)
        if flat_highest[at] <= height:
            numbers[_LIT * _LINE + n] = 1.0
            continue
        if flat_lowest[at] > height:
            numbers[_LIT * _LINE + n] = 0.0
            continue
        s, t = column - i, row - j
        lit = 0.0
        for dj in range(4):
            wj = 1.0 - t if dj == 0 else (t if dj == 3 else 1.0)
            start = _U((j + dj - 1) * size + i - 1)
            across = 0.0
            across += 1.0 - s if flat[start] <= height else 0.0
            across += 1.0 if flat[start + _U(1)] <= height else 0.0
            across += 1.0 if flat[start + _U(2)] <= height else 0.0
            across += s if flat[start + _U(3)] <= height else 0.0
            lit += across * wj
        numbers[_LIT * _LINE + n] = lit / 9.0


_NEAREST_RADIUS, _FARTHEST, _TINY = np.float32(2), np.float32(1e-4), np.float32(1e-12)
_RISE, _FADE, _ZERO = np.float32(0.15), np.float32(1 / 0.035**2), np.float32(0)


@njit(cache=True, fastmath=True, error_model="numpy")
def _add_occlusion(row, count, inverse, lens, columns, samples, turns, numbers):  # type: ignore[no-untyped-def]
    """What neighbours in the picture hide of the light from all around each fragment, into line _HIDDEN."""
    reach = np.float32(0.011 * lens[0])  # samples to which a centimetre reaches at a metre
    across, down, cx, cy = np.float32(1 / lens[0]), np.float32(1 / lens[1]), np.float32(lens[2]), np.float32(lens[3])
    flat, grid, edge = inverse.ravel(), inverse.shape[0], np.float32(inverse.shape[0] - 1)
    for n in range(count):
        numbers[_HIDDEN * _LINE + n] = 0.0
        numbers[_RADIUS * _LINE + n] = max(reach / numbers[(_PLACE + _U(2)) * _LINE + n], _NEAREST_RADIUS)
        turns[n] = _hash(row, int(columns[n])) & (_TURNS - 1)
    for way in range(_WAYS):
        first = np.uint32(way * _TURNS)
        for n in range(count):
            turn = _U(first + turns[n])
            radius = numbers[_RADIUS * _LINE + n]
            column = np.float32(2 * columns[n] + (samples[n] & 1)) + radius * _ASIDE[turn]
            line = np.float32(2 * row + (samples[n] >> 1)) + radius * _BELOW[turn]
            i, j = int(min(max(column, _ZERO), edge)), int(min(max(line, _ZERO), edge))
            numbers[_TOWARDS * _LINE + n], numbers[(_TOWARDS + _U(1)) * _LINE + n] = i, j
            numbers[(_TOWARDS + _U(2)) * _LINE + n] = flat[_U(j * grid + i)]
        for n in range(count):
            # what is not there is too far to hide anything
            qz = _1 / max(numbers[(_TOWARDS + _U(2)) * _LINE + n], _FARTHEST)
            qx = (numbers[_TOWARDS * _LINE + n] - cx) * across * qz - numbers[_PLACE * _LINE + n]
            qy = (numbers[(_TOWARDS + _U(1)) * _LINE + n] - cy) * down * qz - numbers[(_PLACE + _U(1)) * _LINE + n]
            qz -= numbers[(_PLACE + _U(2)) * _LINE + n]
            squared = qx * qx + qy * qy + qz * qz
            rise = (qx * numbers[_NORMAL * _LINE + n] + qy * numbers[(_NORMAL + _U(1)) * _LINE + n]
                    + qz * numbers[(_NORMAL + _U(2)) * _LINE + n]) / np.sqrt(squared + _TINY)  # fmt: skip
            numbers[_HIDDEN * _LINE + n] += max(rise - _RISE, _ZERO) / (_1 + squared * _FADE)


@njit(cache=True, fastmath=True, error_model="numpy")
def _light(row, count, inverse, materials, parts, lights, shadow, lens, columns, samples, shares, turns, numbers, out):  # type: ignore[no-untyped-def]
    """Adds each fragment's light to its pixel."""
    for n in range(count):  # shadows matter only where the key light falls
        soft = numbers[_SOFT * _LINE + n]
        nx, ny, nz = (numbers[_NORMAL * _LINE + n], numbers[(_NORMAL + _U(1)) * _LINE + n],
                      numbers[(_NORMAL + _U(2)) * _LINE + n])  # fmt: skip
        length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-12))
        nx, ny, nz = nx * length, ny * length, nz * length
        numbers[_NORMAL * _LINE + n], numbers[(_NORMAL + _U(1)) * _LINE + n] = nx, ny
        numbers[(_NORMAL + _U(2)) * _LINE + n] = nz
        nx -= numbers[(_BUMP + _U(1)) * _LINE + n]
        ny -= numbers[(_BUMP + _U(2)) * _LINE + n]
        nz -= numbers[(_BUMP + _U(3)) * _LINE + n]
        length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-12))
        nx, ny, nz = nx * length, ny * length, nz * length
        numbers[(_BUMP + _U(1)) * _LINE + n], numbers[(_BUMP + _U(2)) * _LINE + n] = nx, ny
        numbers[(_BUMP + _U(3)) * _LINE + n] = nz
        key = nx * lights[0] + ny * lights[1] + nz * lights[2]
        numbers[_LIT * _LINE + n] = 0.0 if key > -0.3 * soft else -1.0
    _add_shadows(count, _PLACE, _NORMAL, 0.003, 0.004, shadow, numbers)
    _add_occlusion(row, count, inverse, lens, columns, samples, turns, numbers)

    for n in range(count):
        part = _U(parts[n])
        column = columns[n]
        px, py, pz = (numbers[_PLACE * _LINE + n], numbers[(_PLACE + _U(1)) * _LINE + n],
                      numbers[(_PLACE + _U(2)) * _LINE + n])  # fmt: skip
        nx, ny, nz = (numbers[(_BUMP + _U(1)) * _LINE + n], numbers[(_BUMP + _U(2)) * _LINE + n],
                      numbers[(_BUMP + _U(3)) * _LINE + n])  # fmt: skip

        ambient = max(0.15, 1 - 0.44 * numbers[_HIDDEN * _LINE + n])

        lit = max(numbers[_LIT * _LINE + n], 0.0)
        key = nx * lights[0] + ny * lights[1] + nz * lights[2]
        fill = nx * lights[6] + ny * lights[7] + nz * lights[8]
        up = 0.5 + 0.5 * (nx * lights[12] + ny * lights[13] + nz * lights[14])
        soft, gloss = numbers[_SOFT * _LINE + n], numbers[_GLOSS * _LINE + n]
        sharpness, metal = numbers[_SHARPNESS * _LINE + n], materials[part, _M_METAL]
        length = 1 / np.sqrt(px * px + py * py + pz * pz)
        ex, ey, ez = -px * length, -py * length, -pz * length
        highlight = 0.0
        if key > 0 and lit > 0:
            hx, hy, hz = ex + lights[0], ey + lights[1], ez + lights[2]
            length = 1 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
            half = max((nx * hx + ny * hy + nz * hz) * length, 0.0)
            highlight = gloss * lit * half / (sharpness - sharpness * half + half) * (0.3 + 0.06 * sharpness)
        facing = 1 - max(nx * ex + ny * ey + nz * ez, 0.0)
        facing *= facing
        edge = facing * facing * (0.12 + 0.5 * gloss) * ambient
        share, column = shares[n], _U(column)
        filled = 0.35 + 0.65 * ambient
        for k in range(3):
            wrap = soft * (0.30 if k == 0 else (0.14 if k == 1 else 0.09))
            inside = 1 / (1 + wrap)
            direct = max((key + wrap) * inside, 0.0) * (lit + (1 - lit) * 0.18 * soft * (1 if k == 0 else 0.4))
            other = max((fill + wrap) * inside, 0.0) * filled
            around = (lights[18 + k] + (lights[15 + k] - lights[18 + k]) * up) * ambient
            if k == 0:
                around *= 1 + soft * (1 - ambient) * 0.45  # light in folds of skin is red
            base = numbers[(_COLOR + _U(k)) * _LINE + n]
            tint = 1 + metal * (base - 1)
            value = base * (1 - 0.7 * metal) * (direct * lights[3 + k] + other * lights[9 + k] + around)
            value += tint * (highlight * lights[3 + k] + edge * around * 1.5)
            value += 0.5 * metal * base * around * (0.3 + 0.7 * up)
            out[row, column, k] += share * value


# --- what lies behind -------------------------------------------------------------------------------------------------

_STARTS = np.cumsum([0, *((SIZE >> level) ** 2 for level in range(LEVELS))]).astype(np.uint64)
_BEST, _HIT, _AT = _U(0), _U(1), _U(2)  # lines of a row's numbers, before those of its surfaces
_FAR, _GRAZING = np.float32(30.0), np.float32(1e-6)
_255TH = np.float32(1 / 255)


@njit(cache=True, error_model="numpy")
def _plane_tints(planes, lights):  # type: ignore[no-untyped-def]
    """(planes, 6) factors on a plane's colours in the shadow, and what the key light adds to them."""
    tints = np.empty((planes.shape[0], 6))
    for hit in range(planes.shape[0]):
        nx, ny, nz = planes[hit, 0], planes[hit, 1], planes[hit, 2]
        key = max(nx * lights[0] + ny * lights[1] + nz * lights[2], 0.0)
        fill = max(nx * lights[6] + ny * lights[7] + nz * lights[8], 0.0)
        up = 0.5 + 0.5 * (nx * lights[12] + ny * lights[13] + nz * lights[14])
        for k in range(3):
            around = lights[18 + k] + (lights[15 + k] - lights[18 + k]) * up
            tints[hit, k] = planes[hit, 14 + k] * (fill * lights[9 + k] + around)
            tints[hit, 3 + k] = planes[hit, 14 + k] * key * lights[3 + k]
    return tints


@njit(cache=True, fastmath=True, error_model="numpy")
def _backdrop(row, rest, planes, tints, texels, far, shadow, lens, numbers, out):  # type: ignore[no-untyped-def]
    """Adds the nearest plane that each pixel's ray meets, or the far colour, as much as no surface hides it."""
    fx, fy, cx, cy = lens
    count = _U(rest.shape[0])
    y = (2 * row - cy) / fy
    for n in range(count):
        numbers[_BEST * _LINE + n] = _FAR
        numbers[_HIT * _LINE + n] = -_1
    for index in range(planes.shape[0]):
        along = np.float32(planes[index, 0] * 2 / fx)
        start = np.float32(planes[index, 1] * y + planes[index, 2] - planes[index, 0] * cx / fx)
        distance, which, least = np.float32(planes[index, 3]), np.float32(index), np.float32(0.1)
        for n in range(count):
            slope = np.float32(np.int32(n)) * along + start
            t = distance / slope
            if abs(slope) > _GRAZING and t > least and t < numbers[_BEST * _LINE + n]:
                numbers[_BEST * _LINE + n], numbers[_HIT * _LINE + n] = t, which
    for n in range(count):
        best = numbers[_BEST * _LINE + n]
        x = (2.0 * np.float64(np.int32(n)) - cx) / fx
        numbers[_AT * _LINE + n], numbers[(_AT + _U(1)) * _LINE + n] = x * best, y * best
        numbers[(_AT + _U(2)) * _LINE + n] = best
        hit = int(numbers[_HIT * _LINE + n])
        shaded = rest[n] > 0 and hit >= 0 and (tints[hit, 3] > 0 or tints[hit, 4] > 0 or tints[hit, 5] > 0)
        numbers[_LIT * _LINE + n] = 0.0 if shaded else -1.0
    _add_shadows(count, _AT, _AT, 0.0, 0.006, shadow, numbers)

    for n in range(count):
        share = rest[n]
        if share == 0:
            continue
        hit = int(numbers[_HIT * _LINE + n])
        if hit < 0:
            for k in range(3):
                out[row, n, k] = share * far[k]
            continue
        px, py, pz = (numbers[_AT * _LINE + n], numbers[(_AT + _U(1)) * _LINE + n],
                      numbers[(_AT + _U(2)) * _LINE + n])  # fmt: skip
        which = _U(hit)
        texels_a_metre = planes[which, 10]
        u = (px * planes[which, 4] + py * planes[which, 5] + pz * planes[which, 6]) * texels_a_metre + planes[which, 11]
        v = (px * planes[which, 7] + py * planes[which, 8] + pz * planes[which, 9]) * texels_a_metre + planes[which, 12]
        cosine = abs(planes[which, 3]) / np.sqrt(px * px + py * py + pz * pz)
        # texels to a pixel, and out of focus
        footprint = texels_a_metre * pz * 2 / fx / max(cosine, 0.25) * planes[which, 17]
        level = 0
        while footprint > 1.6 and level < LEVELS - 1:
            footprint *= 0.5
            level += 1
        shrink = 1.0 / (1 << level)
        u, v = (u + 0.5) * shrink - 0.5, (v + 0.5) * shrink - 0.5
        fu, fv = np.floor(u), np.floor(v)
        s, t = np.float32(u - fu), np.float32(v - fv)
        i, j = int(fu), int(fv)
        edge = SIZE >> level
        start = _U(planes[which, 13]) * _STARTS[LEVELS] + _STARTS[_U(level)]
        row0, row1 = start + _U((j & (edge - 1)) * edge), start + _U(((j + 1) & (edge - 1)) * edge)
        i0, i1 = _U(i & (edge - 1)), _U((i + 1) & (edge - 1))
        wa, wb, wc, wd = (_1 - s) * (_1 - t), s * (_1 - t), (_1 - s) * t, s * t
        pa, pb, pc, pd = _U(3) * (row0 + i0), _U(3) * (row0 + i1), _U(3) * (row1 + i0), _U(3) * (row1 + i1)
        lit = max(numbers[_LIT * _LINE + n], np.float32(0))
        for k in range(3):
            c = _U(k)
            value = (wa * texels[pa + c] + wb * texels[pb + c] + wc * texels[pc + c] + wd * texels[pd + c]) * _255TH
            value = value * value * (np.float32(0.8) + np.float32(0.2) * value)  # close to sRGB's curve
            out[row, n, k] = share * value * (tints[which, c] + lit * tints[which, _U(3) + c])
