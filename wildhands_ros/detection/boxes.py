"""Hands as boxes, for the stages that come next."""

from __future__ import annotations

import math
from dataclasses import replace

from wildhands_ros.detection.landmarks import tight_box
from wildhands_ros.hands import HandBox, Landmarks, Side

_LEAST = 1e-12  # of a probability, so that its log-odds are finite


def make_box(landmarks: Landmarks, score: float, right: float, margin: float, follow_id: int = -1) -> HandBox:
    """A HandBox from landmarks and the log-odds `right` that it is a right hand."""
    return HandBox(
        side=Side.RIGHT if right >= 0 else Side.LEFT,
        xyxy=tight_box(landmarks.image, margin),
        score=score,
        side_probability=_of_being_right(right),
        landmarks=landmarks,
        follow_id=follow_id,
    )


def with_evidence(box: HandBox, right: float) -> HandBox:
    """The box with independent evidence about its side weighed in. right: log-odds of "right" that this adds."""
    known = math.log(max(box.side_probability, _LEAST) / max(1 - box.side_probability, _LEAST))
    odds = (known if box.side is Side.RIGHT else -known) + right
    side = box.side if odds == 0 else Side.RIGHT if odds > 0 else Side.LEFT
    return replace(box, side=side, side_probability=_of_being_right(odds))


def _of_being_right(odds: float) -> float:
    """Probability of the side for which these log-odds speak."""
    return 1 / (1 + math.exp(-min(abs(odds), 30.0)))
