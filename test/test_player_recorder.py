"""Playing onto real topics and recording from them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from domains import own_domain
from geometry_msgs.msg import TransformStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import RecordingError
from wildhands_ros.frames import Frame
from wildhands_ros.images import decode_compressed, decode_raw
from wildhands_ros.msg import HandPose, HandPoseArray
from wildhands_ros.node import player as player_module
from wildhands_ros.node import recorder as recorder_module
from wildhands_ros.node.camera_info import camera_to_camera_info
from wildhands_ros.node.executor import SpinningThread
from wildhands_ros.node.images import compressed_message, image_message
from wildhands_ros.node.player import Player, PlayerOptions, PlayReport, Stamps, _Pacer
from wildhands_ros.node.qos import RESULT_OUTPUT
from wildhands_ros.node.recorder import Recorder
from wildhands_ros.node.topics import message_class
from wildhands_ros.recordings import BagReader, BagWriter, FrameSource, bag_writer, open_source

ROOT = Path(__file__).parents[1]
DEADLINE_S = 120.0  # of what would hang: a stalled machine is no failure
SIZE = (64, 48)

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds.xml")


@pytest.fixture
def context() -> Iterator[Context]:
    made = Context()
    rclpy.init(context=made, domain_id=own_domain())
    yield made
    made.try_shutdown()


class Listener:
    """A node in a thread of its own that keeps what it hears."""

    def __init__(self, context: Context, name: str = "listener") -> None:
        self.node = Node(name, context=context)
        self.heard: list[object] = []
        self.changed = threading.Condition()

    def listen(self, kind: type, topic: str, then: Callable[[object], None] | None = None, qos: object = 50) -> None:
        def take(message: object) -> None:
            if then is not None:
                then(message)
            with self.changed:
                self.heard.append(message)
                self.changed.notify_all()

        self.node.create_subscription(kind, topic, take, qos)

    def wait(self, count: int, kind: type = object) -> list[object]:
        with self.changed:
            found = lambda: [m for m in self.heard if isinstance(m, kind)]  # noqa: E731
            assert self.changed.wait_for(lambda: len(found()) >= count, DEADLINE_S), (
                f"{len(found())} of {count} arrived"
            )
            return found()

    def __enter__(self) -> Listener:
        self.spinning = SpinningThread(self.node, "listener")
        return self

    def __exit__(self, *_: object) -> None:
        self.spinning.stop()
        self.node.destroy_node()


def folder_of_pictures(path: Path, count: int = 5, size: tuple[int, int] = SIZE) -> FrameSource:
    path.mkdir(exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(path / f"{i}.png"), np.full((size[1], size[0], 3), (i, 100, 200), np.uint8))
    return open_source(path, focal=50, fps=100, frame_id="head_camera")


def colours(images: list[object]) -> list[int]:
    """The index that each picture carries in its blue channel (rgb8)."""
    return [decode_raw(m.data, m.height, m.width, m.step, m.encoding)[0, 0, 2] for m in images]


def stamp(message: object) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


# --- camera_info ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "camera",
    [
        Camera.pinhole(64, 48, 50),
        Camera(64, 48, 50, 51, 31, 24, Distortion.PLUMB_BOB, (0.1, -0.2, 0.01, 0.02, 0.3)),
        Camera(64, 48, 50, 51, 31, 24, Distortion.RATIONAL_POLYNOMIAL, (0.1, -0.2, 0.01, 0.02, 0.3, 0.1, 0.2, 0.3)),
        Camera(64, 48, 50, 51, 31, 24, Distortion.EQUIDISTANT, (0.1, 0.02, 0.003, 0.0004)),
    ],
    ids=lambda camera: camera.model.value,
)
def test_camera_info_gives_the_camera_back(camera: Camera) -> None:
    info = camera_to_camera_info(camera, Header(frame_id="head"))
    assert Camera.from_camera_info(info) == camera
    assert Camera.from_camera_info(info, rectified=True) == camera.undistorted()
    assert info.header.frame_id == "head"


# --- playing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [50, qos_profile_sensor_data], ids=["reliable", "sensor data"])
def test_pictures_arrive_as_they_are_with_their_camera(context: Context, tmp_path: Path, qos: object) -> None:
    source = folder_of_pictures(tmp_path)
    options = PlayerOptions(topic="cam/image_raw", stamps=Stamps.ORIGINAL)
    with Listener(context) as listener:
        listener.listen(Image, "/cam/image_raw", qos=qos)
        listener.listen(CameraInfo, "/cam/camera_info", qos=qos)
        with Player(source, options, context=context) as player:
            assert player.run().frames == 5
        images, infos = listener.wait(5, Image), listener.wait(5, CameraInfo)
    assert colours(images) == [0, 1, 2, 3, 4]
    assert [stamp(m) for m in images] == [stamp(m) for m in infos] == [i * 10_000_000 or 1 for i in range(5)]
    assert images[0].header.frame_id == infos[0].header.frame_id == "head_camera"
    assert Camera.from_camera_info(infos[0]) == Camera.pinhole(64, 48, 50)


def test_compressed_pictures_with_stamps_of_now(context: Context, tmp_path: Path) -> None:
    published: dict[str, int] = {}
    before = Node("clock", context=context).get_clock().now().nanoseconds
    with Listener(context) as listener:
        listener.listen(CompressedImage, "/ns/image_raw/compressed")
        with Player(
            folder_of_pictures(tmp_path), PlayerOptions(compressed=True), context=context, namespace="/ns",
            on_publish=lambda frame, stamp_ns: published.update({frame.name: stamp_ns}),
        ) as player:  # fmt: skip
            player.run()
        images = listener.wait(5)
    assert [stamp(m) for m in images] == list(published.values()) == sorted(published.values())
    assert list(published) == ["0.png", "1.png", "2.png", "3.png", "4.png"] and stamp(images[0]) > before
    assert np.abs(decode_compressed(images[3].data, images[3].format)[0, 0].astype(int) - (200, 100, 3)).max() <= 3


def test_looping_never_goes_back_in_time(context: Context, tmp_path: Path) -> None:
    options = PlayerOptions(loop=True, stamps=Stamps.ORIGINAL, rate=4)
    with Listener(context) as listener:
        listener.listen(Image, "/image_raw")
        with Player(folder_of_pictures(tmp_path, 3), options, context=context) as player:
            running = threading.Thread(target=player.run)
            running.start()
            images = listener.wait(8)[:8]
            player.stop()
            running.join(DEADLINE_S)
            assert not running.is_alive()
    assert [stamp(m) for m in images] == [i * 10_000_000 or 1 for i in range(8)]
    assert colours(images) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_rounds_begin_after_all_of_the_one_before_also_where_the_recordings_clock_was_set_back(
    context: Context, tmp_path: Path
) -> None:
    source = [Frame(np.zeros((4, 4, 3), np.uint8), Camera.guess(4, 4), stamp) for stamp in (10, 11, 5)]
    options = PlayerOptions(loop=True, stamps=Stamps.ORIGINAL)
    with Player(folder_of_pictures(tmp_path, 1), options, context=context) as player:
        player._source = source
        stamps = [stamp for _, stamp in itertools.islice(player._endless(), 9)]
    rounds = [stamps[i : i + 3] for i in (0, 3, 6)]
    assert all(max(one) < min(next_one[:2]) for one, next_one in itertools.pairwise(rounds))
    assert all(np.diff(one).tolist() == [1, -6] for one in rounds)


def test_the_pace_is_that_of_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(player_module.time, "monotonic", lambda: now)
    pacer = _Pacer(rate=2.0)
    assert pacer.delay(5_000_000_000) == 0
    assert pacer.delay(5_500_000_000) == pytest.approx(0.25)
    now = 100.2
    assert pacer.delay(6_000_000_000) == pytest.approx(0.3)  # half a second after the first
    now = 102.0
    assert pacer.delay(7_000_000_000) == 0  # late: at once, and without shifting those that follow
    assert pacer.delay(10_000_000_000) == pytest.approx(0.5)


def test_a_clock_that_was_set_while_recording_neither_stops_nor_hurries_playing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(player_module.time, "monotonic", lambda: 100.0)
    pacer, second = _Pacer(rate=1.0), 1_000_000_000
    assert pacer.delay(0) == 0 and pacer.delay(60 * second) == pytest.approx(60)  # a pause, which is played
    for at in (1_700_000_000 * second, (1_700_000_000 - 3600) * second):
        assert pacer.delay(at) == 0
        assert pacer.delay(at + second // 2) == pytest.approx(0.5)
        assert pacer.delay(at + second // 4) == pytest.approx(0.25)  # pictures may come a little out of order
    assert "jump by 1699999940.0 s" in caplog.text and "jump by -3600.2 s" in caplog.text


class Consumer(Listener):
    """Takes a picture, and publishes a result for it unless told not to; newest picture wins, as in the real node."""

    def __init__(self, context: Context, silent: Callable[[int], bool]) -> None:
        super().__init__(context, "consumer")
        self.results = self.node.create_publisher(HandPoseArray, "/wildhands/hands", RESULT_OUTPUT)
        self.listen(Image, "/image_raw", self.answer, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
        self.silent = silent

    def answer(self, image: Image) -> None:
        if not self.silent(colours([image])[0]):
            self.results.publish(HandPoseArray(header=image.header))


@pytest.mark.parametrize("stamps", list(Stamps))
def test_in_lockstep_nothing_is_lost(context: Context, tmp_path: Path, stamps: Stamps) -> None:
    with Consumer(context, silent=lambda _: False) as consumer:
        options = PlayerOptions(lockstep=True, stamps=stamps, result_timeout_s=DEADLINE_S, repeat_s=DEADLINE_S)
        with Player(folder_of_pictures(tmp_path, 40), options, context=context) as player:
            report = player.run()
            # each picture waited for the result before, so all but the last have been heard by now
            assert (report.frames, report.unanswered) == (40, 0)
        assert colours(consumer.wait(40)) == list(range(40))


@pytest.mark.parametrize("stamp_ns", [10**9, -1_500_000_000])
def test_in_lockstep_each_of_several_pictures_with_one_stamp_waits_for_its_result(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamp_ns: int
) -> None:
    source = folder_of_pictures(tmp_path, 20)
    frames = [replace(frame, stamp_ns=stamp_ns) for frame in source]
    monkeypatch.setattr(source, "_frames", lambda: iter(frames))
    with Consumer(context, silent=lambda _: False) as consumer:
        options = PlayerOptions(lockstep=True, stamps=Stamps.ORIGINAL, result_timeout_s=DEADLINE_S, repeat_s=DEADLINE_S)
        with Player(source, options, context=context) as player:
            assert player.run() == PlayReport(20, 0, ANY)
        assert colours(consumer.wait(20)) == list(range(20))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"topic": "no topic"}, "'no topic' cannot be"),
        ({"lockstep": True, "result_topic": "no topic"}, "'no topic' cannot be"),
        ({"lockstep": True, "result_type": "lab_msgs/msg/Glove"}, "lab_msgs/msg/Glove is not installed"),
    ],
    ids=["topic", "topic of results", "type of results"],
)
def test_a_player_that_cannot_play_leaves_no_node(
    context: Context, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(RecordingError, match=said) as refused:
        Player(folder_of_pictures(tmp_path, 1), PlayerOptions(**change), context=context)  # type: ignore[arg-type]
    looker = Node("looker", context=context)
    assert "wildhands_play" not in looker.get_node_names(), refused  # nodes of earlier tests may still be seen
    looker.destroy_node()


def test_a_missing_result_is_counted_and_many_are_an_error(context: Context, tmp_path: Path) -> None:
    options = PlayerOptions(lockstep=True, result_timeout_s=2.0, repeat_s=2.0)
    with Consumer(context, silent=lambda i: i == 2) as consumer:
        with Player(folder_of_pictures(tmp_path), options, context=context) as player:
            assert player.run().unanswered == 1
        assert colours(consumer.wait(5)) == [0, 1, 2, 3, 4]
    options = replace(options, result_timeout_s=0.1)  # which no answer can be late for: there is none
    with Consumer(context, silent=lambda _: True):
        with Player(open_source(tmp_path), options, context=context) as player:
            with pytest.raises(RecordingError, match=r"no result for frame 2 .*/wildhands/hands, nor for the 2 before"):
                player.run()


def test_nobody_listens(context: Context, tmp_path: Path) -> None:
    options = PlayerOptions(subscriber_timeout_s=0.2)
    with Player(folder_of_pictures(tmp_path), options, context=context) as player:
        with pytest.raises(RecordingError, match=r"0 of 1 subscriptions to /image_raw.*ROS_DOMAIN_ID"):
            player.run()
    with Player(open_source(tmp_path), PlayerOptions(subscribers=0), context=context) as player:
        assert player.run().frames == 5
    with Listener(context) as listener:
        listener.listen(Image, "/image_raw")
        options = PlayerOptions(subscriber_timeout_s=0.5, lockstep=True)
        with Player(open_source(tmp_path), options, context=context) as player:
            with pytest.raises(RecordingError, match="nobody publishes wildhands_ros/msg/HandPoseArray"):
                player.run()


def test_bad_options() -> None:
    with pytest.raises(RecordingError, match="rate"):
        PlayerOptions(rate=0)
    for quality in (0, 101):
        with pytest.raises(RecordingError, match=f"quality of JPEGs is 1 to 100, not {quality}"):
            PlayerOptions(quality=quality)


# --- recording ------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, list[object]]:
    with BagReader(path) as reader:
        found: dict[str, list[object]] = {}
        for message in reader.messages():
            found.setdefault(message.topic, []).append(reader.deserialize(message))
        return found


def test_what_is_published_is_in_the_bag(context: Context, tmp_path: Path) -> None:
    sender = Node("sender", context=context)
    hands = sender.create_publisher(HandPoseArray, "/wildhands/hands", 10)
    static = sender.create_publisher(
        TFMessage, "/tf_static", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    static.publish(TFMessage(transforms=[TransformStamped(child_frame_id="early")]))  # before anybody records
    sent = HandPoseArray(header=Header(frame_id="head"), hands=[HandPose(side=HandPose.SIDE_LEFT, hand_model="open")])
    with Recorder(tmp_path / "x.mcap", {"/wildhands/hands": None, "/tf_static": None}, context=context) as recorder:
        assert recorder.wait_until_connected(["/wildhands/hands", "/tf_static"], DEADLINE_S)
        assert recorder.wait_for("/tf_static", 1, DEADLINE_S)
        _wait_until_matched(hands)
        for i in range(20):
            sent.image_width = i
            hands.publish(sent)
        assert recorder.wait_for("/wildhands/hands", 20, DEADLINE_S)
    report = recorder.stop()
    assert report.counts == {"/tf_static": 1, "/wildhands/hands": 20} and report.problems == ()
    found = read(tmp_path / "x.mcap")
    assert [m.image_width for m in found["/wildhands/hands"]] == list(range(20))
    assert found["/wildhands/hands"][0].hands[0].hand_model == "open"
    assert found["/tf_static"][0].transforms[0].child_frame_id == "early"
    with BagReader(tmp_path / "x.mcap") as reader:
        assert reader.problems == ()
    sender.destroy_node()


def _wait_until_matched(publisher: object, exactly: int = 0) -> None:
    """Until a subscription, or `exactly` so many, is known to the publisher (the recorder may know it first)."""
    done = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        count = publisher.get_subscription_count()
        if count == exactly if exactly else count:
            return
        done.wait(0.01)
    raise AssertionError("nobody subscribed")


def test_subscriptions_follow_the_publishers_qos(context: Context, tmp_path: Path) -> None:
    """The recorder comes first, with a known type, and the publisher turns out to be best effort."""
    with Recorder(tmp_path / "bag", {"/image_raw": "sensor_msgs/msg/Image"}, context=context) as recorder:
        sender = Node("sender", context=context)
        images = sender.create_publisher(Image, "/image_raw", qos_profile_sensor_data)
        assert recorder.wait_until_connected(["/image_raw"], DEADLINE_S)
        _wait_until_matched(images)
        image = image_message(np.full((48, 64, 3), 7, np.uint8), Header(frame_id="c"))
        images.publish(image)
        assert recorder.wait_for("/image_raw", 1, DEADLINE_S)
        sender.destroy_node()
    source = open_source(tmp_path / "bag")
    assert [f.image[0, 0, 0] for f in source] == [7]
    text = (tmp_path / "bag" / "metadata.yaml").read_text()
    assert "reliability: best_effort" in text


def test_an_old_subscription_stays_until_the_new_one_works_and_what_waits_in_it_comes_first(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long both take: on a busy machine the recorder may not run for a second, nor the publisher."""
    monkeypatch.setattr(recorder_module, "_OVERLAP_S", 0.0)
    sender, pause = Node("sender", context=context), threading.Event()
    reliable = sender.create_publisher(HandPoseArray, "/hands", 10)
    with Recorder(tmp_path / "x.mcap", {"/hands": None}, context=context) as recorder:
        assert recorder.wait_until_connected(["/hands"], DEADLINE_S)
        recorder._spinning.stop()  # from here on it does only what it is told to here
        channel = recorder._channels["/hands"]
        old = channel.subscription
        _wait_until_matched(reliable, exactly=1)
        for number in range(3):
            reliable.publish(HandPoseArray(image_width=number))
        other = sender.create_publisher(HandPoseArray, "/hands", qos_profile_sensor_data)
        for _ in range(int(DEADLINE_S / 0.01)):
            recorder._look()
            if channel.subscription is not old:
                break
            pause.wait(0.01)
        recorder._look()
        assert [subscription for subscription, _ in channel.former] == [old]
        _wait_until_matched(reliable, exactly=2)
        reliable.publish(HandPoseArray(image_width=3))
        for _ in range(int(DEADLINE_S / 0.01)):
            if (message := channel.subscription.handle.take_message(HandPoseArray, True)) is not None:
                break
            pause.wait(0.01)
        recorder._take("/hands", channel.subscription, *message)
        recorder._look()
        assert channel.former == [] and recorder.counts == {"/hands": 4}
    assert [message.image_width for message in read(tmp_path / "x.mcap")["/hands"]] == list(range(4))
    sender.destroy_publisher(other)
    sender.destroy_node()


def test_nothing_is_lost_or_kept_twice_where_another_publisher_asks_for_another_subscription(
    context: Context, tmp_path: Path
) -> None:
    sender = Node("sender", context=context)
    reliable = sender.create_publisher(HandPoseArray, "/hands", 1000)
    pause = threading.Event()
    with Recorder(tmp_path / "x.mcap", {"/hands": None}, context=context) as recorder:
        assert recorder.wait_until_connected(["/hands"], DEADLINE_S)
        _wait_until_matched(reliable)
        for number in range(600):
            if number == 100:
                other = sender.create_publisher(HandPoseArray, "/hands", qos_profile_sensor_data)
            if number == 400:
                sender.destroy_publisher(other)
            reliable.publish(HandPoseArray(image_width=number))
            # a subscription keeps a hundred, and more may come while a busy machine does not let the recorder run
            assert recorder.wait_for("/hands", number - 50, DEADLINE_S)
            pause.wait(0.005)
        assert recorder.wait_for("/hands", 600, DEADLINE_S)
    assert [message.image_width for message in read(tmp_path / "x.mcap")["/hands"]] == list(range(600))
    sender.destroy_node()


def test_what_is_latched_is_kept_once_also_where_the_recorder_came_first(context: Context, tmp_path: Path) -> None:
    latched = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with Recorder(tmp_path / "x.mcap", {"/calibration": "tf2_msgs/msg/TFMessage"}, context=context) as recorder:
        sender = Node("sender", context=context)
        publisher = sender.create_publisher(TFMessage, "/calibration", latched)
        _wait_until_matched(publisher)
        publisher.publish(TFMessage(transforms=[TransformStamped(child_frame_id="a")]))
        assert recorder.wait_for("/calibration", 1, DEADLINE_S)
        assert recorder.wait_until_connected(["/calibration"], DEADLINE_S)
        _wait_until_matched(publisher, exactly=1)  # those from before anybody published are gone
        publisher.publish(TFMessage(transforms=[TransformStamped(child_frame_id="b")]))
        assert recorder.wait_for("/calibration", 2, DEADLINE_S)
    assert [m.transforms[0].child_frame_id for m in read(tmp_path / "x.mcap")["/calibration"]] == ["a", "b"]
    sender.destroy_node()


def test_everything_with_images_as_jpeg(context: Context, tmp_path: Path) -> None:
    with Recorder(tmp_path / "all.mcap", jpeg=True, context=context) as recorder:
        with Player(folder_of_pictures(tmp_path / "p", 4), PlayerOptions(rate=0.5), context=context) as player:
            assert player.run().frames == 4
            assert recorder.wait_for("/image_raw", 4, DEADLINE_S) and recorder.wait_for("/camera_info", 1, DEADLINE_S)
    counts = recorder.stop().counts
    assert counts["/image_raw/compressed"] == 4 and "/image_raw" not in counts
    source = open_source(tmp_path / "all.mcap")
    frames = list(source)
    assert len(frames) == 4 and not source.camera_is_guess and frames[0].camera.fx == 50
    assert np.abs(frames[2].image[0, 0].astype(int) - (200, 100, 2)).max() <= 3


def test_pictures_that_are_published_compressed_too_are_kept_once(context: Context, tmp_path: Path) -> None:
    sender = Node("sender", context=context)
    raw = sender.create_publisher(Image, "/image_raw", 10)
    small = sender.create_publisher(CompressedImage, "/image_raw/compressed", 10)
    with Recorder(tmp_path / "all.mcap", jpeg=True, context=context) as recorder:
        assert recorder.wait_until_connected(["/image_raw", "/image_raw/compressed"], DEADLINE_S)
        _wait_until_matched(raw)
        _wait_until_matched(small)
        for index in range(3):
            header, picture = Header(frame_id=str(index)), np.full((48, 64, 3), 7, np.uint8)
            small.publish(compressed_message(picture, header))
            assert recorder.wait_for("/image_raw/compressed", index + 1, DEADLINE_S)
            raw.publish(image_message(picture, header))
            assert recorder.wait_for("/image_raw", index + 1, DEADLINE_S)
    sender.destroy_node()
    assert [frame.frame_id for frame in open_source(tmp_path / "all.mcap", focal=50)] == ["0", "1", "2"]


def test_pictures_that_come_compressed_no_more_are_kept_also_where_the_clock_went_back(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_TWIN_S", 0.0)  # the compressed picture is of long ago at once
    sender, picture = Node("sender", context=context), np.full((48, 64, 3), 7, np.uint8)
    raw = sender.create_publisher(Image, "/image_raw", 10)
    small = sender.create_publisher(CompressedImage, "/image_raw/compressed", 10)
    seconds = [100]
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=seconds[-1] * 10**9))
    with Recorder(tmp_path / "all.mcap", jpeg=True, context=context) as recorder:
        monkeypatch.setattr(recorder.node, "get_clock", lambda: clock)
        assert recorder.wait_until_connected(["/image_raw", "/image_raw/compressed"], DEADLINE_S)
        _wait_until_matched(raw)
        _wait_until_matched(small)
        small.publish(compressed_message(picture, Header(frame_id="compressed")))
        assert recorder.wait_for("/image_raw/compressed", 1, DEADLINE_S)
        seconds.append(10)  # a bag that is played anew, with use_sim_time
        raw.publish(image_message(picture, Header(frame_id="raw")))
        assert recorder.wait_for("/image_raw", 1, DEADLINE_S)
    sender.destroy_node()
    assert {frame.frame_id for frame in open_source(tmp_path / "all.mcap", focal=50)} == {"raw", "compressed"}


def test_with_simulated_time_recording_begins_with_the_clock(tmp_path: Path) -> None:
    simulated = Context()
    rclpy.init(args=["--ros-args", "-p", "use_sim_time:=true"], context=simulated, domain_id=own_domain())
    topics = {"/calibration": "tf2_msgs/msg/TFMessage"}
    with Recorder(tmp_path / "never.mcap", topics, context=simulated) as recorder:
        assert recorder.counts == {}
    assert any("/clock told no time above 0" in problem for problem in recorder.stop().problems)

    sender = Node("sender", context=simulated)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    sender.create_publisher(TFMessage, "/calibration", latched).publish(TFMessage())
    clock = sender.create_publisher(Clock, "/clock", 1)
    with Recorder(tmp_path / "x.mcap", topics | {"/later": None}, context=simulated) as recorder:
        for _ in range(int(DEADLINE_S / 0.05)):
            clock.publish(Clock(clock=Time(sec=1000)))
            if recorder.wait_for("/calibration", 1, 0.05):
                break
        sender.create_publisher(TFMessage, "/later", latched).publish(TFMessage())  # and the clock stands still
        assert recorder.wait_for("/later", 1, DEADLINE_S)
    sender.destroy_node()
    simulated.try_shutdown()
    with BagReader(tmp_path / "x.mcap") as bag:
        assert [message.log_time_ns for message in bag.messages()] == [1000 * 10**9] * 2


def test_depth_is_never_made_a_jpeg(context: Context, tmp_path: Path) -> None:
    sender = Node("sender", context=context)
    publisher = sender.create_publisher(Image, "/depth", 10)
    depth = np.array([[500, 1010], [1200, 8000]], np.uint16)
    with Recorder(tmp_path / "x.mcap", {"/depth": None}, jpeg=True, context=context) as recorder:
        assert recorder.wait_until_connected(["/depth"], DEADLINE_S)
        _wait_until_matched(publisher)
        publisher.publish(Image(height=2, width=2, encoding="16UC1", step=4, data=depth.tobytes()))
        assert recorder.wait_for("/depth", 1, DEADLINE_S)
    sender.destroy_node()
    report = recorder.stop()
    assert report.counts == {"/depth": 1} and "16UC1" in report.problems[0]
    with BagReader(tmp_path / "x.mcap") as bag:
        (message,) = [bag.deserialize(m) for m in bag.messages(["/depth"])]
    assert bytes(message.data) == depth.tobytes()


def test_a_type_that_nobody_can_describe_keeps_nothing_else_out(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = bag_writer.learn_installed_type
    monkeypatch.setattr(
        bag_writer, "learn_installed_type", lambda store, kind: kind != "std_msgs/msg/Header" and learn(store, kind)
    )
    sender = Node("sender", context=context)
    publishers = [sender.create_publisher(kind, name, 10) for kind, name in ((Header, "/odd"), (CameraInfo, "/info"))]
    with Recorder(tmp_path / "x.mcap", {"/odd": None, "/info": None}, context=context) as recorder:
        assert recorder.wait_until_connected(["/odd", "/info"], DEADLINE_S)
        for publisher, message in zip(publishers, (Header(), CameraInfo()), strict=True):
            _wait_until_matched(publisher)
            publisher.publish(message)
        assert recorder.wait_for("/odd", 1, DEADLINE_S) and recorder.wait_for("/info", 1, DEADLINE_S)
    sender.destroy_node()
    report = recorder.stop()
    assert report.counts == {"/info": 1} and "/odd is of type std_msgs/msg/Header" in "\n".join(report.problems)


def test_whoever_listens_for_another_type_keeps_no_topic_out(context: Context, tmp_path: Path) -> None:
    other = Context()  # one participant cannot have both types
    rclpy.init(context=other, domain_id=own_domain())
    listener = Node("listener", context=other)
    listener.create_subscription(Image, "/info", lambda _: None, 10)
    sender = Node("sender", context=context)
    publisher = sender.create_publisher(CameraInfo, "/info", 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(sender)
    deadline = time.monotonic() + DEADLINE_S
    while len(dict(sender.get_topic_names_and_types()).get("/info", ())) < 2:
        assert time.monotonic() < deadline
        executor.spin_once(0.05)
    with Recorder(tmp_path / "x.mcap", {"/info": None}, context=context) as recorder:
        assert recorder.wait_until_connected(["/info"], DEADLINE_S)
        _wait_until_matched(publisher)
        publisher.publish(CameraInfo())
        assert recorder.wait_for("/info", 1, DEADLINE_S)
    executor.shutdown()
    for node in (listener, sender):
        node.destroy_node()
    other.try_shutdown()
    assert recorder.stop().counts == {"/info": 1}


@pytest.mark.parametrize(
    "name", ["", "Image", "sensor_msgs/Image", "/sensor_msgs/Image", "lab_msgs/msg/Glove", "sensor_msgs/msg/Glove"]
)
def test_what_is_no_message_type_has_no_class(name: str) -> None:
    assert message_class("sensor_msgs/msg/Image") is Image
    assert message_class(name) is None


def test_what_cannot_be_recorded_is_named(context: Context, tmp_path: Path) -> None:
    topics = {"/glove": "lab_msgs/msg/Glove", "/silent": None, "/image_raw": None}
    sender = Node("sender", context=context)
    images = sender.create_publisher(Image, "/image_raw", 10)
    with Recorder(tmp_path / "x.mcap", topics, jpeg=True, context=context) as recorder:
        assert recorder.wait_until_connected(["/image_raw"], DEADLINE_S)
        _wait_until_matched(images)
        images.publish(Image(height=2, width=2, encoding="magic", step=2, data=bytes(4)))
        assert recorder.wait_for("/image_raw", 1, DEADLINE_S)
    problems = "\n".join(recorder.stop().problems)
    assert "/glove is of type lab_msgs/msg/Glove, which is not installed" in problems
    assert "nobody published /silent" in problems and "'magic'" in problems
    sender.destroy_node()


def test_a_full_disk_ends_the_recording_and_keeps_the_rest(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RecordingError("cannot write to the bag: No space left on device")

    recorder = Recorder(tmp_path / "x.mcap", {"/image_raw": "sensor_msgs/msg/Image"}, context=context)
    monkeypatch.setattr(BagWriter, "write_serialized", refuse)
    with Player(folder_of_pictures(tmp_path / "p"), context=context) as player:
        player.run()
    assert recorder.wait_for_failure(DEADLINE_S)
    assert not recorder.wait_for("/image_raw", 1, DEADLINE_S)
    for _ in range(2):
        with pytest.raises(RecordingError, match="No space left"):
            recorder.stop()


def test_a_bag_that_cannot_be_finished_is_said_however_often_one_asks(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: BagWriter) -> None:
        raise RecordingError("cannot finish the bag: No space left on device")

    recorder = Recorder(tmp_path / "x.mcap", {"/image_raw": "sensor_msgs/msg/Image"}, context=context)
    monkeypatch.setattr(BagWriter, "close", refuse)
    for _ in range(2):
        with pytest.raises(RecordingError, match="cannot finish"):
            recorder.stop()


def test_a_recorder_that_cannot_begin_leaves_nothing_open(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Recorder) -> None:
        raise ValueError("a graph that nobody expected")

    with monkeypatch.context() as broken:
        broken.setattr(Recorder, "_look", fail)
        with pytest.raises(ValueError, match="nobody expected"):
            Recorder(tmp_path / "x.mcap", context=context)
    Recorder(tmp_path / "x.mcap", overwrite=True, context=context).stop()


def test_whatever_ends_the_recording_is_said(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a graph that nobody expected")

    recorder = Recorder(tmp_path / "x.mcap", {"/image_raw": "sensor_msgs/msg/Image"}, context=context)
    monkeypatch.setattr(Recorder, "_follow", fail)
    assert recorder.wait_for_failure(DEADLINE_S)
    with pytest.raises(RecordingError, match="recording ended: ValueError: a graph that nobody expected"):
        recorder.stop()
    assert (tmp_path / "x.mcap").is_file()


# --- as processes ---------------------------------------------------------------------------------------------------


def start(module: str, *args: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(own_domain()), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", f"wildhands_ros.node.{module}", *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int) -> str:
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, errors
    return errors


def test_a_bag_is_played_and_recorded_between_processes(tmp_path: Path) -> None:
    """1280×720 pictures cross from one process to another, all of them, and Ctrl-C twice ends the recording well."""
    folder_of_pictures(tmp_path / "p", 4, (1280, 720))  # which the player keeps until all have come
    recorder = start("recorder", tmp_path / "x.mcap", "/image_raw:sensor_msgs/msg/Image", "/camera_info")
    player = start("player", tmp_path / "p", "--focal", 600, "--fps", 20, "--stamps", "original", "--wait", DEADLINE_S)
    assert "4 frames" in finish(player, 0)
    recorder.send_signal(signal.SIGINT)
    recorder.send_signal(signal.SIGINT)
    errors = finish(recorder, 0)
    assert "4  /image_raw" in errors
    source = open_source(tmp_path / "x.mcap")
    frames = list(source)
    assert [f.stamp_ns for f in frames] == [i * 50_000_000 or 1 for i in range(4)]
    assert [f.image[0, 0, 2] for f in frames] == list(range(4))
    assert frames[0].camera.fx == 600 and source.problems == ()


def test_a_recorder_that_does_not_run_for_a_moment_loses_nothing_in_lockstep(context: Context, tmp_path: Path) -> None:
    """Forty pictures are played meanwhile: the one that answers sets the pace, and waits for nobody."""
    topics = {"/image_raw", "/camera_info", "/wildhands/hands"}
    recorder = start("recorder", tmp_path / "x.mcap", *topics)
    played: list[int] = []

    def note(_frame: object, stamp_ns: int) -> None:
        played.append(stamp_ns)
        if len(played) == began + 5:
            recorder.send_signal(signal.SIGSTOP)
        if len(played) == began + 45:
            recorder.send_signal(signal.SIGCONT)

    options = PlayerOptions(lockstep=True, result_timeout_s=DEADLINE_S, repeat_s=DEADLINE_S)
    source = folder_of_pictures(tmp_path / "p", 60)
    began = 10**6
    with Consumer(context, silent=lambda _: False) as consumer:
        with Player(source, options, context=context, on_publish=note) as player:
            reader = threading.Thread(target=_await_receiving, args=(recorder, topics))
            reader.start()
            while reader.is_alive():  # until all three find each other
                player.publish(next(iter(source)), player.node.get_clock().now().nanoseconds)
                reader.join(0.05)
            began = len(played)
            assert player.run().unanswered == 0
        assert consumer.results.wait_for_all_acked()
    recorder.send_signal(signal.SIGINT)
    finish(recorder, 0)
    kept = {topic: [stamp(m) for m in messages] for topic, messages in read(tmp_path / "x.mcap").items()}
    assert kept.keys() == topics
    for topic, stamps in kept.items():
        assert set(played[began:]) <= set(stamps), topic


def _await_receiving(recorder: subprocess.Popen[str], topics: set[str]) -> None:
    """Returns when the recorder has said that it receives these."""
    missing = set(topics)
    for line in recorder.stderr:
        missing.discard(line.split()[-1])
        if not missing:
            return


def test_a_bags_camera_is_the_one_that_is_named_and_rectified_where_said(context: Context, tmp_path: Path) -> None:
    lens = Distortion.PLUMB_BOB, (0.1, -0.2, 0.01, 0.02, 0.3)
    other = Camera(*SIZE, 70, 71, 31, 24, *lens)
    cameras = {"/camera_info": Camera(*SIZE, 50, 51, 31, 24, *lens), "/other/info": other}
    header = Header(frame_id="head_camera")
    header.stamp.sec = 1
    with BagWriter(tmp_path / "x.mcap") as bag:
        bag.add_topic("/image_raw", "sensor_msgs/msg/Image")
        picture = image_message(np.zeros((SIZE[1], SIZE[0], 3), np.uint8), header)
        bag.write_serialized("/image_raw", serialize_message(picture), 1)
        for topic, camera in cameras.items():
            bag.add_topic(topic, "sensor_msgs/msg/CameraInfo")
            bag.write_serialized(topic, serialize_message(camera_to_camera_info(camera, header)), 1)
    with Listener(context) as listener:
        listener.listen(CameraInfo, "/played/camera_info")
        listener.listen(Image, "/played/image")
        player = start(
            "player", tmp_path / "x.mcap", "--topic", "played/image", "--camera-info-topic", "/other/info",
            "--rectified",
        )  # fmt: skip
        assert "1 frames" in finish(player, 0)
        (info,) = listener.wait(1, CameraInfo)
    assert Camera.from_camera_info(info) == other.undistorted()


def test_a_killed_recorder_leaves_a_readable_bag(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "_ACKNOWLEDGED_S", 0.0)  # whoever was killed acknowledges nothing
    recorder = start("recorder", tmp_path / "bag", "/image_raw:sensor_msgs/msg/Image")
    flushed = threading.Event()
    with Player(folder_of_pictures(tmp_path / "p", 3), PlayerOptions(loop=True, rate=0.5), context=context) as player:
        running = threading.Thread(target=player.run)
        running.start()
        for _ in range(int(DEADLINE_S / 0.05)):  # until something is on the disk
            files = list((tmp_path / "bag").glob("*.mcap"))
            if files and files[0].stat().st_size > 20_000:
                break
            flushed.wait(0.05)
        recorder.kill()
        finish(recorder, -signal.SIGKILL)
        player.stop()
        running.join(DEADLINE_S)
    source = open_source(tmp_path / "bag", focal=50)
    assert len(list(source)) >= 2 and "not finished" in source.problems[0]


def test_what_the_commands_say_when_they_cannot(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("")
    assert cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 64, 3), np.uint8))
    commands = [
        (start("player", tmp_path / "missing.mp4"), "missing.mp4 does not exist"),
        (start("player", tmp_path / "1.png", "--topic", "no topic"), "'no topic' cannot be a topic's name"),
        (
            start("player", tmp_path / "1.png", "--lockstep", "--result-topic", "no topic"),
            "'no topic' cannot be a topic's name",
        ),
        (start("player", tmp_path / "1.png", "--wait", "nan"), "a time to wait must be a number of seconds, not nan"),
        (start("recorder", tmp_path / "there"), "exists already"),
        (start("recorder", tmp_path / "new.mcap", "--jpeg", "--quality", "900"), "1 to 100, not 900"),
        (start("recorder", tmp_path / "new.mcap", "no topic"), "'no topic' cannot be a topic's name"),
    ]
    for process, says in commands:
        assert says in finish(process, 1)
    assert not (tmp_path / "new.mcap").exists()
