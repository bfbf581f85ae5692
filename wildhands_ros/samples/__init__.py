"""Labelled hand crops: what training and evaluation read, whatever they come from."""

from wildhands_ros.samples.sample import (
    BOX_FACTOR,
    CROP_SIZE,
    HIDDEN,
    ManoLabels,
    Sample,
    SampleError,
    SampleSource,
    inside_picture,
)
from wildhands_ros.samples.shards import ShardReader, ShardWriter

__all__ = [
    "BOX_FACTOR", "CROP_SIZE", "HIDDEN", "ManoLabels", "Sample", "SampleError", "SampleSource", "ShardReader",
    "ShardWriter", "inside_picture",
]  # fmt: skip
