"""What a training run is: one typed configuration, read from YAML and stored with its results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.wildhands.kpe import Encoding
from wildhands_ros.estimation.wildhands.landmark_trunk import BLOCK_COUNT, FINE_AFTER
from wildhands_ros.estimation.wildhands.trunks import Trunk
from wildhands_ros.estimation.wildhands.variant import Perspective, Translation
from wildhands_ros.samples import BOX_FACTOR
from wildhands_ros.settings import check_types, config_from_dict, read_settings


@dataclass(frozen=True)
class SourceConfig:
    """One source of samples.

    kind: 'rendered' (tar shards), 'video' (pictures or videos without labels) or 'epic-hand-kps'.
    path: its file or folder. frames: folder with the pictures, where `path` holds annotations only.
    first: how many of its samples are used, the first ones; 0 for all. weight: how often it is drawn from, relative to
    the others.
    only: labels that are used of it ('joints', 'mano', 'keypoints', 'mask', 'grasp'); empty means all it has.
    focal: of a video's camera, pixels; 0 guesses.
    """

    kind: str = "rendered"
    path: Path = Path()
    frames: Path = Path()
    first: int = 0
    weight: float = 1.0
    only: tuple[str, ...] = ()
    focal: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "sources.")
        _require_known("kind of source", self.kind, ("rendered", "video", "epic-hand-kps"))
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"the weight of a source must be positive, not {self.weight}")
        _require_within(self, "sources", 0, math.inf, "first", "focal")
        unknown = set(self.only) - set(LABELS)
        if unknown:
            raise ConfigError(f"unknown labels {', '.join(sorted(unknown))}: known are {', '.join(LABELS)}")


LABELS = {
    "joints": ("joints", "translation", "depth"),
    "mano": ("camera", "pose", "betas"),
    "keypoints": ("keypoints", "heat"),
    "mask": ("mask",),
    "grasp": ("grasp",),
}
"""The labels of a sample, each with the losses (`LossConfig`) that learn from it."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    The paper's (Prakash et al., ECCV 2024), for its own units and heads: camera 1, keypoints 5, joints 5 (metres), pose
    10, betas 0.001, translation 1 (between left and right), mask 10, grasp 0.1. The one between left and right is not
    here: each hand is a sample of its own, which knows of no other in its picture. The absolute translation of each
    stands in its place; where both are right, so is what lies between them.

    camera: of the head's camera, and of what it starts from. keypoints: 2D, in half crops. heat: the same of keypoints
    that are read off heat maps. depth: of theirs, in half crops. joints: root-relative 3D, in decimetres. pose:
    rotation matrices. betas. translation: absolute, as a fraction of the distance. mask: soft silhouette. grasp: cross
    entropy. robust: scale below which 2D and 3D errors count squared, above which linearly (0: squared everywhere).
    """

    camera: float = 1.0
    keypoints: float = 5.0
    heat: float = 10.0
    depth: float = 5.0
    joints: float = 5.0
    pose: float = 1.0
    betas: float = 0.02
    translation: float = 1.0
    mask: float = 0.0
    grasp: float = 0.05
    robust: float = 0.02

    def __post_init__(self) -> None:
        check_types(self, "losses.")
        _require_within(self, "losses", 0, math.inf, *(f.name for f in fields(self)))


@dataclass(frozen=True)
class NetworkConfig:
    """The network that is trained, see `estimation.wildhands.Variant`. It sees crops alone, not the whole frame.

    trunk: 'landmarks' and 'landmarks-fine' start from the open landmark network's weights; 'resnet50', 'resnet18' and
    'efficientnet-lite0' are trained as a whole, and nothing of theirs is cached.
    trunk_weights: a classifier's weights from which one of the latter starts, see `trunk_weights.load_trunk_weights`;
    None starts it from nothing.
    trained_from: first block of a landmark trunk that is trained; earlier ones keep their open weights. depthwise: also
    train the spatial filters of its trained blocks. dropout: in the heads (the published code has 0.5). upright: crops
    are turned until the hand points up; the network learns afterwards to see which way that is. box_factor: edge of the
    crops over the boxes', 1.5 at most, which is what samples show.
    """

    trunk: str = "landmarks"
    trunk_weights: Path | None = None
    keypoints: bool = False
    depths: bool = False
    encoding: str = "sparse"
    perspective: str = "correction"
    translation: str = "crop"
    fusion: tuple[int, ...] = (384, 192, 128)
    features: int = 1024
    hidden: int = 512
    box_factor: float = 1.5
    trained_from: int = 8
    depthwise: bool = False
    dropout: float = 0.1
    upright: bool = False

    def __post_init__(self) -> None:
        check_types(self, "network.")
        kinds = {"trunk": Trunk, "encoding": Encoding, "perspective": Perspective, "translation": Translation}
        for name, known in kinds.items():
            _require_known(f"network.{name}", getattr(self, name), known)
        _require_within(self, "network", 0, BLOCK_COUNT, "trained_from")
        _require_within(self, "network", 0, 0.99, "dropout")
        _require_within(self, "network", 0.5, BOX_FACTOR, "box_factor")
        if self.landmark_trunk and self.trunk_weights is not None:
            raise ConfigError(
                f"the trunk '{self.trunk}' starts from the landmark network's weights: leave out "
                "network.trunk_weights, or choose another trunk"
            )
        if self.keypoints and self.perspective == Perspective.CROP.value:
            raise ConfigError(
                "keypoints are read off heat maps of the crop as it is, which a network with perspective 'crop' does "
                "not see: choose perspective 'correction' or 'none', or keypoints: false"
            )
        if self.upright and self.trained_from > FINE_AFTER:
            raise ConfigError(
                f"which way hands point is seen after {FINE_AFTER} blocks of the trunk: with upright, trained_from can "
                f"be {FINE_AFTER} at most, not {self.trained_from}"
            )

    @property
    def landmark_trunk(self) -> bool:
        """Whether the trunk is that of the open landmark network."""
        return self.trunk in (Trunk.LANDMARKS.value, Trunk.LANDMARKS_FINE.value)


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a warm-up and a cosine down to a hundredth. trunk: its learning rate relative to the heads'."""

    learning_rate: float = 1e-3
    trunk: float = 0.3
    weight_decay: float = 0.01
    warmup: int = 300
    clip: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        check_types(self, "optimiser.")
        _require_within(self, "optimiser", 0, math.inf, "learning_rate", "trunk", "weight_decay", "warmup", "clip")
        _require_within(self, "optimiser", 0, 1, "ema")
        if self.ema == 1:
            raise ConfigError("optimiser.ema must be less than 1: the average that is kept would never move")


_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # in Lightning's others labels would be rounded as well


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    sources: what is learned from. validation: shards that are never learned from; their MPJPE decides which weights
    are best. start: a checkpoint of the same network in this package's format, to go on from with other samples or
    settings; None starts from the open trunk. steps, batch: how long. direction_steps: in which a network of upright
    hands then learns which way hands point, with twice the batch. direction_samples: of each source, for that (its
    first ones; 0: all), as with `cache` they are cached once more.
    validate_every: steps, about, so that the last validation is at the end.
    cache: folder for what the untrained part of the network makes of the samples (computed once; no colour augmentation
    then), and for the labels of video; None computes the former every time, and keeps the latter in the run's folder.
    precision: of Lightning ('32-true', 'bf16-mixed', '16-mixed'); bfloat16 gives way to float32 on CPUs where it is
    slower. accelerator, devices: of Lightning; every batch is shared out among the devices.
    stop_minutes: ends training after so long, with whatever it has; 0 for no limit. What is cached before, and the
    directions afterwards, take their own time.
    """

    sources: tuple[SourceConfig, ...] = ()
    validation: Path = Path()
    start: Path | None = None
    steps: int = 10000
    direction_steps: int = 3000
    direction_samples: int = 0
    batch: int = 64
    seed: int = 1
    validate_every: int = 1000
    validation_samples: int = 1500
    workers: int = 0
    cache: Path | None = None
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    stop_minutes: float = 0.0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if not self.sources:
            raise ConfigError("nothing to learn from: name at least one source under 'sources'")
        for name in ("steps", "direction_steps", "batch", "validate_every", "validation_samples", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if self.batch < self.devices:
            raise ConfigError(
                f"the samples of a batch are shared out among the devices: batch must be at least {self.devices}, as "
                f"many as there are devices, not {self.batch}"
            )
        for source in self.sources:
            if source.only and not any(self._is_learned_from(label) for label in source.only):
                losses = ", ".join(f"losses.{loss}" for label in source.only for loss in LABELS[label])
                raise ConfigError(
                    f"nothing would be learned from {source.path}: of its labels only {', '.join(source.only)} are "
                    f"used, and no loss that learns from them has a weight ({losses})"
                )
        _require_known("precision", self.precision, _PRECISIONS)
        _require_within(self, "", 0, 2**32 - 1, "seed")
        _require_within(self, "", 0, math.inf, "direction_samples", "workers", "stop_minutes")

    def _is_learned_from(self, label: str) -> bool:
        missing = {"heat": not self.network.keypoints, "depth": not self.network.depths}  # heads that there may not be
        if any(getattr(self.losses, loss) > 0 and not missing.get(loss) for loss in LABELS[label]):
            return True
        return label == "keypoints" and self.network.upright  # which way hands point is learned from them in any case


def read_training_config(path: Path, **changes: object) -> TrainingConfig:
    """The configuration in a YAML file, with some entries replaced.

    Raises ConfigError naming what is wrong, and places that are not named.
    """
    values = {**read_settings(path), **{k: v for k, v in changes.items() if v is not None}}
    config = config_from_dict(TrainingConfig, values)
    # in a file that does not name a place, the default, the current folder, is not meant
    missing = [] if values.get("validation") else ["'validation', the shards that decide which weights are best"]
    for index, (given, source) in enumerate(zip(values["sources"], config.sources, strict=True)):
        wanted = {"path": "the source's file or folder"}
        if source.kind == "epic-hand-kps":
            wanted["frames"] = "the folder with its pictures"
        missing += [f"'sources[{index}].{name}', {words}" for name, words in wanted.items() if not given.get(name)]
    if missing:
        raise ConfigError(f"{path} does not name {'; '.join(missing)}")
    return config


def _require_known(name: str, value: str, known: Iterable[str]) -> None:
    names = [str(k.value) if isinstance(k, Enum) else k for k in known]
    if value not in names:
        raise ConfigError(f"unknown {name} '{value}': known are {', '.join(names)}")


def _require_within(config: object, prefix: str, low: float, high: float, *names: str) -> None:
    """Numbers of a configuration lie in a range, which includes its ends but for infinity."""
    for name in names:
        value = getattr(config, name)
        if not (low <= value <= high and math.isfinite(value)):
            path = f"{prefix}.{name}" if prefix else name
            wanted = f"{low} or more" if high == math.inf else f"from {low} to {high}"
            raise ConfigError(f"{path} must be {wanted}, not {value}")
