"""A network's hands, moved a little towards the landmarks that the detector saw (docs/open_network.md)."""

from wildhands_ros.estimation.refinement.config import RefinementConfig
from wildhands_ros.estimation.refinement.refiner import Agreement, Parameters, Refiner

__all__ = ["Agreement", "Parameters", "RefinementConfig", "Refiner"]
