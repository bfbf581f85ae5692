"""Plays pictures, videos and bags onto ROS topics, as a camera driver would publish them.

python -m wildhands_ros.node.player clip.mp4 --focal 600 --ros-args -r __ns:=/head_camera
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from wildhands_ros.camera import Camera
from wildhands_ros.errors import RecordingError, WildHandsError
from wildhands_ros.frames import Frame
from wildhands_ros.images import JPEG_QUALITY
from wildhands_ros.node.camera_info import camera_to_camera_info
from wildhands_ros.node.executor import SpinningThread
from wildhands_ros.node.images import compressed_message, image_message
from wildhands_ros.node.messages import header_at
from wildhands_ros.node.signals import call_on_signals, ignore_signals
from wildhands_ros.node.topics import message_class, resolved_topic
from wildhands_ros.recordings import FrameSource, open_source
from wildhands_ros.recordings.message_types import HAND_POSE_ARRAY
from wildhands_ros.recordings.serialized import header_stamp_ns
from wildhands_ros.texts import log_to_terminal

logger = logging.getLogger(__name__)

_COMMAND = "python3 -m wildhands_ros.node.player"
_DEPTH = 4  # pictures that wait to be sent: old ones are no use
_LOCKSTEP_DEPTH = 60  # in lockstep the one that answers sets the pace, and a recorder beside it may lag so far behind
_SECOND = 10**9
_POLL_S = 0.02
_INFO_GRACE_S = 1.0
_ACKNOWLEDGED_S = 5.0  # what got lost Fast DDS sends again after three seconds
_DEFAULT_PERIOD_NS = 33_333_333
_LONGEST_GAP_NS = 60 * _SECOND  # that is played: a longer one is a clock that was set, or nothing to wait for
_ANSWERS_REMEMBERED = 1024


class Stamps(str, Enum):
    """How published pictures are stamped: with the time of publishing, or as recorded (but 1 ns for 0)."""

    NOW = "now"
    ORIGINAL = "original"


@dataclass(frozen=True)
class PlayerOptions:
    """How to play.

    topic: of the pictures, in the node's namespace; camera_info goes beside it. compressed: publish JPEG of `quality`
        on `<topic>/compressed` instead.
    rate: factor on the recorded speed. loop: start again at the end, for ever; original stamps go on growing.
    lockstep: instead of the recorded speed, publish each picture when the result for the one before has come on
        `result_topic` (a message of `result_type`, which must begin with a header, with that picture's stamp).
    repeat_s: in lockstep, publish a picture again when its result has not come for so long (best effort may lose one).
    result_timeout_s: how long to wait for one result; after `give_up_after` in a row without one playing fails.
    subscribers: how many subscriptions to the pictures to wait for before starting (0: do not wait), at most
        `subscriber_timeout_s`.
    """

    topic: str = "image_raw"
    compressed: bool = False
    quality: int = JPEG_QUALITY
    rate: float = 1.0
    loop: bool = False
    stamps: Stamps = Stamps.NOW
    lockstep: bool = False
    result_topic: str = "/wildhands/hands"
    result_type: str = HAND_POSE_ARRAY
    repeat_s: float = 1.0
    result_timeout_s: float = 10.0
    give_up_after: int = 3
    subscribers: int = 1
    subscriber_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise RecordingError(f"the rate of playing must be a positive number, not {self.rate}")
        if not 1 <= self.quality <= 100:
            raise RecordingError(f"the quality of JPEGs is 1 to 100, not {self.quality}")
        for seconds in (self.subscriber_timeout_s, self.result_timeout_s):
            if not seconds >= 0:
                raise RecordingError(f"a time to wait must be a number of seconds, not {seconds}")


@dataclass(frozen=True)
class PlayReport:
    """What was played. unanswered: pictures without a result in time (lockstep only). seconds: until the last picture
    was published, or answered."""

    frames: int
    unanswered: int
    seconds: float


class Player:
    """Publishes the frames of a source; a context manager that owns its node.

    on_publish: called with each frame and the stamp it was published with, before it goes out.
    """

    def __init__(
        self,
        source: FrameSource,
        options: PlayerOptions | None = None,
        *,
        namespace: str | None = None,
        context: Context | None = None,
        on_publish: Callable[[Frame, int], None] | None = None,
    ) -> None:
        self._source, self._options = source, options or PlayerOptions()
        self._on_publish = on_publish
        self._stop = threading.Event()
        self.node = Node("wildhands_play", namespace=namespace, context=context)
        topic, kind = (f"{self._options.topic}/compressed", CompressedImage) if self._options.compressed else (
            self._options.topic, Image
        )  # fmt: skip
        try:
            resolved_topic(self.node, topic)
            self._answers = _Answers(self.node, self._options) if self._options.lockstep else None
        except RecordingError:
            self.node.destroy_node()
            raise
        qos = QoSProfile(
            reliability=ReliabilityPolicy.RELIABLE,  # which serves subscriptions of both kinds
            durability=DurabilityPolicy.VOLATILE,
            history=HistoryPolicy.KEEP_LAST,
            depth=_LOCKSTEP_DEPTH if self._options.lockstep else _DEPTH,
        )
        beside = "/".join([*self._options.topic.split("/")[:-1], "camera_info"])
        self._images: Publisher[Image] | Publisher[CompressedImage] = self.node.create_publisher(kind, topic, qos)
        self._infos: Publisher[CameraInfo] = self.node.create_publisher(CameraInfo, beside, qos)
        self._spinning = SpinningThread(self.node, "wildhands-play")

    def run(self) -> PlayReport:
        """Plays to the end, or until `stop`. Raises RecordingError where nobody listens or answers."""
        self._wait_for_listeners()
        pacer = _Pacer(self._options.rate)
        frames = unanswered = in_a_row = 0
        started = time.monotonic()
        for frame, original_ns in self._endless() if self._options.loop else self._once():
            if self._answers is None:
                self._stop.wait(pacer.delay(original_ns))
            if self._stop.is_set():
                break
            stamp_ns = original_ns or 1  # to ROS a stamp of 0 is none
            if self._options.stamps is Stamps.NOW:
                stamp_ns = self.node.get_clock().now().nanoseconds
            if self._answers is not None:
                self._answers.forget(stamp_ns)
            self.publish(frame, stamp_ns)
            frames += 1
            if self._answers is None:
                continue
            if self._answered(frame, stamp_ns):
                in_a_row = 0
            elif not self._stop.is_set():
                unanswered, in_a_row = unanswered + 1, in_a_row + 1
                self._complain(frame, in_a_row)
        seconds = time.monotonic() - started
        self._let_arrive()
        return PlayReport(frames, unanswered, seconds)

    def publish(self, frame: Frame, stamp_ns: int) -> None:
        """Publishes one picture and its camera_info, now."""
        if self._on_publish is not None:
            self._on_publish(frame, stamp_ns)
        header = header_at(stamp_ns, frame.frame_id)
        self._infos.publish(camera_to_camera_info(frame.camera, header))
        if self._options.compressed:
            self._images.publish(compressed_message(frame.image, header, self._options.quality))
        else:
            self._images.publish(image_message(frame.image, header))

    def stop(self) -> None:
        """Ends `run` soon; may be called from any thread, but not from a signal handler (see `call_on_signals`)."""
        self._stop.set()
        if self._answers is not None:
            self._answers.stop()

    def close(self) -> None:
        """Stops and destroys the node."""
        self.stop()
        self._spinning.stop()
        self.node.destroy_node()

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _let_arrive(self) -> None:
        """The last messages are still on their way to reliable subscriptions when the publishers could be gone."""
        until = time.monotonic() + _ACKNOWLEDGED_S
        publishers = [self._images] if self._stop.is_set() else [self._images, self._infos]
        for publisher in publishers:  # camera_infos are small, and acknowledged every three seconds
            publisher.wait_for_all_acked(Duration(seconds=max(until - time.monotonic(), 0.0)))

    def _answered(self, frame: Frame, stamp_ns: int) -> bool:
        """Whether the picture's result comes in time; the picture is published again where it seems to be lost."""
        assert self._answers is not None
        left = self._options.result_timeout_s
        while left > self._options.repeat_s and not self._stop.is_set():
            if self._answers.wait(stamp_ns, self._options.repeat_s):
                return True
            left -= self._options.repeat_s
            # a best-effort subscription that has not yet discovered this publisher misses the first picture
            self.publish(frame, stamp_ns)
        return self._answers.wait(stamp_ns, left)

    def _once(self) -> Iterator[tuple[Frame, int]]:
        for frame in self._source:
            yield frame, frame.stamp_ns

    def _endless(self) -> Iterator[tuple[Frame, int]]:
        """The frames again and again; each round's stamps begin after all of the one before."""
        offset_ns = 0
        while not self._stop.is_set():
            stamps: list[int] = []
            newest_ns = 0
            for frame in self._source:
                stamps = [*stamps[:1], *stamps[-1:], frame.stamp_ns]  # the first and the last two
                newest_ns = max(newest_ns, frame.stamp_ns)  # the last one's, unless the clock was set back
                yield frame, frame.stamp_ns + offset_ns
            period_ns = stamps[-1] - stamps[-2] if len(stamps) > 1 else _DEFAULT_PERIOD_NS
            offset_ns += newest_ns - stamps[0] + max(period_ns, 1)

    def _wait_for_listeners(self) -> None:
        options = self._options
        if not self._wait(lambda: self._images.get_subscription_count() >= options.subscribers):
            raise RecordingError(
                f"{self._images.get_subscription_count()} of {options.subscribers} subscriptions to "
                f"{self._images.topic_name} after {options.subscriber_timeout_s:g} s: start the node that takes the "
                "pictures, and check its topic names, ROS_DOMAIN_ID and that it takes "
                f"{'compressed' if options.compressed else 'raw'} images"
            )
        if options.subscribers:  # most subscribers also take camera_info, and topics are discovered one by one
            self._wait(lambda: self._infos.get_subscription_count() >= 1, _INFO_GRACE_S)
        if self._answers is not None and not self._wait(self._answers.has_publisher):
            raise RecordingError(
                f"nobody publishes {options.result_type} on {options.result_topic} after "
                f"{options.subscriber_timeout_s:g} s: start the node, or name the topic of its results"
            )

    def _wait(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Whether the condition came true in time (or playing was stopped, which needs no complaint)."""
        deadline = time.monotonic() + (self._options.subscriber_timeout_s if seconds is None else seconds)
        while not condition():
            if time.monotonic() > deadline:
                return False
            if self._stop.wait(_POLL_S):  # there is no event for subscriptions in all supported distributions
                return True
        return True

    def _complain(self, frame: Frame, in_a_row: int) -> None:
        message = (
            f"no result for frame {frame.index} of {self._source.description} within "
            f"{self._options.result_timeout_s:g} s on {self._options.result_topic}"
        )
        if in_a_row >= self._options.give_up_after:
            raise RecordingError(f"{message}, nor for the {in_a_row - 1} before it: is the node still running?")
        logger.warning(message)


class _Pacer:
    """When each frame is due: as far after the first as it was recorded after the first.

    A clock that was set while it was recorded neither stops nor hurries what follows: where stamps go back by more than
    a second or on by more than a minute, the frame is due now, and those that follow are as far after it.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._start = 0.0, 0
        self._last_ns: int | None = None

    def delay(self, stamp_ns: int) -> float:
        """Seconds from now until the frame of this stamp is due; 0 where it is late."""
        now = time.monotonic()
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if last_ns is None or not -_SECOND <= stamp_ns - last_ns <= _LONGEST_GAP_NS:
            self._start = now, stamp_ns
            if last_ns is not None:
                logger.warning("the recording's stamps jump by %.1f s: playing on at once", (stamp_ns - last_ns) / 1e9)
        began, first_ns = self._start
        return max(began + (stamp_ns - first_ns) / 1e9 / self._rate - now, 0.0)


class _Answers:
    """The stamps of the results that have come."""

    def __init__(self, node: Node, options: PlayerOptions) -> None:
        """Raises RecordingError for a name that no topic can have, or a type that is not installed."""
        resolved_topic(node, options.result_topic)
        kind = message_class(options.result_type)
        if kind is None:
            raise RecordingError(
                f"the message type {options.result_type} is not installed: build it or source its workspace"
            )
        self._node = node
        self._changed = threading.Condition()
        self._stamps: dict[int, None] = {}
        self._stopped = False
        # best effort takes results of publishers of both kinds
        qos = QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=10)
        self._subscription = node.create_subscription(kind, options.result_topic, self._take, qos, raw=True)

    def has_publisher(self) -> bool:
        return bool(self._node.count_publishers(self._subscription.topic_name) > 0)

    def forget(self, stamp_ns: int) -> None:
        """What was the answer to a picture is none to the next one of the same stamp."""
        with self._changed:
            self._stamps.pop(stamp_ns, None)

    def wait(self, stamp_ns: int, seconds: float) -> bool:
        """Whether the result for this stamp has come in time."""
        with self._changed:
            self._changed.wait_for(lambda: stamp_ns in self._stamps or self._stopped, seconds)
            return stamp_ns in self._stamps

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _take(self, serialized: bytes) -> None:
        stamp_ns = header_stamp_ns(serialized)
        if stamp_ns is None:
            return
        with self._changed:
            self._stamps[stamp_ns] = None
            if len(self._stamps) > _ANSWERS_REMEMBERED:
                del self._stamps[next(iter(self._stamps))]
            self._changed.notify_all()


def main(args: Sequence[str] | None = None) -> int:
    """The command line of `python -m wildhands_ros.node.player`; returns the exit code."""
    argv = list(sys.argv if args is None else [_COMMAND, *args])
    options = _parser().parse_args(remove_ros_args(argv)[1:])
    log_to_terminal(logging.INFO)
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        return _play(options)
    except WildHandsError as error:
        logger.error("%s", error)
        return 1
    except KeyboardInterrupt:  # before playing began
        return 130
    finally:
        ignore_signals()  # else one that comes while Python ends would be what the exit code tells of
        rclpy.try_shutdown()


def _play(options: argparse.Namespace) -> int:
    source = open_source(
        options.source,
        camera=Camera.from_yaml(options.camera, rectified=bool(options.rectified)) if options.camera else None,
        focal=options.focal,
        topic=options.image_topic,
        camera_info_topic=options.camera_info_topic,
        rectified=options.rectified,
        fps=options.fps,
        frame_id=options.frame_id,
    )
    with source, Player(source, _player_options(options)) as player:
        call_on_signals(player.stop)
        if source.camera_is_guess:
            logger.warning("%s: the focal length is a guess, so depth will be one too (--focal)", source.description)
        report = player.run()
    logger.info("%d frames of %s in %.1f s", report.frames, source.description, report.seconds)
    if report.unanswered:
        logger.warning("%d frames had no result in time", report.unanswered)
    return 0


def _player_options(options: argparse.Namespace) -> PlayerOptions:
    return PlayerOptions(
        topic=options.topic,
        compressed=options.compressed,
        quality=options.quality,
        rate=options.rate,
        loop=options.loop,
        stamps=Stamps(options.stamps),
        lockstep=options.lockstep,
        result_topic=options.result_topic,
        result_timeout_s=options.result_timeout,
        subscribers=options.subscribers,
        subscriber_timeout_s=options.wait,
    )


def _parser() -> argparse.ArgumentParser:
    defaults = PlayerOptions()
    parser = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Plays pictures, a video or a bag onto image_raw and camera_info, as a camera driver would.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("source", help="picture, folder of pictures, video, webcam:0, or rosbag2 (folder, .mcap, .db3)")
    parser.add_argument("--focal", type=float, help="focal length in pixels, instead of what was recorded")
    parser.add_argument("--camera", help="calibration file of ROS's camera_calibration (YAML)")
    parser.add_argument("--image-topic", help="image topic in the bag, where it has several")
    parser.add_argument("--camera-info-topic", help="camera_info topic in the bag, where it is not beside the images")
    parser.add_argument(
        "--rectified", action=argparse.BooleanOptionalAction,
        help="the pictures are rectified (P of camera_info or --camera holds), or not; else a bag's topic says so",
    )  # fmt: skip
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second of a folder of pictures")
    parser.add_argument("--frame-id", default="camera_optical_frame", help="camera frame, where none was recorded")
    parser.add_argument("--topic", default=defaults.topic, help="topic to publish on; camera_info goes beside it")
    parser.add_argument("--compressed", action="store_true", help="publish JPEG on TOPIC/compressed instead")
    parser.add_argument("--quality", type=int, default=defaults.quality, help="of the JPEG, 1 to 100")
    parser.add_argument("--rate", type=float, default=defaults.rate, help="factor on the recorded speed")
    parser.add_argument("--loop", action="store_true", help="start again at the end, for ever")
    parser.add_argument(
        "--stamps", choices=[s.value for s in Stamps], default=defaults.stamps.value, help="of pictures"
    )
    parser.add_argument("--lockstep", action="store_true", help="publish a picture when the last one's result has come")
    parser.add_argument("--result-topic", default=defaults.result_topic, help="HandPoseArray to wait for in lockstep")
    parser.add_argument("--result-timeout", type=float, default=defaults.result_timeout_s, help="seconds for a result")
    parser.add_argument("--subscribers", type=int, default=defaults.subscribers, help="how many to wait for; 0: none")
    parser.add_argument("--wait", type=float, default=defaults.subscriber_timeout_s, help="seconds to wait for them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
