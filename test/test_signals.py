"""Processes that are told to stop, as often as anyone likes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from domains import own_domain

from wildhands_ros.node.signals import signals_held_back


def test_told_to_stop_twice_nothing_crashes() -> None:
    command = [sys.executable, str(Path(__file__).with_name("stopping.py")), "200"]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(own_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    codes = json.loads(found.stdout)
    assert len(codes) == 200 and set(codes) == {0}, (codes, found.stderr[-2000:])


def test_told_to_stop_amid_a_callback_that_publishes_nothing_fails() -> None:
    program = (
        "import rclpy; from std_msgs.msg import Empty; from wildhands_ros.node.signals import spin_until_stopped\n"
        "rclpy.init(); node = rclpy.create_node('told'); publisher = node.create_publisher(Empty, 'nothing', 1)\n"
        "def publish():\n"
        "    rclpy.get_default_context().handle.shutdown()  # as rclpy does at a signal, in a thread of its own\n"
        "    publisher.publish(Empty())\n"
        "    raise AssertionError('published')\n"
        "node.create_timer(0.0, publish); spin_until_stopped(node); print('ended')"
    )
    environment = {**os.environ, "ROS_DOMAIN_ID": str(own_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stdout == "ended\n", ended.stderr


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """As it is in a terminal; whoever runs tests may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_signals_that_are_held_back_come_afterwards() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with signals_held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append(1)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("ctrl_c")
def test_signals_that_are_ignored_stay_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals_held_back():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
