"""The node's parts, each on its own: parameters, inbox, images, what is told, statistics."""

import itertools
import logging
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import HEIGHT, WIDTH, camera_info, plain, raw_image
from node_fakes import FakePipeline
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

import wildhands_ros
from wildhands_ros.camera import is_rectified_topic
from wildhands_ros.errors import ConfigError, ImageError
from wildhands_ros.node import parameters
from wildhands_ros.node.diagnostics import (
    Drop,
    Statistics,
    Throttle,
    shortened,
)
from wildhands_ros.node.images import compressed_message, decode, find_bridge, image_message
from wildhands_ros.node.inbox import Inbox
from wildhands_ros.node.inputs import CameraCache, InputTopics, input_topics
from wildhands_ros.node.outlets import Published
from wildhands_ros.node.parameter_file import parameter_file, parameter_table_in_markdown
from wildhands_ros.node.qos import (
    IMAGE_INPUT,
    RESULT_OUTPUT,
    fastdds_profile,
    input_mismatch,
    output_mismatch,
    profile_environment,
)
from wildhands_ros.node.rosout import library_messages_to
from wildhands_ros.node.wildhands_node import WildhandsNode
from wildhands_ros.node.worker import Worker
from wildhands_ros.pipeline import PipelineConfig
from wildhands_ros.settings import config_to_dict

# --- parameters -----------------------------------------------------------------------------------------------------


def _defaults():
    return {row.name: row.default for row in parameters.parameter_table()}


def test_defaults_are_those_of_the_pipeline():
    assert parameters.snapshot(_defaults()).pipeline == PipelineConfig()


def test_every_setting_of_the_pipeline_is_a_documented_parameter():
    def leaves(values, prefix=""):
        for name, value in values.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]

    rows = {row.name: row for row in parameters.parameter_table()}
    for name in leaves(config_to_dict(PipelineConfig())):
        assert len(rows[name].description) > 10 and not rows[name].description.startswith("See "), name
    for row in rows.values():
        assert row.description and row.descriptor().read_only == (row.when is parameters.When.START)


def test_values_reach_their_place():
    values = {**_defaults(), "min_score": 0.25, "tracking.smooth": True, "rectified": "true", "tf_prefix": "robot/"}
    taken = parameters.snapshot(values)
    assert (taken.pipeline.min_score, taken.pipeline.tracking.smooth) == (0.25, True)
    assert (taken.rectified, taken.tf_prefix) == (True, "robot/")
    assert [parameters.snapshot({"rectified": value}).rectified for value in (False, "false", "auto")] == [
        False,
        False,
        None,
    ]
    assert parameters.snapshot({**values, "estimation.mano_dir": ""}).pipeline.estimation.mano_dir is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("min_score", 1.5, "between 0 and 1"),
        ("min_score", float("nan"), "between 0 and 1"),
        ("image_transport", "theora", "raw, compressed"),
        ("rectified", "maybe", "auto, true, false"),
        ("jpeg_quality", 0, "between 1 and 100"),
        ("marker_lifetime", -1.0, "between 0 and"),
        ("tf_prefix", "/robot", "no leading slash"),
        ("target_frame", "/map", "no leading slash"),
        ("capture_dir", "captures", "absolute"),
        ("capture_dir", "/tmp/../etc", "without '..'"),
        ("capture_dir", "~\0x/captures", "absolute"),
        ("estimation.cache_dir", "networks", "absolute"),
        ("estimation.cache_dir", "~/../networks", "without '..'"),
        ("estimation.cache_dir", "~nobody_of_this_name/x", "estimation.cache_dir"),
        ("target_frame_timeout", 60.0, "between 0 and 5"),
        ("detection.threads", 0, "between 1 and"),
        ("tracking.min_cutoff", -1.0, "min_cutoff"),
        ("estimation.estimator", "magic", "magic"),
        ("tracking.smooth", "yes", "tracking.smooth"),
    ],
)
def test_senseless_values_are_refused_with_a_reason(name, value, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parameters.snapshot({**_defaults(), name: value})
    assert name.rpartition(".")[2] in str(caught.value)


def test_folders_may_be_below_the_home_folder_or_left_to_their_default():
    for folder in ("", "/var/cache/networks", "~/networks"):
        found = parameters.snapshot({**_defaults(), "estimation.cache_dir": folder}).pipeline.estimation.cache_dir
        assert found is None if not folder else str(found).endswith("/networks")


def test_a_node_needs_no_home_to_start(homeless):
    settings = parameters.snapshot({**_defaults(), "estimation.cache_dir": "~/networks"})
    assert str(settings.capture_dir) == parameters.DEFAULT_CAPTURE_DIR  # which says what is missing, once it is needed


def test_descriptors_say_the_same_on_the_wire():
    """What is written as C's double must be one: of an int, `ros2 param describe` showed 5e-324."""
    for row in parameters.parameter_table():
        sent = row.descriptor()
        assert deserialize_message(serialize_message(sent), ParameterDescriptor) == sent, row.name


def test_descriptors_carry_ranges_and_choices():
    rows = {row.name: row.descriptor() for row in parameters.parameter_table()}
    assert (rows["min_score"].floating_point_range[0].to_value, rows["min_score"].read_only) == (1.0, False)
    assert rows["jpeg_quality"].integer_range[0].to_value == 100
    quarters = rows["upright_rotation"].integer_range[0]
    assert (quarters.from_value, quarters.to_value, quarters.step) == (0, 270, 90)
    assert "compressed" in rows["image_transport"].additional_constraints
    assert rows["autostart"].read_only and not rows["models_dir"].read_only
    assert "unconfigured" in rows["models_dir"].additional_constraints


def test_the_parameter_file_is_up_to_date_and_means_the_defaults():
    text = fastdds_profile().with_name("wildhands.yaml").read_text()
    assert text == parameter_file(), "run: python -m wildhands_ros.node.parameter_file > config/wildhands.yaml"
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    flat = {}
    for name, value in values.items():
        flat.update({f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value})
    assert parameters.snapshot(flat) == parameters.snapshot({})
    assert set(flat) | {"models_dir"} == set(_defaults())


def test_what_ros2_param_dump_writes_starts_a_node_with_the_same_parameters(tmp_path):
    """Also what YAML reads as something else: `rectified: true` is a truth value to it, and an empty text no number."""
    given = {
        "rectified": "true",
        "min_score": 1.0,
        "tf_prefix": "head/",
        "detection.max_hands": 3,
        "upright_rotation": 90,
    }
    dumped: dict = {}
    for name, value in {**_defaults(), **given}.items():
        place = dumped
        for folder in name.split(".")[:-1]:
            place = place.setdefault(folder, {})
        place[name.rpartition(".")[2]] = {"true": True}.get(value, value) if isinstance(value, str) else value
    path = tmp_path / "wildhands.yaml"
    path.write_text(yaml.safe_dump({"/wildhands": {"ros__parameters": dumped}}))  # as the command does
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
    node = Node("wildhands", context=context)
    assert parameters.declare(node) == parameters.snapshot({**_defaults(), **given})
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_the_documentation_of_parameters_is_up_to_date():
    text = (Path(__file__).parents[1] / "docs" / "parameters.md").read_text()
    command = "python -m wildhands_ros.node.parameter_file --markdown > docs/parameters.md"
    assert text == parameter_table_in_markdown(), f"run: {command}"
    for row in parameters.parameter_table():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{row.name}` ")]
        assert f" {row.when.value} " in line and str(Path.home()) not in line


def test_what_takes_a_configuration_is_refused_while_configured():
    before = parameters.snapshot({})
    assert parameters.refused_now(before, before) == ()
    live = parameters.snapshot(
        {
            "min_score": 0.2,
            "tf_prefix": "a/",
            "tracking.smooth": True,
            "jpeg_quality": 50,
            "estimation.largest_expected_error": 0.02,
        }
    )
    assert parameters.refused_now(before, live) == ()
    heavy = parameters.snapshot({"estimation.checkpoint": "/x", "target_frame": "map", "min_score": 0.1})
    assert parameters.refused_now(before, heavy) == ("target_frame", "estimation.checkpoint")


def test_ranges_hold_the_defaults():
    for row in parameters.parameter_table():
        if row.minimum is not None:
            assert row.minimum <= row.default <= row.maximum, row.name
        if row.choices:
            assert row.default in row.choices, row.name


# --- inbox ----------------------------------------------------------------------------------------------------------


def test_the_newest_image_wins_and_drops_are_told():
    inbox = Inbox()
    inbox.put_info("info", 0)
    assert [inbox.put_image(i, i) for i in range(4)] == [False, True, True, True]
    parcel = inbox.take()
    assert (parcel.image, parcel.stamp_ns) == (3, 3)
    assert inbox.put_image(4, 4) is False


def test_an_image_waits_for_the_first_camera_info():
    inbox, taken = Inbox(), []
    worker = threading.Thread(target=lambda: taken.append(inbox.take()))
    worker.start()
    inbox.put_image("image", 10)
    assert not inbox.has_info
    inbox.put_info("info", 20)
    assert inbox.has_info
    worker.join(5)
    assert (taken[0].image, taken[0].info) == ("image", "info")


def test_infos_are_paired_by_stamp_whichever_comes_first():
    inbox = Inbox(pair_timeout=5)
    inbox.put_info("a", 1)
    inbox.put_info("b", 2)
    inbox.put_image("image of a", 1)
    assert inbox.take().info == "a"
    # from now on the info of the same stamp is expected, and waited for
    inbox.put_image("image of c", 3)
    taken = []
    worker = threading.Thread(target=lambda: taken.append(inbox.take()))
    worker.start()
    inbox.put_info("c", 3)
    worker.join(5)
    assert taken[0].info == "c"


def test_of_many_infos_the_newest_are_known():
    inbox = Inbox(pair_timeout=60.0)
    for stamp_ns in range(1, 30):
        inbox.put_info(f"info {stamp_ns}", stamp_ns)
    inbox.put_image("image 25", 25)
    assert inbox.take().info == "info 25"
    inbox.put_info("again 24", 24)  # and is the newest by its coming
    for stamp_ns in range(30, 37):
        inbox.put_info(f"info {stamp_ns}", stamp_ns)
    inbox.put_image("image 24", 24)
    assert inbox.take().info == "again 24"


def test_a_lost_info_does_not_stop_the_stream():
    inbox = Inbox(pair_timeout=0.01)
    inbox.put_info("a", 1)
    inbox.put_image(1, 1)
    inbox.take()
    inbox.put_image(2, 2)
    assert inbox.take().info == "a"


def test_newer_images_do_not_prolong_the_wait_for_a_lost_info():
    inbox, ended = Inbox(pair_timeout=0.05), threading.Event()
    inbox.put_info("a", 1)
    inbox.put_image(1, 1)
    inbox.take()

    def camera():
        for stamp in itertools.count(2):
            inbox.put_image(stamp, stamp)
            if ended.wait(0.005):
                return

    thread = threading.Thread(target=camera)
    thread.start()
    taken = []
    worker = threading.Thread(target=lambda: taken.append(inbox.take()))
    worker.start()
    worker.join(5)
    ended.set()
    inbox.close()
    thread.join()
    assert taken and taken[0] is not None and taken[0].info == "a"


def test_an_info_that_comes_just_after_its_image_is_waited_for_also_by_a_worker_that_was_busy(monkeypatch):
    inbox, taken = Inbox(pair_timeout=1e6), []
    inbox.put_info("old", 1)
    inbox.put_image(1, 1)
    inbox.take()
    inbox.put_image(2, 2)
    busy_until = time.monotonic() + 2e6  # for longer than an info is waited for
    monkeypatch.setattr(time, "monotonic", lambda: busy_until)
    worker = threading.Thread(target=lambda: taken.append(inbox.take()))
    worker.start()
    inbox.put_info("new", 2)
    worker.join(5)
    assert taken[0].info == "new"


def test_a_camera_that_never_pairs_is_not_waited_for():
    inbox = Inbox(pair_timeout=1e6)
    inbox.put_info("a", 1)
    for stamp in (10, 11, 12):
        inbox.put_image(stamp, stamp)
        assert inbox.take().info == "a"


def test_closing_ends_the_wait():
    inbox, taken = Inbox(), []
    worker = threading.Thread(target=lambda: taken.append(inbox.take()))
    worker.start()
    inbox.close()
    worker.join(5)
    assert taken == [None]
    inbox.put_info("a", 1)
    inbox.put_image("late", 1)
    assert inbox.take() is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["put", "take"]), max_size=30))
def test_every_image_is_taken_once_or_dropped_once_in_order(actions):
    inbox = Inbox()
    inbox.put_info("info", -1)
    put = dropped = 0
    waiting, taken = False, []
    for action in actions:
        if action == "put":
            dropped += inbox.put_image(put, put)
            put += 1
            waiting = True
        elif waiting:
            taken.append(inbox.take().image)
            assert taken[-1] == put - 1, "not the newest"
            waiting = False
    assert len(taken) + dropped + waiting == put
    assert taken == sorted(set(taken))


# --- images ---------------------------------------------------------------------------------------------------------


def _picture(height=12, width=16):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_image_messages_round_trip():
    rgb, header = _picture(), Header(frame_id="camera")
    message = image_message(rgb, header)
    assert (message.encoding, message.step, message.height, message.header) == ("rgb8", 48, 12, header)
    np.testing.assert_array_equal(decode(message), rgb)
    np.testing.assert_array_equal(decode(image_message(rgb[:, ::-1], header)), rgb[:, ::-1])


def test_compressed_messages_round_trip():
    rgb = cv2.GaussianBlur(_picture(64, 64), (0, 0), 8)
    message = compressed_message(rgb, Header(), quality=95)
    assert "jpeg" in message.format
    assert np.abs(decode(message).astype(int) - rgb).max() < 20


class CvBridge:
    """Converts as cv_bridge does, for what cv_bridge knows, and remembers what it was asked for.

    Rows as cv_bridge's Python part sees them: of `step` bytes rounded down to whole pixels.
    """

    CODES = {"bgr8": cv2.COLOR_BGR2RGB, "bayer_rggb8": cv2.COLOR_BayerBG2RGB, "yuv422": cv2.COLOR_YUV2RGB_UYVY}

    def __init__(self):
        self.asked = []

    def imgmsg_to_cv2(self, img_msg, desired_encoding="passthrough"):
        assert desired_encoding == "rgb8"
        self.asked.append(img_msg.encoding)
        channels = {"bgr8": 3, "yuv422": 2}.get(img_msg.encoding, 1)
        assert not img_msg.is_bigendian, "newbyteorder() is gone from numpy 2"
        shape = (img_msg.height, img_msg.step // channels, channels)
        pixels = np.ndarray(shape, np.uint8, bytes(img_msg.data))[:, : img_msg.width]
        return cv2.cvtColor(np.ascontiguousarray(pixels), self.CODES[img_msg.encoding])


def _raw(encoding, channels, height=8, width=10, padding=0, seed=0):
    step = width * channels + padding
    message = Image(height=height, width=width, encoding=encoding, step=step)
    message.data.frombytes(np.random.default_rng(seed).integers(0, 256, step * height, dtype=np.uint8))
    return message


@pytest.mark.parametrize(("encoding", "channels"), [("bgr8", 3), ("bayer_rggb8", 1), ("yuv422", 2)])
def test_with_and_without_cv_bridge_pictures_are_equal(encoding, channels):
    message, bridge = _raw(encoding, channels), CvBridge()
    np.testing.assert_array_equal(decode(message, bridge), decode(message))
    assert bridge.asked == [encoding]


@pytest.mark.parametrize(("padding", "is_bigendian"), [(2, 0), (6, 0), (0, 1)])
def test_what_cv_bridge_would_get_wrong_never_reaches_it(padding, is_bigendian):
    message, bridge = _raw("bgr8", 3, padding=padding), CvBridge()
    message.is_bigendian = is_bigendian
    rows = np.frombuffer(message.data, np.uint8).reshape(8, -1)[:, :30].reshape(8, 10, 3)
    np.testing.assert_array_equal(decode(message, bridge), rows[..., ::-1])
    assert bridge.asked == []


@pytest.mark.parametrize("broken", [None, ImportError("numpy.core.multiarray failed to import")], ids=["works", "not"])
def test_a_cv_bridge_that_fails_with_every_image_is_not_used(broken, monkeypatch):
    class Installed(CvBridge):
        def imgmsg_to_cv2(self, img_msg, desired_encoding="passthrough"):
            if broken is not None:
                raise broken
            return super().imgmsg_to_cv2(img_msg, desired_encoding)

    module, reasons = types.ModuleType("cv_bridge"), []
    module.CvBridge = Installed
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    bridge = find_bridge(reasons.append)
    assert (bridge is None, len(reasons)) == ((False, 0) if broken is None else (True, 1))
    assert broken is None or "multiarray" in reasons[0]
    monkeypatch.setitem(sys.modules, "cv_bridge", None)  # as if it was not installed
    assert find_bridge(reasons.append) is None and len(reasons) == (broken is not None)


def test_what_cv_bridge_does_not_know_or_would_crash_on_never_reaches_it():
    bridge = CvBridge()
    nv12 = Image(height=4, width=4, encoding="nv12", step=4)
    nv12.data.frombytes(bytes(24))
    assert decode(nv12, bridge).shape == (4, 4, 3)
    short = _raw("bgr8", 3)
    short.data = short.data[:-1]
    with pytest.raises(ImageError, match="cut off"):
        decode(short, bridge)
    with pytest.raises(ImageError, match="empty"):
        decode(Image(encoding="bgr8"), bridge)
    with pytest.raises(ImageError, match="step"):
        decode(Image(height=1, width=4, encoding="bgr8", step=4, data=bytes(4)), bridge)
    whole = compressed_message(_picture(64, 64), Header())
    truncated = CompressedImage(format="jpeg", data=bytes(whole.data)[: len(whole.data) // 2])
    with pytest.raises(ImageError, match="ends early"):
        decode(truncated, bridge)
    assert bridge.asked == []


# --- cameras --------------------------------------------------------------------------------------------------------


def _info(**changes):
    fields = {"width": 64, "height": 48, "k": [50.0, 0, 31, 0, 50, 23, 0, 0, 1], "distortion_model": "plumb_bob"}
    return CameraInfo(**{**fields, **changes})


def test_cameras_are_computed_only_when_camera_info_changes():
    cameras = CameraCache(rectified=False)
    first = cameras(_info(header=Header(stamp=Time(sec=1))))
    assert cameras(_info(header=Header(stamp=Time(sec=2)))) is first
    changed = cameras(_info(k=[60.0, 0, 31, 0, 50, 23, 0, 0, 1]))
    assert changed is not first and changed.fx == 60


def test_a_bad_camera_info_does_not_stick():
    cameras = CameraCache(rectified=False)
    good = cameras(_info())
    with pytest.raises(Exception, match="uncalibrated"):
        cameras(_info(k=[0.0] * 9))
    assert cameras(_info()) == good


def test_rectified_topics_are_known_by_their_name():
    assert is_rectified_topic("/rect/image_rect/compressed")
    assert is_rectified_topic("/camera/image_rect_color")
    assert is_rectified_topic("rectified")
    assert is_rectified_topic("/zed/rgb/rect/image/compressed")
    for name in ("/rect/image_raw", "/camera/image_unrect", "/camera/direct", "/director/image_raw/compressed"):
        assert not is_rectified_topic(name)


# --- what is told ---------------------------------------------------------------------------------------------------


def test_throttle_lets_repetitions_through_once_a_period():
    now = [0.0]
    throttle = Throttle(10, different=3, clock=lambda: now[0])
    assert throttle("a", "text") == "text"
    assert throttle("a", "text") is None and throttle("a", "text") is None
    assert throttle("b", "another kind") == "another kind"
    assert throttle("a", "different") == "different (2 more of this kind in the meantime)"
    assert throttle("a", "a third") == "a third"
    assert throttle("a", "a fourth") is None
    now[0] = 11.0
    assert throttle("a", "text") == "text (1 more of this kind in the meantime)"


def test_throttle_lets_everything_through_that_is_said_only_once():
    """An event of QoS comes once, when somebody subscribes: nobody would ever hear of one that was held back."""
    throttle = Throttle(10, different=3, clock=lambda: 0.0)
    texts = [f"a subscriber of /wildhands/{letter} does not fit" for letter in "abcdefgh"]
    assert [throttle("output_qos_mismatch", text) for text in texts] == texts
    assert throttle("output_qos_mismatch", texts[0]) is None


def test_endless_texts_are_cut_in_the_middle():
    assert shortened("x" * 2000) == "x" * 2000
    text = shortened("unknown encoding '" + "x" * 10**6 + "': use another")
    assert len(text) < 2100 and text.startswith("unknown encoding 'xx") and text.endswith("xx': use another")


def test_a_report_that_quotes_a_message_is_one_line():
    said = []
    logger = types.SimpleNamespace(error=said.append)
    node = types.SimpleNamespace(_statistics=Statistics(), _throttle=Throttle(), get_logger=lambda: logger)
    text = "unknown encoding 'x\n[INFO]: all is well\x1b[2J'"
    WildhandsNode._report(node, "bad_image", text)
    assert said == [r"unknown encoding 'x\n[INFO]: all is well\x1b[2J'"]
    assert node._statistics.summary().last_problem == said[0]


def test_latency_from_reception_ends_where_that_from_capture_does():
    measured, done = [], threading.Event()

    class Outlets:
        def publish(self, *_):
            return Published(at=time.monotonic() + 1000.0, since_capture_s=1500.0)

        def publish_annotated(self, *_):
            pass

        def hide(self):
            pass

    class Noting(Statistics):
        def result_published(self, hands, latency_s, timings, *, capture_s):
            measured.append((latency_s, capture_s))
            done.set()

    settings = parameters.snapshot(_defaults())
    worker = Worker(
        FakePipeline(settings.pipeline), Outlets(), InputTopics("/image", "/camera_info", False), CameraCache(False),
        settings=lambda: settings, statistics=Noting(), report=lambda _kind, text: print(text), clock=Clock(),
        context=Context(), bridge=None, transforms=None,
    )  # fmt: skip
    worker.start()
    worker.put_info(camera_info())
    worker.put_image(raw_image(plain(), "rgb8", Time(sec=1)))
    assert done.wait(60.0)
    worker.stop()
    ((since_reception, since_capture),) = measured
    assert since_capture == 1500.0 and since_reception >= 1000.0  # not only until the last marker was sent


def reported(image, info=None, topic="/image", rectified=False):
    """Kinds and texts that a worker reports of an image, and how many results it gives."""
    reports, results, done = [], [], threading.Event()

    class Outlets:
        def publish(self, *_):
            results.append(1)
            return Published(at=0.0, since_capture_s=0.0)

        def publish_annotated(self, *_):
            pass

        def hide(self):
            pass

    class Noting(Statistics):
        def result_published(self, *_, **__):
            done.set()

    def report(kind, text):
        reports.append((kind, text))
        if kind == "bad_image":
            done.set()

    settings = parameters.snapshot(_defaults())
    topics = InputTopics(topic, "/camera_info", isinstance(image, CompressedImage))
    worker = Worker(
        FakePipeline(settings.pipeline), Outlets(), topics, CameraCache(rectified), settings=lambda: settings,
        statistics=Noting(), report=report, clock=Clock(),
        context=types.SimpleNamespace(ok=lambda: True), bridge=None, transforms=None,
    )  # fmt: skip
    worker.start()
    worker.put_info(camera_info() if info is None else info)
    worker.put_image(image)
    assert done.wait(60.0)
    worker.stop()
    return reports, len(results)


@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "16UC1; png compressed "])
@pytest.mark.parametrize("topic", ["/camera/depth/image_rect_raw", "/aligned_depth_to_color/image_raw"])
def test_depth_images_that_only_their_topic_tells_are_refused(encoding, topic):
    grey = np.full((HEIGHT, WIDTH), 900, np.uint16)
    if "png" in encoding:
        data = cv2.imencode(".png", grey)[1].tobytes()
        image = CompressedImage(format=encoding, data=data)
        image.header.stamp = Time(sec=1)
    else:
        image = raw_image(grey, encoding, Time(sec=1))
    ((kind, text),), results = reported(image, topic=topic)
    assert (kind, results) == ("bad_image", 0) and "is a depth image" in text and "use the colour topic" in text
    assert reported(image, topic="/infra1/image_rect_raw") == ([], 1)  # infrared cameras send the same
    assert reported(image, topic="/hands_in_depths/image") == ([], 1)


def test_a_skew_of_the_camera_is_said_and_ignored():
    image, info = raw_image(plain(), "rgb8", Time(sec=1)), camera_info()
    info.k[1] = 5.0
    ((kind, text),), results = reported(image, info)
    assert (kind, results) == ("skewed_camera", 1) and "/camera_info: K of camera_info has a skew of 5 pixels" in text
    info.k[1] = 0.05  # which moves no hand
    assert reported(image, info) == ([], 1)
    info.k[1], info.p[0], info.p[5] = 5.0, 100.0, 100.0
    info.p[2], info.p[6] = WIDTH / 2, HEIGHT / 2
    assert reported(image, info, rectified=True) == ([], 1)  # then P counts


def test_statistics_count_and_measure():
    now = [0.0]
    statistics = Statistics(clock=lambda: now[0])
    for i in range(50):
        now[0] = i * 0.1
        statistics.image_received()
        if i % 2:
            statistics.image_dropped(Drop.NEWER)
            statistics.result_published(2, 0.02 + 0.001 * (i // 2), {"detect": 0.01}, capture_s=0.05)
    statistics.image_failed()
    statistics.problem("bad_image", "it is bad")
    summary = statistics.summary()
    assert (summary.received, summary.processed, summary.failed, summary.failed_lately) == (50, 25, 1, 1)
    assert summary.dropped == {Drop.NEWER: 25, Drop.NO_CAMERA_INFO: 0, Drop.DISABLED: 0, Drop.NO_TRANSFORM: 0}
    assert summary.input_hz == pytest.approx(50 / 4.9) and summary.output_hz == pytest.approx(25 / 4.9)
    assert summary.latency_ms == pytest.approx((32, 43, 44))
    assert summary.capture_ms == pytest.approx((50, 50, 50))
    assert summary.timings_ms["detect"] == pytest.approx((10, 10, 10)) and summary.hands == 2
    assert summary.problems == {"bad_image": 1} and summary.last_problem == "it is bad"
    now[0] = 100.0
    assert statistics.summary().output_hz == 0


# --- QoS ------------------------------------------------------------------------------------------------------------


class _Endpoint:
    node_name, node_namespace = "driver", "/camera"

    def __init__(self, profile):
        self.qos_profile = profile


def test_mismatches_name_both_sides_and_the_remedy():
    reliable = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    text = input_mismatch("/image", QoSPolicyKind.RELIABILITY, reliable, [_Endpoint(IMAGE_INPUT)])
    for part in ("reliability", "asks for reliable", "/camera/driver offers best effort", "qos_overrides./image"):
        assert part in text
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    text = output_mismatch("/hands", QoSPolicyKind.DURABILITY, RESULT_OUTPUT, [_Endpoint(latched)])
    for part in ("durability", "offers reliable, volatile", "/camera/driver asks for reliable, transient local"):
        assert part in text
    picky = QoSProfile(
        depth=1, deadline=Duration(seconds=0.1), liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=2),
    )  # fmt: skip
    text = output_mismatch("/hands", QoSPolicyKind.DEADLINE, RESULT_OUTPUT, [_Endpoint(picky)])
    for part in (
        "this node offers reliable, volatile, no deadline;",
        "volatile, deadline 0.1 s.",
        "ask for no deadline",
    ):
        assert part in text
    text = output_mismatch("/hands", QoSPolicyKind.LIVELINESS, RESULT_OUTPUT, [_Endpoint(picky)])
    for part in ("liveliness automatic, no lease;", "liveliness manual by topic, lease 2 s.", "ask for no liveliness"):
        assert part in text


def test_the_profile_is_named_to_the_fast_dds_that_is_there(monkeypatch):
    for distribution, variable in (("jazzy", "FASTRTPS"), ("kilted", "FASTDDS"), ("", "FASTDDS")):
        monkeypatch.setenv("ROS_DISTRO", distribution)
        assert profile_environment() == {f"{variable}_DEFAULT_PROFILES_FILE": str(fastdds_profile())}


def test_the_fastdds_profile_is_there_and_well_formed():
    from xml.etree import ElementTree

    names = {"d": "http://www.eprosima.com"}
    size = ElementTree.parse(fastdds_profile()).find(".//d:segment_size", names)
    assert int(size.text) > 4 * 1920 * 1080 * 3


# --- messages of the library ------------------------------------------------------------------------------------------


def test_what_the_library_says_the_node_says(monkeypatch):
    class Logger:
        said = []

        def __getattr__(self, severity):
            return lambda text: self.said.append((severity, text))

    monkeypatch.setattr(logging.getLogger("wildhands_ros"), "propagate", True)  # where launch is imported it is not
    library = logging.getLogger("wildhands_ros.tracking.tracker")
    with library_messages_to(Logger()):
        library.warning("stamp %d", 5)
        library.error("broken")
        library.info("ready")
        library.debug("details")
        library.warning("picture %s", "x\udcff.jpg")
        monkeypatch.setattr(logging, "raiseExceptions", False)
        library.warning("wrong %d", "x")
    library.warning("afterwards")
    assert Logger.said == [
        ("warning", "stamp 5"),
        ("error", "broken"),
        ("info", "ready"),
        ("warning", "picture x\\udcff.jpg"),
    ]
    assert logging.getLogger("wildhands_ros").propagate


PACKAGE = Path(wildhands_ros.__file__).parent
PROGRAMS = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    for text in [path.read_text()]
    if "ArgumentParser(" in text and '__name__ == "__main__"' in text
]


@pytest.mark.parametrize("module", PROGRAMS)
def test_the_usage_names_a_command_that_exists(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.split()).startswith(f"usage: python3 -m {module} [-h]")


def test_the_programs_start_with_an_rclpy_that_has_moved_its_endpoints() -> None:
    """From 10.0.2 on, rclpy.topic_endpoint_info is rclpy.endpoint_info."""
    programs = ", ".join(f"wildhands_ros.node.{name}" for name in ("wildhands_node", "recorder", "player"))
    code = f"import sys; import rclpy.node; sys.modules['rclpy.topic_endpoint_info'] = None; import {programs}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("rules", "image", "info"),
    [
        ((), "/image", "/camera_info"),
        (("image:=/head/image_raw",), "/head/image_raw", "/head/camera_info"),
        (("image:=/head/image_raw", "camera_info:=/other/info"), "/head/image_raw", "/other/info"),
        (("image:=/proc/image_rect", "camera_info:=/camera_info"), "/proc/image_rect", "/camera_info"),
        (("image:=/proc/image_rect", "wildhands:camera_info:=camera_info"), "/proc/image_rect", "/camera_info"),
        (("image:=/proc/image_rect", "other:camera_info:=camera_info"), "/proc/image_rect", "/proc/camera_info"),
    ],
)
def test_camera_info_is_the_images_neighbour_unless_it_is_remapped(rules, image, info) -> None:
    """Also where it is remapped to the very name that it would have."""
    arguments = ["node", "--ros-args", *(word for rule in rules for word in ("-r", rule)), "--", "-r", "info:=x"]
    context = Context()
    rclpy.init(args=arguments, context=context)
    try:
        node = Node("wildhands", context=context)
        assert input_topics(node, "raw", arguments) == InputTopics(image, info, compressed=False)
        compressed = input_topics(node, "compressed", arguments)
        assert compressed == InputTopics(f"{image}/compressed", info, compressed=True)
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def test_camera_info_is_the_neighbour_of_a_compressed_topic_that_alone_is_remapped() -> None:
    arguments = ["node", "--ros-args", "-r", "image/compressed:=/head/jpegs/compressed"]
    context = Context()
    rclpy.init(args=arguments, context=context)
    try:
        node = Node("wildhands", context=context)
        topics = input_topics(node, "compressed", arguments)
        assert topics == InputTopics("/head/jpegs/compressed", "/head/camera_info", compressed=True)
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


@pytest.mark.parametrize("arguments", [["--help"], ["-h", "--ros-args", "-p", "min_score:=0.6"]])
def test_the_node_explains_itself_instead_of_starting(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "wildhands_ros.node", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "usage: wildhands_node [--ros-args" in done.stdout
