"""Crops of followed hands that do not flicker: in their size, and in how they are turned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wildhands_ros.estimation.wildhands.places import CropPlace
from wildhands_ros.hands import HandBox

_SECONDS = 0.09
"""Time constant with which a crop's size follows its box."""

_FARTHEST = 1.15
"""The most that it lags behind: by this factor the training's boxes are off as well."""

_FORGOTTEN_S = 0.5


class _OfFollowedHands:
    """A number for each followed hand, from one picture of a stream to the next."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, float]] = {}

    def reset(self) -> None:
        """A new stream begins."""
        self._last = {}

    def _before(self, box: HandBox, stamp_ns: int) -> tuple[float, float] | None:
        """The number, and how many seconds ago it was so; None where the hand was not seen just before `stamp_ns`."""
        before_ns, value = self._last.get(box.follow_id, (stamp_ns, 0.0))
        seconds = (stamp_ns - before_ns) * 1e-9
        return (value, seconds) if 0 < seconds < _FORGOTTEN_S else None

    def _keep(self, values: Mapping[int, float], stamp_ns: int) -> None:
        """Takes note of those of one picture, by `follow_id`; what is not followed (-1) belongs to no stream."""
        followed = {follow_id: (stamp_ns, value) for follow_id, value in values.items() if follow_id >= 0}
        if followed:
            recent = {k: last for k, last in self._last.items() if stamp_ns - last[0] < _FORGOTTEN_S * 1e9}
            self._last = {**recent, **followed}


class SteadyCrops(_OfFollowedHands):
    """Low-pass for the size of the crops of each followed hand; one for each stream.

    Boxes are drawn around landmarks and change their size a little from picture to picture, and the network's depth
    with them. A hand that is not followed, or was not seen for a while, gets the crop of its box.
    """

    def __call__(self, places: Sequence[CropPlace], boxes: Sequence[HandBox], stamp_ns: int) -> list[CropPlace]:
        """The crops about the same centres, for boxes of a picture taken at `stamp_ns`."""
        steady = [self._resized(place, box, stamp_ns) for place, box in zip(places, boxes, strict=True)]
        self._keep({box.follow_id: place.extent for place, box in zip(steady, boxes, strict=True)}, stamp_ns)
        return steady

    def _resized(self, place: CropPlace, box: HandBox, stamp_ns: int) -> CropPlace:
        before = self._before(box, stamp_ns)
        if before is None:
            return place
        extent, seconds = before
        lag = math.log(extent / place.extent) * math.exp(-seconds / _SECONDS)
        most = math.log(_FARTHEST)
        return CropPlace.square(place.center, place.extent * math.exp(min(max(lag, -most), most)))


class KnownRolls(_OfFollowedHands):
    """The rolls with which the followed hands of the last pictures were upright; one for each stream."""

    def __call__(self, box: HandBox, stamp_ns: int) -> float | None:
        """Radians, −π to π; None for a hand that is not followed or was not seen just before `stamp_ns`."""
        before = self._before(box, stamp_ns)
        return None if before is None else before[0]

    def keep(self, boxes: Sequence[HandBox], rolls: Sequence[float], stamp_ns: int) -> None:
        """Takes note of those of one picture, in radians."""
        known = zip(boxes, rolls, strict=True)
        self._keep({b.follow_id: math.remainder(roll, math.tau) for b, roll in known if math.isfinite(roll)}, stamp_ns)
