"""Which TF frames belong to which hand: left, right, and left_2 for a second left hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from wildhands_ros.frames import stream_time
from wildhands_ros.hands import Hand, Side

_KEPT_NS = 10**9  # a hand not seen for longer gets a new track id as well (`TrackingConfig.max_gap_s`)


class FrameNames:
    """Names hands so that a followed hand keeps its frames. One instance per camera stream; not thread-safe.

    The first hand of a side has the plain name (the most probable one where several come together), others `left_2`,
    `left_3`, ... A hand keeps its place while it is followed (`Hand.track_id`), also past another one of its side that
    is more probable or seen when it is not; a second without it, and those behind it move up. A hand that comes takes
    the first place that nobody has in its picture. Hands that are not followed are ranked by score in each picture.
    """

    def __init__(self) -> None:
        self._places: dict[Side, dict[int, tuple[int, int]]] = {side: {} for side in Side}  # id → place, stamp
        self._stamp_ns: int | None = None

    def __call__(self, hands: Sequence[Hand], stamp_ns: int) -> list[tuple[str, Hand]]:
        """The valid hands of the next picture, each with the first part of its frames' names, left ones first.

        Hands that are not valid have no frames: TF cannot say "do not use". Where time goes backwards names are given
        anew, but not for pictures that only come late (`stream_time`).
        """
        stamp_ns = stream_time(self._stamp_ns, stamp_ns)
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self._places = {side: {} for side in Side}
        self._stamp_ns = stamp_ns
        named = []
        for side in Side:
            valid = [h for h in hands if h.side is side and h.valid and np.isfinite(h.joints).all()]
            placed = self._placed(valid, self._places[side], stamp_ns)
            named += [(side.value if p == 1 else f"{side.value}_{p}", placed[p]) for p in sorted(placed)]
        return named

    def _placed(self, hands: list[Hand], places: dict[int, tuple[int, int]], stamp_ns: int) -> dict[int, Hand]:
        """The hands of one side by their place, from 1; `places` is brought up to date."""
        for track_id in [i for i, (_, seen_ns) in places.items() if stamp_ns - seen_ns > _KEPT_NS]:
            del places[track_id]
        here = {h.track_id for h in hands}
        missing = {place for i, (place, _) in places.items() if i not in here}
        # two had the same place where one came while the other was not seen: it is the later one's now
        latest = {place: i for i, (place, _) in sorted(places.items(), key=lambda item: item[1][1]) if i in here}
        owners = {i: place for place, i in latest.items()}
        placed: dict[int, Hand] = {}
        for hand in sorted((h for h in hands if h.track_id in owners), key=lambda h: owners[h.track_id]):
            place = owners[hand.track_id]
            while place > 1 and place - 1 not in missing and place - 1 not in placed:
                place -= 1
            placed[place] = hand
        for hand in sorted((h for h in hands if h.track_id not in owners), key=lambda h: -h.score):
            placed[_first_free(placed)] = hand
        places.update((hand.track_id, (place, stamp_ns)) for place, hand in placed.items() if hand.track_id >= 0)
        return placed


def _first_free(placed: dict[int, Hand]) -> int:
    return next(place for place in itertools.count(1) if place not in placed)
