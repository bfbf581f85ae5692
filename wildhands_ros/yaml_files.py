"""YAML that users write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wildhands_ros.errors import WildHandsError


def read_yaml(path: Path, error_class: type[WildHandsError]) -> Any:
    """What a file holds: plain values alone, never objects. Raises `error_class` where it cannot be read."""
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise error_class(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or dates as 2024-02-31
        raise error_class(f"{path} is not YAML: {error}") from error
