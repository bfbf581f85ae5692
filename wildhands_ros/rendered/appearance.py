"""What surfaces look like: materials and lights, as the numbers that `shading` takes.

All colours are linear RGB, reflectances 0 to 1. Skin keeps its creases, nails, veins and blotches by solid textures,
evaluated at the place on the hand at rest that a sample shows, so that they move with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Color = tuple[float, float, float]
Heights = NDArray[np.float32]
ShadowNumbers = tuple[FloatArray, float, float, float, Heights, Heights, Heights]

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
    nails: their colour, polished where `polish`; what else a glove has of another colour is in it, too.
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
        """The numbers that the shader takes, whose columns `shading` names."""
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


@dataclass(frozen=True)
class ShadowMap:
    """Heights over a plane across the key light. frame: (3, 3) rows across, down, towards the light. A point p lies in
    cell (frame[:2] @ p − low) / cell at height frame[2] @ p."""

    frame: FloatArray
    low: tuple[float, float]
    cell: float
    heights: Heights

    def numbers(self) -> ShadowNumbers:
        """What the shader takes: the fields, and the lowest and highest of the 4 by 4 cells that light a point."""
        box, corner = np.ones((4, 4), np.uint8), (1, 1)
        lowest, highest = (np.asarray(f(self.heights, box, anchor=corner), np.float32) for f in (cv2.erode, cv2.dilate))
        return self.frame, *self.low, self.cell, self.heights, lowest, highest
