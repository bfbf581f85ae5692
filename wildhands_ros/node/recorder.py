"""Records topics of any type into an MCAP bag.

python -m wildhands_ros.node.recorder out/session.mcap /wildhands/hands /tf /head_camera/image_raw --jpeg
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.utilities import remove_ros_args

from wildhands_ros.errors import ImageError, RecordingError, UnknownTypeError, WildHandsError
from wildhands_ros.images import JPEG_QUALITY, decode_raw, encode_jpeg, has_eight_bits
from wildhands_ros.node.executor import SpinningThread
from wildhands_ros.node.signals import call_on_signals, ignore_signals
from wildhands_ros.node.topics import message_class, resolved_topic
from wildhands_ros.recordings import BagWriter, recorded_qos
from wildhands_ros.recordings.bag_source import COMPRESSED_IMAGE, IMAGE
from wildhands_ros.texts import log_to_terminal

if TYPE_CHECKING:  # newer rclpy has it in rclpy.endpoint_info
    from rclpy.topic_endpoint_info import TopicEndpointInfo

logger = logging.getLogger(__name__)

_COMMAND = "python3 -m wildhands_ros.node.recorder"
_LOOK_PERIOD_S = 0.1
_DEPTH, _IMAGE_DEPTH = 100, 60  # of messages that have come and are not yet written
_FINISH_S = 5.0  # at most, for those that are left when recording is to end
_REPORTED_PROBLEMS = 100
_OVERLAP_S = 1.0  # publishers need a while until they know a new subscription; an old one stays as long
_REMEMBERED = 1000  # messages of a topic, by which one that two subscriptions bring is known
_TWIN_S = 3.0  # a camera that publishes compressed pictures as well does so at least this often


@dataclass(frozen=True)
class RecordingReport:
    """What was recorded: messages by topic, and what went wrong."""

    path: Path
    counts: Mapping[str, int]
    problems: tuple[str, ...]


class _Recent:
    """The latest messages of a topic: two subscriptions bring the same one twice."""

    def __init__(self) -> None:
        self._keys: OrderedDict[tuple[int, int | None], object] = OrderedDict()
        self.knows = True  # messages apart: the middleware says when they were sent

    def brought_by(self, subscription: object, info: Mapping[str, Any]) -> object | None:
        """The subscription that has brought this message already; None where it comes for the first time."""
        key = info.get("source_timestamp", 0), info.get("publication_sequence_number")
        self.knows = bool(key[0])
        if self.knows and key in self._keys:
            return self._keys[key]
        self._keys[key] = subscription
        if len(self._keys) > _REMEMBERED:
            self._keys.popitem(last=False)
        return None


@dataclass
class _Channel:
    """One topic being recorded.

    former: subscriptions that were replaced, and the time.monotonic() until which they stay at least. is_heard: whether
    the present subscription has brought a message that a former one brought too, so that these are needed no longer.
    last_at: time.monotonic() when the latest message came; the node's clock may go back.
    """

    msgtype: str
    reliable: bool
    transient_local: bool
    subscription: Subscription[object]
    recorded_as: str
    jpeg: bool
    former: list[tuple[Subscription[object], float]] = field(default_factory=list)
    is_heard: bool = False
    recent: _Recent = field(default_factory=_Recent)
    added: bool = False
    refused: bool = False
    received: int = 0
    last_at: float | None = None
    endpoints: list[TopicEndpointInfo] = field(default_factory=list)


class Recorder:
    """Records from construction until `stop`; a context manager that owns its node.

    path: a bag folder, or a file ending in .mcap (see BagWriter). topics: names, as keys of their message types
        ("sensor_msgs/msg/Image"), or None where the type is to be learnt from the publishers; no topics at all means
        every one there is, also later. Topics of known type are subscribed at once, before anybody publishes, and
        recorded from the first message on whatever its publisher offers.
    jpeg: keep raw images as JPEG of `quality`, as CompressedImage on `<topic>/compressed`, but where that is recorded
        as well, from a camera that publishes both.

    Subscriptions follow the QoS of the publishers (reliable if all are, transient local if all are), and what they
    offer is noted in the bag. Where that changes nothing is lost: the old subscription stays until the new one works.
    Messages carry the time of receipt by the node's clock; with use_sim_time recording begins once /clock tells it, or
    they would be of 1970. Everything received is in the file after at most about a second, also if this process is
    killed.
    """

    def __init__(
        self,
        path: str | Path,
        topics: Mapping[str, str | None] | None = None,
        *,
        overwrite: bool = False,
        jpeg: bool = False,
        quality: int = JPEG_QUALITY,
        context: Context | None = None,
    ) -> None:
        if not 1 <= quality <= 100:
            raise RecordingError(f"the quality of JPEGs is 1 to 100, not {quality}")
        self._jpeg, self._quality = jpeg, quality
        self._changed = threading.Condition()
        self._channels: dict[str, _Channel] = {}
        self._knows_the_time = False  # as with use_sim_time before the first /clock
        self._problems: dict[str, None] = {}
        self._failure: RecordingError | None = None
        self._report: RecordingReport | None = None
        self.node = Node("wildhands_record", context=context)
        try:
            self._wanted = {resolved_topic(self.node, n): t for n, t in topics.items()} if topics else None
            self._writer = BagWriter(path, overwrite=overwrite)
        except RecordingError:
            self.node.destroy_node()
            raise
        try:
            self._look()
        except BaseException:  # or this bag could not be written again as long as this process lives
            self.node.destroy_node()
            self._writer.close()
            raise
        if not self._knows_the_time:
            logger.info("use_sim_time is set: recording begins once /clock tells the time")
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while a simulation stands still
        self.node.create_timer(_LOOK_PERIOD_S, self._look, clock=steady)
        self.node.create_timer(1.0, self._flush, clock=steady)
        self._spinning = SpinningThread(self.node, "wildhands-record", self._ended)

    @property
    def counts(self) -> dict[str, int]:
        """Messages received so far by topic."""
        with self._changed:
            return {name: channel.received for name, channel in self._channels.items()}

    def wait_for(self, topic: str, count: int = 1, timeout_s: float = 30.0) -> bool:
        """Whether that many messages of a topic have been recorded in time."""
        name = self.node.resolve_topic_name(topic)

        def arrived() -> bool:
            channel = self._channels.get(name)
            return self._failure is not None or (channel is not None and channel.received >= count)

        return self._wait(arrived, timeout_s)

    def wait_until_connected(self, topics: Sequence[str], timeout_s: float = 30.0) -> bool:
        """Whether all these topics have publishers whose messages will be recorded, in time."""
        names = [self.node.resolve_topic_name(t) for t in topics]
        return self._wait(lambda: all(n in self._channels and self._channels[n].endpoints for n in names), timeout_s)

    def wait_for_failure(self, timeout_s: float) -> bool:
        """Whether recording has failed (a full disk) by then; `stop` raises the reason."""
        with self._changed:
            return self._changed.wait_for(lambda: self._failure is not None, timeout_s)

    def stop(self) -> RecordingReport:
        """Finishes the bag. Raises RecordingError where something could not be written; later calls say it again."""
        if self._report is not None:
            return self._reported(self._report)
        self._spinning.stop(finish_s=_FINISH_S)
        self.node.destroy_node()
        if not self._knows_the_time:
            self._note(
                "use_sim_time is set but /clock told no time above 0, so nothing was recorded (play the bag with "
                "--clock, or start the simulation)"
            )
        for name, kind in (self._wanted or {}).items():
            if self._knows_the_time and name not in self._channels:
                self._note(f"nobody published {name}{f' ({kind})' if kind else ''}: it is not in the bag")
        self._report = RecordingReport(self._writer.path, dict(self._writer.counts), tuple(self._problems))
        try:
            self._writer.close()
        except RecordingError as error:
            self._failure = self._failure or error
        return self._reported(self._report)

    def _reported(self, report: RecordingReport) -> RecordingReport:
        if self._failure is not None:
            raise self._failure
        return report

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout_s) and self._failure is None

    def _ended(self, error: Exception) -> None:  # whatever it is, nothing is recorded any more: somebody must hear it
        self._fail(RecordingError(f"recording ended: {type(error).__name__}: {error}"))

    # --- following the graph (all below runs in the executor's thread) ----------------------------------------------

    def _look(self) -> None:
        """Subscribes to what has appeared, and again where the publishers' QoS asks for another subscription."""
        self._knows_the_time = self._knows_the_time or self.node.get_clock().now().nanoseconds > 0
        if not self._knows_the_time:
            return
        present = [name for name, _ in self.node.get_topic_names_and_types() if not _is_hidden(name)]
        wanted = dict.fromkeys(present) if self._wanted is None else self._wanted
        for name, given in wanted.items():
            endpoints = self.node.get_publishers_info_by_topic(name)
            # of publishers only: a subscription may have another type
            types = [given] if given else sorted({e.topic_type for e in endpoints})
            if not types and name in self._channels:  # nobody publishes any more
                types = [self._channels[name].msgtype]
            if len(types) > 1:
                self._note(f"{name} is published with several types ({', '.join(types)}) and not recorded")
            elif types:
                self._follow(name, types[0], endpoints)
        for channel in self._channels.values():
            self._retire(channel)

    def _follow(self, name: str, msgtype: str, endpoints: Sequence[TopicEndpointInfo]) -> None:
        channel = self._channels.get(name)
        profiles = [e.qos_profile for e in endpoints]
        reliable = all(p.reliability is ReliabilityPolicy.RELIABLE for p in profiles)
        transient = name.endswith("/tf_static")
        if profiles:
            transient = all(p.durability is DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
        if channel is None or (profiles and (channel.reliable, channel.transient_local) != (reliable, transient)):
            channel = self._subscribe(
                name, msgtype, reliable=reliable, transient_local=transient, published=bool(profiles)
            )
        if channel is not None and profiles:
            latest = time.monotonic() + _OVERLAP_S
            channel.former = [(subscription, min(until, latest)) for subscription, until in channel.former]
        if channel is not None and len(endpoints) != len(channel.endpoints):
            with self._changed:
                channel.endpoints = list(endpoints)
                self._changed.notify_all()

    def _subscribe(
        self, name: str, msgtype: str, *, reliable: bool, transient_local: bool, published: bool
    ) -> _Channel | None:
        kind = message_class(msgtype)
        if kind is None:
            self._note(
                f"{name} is of type {msgtype}, which is not installed here, and not recorded: source its workspace"
            )
            return None
        depth = _IMAGE_DEPTH if msgtype == IMAGE else _DEPTH
        subscribe = partial(self._subscription, name, kind, depth)
        old = self._channels.get(name)
        subscription = subscribe(reliable=reliable, transient_local=transient_local)
        if old is not None:
            old.former.append((old.subscription, time.monotonic() + _OVERLAP_S))
            old.subscription, old.reliable, old.transient_local = subscription, reliable, transient_local
            old.is_heard = False
            return old
        jpeg = msgtype == IMAGE and self._jpeg
        recorded_as = f"{name}/compressed" if jpeg else name
        channel = _Channel(msgtype, reliable, transient_local, subscription, recorded_as, jpeg)
        if not published:  # yet, and a later publisher may offer less
            channel.former.append((subscribe(reliable=False, transient_local=False), math.inf))
        with self._changed:
            self._channels[name] = channel
        return channel

    def _subscription(
        self, name: str, kind: type, depth: int, *, reliable: bool, transient_local: bool
    ) -> Subscription[object]:
        def take(serialized: bytes, info: Mapping[str, Any]) -> None:
            self._take(name, subscription, serialized, info)

        profile = QoSProfile(
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if transient_local else DurabilityPolicy.VOLATILE,
            history=HistoryPolicy.KEEP_LAST,
            depth=depth,
        )
        subscription = self.node.create_subscription(kind, name, take, profile, raw=True)
        return subscription

    def _retire(self, channel: _Channel) -> None:
        """Ends the subscriptions whose time is over, as soon as they are known to be needed no longer."""
        if channel.recent.knows and not channel.is_heard:  # on a busy machine publishers may need more than their time
            return
        now = time.monotonic()
        for subscription, until in channel.former:
            if until <= now:
                self.node.destroy_subscription(subscription)
        channel.former = [entry for entry in channel.former if entry[1] > now]

    def _take(self, name: str, subscription: Subscription[object], serialized: bytes, info: Mapping[str, Any]) -> None:
        channel = self._channels[name]
        if subscription is channel.subscription:  # what still waits in others came before
            for former, _ in channel.former:
                while (waiting := former.handle.take_message(former.msg_type, True)) is not None:
                    self._take(name, former, *waiting)
        before = channel.recent.brought_by(subscription, info)
        if before is not None and before is not subscription:
            channel.is_heard = channel.is_heard or channel.subscription in (before, subscription)
        if self._failure is not None or before is not None:
            return
        time_ns, now = self.node.get_clock().now().nanoseconds, time.monotonic()
        try:
            if not self._comes_compressed(channel, now):
                self._write(name, channel, serialized, time_ns)
        except RecordingError as error:
            self._fail(error)
        except WildHandsError as error:
            self._note(f"a picture of {name} was left out: {error}")
        with self._changed:
            channel.last_at = now
            channel.received += 1
            self._changed.notify_all()

    def _comes_compressed(self, channel: _Channel, now: float) -> bool:
        """Whether the camera publishes these pictures compressed as well, at present: then they would be kept twice."""
        twin = self._channels.get(channel.recorded_as) if channel.jpeg else None
        return twin is not None and twin.last_at is not None and now - twin.last_at < _TWIN_S

    def _flush(self) -> None:
        try:
            self._writer.flush()
        except RecordingError as error:
            self._fail(error)

    def _fail(self, error: RecordingError) -> None:
        logger.error("%s", error)
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _write(self, name: str, channel: _Channel, serialized: bytes, time_ns: int) -> None:
        if not channel.added:
            self._add(name, channel, serialized)
        if channel.refused:
            return
        if channel.jpeg:
            self._writer.write(channel.recorded_as, self._compress(serialized), time_ns)
        else:
            self._writer.write_serialized(channel.recorded_as, serialized, time_ns)

    def _add(self, name: str, channel: _Channel, serialized: bytes) -> None:
        """Announces a topic to the bag, with its first message; where that is possible."""
        offered = [
            recorded_qos(
                reliable=e.qos_profile.reliability is ReliabilityPolicy.RELIABLE,
                transient_local=e.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL,
                depth=e.qos_profile.depth or 10,
            )
            for e in self.node.get_publishers_info_by_topic(name)
        ]
        if channel.jpeg and not has_eight_bits(encoding := self._raw_image(serialized).encoding):
            channel.jpeg, channel.recorded_as = False, name
            self._note(f"{name} is of encoding '{encoding}', of which JPEG would lose much: it is recorded as it is")
        kind = COMPRESSED_IMAGE if channel.jpeg else channel.msgtype
        channel.added = True
        try:
            self._writer.add_topic(channel.recorded_as, kind, offered=offered or None)
        except UnknownTypeError as error:
            channel.refused = True
            self._note(f"{error}. It is not recorded")
        else:
            logger.info("receiving %s", name)

    def _raw_image(self, serialized: bytes) -> _RawImage:
        try:
            return cast(_RawImage, self._writer.typestore.deserialize_cdr(serialized, IMAGE))
        except Exception as error:  # rosbags lets numpy's and struct's errors through where the bytes are damaged
            raise ImageError(f"the message is damaged ({error})") from error

    def _compress(self, serialized: bytes) -> object:
        raw = self._raw_image(serialized)
        if not has_eight_bits(raw.encoding):
            raise ImageError(f"its encoding has become '{raw.encoding}', of which JPEG would lose much")
        rgb = decode_raw(raw.data, raw.height, raw.width, raw.step, raw.encoding, raw.is_bigendian)
        data = np.frombuffer(encode_jpeg(rgb, self._quality), np.uint8)
        return self._writer.types[COMPRESSED_IMAGE](raw.header, "rgb8; jpeg compressed bgr8", data)

    def _note(self, problem: str) -> None:
        if problem not in self._problems and len(self._problems) < _REPORTED_PROBLEMS:
            self._problems[problem] = None
            logger.warning(problem)


class _RawImage(Protocol):
    """The fields of sensor_msgs/Image that are read here."""

    header: object
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: NDArray[np.uint8]


def _is_hidden(topic: str) -> bool:
    """Topics of ROS's own machinery: a part of the name begins with an underscore."""
    return "/_" in topic


def main(args: Sequence[str] | None = None) -> int:
    """The command line of `python -m wildhands_ros.node.recorder`; returns the exit code."""
    argv = list(sys.argv if args is None else [_COMMAND, *args])
    options = _parser().parse_args(remove_ros_args(argv)[1:])
    log_to_terminal(logging.INFO)
    asked = threading.Event()
    call_on_signals(asked.set)
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        topics = {name: kind or None for name, _, kind in (t.partition(":") for t in options.topics)}
        recorder = Recorder(
            options.path, topics, overwrite=options.overwrite, jpeg=options.jpeg, quality=options.quality
        )
        logger.info("recording to %s until Ctrl-C", options.path)
        while not asked.wait(0.2):
            if recorder.wait_for_failure(0):
                break
        report = recorder.stop()
    except WildHandsError as error:
        logger.error("%s", error)
        return 1
    finally:
        ignore_signals()  # else one that comes while Python ends would be what the exit code tells of
        rclpy.try_shutdown()
    for name, count in sorted(report.counts.items()):
        logger.info("%8d  %s", count, name)
    logger.info("%d messages in %s", sum(report.counts.values()), report.path)
    for problem in report.problems:
        logger.warning(problem)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Records topics into an MCAP bag until Ctrl-C. Foxglove, rerun and ros2 bag open it.",
    )
    parser.add_argument("path", help="bag folder, or file ending in .mcap, to write")
    parser.add_argument("topics", nargs="*", metavar="TOPIC[:TYPE]", help="topics to record; none: all there are")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing recording")
    parser.add_argument("--jpeg", action="store_true", help="keep raw images as JPEG, on TOPIC/compressed")
    parser.add_argument("--quality", type=int, default=JPEG_QUALITY, help="of the JPEG, 1 to 100 (default %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
