"""Asks an estimator about the sides of hands of which the detector is not sure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wildhands_ros.estimation import Estimator, SideJudge
from wildhands_ros.frames import Frame
from wildhands_ros.hands import HandBox

_SURE = 0.98
"""Probability of a side from which on nobody is asked: it costs a network's look at either side."""

_EVERY_NS = 500_000_000
"""How often about the same followed hand: for so long the detector, too, takes what it sees for one piece of evidence
(`detection.follower`)."""


class SideQuestions:
    """One for each stream; stills may be asked about in between."""

    def __init__(self) -> None:
        self._asked: dict[int, int] = {}

    def reset(self) -> None:
        """A new stream begins."""
        self._asked = {}

    def __call__(self, estimator: Estimator, frame: Frame, boxes: Sequence[HandBox]) -> list[float]:
        """Log-odds of "right" for each box; 0 for those about which nobody was asked, or nothing could be said."""
        odds = [0.0] * len(boxes)
        if not isinstance(estimator, SideJudge):
            return odds
        doubtful = [i for i, box in enumerate(boxes) if self._is_due(box, frame.stamp_ns)]
        if not doubtful:
            return odds
        for i, right in zip(doubtful, estimator.side_log_odds(frame, [boxes[i] for i in doubtful]), strict=True):
            odds[i] = right if math.isfinite(right) else 0.0
        asked = {boxes[i].follow_id: frame.stamp_ns for i in doubtful if boxes[i].follow_id >= 0}
        if asked:  # the time of a still is not the stream's
            recent = {k: stamp for k, stamp in self._asked.items() if frame.stamp_ns - stamp < _EVERY_NS}
            self._asked = {**recent, **asked}
        return odds

    def _is_due(self, box: HandBox, stamp_ns: int) -> bool:
        if box.side_probability >= _SURE:
            return False
        before_ns = self._asked.get(box.follow_id)
        return before_ns is None or stamp_ns - before_ns >= _EVERY_NS
