"""Processes that are told to stop, as often as anyone likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from domains import own_domain


def test_told_to_stop_twice_nothing_crashes() -> None:
    command = [sys.executable, str(Path(__file__).with_name("stopping.py")), "200"]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(own_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    codes = json.loads(found.stdout)
    assert len(codes) == 200 and set(codes) == {0}, (codes, found.stderr[-2000:])
