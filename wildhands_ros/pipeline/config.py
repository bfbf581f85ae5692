"""The one typed configuration, filled alike from ROS parameters, YAML and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from wildhands_ros.detection import DetectorConfig, default_models_dir
from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.known_length import require_length
from wildhands_ros.estimation.refinement import RefinementConfig
from wildhands_ros.mounting import require_rotation
from wildhands_ros.settings import check_types
from wildhands_ros.tracking import TrackingConfig

ESTIMATORS = ("open", "landmarks", "wildhands")
DEFAULT_ESTIMATOR = "open"
"""What runs where nothing else is asked for, everywhere: the node, the command line, the library."""

_BACKENDS = ("auto", "torch", "compile", "onnxruntime", "openvino")
_PRECISIONS = ("float32", "bfloat16", "float16", "int8", "auto")


@dataclass(frozen=True)
class EstimationConfig:
    """How boxes become hands.

    estimator: 'open', this package's own network on the open hand model; 'landmarks', the baseline that fits the hand
      model to detected landmarks; or 'wildhands', the network of the paper with weights that the user brings.
    mano_dir: folder with the user's MANO_RIGHT.pkl and MANO_LEFT.pkl, not for 'open'; without it, the open hand's.
    mesh: whether hands carry their vertices.
    checkpoint: the network's weights; 'wildhands' needs them, 'open' has its own where none are named.
    box_factor: edge of the network's crop over the longer edge of the box, 0.5 or more; 0 takes the checkpoint's own.
    all_hands: 'wildhands' estimates every hand, not just the most probable one of each side; the others always do.
    hand_length: of the person, in metres (0.08 to 0.3) from the crease of the wrist to the tip of the middle finger;
      every hand is taken to be as long, which makes distances about a quarter more accurate. 0: nobody measured it.
    largest_expected_error: metres; hands that are likely to be farther off (`Hand.expected_error`) are not valid. Where
      landmarks see a different hand, two thirds of it.
    looks: how many looks at each hand 'open' averages, 1 to 3; more are more accurate, and each takes a network's time.
    refine: 'open' moves its hands towards the detector's landmarks.
    device: of the network: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:1'.
    backend: what runs the network: 'auto' (the fastest), 'torch', 'compile', 'onnxruntime' or 'openvino'.
    precision: of the network: 'float32', 'bfloat16', 'float16', 'int8', or 'auto', the fastest within `tolerance_mm`.
    threads: of the network on a CPU; 0 takes all.
    tolerance_mm: how far joints may lie, on average, from where float32 has them.
    calibration: folder of pictures from which 'int8' takes the ranges of its numbers; without it, the package's own,
      of rendered hands.
    cache_dir: where exported networks are kept; without it, ~/.cache/wildhands_ros/networks.
    refinement: how 'open' weighs landmarks against its network, and when the two contradict each other.
    """

    estimator: str = DEFAULT_ESTIMATOR
    mano_dir: Path | None = None
    mesh: bool = True
    checkpoint: Path | None = None
    box_factor: float = 0.0
    all_hands: bool = False
    hand_length: float = 0.0
    largest_expected_error: float = 0.027
    looks: int = 1
    refine: bool = True
    device: str = "auto"
    backend: str = "auto"
    precision: str = "float32"
    threads: int = 0
    tolerance_mm: float = 1.0
    calibration: Path | None = None
    cache_dir: Path | None = None
    refinement: RefinementConfig = field(default_factory=RefinementConfig)

    def __post_init__(self) -> None:
        check_types(self)
        _require_one_of("estimator", self.estimator, ESTIMATORS)
        _require_one_of("backend", self.backend, _BACKENDS)
        _require_one_of("precision", self.precision, _PRECISIONS)
        for name, low, high in (("looks", 1, 3), ("threads", 0, 1024), ("box_factor", 0, 10)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"estimation.{name} must lie between {low} and {high}, not {getattr(self, name)}")
        if not 0 < self.largest_expected_error < 1000:
            raise ConfigError(
                f"estimation.largest_expected_error must be positive, metres, not {self.largest_expected_error}"
            )
        if not 0 < self.tolerance_mm < math.inf:
            raise ConfigError(f"estimation.tolerance_mm must be positive, not {self.tolerance_mm}")
        if self.hand_length != 0:
            require_length(self.hand_length)


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that decides what comes out for a picture.

    models_dir: where `wildhands models fetch` put the detector's models.
    min_score: hands less probable than this are left out, 0 to 1, whatever the detector's own thresholds are.
    max_distance: hands whose wrist is farther from the camera than this, in metres, are left out; 0: none. A wearer's
      own are hardly ever beyond 0.9, other people's are.
    upright_rotation: by how many degrees clockwise pictures must be turned to be upright, for cameras that are mounted
      sideways (90 or 270) or upside down (180). Hands are given for pictures and camera as they came all the same.
    """

    models_dir: Path = field(default_factory=default_models_dir)
    min_score: float = 0.5
    max_distance: float = 0.0
    upright_rotation: int = 0
    detection: DetectorConfig = field(default_factory=DetectorConfig)
    estimation: EstimationConfig = field(default_factory=EstimationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must lie between 0 and 1, not {self.min_score}")
        if not 0 <= self.max_distance < math.inf:
            raise ConfigError(f"max_distance must be a distance in metres, or 0 for any, not {self.max_distance}")
        require_rotation(self.upright_rotation)


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} '{value}': known are {', '.join(known)}")
