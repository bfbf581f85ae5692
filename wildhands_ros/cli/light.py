"""What commands share that needs nothing but Python: also for the one that says which libraries are missing."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from wildhands_ros.cache_folders import default_models_dir

STANDARD_OUTPUT = Path("/dev/stdout")


def add_models_dir(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, elsewhere: bool = False) -> None:
    """`--models-dir`: where the detector's model files lie. elsewhere: None is "not given", as a file may name it."""
    parser.add_argument(
        "--models-dir",
        type=Path,
        default=None if elsewhere else default_models_dir(),
        metavar="DIR",
        help=f"folder with the detector's models (default: {default_models_dir()}; filled by 'wildhands models fetch')",
    )


def has_ros() -> bool:
    """Whether ROS 2 can be imported here."""
    return importlib.util.find_spec("rclpy") is not None
