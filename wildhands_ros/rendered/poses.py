"""Natural poses of an empty hand: everyday postures, what lies between them, tips that meet, and some wilder ones.

Fingers do not move independently: joints of one finger bend together, neighbouring fingers follow each other, and the
fingers converge as they bend (Santello et al., "Postural hand synergies for tool use", J. Neurosci. 18, 1998; for the
end joint's two thirds Rijpkema & Girard, "Computer animation of knowledge-based human grasping", SIGGRAPH 1991).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.hand_model import HandLayer
from wildhands_ros.rendered.spheres import (
    BALLS_A_DIGIT,
    FIRST_ROW,
    INDEX,
    MIDDLE,
    PAD,
    PINKY,
    RING,
    THUMB,
    BallHand,
    BallHandModel,
    ball,
    overlaps,
)  # fmt: skip
from wildhands_ros.rendered.touches import Touch, digit_freedoms, pad_facing, side_facing, solve_touches

FloatArray = NDArray[np.float64]

MIRROR = np.diag([-1.0, 1.0, 1.0])
"""The left hand model is the right one's mirror image in x."""

_ALLOWED_OVERLAP = 0.0025
_ALLOWED_NEIGHBOURS = 0.004  # fingers lying side by side flatten each other
_CONVERGENCE = 0.4  # how much of their splay bent fingers lose
_MAX_TRIES = 12
_SEPARATIONS = 6

# Postures: (5, 4) thumb to little finger. Fingers: bend of base, middle and end joint, spread of the base; the thumb:
# its base's flexion, knuckle's and end's bend, and abduction (away from the palm). Radians; bends are measured from the
# straight finger (the thumb's base: from rest), spreads from the finger's usual direction at that bend, towards the
# thumb's side.
_OUT = (0.04, 0.08, 0.05)
_IN = (1.25, 1.5, 0.9)


def _posture(thumb: tuple[float, float, float, float], *fingers: tuple[float, ...]) -> FloatArray:
    return np.array([thumb, *((*finger, 0.0) if len(finger) == 3 else finger for finger in fingers)])


_THUMB_OUT = (-0.3, -0.05, 0.0, 0.05)
_THUMB_ASIDE = (0.0, 0.1, 0.05, -0.15)
_THUMB_OVER = (0.55, 0.75, 0.75, 0.15)
_THUMB_RELAXED = (0.15, 0.2, 0.15, 0.2)
POSTURES: dict[str, FloatArray] = {
    "flat": _posture(_THUMB_ASIDE, _OUT, _OUT, _OUT, _OUT),
    "together": _posture((0.1, 0.1, 0.0, -0.2), (*_OUT, -0.13), (*_OUT, -0.03), (*_OUT, 0.10), (*_OUT, 0.28)),
    "spread": _posture((-0.35, -0.1, 0.0, 0.0), (*_OUT, 0.13), (*_OUT, 0.02), (*_OUT, -0.08), (*_OUT, -0.2)),
    "stretched": _posture(
        (-0.4, -0.2, -0.2, 0.1),
        (-0.25, 0.0, 0.0, 0.15),
        (-0.25, 0.0, 0.0),
        (-0.22, 0.0, 0.0, -0.08),
        (-0.2, 0.0, 0.0, -0.2),
    ),
    "relaxed": _posture(_THUMB_RELAXED, (0.3, 0.35, 0.2), (0.38, 0.42, 0.25), (0.44, 0.46, 0.28), (0.48, 0.46, 0.28)),
    "resting": _posture(
        (0.1, 0.15, 0.1, 0.0), (0.15, 0.25, 0.12), (0.2, 0.3, 0.15), (0.22, 0.3, 0.16), (0.22, 0.28, 0.15)
    ),
    "limp": _posture((0.25, 0.25, 0.2, 0.2), (0.55, 0.6, 0.35), (0.65, 0.7, 0.4), (0.72, 0.75, 0.4), (0.75, 0.7, 0.4)),
    "hold": _posture(
        (0.3, 0.35, 0.3, 0.35), (0.65, 0.75, 0.4), (0.72, 0.85, 0.45), (0.76, 0.88, 0.46), (0.74, 0.82, 0.44)
    ),
    "hook": _posture(_THUMB_ASIDE, (0.1, 1.4, 0.8), (0.1, 1.5, 0.85), (0.1, 1.5, 0.85), (0.12, 1.4, 0.8)),
    "fist": _posture(_THUMB_OVER, _IN, (1.3, 1.6, 0.95), (1.3, 1.58, 0.95), (1.25, 1.5, 0.9)),
    "loose_fist": _posture(
        (0.4, 0.5, 0.4, 0.15), (0.95, 1.3, 0.7), (1.0, 1.35, 0.75), (1.05, 1.35, 0.75), (1.0, 1.3, 0.7)
    ),
    "thumb_up": _posture(
        (-0.35, -0.2, -0.2, -0.1), (1.2, 1.5, 0.9), (1.25, 1.55, 0.95), (1.25, 1.5, 0.95), (1.2, 1.45, 0.9)
    ),
    "point": _posture(
        (0.45, 0.6, 0.5, 0.1), (0.05, 0.06, 0.04), (1.15, 1.4, 0.85), (1.2, 1.45, 0.9), (1.15, 1.4, 0.85)
    ),
    "point_loosely": _posture(
        (0.2, 0.3, 0.2, 0.15), (0.2, 0.25, 0.15), (0.7, 0.8, 0.45), (0.85, 0.9, 0.5), (0.9, 0.85, 0.5)
    ),
    "gun": _posture(
        (-0.35, -0.1, -0.1, 0.0), (0.05, 0.06, 0.04), (1.15, 1.4, 0.85), (1.2, 1.45, 0.9), (1.15, 1.4, 0.85)
    ),
    "two": _posture((0.55, 0.7, 0.6, 0.1), (*_OUT, 0.14), (*_OUT, -0.12), (1.2, 1.45, 0.9), (1.15, 1.4, 0.85)),
    "two_together": _posture((0.55, 0.7, 0.6, 0.1), (*_OUT, -0.1), (*_OUT, 0.0), (1.2, 1.45, 0.9), (1.15, 1.4, 0.85)),
    "three": _posture((0.5, 0.7, 0.7, 0.25), (*_OUT, 0.1), _OUT, (*_OUT, -0.06), (1.1, 1.35, 0.8)),
    "three_with_thumb": _posture(_THUMB_OUT, (*_OUT, 0.1), _OUT, (1.15, 1.4, 0.85), (1.15, 1.4, 0.85)),
    "four": _posture((0.5, 0.6, 0.5, 0.0), (*_OUT, 0.06), _OUT, _OUT, (*_OUT, -0.08)),
    "horns": _posture((0.45, 0.6, 0.6, 0.2), _OUT, (1.15, 1.4, 0.85), (1.15, 1.4, 0.85), (0.1, 0.12, 0.08, -0.1)),
    "telephone": _posture(
        (-0.4, -0.2, -0.1, 0.0), (1.15, 1.4, 0.85), (1.2, 1.45, 0.9), (1.1, 1.35, 0.85), (0.1, 0.1, 0.06, -0.1)
    ),
    "little_finger": _posture(
        (0.4, 0.6, 0.5, 0.2), (1.15, 1.4, 0.85), (1.2, 1.45, 0.9), (1.1, 1.35, 0.85), (0.12, 0.12, 0.08, -0.1)
    ),
    "cupped": _posture(
        (0.15, 0.15, 0.1, 0.1),
        (0.5, 0.35, 0.2, -0.05),
        (0.55, 0.38, 0.2),
        (0.6, 0.38, 0.2, 0.03),
        (0.6, 0.35, 0.2, 0.1),
    ),
    "table_top": _posture(
        (0.2, 0.2, 0.1, 0.1), (1.1, 0.1, 0.06), (1.15, 0.1, 0.06), (1.15, 0.1, 0.06), (1.1, 0.1, 0.06)
    ),
    "claw": _posture(
        (-0.1, 0.4, 0.7, 0.3), (-0.05, 1.1, 0.7, 0.1), (-0.05, 1.15, 0.75), (0.0, 1.15, 0.75), (0.0, 1.1, 0.7, -0.12)
    ),
    "typing": _posture(
        (0.1, 0.1, 0.1, 0.05), (0.35, 0.65, 0.35), (0.35, 0.75, 0.4), (0.38, 0.72, 0.4), (0.36, 0.6, 0.35)
    ),
    "power": _posture(
        (0.3, 0.3, 0.35, 0.45), (0.85, 1.1, 0.6), (0.9, 1.15, 0.62), (0.95, 1.15, 0.62), (0.98, 1.05, 0.6)
    ),
    "precision": _posture(
        (0.3, 0.25, 0.3, 0.5), (0.75, 0.5, 0.3, 0.05), (0.8, 0.55, 0.3), (0.82, 0.55, 0.32), (0.85, 0.5, 0.3)
    ),
    "wide_grasp": _posture(
        (-0.1, 0.0, 0.2, 0.55), (0.3, 0.45, 0.25, 0.1), (0.32, 0.5, 0.28), (0.35, 0.5, 0.28), (0.38, 0.45, 0.25, -0.12)
    ),
    "ladder": _posture((0.2, 0.25, 0.2, 0.2), (0.2, 0.2, 0.12), (0.45, 0.5, 0.3), (0.75, 0.85, 0.5), (0.95, 1.05, 0.6)),
    "fan": _posture((0.0, 0.1, 0.1, 0.1), (0.75, 0.9, 0.5), (0.5, 0.6, 0.35), (0.3, 0.35, 0.2), (0.12, 0.15, 0.1)),
}
"""Named postures of an empty hand."""

# Which fingers' tips the thumb's meets; at a key it lies on the index finger's side
_TOUCHING: dict[str, tuple[int, ...]] = {
    "pinch_index": (INDEX,), "pinch_middle": (MIDDLE,), "pinch_ring": (RING,), "pinch_pinky": (PINKY,),
    "tripod": (INDEX, MIDDLE), "purse": (INDEX, MIDDLE, RING), "key": (INDEX,),
}  # fmt: skip
# Shares of the kinds of poses
_KINDS = ("posture", "between", "touching", "mixed", "wild")
_SHARES = (0.36, 0.22, 0.22, 0.12, 0.08)
# Everyday hands rest, hold and point more often than they count
_WEIGHTS = {"relaxed": 4.0, "resting": 4.0, "limp": 2.0, "hold": 3.0, "flat": 2.0, "fist": 2.0, "loose_fist": 2.0,
            "power": 3.0, "precision": 3.0, "point": 2.0, "typing": 1.5, "cupped": 1.5}  # fmt: skip


@dataclass(frozen=True)
class PosedHand:
    """rotations: (16, 3, 3) pose as a `Hand` has it, identity as its global orientation. name: of the posture."""

    rotations: FloatArray
    name: str

    def mirrored(self) -> PosedHand:
        """The same posture of the other hand."""
        return replace(self, rotations=mirrored_pose(self.rotations))


def mirrored_pose(rotations: FloatArray) -> FloatArray:
    """The other hand's pose (..., 3, 3), mirror image of this one in the hand model's x."""
    return np.asarray(MIRROR @ rotations @ MIRROR)


class PoseSampler:
    """Random natural poses of a right hand. Raises WildHandsError for a left hand's layer."""

    def __init__(self, layer: HandLayer) -> None:
        self._layer = layer
        self._model = BallHandModel(layer)
        self._hand = self._model.average
        self._allowed = allowed_overlaps(self._hand)
        self._names = tuple(POSTURES)
        weights = np.array([_WEIGHTS.get(name, 1.0) for name in self._names])
        self._chances = np.cumsum(weights / weights.sum())
        self._kinds = np.cumsum(_SHARES)
        self.tried = 0
        """How many poses were made, those that ran into themselves included."""

    def sample(self, rng: np.random.Generator) -> PosedHand:
        """A pose within the joints' limits whose fingers do not run into each other."""
        angles, name = self.sample_angles(rng)
        rotations = np.concatenate([np.eye(3)[None], self._hand.turned(angles)])
        return PosedHand(self._layer.pose_from_rotations(rotations), name)

    def sample_angles(self, rng: np.random.Generator) -> tuple[FloatArray, str]:
        """Angles from rest (15, 3) as `HandAnatomy` takes them, within its limits, and the posture's name."""
        for _ in range(_MAX_TRIES):
            self.tried += 1
            kind = _KINDS[int(np.searchsorted(self._kinds, rng.random() * self._kinds[-1]))]
            made = self._made(rng, kind)
            if made is None:
                continue
            angles, name = made
            if kind != "touching" or self.collides(angles):
                angles = separated(self._hand, self._allowed, angles, self._model.anatomy.limits)
                if kind == "touching":
                    name = f"{name}-"  # the tips may have parted
            if not self.collides(angles):
                return angles, name
        self.tried += 1
        return self.posture(rng, POSTURES["relaxed"], noise=0.3), "relaxed"

    def collides(self, angles: FloatArray) -> bool:
        """Whether fingers visibly run into each other or into the palm."""
        hand = self._hand
        return bool(overlaps(hand.centers(angles[None])[0], hand.radius, hand.digit, self._allowed).max() > 0.001)

    def posture(self, rng: np.random.Generator, fingers: FloatArray, noise: float = 1.0) -> FloatArray:
        """Angles from rest (15, 3) of a posture (5, 4), varied as people vary."""
        return vary(rng, self._model, fingers, noise)

    def _made(self, rng: np.random.Generator, kind: str) -> tuple[FloatArray, str] | None:
        if kind == "touching":
            return self._touching(rng)
        name = self._name(rng)
        if kind == "posture":
            return self.posture(rng, POSTURES[name]), name
        if kind == "between":
            share = rng.uniform(0.2, 0.8)
            fingers = (1 - share) * POSTURES[name] + share * POSTURES[self._name(rng)]
            return self.posture(rng, fingers), f"{name}-"
        if kind == "mixed":  # each finger goes its own part of the way
            parts = np.clip(rng.uniform(0, 1) + 0.35 * rng.standard_normal((5, 1)), 0, 1)
            fingers = (1 - parts) * POSTURES[name] + parts * POSTURES[self._name(rng)]
            return self.posture(rng, fingers, noise=1.5), "mixed"
        return self._wild(rng), "wild"

    def _name(self, rng: np.random.Generator) -> str:
        return self._names[min(int(np.searchsorted(self._chances, rng.random())), len(self._names) - 1)]

    def _wild(self, rng: np.random.Generator) -> FloatArray:
        """Anything that the joints allow, the end joints still following the middle ones."""
        limits, rest = self._model.anatomy.limits, self._model.anatomy.rest
        angles = rng.uniform(limits[..., 0], limits[..., 1]) * 0.9
        for digit in (INDEX, MIDDLE, RING, PINKY):
            row = FIRST_ROW[digit]
            bend = rng.uniform(0, 1.75) if rng.random() < 0.8 else rng.uniform(-0.1, 0.3)
            angles[row + 1, 0] = bend - rest[row + 1, 0]
            angles[row + 2, 0] = bend * rng.uniform(0.4, 0.8) - rest[row + 2, 0]
            angles[row, 0] *= rng.uniform(0.3, 1)
            angles[row, 1] *= 0.6
        angles[12] *= 0.7
        return self._model.anatomy.clamped(angles)

    def _touching(self, rng: np.random.Generator) -> tuple[FloatArray, str] | None:
        """Finger tips that meet the thumb's, or the thumb on the index finger's side."""
        name = tuple(_TOUCHING)[int(rng.integers(len(_TOUCHING)))]
        hand = self._hand
        if name == "key":
            bend = rng.uniform(0.7, 1.2)
            fingers = _posture((0.3, 0.3, 0.3, 0.0), (0.6, bend, 0.5), (0.75, bend + 0.1, 0.6), (0.85, bend + 0.1, 0.6),
                               (0.85, bend, 0.6))  # fmt: skip
            touches = [key_touch(rng, hand, 0.0)]
            free: tuple[int, ...] = (THUMB, INDEX)
        else:
            others = POSTURES[("relaxed", "flat", "limp", "hold", "fist")[int(rng.integers(5))]]
            share = rng.uniform(0.1, 1)
            fingers = share * others + (1 - share) * POSTURES["spread"]
            partners = _TOUCHING[name]
            reach = (0.5, 0.5, 0.3, 0.55)
            fingers[THUMB] = np.array(reach) + 0.1 * rng.standard_normal(4)
            for partner in partners:
                fingers[partner, :3] = np.array([0.85, 0.75, 0.4]) + rng.uniform(-0.3, 0.3) * np.array([1, -1, -0.6])
            touches = pinch_touches(rng, hand, partners, [0.0] * len(partners))
            free = (THUMB, *partners)
        start = self.posture(rng, fingers)
        angles, error = solve_touches(hand, start, touches, digit_freedoms(free), self._model.anatomy.limits)
        return (angles, name) if error < 0.002 else None


def vary(rng: np.random.Generator, model: BallHandModel, fingers: FloatArray, noise: float = 1.0) -> FloatArray:
    """Angles from rest (15, 3) of a posture (5, 4), with variations that fingers and joints share, within limits."""
    anatomy = model.anatomy
    rest, angles = anatomy.rest, np.zeros((15, 3))
    draws = rng.standard_normal((6, 4))
    whole = 0.08 * draws[5, 0]
    neighbour = draws[THUMB, 0]
    for digit in range(5):
        row = FIRST_ROW[digit]
        base, middle, end, spread = fingers[digit]
        own = draws[digit]
        if digit == THUMB:
            angles[row : row + 3, 0] = np.array([base, middle, end]) + noise * 0.12 * own[:3] - rest[row : row + 3, 0]
            angles[row, 1] = spread + noise * 0.12 * own[3]
            # The thumb's pad turns towards the fingers as it moves in front of the palm
            angles[row, 2] = 0.35 * (angles[row, 0] + angles[row, 1]) + noise * 0.06 * draws[5, 1]
            angles[row + 1, 1] = noise * 0.03 * draws[5, 2]
            continue
        neighbour = own[0] if digit == INDEX else 0.75 * neighbour + 0.66 * own[0]
        common = whole + 0.09 * neighbour
        base = base + noise * (common + 0.04 * own[1])
        bend = middle + noise * (1.2 * common + 0.05 * own[2])
        end = end + 0.62 * (bend - middle) + noise * 0.04 * own[3]
        angles[row : row + 3, 0] = np.array([base, bend, max(end, -0.2)]) - rest[row : row + 3, 0]
        converge = min(max(base, 0.0) / 1.4, 1.0)
        angles[row, 1] = spread - rest[row, 1] * _CONVERGENCE * converge + noise * 0.035 * draws[5, 3] * (digit - 2.5)
        angles[row, 1] += noise * 0.02 * own[1]
    return anatomy.clamped(angles)


def separated(hand: BallHand, allowed: FloatArray, angles: FloatArray, limits: FloatArray) -> FloatArray:
    """The same pose (15, 3) with fingers that ran into each other moved apart, as far as a few small steps help."""
    angles = angles.copy()
    length = 0.05 * hand.size
    for _ in range(_SEPARATIONS):
        deep = overlaps(hand.centers(angles[None])[0], hand.radius, hand.digit, allowed)
        if deep.max() < 0.0005:
            break
        turn = np.minimum(deep / length, 0.15)
        thumb = turn[THUMB].max()
        angles[12, 1] += 0.7 * thumb
        angles[12:15, 0] -= 0.2 * thumb
        for digit in (INDEX, MIDDLE, RING, PINKY):
            row = FIRST_ROW[digit]
            angles[row : row + 3, 0] -= 0.5 * turn[digit, 5]  # out of the palm
            for other in range(digit + 1, 5):
                angles[row, 1] += 0.6 * turn[digit, other]
                angles[FIRST_ROW[other], 1] -= 0.6 * turn[digit, other]
        angles = np.clip(angles, limits[..., 0], limits[..., 1])
    return angles


def pinch_touches(
    rng: np.random.Generator, hand: BallHand, fingers: tuple[int, ...], gaps: list[float]
) -> list[Touch]:  # fmt: skip
    """The thumb's pad against each finger's, somewhere between flat on the pad and on the tip."""
    towards_tip = rng.uniform(0.15, 0.75)
    thumb = ball(THUMB, PAD)
    facing = pad_facing(hand, THUMB, rng.uniform(0.1, 0.5))
    touches = [
        Touch(thumb, facing, ball(finger, PAD), pad_facing(hand, finger, towards_tip), gap)
        for finger, gap in zip(fingers, gaps, strict=True)
    ]
    for finger, other in zip(fingers[:-1], fingers[1:], strict=True):  # fingers that work together lie side by side
        sides = side_facing(hand, finger, 2, thumb_side=False), side_facing(hand, other, 2, thumb_side=True)
        touches.append(Touch(ball(finger, PAD), sides[0], ball(other, PAD), sides[1], -0.001))
    return touches


def key_touch(rng: np.random.Generator, hand: BallHand, gap: float) -> Touch:
    """The thumb's pad on the index finger's side, as a key is held."""
    place = int(rng.integers(3, 6))  # balls of the middle segment and the end's first
    side = side_facing(hand, INDEX, 1 if place < 5 else 2, thumb_side=True)
    return Touch(ball(THUMB, PAD), pad_facing(hand, THUMB, rng.uniform(0.0, 0.4)), ball(INDEX, place), side, gap)


def allowed_overlaps(hand: BallHand) -> FloatArray:
    """(B, B) how deep balls may overlap without harm: neighbours at the webs do so at rest, and flesh gives way."""
    centers = hand.centers(np.zeros((1, 15, 3)))[0]
    distance = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    deep = np.maximum(hand.radius[:, None] + hand.radius[None] - distance, 0)
    neighbours = (np.abs(hand.digit[:, None] - hand.digit[None]) == 1) & (hand.digit[:, None] * hand.digit[None] > 0)
    allowed = deep + np.where(neighbours, _ALLOWED_NEIGHBOURS, _ALLOWED_OVERLAP)
    # The thumb's first balls are the palm's flesh: where they meet the palm or the index finger's web is no collision
    base = np.arange(len(hand.radius)) < 2
    allowed[base] = allowed[:, base] = 1.0
    allowed[2, hand.digit == 5] = allowed[hand.digit == 5, 2] = 1.0
    knuckle = (np.arange(5 * BALLS_A_DIGIT) % BALLS_A_DIGIT) == 0
    palm = hand.digit == 5
    allowed[: len(knuckle)][np.ix_(knuckle, palm)] = 1.0
    allowed[np.ix_(palm, np.flatnonzero(knuckle))] = 1.0
    # The palm's points on the thumb's ball move with it
    thenar = palm & (hand.joint == 13)
    allowed[:BALLS_A_DIGIT, thenar] = 1.0
    return np.asarray(allowed)


def sample_wrist(rng: np.random.Generator) -> tuple[float, float, float]:
    """How the hand stands to its forearm: flexion (towards the palm), deviation (towards the thumb) and pronation (turn
    of the hand about the forearm relative to its far end); radians.

    Usual wrists are a little extended; the limits are those of active motion (AAOS 1965): flexion -70° to 75°,
    deviation -30° to 20°, pronation here at most 60° either way.
    """
    flexion = np.clip(rng.normal(-0.2, 0.35), -1.2, 1.3)
    room = 1 - 0.5 * abs(flexion)  # a bent wrist deviates less
    deviation = np.clip(rng.normal(-0.08, 0.16), -0.52 * room, 0.35 * room)
    pronation = np.clip(rng.normal(0, 0.35), -1.05, 1.05)
    return float(flexion), float(deviation), float(pronation)
