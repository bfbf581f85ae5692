"""Folders for downloaded models and exported networks. Imports nothing that has to be installed."""

from __future__ import annotations

import os
from pathlib import Path

from wildhands_ros.paths import expanded


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/wildhands_ros/NAME`, and `~/.cache/wildhands_ros/NAME` where that is not set.

    The `~` stays where the user has no home (see `expanded`).
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else expanded("~/.cache")
    return base / "wildhands_ros" / name


def default_models_dir() -> Path:
    """The detector's models."""
    return cache_folder("models")


def default_cache_dir() -> Path:
    """The networks as they were exported for this machine."""
    return cache_folder("networks")
