"""Hands that hold or touch things, in the nine classes of the grasp head.

Either the thing comes first (a bar laid into the palm: fingers close until they touch it) or the hand does (finger tips
solved to be a pen's width apart: the pen is put between them). What comes out is checked against the hand model's mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numba  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import WildHandsError
from wildhands_ros.estimation.wildhands.variant import GRASPS
from wildhands_ros.hand_model import HandLayer
from wildhands_ros.rendered import objects
from wildhands_ros.rendered.objects import Thing, TriangleMesh
from wildhands_ros.rendered.poses import (
    POSTURES,
    PoseSampler,
    allowed_overlaps,
    key_touch,
    mirrored_pose,
    pinch_touches,
    vary,
)  # fmt: skip
from wildhands_ros.rendered.spheres import (
    BALLS_A_DIGIT,
    FIRST_ROW,
    INDEX,
    MIDDLE,
    PAD,
    PALM,
    PINKY,
    RING,
    THUMB,
    TIP,
    BallHand,
    BallHandModel,
    ball,
    overlaps,
)  # fmt: skip
from wildhands_ros.rendered.touches import Touch, digit_freedoms, pad_facing, side_facing, solve_touches
from wildhands_ros.rendered.vectors import frame_of, norm, unit

FloatArray = NDArray[np.float64]
_Maker = Callable[[np.random.Generator], Thing]

NO_GRASP = GRASPS.index("none")
_SHARES = {"NP-Palm": 0.09, "NP-Fin": 0.12, "Pow-Pris": 0.2, "Pre-Pris": 0.2, "Pow-Circ": 0.09, "Pre-Circ": 0.13,
           "Later": 0.08, "Other": 0.07, "none": 0.02}  # fmt: skip
_TRIES = 200
_PATIENCE = 20  # tries after which small faults are put up with
_DEEPEST = 0.0045
_CONTACT = 0.0035
_SQUEEZE = 0.001  # how deep soft flesh gives way
_STEPS = 20
_FINGERS = (INDEX, MIDDLE, RING, PINKY)
_FULL_CURL = np.array([(0, 0, 0), *[(1.5, 1.7, 1.05)] * 4])

_OPEN = np.array([(-0.2, 0, 0, 0.2), *[(0.05, 0.12, 0.08, 0.0)] * 4])
_OPEN_WIDE = np.array(
    [(-0.2, 0, 0, 0.3), (0.05, 0.2, 0.1, 0.12), (0.05, 0.2, 0.1, 0), (0.05, 0.2, 0.1, -0.1), (0.05, 0.2, 0.1, -0.2)]
)
# Where the thumb's base starts to close from: well in front of the palm
_THUMB_WRAPPED = np.array([0.05, 0.55, 0.2])
_THUMB_OPPOSED = np.array([0.0, 0.55, 0.2])


@dataclass(frozen=True)
class GraspedHand:
    """A right hand (left after `mirrored`) with what it holds or touches.

    rotations: (16, 3, 3) pose as a `Hand` has it, identity as its global orientation.
    held: the thing's mesh in the hand model's coordinates with identity global orientation and no translation; None if
        there is none.
    grasp: index into `wildhands_ros.estimation.wildhands.variant.GRASPS`. object_name: what is held, empty if nothing
        is. thing: the same with its signed distance.
    """

    rotations: FloatArray
    held: TriangleMesh | None
    grasp: int
    object_name: str
    thing: Thing | None = None

    def mirrored(self) -> GraspedHand:
        """The other hand holding the thing's mirror image."""
        thing = None if self.thing is None else self.thing.mirrored()
        held = None if self.held is None else self.held.mirrored()
        return replace(self, rotations=mirrored_pose(self.rotations), held=held, thing=thing)


@dataclass(frozen=True)
class _Attempt:
    """angles: (15, 3) from rest. need: how many digits must touch the thing; the palm counts where `palm` is set."""

    angles: FloatArray
    thing: Thing
    need: int = 2
    palm: bool = False


class GraspSampler:
    """Random grasps of a right hand. Raises WildHandsError for a left hand's layer."""

    def __init__(self, layer: HandLayer) -> None:
        self._layer = layer
        self._model = BallHandModel(layer)
        self._poses = PoseSampler(layer)
        self._limits = self._model.anatomy.limits
        self._allowed = allowed_overlaps(self._model.average)
        owner = layer.data.weights.argmax(axis=1)
        self._owner = np.where(owner == 0, PALM, np.array([0, 1, 1, 1, 2, 2, 2, 4, 4, 4, 3, 3, 3, 0, 0, 0])[owner])
        self._chances = np.cumsum([_SHARES[name] for name in GRASPS])
        self._makers: dict[str, Callable[[np.random.Generator, BallHand], _Attempt | None]] = {
            "NP-Palm": self._palm_push, "NP-Fin": self._finger_push, "Pow-Pris": self._power_bar,
            "Pre-Pris": self._precision_bar, "Pow-Circ": self._power_ball, "Pre-Circ": self._precision_ball,
            "Later": self._lateral, "Other": self._other,
        }  # fmt: skip
        self.tried: dict[str, int] = dict.fromkeys(GRASPS, 0)
        """How many grasps of each class were tried, failed ones included."""

    def sample(self, rng: np.random.Generator, betas: FloatArray, grasp: int | None = None) -> GraspedHand:
        """A grasp by the hand of these shape coefficients (10,); of the class `grasp` (an index into GRASPS) if given.

        Raises WildHandsError where the shape is so odd that none can be found.
        """
        if grasp is None:
            grasp = int(np.searchsorted(self._chances, rng.random() * self._chances[-1]))
        name = GRASPS[grasp]
        if grasp == NO_GRASP:
            return GraspedHand(self._poses.sample(rng).rotations, None, grasp, "")
        hand = self._model.person(np.asarray(betas, dtype=np.float64))
        best: tuple[float, GraspedHand] | None = None
        for trial in range(_TRIES):
            self.tried[name] += 1
            attempt = self._makers[name](rng, hand)
            if attempt is None:
                continue
            fault, rotations = self._fault(attempt, hand, betas)
            if best is None or fault < best[0]:
                thing = attempt.thing
                best = fault, GraspedHand(rotations, thing.mesh, grasp, thing.name, thing)
            if best[0] <= 0 or (trial >= _PATIENCE and best[0] < 1):
                break
        if best is None:
            raise WildHandsError(f"no grasp of class {name} was found for this hand: its betas are no person's")
        return best[1]

    # --- the classes --------------------------------------------------------------------------------------------------

    def _power_bar(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """A bar or handle through the fist."""
        kinds = (
            objects.make_cylinder,
            objects.make_handle,
            objects.make_bottle,
            objects.make_knife,
            objects.make_block,
        )
        thing = _pick(rng, kinds)(rng)
        x, y, z = hand.frame.T
        axis = y + rng.normal(0.25, 0.15) * x + rng.normal(0, 0.06) * z
        along = max(thing.grip_half - 0.045 * hand.size, 0.0) * rng.uniform(-1, 1)
        at = hand.joints[4] + x * rng.uniform(-0.022, -0.002) * hand.size
        thing = _put(thing, _frame(rng, axis * (2 * rng.integers(2) - 1)), thing.grip + (0, 0, along), at - 0.12 * z)
        angles = vary(rng, self._model, _OPEN, 0.5)
        return self._wrapped(rng, hand, thing, angles, _THUMB_WRAPPED, rng.random() < 0.15)

    def _power_ball(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """A ball, an apple or a large lid in the palm."""
        kind = rng.integers(3)
        if kind == 2:
            thing = objects.make_lid(rng)
            normal = hand.frame[:, 2] + 0.2 * rng.standard_normal(3)
        else:
            make = objects.make_ball if kind == 0 else objects.make_pebble
            thing, normal = make(rng, 0.024, 0.04), rng.standard_normal(3)
        x, y, z = hand.frame.T
        at = hand.palm + x * rng.uniform(0.012, 0.035) * hand.size + y * rng.uniform(-0.006, 0.012)
        thing = _put(thing, _frame(rng, normal), thing.grip, at - 0.12 * z)
        return self._wrapped(rng, hand, thing, vary(rng, self._model, _OPEN_WIDE, 0.5), _THUMB_OPPOSED, False)

    def _wrapped(
        self, rng: np.random.Generator, hand: BallHand, thing: Thing, angles: FloatArray, thumb: FloatArray,
        index_out: bool,
    ) -> _Attempt | None:  # fmt: skip
        """Lays the thing onto the palm and closes the hand round it."""
        thing = self._approached(hand, thing, angles, hand.frame[:, 2], without_thumb=True)
        fingers = _FINGERS[1:] if index_out else _FINGERS
        angles, touched = self._closed(hand, thing, angles, fingers, _FULL_CURL, palm_too=True)
        if index_out:  # along the back of a knife
            angles, _ = self._closed(hand, thing, angles, (INDEX,), 0.35 * _FULL_CURL)
        if touched[list(_FINGERS)].sum() < 2:
            return None
        with_thumb = self._thumb_closed(rng, hand, thing, angles, thumb)
        return None if with_thumb is None else _Attempt(with_thumb, thing)

    def _precision_bar(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """Something thin or straight-sided between the thumb and one or more finger tips."""
        kind = rng.random()
        if kind < 0.4:
            thing, leads = objects.make_pen(rng), ((INDEX,), (INDEX, MIDDLE))[int(rng.integers(2))]
        elif kind < 0.7:
            few: tuple[_Maker, ...] = (
                objects.make_card,
                objects.make_key,
                objects.make_block,
                objects.make_phone,
                objects.make_knife,
            )
            thing, leads = _pick(rng, few)(rng), ((INDEX,), (MIDDLE,), (INDEX, MIDDLE))[int(rng.integers(3))]
        else:
            kinds = (objects.make_box, objects.make_block, objects.make_phone, objects.make_slab)
            thing, leads = _pick(rng, kinds)(rng), (MIDDLE,)
        many = kind >= 0.7
        gap = 2 * float(thing.size[0])
        if thing.name in ("pen", "key", "knife"):
            gap = 2 * float(-thing.distance(thing.grip[None])[0])
        angles = self._pinched(rng, hand, leads, gap)
        if angles is None:
            return None
        start, end = self._pads(hand, angles, leads[0])
        reach = np.array([0.0, 0.6 * min(thing.size[1], 0.03), 0.85 * thing.grip_half])
        x, y, _ = hand.frame.T
        if thing.name == "pen":
            away = hand.joints[1] - (start + end) / 2 if len(leads) == 2 else -x
            away = away + 0.5 * rng.standard_normal(3) * norm(away)
            reach = reach * rng.uniform(0.5, 1)
        else:
            away = (y if many else x) + 0.4 * rng.standard_normal(3)
        others = [digit for digit in _FINGERS if digit not in leads]
        opened = self._opened(angles, others, 0.5 if many else 0.25)
        placed = self._slid(rng, hand, thing, opened, (start, end), away, reach, centred=many)
        if placed is None:
            return None
        angles, _ = self._closed(hand, placed, opened, others, (0.8 if many else 0.25) * _FULL_CURL)
        return _Attempt(angles, placed)

    def _precision_ball(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """Something round held by the finger tips: a ball, a lid, a cup by its rim."""
        kind = rng.random()
        if kind < 0.35:
            thing = objects.make_ball(rng, 0.01, 0.036) if rng.random() < 0.6 else objects.make_pebble(rng, 0.01, 0.03)
        elif kind < 0.65:
            thing = objects.make_lid(rng)
        elif kind < 0.8:
            thing = objects.make_cup(rng, handle=False)
        else:
            thing = objects.make_bottle(rng)
        lead = INDEX if thing.size[0] < 0.016 and rng.random() < 0.7 else MIDDLE
        gap = 2 * float(thing.size[0])
        place = thing.grip
        if thing.name == "beaker":
            place = np.array([0, 0, thing.size[2] - 0.014])
        elif thing.name == "bottle":
            place = np.array([0, 0, thing.size[2] - 0.008])  # by its cap
        if thing.name in ("bottle", "beaker"):
            outside = np.array([[0.1, 0.0, place[2]]])
            gap = 2 * (0.1 - float(thing.distance(outside)[0]))
        angles = self._pinched(rng, hand, (lead,), gap)
        if angles is None:
            return None
        start, end = self._pads(hand, angles, lead)
        across = end - start
        away = (start + end) / 2 - hand.palm
        if thing.name in ("bottle", "beaker"):
            away = -away  # the opening towards the palm
        away = away + 0.15 * rng.standard_normal(3) * norm(away)
        rotation = _frame_of(across, away)
        thing = _put(thing, rotation, place, (start + end) / 2)
        others = [digit for digit in _FINGERS if digit != lead]
        opened = self._opened(angles, others, 0.6)
        for digit, spread in ((INDEX, 0.1), (RING, -0.08), (PINKY, -0.15)):
            if digit != lead:
                opened[FIRST_ROW[digit], 1] += spread * rng.uniform(0.3, 1)
        opened = self._model.anatomy.clamped(opened)
        angles, _ = self._closed(hand, thing, opened, others, 0.8 * _FULL_CURL)
        return _Attempt(angles, thing)

    def _lateral(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """A key or card between the thumb and the index finger's side."""
        thing = _pick(rng, (objects.make_key, objects.make_card, objects.make_phone, objects.make_slab))(rng)
        gap = 2 * float(-thing.distance(thing.grip[None])[0])
        bend = rng.uniform(0.7, 1.2)
        fingers = np.array([(0.2, 0.25, 0.3, 0.1), (0.6, bend, 0.5, 0.0), (0.75, bend + 0.1, 0.6, 0.0),
                            (0.85, bend + 0.1, 0.6, 0.0), (0.85, bend, 0.6, 0.0)])  # fmt: skip
        touch = key_touch(rng, hand, gap - 2 * _SQUEEZE)
        angles, error = solve_touches(
            hand, vary(rng, self._model, fingers), [touch], digit_freedoms((THUMB, INDEX)), self._limits
        )
        if error > 0.002:
            return None
        centers = hand.centers(angles[None])[0]
        points = self._between(hand, centers, touch.ball, touch.other_ball)
        reach = np.array([0.0, 0.5 * min(thing.size[1], 0.02), 0.9 * min(thing.grip_half, 0.1)])
        away = hand.frame[:, 0] + 0.5 * rng.standard_normal(3)
        placed = self._slid(rng, hand, thing, angles, points, away, reach)
        return None if placed is None else _Attempt(angles, placed)

    def _palm_push(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """A flat hand on a surface."""
        kinds = (objects.make_slab, objects.make_slab, objects.make_box, objects.make_plate, objects.make_phone,
                 objects.make_ball, objects.make_cylinder)  # fmt: skip
        thing = _pick(rng, kinds)(rng)
        x, y, z = hand.frame.T
        names = ("flat", "spread", "together", "resting", "stretched")
        angles = vary(rng, self._model, POSTURES[names[int(rng.integers(len(names)))]])
        normal = z + 0.12 * rng.standard_normal(3)
        turned = _frame(rng, normal) if thing.name in ("plate", "ball") else _frame(rng, normal)[:, [2, 0, 1]]
        at = hand.palm + x * rng.uniform(-0.01, 0.05) * hand.size + y * rng.uniform(-0.02, 0.02)
        thing = self._approached(hand, _put(thing, turned, np.zeros(3), at - 0.2 * z), angles, z)
        angles, _ = self._closed(hand, thing, angles, _FINGERS, 0.25 * _FULL_CURL)
        return _Attempt(angles, thing, need=1, palm=True)

    def _finger_push(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """Finger tips that press, push, type or stroke."""
        names = {"point": INDEX, "point_loosely": INDEX, "resting": MIDDLE, "typing": MIDDLE, "two_together": MIDDLE,
                 "relaxed": INDEX, "cupped": THUMB, "claw": MIDDLE}  # fmt: skip
        name = tuple(names)[int(rng.integers(len(names)))]
        angles = vary(rng, self._model, POSTURES[name])
        digit = names[name]
        towards = np.concatenate([np.eye(3)[None], hand.turned(angles)])
        row = FIRST_ROW[digit]
        turn = towards[row + 1] @ towards[row + 2] @ towards[row + 3]
        outward = turn @ pad_facing(hand, digit, rng.uniform(0.5, 1.3)) + 0.15 * rng.standard_normal(3)
        outward = unit(outward)
        kinds = (objects.make_slab, objects.make_slab, objects.make_phone, objects.make_box, objects.make_lid,
                 objects.make_ball, objects.make_plate, objects.make_card)  # fmt: skip
        thing = _pick(rng, kinds)(rng)
        frame = _frame(rng, outward)
        turned = frame if thing.name in ("plate", "ball", "lid") else frame[:, [2, 0, 1]]
        tip = hand.centers(angles[None], ball(digit, TIP), ball(digit, TIP) + 1)[0, 0]
        aside = frame[:, :2] @ (rng.uniform(-0.6, 0.6, 2) * min(thing.size[1], 0.1))
        thing = self._approached(hand, _put(thing, turned, np.zeros(3), tip + 0.3 * outward + aside), angles, -outward)
        centers = hand.centers(angles[None])[0]
        first = int((thing.distance(centers) - hand.radius).argmin())
        if first >= PALM * BALLS_A_DIGIT or first % BALLS_A_DIGIT < PAD:
            return None
        if name in ("typing", "resting", "claw"):
            angles, _ = self._closed(hand, thing, angles, _FINGERS, 0.2 * _FULL_CURL)
        return _Attempt(angles, thing, need=1)

    def _other(self, rng: np.random.Generator, hand: BallHand) -> _Attempt | None:
        """A bag on hooked fingers, a pen between two fingers, a ring on one."""
        kind = rng.random()
        x, y, z = hand.frame.T
        if kind < 0.45:
            thing = objects.make_bag(rng)
            angles = vary(rng, self._model, _OPEN, 0.5)
            for digit in _FINGERS:
                angles[FIRST_ROW[digit], 0] += 0.1
            at = hand.joints[5] - x * rng.uniform(0.012, 0.026) * hand.size - 0.12 * z
            up = -x + 0.5 * z + 0.1 * rng.standard_normal(3)
            thing = _put(thing, _frame_of(y + 0.1 * rng.standard_normal(3), up), thing.grip, at)
            thing = self._approached(hand, thing, angles, z, without_thumb=True)
            angles, touched = self._closed(hand, thing, angles, _FINGERS, _FULL_CURL, palm_too=True)
            angles[12:15] = vary(rng, self._model, POSTURES[("flat", "relaxed")[int(rng.integers(2))]])[12:15]
            return _Attempt(angles, thing) if touched.sum() >= 2 else None
        names = ("relaxed", "flat", "resting", "two", "cupped")
        angles = vary(rng, self._model, POSTURES[names[int(rng.integers(len(names)))]])
        if kind < 0.8:
            first = int(rng.integers(INDEX, RING))
            thing = objects.make_pen(rng)
            gap = 2 * float(-thing.distance(thing.grip[None])[0])
            which = int(rng.integers(3, 6))
            touch = Touch(ball(first, which), side_facing(hand, first, which // 3, False), ball(first + 1, which),
                          side_facing(hand, first + 1, which // 3, True), gap - 2 * _SQUEEZE)  # fmt: skip
            angles[[FIRST_ROW[first], FIRST_ROW[first + 1]], 0] = angles[FIRST_ROW[first], 0]
            angles, error = solve_touches(hand, angles, [touch], digit_freedoms((first, first + 1)), self._limits)
            if error > 0.002:
                return None
            points = self._between(hand, hand.centers(angles[None])[0], touch.ball, touch.other_ball)
            reach = np.array([0.0, 0.0, 0.6 * thing.grip_half])
            away = z * (2 * rng.integers(2) - 1) + 0.4 * rng.standard_normal(3)
            placed = self._slid(rng, hand, thing, angles, points, away, reach)
            return None if placed is None else _Attempt(angles, placed)
        digit = int(rng.integers(INDEX, PINKY + 1))
        which = (1, 3, 4)[int(rng.integers(3))]
        b = ball(digit, which)
        thick = rng.uniform(0.001, 0.0022)
        thing = objects.make_band(hand.radius[b] + thick - 0.0006, thick)
        centers = hand.centers(angles[None])[0]
        bone = centers[b + 1] - centers[b - 1]
        return _Attempt(angles, _put(thing, _frame(rng, bone), np.zeros(3), centers[b]), need=1)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _pinched(self, rng: np.random.Generator, hand: BallHand, leads: Sequence[int], gap: float) -> FloatArray | None:
        """Angles at which the thumb's pad and the leading fingers' are `gap` apart."""
        share = min(gap / 0.08, 1.0)
        fingers = (1 - share) * POSTURES["precision"] + share * POSTURES["wide_grasp"]
        fingers[THUMB] = (0.4 - 0.4 * share, 0.4, 0.3, 0.55)
        if rng.random() < 0.5 and gap < 0.03:  # the other fingers out of the way
            fingers[[digit for digit in _FINGERS if digit not in leads]] *= (
                rng.uniform(0.3, 1),
                rng.uniform(0.3, 1),
                0.6,
                1,
            )
        touches = pinch_touches(rng, hand, tuple(leads), [gap - 2 * _SQUEEZE] * len(leads))
        start = vary(rng, self._model, fingers)
        angles, error = solve_touches(hand, start, touches, digit_freedoms((THUMB, *leads)), self._limits)
        return angles if error < 0.0025 else None

    def _pads(self, hand: BallHand, angles: FloatArray, lead: int) -> tuple[FloatArray, FloatArray]:
        return self._between(hand, hand.centers(angles[None])[0], ball(THUMB, PAD), ball(lead, PAD))

    def _between(self, hand: BallHand, centers: FloatArray, a: int, b: int) -> tuple[FloatArray, FloatArray]:
        """Where the skins of two balls face each other."""
        towards = unit(centers[b] - centers[a])
        return centers[a] + towards * hand.radius[a], centers[b] - towards * hand.radius[b]

    def _opened(self, angles: FloatArray, digits: Sequence[int], amount: float) -> FloatArray:
        angles = angles.copy()
        for digit in digits:
            angles[FIRST_ROW[digit] : FIRST_ROW[digit] + 3, 0] -= amount * np.array([0.9, 0.6, 0.3])
        return self._model.anatomy.clamped(angles)

    def _slid(
        self, rng: np.random.Generator, hand: BallHand, thing: Thing, angles: FloatArray,
        points: tuple[FloatArray, FloatArray], away: FloatArray, reach: FloatArray, centred: bool = False,
    ) -> Thing | None:  # fmt: skip
        """Puts a thing between two points of skin, its x along their line and its z as near to `away` as it can be
        without running into the hand; held up to `reach` from its grip, towards -z unless `centred`."""
        centers, across = hand.centers(angles[None])[0], points[1] - points[0]
        if norm(across) < 1e-4:
            return None
        for trial in range(8):
            direction = away + 0.25 * trial * rng.standard_normal(3) * norm(away)
            low = -1.0 if centred else -0.2 - 0.1 * trial
            offset = reach * (0, rng.uniform(-1, 1), rng.uniform(-1, 1 if centred else max(low, -0.9) + 0.6))
            if centred:
                offset[2] *= 0.3
            placed = _put(thing, _frame_of(across, direction), thing.grip + offset, (points[0] + points[1]) / 2)
            if float((placed.distance(centers) - hand.radius).min()) > -0.0028:
                return placed
        return None

    def _approached(
        self, hand: BallHand, thing: Thing, angles: FloatArray, direction: FloatArray, without_thumb: bool = False
    ) -> Thing:
        """Moves a thing along a direction until it touches the hand."""
        centers, radius = hand.centers(angles[None])[0], hand.radius
        if without_thumb:
            keep = np.arange(len(radius)) >= BALLS_A_DIGIT
            centers, radius = centers[keep], radius[keep]
        moved = 0.0
        for _ in range(40):
            step = float((thing.distance(centers - moved * direction) - radius).min()) + _SQUEEZE
            moved += step
            if abs(step) < 0.0002 or moved > 0.5:
                break
        return thing.placed(thing.rotation, thing.translation + moved * direction)

    def _closed(
        self, hand: BallHand, thing: Thing, angles: FloatArray, digits: Sequence[int], curl: FloatArray,
        palm_too: bool = False,
    ) -> tuple[FloatArray, NDArray[np.bool_]]:  # fmt: skip
        """Bends fingers until they touch: first all joints, then those beyond the touching segment.

        curl: (5, 3) how far at most. Returns the angles and which digits touch.
        """
        angles, left = angles.copy(), curl.copy()
        touched, first_free = np.zeros(5, bool), dict.fromkeys(digits, 0)
        radius = hand.radius[: PALM * BALLS_A_DIGIT]
        fixed = hand.centers(angles[None], PALM * BALLS_A_DIGIT, len(hand.radius))[0]
        share = np.linspace(0, 1, _STEPS)
        for _ in range(3):
            if not first_free:
                break
            bend = np.zeros((15, 3))
            for digit, free in first_free.items():
                bend[FIRST_ROW[digit] + free : FIRST_ROW[digit] + 3, 0] = left[digit, free:]
            tried = np.clip(angles + share[:, None, None] * bend, self._limits[..., 0], self._limits[..., 1])
            centers = hand.centers(tried, 0, len(radius))
            gaps = thing.distance(centers.reshape(-1, 3)).reshape(_STEPS, -1) - radius + _SQUEEZE
            stops = gaps
            if palm_too:
                stops = np.minimum(gaps, _nearest(centers, fixed) - radius + 2 * _SQUEEZE)
            for digit, free in list(first_free.items()):
                start = digit * BALLS_A_DIGIT + (0, 3, 5)[free]
                mine = slice(start, (digit + 1) * BALLS_A_DIGIT)
                if free == 0 and palm_too:
                    mine = slice(start + 1, (digit + 1) * BALLS_A_DIGIT)
                nearest = stops[:, mine].min(axis=1)
                hit = np.flatnonzero(nearest < 0)
                rows = slice(FIRST_ROW[digit], FIRST_ROW[digit] + 3)
                if not len(hit):
                    angles[rows] = tried[-1, rows]
                    del first_free[digit]
                    continue
                i = int(hit[0])
                part = 0.0
                if i > 0:
                    part = share[i - 1] + (share[i] - share[i - 1]) * nearest[i - 1] / (nearest[i - 1] - nearest[i])
                which = mine.start + int(stops[i, mine].argmin())
                touched[digit] |= bool(gaps[i, which] < 0.002)
                angles[rows] = np.clip(angles[rows] + part * bend[rows], *np.moveaxis(self._limits[rows], -1, 0))
                left[digit] *= 1 - part
                free = int(hand.segment[which]) + 1
                if free > 2:
                    del first_free[digit]
                else:
                    first_free[digit] = free
        return angles, touched

    def _thumb_closed(
        self, rng: np.random.Generator, hand: BallHand, thing: Thing, angles: FloatArray, preferred: FloatArray
    ) -> FloatArray | None:
        """Finds a place for the thumb on the thing, near the preferred posture (3,) of its base."""
        bases, steps = 32, 12
        base = preferred + rng.standard_normal((bases, 3)) * (0.35, 0.3, 0.2)
        share = np.linspace(0, 1, steps)
        tried = np.broadcast_to(angles, (bases, steps, 15, 3)).copy()
        rest = self._model.anatomy.rest
        tried[:, :, 12] = base[:, None]
        tried[:, :, 12, 0] += 0.6 * share
        tried[:, :, 13, 0] = -0.25 + 0.85 * share - rest[13, 0] + 0.15 * rng.standard_normal((bases, 1))
        tried[:, :, 14, 0] = -0.2 + 1.0 * share - rest[14, 0] + 0.25 * rng.standard_normal((bases, 1))
        tried = np.clip(tried, self._limits[..., 0], self._limits[..., 1]).reshape(-1, 15, 3)
        centers = hand.centers(tried, 0, BALLS_A_DIGIT)
        gaps = thing.distance(centers.reshape(-1, 3)).reshape(bases, steps, -1) - hand.radius[:BALLS_A_DIGIT] + _SQUEEZE
        gaps[..., :3] += _SQUEEZE  # the ball of the thumb is soft
        nearest = gaps.min(axis=2)
        scores = np.linalg.norm((base - preferred) / (0.35, 0.3, 0.2), axis=1)
        # On the far side of the thing, seen from the palm, the thumb holds it; beside it, it does not
        middle = thing.translation + thing.rotation @ thing.grip
        axis = thing.rotation[:, 2]
        found: list[tuple[float, int, int]] = []
        for i in range(bases):
            hit = np.flatnonzero(nearest[i] < 0)
            if not len(hit) or hit[0] == 0:
                continue
            which = int(gaps[i, hit[0]].argmin())
            out = centers[i * steps + hit[0], which] - middle
            out = out - axis * (out @ axis)
            beside = 1 + float(out @ hand.frame[:, 2]) / norm(out)
            wrong_part = 0 if which >= PAD else 1.5 if which == 5 else 4
            found.append((float(scores[i]) + wrong_part + 2.5 * beside, i, int(hit[0])))
        for _, i, step in sorted(found)[:8]:
            before, after = nearest[i, step - 1], nearest[i, step]
            part = before / (before - after)
            result = angles.copy()
            pair = tried.reshape(bases, steps, 15, 3)[i, step - 1 : step + 1, 12:15]
            result[12:15] = (1 - part) * pair[0] + part * pair[1]
            deep = overlaps(hand.centers(result[None])[0], hand.radius, hand.digit, self._allowed)
            if deep[THUMB].max() < 0.0015:
                return result
        return None

    def _fault(self, attempt: _Attempt, hand: BallHand, betas: FloatArray) -> tuple[float, FloatArray]:
        """What is wrong with an attempt (0 and below: nothing; the larger the worse), and its pose."""
        pose = self._layer.pose_from_rotations(np.concatenate([np.eye(3)[None], hand.turned(attempt.angles)]))
        vertices, _ = self._layer.numpy(pose, betas, np.zeros(3))
        distances = attempt.thing.distance(vertices)
        deep = -float(distances.min())
        touching = np.bincount(self._owner[distances < _CONTACT], minlength=6) > 0
        missing = attempt.need - int(touching[:5].sum()) - int(attempt.palm and touching[PALM])
        inside = overlaps(hand.centers(attempt.angles[None])[0], hand.radius, hand.digit, self._allowed).max()
        faults = (deep - _DEEPEST) / 0.002, (inside - 0.0015) / 0.002, 2.0 * missing
        return float(max(faults)), pose


def _pick(rng: np.random.Generator, makers: Sequence[_Maker]) -> _Maker:
    return makers[int(rng.integers(len(makers)))]


def _put(thing: Thing, rotation: FloatArray, own: FloatArray, at: FloatArray) -> Thing:
    """The thing turned by `rotation`, with the point `own` of its own coordinates at `at`."""
    return thing.placed(rotation, at - rotation @ own)


def _frame(rng: np.random.Generator, z: FloatArray) -> FloatArray:
    """A rotation (3, 3) whose z points along `z`, at random otherwise."""
    z = unit(z)
    x = rng.standard_normal(3)
    return _frame_of(x - z * (x @ z), z)


def _frame_of(x: FloatArray, z: FloatArray) -> FloatArray:
    """A rotation (3, 3) whose x points along `x` and whose z is as near to `z` as can be."""
    x = unit(x)
    return frame_of(x, unit(z - x * (z @ x)))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest(points: FloatArray, others: FloatArray) -> FloatArray:
    """(N, B) distances of points (N, B, 3) to the nearest of others (P, 3)."""
    out = np.empty(points.shape[:2])
    for n in range(points.shape[0]):
        for b in range(points.shape[1]):
            best = 1e9
            for p in range(len(others)):
                d = 0.0
                for i in range(3):
                    d += (points[n, b, i] - others[p, i]) ** 2
                best = min(best, d)
            out[n, b] = np.sqrt(best)
    return out
