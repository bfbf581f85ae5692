"""What a user may choose about detection."""

from __future__ import annotations

from dataclasses import dataclass

from wildhands_ros.errors import ConfigError
from wildhands_ros.settings import check_types

THRESHOLDS = ("palm_threshold", "score_threshold", "keep_threshold")


@dataclass(frozen=True)
class DetectorConfig:
    """Settings of the hand detector; the defaults suit a head-mounted camera.

    threads: CPU threads of each network.
    max_hands: the most hands reported in one picture.
    wanted_hands: a stream is searched hard until so many hands are followed, and a still until so many are found.
    palm_threshold: least score of a palm to be looked at more closely, 0 to 1.
    score_threshold: least probability of a hand to be reported, 0 to 1.
    keep_threshold: a hand that is followed is given up below this probability, 0 to 1, or below `score_threshold`, if
        that is less.
    box_margin: how far a box reaches beyond the hand's landmarks, as a share of its longer edge. Landmarks lie inside
        the fingers: 0.1 brings the box to the outline of the skin.
    wearer_prior: weight of what is assumed of the wearer's own hands when telling left from right
        (docs/detection.md); 0 for a camera that nobody wears.
    candidates: the most palms that are looked at more closely in one still.
    search_views: how many views of a stream's frame are searched at once while no hand is followed.
    patrol_every: while all wanted hands are followed, one view is searched every so many frames.
    """

    threads: int = 2
    max_hands: int = 4
    wanted_hands: int = 2
    palm_threshold: float = 0.1
    score_threshold: float = 0.5
    keep_threshold: float = 0.3
    box_margin: float = 0.1
    wearer_prior: float = 1.0
    candidates: int = 8
    search_views: int = 3
    patrol_every: int = 4

    def __post_init__(self) -> None:
        check_types(self, "detection.")
        for name in ("threads", "max_hands", "wanted_hands", "candidates", "search_views", "patrol_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"detection.{name} must be at least 1, not {getattr(self, name)}")
        if self.threads > 256:  # LiteRT starts whatever it is asked for, until the system has no more
            raise ConfigError(f"detection.threads must be at most 256, not {self.threads}")
        for name in THRESHOLDS:
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"detection.{name} is a probability between 0 and 1, not {getattr(self, name)}")
        for name in ("box_margin", "wearer_prior"):
            if not 0 <= getattr(self, name) <= 10:
                raise ConfigError(f"detection.{name} must lie between 0 and 10, not {getattr(self, name)}")

    @property
    def least_kept(self) -> float:
        """Below which probability a followed hand is given up.

        Not an error where `keep_threshold` is the larger: ROS tools set parameters one after the other, in any order.
        """
        return min(self.keep_threshold, self.score_threshold)
