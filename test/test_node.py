"""The node as a process of its own, over real topics: what it publishes, and what it survives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_bench import COLOUR, HEIGHT, WIDTH, Bench, Process, camera_info, jpeg_image, plain, raw_image
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from wildhands_ros.images import encode_jpeg
from wildhands_ros.msg import HandPose, HandPoseArray
from wildhands_ros.node.messages import duration_s, stamp_ns
from wildhands_ros.node.qos import fastdds_profile


@pytest.fixture(scope="module", autouse=True)
def unfortunate(start: Callable[..., Any]) -> dict[str, Process]:
    """Nodes whose inputs fail. What they say about it takes seconds, so they start before all other tests."""
    trapped = start(Process, "fake", "--ros-args", "-r", "image:=/large/image_raw", profile=False)
    start(Process, "camera", "--ros-args", "-r", "__ns:=/large", domain=trapped.domain, profile=False)
    return {
        "trapped": trapped,
        "remapped": start(Process, "fake", "--ros-args", "-r", "image:=/head/image_raw"),
        "no clock": start(Process, "fake", "--ros-args", "-p", "use_sim_time:=true"),
        "of another type": start(
            Bench, "fake", "--ros-args", "-p", "image_transport:=raw", "-r", "image:=/image/compressed"
        ),
    }


@pytest.fixture(scope="module")
def bench(start: Callable[..., Any]) -> Bench:
    """One node for all tests that leave it as it was."""
    bench = start(Bench, "fake")
    bench.connect()
    return bench


@pytest.fixture(scope="module")
def jpeg_bench(start: Callable[..., Any]) -> Bench:
    bench = start(Bench, "fake", "--ros-args", "-p", "image_transport:=compressed")
    bench.connect(compressed=True)
    return bench


# --- what it publishes ----------------------------------------------------------------------------------------------


def test_hands_come_with_the_images_header_and_camera(bench: Bench) -> None:
    image = raw_image(plain(), "rgb8", bench.stamp())
    result = bench.send(image)
    assert result.header == image.header
    assert (result.image_width, result.image_height) == (WIDTH, HEIGHT)
    assert {hand.side for hand in result.hands} == {HandPose.SIDE_LEFT, HandPose.SIDE_RIGHT}
    np.testing.assert_allclose(result.hands[0].mano_betas[:6], [WIDTH, HEIGHT, 100, 100, WIDTH / 2, HEIGHT / 2])
    assert result.processing_time.sec == 0 and result.processing_time.nanosec > 0
    assert result.latency.sec > 10**9  # the stamp is of 1970, and the node says so


def test_an_image_without_hands_gives_an_empty_array(bench: Bench) -> None:
    image = raw_image(plain((0, 0, 0)), "rgb8", bench.stamp())
    result = bench.send(image)
    assert result.header == image.header and len(result.hands) == 0


def test_wrist_and_joints_are_tf_frames_below_the_camera(bench: Bench) -> None:
    tf: list[TFMessage] = bench.listen(TFMessage, "/tf", 100)
    image = raw_image(plain(), "rgb8", bench.stamp())
    result = bench.send(image)
    bench.wait(lambda: tf, "no TF")
    frames = {t.child_frame_id: t for t in tf[-1].transforms}
    assert len(frames) == 42 and {"left_wrist", "right_index_tip"} <= set(frames)
    assert all(t.header == image.header for t in frames.values())
    left = next(h for h in result.hands if h.side == HandPose.SIDE_LEFT)
    wrist = frames["left_wrist"].transform
    assert wrist.rotation == left.wrist.orientation
    assert (wrist.translation.x, wrist.translation.z) == (left.wrist.position.x, left.wrist.position.z)


def test_markers_and_annotated_images_come_once_somebody_listens(bench: Bench) -> None:
    markers = bench.listen(MarkerArray, "/wildhands/markers")
    annotated = bench.listen(Image, "/wildhands/image_annotated")
    compressed = bench.listen(CompressedImage, "/wildhands/image_annotated/compressed")
    image = raw_image(plain(), "rgb8", bench.stamp())

    def all_came() -> bool:  # the node hears of its subscribers some time after they hear of it
        image.header.stamp = bench.stamp()
        bench.send(image)
        return bool(markers and annotated and compressed)

    bench.wait(all_came, "no markers or annotated images")
    assert {m.ns for m in markers[-1].markers} >= {"left/skeleton", "right/skeleton", "left/mesh"}
    picture = np.frombuffer(annotated[-1].data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert annotated[-1].encoding == "rgb8" and (picture != plain()).any(axis=-1).mean() > 0.01
    decoded = cv2.imdecode(np.frombuffer(compressed[-1].data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (HEIGHT, WIDTH, 3)


def _encoded(encoding: str) -> np.ndarray:
    """A plain picture of COLOUR in that encoding, with padding behind each row."""
    rgb = plain()
    if encoding == "rgb8":
        rows = rgb
    elif encoding == "bgr8":
        rows = rgb[..., ::-1]
    elif encoding in ("rgba8", "bgra8"):
        alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        rows = np.concatenate([rgb if encoding == "rgba8" else rgb[..., ::-1], alpha], axis=-1)
    elif encoding == "mono8":
        rows = rgb[..., :1]
    elif encoding.startswith("bayer"):
        pattern = {"r": 0, "g": 1, "b": 2}
        rows = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
        for i, letter in enumerate(encoding[6:10]):
            rows[i // 2 :: 2, i % 2 :: 2, 0] = COLOUR[pattern[letter]]
    else:  # ITU-R BT.601, studio range
        r, g, b = COLOUR
        y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
        u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
        v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
        quad = [u, y, v, y] if encoding == "yuv422" else [y, u, y, v]
        rows = np.tile(np.round(quad).astype(np.uint8), (HEIGHT, WIDTH // 2))
    rows = rows.reshape(HEIGHT, -1)
    return np.concatenate([rows, np.full((HEIGHT, 7), 99, np.uint8)], axis=1)


@pytest.mark.parametrize(
    "encoding",
    ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "yuv422_yuy2",
     "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"],
)  # fmt: skip
def test_every_encoding_gives_the_same_picture(bench: Bench, encoding: str) -> None:
    result = bench.send(raw_image(_encoded(encoding), encoding, bench.stamp()))
    expected = (COLOUR[0],) * 3 if encoding == "mono8" else COLOUR
    np.testing.assert_allclose(result.hands[0].mano_translation, expected, atol=2)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed_images_give_the_same_picture(jpeg_bench: Bench, kind: str) -> None:
    data = encode_jpeg(plain()) if kind == "jpeg" else cv2.imencode(".png", plain()[..., ::-1])[1].tobytes()
    result = jpeg_bench.send(jpeg_image(data, jpeg_bench.stamp(), kind))
    np.testing.assert_allclose(result.hands[0].mano_translation, COLOUR, atol=3)


# --- what it survives -----------------------------------------------------------------------------------------------


def _zero_size(stamp: Time) -> Image:
    return raw_image(np.zeros((1, 0), np.uint8), "rgb8", stamp, height=0)


def _wrong_step(stamp: Time) -> Image:
    image = raw_image(plain(), "rgb8", stamp)
    image.step = 3
    return image


def _short(stamp: Time) -> Image:
    image = raw_image(plain(), "rgb8", stamp)
    image.data = image.data[:-100]
    return image


@pytest.mark.parametrize(
    ("make", "info", "says", "remedy"),
    [
        (_zero_size, camera_info(), "the image is empty", "check the camera driver"),
        (_wrong_step, camera_info(), "step is 3 bytes", "must set step"),
        (_short, camera_info(), "57500 bytes", "cut off"),
        (lambda s: raw_image(plain(), "xyz9", s), camera_info(), "unknown image encoding 'xyz9'", "known are"),
        (lambda s: raw_image(plain(), "rgb8", s), camera_info(focal=float("nan")), "NaN", "calibrate"),
        (lambda s: raw_image(plain(), "rgb8", s), camera_info(focal=0.0), "uncalibrated", "calibrate it"),
        (lambda s: raw_image(plain(), "rgb8", s), camera_info(width=320), "160x120", "publish camera_info for this"),
        (lambda s: raw_image(plain((255, 0, 0)), "rgb8", s), camera_info(), "RuntimeError: red", "wildhands doctor"),
    ],
    ids=["zero size", "wrong step", "short", "encoding", "NaN", "uncalibrated", "size mismatch", "estimator"],
)  # fmt: skip
def test_bad_input_is_named_and_the_next_image_is_processed(
    bench: Bench, make: Callable[[Time], Image], info: CameraInfo, says: str, remedy: str
) -> None:
    failed = int(bench.diagnosed("images failed"))
    bench.publish(make(bench.stamp()), info=info)
    assert remedy in bench.said(says)
    assert len(bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands) == 2
    bench.wait(lambda: int(bench.diagnosed("images failed")) == failed + 1, "the failure was not counted")


def test_a_truncated_jpeg_is_named_and_the_next_image_is_processed(jpeg_bench: Bench) -> None:
    whole = encode_jpeg(plain())
    jpeg_bench.publish(jpeg_image(whole[: len(whole) // 2], jpeg_bench.stamp()))
    jpeg_bench.said("ends early")
    assert len(jpeg_bench.send(jpeg_image(whole, jpeg_bench.stamp())).hands) == 2


def test_a_camera_that_changes_its_resolution_is_followed(bench: Bench) -> None:
    bench.send(raw_image(plain(), "rgb8", bench.stamp()))
    half = np.ascontiguousarray(plain()[: HEIGHT // 2])

    def followed() -> bool:
        image = raw_image(half, "rgb8", bench.stamp(), height=HEIGHT // 2)
        # the image before its camera info: they are separate topics, of one camera where both come at nearly one time
        bench.images.publish(image)
        info = camera_info(height=HEIGHT // 2)
        info.header = image.header
        bench.infos.publish(info)
        return any(hands.image_height == HEIGHT // 2 for hands in bench.hands)

    bench.wait(followed, "no result of the new size")


def test_stamps_that_go_back_start_a_new_stream(bench: Bench) -> None:
    before = bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands[0].track_id
    after = bench.send(raw_image(plain(), "rgb8", Time(sec=0, nanosec=7))).hands[0].track_id
    assert after == before + 1
    assert "anew" in bench.said("image stamps went back")
    assert bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands[0].track_id == after


def test_an_image_that_comes_late_belongs_to_the_stream(bench: Bench) -> None:
    newer = bench.stamp()
    before = bench.send(raw_image(plain(), "rgb8", newer)).hands[0].track_id
    late = Time(sec=newer.sec - 1, nanosec=950_000_000)
    assert bench.send(raw_image(plain(), "rgb8", late)).hands[0].track_id == before
    assert "taken for as new" in bench.said("was taken 0.050 s before")


def test_parameters_are_checked_and_take_effect(bench: Bench) -> None:
    assert bench.set_parameter("min_score", 0.25) == (True, "")
    hand = bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands[0]
    assert hand.mano_betas[6] == pytest.approx(0.25)
    accepted, reason = bench.set_parameter("tracking.min_cutoff", -1.0)
    assert not accepted and "min_cutoff" in reason
    assert not bench.set_parameter("image_transport", "compressed")[0]  # read-only
    assert not bench.set_parameter("min_score", 2.0)[0]  # out of range
    assert bench.set_parameter("publish_vertices", True) == (True, "")
    hand = bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands[0]
    assert len(hand.vertices) == 12 and hand.mano_betas[6] == pytest.approx(0.25)


# --- silent failures ------------------------------------------------------------------------------------------------


def test_images_without_a_stamp_get_that_of_their_arrival(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake")
    bench.connect()
    bench.hands.clear()
    before = bench.node.get_clock().now().nanoseconds
    bench.publish(raw_image(plain(), "rgb8", Time()))
    bench.wait(lambda: bench.hands, "no result")
    assert before <= stamp_ns(bench.hands[0].header.stamp) <= bench.node.get_clock().now().nanoseconds
    bench.said("have no header.stamp (it is 0)")


def test_stamps_that_stand_still_are_said(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake")
    bench.connect()
    stamp = bench.stamp()
    bench.send(raw_image(plain(), "rgb8", stamp))
    for count in range(2, 7):
        bench.publish(raw_image(plain(), "rgb8", stamp))
        bench.wait(lambda count=count: sum(h.header.stamp == stamp for h in bench.hands) >= count, "no result")
    bench.said("had the stamp of the one before")


def test_an_input_of_another_type_is_named(unfortunate: dict[str, Process]) -> None:
    text = "/image/compressed carries sensor_msgs/msg/CompressedImage: set image_transport to compressed"
    unfortunate["of another type"].said(text)


def test_missing_camera_info_is_said_and_the_image_kept_until_it_comes(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake")
    image = raw_image(plain(), "rgb8", bench.stamp())
    hands = bench.received["/wildhands/hands"]

    def warned() -> bool:
        bench.images.publish(image)
        return "no camera_info on /camera_info" in bench.log

    bench.wait(warned, "the missing camera_info is not noticed")
    assert "remap" in bench.said("no camera_info on /camera_info") and not hands

    def answered() -> bool:
        bench.infos.publish(camera_info())
        return bool(hands)

    bench.wait(answered, "the image was not kept")
    assert len(bench.result(image).hands) == 2
    assert bench.stop() == 0


def test_camera_info_that_was_published_once_and_before_is_asked_for(start: Callable[..., Any]) -> None:
    arguments = ("-p", "autostart:=false", "-r", "camera_info:=/once/camera_info")
    bench = start(Bench, "fake", "--ros-args", *arguments)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    once = bench.node.create_publisher(CameraInfo, "/once/camera_info", latched)
    once.publish(camera_info())
    assert bench.transition("configure")
    hands = bench.listen(HandPoseArray, "/wildhands/hands")

    def answered(focal: float, height: int = HEIGHT) -> bool:
        bench.images.publish(raw_image(plain()[:height], "rgb8", bench.stamp(), height=height))
        return any((m.image_height, m.hands[0].mano_betas[2]) == (height, focal) for m in hands)

    for turn in range(2):
        assert bench.transition("activate")
        bench.wait(lambda: answered(100.0), "the camera_info that was there before does not come")
        assert turn or bench.transition("deactivate")
        hands.clear()
    bench.said("asking for the camera_info of /once/camera_info")

    bench.node.destroy_publisher(once)  # and a driver takes its place that offers less, and has another camera
    driver = bench.node.create_publisher(CameraInfo, "/once/camera_info", qos_profile_sensor_data)

    def answered_for_it(height: int) -> bool:
        driver.publish(camera_info(height=height, focal=200.0))
        return answered(200.0, height)

    for height in (HEIGHT, HEIGHT // 2):
        bench.wait(lambda height=height: answered_for_it(height), "the camera_info of the new driver does not come")
    assert "does not fit" not in bench.log
    assert bench.stop() == 0


def test_frames_that_tf_does_not_know_are_said(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake")
    bench.connect()
    image = raw_image(plain(), "rgb8", bench.stamp())
    image.header.frame_id = "/camera"
    bench.send(image)
    assert "without the slash" in bench.said("'/camera' begins with a slash")
    bench.reaches(DiagnosticStatus.WARN, "begins with a slash")
    assert bench.stop() == 0


def test_qos_that_does_not_fit_is_said_with_both_sides(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake", "--ros-args", "-p", "qos_overrides./camera_info.subscription.reliability:=reliable")
    bench.node.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
    text = bench.said("does not fit in reliability")
    assert "this node asks for reliable" in text and "offers best effort" in text
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.node.create_subscription(HandPoseArray, "/wildhands/hands", lambda _message: None, latched)
    text = bench.said("does not fit in durability")
    assert "this node offers reliable, volatile" in text and "asks for reliable, transient local" in text
    bench.node.create_subscription(DiagnosticArray, "/diagnostics", lambda _message: None, latched)
    bench.said("a subscriber of /diagnostics does not fit in durability")
    hasty = QoSProfile(depth=1, deadline=Duration(seconds=0.1))
    bench.node.create_subscription(TFMessage, "/tf", lambda _message: None, hasty)
    text = bench.said("does not fit in deadline")
    assert "volatile, no deadline" in text and "deadline 0.1 s" in text
    assert bench.stop() == 0


def test_nobody_publishing_is_said_and_camera_info_is_the_images_neighbour(unfortunate: dict[str, Process]) -> None:
    node = unfortunate["remapped"]
    assert "/head/image_raw and /head/camera_info" in node.said("listening to")
    text = node.said("nobody publishes /head/image_raw")
    assert "Remap" in text and "/wildhands/image_annotated" not in text
    assert node.stop() == 0


def test_simulated_time_without_a_clock_is_said(unfortunate: dict[str, Process]) -> None:
    assert "--clock" in unfortunate["no clock"].said("nothing comes on /clock")
    assert unfortunate["no clock"].stop() == 0


def test_before_the_first_clock_no_latency_is_made_up(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake", "--ros-args", "-p", "use_sim_time:=true")
    latencies = bench.listen(Float64, "/wildhands/latency")
    bench.connect()
    latency = bench.send(raw_image(plain(), "rgb8", bench.stamp())).latency
    assert (latency.sec, latency.nanosec) == (0, 0)
    bench.wait(lambda: int(bench.diagnosed("images processed")) > 0, "the image is not counted")
    assert latencies == []
    assert not [v.key for v in bench.status().values if "clocks_differ" in v.key]
    assert bench.stop() == 0


def test_large_images_that_fast_dds_loses_are_said_with_the_remedy(unfortunate: dict[str, Process]) -> None:
    if "fastrtps" not in get_rmw_implementation_identifier():
        pytest.skip("only Fast DDS loses them")
    text = unfortunate["trapped"].said("Fast DDS loses images")
    assert "/large/image_raw has 1 publisher(s)" in text
    assert f"FASTDDS_DEFAULT_PROFILES_FILE={fastdds_profile()}" in text
    assert unfortunate["trapped"].stop() == 0


def test_large_images_come_through_with_the_profile(start: Callable[..., Any]) -> None:
    node = start(Process, "fake", "--ros-args", "-r", "image:=/large/image_raw", "-p", "image_transport:=raw")
    camera = start(Process, "camera", "--results", "20", "--ros-args", "-r", "__ns:=/large", domain=node.domain)
    camera.said("20 results")
    camera.stop()  # a stand-in, which a signal may meet in the midst of publishing
    assert node.stop() == 0


# --- starting and stopping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("min_score:=7.5", "min_score"),
        ("rectified:=perhaps", "auto, true, false"),
        ("min_score:=high", "min_score"),
        ("min_score=0.5", "parameter:=value"),
        ("qos_overrides./diagnostics.publisher.reliability:=good", "good"),
    ],
)
def test_a_senseless_parameter_ends_the_node_with_a_message(argument: str, says: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("node_fakes.py")), "fake", "--ros-args", "-p", argument]
    environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "wildhands cannot start" in ended.stderr and says in ended.stderr and "Traceback" not in ended.stderr


def test_a_node_that_shows_markers_is_stopped_cleanly(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake", "--ros-args", "-p", "marker_lifetime:=0.0")
    bench.connect()
    markers = bench.listen(MarkerArray, "/wildhands/markers")
    bench.wait(lambda: bench.send(raw_image(plain(), "rgb8", bench.stamp())) and markers, "no markers")
    assert bench.stop() == 0
    assert "Traceback" not in bench.log


# --- under load -----------------------------------------------------------------------------------------------------


def test_under_overload_the_newest_image_is_the_next(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake")
    bench.connect()
    dropped = "images dropped (a newer one came)"

    def image() -> Image:
        return raw_image(plain(), "rgb8", bench.node.get_clock().now().to_msg())

    before, left_out = bench.received_in_all(), int(bench.diagnosed(dropped))
    for _ in range(3):
        first = image()
        bench.hands.clear()
        with bench.held():
            bench.begins(first)
            for _ in range(20):
                bench.publish(image())
                bench.step(0.0)
            after = bench.received_in_all()  # some are replaced before the node takes them from the middleware
            newest = image()
            bench.publish(newest)
            assert bench.received_in_all() == after + 1 > before + 2
        assert len(bench.result(newest).hands) == 2
        now = bench.node.get_clock().now().nanoseconds
        assert [h.header.stamp for h in bench.hands] == [first.header.stamp, newest.header.stamp]
        for hands in bench.hands:
            assert 0 < duration_s(hands.latency) <= (now - stamp_ns(hands.header.stamp)) * 1e-9
        left_out += after + 1 - before - 2
        before = after + 1
        bench.wait(lambda left_out=left_out: int(bench.diagnosed(dropped)) == left_out, "drops are not counted")
    assert bench.stop() == 0
