"""The same hands over time: stable ids, jump flags, optional smoothing."""

from wildhands_ros.tracking.one_euro import OneEuro, OneEuroConfig, PlaceOneEuro, RotationOneEuro
from wildhands_ros.tracking.tracker import HandTracker, TrackingConfig

__all__ = ["HandTracker", "OneEuro", "OneEuroConfig", "PlaceOneEuro", "RotationOneEuro", "TrackingConfig"]
