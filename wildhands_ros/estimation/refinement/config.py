"""How a refinement weighs its evidence."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from wildhands_ros.errors import ConfigError
from wildhands_ros.settings import check_types


@dataclass(frozen=True)
class RefinementConfig:
    """How wrong landmarks and the network tend to be; where they disagree, the smaller standard deviation wins.

    pixels: standard deviation of a landmark, as a share of the landmarks' box.
    outlier: landmarks farther off than this many standard deviations count less and less (Geman and McClure).
    turn: standard deviation of the network's orientation of the hand, degrees.
    bend: standard deviation of the network's angles of finger joints, degrees.
    size: standard deviation of the network's shape coefficients.
    depth: standard deviation of the network's distance, as a share of it. Landmarks hardly know it.
    place: standard deviation of the network's place across the view, as a share of the landmarks' box.
    least_presence: landmarks count nothing at this probability of a hand, and fully at 1.
    largest_error: network and landmarks see different hands where, after the refinement, half of the landmarks still
      lie farther off than this share of their box.
    largest_strain: so they do where the landmarks would move the hand by more than this many of the network's standard
      deviations, all of them together.
    """

    pixels: float = 0.03
    outlier: float = 1.2
    turn: float = 3.0
    bend: float = 6.0
    size: float = 0.1
    depth: float = 0.03
    place: float = 0.06
    least_presence: float = 0.7
    largest_error: float = 0.16
    largest_strain: float = 6.0

    def __post_init__(self) -> None:
        check_types(self, "refinement.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 < value < 1000:
                raise ConfigError(f"refinement.{field.name} must be positive, not {value}")
        if self.least_presence >= 1:
            raise ConfigError(f"refinement.least_presence must be less than 1, not {self.least_presence}")
