"""Recordings: pictures, videos, webcams and rosbag2 as frames, and results into bags and videos."""

from wildhands_ros.recordings.bag_reader import BagReader, BagTopic
from wildhands_ros.recordings.bag_writer import BagWriter, recorded_qos
from wildhands_ros.recordings.hands_reader import RecordedHands, read_hands
from wildhands_ros.recordings.opening import open_source
from wildhands_ros.recordings.salvage import RawMessage
from wildhands_ros.recordings.source import FrameSource, SourceKind
from wildhands_ros.recordings.video import VideoWriter

__all__ = [
    "BagReader",
    "BagTopic",
    "BagWriter",
    "FrameSource",
    "RawMessage",
    "RecordedHands",
    "SourceKind",
    "VideoWriter",
    "open_source",
    "read_hands",
    "recorded_qos",
]
