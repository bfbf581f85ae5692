"""What the node costs beside the pipeline: images through a live node whose pipeline has two fixed hands.

Three processes, as on a robot: a camera (1280×720 at 30 Hz, best effort), the node, and this one, which subscribes to
hands, TF and markers with meshes.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import WildHandsError
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Hand, Side
from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.camera_info import camera_to_camera_info
from wildhands_ros.node.chain import ChildProcess, LiveChain, child_processes
from wildhands_ros.node.executor import SpinningThread
from wildhands_ros.node.images import compressed_message, image_message
from wildhands_ros.node.messages import duration_s
from wildhands_ros.node.parameters import TRANSPORTS
from wildhands_ros.node.qos import RESULT_OUTPUT, TF_OUTPUT, keep_image_buffers
from wildhands_ros.node.signals import spin_until_stopped
from wildhands_ros.node.wildhands_node import main as run_node
from wildhands_ros.pipeline import PipelineConfig, PipelineResult
from wildhands_ros.tables import table

_WIDTH, _HEIGHT, _FOCAL, _RATE_HZ = 1280, 720, 640.0, 30.0
_START_TIMEOUT_S = 60.0
_WARM_UP = 30  # results
_FACTOR = np.ones((64, 64))
_STAGES = {"convert (ms)": "convert", "publish (ms)": "publish"}


@dataclass(frozen=True)
class NodeOverhead:
    """One transport's figures, in milliseconds.

    processor_ms: processor time of the node's process, all threads, per result. convert_ms, publish_ms: medians of the
    wall time to decode, and to build and publish everything. latency_ms: from the image's stamp, taken just before the
    camera publishes it, to the publication of its hands: median, 95th percentile and least. work_ms: how long the
    pipeline was made to work on an image.
    """

    transport: str
    images: int
    results: int
    processor_ms: float
    convert_ms: float
    publish_ms: float
    latency_ms: tuple[float, float, float]
    work_ms: float = 0.0


class FixedHands:
    """A pipeline that finds a left and a right open hand with meshes in every picture, at once or after some work."""

    def __init__(self, config: PipelineConfig, work_s: float = 0.0) -> None:
        self._work_s = work_s
        self._model = load_hand_model()
        self._hands: tuple[Hand, ...] = ()

    @property
    def faces(self) -> Mapping[Side, NDArray[np.integer]]:
        """Triangles (F, 3) of each side's mesh."""
        return {side: self._model.layer(side).faces for side in Side}

    def configure(self, config: PipelineConfig) -> bool:
        """Takes any."""
        return True

    def reset(self) -> None:
        """Remembers nothing of the stream."""

    def process(self, frame: Frame) -> PipelineResult:
        """The same hands every time."""
        end = time.perf_counter() + self._work_s
        while time.perf_counter() < end:
            np.dot(_FACTOR, _FACTOR)  # lets go of Python's lock, as networks do
        if not self._hands:
            self._hands = tuple(self._hand(side, frame.camera) for side in Side)
        hands = tuple(replace(hand) for hand in self._hands)  # new ones, as a hand caches what was computed from it
        return PipelineResult(frame.stamp_ns, hands, hands, (), (), timings={"estimate": 0.0})

    def _hand(self, side: Side, camera: Camera) -> Hand:
        pose, betas = np.tile(np.eye(3), (16, 1, 1)), np.zeros(10)
        translation = np.array([-0.15 if side is Side.LEFT else 0.15, 0.0, 0.5])
        vertices, joints = self._model.layer(side).numpy(pose, betas, translation)
        return Hand(
            side=side,
            score=1.0,
            box=(0.0, 0.0, 100.0, 100.0),
            joints=joints,
            keypoints=camera.project(joints),
            pose=pose,
            betas=betas,
            translation=translation,
            estimator="fixed",
            hand_model=self._model.name,
            vertices=vertices,
            track_id=0 if side is Side.LEFT else 1,
        )


def measure_overhead(
    seconds: float = 10.0, transports: Sequence[str] = TRANSPORTS, work_ms: float = 0.0
) -> list[NodeOverhead]:
    """Runs camera and node for each transport. Raises WildHandsError where nothing comes.

    work_ms: how long the pipeline works on an image.
    """
    with LiveChain() as chain:
        return [_measure(transport, seconds, work_ms, chain.environment) for transport in transports]


def overhead_table(rows: Sequence[NodeOverhead]) -> str:
    """The figures as text."""
    head = [f"{_WIDTH}x{_HEIGHT} at {_RATE_HZ:g} Hz, two hands with meshes"]
    lines: list[tuple[str, list[str]]] = [
        ("processor time of the node per result (ms)", [f"{row.processor_ms:.1f}" for row in rows]),
        ("of which the pipeline (ms)", [f"{row.work_ms:.1f}" for row in rows]),
        ("decode, median (ms)", [f"{row.convert_ms:.1f}" for row in rows]),
        ("build and publish hands, TF, markers, median (ms)", [f"{row.publish_ms:.1f}" for row in rows]),
        ("capture to published hands, least (ms)", [f"{row.latency_ms[2]:.1f}" for row in rows]),
        ("capture to published hands, median (ms)", [f"{row.latency_ms[0]:.1f}" for row in rows]),
        ("capture to published hands, p95 (ms)", [f"{row.latency_ms[1]:.1f}" for row in rows]),
        ("images, results", [f"{row.images}, {row.results}" for row in rows]),
    ]
    return table([*head, *(row.transport for row in rows)], [[name, *cells] for name, cells in lines])


def _measure(transport: str, seconds: float, work_ms: float, environment: Mapping[str, str]) -> NodeOverhead:
    command = [sys.executable, "-m", "wildhands_ros.node.overhead"]
    arguments = ["--ros-args", "--log-level", "error", "-p", f"image_transport:={transport}"]
    commands = {
        "the node": [*command, "node", "--work", str(work_ms), *arguments],
        "the camera": [*command, "camera", transport],
    }
    with child_processes(commands, environment) as (node, camera), _Listener() as listener:
        listener.wait(_WARM_UP, (node, camera))
        before, began = node.processor_s(), time.monotonic()
        first = listener.count()
        time.sleep(seconds)  # the span that is measured
        listener.wait(first + 1, (node, camera))
        used, lasted = node.processor_s() - before, time.monotonic() - began
        latencies = listener.latencies()[first:]
        latency_ms = 1e3 * np.array(latencies)
        stages = listener.stages()
        images = round(lasted * _RATE_HZ)
        return NodeOverhead(
            transport=transport,
            images=images,
            results=len(latencies),
            processor_ms=1e3 * used / len(latencies),
            convert_ms=stages.get("convert", float("nan")),
            publish_ms=stages.get("publish", float("nan")),
            latency_ms=(
                float(np.median(latency_ms)), float(np.percentile(latency_ms, 95)), float(np.min(latency_ms)),
            ),
            work_ms=work_ms,
        )  # fmt: skip


class _Listener:
    """Subscribes to what RViz and a controller would; notes the latencies that the hands carry."""

    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._stages: dict[str, float] = {}
        self._more = threading.Condition()
        self._node = Node("wildhands_overhead_listener")
        self._node.create_subscription(HandPoseArray, "/wildhands/hands", self._take, RESULT_OUTPUT)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        # as bytes: taking them apart in Python would cost more than what is measured
        self._node.create_subscription(MarkerArray, "/wildhands/markers", _ignore, RESULT_OUTPUT, raw=True)
        self._node.create_subscription(TFMessage, "/tf", _ignore, TF_OUTPUT, raw=True)
        self._spinning = SpinningThread(self._node, "wildhands-overhead-listener")

    def wait(self, results: int, children: Sequence[ChildProcess]) -> None:
        """Until so many have come. Raises WildHandsError where they do not."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        with self._more:
            while len(self._latencies) < results:
                for child in children:
                    child.check()
                if time.monotonic() > deadline:
                    raise WildHandsError("the node gives no results: try wildhands doctor")
                self._more.wait(0.5)

    def count(self) -> int:
        """How many results have come so far."""
        return len(self._latencies)

    def latencies(self) -> list[float]:
        """Of all results, in seconds."""
        return list(self._latencies)

    def stages(self) -> dict[str, float]:
        """Medians of the last seconds, in milliseconds, as the node diagnoses itself."""
        return dict(self._stages)

    def __enter__(self) -> _Listener:
        return self

    def __exit__(self, *exception: object) -> None:
        self._spinning.stop()
        self._node.destroy_node()

    def _take(self, message: HandPoseArray) -> None:
        with self._more:
            self._latencies.append(duration_s(message.latency))
            self._more.notify_all()

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for value in message.status[0].values:
            if value.key in _STAGES:
                self._stages[_STAGES[value.key]] = float(value.value.split()[0])


def _ignore(_message: bytes) -> None:
    pass


def _camera(transport: str) -> int:
    """Publishes the same picture as camera drivers do, until it is told to stop."""
    keep_image_buffers()
    rclpy.init()
    node = Node("camera")
    camera = Camera.pinhole(_WIDTH, _HEIGHT, focal=_FOCAL)
    header = Header(frame_id="camera_optical_frame")
    # smooth, as the pictures of cameras are: noise would make a JPEG of several times the size
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    rgb = np.stack([rows * 255 // _HEIGHT, columns * 255 // _WIDTH, (rows ^ columns) & 127], axis=-1).astype(np.uint8)
    compressed = transport == "compressed"
    message = compressed_message(rgb, header) if compressed else image_message(rgb, header)
    kind, topic = (CompressedImage, "/image/compressed") if compressed else (Image, "/image")
    images = node.create_publisher(kind, topic, qos_profile_sensor_data)
    infos = node.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
    info = camera_to_camera_info(camera, header)

    def publish() -> None:
        stamp = node.get_clock().now().to_msg()
        message.header.stamp = info.header.stamp = stamp
        infos.publish(info)
        images.publish(message)

    node.create_timer(1 / _RATE_HZ, publish)
    spin_until_stopped(node)
    return 0


def main() -> int:
    """A process of the measurement."""
    command = "python3 -m wildhands_ros.node.overhead"
    parser = argparse.ArgumentParser(prog=command, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["node", "camera"])
    parser.add_argument("transport", choices=TRANSPORTS, nargs="?", default=TRANSPORTS[0])
    parser.add_argument("--work", type=float, default=0.0, metavar="MS")
    args = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if args.part == "camera":
        return _camera(args.transport)
    return run_node(sys.argv, partial(FixedHands, work_s=1e-3 * args.work))


if __name__ == "__main__":
    sys.exit(main())
