"""WildHands: the network of "3D Hand Pose Estimation in Everyday Egocentric Images" (ECCV 2024) as an estimator."""

from wildhands_ros.estimation.wildhands.checkpoint import (
    CheckpointInfo,
    checkpoint_missing,
    hand_model_of,
    load_checkpoint,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.estimator import WildHands, WildHandsConfig
from wildhands_ros.estimation.wildhands.kpe import Encoding
from wildhands_ros.estimation.wildhands.network import WildHandsNetwork
from wildhands_ros.estimation.wildhands.open_hands import (
    OPEN_HAND,
    SHIPPED_CHECKPOINT,
    OpenHands,
    open_checkpoint_missing,
)
from wildhands_ros.estimation.wildhands.runtime import Backend, Precision, RuntimeConfig
from wildhands_ros.estimation.wildhands.trunks import Trunk
from wildhands_ros.estimation.wildhands.variant import Crops, Perspective, Translation, Variant

__all__ = [
    "Backend",
    "CheckpointInfo",
    "Crops",
    "Encoding",
    "OPEN_HAND",
    "OpenHands",
    "Perspective",
    "Precision",
    "RuntimeConfig",
    "SHIPPED_CHECKPOINT",
    "Translation",
    "Trunk",
    "Variant",
    "WildHands",
    "WildHandsConfig",
    "WildHandsNetwork",
    "checkpoint_missing",
    "hand_model_of",
    "load_checkpoint",
    "open_checkpoint_missing",
    "save_checkpoint",
]
