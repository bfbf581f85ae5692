"""Bags in and out: both storages, camera_info matching, topics, and every kind of damage."""

from __future__ import annotations

import functools
import json
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from binascii import crc32
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from bounded import run_bounded
from hypothesis import given, settings
from hypothesis import strategies as st
from lz4.frame import LZ4FrameCompressor, compress
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import CameraError, RecordingError
from wildhands_ros.images import decode_compressed, encode_jpeg
from wildhands_ros.recordings import (
    BagReader,
    BagWriter,
    FrameSource,
    SourceKind,
    open_source,
    read_hands,
    recorded_qos,
)
from wildhands_ros.recordings import bag_reader as bag_reader_module
from wildhands_ros.recordings import bag_writer as bag_writer_module
from wildhands_ros.recordings import source as source_module
from wildhands_ros.recordings.bag_source import InfoMatcher
from wildhands_ros.recordings.hands_reader import recorded_hands
from wildhands_ros.recordings.message_types import learn_installed_type, make_typestore, message_definitions
from wildhands_ros.recordings.salvage import Definition, salvage
from wildhands_ros.recordings.zstandard import unpack_file, unpacked, zstd

STORE = make_typestore()
T = STORE.types
IMAGE = "sensor_msgs/msg/Image"
START = 1_700_000_000_000_000_000
PERIOD = 33_000_000
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
ZSTD = b"\x28\xb5\x2f\xfd"  # with which its frames begin
SUFFIX = {MCAP: ".mcap", SQLITE: ".db3"}


def header(stamp_ns: int, frame_id: str = "head_camera") -> object:
    time = T["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return T["std_msgs/msg/Header"](time, frame_id)


def picture(index: int, height: int = 60, width: int = 80) -> np.ndarray:
    """Noise that does not compress, so that bags are large enough to be cut off anywhere."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def image(index: int, stamp_ns: int | None = None) -> object:
    rgb = picture(index)
    stamp_ns = START + index * PERIOD if stamp_ns is None else stamp_ns
    return T["sensor_msgs/msg/Image"](header(stamp_ns), 60, 80, "rgb8", 0, 240, rgb.reshape(-1))


def compressed(index: int) -> object:
    data = np.frombuffer(encode_jpeg(picture(index), 95), np.uint8)
    return T["sensor_msgs/msg/CompressedImage"](header(START + index * PERIOD), "rgb8; jpeg compressed bgr8", data)


def camera_info(stamp_ns: int, focal: float = 70.0, width: int = 80, height: int = 60) -> object:
    k = np.array([focal, 0, 39.5, 0, focal, 29.5, 0, 0, 1])
    p = np.array([2 * focal, 0, 39.5, 0, 0, 2 * focal, 29.5, 0, 0, 0, 1, 0])
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return T["sensor_msgs/msg/CameraInfo"](
        header(stamp_ns), height, width, "plumb_bob", np.array([0.1, 0, 0, 0, 0.0]), k, np.eye(3).ravel(), p, 0, 0, roi
    )  # fmt: skip


def write_bag(
    path: Path, messages: list[tuple[str, str, int, object]], storage: StoragePlugin = MCAP,
    compression: CompressionMode = CompressionMode.NONE, silent: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """A bag by rosbags' own writer. messages: topic, type, time of recording, message. silent: topics without any."""
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    connections = {}
    with writer:
        for topic, msgtype in (silent or {}).items():
            writer.add_connection(topic, msgtype, typestore=STORE)
        for topic, msgtype, time_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=STORE)
            writer.write(connections[topic], time_ns, STORE.serialize_cdr(message, msgtype))
    return path


def camera_messages(count: int = 40, focal: float = 70.0) -> list[tuple[str, str, int, object]]:
    messages = []
    for i in range(count):
        time_ns = START + i * PERIOD
        messages.append(("/cam/image_raw", "sensor_msgs/msg/Image", time_ns + 2_000_000, image(i)))
        messages.append(
            ("/cam/camera_info", "sensor_msgs/msg/CameraInfo", time_ns + 3_000_000, camera_info(time_ns, focal))
        )
    return messages


def bag_file(folder: Path) -> Path:
    return next(p for p in folder.iterdir() if p.suffix in (".mcap", ".db3"))


def read_all(source: FrameSource) -> list[int]:
    """The indices of the frames, checked to be the pictures and stamps of these indices."""
    found = []
    with source:
        for frame in source:
            index = (frame.stamp_ns - START) // PERIOD
            np.testing.assert_array_equal(frame.image, picture(index))
            found.append(index)
    return found


# --- whole bags -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("lone_file", [False, True])
def test_bag_round_trip(tmp_path: Path, storage: StoragePlugin, lone_file: bool) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(), storage)
    if lone_file:
        shutil.move(bag_file(path), tmp_path / f"lone{SUFFIX[storage]}")
        path = tmp_path / f"lone{SUFFIX[storage]}"
    source = open_source(path)
    assert (source.kind, source.length, source.camera_is_guess) == (SourceKind.BAG, 40, False)
    assert read_all(open_source(path)) == list(range(40))
    frame = next(iter(source))
    assert frame.frame_id == "head_camera" and frame.name == "/cam/image_raw" and frame.stamp_ns == START
    assert frame.camera.fx == 70 and frame.camera.coefficients[0] == 0.1
    assert [f.index for f in source] == list(range(40))  # again from the start
    assert source.problems == ()


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("compression", [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_compressed_bags(tmp_path: Path, storage: StoragePlugin, compression: CompressionMode) -> None:
    if storage is SQLITE and compression is CompressionMode.STORAGE:
        return  # there is no such thing
    assert read_all(open_source(write_bag(tmp_path / "bag", camera_messages(8), storage, compression))) == list(
        range(8)
    )


@pytest.mark.parametrize("storage", [MCAP, SQLITE, None])
def test_a_bag_is_read_several_times_at_once(tmp_path: Path, storage: StoragePlugin | None) -> None:
    """storage: None for an MCAP without index and chunks, as rosbag2's fastwrite makes them."""
    expected = [(START + i, bytes([0, 1, 0, 0, i])) for i in range(40)]
    if storage is None:
        path = plain_mcap(tmp_path / "bag.mcap", "std_msgs/msg/Byte", ("ros2msg", "cdr"), expected)
    else:
        byte = T["std_msgs/msg/Byte"]
        path = write_bag(
            tmp_path / "bag", [("/i", "std_msgs/msg/Byte", START + i, byte(i)) for i in range(40)], storage
        )
    with BagReader(path) as bag:
        first, second = bag.messages(), bag.messages(["/i"])
        next(second)
        for time_ns, data in expected:
            message = next(first)
            assert (message.log_time_ns, message.data) == (time_ns, data)
        assert [message.log_time_ns for message in second] == [time_ns for time_ns, _ in expected[1:]]
        assert bag.problems == ()


@pytest.mark.parametrize("order", ["little", "big"])
def test_both_byte_orders_keep_their_stamps(tmp_path: Path, order: str) -> None:
    with BagWriter(tmp_path / "x.mcap") as writer:
        writer.add_topic("/i", "sensor_msgs/msg/Image")
        writer.add_topic("/camera_info", "sensor_msgs/msg/CameraInfo")
        for i in range(3):
            data = STORE.serialize_cdr(image(i), "sensor_msgs/msg/Image", little_endian=order == "little")
            writer.write_serialized("/i", data, START + i)
            writer.write("/camera_info", camera_info(START + i * PERIOD, 50.0 + i), START + 5)
    source = open_source(tmp_path / "x.mcap")
    assert [(f.stamp_ns, f.camera.fx) for f in source] == [(START + i * PERIOD, 50.0 + i) for i in range(3)]


def test_compressed_images(tmp_path: Path) -> None:
    messages = [
        ("/cam/image_raw/compressed", "sensor_msgs/msg/CompressedImage", START + i, compressed(i)) for i in range(3)
    ]
    messages.append(("/cam/camera_info", "sensor_msgs/msg/CameraInfo", START, camera_info(START)))
    path = write_bag(tmp_path / "bag", messages)
    for topic in (None, "/cam/image_raw", "/cam/image_raw/compressed"):
        source = open_source(path, topic=topic)
        frames = list(source)
        assert len(frames) == 3 and frames[0].camera.fx == 70 and not source.camera_is_guess
        np.testing.assert_array_equal(frames[1].image, decode_compressed(encode_jpeg(picture(1), 95)))


def test_given_cameras_replace_the_recorded_one(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(2))
    camera = Camera.pinhole(160, 120, 99)
    assert next(iter(open_source(path, camera=camera))).camera == camera.resized(80, 60)
    source = open_source(path, focal=44)
    assert next(iter(source)).camera == Camera.pinhole(80, 60, 44) and not source.camera_is_guess


def test_the_stamps_tell_how_many_frames_a_second_there_are(tmp_path: Path) -> None:
    with open_source(write_bag(tmp_path / "bag", camera_messages(5))) as source:
        assert source.fps == pytest.approx(1e9 / PERIOD)
    twice = [message for message in camera_messages(5) for _ in range(2)]
    with open_source(write_bag(tmp_path / "twice", twice)) as source:
        assert source.fps == pytest.approx(1e9 / PERIOD)
    with open_source(write_bag(tmp_path / "one", camera_messages(1))) as source:
        assert source.fps is None


def test_without_camera_info_the_focal_length_is_a_guess(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", [m for m in camera_messages(2) if m[0] == "/cam/image_raw"])
    source = open_source(path)
    assert source.camera_is_guess and next(iter(source)).camera == Camera.guess(80, 60)


def test_rectified_pictures_use_the_projection_matrix(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(1))
    assert next(iter(open_source(path, rectified=True))).camera.fx == 140
    renamed = [("/cam/image_rect" if m[0] == "/cam/image_raw" else m[0], *m[1:]) for m in camera_messages(1)]
    path = write_bag(tmp_path / "rect", renamed)
    assert next(iter(open_source(path))).camera == Camera(80, 60, 140, 140, 39.5, 29.5)
    assert next(iter(open_source(path, rectified=False))).camera.fx == 70


def test_a_distorted_camera_that_is_given_for_rectified_pictures_is_refused(tmp_path: Path) -> None:
    """Its K and D would be taken for what only P describes."""
    path = write_bag(tmp_path / "bag", camera_messages(1))
    lens = Camera(80, 60, 70, 70, 39.5, 29.5, Distortion.PLUMB_BOB, (-0.2, 0.03, 0.0, 0.0, 0.0))
    with pytest.raises(CameraError, match=r"/cam/image_raw are rectified.*projection_matrix"):
        open_source(path, camera=lens, rectified=True)
    assert next(iter(open_source(path, camera=lens))).camera == lens
    assert next(iter(open_source(path, camera=lens.undistorted(), rectified=True))).camera == lens.undistorted()


def test_a_skew_is_named_and_depth_is_refused(tmp_path: Path) -> None:
    messages = camera_messages(2)
    for _, kind, _, message in messages:
        if kind == "sensor_msgs/msg/CameraInfo":
            message.k[1] = 2.0
    source = open_source(write_bag(tmp_path / "skewed", messages))
    assert read_all(source) == [0, 1]
    (problem,) = source.problems
    assert problem.startswith("/cam/camera_info: K of camera_info has a skew of 2 pixels")
    grey = T["sensor_msgs/msg/Image"](header(START), 60, 80, "16UC1", 0, 160, np.full(9600, 3, np.uint8))
    path = write_bag(tmp_path / "depth", [("/cam/depth/image_raw", IMAGE, START, grey)])
    with pytest.raises(RecordingError, match="is a depth image, .* use the colour topic"):
        next(iter(open_source(path, focal=70.0)))


def test_an_uncalibrated_camera_is_refused_at_once(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(2, focal=0.0))
    with pytest.raises(CameraError, match=r"/cam/camera_info: the camera is uncalibrated"):
        open_source(path)
    assert len(list(open_source(path, focal=50))) == 2
    path = write_bag(tmp_path / "nan", camera_messages(2, focal=float("nan")))
    with pytest.raises(CameraError, match="NaN"):
        open_source(path)


def test_empty_stamps_give_way_to_the_time_of_recording(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", [("/i", "sensor_msgs/msg/Image", START + 5, image(0, stamp_ns=0))])
    assert next(iter(open_source(path))).stamp_ns == START + 5


# --- camera_info ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(stamps=st.lists(st.integers(0, 50), min_size=1), wanted=st.integers(-5, 60))
def test_matching_rule(stamps: list[int], wanted: int) -> None:
    matcher: InfoMatcher[int] = InfoMatcher()
    for stamp in stamps:
        matcher.add(stamp, stamp)
    before = [s for s in stamps if s <= wanted]
    assert matcher.match(wanted) == (max(before) if before else min(stamps))
    assert matcher.is_settled(wanted) == (stamps[-1] >= wanted or wanted in stamps)
    assert matcher.is_settled(wanted, seen=len(stamps)) == (wanted in stamps)
    assert InfoMatcher[int]().match(3) is None


def test_a_clock_that_is_set_back_does_not_bring_back_old_cameras(tmp_path: Path) -> None:
    """As many camera_infos before the jump as are remembered, and one picture before each of them."""
    messages, count = [], 300
    for i in range(2 * count):
        back, focal = (500, 99.0) if i >= count else (0, 50.0)
        stamp_ns, time_ns = START + i * PERIOD - back * 10**9, START + i * PERIOD
        small = T["sensor_msgs/msg/Image"](header(stamp_ns), 1, 1, "mono8", 0, 1, np.zeros(1, np.uint8))
        messages.append(("/cam/image_raw", "sensor_msgs/msg/Image", time_ns, small))
        info = camera_info(stamp_ns, focal, 1, 1)
        messages.append(("/cam/camera_info", "sensor_msgs/msg/CameraInfo", time_ns + 1, info))
    found = [frame.camera.fx for frame in open_source(write_bag(tmp_path / "bag", messages))]
    assert found == [50.0] * count + [99.0] * count


def focal_by_frame(tmp_path: Path, infos: list[tuple[int, int, float]], frames: int = 30) -> list[float]:
    """Focal lengths of the frames of a bag with these camera_infos: (recorded, stamped, focal), in frame periods."""
    messages = [("/cam/image_raw", "sensor_msgs/msg/Image", START + i * PERIOD, image(i)) for i in range(frames)]
    for recorded, stamped, focal in infos:
        time_ns = START + recorded * PERIOD + 1000
        messages.append(
            ("/cam/camera_info", "sensor_msgs/msg/CameraInfo", time_ns, camera_info(START + stamped * PERIOD, focal))
        )
    messages.sort(key=lambda m: m[2])
    return [f.camera.fx for f in open_source(write_bag(tmp_path / "bag", messages))]


def test_camera_info_with_the_same_stamp_wins_though_it_comes_later(tmp_path: Path) -> None:
    infos = [(i + 3, i, 50.0 + i) for i in range(30)]
    assert focal_by_frame(tmp_path, infos) == [50.0 + i for i in range(30)]


def test_a_zoom_applies_from_its_stamp_on(tmp_path: Path) -> None:
    assert (
        focal_by_frame(tmp_path, [(0, 0, 50.0), (10, 10, 60.0), (20, 20, 70.0)])
        == [50.0] * 10 + [60.0] * 10 + [70.0] * 10
    )


def test_a_single_camera_info_that_comes_late_serves_all_frames(tmp_path: Path) -> None:
    assert focal_by_frame(tmp_path, [(25, 25, 50.0)]) == [50.0] * 30


def test_the_only_camera_info_is_taken_whatever_its_name(tmp_path: Path) -> None:
    messages = camera_messages(2) + [
        ("/other/camera_info", "sensor_msgs/msg/CameraInfo", START, camera_info(START, 33.0))
    ]
    path = write_bag(tmp_path / "two", messages)
    assert next(iter(open_source(path))).camera.fx == 70
    assert next(iter(open_source(path, camera_info_topic="/other/camera_info"))).camera.fx == 33
    with pytest.raises(RecordingError, match=r"no camera_info topic /cam/info.*/cam/camera_info, /other/camera_info"):
        open_source(path, camera_info_topic="/cam/info")
    alone = [m for m in messages if m[0] != "/cam/camera_info"]
    path = write_bag(tmp_path / "one", alone)
    with open_source(path) as source:
        assert next(iter(source)).camera.fx == 33 and not source.problems
    pictures_beside_it = [("/other/image_raw", *m[1:]) for m in alone if m[0] == "/cam/image_raw"]
    path = write_bag(tmp_path / "another's", alone + pictures_beside_it)
    with open_source(path, topic="/cam/image_raw") as source:
        assert next(iter(source)).camera.fx == 33
        assert "that of another camera, /other/camera_info, is taken" in source.problems[0]
    for named in (
        {"topic": "/other/image_raw"},
        {"topic": "/cam/image_raw", "camera_info_topic": "/other/camera_info"},
    ):
        with open_source(path, **named) as source:
            assert not source.problems


# --- topics ---------------------------------------------------------------------------------------------------------


def test_topics_are_chosen_or_listed(tmp_path: Path) -> None:
    messages = camera_messages(2)
    messages.append(("/cam/image_raw/compressed", "sensor_msgs/msg/CompressedImage", START, compressed(0)))
    path = write_bag(tmp_path / "twin", messages)
    assert read_all(open_source(path)) == [0, 1]  # the raw one of the pair
    with pytest.raises(
        RecordingError, match=r"no topic /left; image topics are: /cam/image_raw \(Image, 2\).*CameraInfo"
    ):
        open_source(path, topic="/left")
    with pytest.raises(RecordingError, match=r"CameraInfo, not an image"):
        open_source(path, topic="/cam/camera_info")
    messages.append(("/right/image_raw", "sensor_msgs/msg/Image", START, image(0)))
    path = write_bag(tmp_path / "two", messages)
    with pytest.raises(RecordingError, match=r"several image topics.*/cam/image_raw.*/right/image_raw \(Image, 1\)"):
        open_source(path)
    assert read_all(open_source(path, topic="/right/image_raw")) == [0]
    path = write_bag(tmp_path / "none", [m for m in messages if m[1] == "sensor_msgs/msg/CameraInfo"])
    with pytest.raises(RecordingError, match=r"holds no images; its topics are: /cam/camera_info"):
        open_source(path)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_raw_topic_without_messages_gives_way_to_its_compressed_twin(tmp_path: Path, storage: StoragePlugin) -> None:
    """`ros2 bag record -a` lists both; large raw images are easily lost on the way."""
    messages = [m for m in camera_messages(2) if m[1] == "sensor_msgs/msg/CameraInfo"]
    messages.append(("/cam/image_raw/compressed", "sensor_msgs/msg/CompressedImage", START, compressed(0)))
    silent = {"/cam/image_raw": "sensor_msgs/msg/Image"}
    path = write_bag(tmp_path / "bag", messages, storage, silent=silent)
    for topic in (None, "/cam/image_raw"):
        with open_source(path, topic=topic) as source:
            assert [frame.camera.fx for frame in source] == [70]


def test_only_a_topic_that_is_called_rectified_is(tmp_path: Path) -> None:
    messages = [(m[0].replace("/cam/", "/director/"), *m[1:]) for m in camera_messages(1)]
    assert next(iter(open_source(write_bag(tmp_path / "bag", messages)))).camera.fx == 70


def test_a_camera_that_warms_up_does_not_cost_the_recording(tmp_path: Path) -> None:
    messages = camera_messages(45)
    for message in messages[: 2 * 40 : 2]:
        message[3].height = 0
    assert read_all(open_source(write_bag(tmp_path / "bag", messages))) == [40, 41, 42, 43, 44]


def test_bad_frames_are_left_out_and_named(tmp_path: Path) -> None:
    messages = camera_messages(6)
    messages[2][3].step = 10  # frame 1
    messages[4][3].encoding = "magic"  # frame 2
    messages[9] = (*messages[9][:3], camera_info(START + 4 * PERIOD, width=640, height=480))  # frame 4
    source = open_source(write_bag(tmp_path / "bag", messages))
    assert [(f.index, (f.stamp_ns - START) // PERIOD) for f in source] == [(0, 0), (3, 3), (5, 5)]
    assert len(source.problems) == 3
    for problem, says in zip(
        source.problems,
        ("step is 10", "'magic'", "80x60 but its camera describes 640x480: instead of /cam/camera_info give a calib"),
        strict=True,
    ):
        assert "/cam/image_raw #" in problem and says in problem


def test_bad_frames_behind_a_good_one_are_counted_and_never_end_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_GIVE_UP_AFTER", 4)
    messages = camera_messages(8)
    for bad in range(1, 6):
        messages[2 * bad][3].step = 10
    source = open_source(write_bag(tmp_path / "five", messages))
    for _ in range(2):
        assert [frame.index for frame in source] == [0, 6, 7]
    assert len(source.problems) == 5
    messages[2 * 6][3].step = 10
    source = open_source(write_bag(tmp_path / "six", messages))
    for _ in range(2):
        assert [frame.index for frame in source] == [0, 7]
    assert len(source.problems) == 6 and source.problems[-1].endswith("6 frames could not be read in all")


@pytest.mark.parametrize(
    ("count", "says", "problems"), [(60, "no frame could be", 6), (1200, "none of the first 1000 frames could be", 5)]
)
def test_a_bag_of_nothing_but_bad_frames_is_given_up(tmp_path: Path, count: int, says: str, problems: int) -> None:
    bad = T["sensor_msgs/msg/Image"](header(START), 1, 1, "magic", 0, 1, np.zeros(1, np.uint8))
    messages = [("/cam/image_raw", "sensor_msgs/msg/Image", START + i, bad) for i in range(count)]
    source = open_source(write_bag(tmp_path / "bag", messages))
    with pytest.raises(RecordingError, match=rf"{says} read from.*'magic'"):
        list(source)
    assert len(source.problems) == problems


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.STORAGE])
@pytest.mark.parametrize("with_metadata", [False, True])
@pytest.mark.parametrize("cut", [0.3, 0.75, 0.995])
def test_a_bag_that_is_cut_off_gives_what_is_there(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode, with_metadata: bool, cut: float
) -> None:
    if storage is SQLITE and compression is CompressionMode.STORAGE:
        return
    path = write_bag(tmp_path / "bag", camera_messages(200), storage, compression)
    file = bag_file(path)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * cut)])
    source = open_source(path if with_metadata else file)
    found = read_all(source)
    assert found == list(range(len(found)))
    slack = 60 if compression is CompressionMode.STORAGE else 12  # a compressed block is lost as a whole
    assert 200 * cut - slack <= len(found) <= 200
    assert any("cut off" in p or "ends without index" in p for p in source.problems), source.problems


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_recording_that_was_not_finished_has_no_metadata(tmp_path: Path, storage: StoragePlugin) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(5), storage)
    (path / "metadata.yaml").unlink()
    source = open_source(path)
    assert read_all(source) == list(range(5))
    assert "no metadata.yaml" in source.problems[0]
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9")
    source = open_source(path)
    assert read_all(source) == list(range(5)) and "metadata" in source.problems[0]


def test_a_split_bag_with_a_missing_part(tmp_path: Path) -> None:
    messages = camera_messages(12)
    path = tmp_path / "bag"
    path.mkdir()
    for part in range(3):
        folder = write_bag(tmp_path / f"part_{part}", messages[part * 8 : part * 8 + 8])
        shutil.move(bag_file(folder), path / f"bag_{part}.mcap")
    assert read_all(open_source(path)) == list(range(12))
    (path / "bag_1.mcap").write_bytes(b"")
    source = open_source(path)
    assert read_all(source) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert any("bag_1.mcap is no bag: it is empty" in p for p in source.problems)


@pytest.mark.parametrize("damaged", [False, True])
def test_files_without_metadata_are_read_in_the_order_of_their_times(tmp_path: Path, damaged: bool) -> None:
    """Their names need not tell it: somebody put together what was recorded one after the other."""
    messages, path = camera_messages(8), tmp_path / "bag"
    path.mkdir()
    for name, part in (("kitchen", messages[8:]), ("table", messages[:8])):
        shutil.move(bag_file(write_bag(tmp_path / name, part)), path / f"{name}.mcap")
        if damaged:
            content = (path / f"{name}.mcap").read_bytes()
            (path / f"{name}.mcap").write_bytes(content[:-40])
    source = open_source(path)
    assert read_all(source) == list(range(8))
    assert source.problems[-1] == f"{path}: its files are read in the order of their times, not of their names"


@pytest.mark.parametrize("name", ["x.mcap", "x.mcap.zstd"])
def test_a_source_that_was_closed_says_so(tmp_path: Path, name: str) -> None:
    content = bag_file(write_bag(tmp_path / "bag", camera_messages(3))).read_bytes()
    path = tmp_path / name
    path.write_bytes(zstd.compress(content) if name.endswith("zstd") else content)
    with open_source(path) as source:
        assert next(iter(source)).index == 0
    for read in (lambda: read_all(source), lambda: source.fps):
        with pytest.raises(RecordingError, match=rf"{name.removesuffix('.zstd')} has been closed: open it again"):
            read()
    assert source.problems == ()


def split_bag(path: Path, storage: StoragePlugin, listed: list[int], compression: CompressionMode) -> Path:
    """A bag of three files with four pictures each, of which metadata.yaml lists these, in this order."""
    path.mkdir(parents=True)
    messages = camera_messages(12)
    for part in range(3):
        folder = write_bag(path.with_name(f"part_{part}"), messages[part * 8 : part * 8 + 8], storage, compression)
        (file,) = [p for p in folder.iterdir() if p.name != "metadata.yaml"]
        shutil.move(file, path / file.name)
    told = yaml.safe_load((folder / "metadata.yaml").read_text())
    names = [file.name.replace("part_2", f"part_{part}") for part in listed]
    told["rosbag2_bagfile_information"]["relative_file_paths"] = names
    (path / "metadata.yaml").write_text(yaml.safe_dump(told))
    return path


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.MESSAGE])
def test_bag_files_that_the_metadata_does_not_list_are_named(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    path = split_bag(tmp_path / "bag", storage, [0, 2], compression)
    source = open_source(path)
    assert read_all(source) == [0, 1, 2, 3, 8, 9, 10, 11]
    (problem,) = source.problems
    assert f"does not list part_1{SUFFIX[storage]}" in problem
    source = open_source(split_bag(tmp_path / "whole" / "bag", storage, [0, 1, 2], compression))
    assert read_all(source) == list(range(12)) and not source.problems


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("listed", [[2, 1, 0], [0, 2, 1], [2, 0]])
def test_files_that_the_metadata_lists_out_of_order_are_read_by_their_times(
    tmp_path: Path, storage: StoragePlugin, listed: list[int]
) -> None:
    path = split_bag(tmp_path / "bag", storage, listed, CompressionMode.NONE)
    for part in (0, 2):  # nor do their names help
        (path / f"part_{part}{SUFFIX[storage]}").rename(path / f"{9 - part}{SUFFIX[storage]}")
    text = (path / "metadata.yaml").read_text().replace("part_0", "9").replace("part_2", "7")
    (path / "metadata.yaml").write_text(text)
    source = open_source(path)
    assert read_all(source) == [index for index in range(12) if index // 4 in listed]
    assert "does not list its files by their times" in source.problems[-1]
    assert len(source.problems) == (1 if len(listed) == 3 else 2)


@pytest.mark.parametrize("count", ["many", None, 2.5, -5, 10**30])
def test_a_metadata_yaml_that_counts_in_no_numbers(tmp_path: Path, count: object) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(3))
    told = yaml.safe_load((path / "metadata.yaml").read_text())
    for topic in told["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["message_count"] = count
    (path / "metadata.yaml").write_text(json.dumps(told))
    source = open_source(path)
    assert source.length == 3 and read_all(source) == [0, 1, 2]
    assert "counts messages in what is no number" in source.problems[0]


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_metadata_yaml_that_lists_a_file_twice(tmp_path: Path, storage: StoragePlugin) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(3), storage)
    told = yaml.safe_load((path / "metadata.yaml").read_text())
    told["rosbag2_bagfile_information"]["relative_file_paths"] *= 2
    (path / "metadata.yaml").write_text(json.dumps(told))
    source = open_source(path)
    assert source.length == 3 and read_all(source) == [0, 1, 2]
    assert "lists a file twice" in source.problems[0]


def list_files(metadata: Path, folder: Path, missing: Collection[str] = ()) -> None:
    """Puts a metadata.yaml into a folder that lists the files there, and some that are not."""
    told = yaml.safe_load(metadata.read_text())
    names = sorted([*(file.name for file in folder.iterdir()), *missing])
    told["rosbag2_bagfile_information"]["relative_file_paths"] = names
    (folder / "metadata.yaml").write_text(json.dumps(told))


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_files_of_a_packed_bag_that_are_missing_are_named(tmp_path: Path, storage: StoragePlugin) -> None:
    """Packed files are opened one by one, without metadata.yaml, which alone tells."""
    messages, path = camera_messages(12), tmp_path / "bag"
    path.mkdir()
    for part in (0, 2):
        folder = write_bag(tmp_path / f"part_{part}", messages[part * 8 : part * 8 + 8], storage)
        (path / f"bag_{part}{SUFFIX[storage]}.zstd").write_bytes(zstd.compress(bag_file(folder).read_bytes()))
    list_files(folder / "metadata.yaml", path, [f"bag_1{SUFFIX[storage]}.zstd"])
    with open_source(path) as source:
        (problem,) = source.problems
        assert problem.endswith(f"lists are missing: bag_1{SUFFIX[storage]}.zstd")
    assert read_all(open_source(path)) == [0, 1, 2, 3, 8, 9, 10, 11]
    (path / "metadata.yaml").write_text("")
    with open_source(path) as source:
        (problem,) = source.problems
        assert "does not list its files" in problem and len(list(source)) == 8


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_bag_of_more_files_than_may_be_open(
    tmp_path: Path, storage: StoragePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, path = camera_messages(24), tmp_path / "bag"
    path.mkdir()
    for part in range(6):
        folder = write_bag(tmp_path / f"part_{part}", messages[part * 8 : part * 8 + 8], storage)
        shutil.move(bag_file(folder), path / f"bag_{part}{SUFFIX[storage]}")
    list_files(folder / "metadata.yaml", path)
    monkeypatch.setattr(bag_reader_module, "_OPEN_AT_ONCE", 4)

    def open_files() -> int:
        return sum(path in p.resolve().parents for p in Path("/proc/self/fd").iterdir() if p.exists())

    found, most = [], 0
    with open_source(path) as source:
        assert source.length == 24
        for frame in source:
            found.append(frame.stamp_ns)
            most = max(most, open_files())
        assert len(list(source)) == 24  # and once more
    assert found == sorted(found) and len(found) == 24 and not source.problems
    assert most == 1 and open_files() == 0


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_packed_files_are_unpacked_one_at_a_time(
    tmp_path: Path, storage: StoragePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, path, room = camera_messages(24), tmp_path / "bag", tmp_path / "room"
    path.mkdir()
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    for part in range(6):
        folder = write_bag(tmp_path / f"part_{part}", messages[part * 8 : part * 8 + 8], storage)
        packed = path / f"bag_{part}{SUFFIX[storage]}.zstd"
        packed.write_bytes(zstd.compress(bag_file(folder).read_bytes()))
    list_files(folder / "metadata.yaml", path)
    with open_source(path) as source:
        assert not source.problems and not list(room.iterdir())
        assert max(len(list(room.iterdir())) for _ in source) == 1
        assert source.length == len(list(source)) == 24
    assert not list(room.iterdir())


def test_damage_in_the_middle_of_an_mcap_costs_only_its_chunk(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(400), compression=CompressionMode.STORAGE)
    file = bag_file(path)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    file.write_bytes(data)
    source = open_source(path)
    found = read_all(source)
    assert found == sorted(set(found)) and found[0] == 0 and found[-1] == 399
    assert 250 < len(found) < 400
    assert any("damaged" in p for p in source.problems) and any("unreadable chunk" in p for p in source.problems)


@pytest.mark.parametrize(
    ("first", "begin", "end"),
    [*((first, *part) for first in (0, 2, 4) for part in ((0, 1), (1, 9), (53, 57))), (2, -200, 200), (4, -4, 4)],
)
def test_damage_anywhere_in_an_mcap_costs_only_the_chunks_concerned(
    tmp_path: Path, first: int, begin: int, end: int
) -> None:
    """begin, end: bytes that are destroyed, from where a chunk begins, behind the index of the one before it."""
    file = bag_file(write_bag(tmp_path / "bag", camera_messages(400), compression=CompressionMode.STORAGE))
    data = file.read_bytes()
    chunks, place = [], 8  # where they begin and end, and the times of their first and last messages
    while place < len(data) - 8:
        code, length = struct.unpack_from("<BQ", data, place)
        if code == 6:
            chunks.append((place, place + 9 + length, *struct.unpack_from("<QQ", data, place + 9)))
        place += 9 + length
    assert len(chunks) >= 5
    begin, end = begin + chunks[first][0], end + chunks[first][0]
    lost = [chunk for chunk in chunks if chunk[0] < end and begin < chunk[1]]
    left = [i for i in range(400) if not any(c[2] <= START + i * PERIOD + 2_000_000 <= c[3] for c in lost)]
    for byte in (b"\0", b"\xff", b"\x0f", b"\x07"):
        file.write_bytes(data[:begin] + byte * (end - begin) + data[end:])
        saved = salvage(file).messages(["/cam/image_raw"])
        assert [(message.log_time_ns - START) // PERIOD for message in saved] == left


@pytest.mark.parametrize("wrong", [8, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_an_index_that_is_wrong_of_where_a_chunk_begins_costs_nothing(tmp_path: Path, wrong: int) -> None:
    file = bag_file(write_bag(tmp_path / "bag", camera_messages(200), compression=CompressionMode.STORAGE))
    data = bytearray(file.read_bytes())
    (place,) = struct.unpack_from("<Q", data, len(data) - 28)  # where the summary begins
    while data[place] != 8:  # the first chunk's index
        place += 9 + struct.unpack_from("<Q", data, place + 1)[0]
    (told,) = struct.unpack_from("<Q", data, place + 25)
    struct.pack_into("<Q", data, place + 25, told ^ wrong)
    file.write_bytes(data)
    for reader in (salvage(file), BagReader(file)):
        assert len(list(reader.messages(["/cam/image_raw"]))) == 200
        reader.close()


def test_a_bag_whose_first_chunk_is_damaged_is_read_from_the_next(tmp_path: Path) -> None:
    """It alone names the topics, but for the summary at the end."""
    path = write_bag(tmp_path / "bag", camera_messages(200), compression=CompressionMode.STORAGE)
    file = bag_file(path)
    file.write_bytes(file.read_bytes().replace(ZSTD, bytes(4), 1))
    for source in (open_source(path), open_source(file)):
        found = read_all(source)
        assert found == list(range(200 - len(found), 200)) and len(found) > 100
        assert any("unreadable chunk" in p for p in source.problems)


def test_a_bag_without_a_readable_frame_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(3), compression=CompressionMode.STORAGE)
    file = bag_file(path)
    file.write_bytes(file.read_bytes().replace(ZSTD, bytes(4)))
    source = open_source(path, focal=70)
    with pytest.raises(RecordingError, match=r"could be read from .*: .*damaged"):
        list(source)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_each_damage_is_reported_once(tmp_path: Path, storage: StoragePlugin) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(100), storage)
    bag = bag_file(path).rename(tmp_path / f"lone{SUFFIX[storage]}")
    bag.write_bytes(bag.read_bytes()[: bag.stat().st_size // 2])
    source = open_source(bag)
    for _ in range(2):
        assert len(list(source)) > 20
    (problem,) = source.problems
    assert "messages saved" in problem and "cut off" in problem


def test_damage_in_the_middle_of_an_sqlite_bag_gives_what_is_before(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(200), SQLITE)
    file = bag_file(path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40_000] = b"\xa5" * 40_000
    file.write_bytes(data)
    source = open_source(path)
    with source:
        frames = list(source)
    assert len(frames) > 80
    for i, frame in enumerate(frames[:80]):
        np.testing.assert_array_equal(frame.image, picture(i))
    assert source.problems


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_of_a_damaged_bag_only_the_topics_asked_for_are_read(tmp_path: Path, storage: StoragePlugin) -> None:
    found = salvage(bag_file(write_bag(tmp_path / "bag", camera_messages(3), storage)))
    assert {message.topic for message in found.messages(["/cam/camera_info"])} == {"/cam/camera_info"}
    assert dict(found.counts) == {"/cam/camera_info": 3, "/cam/image_raw": 3}


def test_rows_of_an_sqlite_bag_that_are_no_messages_cost_only_themselves(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(20), SQLITE)
    (path / "metadata.yaml").unlink()
    with sqlite3.connect(bag_file(path)) as database:
        first, second = [row[0] for row in database.execute("SELECT id FROM messages ORDER BY id LIMIT 2")]
        database.execute("UPDATE messages SET timestamp = 'noon' WHERE id = ?", [first])
        database.execute("UPDATE messages SET data = 7 WHERE id = ?", [second])
    source = open_source(path, focal=70)
    assert read_all(source) == list(range(1, 20))
    assert any("2 messages that are none" in problem for problem in source.problems)


def record(code: int, body: bytes) -> bytes:
    """A record of an MCAP file."""
    return struct.pack("<BQ", code, len(body)) + body


def text(value: str) -> bytes:
    """A string in such a record."""
    return struct.pack("<I", len(value)) + value.encode()


def plain_mcap(
    path: Path, msgtype: str, encodings: tuple[str, str], messages: list[tuple[int, bytes]], definition: str = ""
) -> Path:
    """An MCAP without index, of one topic /i. encodings: of the schema and of the messages (time, data)."""
    schema, encoding = encodings
    parts = [record(1, text("ros2") + text("")), record(3, b"\1\0" + text(msgtype) + text(schema) + text(definition))]
    parts.append(record(4, b"\1\0\1\0" + text("/i") + text(encoding) + bytes(4)))
    parts += [record(5, struct.pack("<HIQQ", 1, 0, time_ns, time_ns) + data) for time_ns, data in messages]
    parts += [record(0x0F, bytes(4)), record(2, bytes(20))]
    magic = b"\x89MCAP0\r\n"
    path.write_bytes(magic + b"".join(parts) + magic)
    return path


SCHEMA = record(3, b"\1\0" + text("a/msg/B") + text("ros2msg") + text("int8 c"))
CHANNEL = record(4, b"\1\0\1\0" + text("/i") + text("cdr") + bytes(4))
END = record(0x0F, bytes(4)) + record(2, bytes(20)) + b"\x89MCAP0\r\n"


def message(time_ns: int, channel: int = 1, data: bytes = b"data") -> bytes:
    return record(5, struct.pack("<HIQQ", channel, 0, time_ns, time_ns) + data)


def chunk(records: bytes, compression: str = "", checksum: int | None = None) -> bytes:
    """checksum: None for the right one."""
    packed = {"": bytes, "lz4": compress, "zstd": zstd.compress}[compression](records)
    head = struct.pack("<QQQI", 0, 0, len(records), crc32(records) if checksum is None else checksum)
    return record(6, head + text(compression) + struct.pack("<Q", len(packed)) + packed)


def salvaged(path: Path, *parts: bytes) -> tuple[list[int], list[str]]:
    """The times of the messages that are saved from an MCAP file of these records, and what is said of the damage."""
    path.write_bytes(b"\x89MCAP0\r\n" + record(1, text("ros2") + text("")) + b"".join(parts))
    found = salvage(path)
    times = [entry.log_time_ns for entry in found.messages({"/i"})]
    assert found.counts["/i"] == len(times)
    return times, found.damage


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_a_chunk_is_left_out_where_it_contradicts_its_checksum_and_only_there(tmp_path: Path, compression: str) -> None:
    """0 stands for none: quick recorders leave it out."""
    first = SCHEMA + CHANNEL + message(1) + message(2)
    for checksum, times in ((None, [1, 2, 3, 4]), (0, [1, 2, 3, 4]), (7, [1, 2, 4])):
        second = chunk(message(3), compression, checksum)
        found, damage = salvaged(tmp_path / "bag.mcap", chunk(first, compression), second, chunk(message(4)), END)
        assert found == times
        assert [("contradicts its checksum" in one) for one in damage] == ([True] if checksum else [])


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_a_chunk_that_is_cut_off_gives_what_is_whole(tmp_path: Path, compression: str) -> None:
    second, third = (np.random.default_rng(seed).bytes(400_000) for seed in range(2))  # nothing makes them smaller
    whole = chunk(SCHEMA + CHANNEL + message(1) + message(2, data=second) + message(3, data=third), compression)
    found, (damage,) = salvaged(tmp_path / "bag.mcap", whole[:700_000])
    assert found == [1, 2]
    assert "is cut off in a record at byte" in damage and f"of {len(whole) + 29} bytes" in damage


def test_records_that_are_none_of_ours_are_passed_over(tmp_path: Path) -> None:
    """Attachments, metadata and indices, and private ones, which a recorder may write from 0x80 on."""
    for code in (7, 8, 9, 0x0C, 0x80, 0xFF):
        other = record(code, bytes(50))
        assert salvaged(tmp_path / "bag.mcap", SCHEMA, CHANNEL, message(1), other, message(2), END) == ([1, 2], [])
        inside = chunk(SCHEMA + CHANNEL + message(1) + other + message(2))
        assert salvaged(tmp_path / "bag.mcap", inside, END) == ([1, 2], [])
    for code in (0, 0x10, 0x7F):
        found, (damage,) = salvaged(tmp_path / "bag.mcap", SCHEMA, CHANNEL, message(1), record(code, b""), END)
        assert found == [1] and "makes no sense from byte" in damage


def test_messages_of_no_channel_and_records_that_contradict_themselves_cost_only_themselves(tmp_path: Path) -> None:
    stray = message(7, channel=2) + record(5, bytes(5)) + message(8, data=b"")
    name = record(4, b"\2\0\1\0" + struct.pack("<I", 99) + b"/j")  # longer than its record
    found, damage = salvaged(tmp_path / "bag.mcap", SCHEMA, CHANNEL, message(1), stray, name, message(2), END)
    assert found == [1, 2] and damage == ["has a record that contradicts itself"] * 2


def test_of_endless_damage_only_the_first_is_told(tmp_path: Path) -> None:
    """Some hundred bytes unpack to any number of records that contradict themselves."""
    path = tmp_path / "bag.mcap"
    found, damage = salvaged(
        path, SCHEMA, CHANNEL, message(1), chunk(record(4, b"") * 100_000, "zstd"), message(2), END
    )
    assert path.stat().st_size < 1000 and found == [1, 2]
    assert len(damage) == 11 and damage[-1] == "is damaged elsewhere, too"
    with BagReader(path) as bag:
        assert len(list(bag.messages())) == 2 and sum(map(len, bag.problems)) < 2000


def test_definitions_and_the_lack_of_them_are_told(tmp_path: Path) -> None:
    nameless = record(4, b"\2\0\0\0" + text("/j") + text("json") + bytes(4))
    salvaged(tmp_path / "bag.mcap", SCHEMA, CHANNEL, nameless, message(1), message(2, channel=2))
    found = salvage(tmp_path / "bag.mcap")
    assert found.topics == {"/i": Definition("a/msg/B", "ros2msg", "int8 c"), "/j": Definition("", "", "")}
    entries = [(entry.topic, entry.msgtype, entry.data) for entry in found.messages({"/i", "/j"})]
    assert entries == [("/i", "a/msg/B", b"data"), ("/j", "", b"data")]
    (damage,) = found.damage
    assert damage == f"ends without index after {(tmp_path / 'bag.mcap').stat().st_size} bytes"


@pytest.mark.parametrize("order", [[1, 2, 5, 3, 4, 6], [3, 1, 2, 4], [5, 6, 7, 7, 1, 2, 2], [5, 6, 1, 6]])
def test_an_mcap_without_index_and_not_in_order_loses_nothing(tmp_path: Path, order: list[int]) -> None:
    """Clocks are set back, and messages of one time are several."""
    messages = [(time_ns, bytes(STORE.serialize_cdr(image(index), IMAGE))) for index, time_ns in enumerate(order)]
    path = plain_mcap(tmp_path / "bag.mcap", IMAGE, ("ros2msg", "cdr"), messages)
    assert sorted(read_all(open_source(path, focal=50))) == list(range(len(order)))


def recount(path: Path, total: int, counts: Collection[tuple[int, int]]) -> None:
    """Changes how many messages the statistics of an MCAP file tell, in all and by channel."""
    content = path.read_bytes()
    (place,) = struct.unpack_from("<Q", content, len(content) - 28)  # of the summary
    while content[place] != 0x0B:
        place += 9 + struct.unpack_from("<Q", content, place + 1)[0]
    length = 9 + struct.unpack_from("<Q", content, place + 1)[0]
    by_channel = b"".join(struct.pack("<HQ", channel, count) for channel, count in counts)
    body = struct.pack("<Q", total) + content[place + 17 : place + 51] + struct.pack("<I", len(by_channel)) + by_channel
    path.write_bytes(content[:place] + record(0x0B, body) + content[place + length :])


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("known", [{}, {"/cam/image_raw": 0, "/cam/camera_info": 40}])
def test_messages_that_the_metadata_does_not_count_are_found(
    tmp_path: Path, storage: StoragePlugin, known: dict[str, int]
) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(), storage)
    told = yaml.safe_load((path / "metadata.yaml").read_text())
    information = told["rosbag2_bagfile_information"]
    information["message_count"] = sum(known.values())
    for topic in information["topics_with_message_count"]:
        topic["message_count"] = known.get(topic["topic_metadata"]["name"], 0)
    (path / "metadata.yaml").write_text(json.dumps(told))
    with open_source(path) as source:
        (problem,) = source.problems
        assert "its metadata.yaml tells of no messages of /cam/" in problem and source.length == 40
    assert read_all(open_source(path)) == list(range(40))


@pytest.mark.parametrize("lone_file", [True, False])
@pytest.mark.parametrize(
    ("total", "counts", "indexed"),
    [(0, [], False), (0, [(1, 0), (2, 0)], False), (40, [(1, 0), (2, 40)], False), (0, [(1, 40), (2, 40)], False),
     (80, [], True), (80, [(1, 0), (2, 0)], True)],
)  # fmt: skip
def test_an_mcap_whose_statistics_leave_out_messages_has_them_all_the_same(
    tmp_path: Path, total: int, counts: list[tuple[int, int]], indexed: bool, lone_file: bool
) -> None:
    """indexed: whether the rest of its index leads to all of them; counts by channel may be left out."""
    path = write_bag(tmp_path / "bag", camera_messages())
    file = bag_file(path)
    recount(file, 80, [(1, 40), (2, 40)])
    with open_source(file) as source:
        assert len(list(source)) == 40 and source.problems == ()
    recount(file, total, counts)
    with BagReader(file) as bag:
        assert {topic.count for topic in bag.topics.values()} == {40} and len(bag.topics) == 2
        assert [("does not know all messages" in problem) for problem in bag.problems] == ([] if indexed else [True])
    assert read_all(open_source(file if lone_file else path)) == list(range(40))


@pytest.mark.parametrize("silent", [{}, {"/cam/image_raw": IMAGE}])
def test_an_empty_mcap_is_nothing_but_empty(tmp_path: Path, silent: dict[str, str]) -> None:
    with BagReader(bag_file(write_bag(tmp_path / "bag", [], silent=silent))) as bag:
        assert list(bag.messages()) == [] and list(bag.topics) == list(silent) and bag.problems == ()


@pytest.mark.parametrize(
    ("msgtype", "encodings", "says"),
    [
        (
            "foxglove.CompressedImage",
            ("protobuf", "protobuf"),
            r"\(only types of ROS 2 can be read, not foxglove\.CompressedImage\)$",
        ),
        ("sensor_msgs/CompressedImage", ("ros1msg", "ros1"), r"1\) \(types of ROS 1: convert it first\)$"),
        ("std_msgs/msg/String", ("ros2msg", "cdr"), r"its topics are: /i \(std_msgs/msg/String, 1\)$"),
    ],
)
def test_bags_without_images_are_told_by_their_types(
    tmp_path: Path, msgtype: str, encodings: tuple[str, str], says: str
) -> None:
    with pytest.raises(RecordingError, match=says):
        open_source(plain_mcap(tmp_path / "bag.mcap", msgtype, encodings, [(START, b"abc")]))


def retell(path: Path, topics: Collection[str], **values: object) -> None:
    """Changes what a bag's metadata.yaml tells of these topics."""
    metadata = path / "metadata.yaml"
    told = yaml.safe_load(metadata.read_text())
    for topic in told["rosbag2_bagfile_information"]["topics_with_message_count"]:
        if topic["topic_metadata"]["name"] in topics:
            topic["topic_metadata"].update(values)
    metadata.write_text(json.dumps(told))  # which is YAML, without aliases for what is there twice


SPAN = {"sec": 0, "nsec": 0}
ANOTHER_QOS = {
    "history": "keep_last", "depth": 5, "reliability": "best_effort", "durability": "volatile", "deadline": SPAN,
    "lifespan": SPAN, "liveliness": "automatic", "liveliness_lease_duration": SPAN,
    "avoid_ros_namespace_conventions": False,
}  # fmt: skip


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("told", [{"offered_qos_profiles": [ANOTHER_QOS]}, {"type_description_hash": "RIHS01_00"}])
@pytest.mark.parametrize("topics", [["/cam/image_raw"], ["/cam/camera_info"], ["/cam/image_raw", "/cam/camera_info"]])
def test_a_topic_is_the_same_whatever_the_metadata_tells_of_its_qos(
    tmp_path: Path, storage: StoragePlugin, told: dict[str, object], topics: list[str]
) -> None:
    """rosbags takes what metadata.yaml and the file describe differently for two topics, one of them without messages.

    QoS is changed in metadata.yaml by hand, for `ros2 bag play` to offer it, or by `ros2 bag reindex` of bags of Foxy.
    """
    messages = camera_messages(300)
    zoomed = [(t, k, at, camera_info(START + i // 2 * PERIOD, 50.0 + i // 2) if i % 2 else m) for i, (t, k, at, m) in
              enumerate(messages)]  # fmt: skip
    path = write_bag(tmp_path / "bag", zoomed, storage)
    retell(path, topics, **told)
    with open_source(path) as source:
        assert [frame.camera.fx for frame in source] == [50.0 + i for i in range(300)]
    assert source.problems == ()


@pytest.mark.parametrize("topics", [["/cam/image_raw"], ["/cam/image_raw", "/cam/camera_info"]])
def test_messages_that_the_metadata_hides_are_found(tmp_path: Path, topics: list[str]) -> None:
    """rosbags takes a topic whose type is told differently by metadata.yaml and by the file for two topics."""
    path = write_bag(tmp_path / "bag", camera_messages(3))
    retell(path, topics, type="other/msg/Kind")
    with BagReader(path) as bag:
        found = sorted((message.topic, message.msgtype, message.log_time_ns) for message in bag.messages())
    assert found == sorted((topic, kind, time_ns) for topic, kind, time_ns, _ in camera_messages(3))
    assert any("index does not lead to" in p for p in bag.problems)


@pytest.mark.parametrize("name", ["take #1", "what? 1", "50%31 of it", "%", "a b äöü"])
@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("lone_file", [False, True])
def test_any_name_is_a_bags(tmp_path: Path, name: str, storage: StoragePlugin, lone_file: bool) -> None:
    """rosbags puts the name of an SQLite file into a URI, where some characters mean something else."""
    messages = camera_messages(6)
    path = write_bag(tmp_path / "bag", messages[6:] + messages[:6], storage).rename(tmp_path / name)
    if lone_file:
        path = bag_file(path).rename(path / f"{name}{SUFFIX[storage]}")
        bag_file(write_bag(tmp_path / "another", camera_messages(1), storage)).rename(
            path.with_name(f"501 of it{SUFFIX[storage]}")
        )
    source = open_source(path)
    assert read_all(source) == list(range(6)) and source.problems == ()


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("compression", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_a_compressed_bag_without_metadata_is_read_whole(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    """As a recorder that was killed leaves it: with a last file that it had no time to compress."""
    path = write_bag(tmp_path / "bag", camera_messages(5), storage, compression)
    (path / "metadata.yaml").unlink()
    later = write_bag(tmp_path / "later", [m for m in camera_messages(8)[10:]], storage)
    (only,) = [p for p in path.iterdir() if p.is_file()]
    bag_file(later).rename(path / only.name.replace("bag", "bag_1").removesuffix(".zstd"))
    assert read_all(open_source(path)) == list(range(8))
    assert read_all(open_source(only)) == list(range(5))


def test_of_a_file_that_is_there_twice_the_one_that_is_not_compressed_is_read(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(3))
    file = bag_file(path)
    (path / "metadata.yaml").unlink()
    for content in (b"cut off", zstd.compress(file.read_bytes())):
        file.with_name(f"{file.name}.zstd").write_bytes(content)
        assert read_all(open_source(path)) == [0, 1, 2]


def test_what_the_program_zstd_packed_is_read_too(tmp_path: Path) -> None:
    """It names files .zst, where rosbag2 names them .zstd."""
    content = bag_file(write_bag(tmp_path / "bag", camera_messages(3))).read_bytes()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "x.mcap.zst", tmp_path / "folder" / "x.mcap.zst"):
        path.write_bytes(zstd.compress(content))
        assert read_all(open_source(path)) == [0, 1, 2]
    assert read_all(open_source(tmp_path / "folder")) == [0, 1, 2]
    (tmp_path / "folder" / "x.mcap.zstd").write_bytes(zstd.compress(content))  # the same file once more
    assert read_all(open_source(tmp_path / "folder")) == [0, 1, 2]


def test_a_compressed_file_that_is_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(60), compression=CompressionMode.FILE)
    (file,) = path.glob("*.zstd")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    source = open_source(file)
    found = read_all(source)
    assert found == list(range(len(found))) and 30 < len(found) < 60
    assert any("zstd is cut off" in p for p in source.problems)


def test_a_file_that_unpacks_to_much_more_takes_little_memory(tmp_path: Path) -> None:
    """As do pictures of a simulation, or of a covered lens."""
    parts = [bytes(1 << 26), b"end"]
    (tmp_path / "packed").write_bytes(b"".join(zstd.compress(part) for part in parts))
    tracemalloc.start()
    try:
        assert unpack_file(tmp_path / "packed", tmp_path / "plain") == ""
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert (tmp_path / "plain").read_bytes() == b"".join(parts)


def test_damage_in_the_middle_of_a_compressed_file_costs_only_what_it_hides(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(60), compression=CompressionMode.FILE)
    (file,) = path.glob("*.zstd")
    content = bytearray(zstd.decompress(file.read_bytes()))
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    file.write_bytes(zstd.compress(bytes(content)))
    with_metadata = [frame.index for frame in open_source(path)]
    (path / "metadata.yaml").unlink()
    assert len(with_metadata) == len([frame.index for frame in open_source(path)]) > 20


@pytest.mark.parametrize("name", ["x.mcap", "x.db3"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x00" * 5000, "another kind of file"),
        (b"\x89MCAP0\r\n", "holds no images"),
        (b"\x89MCAP0\r\n" + bytes(3000), "holds no images"),
        (b"SQLite format 3\0" + bytes(5000), "damaged"),
    ],
)
def test_files_that_are_no_bags(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordingError, match=says):
        open_source(tmp_path / name)


def test_folders_that_are_no_bags(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    with pytest.raises(RecordingError, match="holds no bag files"):
        open_source(tmp_path)
    (tmp_path / "bag_0.mcap.zstd").write_bytes(b"x")
    with pytest.raises(RecordingError, match=r"bag_0\.mcap\.zstd is damaged.*no bag: it is empty"):
        open_source(tmp_path)


def test_a_metadata_yaml_of_another_program_makes_no_bag_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_text("camera: head\n")
    (tmp_path / "1.jpg").write_bytes(encode_jpeg(np.zeros((48, 64, 3), np.uint8)))
    with open_source(tmp_path) as source:
        assert source.kind is SourceKind.FOLDER and len(list(source)) == 1


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), rubbish=st.binary(min_size=1, max_size=300))
def test_no_damage_escapes_as_anything_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, place: float, rubbish: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    for storage in (MCAP, SQLITE):
        path = folder / storage.name
        if not path.exists():
            folder.mkdir(exist_ok=True)
            write_bag(path, camera_messages(4), storage)
        data = bytearray(bag_file(path).read_bytes())
        start = int(place * len(data))
        data[start : start + len(rubbish)] = rubbish
        damaged = folder / f"damaged{SUFFIX[storage]}"
        damaged.write_bytes(data)
        try:
            with open_source(damaged) as source:
                assert len(list(source)) <= 4
        except (RecordingError, CameraError):
            pass


def test_files_that_are_missing_are_named_beside_a_write_ahead_log(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(4), SQLITE)
    database = bag_file(path)
    live = sqlite3.connect(database)
    live.execute("PRAGMA journal_mode = WAL")
    live.execute("INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp + 1, data FROM messages")
    live.commit()
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    list_files(path / "metadata.yaml", crashed, [database.name, "bag_1.db3"])
    for file in path.glob("*.db3*"):
        shutil.copy(file, crashed)
    live.close()
    with open_source(crashed) as source:
        assert source.length == 8
        assert source.problems[0].endswith("lists are missing: bag_1.db3")


@pytest.mark.parametrize("described", [False, True])
def test_an_unfinished_sqlite_recording_keeps_its_write_ahead_log(
    tmp_path: Path, described: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """described: with a metadata.yaml, as of a bag that was finished and then written on."""
    path = write_bag(tmp_path / "bag", camera_messages(10), SQLITE)
    file = bag_file(path)
    live = sqlite3.connect(file)
    live.execute("PRAGMA journal_mode = WAL")
    live.execute("PRAGMA wal_autocheckpoint = 0")
    live.execute("INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp + 1, data FROM messages")
    live.commit()
    crashed = tmp_path / "crashed"  # as the disk looks to whoever comes after the crash
    crashed.mkdir()
    for p in path.glob("*.db3*"):
        shutil.copy(p, crashed)
    live.close()
    if described:
        shutil.copy(path / "metadata.yaml", crashed)
    before = {p.name: p.read_bytes() for p in crashed.iterdir()}
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with open_source(crashed) as source:
        assert source.length == 20 and len(list(source)) == 20
        assert list((tmp_path / "temporary").iterdir())
        source.close()
        assert not list((tmp_path / "temporary").iterdir())
    assert {p.name: p.read_bytes() for p in crashed.iterdir()} == before  # reading changes nothing


# --- writing --------------------------------------------------------------------------------------------------------


def hands_message(count: int = 2) -> object:
    point, quaternion = T["geometry_msgs/msg/Point"], T["geometry_msgs/msg/Quaternion"]
    duration = T["builtin_interfaces/msg/Duration"]
    rng = np.random.default_rng(0)
    hands = [
        T["wildhands_ros/msg/HandPose"](
            side=1 + i, side_probability=0.75, track_id=i, score=0.5, box=np.arange(4, dtype=np.float32),
            keypoints=rng.random(42, np.float32),
            wrist=T["geometry_msgs/msg/Pose"](point(1, 2, 3), quaternion(0, 0, 0, 1)),
            joints=[point(j, 0.5, i) for j in range(21)], mano_pose=rng.random(144, np.float32),
            mano_betas=rng.random(10, np.float32), mano_translation=rng.random(3, np.float32),
            vertices=rng.random(9, np.float32), hand_model="open", estimator="landmarks", valid=True, jump=False,
            smoothed=False, reprojection_error=1.5, expected_error=0.0125, grasp=255,
            grasp_probabilities=np.zeros(0, np.float32),
        )
        for i in range(count)
    ]  # fmt: skip
    return T["wildhands_ros/msg/HandPoseArray"](header(START), hands, 640, 480, duration(0, 5), duration(0, 3))


def test_where_several_topics_carry_hands_one_has_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "hands.mcap"
    with BagWriter(path) as writer:
        for count, topic in enumerate(("/left/hands", "/right/hands"), start=1):
            writer.add_topic(topic, "wildhands_ros/msg/HandPoseArray")
            writer.write(topic, hands_message(count), START)
    assert [len(image.hands) for image in read_hands(path, "/right/hands")] == [2]
    for wanted in (None, "/wildhands/hands"):
        with pytest.raises(RecordingError, match="name the topic of the hands; .* are: /left/hands, /right/hands"):
            next(read_hands(path, wanted))


def of_another_version(path: Path, change: Callable[[str], str]) -> Path:
    """A bag with hands by a version of this package whose HandPose.msg was another one."""
    definitions = message_definitions()
    own = "wildhands_ros/msg/HandPose"
    store = get_typestore(Stores.ROS2_KILTED)
    for name in (own, "wildhands_ros/msg/HandPoseArray"):
        store.register(get_types_from_msg(change(definitions[name]) if name == own else definitions[name], name))
    hands = hands_message()
    fields = [name for name, _ in store.fielddefs[own][1]]
    hands.hands[:] = [store.types[own](**{name: getattr(hand, name, 7) for name in fields}) for hand in hands.hands]
    writer = Writer(path, version=9, storage_plugin=MCAP)
    with writer:
        connection = writer.add_connection("/hands", "wildhands_ros/msg/HandPoseArray", typestore=store)
        writer.write(connection, START, store.serialize_cdr(hands, "wildhands_ros/msg/HandPoseArray"))
    return path


def test_hands_of_a_version_with_more_fields_are_read(tmp_path: Path) -> None:
    path = of_another_version(tmp_path / "newer", lambda text: f"uint8 new\n{text}\nuint8 another\n")
    (image,) = read_hands(path)
    assert [hand.track_id for hand in image.hands] == [0, 1]
    np.testing.assert_array_equal(image.hands[1].betas, hands_message().hands[1].mano_betas)


def test_hands_of_a_version_with_fewer_fields_say_what_is_missing(tmp_path: Path) -> None:
    path = of_another_version(tmp_path / "older", lambda text: text.replace("bool jump ", "# jump"))
    with pytest.raises(RecordingError, match="another version of wildhands_ros, whose messages lack 'jump'"):
        next(read_hands(path))


def test_hands_of_before_there_were_expected_errors_are_read(tmp_path: Path) -> None:
    path = of_another_version(tmp_path / "older", lambda text: text.replace("float32 expected_error", ""))
    (image,) = read_hands(path)
    assert len(image.hands) == 2 and all(np.isnan(hand.expected_error) for hand in image.hands)
    assert image.hands[0].reprojection_error == 1.5


def test_our_own_messages_come_back_and_explain_themselves(tmp_path: Path) -> None:
    path = tmp_path / "hands.mcap"
    with BagWriter(path) as writer:
        writer.add_topic("/wildhands/hands", "wildhands_ros/msg/HandPoseArray")
        writer.write("/wildhands/hands", hands_message(), START)
    assert [p.name for p in tmp_path.iterdir()] == ["hands.mcap"]
    with Reader(path) as plain:  # somebody who knows nothing of us
        (connection,) = plain.connections
        assert connection.msgdef.data.startswith("std_msgs/Header header\nwildhands_ros/HandPose[] hands\n")
        assert (
            "MSG: wildhands_ros/HandPose\n" in connection.msgdef.data
            and "MSG: geometry_msgs/Pose" in connection.msgdef.data
        )
    with BagReader(path) as reader:
        (message,) = reader.messages()
        array = reader.deserialize(message)
    np.testing.assert_array_equal(array.hands[1].keypoints, hands_message().hands[1].keypoints)
    assert array.hands[1].joints[20].x == 20 and array.hands[0].hand_model == "open" and array.image_width == 640


def test_definitions_are_those_of_the_message_files() -> None:
    folder = Path(__file__).parents[1] / "msg"
    assert message_definitions() == {f"wildhands_ros/msg/{p.stem}": p.read_text() for p in folder.glob("*.msg")}


def test_topics_carry_their_qos(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/tf_static", "tf2_msgs/msg/TFMessage")
        writer.add_topic("/tf", "tf2_msgs/msg/TFMessage")
        writer.add_topic("/image", "sensor_msgs/msg/Image", offered=[recorded_qos(reliable=False, depth=1)])
        writer.add_topic("/image", "sensor_msgs/msg/Image")
        with pytest.raises(RecordingError, match="recorded as"):
            writer.add_topic("/image", "sensor_msgs/msg/CompressedImage")
        with pytest.raises(RecordingError, match="definition was not found"):
            writer.add_topic("/x", "nobody_msgs/msg/Nothing")
        with pytest.raises(RecordingError, match="add_topic"):
            writer.write("/y", image(0), START)
    with Reader(tmp_path / "bag") as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert [offered[t].durability.name for t in ("/tf_static", "/tf", "/image")] == [
        "TRANSIENT_LOCAL",
        "VOLATILE",
        "VOLATILE",
    ]
    assert offered["/image"].reliability.name == "BEST_EFFORT" and offered["/image"].depth == 1


def test_installed_packages_teach_their_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share" / "lab_msgs" / "msg"
    share.mkdir(parents=True)
    (share / "Glove.msg").write_text("std_msgs/Header header\nFinger[] fingers\n")
    (share / "Finger.msg").write_text("float32 bend\n")
    monkeypatch.setattr("wildhands_ros.recordings.message_types._prefixes", lambda: iter([tmp_path]))
    with BagWriter(tmp_path / "x.mcap") as writer:
        writer.add_topic("/glove", "lab_msgs/msg/Glove")
        finger, glove = writer.types["lab_msgs/msg/Finger"], writer.types["lab_msgs/msg/Glove"]
        writer.write("/glove", glove(header(START), [finger(0.5)]), START)
    monkeypatch.undo()
    with BagReader(tmp_path / "x.mcap") as reader:  # where the package is not installed
        (message,) = reader.messages(["/glove"])
        assert reader.deserialize(message).fingers[0].bend == 0.5


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_existing_recordings_are_not_overwritten_by_mistake(tmp_path: Path, name: str) -> None:
    def write(index: int, overwrite: bool) -> None:
        with BagWriter(tmp_path / name, overwrite=overwrite) as writer:
            writer.add_topic("/i", "sensor_msgs/msg/Image")
            writer.write("/i", image(index), START)

    write(1, False)
    with pytest.raises(RecordingError, match="exists already"):
        write(2, False)
    assert read_all(open_source(tmp_path / name)) == [1]
    write(3, True)
    assert read_all(open_source(tmp_path / name)) == [3]


def test_a_recording_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    for index in (1, 2):
        with BagWriter(path, overwrite=True) as writer:
            assert index == 1 or read_all(open_source(path)) == [1]
            writer.add_topic("/i", "sensor_msgs/msg/Image")
            writer.write("/i", image(index), START)
    assert read_all(open_source(path)) == [2]


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_a_bag_that_is_being_written_is_not_taken_away(tmp_path: Path, name: str) -> None:
    with BagWriter(tmp_path / name) as first:
        first.add_topic("/i", "sensor_msgs/msg/Image")
        first.write("/i", image(7), START)
        with pytest.raises(RecordingError, match="another program is writing"):
            BagWriter(tmp_path / name, overwrite=True)
        first.write("/i", image(8), START + PERIOD)
    assert read_all(open_source(tmp_path / name)) == [7, 8]
    BagWriter(tmp_path / name, overwrite=True).close()  # nobody does any more


def test_a_folder_with_anything_else_in_it_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RecordingError, match="more than a bag"):
        BagWriter(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_a_killed_recording_keeps_what_was_flushed(tmp_path: Path, name: str) -> None:
    script = """if True:
        import os, sys
        sys.path.insert(0, sys.argv[2])
        from test_recordings_bags import BagWriter, image, START, PERIOD
        writer = BagWriter(sys.argv[1])
        writer.add_topic("/i", "sensor_msgs/msg/Image")
        for i in range(100):
            writer.write("/i", image(i), START + i * PERIOD)
        writer.flush()
        os._exit(9)"""
    tests = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / name), str(tests)], cwd=tests.parent)
    assert done.returncode == 9
    left = tmp_path / ("bag" if name == "bag" else "bag.mcap.recording")
    assert not (tmp_path / "bag.mcap").exists() and not (left / "metadata.yaml").exists()
    source = open_source(left)
    assert read_all(source) == list(range(100))
    assert "not finished" in source.problems[0]
    assert list(salvage(bag_file(left)).topics) == ["/i"]


def test_what_is_written_reaches_the_disk_every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(bag_writer_module.time, "monotonic", lambda: now)
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/i", IMAGE)
        for index, seconds in enumerate((0.5, 1.0, 1.5, 2.0, 2.4)):
            now = 100.0 + seconds
            writer.write("/i", image(index), START + index * PERIOD)
        assert salvage(bag_file(tmp_path / "bag")).counts["/i"] == 3


def test_an_error_while_recording_keeps_what_came_before(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / "x.mcap") as writer:
        writer.add_topic("/i", "sensor_msgs/msg/Image")
        writer.write("/i", image(0), START)
        raise ZeroDivisionError
    assert read_all(open_source(tmp_path / "x.mcap")) == [0]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it, and nothing can be written any more."""

    def fill() -> None:
        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("wildhands_ros.recordings.bag_writer._FlushingMcap.close_chunk", refuse)

    yield fill
    monkeypatch.undo()


def test_a_full_disk_is_reported(tmp_path: Path, full_disk: Callable[[], None]) -> None:
    writer = BagWriter(tmp_path / "x.mcap")
    writer.add_topic("/i", "sensor_msgs/msg/Image")
    writer.write("/i", image(0), START)
    writer.flush()
    full_disk()
    with pytest.raises(RecordingError, match="No space left"):
        for i in range(1, 200):
            writer.write("/i", image(i), START + i)
    with pytest.raises(RecordingError, match=r"could not be finished.*x\.mcap\.recording"):
        writer.close()
    assert read_all(open_source(tmp_path / "x.mcap.recording"))[0] == 0


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_a_disk_that_stays_full_is_reported(tmp_path: Path, name: str) -> None:
    """A limit of 20 kB a file, which one picture fits into: whatever is tried afterwards fails as well."""
    script = """if True:
        import resource, sys
        sys.path.insert(0, sys.argv[2])
        from test_recordings_bags import BagWriter, RecordingError, image, START
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            with BagWriter(sys.argv[1]) as writer:
                writer.add_topic("/i", "sensor_msgs/msg/Image")
                for i in range(90):
                    writer.write("/i", image(i), START + i)
                    if i == 0:
                        writer.flush()
        except RecordingError as error:
            print(error)"""
    tests = Path(__file__).parent
    command = [sys.executable, "-c", script, str(tmp_path / name), str(tests)]
    done = subprocess.run(command, cwd=tests.parent, capture_output=True, text=True)
    left = tmp_path / ("bag" if name == "bag" else "bag.mcap.recording")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert f"could not be finished (File too large): what was written is in {left}" in done.stdout
    assert read_all(open_source(left))[:1] == [0] and not (tmp_path / "bag.mcap").exists()


def test_a_recording_that_cannot_be_finished_names_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter(["No space left on device", "Read-only file system", "Read-only file system"])

    def refuse(*_: object) -> None:
        raise OSError(0, next(reasons))

    writer = BagWriter(tmp_path / "x.mcap")
    writer.add_topic("/i", "sensor_msgs/msg/Image")
    writer.write("/i", image(0), START)
    monkeypatch.setattr("wildhands_ros.recordings.bag_writer._FlushingMcap.close_chunk", refuse)
    for reason in ("No space left", "Read-only"):
        with pytest.raises(RecordingError, match=f"cannot write to the bag.*{reason}"):
            writer.flush()
    with pytest.raises(RecordingError, match=r"could not be finished \(No space left on device\)"):
        writer.close()


# --- bags that were made to do harm ---------------------------------------------------------------------------------


_READ = """
import logging, sys
from wildhands_ros.errors import RecordingError
from wildhands_ros.recordings import BagReader
logging.disable()
limit_memory(500 << 20)
try:
    with BagReader(sys.argv[1]) as bag:
        print([len(message.data) for message in bag.messages()], bag.problems)
except RecordingError as error:
    print("refused:", error)
"""
_DESERIALIZE = _READ.replace("print([len(message.data) for", "print([bag.deserialize(message) for")


@functools.cache
def packed_zeros(compression: str, size: int) -> bytes:
    piece = bytes(1 << 24)
    if compression == "zstd":
        packer = zstd.ZstdCompressor()
        packer.set_pledged_input_size(size)  # which the frame then says, as of what ROS compresses
        return b"".join(packer.compress(piece) for _ in range(size >> 24)) + packer.flush()
    compressor = LZ4FrameCompressor()
    packed = compressor.begin()
    for _ in range(size >> 24):
        packed += compressor.compress(piece)
    return packed + compressor.flush()


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("claimed", [100, 1 << 40])
def test_a_chunk_unpacks_to_what_it_claims_at_most(tmp_path: Path, compression: str, claimed: int) -> None:
    packed, name = packed_zeros(compression, 1 << 30), compression.encode()
    chunk = struct.pack("<QQQII", 0, 1, claimed, 0, len(name)) + name + struct.pack("<Q", len(packed)) + packed
    path = tmp_path / "x.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + struct.pack("<BQ", 6, len(chunk)) + chunk)
    said = run_bounded(_READ, str(path))
    assert said.startswith("[]") and (f"it claims to unpack to {1 << 40} bytes" in said) is (claimed > 100)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("with_metadata", [False, True])
def test_a_message_that_unpacks_to_more_than_the_memory_is_an_error(
    tmp_path: Path, storage: StoragePlugin, with_metadata: bool
) -> None:
    path = tmp_path / "bag"
    with Writer(path, version=9, storage_plugin=storage) as writer:
        topic = writer.add_connection("/i", IMAGE, typestore=STORE)
        writer.write(topic, START, packed_zeros("zstd", 1 << 30))
    metadata = path / "metadata.yaml"
    if with_metadata:
        metadata.write_text(metadata.read_text().replace("compression_mode: ''", "compression_mode: message"))
        metadata.write_text(metadata.read_text().replace("compression_format: ''", "compression_format: zstd"))
    else:
        metadata.unlink()
    said = run_bounded(_READ, str(path))
    assert said.startswith("refused:") and "larger than the memory" in said


def test_a_message_that_would_unpack_to_more_than_any_has_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zstd.compress(bytes(1000))
    assert unpacked(packed) == bytes(1000)
    monkeypatch.setattr("wildhands_ros.recordings.zstandard._LARGEST_MESSAGE", 999)
    assert unpacked(packed) == packed


_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
_MESSAGES = "id INTEGER PRIMARY KEY, topic_id, timestamp, data"


_COMPUTED = {
    "messages": f"DROP TABLE messages; CREATE VIEW messages AS {_ENDLESS} SELECT x AS id, 1 AS topic_id, "
    "x AS timestamp, randomblob(10) AS data FROM c",
    "topics": f"DROP TABLE topics; CREATE VIEW topics AS {_ENDLESS} SELECT x AS id, '/x' || x AS name, "
    "'t' AS type FROM c",
    "generated": f"DROP TABLE messages; CREATE TABLE messages({_MESSAGES} AS (zeroblob(900000000)) VIRTUAL); "
    "INSERT INTO messages(topic_id, timestamp) VALUES (1, 1)",
    "stored": f"DROP TABLE messages; CREATE TABLE messages({_MESSAGES} AS (zeroblob(9)) STORED)",
}
_CASES = [("file", kind, False) for kind in _COMPUTED] + [("file", "topics", True)]
_CASES += [(how, "messages", liar) for how in ("folder", "packed") for liar in (False, True)]


@pytest.mark.parametrize("how, kind, liar", _CASES)
def test_an_sqlite_bag_whose_content_is_computed_is_refused(tmp_path: Path, how: str, kind: str, liar: bool) -> None:
    """liar: it says of itself that views are tables."""
    mode = CompressionMode.FILE if how == "packed" else CompressionMode.NONE
    path = write_bag(tmp_path / "bag", camera_messages(2), SQLITE, mode)
    file = next(p for p in path.iterdir() if ".db3" in p.name)
    plain = file.with_name(file.name.removesuffix(".zstd"))
    if how == "packed":
        plain.write_bytes(zstd.decompress(file.read_bytes()))
    with sqlite3.connect(plain) as database:
        database.executescript(_COMPUTED[kind])
        if liar:
            database.execute("PRAGMA writable_schema = ON")
            database.execute("UPDATE sqlite_master SET type = 'table' WHERE type = 'view'")
    database.close()
    if how == "packed":
        file.write_bytes(zstd.compress(plain.read_bytes()))
        plain.unlink()
    said = run_bounded(_READ, str(plain if how == "file" else path))
    assert said.startswith("refused:") and "SQL that computes" in said


def test_topics_of_an_sqlite_bag_without_a_name_cost_only_themselves(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(20), SQLITE)
    (path / "metadata.yaml").unlink()
    with sqlite3.connect(bag_file(path)) as database:
        database.execute("CREATE TABLE loose AS SELECT * FROM topics")  # which takes anything
        database.execute("DROP TABLE topics")
        database.execute("ALTER TABLE loose RENAME TO topics")
        for name, kind in ((None, IMAGE), (b"/x", IMAGE), ("/y", None)):
            database.execute("INSERT INTO topics(id, name, type) VALUES (99, ?, ?)", [name, kind])
    source = open_source(path, focal=70)
    assert read_all(source) == list(range(20))
    assert any("3 topics without a name or type" in problem for problem in source.problems)


def test_metadata_with_a_nameless_topic_gives_way_to_the_files(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(20))
    metadata = path / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("name: /cam/image_raw", "name: 5"))
    assert read_all(open_source(path, focal=70)) == list(range(20))


@pytest.mark.parametrize(
    "definition",
    [
        "string[2000000000] y", "a/C[100000] y\n" + "=" * 80 + "\nMSG: a/C\na/D[100000] z\n" + "=" * 80
        + "\nMSG: a/D\nstring s", "float64 X=1e999\nint8 y", "int8 X=" + "9" * 5000 + "\nint8 y",
    ],
    ids=["texts", "messages", "infinite", "long number"],
)  # fmt: skip
def test_definitions_that_no_code_can_be_made_of_are_none(tmp_path: Path, definition: str) -> None:
    path = plain_mcap(tmp_path / "x.mcap", "a/msg/B", ("ros2msg", "cdr"), [(1, b"\0\1\0\0" + bytes(60))], definition)
    assert "whose definition is neither in the bag nor installed" in run_bounded(_DESERIALIZE, str(path))


def test_definitions_of_which_code_can_be_made_are_used(tmp_path: Path) -> None:
    path = plain_mcap(tmp_path / "x.mcap", "a/msg/B", ("ros2msg", "cdr"), [(1, b"\0\1\0\0\7")], "int8[1] y")
    assert "y=array([7]" in run_bounded(_DESERIALIZE, str(path))


def test_too_little_memory_for_a_message_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    path = write_bag(tmp_path / "bag", camera_messages(2))
    with BagReader(path) as bag:
        message = next(iter(bag.messages()))
        monkeypatch.setattr(bag._store, "deserialize_cdr", fail)
        with pytest.raises(RecordingError, match="more memory than there is"):
            bag.deserialize(message)
        monkeypatch.setattr(bag_reader_module, "unpacked", fail)
        with pytest.raises(RecordingError, match="larger than the memory"):
            list(bag.messages())
    monkeypatch.setattr(bag_reader_module, "_opened", fail)
    with pytest.raises(RecordingError, match="larger than the memory"):
        BagReader(path)


def test_hands_whose_vertices_are_no_points_are_an_error() -> None:
    message = hands_message(1)
    message.hands[0].vertices = np.zeros(4, np.float32)  # type: ignore[attr-defined]
    with pytest.raises(RecordingError, match="4 numbers for its vertices"):
        recorded_hands(message)


@pytest.mark.parametrize("name", ["nonsense", "", "a/b", "../msg/Image", "std_msgs/msg/../Header", "nobody/msg/None"])
def test_damaged_type_names_are_unknown_types(name: str) -> None:
    assert not learn_installed_type(make_typestore(), name)


def test_a_damaged_first_camera_info_leaves_it_to_the_next(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "x.mcap") as writer:
        writer.add_topic("/i", "sensor_msgs/msg/Image")
        writer.add_topic("/camera_info", "sensor_msgs/msg/CameraInfo")
        writer.write_serialized("/camera_info", b"\x00\x01\x00\x00 cut", START)
        for i in range(3):
            writer.write("/i", image(i), START + i * PERIOD)
        writer.write("/camera_info", camera_info(START + PERIOD), START + PERIOD)
    source = open_source(tmp_path / "x.mcap")
    assert [f.camera.fx for f in source] == [70, 70, 70] and not source.camera_is_guess
    assert "a camera_info was left out" in source.problems[0]
