"""Crops of followed hands that do not flicker: in their size, and in how they are turned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wildhands_ros.estimation.wildhands.places import CropPlace
from wildhands_ros.hands import HandBox

_SECONDS = 0.09
"""Time constant with which a crop's size follows its box."""

_FARTHEST = 1.15
"""The most that it lags behind: by this factor the training's boxes are off as well."""

_FORGOTTEN_S = 0.5


class SteadyCrops:
    """Low-pass for the size of the crops of each followed hand; one for each stream.

    Boxes are drawn around landmarks and change their size a little from picture to picture, and the network's depth
    with them. A hand that is not followed, or was not seen for a while, gets the crop of its box.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, float]] = {}

    def reset(self) -> None:
        """A new stream begins."""
        self._last = {}

    def __call__(self, places: Sequence[CropPlace], boxes: Sequence[HandBox], stamp_ns: int) -> list[CropPlace]:
        """The crops about the same centres, for boxes of a picture taken at `stamp_ns`."""
        steady = []
        for place, box in zip(places, boxes, strict=True):
            if box.follow_id >= 0:
                place = self._resized(place, box.follow_id, stamp_ns)
                self._last[box.follow_id] = stamp_ns, place.extent
            steady.append(place)
        if any(box.follow_id >= 0 for box in boxes):  # others belong to no stream
            self._last = {k: (t, extent) for k, (t, extent) in self._last.items() if stamp_ns - t < _FORGOTTEN_S * 1e9}
        return steady

    def _resized(self, place: CropPlace, follow_id: int, stamp_ns: int) -> CropPlace:
        if follow_id not in self._last:
            return place
        before_ns, before = self._last[follow_id]
        seconds = (stamp_ns - before_ns) * 1e-9
        if not 0 < seconds < _FORGOTTEN_S:
            return place
        lag = math.log(before / place.extent) * math.exp(-seconds / _SECONDS)
        most = math.log(_FARTHEST)
        return CropPlace.square(place.center, place.extent * math.exp(min(max(lag, -most), most)))


class KnownRolls:
    """The rolls with which the followed hands of the last pictures were upright; one for each stream."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, float]] = {}

    def reset(self) -> None:
        """A new stream begins."""
        self._last = {}

    def __call__(self, box: HandBox, stamp_ns: int) -> float | None:
        """Radians, −π to π; None for a hand that is not followed or was not seen just before `stamp_ns`."""
        before_ns, roll = self._last.get(box.follow_id, (stamp_ns, 0.0))
        return roll if 0 < stamp_ns - before_ns < _FORGOTTEN_S * 1e9 else None

    def keep(self, boxes: Sequence[HandBox], rolls: Sequence[float], stamp_ns: int) -> None:
        """Takes note of those of one picture."""
        followed = {
            box.follow_id: (stamp_ns, math.remainder(roll, math.tau))
            for box, roll in zip(boxes, rolls, strict=True)
            if box.follow_id >= 0 and math.isfinite(roll)
        }
        if followed:  # others belong to no stream
            recent = {k: v for k, v in self._last.items() if stamp_ns - v[0] < _FORGOTTEN_S * 1e9}
            self._last = {**recent, **followed}
