"""From boxes to metric hands: the `Estimator` protocol and what implements it."""

from wildhands_ros.estimation.estimator import Estimates, Estimator, SideJudge
from wildhands_ros.estimation.known_length import KnownLength, hand_length
from wildhands_ros.estimation.landmark_fit import LandmarkFit, LandmarkFitConfig

__all__ = ["Estimates", "Estimator", "KnownLength", "LandmarkFit", "LandmarkFitConfig", "SideJudge", "hand_length"]
