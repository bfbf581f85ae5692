"""The hand detector: a first look at a still, and following hands through a stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from wildhands_ros.detection.config import DetectorConfig
from wildhands_ros.detection.landmarks import LandmarkNetwork, tight_box
from wildhands_ros.detection.models import LANDMARK_MODEL, PALM_MODEL, load_model
from wildhands_ros.detection.palm import PalmDetector
from wildhands_ros.detection.regions import Pyramid, RgbImage
from wildhands_ros.detection.search import (
    Candidate,
    Sighting,
    confirm,
    find_candidates,
    same_palm,
    without_duplicates,
)
from wildhands_ros.detection.sides import right_log_odds, side_cue
from wildhands_ros.detection.views import views_of
from wildhands_ros.hands import HandBox, Landmarks, Side


class HandDetector:
    """Finds hands in pictures. Not safe for calls from several threads at once."""

    def __init__(self, palms: PalmDetector, network: LandmarkNetwork, config: DetectorConfig | None = None) -> None:
        self.config = config or DetectorConfig()
        self.palms = palms
        self.network = network

    @classmethod
    def from_directory(cls, models_dir: Path | str | None = None, config: DetectorConfig | None = None) -> HandDetector:
        """models_dir: where `wildhands models fetch` put the models; None for `default_models_dir()`.

        Raises ModelFileError where a model is missing, damaged or not the published one.
        """
        config = config or DetectorConfig()
        palms = PalmDetector(load_model(PALM_MODEL, models_dir), config.threads)
        return cls(palms, LandmarkNetwork(load_model(LANDMARK_MODEL, models_dir), config.threads), config)

    def detect(self, image: RgbImage) -> list[HandBox]:
        """The hands in one picture, most certain first, without regard to any picture before it.

        image: (H, W, 3) uint8 RGB of any size. Raises ImageError where it is anything else, or empty.
        """
        picture = Pyramid(image)
        sightings = self.look_around(picture)[: self.config.max_hands]
        cues = [side_cue(s.landmarks.image, s.right, picture.width, picture.height) for s in sightings]
        rights = right_log_odds(cues, self.config.wearer_prior)
        return [
            make_box(seen.landmarks, seen.score, right, self.config.box_margin)
            for seen, right in zip(sightings, rights, strict=True)
        ]

    def look_around(self, picture: Pyramid) -> list[Sighting]:
        """Every hand in the picture that is probable enough, best first: near views, then far ones if need be."""
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


def make_box(landmarks: Landmarks, score: float, right: float, margin: float, follow_id: int = -1) -> HandBox:
    """A HandBox from landmarks and the log-odds `right` that it is a right hand."""
    return HandBox(
        side=Side.RIGHT if right >= 0 else Side.LEFT,
        xyxy=tight_box(landmarks.image, margin),
        score=score,
        side_probability=1 / (1 + math.exp(-abs(right))),
        landmarks=landmarks,
        follow_id=follow_id,
    )
