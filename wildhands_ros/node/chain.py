"""Frames through a live node: this process plays them, a second runs the node, a third records."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from wildhands_ros.camera import Camera
from wildhands_ros.errors import RecordingError, WildHandsError
from wildhands_ros.frames import Frame
from wildhands_ros.interruptions import signals_held_back
from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.executor import SpinningThread
from wildhands_ros.node.messages import duration_s, stamp_ns
from wildhands_ros.node.player import Player, PlayerOptions, PlayReport
from wildhands_ros.node.qos import profile_environment, profile_variable
from wildhands_ros.recordings import FrameSource

IMAGE, CAMERA_INFO, HANDS = "/camera/image_raw", "/camera/camera_info", "/wildhands/hands"
RECORDED = (IMAGE, CAMERA_INFO, HANDS, "/wildhands/markers", "/tf", "/diagnostics")

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_LOOK_S = 0.1  # between black pictures
_READ_AHEAD = 3
_REHEARSAL = "rehearsal"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChainReport:
    """stamps: the index of each played frame by the stamp with which it was published. seconds: of playing."""

    stamps: Mapping[int, int]
    frames: int
    unanswered: int
    seconds: float


@dataclass(frozen=True)
class LiveReport:
    """What came of playing at the speed of a camera.

    published: pictures. latencies_s: of each result, from stamp to publication. processing_s: of each result, what the
    node spent on its picture.
    """

    published: int
    seconds: float
    latencies_s: tuple[float, ...]
    processing_s: tuple[float, ...]


class LiveChain:
    """ROS 2 in this process and its children, kept apart from others on this machine; a context manager.

    Without a ROS_DOMAIN_ID of the user's own, a domain is chosen by process number, so that nothing that is played
    here reaches a robot by accident; discovery stays on this machine.
    """

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self.environment.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
        self.environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        if profile_variable() not in self.environment:
            self.environment |= profile_environment()
        self.domain = self.environment["ROS_DOMAIN_ID"]

    def __enter__(self) -> LiveChain:
        # Fast DDS and rcl read these when the first participant is made
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", profile_variable()):
            if name in self.environment:
                os.environ[name] = self.environment[name]
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is a KeyboardInterrupt and no more
        return self

    def __exit__(self, *exception: object) -> None:
        rclpy.try_shutdown()

    def play(self, source: FrameSource, bag: Path, parameters: Mapping[str, object]) -> ChainReport:
        """Plays every frame as fast as the node answers; writes images, results, TF and markers to `bag` (.mcap).

        Raises WildHandsError where a process ends early, RecordingError where the node does not answer.
        """
        bag.parent.mkdir(parents=True, exist_ok=True)
        stamps: dict[int, int] = {}

        def note(frame: Frame, stamp_ns: int) -> None:
            if frame.name != _REHEARSAL:
                stamps[stamp_ns] = frame.index

        options = PlayerOptions(
            topic=IMAGE, lockstep=True, result_topic=HANDS, result_timeout_s=20.0, subscribers=2,
            subscriber_timeout_s=_START_TIMEOUT_S,
        )  # fmt: skip
        ahead = _ReadAhead(source)
        commands = {"the node": _node_command(parameters), "the recorder": _recorder_command(bag)}
        with (
            child_processes(commands, self.environment) as (_, recorder),
            Player(ahead, options, on_publish=note) as player,
        ):
            _rehearse(
                player,
                recorder,
                ahead.first().camera,
                lambda: all(recorder.said(f"receiving {topic}", within_s=_LOOK_S) for topic in (IMAGE, HANDS)),
            )
            report = player.run()
        return ChainReport(stamps, report.frames, report.unanswered, report.seconds)

    def measure(self, source: FrameSource, parameters: Mapping[str, object]) -> LiveReport:
        """Plays at the recorded speed, drops and all, with nobody recording: what a consumer of the hands gets.

        Raises WildHandsError where the node ends early or nothing comes.
        """
        ahead = _ReadAhead(source)
        with (
            child_processes({"the node": _node_command(parameters)}, self.environment) as (node,),
            Player(ahead, PlayerOptions(topic=IMAGE, subscriber_timeout_s=_START_TIMEOUT_S)) as player,
            _Results(player) as results,
        ):
            _rehearse(player, node, ahead.first().camera, lambda: results.wait(_LOOK_S))
            results.start_counting()
            report = player.run()
            return results.report(report)


def _node_command(parameters: Mapping[str, object]) -> list[str]:
    command = [sys.executable, "-m", "wildhands_ros.node", "--ros-args", "--log-level", "warn"]
    for name, topic in (("image", IMAGE), ("camera_info", CAMERA_INFO)):
        command += ["-r", f"{name}:={topic}"]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command += ["-p", f"{name}:={text}"]
    return command


def _recorder_command(bag: Path) -> list[str]:
    module = [sys.executable, "-m", "wildhands_ros.node.recorder"]
    return [*module, str(bag), *RECORDED, "--jpeg", "--overwrite"]


def _rehearse(player: Player, last: ChildProcess, camera: Camera, arrived: Callable[[], bool]) -> None:
    """Plays black pictures until their results arrive: discovery between the processes takes its time.

    last: the process in which they do, or from which they come. arrived: waits a moment for them. Raises WildHandsError
    where that process ends, or nothing arrives.
    """
    black = Frame(np.zeros((camera.height, camera.width, 3), np.uint8), camera, name=_REHEARSAL)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not arrived():
        last.check()
        if time.monotonic() > deadline:
            raise WildHandsError(f"no result on {HANDS} after {_START_TIMEOUT_S:g} s: try wildhands doctor")
        player.publish(black, player.node.get_clock().now().nanoseconds)


class _Results:
    """Takes the hands in a node of its own and notes their latencies."""

    def __init__(self, player: Player) -> None:
        self._come = threading.Event()
        self._since_ns = 0
        self._seen: list[tuple[int, float, float]] = []
        self._clock = player.node.get_clock()
        self._node = Node("wildhands_demo_listener")
        self._node.create_subscription(HandPoseArray, HANDS, self._take, 10)
        self._spinning = SpinningThread(self._node, "wildhands-demo-listener")

    def wait(self, seconds: float) -> bool:
        return self._come.wait(seconds)

    def start_counting(self) -> None:
        self._since_ns = self._clock.now().nanoseconds

    def report(self, played: PlayReport) -> LiveReport:
        counted = [(latency, processing) for stamp, latency, processing in self._seen if stamp >= self._since_ns]
        latencies, processing = zip(*counted, strict=True) if counted else ((), ())
        return LiveReport(played.frames, played.seconds, latencies, processing)

    def __enter__(self) -> _Results:
        return self

    def __exit__(self, *exception: object) -> None:
        self._spinning.stop()
        self._node.destroy_node()

    def _take(self, message: HandPoseArray) -> None:
        latency, processing = duration_s(message.latency), duration_s(message.processing_time)
        self._seen.append((stamp_ns(message.header.stamp), latency, processing))
        self._come.set()


@contextmanager
def child_processes(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str]
) -> Iterator[tuple[ChildProcess, ...]]:
    """Runs these commands until the block ends. Raises WildHandsError where one has ended before that.

    commands: by the name to call each process in messages. An interruption while they are being started leaves none
    of them behind.
    """
    with ExitStack() as running:
        with signals_held_back():
            children = [running.enter_context(ChildProcess(n, c, environment)) for n, c in commands.items()]
        yield tuple(children)


class ChildProcess:
    """A process that is stopped by SIGTERM and whose last lines of output are kept.

    Not by SIGINT: where this process ignores that, as one that a script runs in the background does, a child ignores
    it too until ROS installs its handler.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = name
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raises WildHandsError if the process has ended."""
        if self._process.poll() is not None:
            self._reader.join(1.0)
            raise WildHandsError(f"{self._name} ended: {' '.join(self._lines[-5:]) or 'without a word'}")

    def processor_s(self) -> float:
        """Time that all its threads have spent on processors so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))

    def said(self, text: str, within_s: float) -> bool:
        """Waits for a line with this text. Whether it came in time."""
        with self._news:
            return self._news.wait_for(lambda: any(text in line for line in self._lines), within_s)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        ended_early = self._process.poll() is not None
        if not ended_early:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(1.0)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return  # it may have been interrupted before it could listen to signals
        if ended_early or self._process.returncode not in (0, -signal.SIGTERM):
            raise WildHandsError(
                f"{self._name} ended with code {self._process.returncode}: {' '.join(self._lines[-8:])}"
            )

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines = [*self._lines[-200:], line.strip()]
                self._news.notify_all()
            logger.info("%s: %s", self._name, line.rstrip())


class _ReadAhead(FrameSource):
    """The same frames once, decoded by another thread while this one waits for the node."""

    def __init__(self, source: FrameSource) -> None:
        super().__init__(
            source.kind,
            source.description,
            length=source.length,
            camera_is_guess=source.camera_is_guess,
            fps=source.fps,
        )
        self._source = source
        self._queue: Queue[Frame | BaseException | None] = Queue(_READ_AHEAD)
        self._head: list[Frame] = []
        threading.Thread(target=self._read, daemon=True).start()

    def first(self) -> Frame:
        """The first frame, which is played nonetheless."""
        if not self._head:
            frame = self._next()
            if frame is None:
                raise RecordingError(f"{self.description} holds no frames")
            self._head = [frame]
        return self._head[0]

    def _frames(self) -> Iterator[Frame]:
        yield self.first()
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _read(self) -> None:
        try:
            for frame in self._source:
                self._queue.put(frame)
            self._queue.put(None)
        except BaseException as error:  # raised by `_next`, in the thread that waits for the frame
            self._queue.put(error)
