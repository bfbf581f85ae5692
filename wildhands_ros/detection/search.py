"""From palms to sightings of hands: candidates, and their confirmation by the landmark network.

A palm is only a suspicion. It becomes a hand when the landmark network, shown the place three times (where the palm
is; where its own landmarks then say that the hand is; and there again as a mirror image), agrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wildhands_ros.detection.config import DetectorConfig
from wildhands_ros.detection.landmarks import LandmarkNetwork, LandmarkResult, region_of_landmarks, tight_box
from wildhands_ros.detection.palm import Palm, PalmDetector, box_overlap
from wildhands_ros.detection.regions import Pyramid
from wildhands_ros.detection.views import views_of
from wildhands_ros.hands import FloatArray, Landmarks

# Log-odds of "a hand" are a weighted sum of evidence. The weights are those of a logistic regression on head-camera
# pictures, rounded; see docs/detection.md.
_PALM_WEIGHT, _NEAR_BONUS, _NEAR_WEIGHT, _PRESENCE_WEIGHT, _BIAS = 0.5, 2.6, 0.4, 0.6, -1.6
LEAST_PRESENCE = 0.2  # below this the landmark network sees no hand, and its landmarks mean nothing
_TRIES = 2  # palms of a candidate that are shown to the landmark network
_WORTH_ANOTHER_TRY = 0.3  # least score of such a palm after the first
_SAME_PALM = 0.3  # overlap of two palms of one hand, seen in two views


@dataclass(frozen=True)
class Candidate:
    """A palm, perhaps seen in several views.

    palms: what the views saw of it, best first. near: sum of its best scores in the near views; 0 where only far
    views saw it, whose small tiles turn more of the clutter into palms.
    """

    palms: tuple[Palm, ...]
    near: float

    @property
    def palm(self) -> Palm:
        return self.palms[0]

    @property
    def evidence(self) -> float:
        """What the palm detector adds to the log-odds that this is a hand."""
        bonus = _NEAR_BONUS if self.near > 0 else 0.0
        return _PALM_WEIGHT * log_odds(self.palm.score) + bonus + _NEAR_WEIGHT * self.near


@dataclass(frozen=True)
class Sighting:
    """A hand in one picture, not yet left or right.

    landmarks: as for `HandBox`.
    right: log-odds that it is a right hand, by the network, upright and mirrored looks averaged.
    presence: log-odds that there is a hand, by the landmark network, averaged likewise.
    palm: the palm detector's part of the log-odds (`Candidate.evidence`).
    doubt: mean distance between the landmarks of the two looks, as a share of the hand's size.
    bias: of the upright look's log-odds of "right" (`side_bias`).
    """

    landmarks: Landmarks
    right: float
    presence: float
    palm: float
    doubt: float = 0.0
    bias: float = 0.0

    @property
    def score(self) -> float:
        """Probability that this is a hand, 0 to 1."""
        return hand_score(self.palm, self.presence)


class HandSearch:
    """The two networks, put to finding hands in a picture of which nothing is known."""

    def __init__(self, palms: PalmDetector, network: LandmarkNetwork, config: DetectorConfig) -> None:
        self.palms = palms
        self.network = network
        self.config = config

    def look_around(self, picture: Pyramid) -> list[Sighting]:
        """Every hand that is probable enough, best first: in the near views, and in the far ones if need be."""
        config = self.config
        views = views_of(picture.width, picture.height)
        near = [self.palms.find(picture, view, config.palm_threshold) for view in views.near]
        looked = self._look_closer(picture, find_candidates(near), [])
        found = self._probable(looked)
        if len(found) < config.wanted_hands:
            far = [self.palms.find(picture, view, config.palm_threshold) for view in views.far]
            looked = self._look_closer(picture, find_candidates(near, far), looked)
            found = self._probable(looked)
        return found

    def _look_closer(self, picture: Pyramid, candidates: list[Candidate], before: list[_Looked]) -> list[_Looked]:
        """The best candidates with what the landmark network says; those looked at before keep its answer."""
        looked = []
        for candidate in candidates[: self.config.candidates]:
            known = next((b for b in before if same_palm(b.candidate.palm, candidate.palm)), None)
            if known is None:
                looked.append(_Looked(candidate, confirm(self.network, picture, candidate)))
            else:
                seen = known.sighting and replace(known.sighting, palm=candidate.evidence)
                looked.append(_Looked(candidate, seen))
        return looked

    def _probable(self, looked: list[_Looked]) -> list[Sighting]:
        seen = [item.sighting for item in looked if item.sighting is not None]
        return without_duplicates(s for s in seen if s.score >= self.config.score_threshold)


@dataclass(frozen=True)
class _Looked:
    candidate: Candidate
    sighting: Sighting | None


def find_candidates(near: Sequence[Sequence[Palm]], far: Sequence[Sequence[Palm]] = ()) -> list[Candidate]:
    """The palms of the near and far views of one picture (one list a view), put together; best first."""
    groups: list[list[tuple[int, Palm]]] = []
    seen = [(view, palm) for view, palms in enumerate((*near, *far)) for palm in palms]
    for view, palm in sorted(seen, key=lambda item: -item[1].score):
        for group in groups:
            if same_palm(palm, group[0][1]):
                group.append((view, palm))
                break
        else:
            groups.append([(view, palm)])
    return [_candidate(group, len(near)) for group in groups]


def _candidate(group: Sequence[tuple[int, Palm]], near_views: int) -> Candidate:
    best: dict[int, Palm] = {}
    for view, palm in group:  # best first
        best.setdefault(view, palm)
    near = sum(palm.score for view, palm in best.items() if view < near_views)
    return Candidate(tuple(best.values()), near)


def same_palm(palm: Palm, other: Palm) -> bool:
    """Whether two palms, perhaps seen in two views, are one."""
    return box_overlap(palm.xyxy, other.xyxy) > _SAME_PALM


def confirm(network: LandmarkNetwork, picture: Pyramid, candidate: Candidate) -> Sighting | None:
    """The hand at a candidate's place, or None where the landmark network sees none."""
    others = [palm for palm in candidate.palms[1:_TRIES] if palm.score >= _WORTH_ANOTHER_TRY]
    for palm in (candidate.palm, *others):
        first = network.look(picture, palm.hand_region())
        if first is not None and first.presence >= LEAST_PRESENCE:
            return settle(network, picture, first.landmarks.image, candidate.evidence)
    return None


def settle(network: LandmarkNetwork, picture: Pyramid, places: FloatArray, palm: float) -> Sighting | None:
    """The hand about which rough landmarks (21, 2) are known, from an upright and a mirrored look; None: no hand.

    palm: the palm detector's part of the log-odds.
    """
    upright = network.look(picture, region_of_landmarks(places))
    if upright is None or upright.presence < LEAST_PRESENCE:
        return None
    mirrored = network.look(picture, upright.region, mirrored=True)
    if mirrored is None:
        return None
    presence = (log_odds(upright.presence) + log_odds(mirrored.presence)) / 2
    places = upright.landmarks.image
    doubt = mean_distance(places, mirrored.landmarks.image) / hand_size(places)
    right = (upright.right + mirrored.right) / 2
    return Sighting(upright.landmarks, right, presence, palm, doubt, side_bias(upright, mirrored))


def side_bias(upright: LandmarkResult, mirrored: LandmarkResult) -> float:
    """By how much an upright look at a hand says "right" too much, in log-odds: a mirrored one says it too little."""
    return (upright.right - mirrored.right) / 2


def hand_score(palm: float, presence: float) -> float:
    """Probability of a hand, from `Candidate.evidence` and the log-odds of the landmark presence."""
    return 1 / (1 + math.exp(-(palm + _PRESENCE_WEIGHT * presence + _BIAS)))


def log_odds(probability: float) -> float:
    """log(p / (1 - p)), within ±9.2: no single look is surer than that."""
    p = min(max(probability, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


def without_duplicates(sightings: Iterable[Sighting]) -> list[Sighting]:
    """The sightings, best first, without those that lie on a better one."""
    kept: list[Sighting] = []
    for sighting in sorted(sightings, key=lambda s: -s.score):
        places = sighting.landmarks.image
        if not any(same_hand(places, other.landmarks.image, sighting.doubt) for other in kept):
            kept.append(sighting)
    return kept


def same_hand(places: FloatArray, others: FloatArray, doubt: float = 0.0) -> bool:
    """Whether landmarks (21, 2) lie on a hand whose landmarks are known: much overlap, or one holds the other.

    Hands that work together overlap too. Less overlap is enough where the two looks at `places` differ (`doubt`).
    """
    a, b = tight_box(places, 0.1), tight_box(others, 0.1)
    inside = 0.75 if doubt < 0.2 else 0.5
    return box_overlap(a, b) > 0.4 or _share_inside(a, b) > inside or _share_inside(b, a) > 0.9


def _share_inside(inner: tuple[float, float, float, float], outer: tuple[float, float, float, float]) -> float:
    width = max(0.0, min(inner[2], outer[2]) - max(inner[0], outer[0]))
    height = max(0.0, min(inner[3], outer[3]) - max(inner[1], outer[1]))
    return width * height / max((inner[2] - inner[0]) * (inner[3] - inner[1]), 1e-9)


def mean_distance(places: FloatArray, others: FloatArray) -> float:
    """Mean distance in pixels between two sets of landmarks (21, 2)."""
    return float(np.linalg.norm(places - others, axis=1).mean())


def hand_size(places: FloatArray) -> float:
    """The longer edge of the box around landmarks (21, 2), in pixels."""
    return float(max(np.ptp(places, axis=0).max(), 1e-6))
