"""Labelled hand crops: what training and evaluation read, whatever they come from."""

from wildhands_ros.samples.sample import CROP_SIZE, HIDDEN, ManoLabels, Sample, SampleError, SampleSource
from wildhands_ros.samples.shards import ShardReader, ShardWriter

__all__ = ["CROP_SIZE", "HIDDEN", "ManoLabels", "Sample", "SampleError", "SampleSource", "ShardReader", "ShardWriter"]
