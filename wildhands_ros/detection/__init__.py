"""Finding hands in pictures and following them through streams.

detector = HandDetector.from_directory()
boxes = detector.detect(image)               # a still
boxes = detector.follow(image, stamp_ns)     # the next picture of a stream
"""

from wildhands_ros.cache_folders import default_models_dir
from wildhands_ros.detection.config import DetectorConfig
from wildhands_ros.detection.detector import HandDetector
from wildhands_ros.detection.models import fetch_models, models_missing

__all__ = ["DetectorConfig", "HandDetector", "default_models_dir", "fetch_models", "models_missing"]
