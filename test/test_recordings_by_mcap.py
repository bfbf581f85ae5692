"""Our bags in a reader that shares nothing with what wrote them: Foxglove's mcap and mcap-ros2-support.

It knows no ROS and none of our messages: all that it decodes comes from the definitions in the bag.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer
from mcap_ros2.decoder import DecoderFactory
from node_fakes import FACES, make_hand
from rclpy.serialization import deserialize_message
from visualization_msgs.msg import Marker

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.cli import main
from wildhands_ros.frames import Frame
from wildhands_ros.hands import KEYPOINT_NAMES, Hand, Side
from wildhands_ros.images import decode_compressed
from wildhands_ros.msg import HandPose
from wildhands_ros.node.hands_bag import CAMERA_INFO, HANDS, IMAGE, MARKERS, TF, HandsBag
from wildhands_ros.pipeline import PipelineResult
from wildhands_ros.recordings import BagReader, BagWriter
from wildhands_ros.synthetic import demo_photos

START = 1_700_000_000_000_000_123
PERIOD = 33_000_000


class Read(NamedTuple):
    """A message as that reader has it. time_ns: of recording."""

    topic: str
    kind: str
    time_ns: int
    data: bytes
    message: Any


def read(path: Path) -> list[Read]:
    """Every message of an MCAP file, in the order of its index, which has to agree with what is in it."""
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        found = [
            Read(channel.topic, schema.name, message.log_time, message.data, decoded)
            for schema, channel, message, decoded in reader.iter_decoded_messages()
        ]
    assert summary is not None and summary.statistics is not None
    assert summary.statistics.message_count == len(found)
    counts = {summary.channels[id].topic: n for id, n in summary.statistics.channel_message_counts.items()}
    assert counts == Counter(entry.topic for entry in found)
    return found


def of_topic(found: list[Read], topic: str) -> list[Any]:
    return [entry.message for entry in found if entry.topic == topic]


def stamp(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def places(points: Any) -> np.ndarray:
    return np.array([[point.x, point.y, point.z] for point in points])


def assert_same(found: Any, expected: Any, where: str) -> None:
    """Every field of a message, as deep as it goes. expected: of rclpy."""
    if hasattr(expected, "get_fields_and_field_types"):
        for name in expected.get_fields_and_field_types():
            assert_same(getattr(found, name), getattr(expected, name), f"{where}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(expected, (array, np.ndarray, float)):
        values = (
            np.frombuffer(found, np.uint8) if isinstance(found, bytes) else np.array(found, ndmin=np.ndim(expected))
        )
        np.testing.assert_array_equal(values, np.asarray(expected), err_msg=where)  # takes NaN for equal
    else:
        assert found == expected, where


def hands_of(index: int) -> tuple[Hand, ...]:
    """Two hands with numbers in every field, one of their joints behind the camera; none in the last frame."""
    if index == 2:
        return ()
    rng = np.random.default_rng(index)
    hands = []
    for side in Side:
        hand = make_hand(side)
        keypoints = hand.keypoints.copy()
        keypoints[3] = np.nan
        hands.append(
            make_hand(
                side, keypoints=keypoints, pose=rng.standard_normal((16, 3, 3)), betas=rng.standard_normal(10),
                joints=hand.joints + 0.01 * rng.standard_normal((21, 3)), jump=side is Side.LEFT,
                reprojection_error=float("nan"), grasp=(3, rng.dirichlet(np.ones(9))),
            )
        )  # fmt: skip
    return tuple(hands)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    camera = Camera(64, 48, 60.0, 61.0, 31.0, 23.0, Distortion.PLUMB_BOB, (0.1, -0.05, 0.001, 0.002, 0.01))
    image = cv2.resize(demo_photos()[1][1], (64, 48), interpolation=cv2.INTER_AREA)
    return [Frame(image, camera, START + i * PERIOD, "head", i, "") for i in range(3)]


@pytest.fixture(scope="module")
def results(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> list[Read]:
    """What is read of a bag as `wildhands run` writes it."""
    path = tmp_path_factory.mktemp("bags") / "hands.mcap"
    with HandsBag(path, {side: FACES for side in Side}) as bag:
        for frame in frames:
            hands = hands_of(frame.index)
            bag.write(frame, PipelineResult(frame.stamp_ns, hands, hands, (), (), {"total": 0.0125}))
    return read(path)


def test_every_message_has_its_type_time_and_stamp(results: list[Read], frames: list[Frame]) -> None:
    kinds = {entry.topic: entry.kind for entry in results}
    assert kinds == {
        IMAGE: "sensor_msgs/msg/CompressedImage",
        CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
        HANDS: "wildhands_ros/msg/HandPoseArray",
        MARKERS: "visualization_msgs/msg/MarkerArray",
        TF: "tf2_msgs/msg/TFMessage",
    }
    stamps = [frame.stamp_ns for frame in frames]
    for topic in kinds:
        assert [entry.time_ns for entry in results if entry.topic == topic] == stamps
    for topic in (IMAGE, CAMERA_INFO, HANDS):
        assert [stamp(message) for message in of_topic(results, topic)] == stamps
        assert {message.header.frame_id for message in of_topic(results, topic)} == {"head"}


def test_every_field_is_what_ros_reads(results: list[Read]) -> None:
    for entry in results:
        package, _, name = entry.kind.split("/")
        expected = deserialize_message(entry.data, getattr(import_module(f"{package}.msg"), name))
        assert_same(entry.message, expected, entry.topic)


def test_hands_are_those_that_were_written(results: list[Read]) -> None:
    messages = of_topic(results, HANDS)
    assert [len(message.hands) for message in messages] == [2, 2, 0]
    for index, message in enumerate(messages):
        assert (message.image_width, message.image_height) == (64, 48)
        assert (message.processing_time.sec, message.processing_time.nanosec) == (0, 12_500_000)
        for found, hand in zip(message.hands, hands_of(index), strict=True):
            assert found.side == {Side.LEFT: HandPose.SIDE_LEFT, Side.RIGHT: HandPose.SIDE_RIGHT}[hand.side]
            assert (found.track_id, found.valid, found.jump) == (hand.track_id, hand.valid, hand.jump)
            assert (found.estimator, found.hand_model) == ("fake", "tetrahedron")
            np.testing.assert_array_equal(places(found.joints), hand.joints)
            np.testing.assert_array_equal(places([found.wrist.position])[0], hand.joints[0])
            assert found.grasp == HandPose.GRASP_PRECISION_PRISMATIC
            for name, value in (
                ("box", hand.box), ("keypoints", hand.keypoints), ("mano_pose", hand.pose), ("mano_betas", hand.betas),
                ("mano_translation", hand.translation), ("grasp_probabilities", hand.grasp[1]), ("score", hand.score),
                ("side_probability", hand.side_probability), ("reprojection_error", hand.reprojection_error),
                ("expected_error", hand.expected_error),
            ):  # fmt: skip
                expected = np.asarray(value, np.float32).reshape(-1)
                np.testing.assert_array_equal(np.ravel(getattr(found, name)), expected, err_msg=name)


def test_pictures_and_calibration_are_those_that_were_written(results: list[Read], frames: list[Frame]) -> None:
    for message, frame in zip(of_topic(results, IMAGE), frames, strict=True):
        assert "jpeg" in message.format
        assert np.abs(decode_compressed(message.data).astype(int) - frame.image).mean() < 4
    for message, frame in zip(of_topic(results, CAMERA_INFO), frames, strict=True):
        camera = frame.camera
        assert (message.width, message.height, message.distortion_model) == (64, 48, "plumb_bob")
        assert tuple(message.d) == camera.coefficients
        assert list(message.k) == [camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1]


def test_frames_and_markers_are_where_the_hands_are(results: list[Read]) -> None:
    for index, message in enumerate(of_topic(results, TF)):
        by_name = {transform.child_frame_id: transform for transform in message.transforms}
        hands = {hand.side.value: hand for hand in hands_of(index)}
        assert by_name.keys() == {f"{side}_{part}" for side in hands for part in KEYPOINT_NAMES}
        for side, hand in hands.items():
            transforms = [by_name[f"{side}_{part}"] for part in KEYPOINT_NAMES]
            assert {(transform.header.frame_id, stamp(transform)) for transform in transforms} == {
                ("head", START + index * PERIOD)
            }
            np.testing.assert_array_equal(places([t.transform.translation for t in transforms]), hand.joints)
    for index, message in enumerate(of_topic(results, MARKERS)):
        added = {marker.ns: marker for marker in message.markers if marker.action == Marker.ADD}
        hands = {hand.side.value: hand for hand in hands_of(index)}
        assert added.keys() == {f"{side}/{kind}" for side in hands for kind in ("skeleton", "joints", "mesh")}
        for side, hand in hands.items():
            np.testing.assert_array_equal(places(added[f"{side}/joints"].points), hand.joints)
            np.testing.assert_array_equal(places(added[f"{side}/mesh"].points), hand.vertices[FACES.ravel()])
    assert {marker.action for marker in of_topic(results, MARKERS)[2].markers} == {Marker.DELETE}  # no hand is left


@pytest.mark.parametrize("name", ["one.mcap", "folder"])
def test_raw_pictures_and_static_frames_are_read_too(name: str, tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (5, 24, 32, 3), np.uint8)
    topics = {"/cam/image_raw": "sensor_msgs/msg/Image", "/tf_static": "tf2_msgs/msg/TFMessage"}
    with BagWriter(tmp_path / name) as bag:
        for topic, kind in topics.items():
            bag.add_topic(topic, kind)
        make = {kind.split("/")[-1]: type for kind, type in bag.types.items()}

        def header(time_ns: int, frame_id: str) -> object:
            return make["Header"](make["Time"](time_ns // 10**9, time_ns % 10**9), frame_id)

        place, turn = make["Vector3"](0.1, -0.2, 1.5), make["Quaternion"](0.0, 0.6, 0.0, 0.8)
        mounted = make["TransformStamped"](header(START, "head"), "cam", make["Transform"](place, turn))
        bag.write("/tf_static", make["TFMessage"]([mounted]), START)
        for index, rgb in enumerate(pictures):
            time_ns = START + index * PERIOD
            bag.write(
                "/cam/image_raw", make["Image"](header(time_ns, "cam"), 24, 32, "rgb8", 0, 96, rgb.ravel()), time_ns
            )
            bag.flush()  # a chunk for each
    path = tmp_path / name if name.endswith(".mcap") else next((tmp_path / name).glob("*.mcap"))
    found = read(path)
    assert {entry.topic: entry.kind for entry in found} == topics
    for index, message in enumerate(of_topic(found, "/cam/image_raw")):
        assert (message.encoding, message.step, stamp(message)) == ("rgb8", 96, START + index * PERIOD)
        np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(24, 32, 3), pictures[index])
    ((transform,),) = (message.transforms for message in of_topic(found, "/tf_static"))
    assert (transform.header.frame_id, transform.child_frame_id) == ("head", "cam")
    assert places([transform.transform.translation]).tolist() == [[0.1, -0.2, 1.5]]
    assert (transform.transform.rotation.y, transform.transform.rotation.w) == (0.6, 0.8)


def test_the_bag_of_a_run_holds_what_its_json_lines_say(tmp_path: Path) -> None:
    folder = tmp_path / "palm"
    folder.mkdir()
    image = cv2.resize(demo_photos()[1][1], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    for index in range(5):
        assert cv2.imwrite(str(folder / f"{index}.png"), image[..., ::-1])
    options = ("--stream", "--focal", "700", "--no-video", "--json", str(tmp_path / "hands.jsonl"))
    options += ("--estimator", "landmarks")  # the network takes longer to load, and is not what this is about
    assert main(["run", str(folder), "--out", str(tmp_path), *options]) == 0
    records = [json.loads(line) for line in (tmp_path / "hands.jsonl").read_text().splitlines()]
    found = read(tmp_path / "palm_hands.mcap")
    assert sum(len(record["hands"]) for record in records) >= 3
    for record, message in zip(records, of_topic(found, HANDS), strict=True):
        assert stamp(message) == record["stamp_ns"]
        for hand, values in zip(message.hands, record["hands"], strict=True):
            assert hand.track_id == values["track_id"] and hand.estimator == record["estimator"]
            np.testing.assert_array_equal(places(hand.joints), values["joints"])
            np.testing.assert_array_equal(np.reshape(hand.mano_pose, (16, 3, 3)), np.float32(values["pose"]))
    for record, message in zip(records, of_topic(found, CAMERA_INFO), strict=True):
        assert list(message.k) == record["camera"]["K"]


# --- and the other way: bags that its writer made -------------------------------------------------------------------


@pytest.mark.parametrize("index", [IndexType.ALL, IndexType.CHUNK, IndexType.NONE], ids=["all", "chunks", "none"])
@pytest.mark.parametrize("schemas", [True, False])
@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_an_index_may_be_without_any_part(
    tmp_path: Path, index: IndexType, schemas: bool, channels: bool, statistics: bool
) -> None:
    """As rosbag2's noRepeatedSchemas, noMessageIndex and the like, of --storage-config-file, have it."""
    written = [("/a" if i % 3 else "/b", START + i * PERIOD, bytes([0, 1, 0, 0, i])) for i in range(12)]
    with (tmp_path / "bag.mcap").open("wb") as file:
        writer = Writer(
            file, chunk_size=64, compression=CompressionType.NONE, index_types=index, repeat_schemas=schemas,
            repeat_channels=channels, use_statistics=statistics,
        )  # fmt: skip
        writer.start("ros2", "")
        schema = writer.register_schema("std_msgs/msg/Byte", "ros2msg", b"byte data")
        ids = {topic: writer.register_channel(topic, "cdr", schema) for topic in ("/a", "/b")}
        for topic, time_ns, data in written:
            writer.add_message(ids[topic], time_ns, data, time_ns)
        writer.finish()
    with BagReader(tmp_path / "bag.mcap") as bag:
        assert {name: (topic.msgtype, topic.count) for name, topic in bag.topics.items()} == {
            "/a": ("std_msgs/msg/Byte", 8), "/b": ("std_msgs/msg/Byte", 4)
        }  # fmt: skip
        assert [(m.topic, m.log_time_ns, m.data) for m in bag.messages()] == written


def test_a_channel_of_json_needs_no_schema_for_the_index_to_be_whole(tmp_path: Path) -> None:
    with (tmp_path / "bag.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start("ros2", "")
        schema = writer.register_schema("std_msgs/msg/Byte", "ros2msg", b"byte data")
        writer.add_message(writer.register_channel("/a", "cdr", schema), START, b"\0\1\0\0a", START)
        writer.add_message(writer.register_channel("/notes", "json", 0), START, b"{}", START)
        writer.finish()
    with BagReader(tmp_path / "bag.mcap") as bag:
        assert [m.topic for m in bag.messages(["/a"])] == ["/a"] and not bag.problems
