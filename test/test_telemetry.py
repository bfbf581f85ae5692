"""The runtimes' makers hear nothing of a robot's use of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ASKED = """
import socket, sys
asked = []
socket.getaddrinfo = lambda host, *_: asked.append(host) or []
"""
_LOAD = """
from wildhands_ros.estimation.wildhands import OpenHands, RuntimeConfig, Backend, WildHandsConfig
from wildhands_ros.hand_model import load_hand_model
OpenHands.load(WildHandsConfig(runtime=RuntimeConfig("cpu", Backend("%s"))), load_hand_model())
"""
_DOCTOR = """
from wildhands_ros.cli import main
main(["doctor", "--no-topics"])
"""
_SILENT = """
assert "openvino_telemetry.main" not in sys.modules
assert not asked, asked
"""


@pytest.mark.parametrize(
    "what", [_LOAD % "onnxruntime", _LOAD % "openvino", _DOCTOR], ids=["onnx", "openvino", "doctor"]
)
def test_nobody_hears_of_a_network_that_is_loaded_or_looked_for(what: str, tmp_path: Path) -> None:
    """Both leave files below the home folder when they prepare a report."""
    kept = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment = kept | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    program = _ASKED + what + _SILENT
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {("cache", "wildhands_ros"), ("cache", "matplotlib")}
