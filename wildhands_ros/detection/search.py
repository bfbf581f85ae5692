"""From palms to sightings of hands: candidates, and their confirmation by the landmark network.

A palm is only a suspicion. It becomes a hand when the landmark network, shown the place three times (where the palm
is; where its own landmarks then say that the hand is; and there again as a mirror image), agrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wildhands_ros.detection.landmarks import LandmarkNetwork, region_of_landmarks, tight_box
from wildhands_ros.detection.palm import Palm, box_overlap
from wildhands_ros.detection.regions import Pyramid
from wildhands_ros.hands import FloatArray, Landmarks

# Log-odds of "a hand" are a weighted sum of independent-ish evidence. The weights come from a logistic regression on
# head-camera pictures, rounded; see docs/detection.md.
_PALM_WEIGHT, _SUPPORT_WEIGHT, _PRESENCE_WEIGHT, _BIAS = 0.6, 0.75, 0.8, -1.4
_LEAST_PRESENCE = 0.2
_SAME_PALM = 0.3  # overlap of two palms of one hand, seen in two views


@dataclass(frozen=True)
class Candidate:
    """A palm, perhaps seen in several views.

    palm: the best of them. support: sum of the best scores of the other views that saw it.
    """

    palm: Palm
    support: float


@dataclass(frozen=True)
class Sighting:
    """A hand in one picture, not yet left or right.

    landmarks: as for `HandBox`.
    right: log-odds that it is a right hand, by the network, upright and mirrored looks averaged.
    presence: log-odds that there is a hand, by the landmark network, averaged likewise.
    palm: the palm detector's part of the log-odds, with its support (`palm_evidence`).
    """

    landmarks: Landmarks
    right: float
    presence: float
    palm: float

    @property
    def score(self) -> float:
        """Probability that this is a hand, 0 to 1."""
        return hand_score(self.palm, self.presence)


def find_candidates(palms_of_views: Sequence[Sequence[Palm]]) -> list[Candidate]:
    """The palms of several views of one picture, put together; best first."""
    groups: list[list[tuple[int, Palm]]] = []
    seen = [(view, palm) for view, palms in enumerate(palms_of_views) for palm in palms]
    for view, palm in sorted(seen, key=lambda item: -item[1].score):
        for group in groups:
            if same_palm(palm, group[0][1]):
                group.append((view, palm))
                break
        else:
            groups.append([(view, palm)])
    return [_candidate(group) for group in groups]


def _candidate(group: Sequence[tuple[int, Palm]]) -> Candidate:
    best: dict[int, float] = {}
    for view, palm in group:
        best[view] = max(best.get(view, 0.0), palm.score)
    return Candidate(group[0][1], sum(best.values()) - group[0][1].score)


def same_palm(palm: Palm, other: Palm) -> bool:
    """Whether two palms, perhaps seen in two views, are one."""
    return box_overlap(palm.xyxy, other.xyxy) > _SAME_PALM


def confirm(network: LandmarkNetwork, picture: Pyramid, candidate: Candidate) -> Sighting | None:
    """The hand at a candidate's place, or None where the landmark network sees none."""
    first = network.look(picture, candidate.palm.hand_region())
    if first is None or first.presence < _LEAST_PRESENCE:
        return None
    second = network.look(picture, region_of_landmarks(first.landmarks.image))
    if second is None or second.presence < _LEAST_PRESENCE:
        return None
    third = network.look(picture, region_of_landmarks(first.landmarks.image), mirrored=True)
    if third is None:
        return None
    presence = (log_odds(second.presence) + log_odds(third.presence)) / 2
    return Sighting(second.landmarks, (second.right + third.right) / 2, presence, palm_evidence(candidate))


def palm_evidence(candidate: Candidate) -> float:
    """What the palm detector adds to the log-odds that a candidate is a hand."""
    return _PALM_WEIGHT * log_odds(candidate.palm.score) + _SUPPORT_WEIGHT * candidate.support


def hand_score(palm: float, presence: float) -> float:
    """Probability of a hand, from `palm_evidence` and the log-odds of the landmark presence."""
    return 1 / (1 + math.exp(-(palm + _PRESENCE_WEIGHT * presence + _BIAS)))


def log_odds(probability: float) -> float:
    """log(p / (1 - p)), within ±9.2: no single look is surer than that."""
    p = min(max(probability, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


def without_duplicates(sightings: Iterable[Sighting]) -> list[Sighting]:
    """The sightings, best first, without those that lie on a better one."""
    kept: list[Sighting] = []
    for sighting in sorted(sightings, key=lambda s: -s.score):
        if not any(same_hand(sighting.landmarks.image, other.landmarks.image) for other in kept):
            kept.append(sighting)
    return kept


def same_hand(places: FloatArray, others: FloatArray) -> bool:
    """Whether two sets of landmarks (21, 2) lie on one hand: their boxes overlap much, or one holds the other."""
    a, b = tight_box(places, 0.1), tight_box(others, 0.1)
    if box_overlap(a, b) > 0.4:
        return True
    return _share_inside(a, b) > 0.75 or _share_inside(b, a) > 0.9


def _share_inside(inner: tuple[float, float, float, float], outer: tuple[float, float, float, float]) -> float:
    width = max(0.0, min(inner[2], outer[2]) - max(inner[0], outer[0]))
    height = max(0.0, min(inner[3], outer[3]) - max(inner[1], outer[1]))
    return width * height / max((inner[2] - inner[0]) * (inner[3] - inner[1]), 1e-9)


def mean_distance(places: FloatArray, others: FloatArray) -> float:
    """Mean distance in pixels between two sets of landmarks (21, 2)."""
    return float(np.linalg.norm(places - others, axis=1).mean())
