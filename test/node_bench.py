"""A `wildhands` node with a fake pipeline as a process of its own, and this process's ends of its topics."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from domains import give_back, take_domain
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from wildhands_ros.images import encode_jpeg
from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.messages import stamp_ns
from wildhands_ros.node.qos import profile_environment

WIDTH, HEIGHT = 160, 120
COLOUR = (200, 120, 40)
_HANGS_S = 120.0  # who waits longer waits in vain: a stalled machine is no failure
_OF_A_PROCESS = {"threads": "task", "files": "fd"}


class Process:
    """Another process: a `wildhands` node with a fake pipeline, or a camera, in its own ROS domain."""

    def __init__(
        self, log: Path, *arguments: str, domain: int | None = None, profile: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """variables: of the environment, besides those of this process."""
        self._has_own_domain = domain is None
        self.domain = take_domain() if domain is None else domain
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FASTDDS_", "FASTRTPS_"))}
        environment |= {"ROS_DOMAIN_ID": str(self.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        self._held = log.with_suffix(".held")
        environment |= {"WILDHANDS_TEST_HELD": str(self._held), **(variables or {})}
        if profile:
            environment |= profile_environment()
        self._log = log
        with log.open("w") as output:
            command = [sys.executable, str(Path(__file__).with_name("node_fakes.py")), *arguments]
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def occupied(self) -> dict[str, int]:
        """How many threads and open files it has."""
        return {what: len(list(Path(f"/proc/{self.pid}", of).iterdir())) for what, of in _OF_A_PROCESS.items()}

    def resident_mb(self) -> float:
        """Its memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def wait(self, condition: Callable[[], object], what: str, timeout: float = _HANGS_S) -> None:
        """Returns once the condition holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline or not self.running:
                state = "runs" if self.running else "has ended"
                raise AssertionError(f"{what}; the process {state} and says:\n{self.log}")
            self.step()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile the process does not run at all."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile a fake pipeline does not end the picture that it has begun, nor begins another one."""
        self._held.touch()
        try:
            yield
        finally:
            self._held.unlink()

    def step(self) -> None:
        """Lets some time pass while waiting."""
        time.sleep(0.02)

    def said(self, text: str) -> str:
        """Waits until it logs this text; returns the line."""
        self.wait(lambda: text in self.log, f"the node does not say '{text}'")
        return next(line for line in self.log.splitlines() if text in line)

    def ended(self) -> int:
        """Waits until it has ended by itself; returns its exit code."""
        return self._process.wait(_HANGS_S)

    def stop(self) -> int:
        """Ends it as Ctrl-C under `ros2 launch` does, with two SIGINTs; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_HANGS_S)
        finally:
            self._process.kill()
            self._leave()

    def _leave(self) -> None:
        """Nothing of it is in its domain any more."""
        if self._has_own_domain:
            self._has_own_domain = False
            give_back(self.domain)


class Bench(Process):
    """A node's process, and this process's ends of its topics."""

    def __init__(self, log: Path, *arguments: str, domain: int | None = None, name: str = "/wildhands") -> None:
        """name: the node's. Unless it is started with autostart:=false, waits until it publishes hands."""
        super().__init__(log, *arguments, domain=domain)
        self.name = name
        self._watched: Process | None = None
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = Node("bench", context=self.context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.received: dict[str, list] = {}
        self._stamps = itertools.count(1)
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        space = name.rpartition("/")[0]
        self.images = self.node.create_publisher(Image, f"{space}/image", reliable)
        self.jpegs = self.node.create_publisher(CompressedImage, f"{space}/image/compressed", reliable)
        self.infos = self.node.create_publisher(CameraInfo, f"{space}/camera_info", reliable)
        self.listen(DiagnosticArray, "/diagnostics")
        if "autostart:=false" not in arguments:
            self.listen(HandPoseArray, f"{name}/hands")

    def watch(self, successor: Process) -> None:
        """Another process takes the place of the one that has ended."""
        self._watched = successor

    @property
    def running(self) -> bool:
        return self._watched.running if self._watched else super().running

    def step(self, seconds: float = 0.05) -> None:
        """Handles messages."""
        self._executor.spin_once(timeout_sec=seconds)

    def _leave(self) -> None:
        if self.context.ok():
            self.node.destroy_node()
            self._executor.shutdown()
            rclpy.shutdown(context=self.context)
        super()._leave()

    def listen(self, kind: type, topic: str, profile: QoSProfile | int = 10) -> list:
        """Subscribes and waits until the node's publisher is there; received messages go into the returned list."""
        messages = self.received.setdefault(topic, [])
        subscription = self.node.create_subscription(kind, topic, messages.append, profile)
        self.wait(lambda: subscription.get_publisher_count(), f"nobody publishes {topic}")
        return messages

    def connect(self, *, compressed: bool = False, black: bool = False) -> None:
        """Publishes black images until a result comes, and then, unless `black`, one with hands.

        A best-effort subscriber misses what comes before it knows of us, and nobody can ask it whether it does.
        """
        hands = self.hands
        hands.clear()

        def answered() -> bool:
            stamp = self.stamp()
            black = plain((0, 0, 0))
            self.publish(jpeg_image(encode_jpeg(black), stamp) if compressed else raw_image(black, "rgb8", stamp))
            return bool(hands)

        self.wait(answered, "the node does not subscribe")
        if black:
            return
        last = self.stamp()
        self.send(jpeg_image(encode_jpeg(plain()), last) if compressed else raw_image(plain(), "rgb8", last))

    @property
    def hands(self) -> list[HandPoseArray]:
        """Results so far."""
        return self.received[f"{self.name}/hands"]

    def stamp(self) -> Time:
        """A new one, later than those before."""
        return Time(sec=next(self._stamps))

    def send(self, message: Image | CompressedImage, *, info: CameraInfo | None = None) -> HandPoseArray:
        """Publishes an image with its camera info and waits for the result."""
        self.publish(message, info=info)
        return self.result(message)

    def publish(self, message: Image | CompressedImage, *, info: CameraInfo | None = None) -> None:
        publisher = self.images if isinstance(message, Image) else self.jpegs
        info = camera_info() if info is None else info
        info.header = message.header
        self.infos.publish(info)
        publisher.publish(message)

    def result(self, message: Image | CompressedImage) -> HandPoseArray:
        hands = self.hands
        self.wait(lambda: any(h.header.stamp == message.header.stamp for h in hands), "no result")
        return next(h for h in hands if h.header.stamp == message.header.stamp)

    def status(self) -> DiagnosticStatus | None:
        """The node's latest."""
        own = f"{self.name.lstrip('/')}: hands"
        every = [status for array in self.received["/diagnostics"] for status in array.status if status.name == own]
        return every[-1] if every else None

    def diagnosed(self, key: str) -> str:
        """A value of the latest diagnostics, once they have it."""

        def find() -> str | None:
            status = self.status()
            return next((v.value for v in status.values if v.key == key), None) if status else None

        self.wait(find, f"no '{key}' in the diagnostics")
        return find() or ""

    def begins(self, message: Image | CompressedImage) -> None:
        """Publishes an image with its camera info and waits until a pipeline that is `held` works on it."""
        before = self.log.count("working")
        self.publish(message)
        self.wait(lambda: self.log.count("working") > before, "it does not begin")

    def received_in_all(self) -> int:
        """How many images the node has received, once two reports in a row have the same number."""
        reports, before = self.received["/diagnostics"], ""
        while before != (value := self.diagnosed("images received")):
            before, count = value, len(reports)
            self.wait(lambda count=count: len(reports) > count, "no further diagnostics")
        return int(value)

    def reaches(self, level: bytes, text: str) -> DiagnosticStatus:
        """Waits for a status of this level with this text in its message."""

        def there() -> bool:
            status = self.status()
            return status is not None and status.level == level and text in status.message

        self.wait(there, f"no status {level!r} '{text}', but {self.status()}")
        status = self.status()
        assert status is not None
        return status

    def call(self, kind: type, service: str, request: Any) -> Any:
        """The answer of one of the node's services."""
        client = self.node.create_client(kind, f"{self.name}/{service}")
        self.wait(client.service_is_ready, f"no service {service}")
        future = client.call_async(request)
        self.wait(future.done, f"no answer from {service}")
        self.node.destroy_client(client)
        return future.result()

    def transition(self, label: str) -> bool:
        """Asks for a transition, such as `configure`; whether it succeeded."""
        return bool(
            self.call(ChangeState, "change_state", ChangeState.Request(transition=Transition(label=label))).success
        )

    def state(self) -> str:
        """The lifecycle state."""
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def set_parameter(self, name: str, value: float | bool | str) -> tuple[bool, str]:
        """Whether the node accepts it, and the reason if not."""
        if isinstance(value, bool):
            typed = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
        elif isinstance(value, float):
            typed = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        else:
            typed = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=typed)])
        (result,) = self.call(SetParameters, "set_parameters", request).results
        return result.successful, result.reason


class Stream:
    """Images at a steady rate, and what comes of them.

    stamps: of the images, in nanoseconds. ages: of the results when they come here, in seconds since their image was
    published, in order.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._image = raw_image(plain(), "rgb8", bench.stamp())
        self.stamps: list[int] = []
        self.ages: list[float] = []
        self._sent: list[int] = []  # how many images had been published when each result came
        bench.hands.clear()

    def publish(self) -> int:
        """Publishes the next image and returns its stamp."""
        self._image.header.stamp = self._bench.node.get_clock().now().to_msg()
        self.stamps.append(stamp_ns(self._image.header.stamp))
        self._bench.publish(self._image)
        return self.stamps[-1]

    def collect(self) -> None:
        """Notes the results that have come."""
        now = self._bench.node.get_clock().now().nanoseconds
        for message in self._bench.hands[len(self.ages) :]:
            self.ages.append((now - stamp_ns(message.header.stamp)) * 1e-9)
            self._sent.append(len(self.stamps))

    def run(self, rate: float, seconds: float) -> None:
        """Publishes `rate` images a second."""
        for _ in range(round(rate * seconds)):
            self.publish()
            until = time.monotonic() + 1 / rate  # not at fixed times: after a stall many images would come at once
            while (left := until - time.monotonic()) > 0:
                self._bench.step(left)
                self.collect()

    @property
    def results(self) -> list[int]:
        """Which image each result is of."""
        return [self.stamps.index(stamp_ns(h.header.stamp)) for h in self._bench.hands]

    @property
    def behind(self) -> list[int]:
        """How many newer images had been published when work on each image began: when the result before it came."""
        return [sent - 1 - index for sent, index in zip(self._sent, self.results[1:], strict=False)]


def camera_info(width: int = WIDTH, height: int = HEIGHT, focal: float = 100.0) -> CameraInfo:
    k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    return CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5, k=k)


def plain(colour: tuple[int, int, int] = COLOUR) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)


def raw_image(pixels: np.ndarray, encoding: str, stamp: Time, *, height: int = HEIGHT) -> Image:
    """pixels: any shape whose first axis is the rows in memory."""
    message = Image(height=height, width=WIDTH, encoding=encoding, step=pixels[0].nbytes)
    message.header.stamp, message.header.frame_id = stamp, "camera_optical_frame"
    message.data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return message


def jpeg_image(data: bytes, stamp: Time, format: str = "rgb8; jpeg compressed bgr8") -> CompressedImage:
    message = CompressedImage(format=format, data=data)
    message.header.stamp, message.header.frame_id = stamp, "camera_optical_frame"
    return message
