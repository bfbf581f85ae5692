"""The runtimes' makers hear nothing of a robot's use of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import socket, sys
asked = []
socket.getaddrinfo = lambda host, *_: asked.append(host) or []
import numpy as np
from wildhands_ros.estimation.wildhands import OpenHands, RuntimeConfig, Backend, WildHandsConfig
from wildhands_ros.hand_model import load_hand_model
runtime = RuntimeConfig("cpu", Backend(sys.argv[1]))
OpenHands.load(WildHandsConfig(runtime=runtime), load_hand_model())
assert "openvino_telemetry.main" not in sys.modules
assert not asked, asked
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_loading_a_network_reports_to_nobody(backend: str, tmp_path: Path) -> None:
    """Both leave files below the home folder when they prepare a report."""
    kept = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment = kept | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", _RUN, backend], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"cache"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"wildhands_ros"}
