"""What commands share and needs no library: `wildhands doctor`, which says what is missing, uses it too."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from wildhands_ros.cache_folders import default_models_dir

STANDARD_OUTPUT = Path("/dev/stdout")


def add_models_dir(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, also_in_config: bool = False) -> None:
    """`--models-dir`: where the detector's model files lie.

    also_in_config: the folder may be named in a configuration file too, so None stands for an option not given.
    """
    parser.add_argument(
        "--models-dir",
        type=Path,
        default=None if also_in_config else default_models_dir(),
        metavar="DIR",
        help=f"folder with the detector's models (default: {default_models_dir()}; filled by 'wildhands models fetch')",
    )


def has_ros() -> bool:
    """Whether ROS 2 can be imported here."""
    return importlib.util.find_spec("rclpy") is not None
