"""The hand detector: a first look at a still, and following hands through a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wildhands_ros.detection.boxes import make_box
from wildhands_ros.detection.config import THRESHOLDS, DetectorConfig
from wildhands_ros.detection.follower import HandFollower
from wildhands_ros.detection.landmarks import LandmarkNetwork
from wildhands_ros.detection.models import LANDMARK_MODEL, PALM_MODEL, load_model
from wildhands_ros.detection.palm import PalmDetector
from wildhands_ros.detection.regions import Pyramid, RgbImage
from wildhands_ros.detection.search import HandSearch
from wildhands_ros.detection.sides import right_log_odds, side_cue
from wildhands_ros.hands import HandBox


class HandDetector:
    """Finds hands in pictures, also dark and flat ones (`exposure.well_exposed`).

    One instance for one stream; not safe for calls from several threads at once.
    """

    def __init__(self, palms: PalmDetector, network: LandmarkNetwork, config: DetectorConfig | None = None) -> None:
        self.config = config or DetectorConfig()
        self._search = HandSearch(palms, network, self.config)
        self._follower = HandFollower(self._search)

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
        picture = Pyramid(image, exposed=True)
        sightings = self._search.look_around(picture)[: self.config.max_hands]
        cues = [side_cue(s.landmarks.image, s.right, picture.width, picture.height) for s in sightings]
        rights = right_log_odds(cues, self.config.wearer_prior)
        return [
            make_box(seen.landmarks, seen.score, right, self.config.box_margin)
            for seen, right in zip(sightings, rights, strict=True)
        ]

    def follow(self, image: RgbImage, stamp_ns: int) -> list[HandBox]:
        """The hands in the next picture of a stream, oldest follow first, each with its `follow_id`.

        image: (H, W, 3) uint8 RGB of any size. stamp_ns: when it was taken, integer nanoseconds; a stamp before the
        last one starts a new stream, and so does another size of the picture (there, with ids not used before). Where
        stamps stand still, pictures count after the 30th as 30 a second.
        Raises ImageError where the image is anything else, or empty.
        """
        return self._follower.step(Pyramid(image, exposed=True), stamp_ns)

    def hear(self, sides: Mapping[int, float]) -> None:
        """Takes independent evidence about the sides of followed hands into account from the next picture on.

        sides: log-odds of "right" by `follow_id`; hands that are no longer followed are passed over.
        """
        self._follower.hear(sides)

    def configure(self, config: DetectorConfig) -> bool:
        """Takes other thresholds from the next picture on; hands go on being followed.

        False, and nothing is changed, where more differs: make a new detector.
        """
        if replace(config, **{name: getattr(self.config, name) for name in THRESHOLDS}) != self.config:
            return False
        self.config = self._search.config = config
        return True

    def reset(self) -> None:
        """Forgets the stream: the next picture given to `follow` is the first of a new one."""
        self._follower.reset()
