"""Hands as boxes, for the stages that come next."""

from __future__ import annotations

import math

from wildhands_ros.detection.landmarks import tight_box
from wildhands_ros.hands import HandBox, Landmarks, Side


def make_box(landmarks: Landmarks, score: float, right: float, margin: float, follow_id: int = -1) -> HandBox:
    """A HandBox from landmarks and the log-odds `right` that it is a right hand."""
    return HandBox(
        side=Side.RIGHT if right >= 0 else Side.LEFT,
        xyxy=tight_box(landmarks.image, margin),
        score=score,
        side_probability=1 / (1 + math.exp(-min(abs(right), 30.0))),
        landmarks=landmarks,
        follow_id=follow_id,
    )
