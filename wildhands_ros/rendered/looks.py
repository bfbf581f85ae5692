"""How people and things look: skin tones, gloves, sleeves, bands, materials, light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hands import Side
from wildhands_ros.rendered.appearance import ATTRIBUTES, Color, Glove, Kind, Lights, Material
from wildhands_ros.rendered.arms import ArmMesh
from wildhands_ros.rendered.vectors import unit

FloatArray = NDArray[np.float64]

GLOVE_SHARE = 0.08

# Linear reflectances of skin from light to dark, after measured spectra: red falls least
_TONES = np.array(
    [(0.66, 0.45, 0.36), (0.56, 0.345, 0.25), (0.44, 0.25, 0.165), (0.30, 0.16, 0.098), (0.185, 0.093, 0.055),
     (0.095, 0.047, 0.030)]
)  # fmt: skip
_LATEX: tuple[Color, ...] = (
    (0.05, 0.16, 0.45),
    (0.02, 0.02, 0.025),
    (0.75, 0.75, 0.72),
    (0.25, 0.12, 0.45),
    (0.1, 0.4, 0.3),
)


_LIGHTS = {"soft": 0.27, "window": 0.25, "lamp": 0.18, "sun": 0.12, "dim": 0.10, "coloured": 0.08}
_UP_TO = np.cumsum(list(_LIGHTS.values()))
# How often materials are laid out in each way
_CLOTHS = (Kind.PLAIN, Kind.PLAIN, Kind.PLAIN, Kind.STRIPES, Kind.CHECKS, Kind.PATCHES)
_THINGS = (Kind.PLAIN, Kind.PLAIN, Kind.PLAIN, Kind.STRIPES, Kind.CHECKS, Kind.RINGS, Kind.SPECKLES)
_HELD_OUT_THINGS = (Kind.PLAIN, Kind.PLAIN, Kind.PATCHES, Kind.PATCHES)


@dataclass(frozen=True)
class ArmLook:
    """How one person's arms look in one scene.

    skin: of hand and forearm, gloved or not. skin_type: fifth of the tones, 1 (light) to 5 (dark). girth: of the
    forearm. sleeve: its material or None for bare arms, where it begins (metres from the wrist) and how wide it is.
    band: a watch or bracelet, on which arm.
    """

    skin: Material
    skin_type: int
    girth: float
    sleeve: Material | None
    sleeve_start: float
    sleeve_width: float
    band: Material | None
    band_side: Side
    both_bands: bool
    band_start: float
    band_length: float
    band_thickness: float

    def attributes(self, arm: ArmMesh) -> FloatArray:
        """What the shader needs to know at the vertices of hand and forearm (V, 11)."""
        places = arm.rest_points
        hand = arm.hand_vertices
        values = np.zeros((len(places), ATTRIBUTES))
        values[:, :3] = places
        values[:, 3:6] = 1.0
        values[:hand, 3:6] = arm.layer.data.albedo
        values[:hand, 6], values[:hand, 7] = arm.skin.along, arm.skin.dorsal
        values[:, 8:10] = 9.0
        values[:hand, 8:10] = arm.skin.nail
        values[:hand, 10] = 1.0
        if self.skin.glove is not Glove.NONE:  # the cuff
            values[hand : hand + (len(places) - hand) // 4, 10] = 1.0
        return values


def color(rng: np.random.Generator, saturation: float = 0.9) -> Color:
    """Any colour of things."""
    value = rng.uniform(0.02, 0.85) ** 1.3
    hue = rng.uniform(0, 6)
    pure = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    mixed = value * (1 - saturation * rng.beta(1.0, 1.5) * (1 - pure))
    return float(mixed[0]), float(mixed[1]), float(mixed[2])


def sample_look(rng: np.random.Generator, person: np.random.Generator, *, held_out: bool = False) -> ArmLook:
    """rng: of the scene (clothes). person: of the identity (skin, build)."""
    tone = person.uniform(0, 5)
    low = int(tone)
    skin = _TONES[low] + (_TONES[min(low + 1, 5)] - _TONES[low]) * (tone - low)
    skin = skin * np.exp(person.normal(0, 0.10)) * np.exp(person.normal(0, (0.03, 0.04, 0.08)))
    detail = float(person.uniform(0.4, 1.5))
    girth = float(np.clip(person.normal(1.0, 0.09), 0.82, 1.25))
    mottled = float(person.uniform(0.5, 1.6))
    polished = person.random() < 0.12
    nails = color(person) if polished else _triple(0.5 * skin + 0.5 * np.array([0.66, 0.44, 0.38]))
    seed = float(person.uniform(0, 5))

    glove, cover, second = Glove.NONE, (0.5, 0.5, 0.5), nails
    if rng.random() < GLOVE_SHARE:
        glove = Glove(int(rng.integers(1, 5)))
        cover = _LATEX[int(rng.integers(len(_LATEX)))] if glove is Glove.SMOOTH else color(rng)
        second = color(rng)
    material = Material(
        Kind.SKIN, _triple(skin), cover, noise=mottled, gloss=float(rng.uniform(0.02, 0.16)),
        sharpness=float(rng.uniform(6, 30)), bump=float(rng.uniform(0.03, 0.10)),
        bump_frequency=float(rng.uniform(500, 1100)), seed=seed, glove=glove, detail=detail, nails=second,
        polish=float(polished),
    )  # fmt: skip
    sleeve = None
    if rng.random() < 0.62:
        kind = _CLOTHS[int(rng.integers(len(_CLOTHS)))]
        if held_out and kind is Kind.STRIPES:
            kind = Kind.SPECKLES
        sleeve = Material(
            kind, color(rng), color(rng), frequency=float(rng.uniform(20, 120)), noise=float(rng.uniform(0.1, 0.5)),
            gloss=0.02, sharpness=4.0, bump=float(rng.uniform(0.1, 0.4)), bump_frequency=float(rng.uniform(60, 1200)),
            seed=float(rng.uniform(0, 5)),
        )  # fmt: skip
    start = rng.uniform(0.0, 0.05) if rng.random() < 0.6 else rng.uniform(0.05, 0.24)
    band = None
    if rng.random() < 0.2:
        metal = float(rng.random() < 0.4)
        band = Material(
            Kind.PLAIN, color(rng, 0.4), noise=0.1, gloss=float(rng.uniform(0.1, 0.6)),
            sharpness=float(rng.uniform(15, 60)), metal=metal, bump=0.05,
        )  # fmt: skip
    return ArmLook(
        material, low + 1, girth, sleeve, float(start), float(rng.uniform(1.1, 1.38)), band,
        Side.LEFT if rng.random() < 0.7 else Side.RIGHT, bool(rng.random() < 0.15), float(rng.uniform(0.012, 0.045)),
        float(rng.uniform(0.003, 0.028)), float(rng.uniform(0.0012, 0.004)),
    )  # fmt: skip


def thing_material(rng: np.random.Generator, *, held_out: bool = False) -> FloatArray:
    """The numbers of a random thing's material."""
    kinds = _HELD_OUT_THINGS if held_out else _THINGS
    shiny = rng.random() < 0.4
    return Material(
        kinds[int(rng.integers(len(kinds)))], color(rng), color(rng), frequency=float(np.exp(rng.uniform(2.7, 5.5))),
        noise=float(rng.uniform(0, 0.4)), gloss=float(rng.uniform(0.2, 0.9) if shiny else rng.uniform(0, 0.12)),
        sharpness=float(rng.uniform(15, 70) if shiny else rng.uniform(4, 15)), bump=float(rng.uniform(0, 0.12)),
        bump_frequency=float(rng.uniform(50, 900)), metal=float(rng.random() < 0.12), seed=float(rng.uniform(0, 5)),
    ).row()  # fmt: skip


def sample_lights(rng: np.random.Generator, down: FloatArray) -> Lights:
    """Light of a room, a window, a lamp, the sun, or hardly any. down: where gravity pulls, in the camera's frame."""
    up = -down

    def above(height: float) -> FloatArray:
        v = rng.normal(size=3)
        v = v - (v @ up) * up
        return unit(unit(v) + height * up)

    name = str(tuple(_LIGHTS)[int(np.searchsorted(_UP_TO, rng.random() * _UP_TO[-1]))])
    warmth = rng.normal(0, 0.10)
    if name == "soft":
        key, sky, ground, fill = (
            rng.uniform(0.15, 0.6),
            rng.uniform(0.7, 1.1),
            rng.uniform(0.3, 0.7),
            rng.uniform(0, 0.2),
        )
    elif name == "window":
        key, sky, ground, fill = (
            rng.uniform(0.8, 1.6),
            rng.uniform(0.3, 0.7),
            rng.uniform(0.15, 0.4),
            rng.uniform(0, 0.3),
        )
    elif name == "lamp":
        key, sky, ground, fill = (
            rng.uniform(1.0, 2.0),
            rng.uniform(0.2, 0.5),
            rng.uniform(0.1, 0.3),
            rng.uniform(0, 0.4),
        )
        warmth += rng.uniform(0.05, 0.25)
    elif name == "sun":
        key, sky, ground, fill = (
            rng.uniform(2.0, 3.2),
            rng.uniform(0.15, 0.5),
            rng.uniform(0.1, 0.3),
            rng.uniform(0, 0.1),
        )
    elif name == "dim":
        key, sky, ground, fill = (
            rng.uniform(0.1, 0.5),
            rng.uniform(0.1, 0.3),
            rng.uniform(0.05, 0.2),
            rng.uniform(0, 0.2),
        )
    else:
        key, sky, ground, fill = (
            rng.uniform(0.5, 1.4),
            rng.uniform(0.2, 0.6),
            rng.uniform(0.1, 0.4),
            rng.uniform(0.2, 0.8),
        )
    spread = 0.35 if name == "coloured" else 0.06

    def tint(amount: float) -> FloatArray:
        warm = np.array([1 + amount, 1.0, 1 - 1.1 * amount])
        return np.asarray(np.clip(warm * np.exp(rng.normal(0, spread, 3)), 0.15, 2.5))

    return Lights(
        name, above(rng.uniform(0.15, 3.0)), key * tint(warmth), above(rng.uniform(-0.4, 1.0)), fill * tint(-warmth),
        up, sky * tint(-0.4 * warmth), ground * tint(0.5 * warmth + 0.05),
    )  # fmt: skip


def _triple(values: FloatArray) -> Color:
    clipped = np.clip(values, 0.01, 0.9)
    return float(clipped[0]), float(clipped[1]), float(clipped[2])
