"""Do camera-sized images get from one process to another? `python -m wildhands_ros.node.transport_check [--profile]`

Prints a JSON list: images sent, images received, median delay in milliseconds (null if none arrived). Used by
`wildhands doctor`. A child process publishes the way camera drivers do: best effort, 1280×720 rgb8, 30 Hz.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Empty

from wildhands_ros.node.qos import profile_environment

_IMAGES = 30
_WIDTH, _HEIGHT, _RATE_HZ = 1280, 720, 30.0
_START_TIMEOUT_S = 15.0


def main() -> int:
    command = "python3 -m wildhands_ros.node.transport_check"
    parser = argparse.ArgumentParser(prog=command, description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="use this package's Fast DDS profile on both sides")
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.profile:
        os.environ.update(profile_environment())
    rclpy.init()
    try:
        return _publish() if args.publish else _receive()
    finally:
        rclpy.shutdown()


def _topic(name: str) -> str:
    return f"/wildhands_transport_check_{os.getpgid(0)}/{name}"


def _publish() -> int:
    node = Node("wildhands_transport_check_sender")
    publisher = node.create_publisher(
        Image, _topic("image"), QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    message = Image(height=_HEIGHT, width=_WIDTH, encoding="rgb8", step=3 * _WIDTH)
    message.data.frombytes(np.zeros(_HEIGHT * _WIDTH * 3, np.uint8))
    deadline = time.monotonic() + _START_TIMEOUT_S
    while publisher.get_subscription_count() == 0:
        rclpy.spin_once(node, timeout_sec=0.02)
        if time.monotonic() > deadline:
            print("the receiver was not discovered: is multicast on the loopback interface blocked?", file=sys.stderr)
            return 1
    due = time.monotonic()
    for _ in range(_IMAGES):
        due += 1 / _RATE_HZ
        rclpy.spin_once(node, timeout_sec=max(due - time.monotonic(), 0))
        time.sleep(max(due - time.monotonic(), 0))
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    done = node.create_publisher(Empty, _topic("done"), 1)
    while done.get_subscription_count() == 0 and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.02)
    done.publish(Empty())
    done.wait_for_all_acked()
    return 0


def _receive() -> int:
    node = Node("wildhands_transport_check_receiver")
    delays_ms: list[float] = []
    finished: list[Empty] = []

    def on_image(message: Image) -> None:
        sent = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        delays_ms.append((node.get_clock().now().nanoseconds - sent) * 1e-6)

    node.create_subscription(Image, _topic("image"), on_image, qos_profile_sensor_data)
    node.create_subscription(Empty, _topic("done"), finished.append, 1)
    command = [sys.executable, "-m", "wildhands_ros.node.transport_check", "--publish"]
    sender = subprocess.Popen(command)
    deadline = time.monotonic() + 2 * _START_TIMEOUT_S
    while not finished and sender.poll() in (None, 0) and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.05)
    try:
        code = sender.wait(_START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        sender.kill()
        code = sender.wait()
    if code != 0:
        print(f"the sending process ended with code {code}", file=sys.stderr)
        return 1
    print(json.dumps([_IMAGES, len(delays_ms), statistics.median(delays_ms) if delays_ms else None]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
