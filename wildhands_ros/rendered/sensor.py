"""What lens, sensor and encoder make of the light that reaches them: blur, exposure, noise, compression."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Sensor:
    """One camera's settings for one picture.

    motion: (x, y) of the blur in pixels of the picture; defocus: its radius. exposure: brightness that the picture's
    mean is brought to, 0 to 1. white: factors of red, green, blue. gamma: of the display curve; contrast: about
    middle grey. vignette: darkening at a corner of the picture, 0 to 1. noise: of the sensor at middle grey, read: of
    the dark, in display units 0 to 1. chroma: noise that differs between colours. quality: of the picture's JPEG, 0
    for none.
    """

    motion: tuple[float, float]
    defocus: float
    exposure: float
    white: tuple[float, float, float]
    gamma: float
    contrast: float
    vignette: float
    noise: float
    read: float
    chroma: float
    quality: int
    seed: int

    @classmethod
    def sampled(cls, rng: np.random.Generator, width: int, *, dim: bool) -> Sensor:
        """Settings for pictures `width` pixels wide, of a dim place or a usual one."""
        speed = width / 1280
        length = abs(rng.normal(0, 9)) * speed if rng.random() < 0.35 else 0.0
        angle = rng.uniform(0, 2 * np.pi)
        motion = (float(length * np.cos(angle)), float(length * np.sin(angle)))
        strong = (2.0 if dim else 1.0) * np.exp(rng.normal(-0.3, 0.7))
        white = np.exp(rng.normal(0, (0.07, 0.02, 0.09)))
        return cls(
            motion,
            float(abs(rng.normal(0.3, 0.9)) * speed),
            float(np.clip(np.exp(rng.normal(math.log(0.16 if dim else 0.24), 0.38)), 0.05, 0.6)),
            (float(white[0]), float(white[1]), float(white[2])),
            float(rng.uniform(1.9, 2.5)),
            float(rng.normal(1.06, 0.10)),
            float(rng.uniform(0, 0.45)),
            float(0.012 * strong),
            float(0.006 * strong),
            float(rng.uniform(0.1, 0.9)),
            int(rng.integers(35, 96)) if rng.random() < 0.7 else 0,
            int(rng.integers(1 << 30)),
        )

    def picture(
        self, light: Image, center: tuple[float, float], extent: float, width: int, height: int, stretch: float
    ) -> NDArray[np.uint8]:
        """The crop (S, S, 3) uint8 of linear light (S, S, 3), as this camera's pictures of that size would give it.

        center, extent: of the crop's square in pixels of the picture. stretch: pixels of the picture to one of the
        lens, where that was a fisheye. A crop of fewer pixels of the picture than its own is blurred accordingly. Black
        outside the picture.
        """
        size = light.shape[0]
        scale = size / extent
        light = _moved(light, self.motion[0] * scale, self.motion[1] * scale)
        sigma = self.defocus * scale * 0.7
        if sigma > 0.35:
            light = np.asarray(cv2.GaussianBlur(light, (0, 0), min(sigma, 9.0), borderType=cv2.BORDER_REPLICATE))
        pixels = extent / stretch
        small = size
        if pixels < 0.95 * size:
            small = max(int(round(pixels)), 24)
            light = np.asarray(cv2.resize(light, (small, small), interpolation=cv2.INTER_AREA))
        level = self.exposure / max(_mean(light), 1e-4)
        finer = min(1.0, size / pixels)  # a crop made smaller averages the noise
        step = extent / small
        x0, y0 = center[0] - extent / 2 + step / 2, center[1] - extent / 2 + step / 2
        shot = np.empty(light.shape, np.uint8)
        _expose(
            light, shot, level * self.white[0], level * self.white[1], level * self.white[2], 1 / self.gamma,
            self.contrast, self.vignette, self.noise * finer, self.read * finer, self.chroma, self.seed, x0, y0, step,
            float(width),
            float(height),
        )  # fmt: skip
        if self.quality:
            _, code = cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            shot = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        if small != size:
            shot = np.asarray(cv2.resize(shot, (size, size), interpolation=cv2.INTER_LINEAR))
        return _without_outside(shot, center, extent, width, height)


def _moved(light: Image, x: float, y: float) -> Image:
    """Blur along a line of x, y pixels."""
    length = math.hypot(x, y)
    if length < 1.2:
        return light
    scale = min(1.0, 31 / length)
    reach = math.ceil(max(abs(x), abs(y)) * scale / 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    t = np.linspace(-0.5, 0.5, 4 * reach + 5)
    np.add.at(kernel, (np.round(reach + t * y * scale).astype(int), np.round(reach + t * x * scale).astype(int)), 1.0)
    return np.asarray(cv2.filter2D(light, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE))


def _without_outside(
    shot: NDArray[np.uint8], center: tuple[float, float], extent: float, width: int, height: int
) -> NDArray[np.uint8]:
    size = shot.shape[0]
    offsets = (np.arange(size) - (size - 1) / 2) * (extent / size)
    columns, rows = center[0] + offsets, center[1] + offsets
    shot[:, (columns <= -0.5) | (columns >= width - 0.5)] = 0
    shot[(rows <= -0.5) | (rows >= height - 0.5)] = 0
    return shot


@njit(cache=True, fastmath=True, error_model="numpy")
def _mean(light):  # type: ignore[no-untyped-def]
    """Mean brightness of what is not black, highlights not counted in full."""
    total, count = 0.0, 1
    for row in range(0, light.shape[0], 2):
        for column in range(0, light.shape[1], 2):
            value = light[row, column, 1]
            if value > 0:
                total += min(value, np.float32(2.0))
                count += 1
    return total / count


_STEPS, _COARSE, _BRIGHTEST = 1024, 256, 4.0  # of the table: up to 1, from there on, and its end
_HALF, _WHITE = np.float32(0.5), np.float32(255)
_ONE, _NOTHING, _LEAST_DARK, _LEAST_SHOWN = np.float32(1), np.float32(0), np.float32(0.1), np.float32(0.02)
_A, _B, _C = np.uint32(374761393), np.uint32(668265263), np.uint32(1274126177)
_MIX, _MIX_AGAIN, _OWN = np.uint32(1103515245), np.uint32(0x297A2D39), np.uint32(0x9E3779B1)
_8, _13, _15, _16, _24, _BYTE = (np.uint32(n) for n in (8, 13, 15, 16, 24, 255))
_TO_SPREAD = np.float32(1 / 147.8)  # of the sum of four bytes


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _mixed(key):  # type: ignore[no-untyped-def]
    key = np.uint32(np.uint32(key ^ np.uint32(key >> _13)) * _MIX)
    key = np.uint32(np.uint32(key ^ np.uint32(key >> _16)) * _MIX_AGAIN)
    return np.uint32(key ^ np.uint32(key >> _15))


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _normal(key):  # type: ignore[no-untyped-def]
    """A number of about normal distribution for a well mixed uint32: the sum of its bytes."""
    total = np.uint32((key & _BYTE) + ((key >> _8) & _BYTE) + ((key >> _16) & _BYTE) + (key >> _24))
    return np.float32(np.int32(total) - np.int32(510)) * _TO_SPREAD


@njit(cache=True, fastmath=True, error_model="numpy")
def _expose(  # type: ignore[no-untyped-def]
    light, out, red, green, blue, power, contrast, vignette, shot, read, chroma, seed, x0, y0, step, width, height
):
    rows, columns, _ = light.shape
    length = np.uint64(3 * columns)
    half = 0.25 * (width * width + height * height)
    table = np.empty(_STEPS + _COARSE + 2, np.float32)  # from light to what is displayed
    for i in range(table.shape[0]):
        value = i / _STEPS if i <= _STEPS else 1 + (_BRIGHTEST - 1) / _COARSE * (i - _STEPS)
        if value > 0.7:  # a shoulder instead of a hard limit
            value = 1 - 0.3 * np.exp(-(value - 0.7) / 0.3)
        table[i] = value**power
    gains, aside, seen = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
    pixels = np.empty(length, np.uint32)
    for n in range(length):
        channel, column = n % np.uint64(3), n // np.uint64(3)
        gains[n] = red if channel == 0 else (green if channel == 1 else blue)
        dx = x0 + column * step - width / 2
        aside[n] = vignette * dx * dx / half
        pixels[n] = np.uint32(np.uint32(column) * _B)
    fine, coarse = np.float32(_STEPS), np.float32(_COARSE / (_BRIGHTEST - 1))
    last = np.float32(_STEPS + _COARSE)
    contrast, shot, read, chroma = np.float32(contrast), np.float32(shot), np.float32(read), np.float32(chroma)
    for row in range(rows):
        dy = y0 + row * step - height / 2
        bright = np.float32(1 - vignette * dy * dy / half)
        start = np.uint32(np.uint32(np.uint32(row) * _A) + np.uint32(np.uint32(seed) * _C))
        lights, shown = light[row].ravel(), out[row].ravel()
        for n in range(length):
            value = lights[n] * gains[n] * max(bright - aside[n], _LEAST_DARK)
            seen[n] = min(min(value, _ONE) * fine + max(value - _ONE, _NOTHING) * coarse, last)
        for n in range(length):
            place = seen[n]
            index = np.uint64(place)
            low = table[index]
            seen[n] = low + (place - np.float32(index)) * (table[index + np.uint64(1)] - low)
        _add_noise(length, start, pixels, seen, contrast, shot, read, chroma, shown)


@njit(cache=True, fastmath=True, error_model="numpy")
def _add_noise(length, start, pixels, seen, contrast, shot, read, chroma, shown):  # type: ignore[no-untyped-def]
    for n in range(length):
        value = seen[n]
        key = _mixed(np.uint32(start + pixels[n]))
        grey = _normal(key)
        own = _normal(_mixed(np.uint32(key + np.uint32(np.uint32(n) * _OWN))))
        spread = read + shot * np.sqrt(max(value, _LEAST_SHOWN))
        value = _HALF + (value - _HALF) * contrast + spread * (grey + (own - grey) * chroma)
        shown[n] = np.uint8(np.int32(min(max(value * _WHITE + _HALF, _NOTHING), _WHITE)))
