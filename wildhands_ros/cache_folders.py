"""Folders for downloaded models and exported networks. Imports only the standard library."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/wildhands_ros/NAME`, and `~/.cache/wildhands_ros/NAME` where that is not set."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "wildhands_ros" / name


def default_models_dir() -> Path:
    """The detector's models."""
    return cache_folder("models")


def default_cache_dir() -> Path:
    """The networks as they were exported for this machine."""
    return cache_folder("networks")
