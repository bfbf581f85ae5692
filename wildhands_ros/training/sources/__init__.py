"""Readers of pictures that others labelled, or nobody did, each a `SampleSource`."""

from wildhands_ros.training.sources.epic_hand_kps import EpicHandKps
from wildhands_ros.training.sources.video import PseudoLabelConfig, PseudoLabeller, VideoSource

__all__ = ["EpicHandKps", "PseudoLabelConfig", "PseudoLabeller", "VideoSource"]
