"""Scores the hands found in a sequence against hands that are exactly known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.evaluation.metrics import absolute_error, keypoint_error, mpjpe, mrrpe, pa_mpjpe, wrist_error
from wildhands_ros.hands import Hand, Side

FloatArray = NDArray[np.float64]

SETTLED_AFTER = 3
"""Frames in which a hand must be seen before its side is held to be decided."""


class FrameTruth(Protocol):
    """The true hands of one frame; `visible[i]` tells whether hand i can be seen well enough to be found."""

    @property
    def hands(self) -> Sequence[Hand]: ...

    @property
    def visible(self) -> Sequence[bool]: ...


@dataclass(frozen=True)
class SequenceScore:
    """What came out over a sequence. Errors are means over the visible hands that were found; NaN where none was.

    recall: fraction of visible hands found, per side and over all. false: found hands that match no true one.
    side_accuracy: fraction with the right side, of the hands found after their first `SETTLED_AFTER` frames.
    id_changes: how often a hand that stayed in view changed its track id.
    mpjpe_mm, pa_mpjpe_mm, absolute_mm, wrist_mm: millimetres; wrist_percent: of its distance; mrrpe_mm: both hands.
    keypoint_percent: 2D error, of the longer side of the true keypoints' box.
    """

    frames: int
    hands: int
    found: int
    false: int
    recall: float
    recall_left: float
    recall_right: float
    side_accuracy: float
    id_changes: int
    mpjpe_mm: float
    pa_mpjpe_mm: float
    absolute_mm: float
    wrist_mm: float
    wrist_percent: float
    mrrpe_mm: float
    keypoint_percent: float


@dataclass
class _Tally:
    visible: dict[Side, int] = field(default_factory=lambda: {Side.LEFT: 0, Side.RIGHT: 0})
    found: dict[Side, int] = field(default_factory=lambda: {Side.LEFT: 0, Side.RIGHT: 0})
    false: int = 0
    id_changes: int = 0
    sides: list[bool] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.errors.setdefault(name, []).append(value)

    def mean(self, name: str) -> float:
        values = [v for v in self.errors.get(name, []) if math.isfinite(v)]
        return float(np.mean(values)) if values else float("nan")


def score_sequence(results: Sequence[Sequence[Hand]], truths: Sequence[FrameTruth]) -> SequenceScore:
    """Compares frame by frame. `results[i]` and `truths[i]` belong to the same picture.

    A found hand belongs to the true hand whose keypoints are nearest, if within half of that hand's box; the side
    does not decide, so that wrong sides are counted as such and not as missing.
    """
    return score_sequences([(results, truths)])


def score_sequences(parts: Sequence[tuple[Sequence[Sequence[Hand]], Sequence[FrameTruth]]]) -> SequenceScore:
    """One score over several sequences (`score_sequence`). Track ids may start anew with each of them."""
    tally = _Tally()
    for results, truths in parts:
        _count(tally, results, truths)
    total, total_found = sum(tally.visible.values()), sum(tally.found.values())
    return SequenceScore(
        frames=sum(len(truths) for _, truths in parts),
        hands=total,
        found=total_found,
        false=tally.false,
        recall=_ratio(total_found, total),
        recall_left=_ratio(tally.found[Side.LEFT], tally.visible[Side.LEFT]),
        recall_right=_ratio(tally.found[Side.RIGHT], tally.visible[Side.RIGHT]),
        side_accuracy=_ratio(sum(tally.sides), len(tally.sides)),
        id_changes=tally.id_changes,
        mpjpe_mm=1e3 * tally.mean("mpjpe"),
        pa_mpjpe_mm=1e3 * tally.mean("pa_mpjpe"),
        absolute_mm=1e3 * tally.mean("absolute"),
        wrist_mm=1e3 * tally.mean("wrist"),
        wrist_percent=100 * tally.mean("wrist_fraction"),
        mrrpe_mm=1e3 * tally.mean("mrrpe"),
        keypoint_percent=100 * tally.mean("keypoints"),
    )


def _count(tally: _Tally, results: Sequence[Sequence[Hand]], truths: Sequence[FrameTruth]) -> None:
    if len(results) != len(truths):
        raise ValueError(f"{len(results)} results for {len(truths)} frames of truth")
    last_ids: dict[int, int] = {}
    seen: dict[int, int] = {}
    for hands, truth in zip(results, truths, strict=True):
        matches = _match(hands, truth.hands)
        tally.false += len(hands) - len(matches)
        for i, (true_hand, visible) in enumerate(zip(truth.hands, truth.visible, strict=True)):
            hand = matches.get(i)
            if not visible:
                last_ids.pop(i, None)
                seen.pop(i, None)
                continue
            tally.visible[true_hand.side] += 1
            if hand is None:
                continue
            tally.found[true_hand.side] += 1
            seen[i] = seen.get(i, 0) + 1
            if seen[i] > SETTLED_AFTER:
                tally.sides.append(hand.side is true_hand.side)
            tally.id_changes += last_ids.get(i, hand.track_id) != hand.track_id
            last_ids[i] = hand.track_id
            _add_errors(tally, hand, true_hand)
        _add_pair_error(tally, {i: hand for i, hand in matches.items() if truth.visible[i]}, truth.hands)


def _match(hands: Sequence[Hand], truths: Sequence[Hand]) -> dict[int, Hand]:
    """True hand's index → found hand, nearest pairs first."""
    pairs = []
    for i, truth in enumerate(truths):
        size = _size(truth.keypoints)
        for j, hand in enumerate(hands):
            distance = keypoint_error(hand.keypoints, truth.keypoints)
            if distance < 0.5 * size:
                pairs.append((distance / size, i, j))
    matches: dict[int, Hand] = {}
    taken: set[int] = set()
    for _, i, j in sorted(pairs):
        if i not in matches and j not in taken:
            matches[i] = hands[j]
            taken.add(j)
    return matches


def _add_errors(tally: _Tally, hand: Hand, truth: Hand) -> None:
    distance, fraction = wrist_error(hand.joints, truth.joints)
    tally.add(
        mpjpe=mpjpe(hand.joints, truth.joints),
        pa_mpjpe=pa_mpjpe(hand.joints, truth.joints),
        absolute=absolute_error(hand.joints, truth.joints),
        wrist=distance,
        wrist_fraction=fraction,
        keypoints=keypoint_error(hand.keypoints, truth.keypoints) / _size(truth.keypoints),
    )


def _add_pair_error(tally: _Tally, matches: dict[int, Hand], truths: Sequence[Hand]) -> None:
    by_side = {truths[i].side: (hand, truths[i]) for i, hand in matches.items()}
    if len(by_side) == 2:
        (left, true_left), (right, true_right) = by_side[Side.LEFT], by_side[Side.RIGHT]
        tally.add(mrrpe=mrrpe(left.joints, right.joints, true_left.joints, true_right.joints))


def _size(keypoints: FloatArray) -> float:
    extent = np.nanmax(keypoints, axis=0) - np.nanmin(keypoints, axis=0)
    return max(float(extent.max()), 1e-9)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
