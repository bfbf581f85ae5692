"""Rendered hands whose poses are exactly known, and openly licensed photographs, for demonstrations and tests."""

from wildhands_ros.synthetic.photos import PHOTO_LICENSE, demo_photos
from wildhands_ros.synthetic.scene import VISIBLE_FRACTION, Lens, SceneTruth, SequenceConfig, SyntheticSequence

__all__ = [
    "PHOTO_LICENSE", "VISIBLE_FRACTION", "Lens", "SceneTruth", "SequenceConfig", "SyntheticSequence", "demo_photos",
]  # fmt: skip
