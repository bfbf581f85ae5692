"""The node for a long time at 30 Hz, as it is: `python survival_soak.py [--minutes 30] [--json FILE]`.

A camera publishes 1280×720 pictures in which two rendered hands come, move and go, the node finds them, and this
process subscribes to hands, TF and markers with meshes and looks at the node's memory, threads, open files and latency.
The verdict compares the beginning, after a warm-up, with the end; exit code 1 where something grew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from node_bench import Process
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.camera_info import camera_to_camera_info
from wildhands_ros.node.images import image_message
from wildhands_ros.node.messages import duration_s
from wildhands_ros.node.qos import RESULT_OUTPUT, TF_OUTPUT, keep_image_buffers
from wildhands_ros.node.signals import spin_until_stopped
from wildhands_ros.pipeline import ESTIMATORS, EstimationConfig
from wildhands_ros.synthetic import SequenceConfig, SyntheticSequence

MEMORY_GROWTH, LATENCY_GROWTH = 0.02, 0.20
_RATE_HZ = 30.0
_PICTURES, _BLACK = 40, 24  # of the loop, which is played forwards and backwards; black pictures between
_START_S = 120.0
_LAG_S = 0.5
_REST_S = 2.0  # without a result there is none under way


@dataclass(frozen=True)
class Stretch:
    """What was seen in one part of the run: medians, and the latency's percentiles in milliseconds.

    resident_mb: memory of the node's process; private_mb: of that, what is neither a file's nor shared with others, at
    rest before or after it, with no image under way. (Fast DDS's shared memory is as large as its profile says from the
    beginning, and counts once it is first used.)
    """

    results: int
    resident_mb: float
    private_mb: float
    threads: int
    files: int
    latency_median_ms: float
    latency_p99_ms: float


@dataclass(frozen=True)
class SoakReport:
    """seconds: from the end of the warm-up. stretch_s: length of `start` and `end`. hands: results by the number of
    hands in them. growth: of private memory and of the latency's 99th percentile, start to end (0.01: one percent).
    diagnostics: the node's last ones. memory_mb: private memory at even distances. failures: what did not hold.
    """

    seconds: float
    stretch_s: float
    start: Stretch
    end: Stretch
    memory_growth: float
    latency_growth: float
    results: int
    hands: dict[str, int]
    diagnostics: dict[str, str]
    memory_mb: list[float]
    failures: list[str]


def soak(
    seconds: float, folder: Path, warm_up: int, estimator: str, variables: Mapping[str, str] | None = None
) -> SoakReport:
    """Runs for `seconds` after `warm_up` results; logs go into `folder`. Raises AssertionError where nothing comes, and
    where node or camera do not end well.

    warm_up: networks take memory for each number of hands when they first see it, and the middleware for another image
    when the node first lags behind (which it is made to, three times): neither is growth.
    variables: of the node's environment, besides those of this process.
    """
    chosen = ("-p", f"estimation.estimator:={estimator}")
    node = Process(folder / "node.txt", "real", "--ros-args", "--log-level", "warn", *chosen, variables=variables)
    camera = Process(folder / "camera.txt", "rendered", domain=node.domain)
    try:
        with _Watcher(node) as watcher:
            watcher.until(lambda: len(watcher.latencies) >= warm_up, _START_S + 4 * warm_up)
            watcher.let_it_lag()
            before = watcher.private_mb_at_rest(camera)
            first, began = len(watcher.latencies), time.monotonic()
            watcher.samples.clear()
            watcher.until(lambda: time.monotonic() >= began + seconds, seconds + 60)
            lasted = time.monotonic() - began
            report = watcher.report(first, began, lasted, (before, watcher.private_mb_at_rest(camera)))
    finally:
        codes = camera.stop(), node.stop()
    if codes != (0, 0):
        raise AssertionError(f"exit codes of camera and node: {codes}\n{camera.log}\n{node.log}")
    return report


class _Watcher:
    """Takes what the node publishes, and looks at its process once a second."""

    def __init__(self, node: Process) -> None:
        self._process = node
        self.latencies: list[tuple[float, float]] = []
        self.samples: list[tuple[float, float, float, int, int]] = []
        self._hands: dict[int, int] = {}
        self._values: dict[str, str] = {}
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        rclpy.init(args=[], domain_id=node.domain)
        self._node = Node("soak", enable_rosout=False)
        self._node.create_subscription(HandPoseArray, "/wildhands/hands", self._take, RESULT_OUTPUT)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        for kind, topic, qos in ((MarkerArray, "/wildhands/markers", RESULT_OUTPUT), (TFMessage, "/tf", TF_OUTPUT)):
            self._node.create_subscription(kind, topic, lambda _message: None, qos, raw=True)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def until(self, done: object, timeout: float) -> None:
        """Takes messages until `done()`."""
        deadline = time.monotonic() + timeout
        next_sample = time.monotonic()
        while not done():  # type: ignore[operator]
            if time.monotonic() > deadline or not self._process.running:
                raise AssertionError(
                    f"{len(self.latencies)} results in {timeout} s; the node says:\n{self._process.log}"
                )
            self._executor.spin_once(timeout_sec=0.2)
            if time.monotonic() >= next_sample:
                next_sample += 1.0
                self._sample()

    def let_it_lag(self) -> None:
        """Holds the node for a moment, three times, while images come."""
        for _ in range(3):
            count = len(self.latencies)
            with self._process.paused():
                self._spend(_LAG_S)
            self.until(lambda count=count: len(self.latencies) > count + 5, _START_S)

    def private_mb_at_rest(self, camera: Process) -> float:
        """The node's memory once it has worked on all that had come from a camera that is held meanwhile."""
        with camera.paused():
            count = -1
            while count != len(self.latencies):
                count = len(self.latencies)
                self._spend(_REST_S)
            return self._private_mb()

    def _spend(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, _START_S)

    def report(self, first: int, began: float, seconds: float, at_rest: tuple[float, float]) -> SoakReport:
        """at_rest: private memory before and after."""
        length = min(60.0, seconds / 5)
        start = self._stretch(began, began + length, at_rest[0])
        end = self._stretch(began + seconds - length, began + seconds, at_rest[1])
        memory = end.private_mb / start.private_mb - 1
        latency = end.latency_p99_ms / start.latency_p99_ms - 1
        failures = [
            *([f"memory grew by {memory:.1%}"] if memory >= MEMORY_GROWTH else []),
            *([f"threads grew from {start.threads} to {end.threads}"] if end.threads > start.threads else []),
            *([f"open files grew from {start.files} to {end.files}"] if end.files > start.files else []),
            *([f"latency's p99 grew by {latency:.0%}"] if latency >= LATENCY_GROWTH else []),
        ]
        return SoakReport(
            seconds, length, start, end, memory, latency, len(self.latencies) - first,
            {str(count): times for count, times in sorted(self._hands.items())}, self._values,
            [round(sample[2], 1) for sample in self.samples[:: max(len(self.samples) // 30, 1)]], failures,
        )  # fmt: skip

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self._node.destroy_node()
        self._executor.shutdown()
        rclpy.shutdown()

    def _stretch(self, since: float, until: float, private_mb: float) -> Stretch:
        latencies = 1e3 * np.array([latency for at, latency in self.latencies if since <= at < until] or [np.nan])
        samples = np.array([values for at, *values in self.samples if since <= at < until])
        resident, _, threads, files = np.median(samples, axis=0)
        return Stretch(
            len(latencies), float(resident), private_mb, int(threads), int(files),
            float(np.median(latencies)), float(np.percentile(latencies, 99)),
        )  # fmt: skip

    def _sample(self) -> None:
        occupied = self._process.occupied()
        values = (self._process.resident_mb(), self._private_mb(), occupied["threads"], occupied["files"])
        self.samples.append((time.monotonic(), *values))

    def _private_mb(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024

    def _take(self, message: HandPoseArray) -> None:
        self.latencies.append((time.monotonic(), duration_s(message.latency)))
        self._hands[len(message.hands)] = self._hands.get(len(message.hands), 0) + 1

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        wanted = (
            "images",
            "problem",
            "last",
            "memory",
            "detect",
            "estimate",
            "input rate",
            "output rate",
            "latency from",
        )
        self._values = {v.key: v.value for v in message.status[0].values if v.key.startswith(wanted)}


def rendered_camera(arguments: Sequence[str]) -> int:
    """Publishes as camera drivers do: hands that come, move and go, and nothing in between; until it is stopped."""
    keep_image_buffers()
    sequence = SyntheticSequence(SequenceConfig(seed=3, seconds=_PICTURES / _RATE_HZ))
    header = Header(frame_id="camera_optical_frame")
    pictures = [image_message(frame.image, header) for frame, _truth in sequence]
    black = image_message(np.zeros((sequence.config.height, sequence.config.width, 3), np.uint8), header)
    loop = [*pictures, *reversed(pictures), *[black] * _BLACK]
    rclpy.init(args=list(arguments))
    node = Node("camera")
    images = node.create_publisher(Image, "image", qos_profile_sensor_data)
    info = camera_to_camera_info(sequence.camera, header)
    infos = node.create_publisher(type(info), "camera_info", qos_profile_sensor_data)
    sent = 0

    def publish() -> None:
        nonlocal sent
        message = loop[sent % len(loop)]
        sent += 1
        message.header.stamp = info.header.stamp = node.get_clock().now().to_msg()
        infos.publish(info)
        images.publish(message)

    node.create_timer(1 / _RATE_HZ, publish)
    spin_until_stopped(node)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--estimator", choices=ESTIMATORS, default=EstimationConfig().estimator)
    parser.add_argument("--warm-up", type=int, default=3600, help="results before the comparison begins")
    parser.add_argument("--json", type=Path, help="write the report to this file too")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wildhands_soak_"))
    report = soak(60 * args.minutes, folder, args.warm_up, args.estimator)
    text = json.dumps(asdict(report), indent=2)
    print(text)
    print("; ".join(report.failures) or f"nothing grew in {report.seconds / 60:.1f} minutes", f"(logs: {folder})")
    if args.json:
        args.json.write_text(f"{text}\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
