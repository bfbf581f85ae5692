"""The landmark-fit baseline: a hand model moved until it agrees with detected landmarks (docs/landmark_fit.md)."""

from wildhands_ros.estimation.landmark_fit.fit import LandmarkFit, LandmarkFitConfig

__all__ = ["LandmarkFit", "LandmarkFitConfig"]
