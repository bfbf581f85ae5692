"""Where results leave the node: what goes out with which settings and listeners, without any middleware."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from node_fakes import FACES, make_hand
from rclpy.serialization import deserialize_message
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from wildhands_ros.camera import Camera
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand, Side
from wildhands_ros.node.captures import Sight
from wildhands_ros.node.outlets import Outcome, Outlets, Published
from wildhands_ros.node.parameters import NodeParameters, snapshot
from wildhands_ros.pipeline import PipelineResult

OF_SERIALISED = {"/tf": TFMessage, "/wildhands/markers": MarkerArray}
NOW_NS = 10**9 * 1000


class Mouth:
    """A publisher: keeps what is published."""

    def __init__(self, kind: type | None) -> None:
        self._kind = kind
        self.listeners = 1
        self.said: list[Any] = []

    def publish(self, message: Any) -> None:
        self.said.append(message if self._kind is None else deserialize_message(message, self._kind))

    def get_subscription_count(self) -> int:
        return self.listeners


class Stage:
    """A node's outlets, in the place of its node."""

    def __init__(self) -> None:
        self.mouths: dict[str, Mouth] = {}
        self.reports: list[str] = []
        self.outlets = Outlets(self, lambda kind, _text: self.reports.append(kind))

    def resolve_topic_name(self, topic: str) -> str:
        return topic.replace("~", "/wildhands")

    def create_lifecycle_publisher(self, _kind: type, topic: str, *_: object, **__: object) -> Mouth:
        name = self.resolve_topic_name(topic)
        self.mouths[name] = Mouth(OF_SERIALISED.get(name))
        return self.mouths[name]

    def get_clock(self) -> SimpleNamespace:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=NOW_NS))

    def listen(self, count: int) -> None:
        for mouth in self.mouths.values():
            mouth.listeners = count

    def show(self, *hands: Hand, frame_id: str = "camera", at: float = 999.0, **settings: Any) -> Published:
        """One image's results, with other settings than the default ones."""
        parameters: NodeParameters = snapshot(settings)
        header = Header(stamp=Time(sec=int(at), nanosec=round(at % 1 * 1e9)), frame_id=frame_id)
        raw = tuple(dataclasses.replace(hand, smoothed=False) for hand in hands)
        image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
        frame = Frame(image, Camera.pinhole(320, 240, focal=200), frame_id="camera")
        sight = Sight(frame, PipelineResult(0, hands, (), (), (), {}), {side: FACES for side in Side})
        published = self.outlets.publish(Outcome((320, 240), header, hands, raw, 0.0), sight, parameters)
        self.outlets.publish_annotated(sight, Header(stamp=header.stamp, frame_id="camera"), parameters)
        return published

    def said(self, topic: str) -> list[Any]:
        """What was published since it was asked for."""
        mouth = self.mouths[topic if topic.startswith("/") else f"/wildhands/{topic}"]
        said, mouth.said = mouth.said, []
        return said


@pytest.fixture
def stage() -> Stage:
    return Stage()


LEFT, RIGHT = make_hand(Side.LEFT, smoothed=True), make_hand(Side.RIGHT, smoothed=True)


def _frames(stage: Stage) -> list[str]:
    return [t.child_frame_id for message in stage.said("/tf") for t in message.transforms]


def _markers(stage: Stage, action: int) -> list[Marker]:
    return [m for message in stage.said("markers") for m in message.markers if m.action == action]


def test_everything_goes_out_with_its_stamp_and_frame_and_pictures_with_the_cameras(stage: Stage) -> None:
    stage.show(LEFT, RIGHT, frame_id="map", publish_points=True)
    for topic in ("hands", "hands_raw", "points"):
        (message,) = stage.said(topic)
        assert (message.header.frame_id, message.header.stamp.sec) == ("map", 999), topic
    for topic in ("image_annotated", "image_annotated/compressed"):
        (message,) = stage.said(topic)
        assert (message.header.frame_id, message.header.stamp.sec) == ("camera", 999), topic
    (tf,), (markers,) = stage.said("/tf"), stage.said("markers")
    headers = [*(t.header for t in tf.transforms), *(m.header for m in markers.markers)]
    assert {(header.frame_id, header.stamp.sec) for header in headers} == {("map", 999)}


def test_frames_of_one_stamp_go_out_once_also_where_another_stamp_was_in_between(stage: Stage) -> None:
    """TF complains of a second one. Where time goes back, as in a bag that loops, all come again."""
    times = (990.0, 990.1, 990.0, 990.1, 990.2, 980.0, 980.1, 990.0)
    for at in times:
        stage.show(LEFT, at=at)
    sent = [message.transforms[0].header.stamp for message in stage.said("/tf")]
    assert [round(stamp.sec + stamp.nanosec * 1e-9, 1) for stamp in sent] == [990.0, 990.1, 990.2, 980.0, 980.1, 990.0]
    assert len(stage.said("hands")) == len(times)


def test_markers_are_named_by_side_and_track_and_drawn_pictures_show_the_hands(stage: Stage) -> None:
    stage.show(RIGHT, LEFT)  # not in the order of their tracks
    parts = ("skeleton", "joints", "mesh")
    named = {(marker.ns, marker.id) for marker in _markers(stage, Marker.ADD)}
    assert named == {*((f"left/{part}", LEFT.track_id) for part in parts), *((f"right/{part}", 1) for part in parts)}
    assert LEFT.track_id == 0
    drawn = stage.said("image_annotated")[0].data
    stage.show()
    assert stage.said("image_annotated")[0].data != drawn


def test_raw_hands_are_those_that_were_not_smoothed(stage: Stage) -> None:
    stage.show(LEFT, RIGHT)
    assert [hand.smoothed for hand in stage.said("hands")[0].hands] == [True, True]
    assert [hand.smoothed for hand in stage.said("hands_raw")[0].hands] == [False, False]


def test_while_nobody_listens_only_hands_and_tf_go_out(stage: Stage) -> None:
    stage.listen(0)
    stage.show(LEFT, publish_points=True)
    assert {name for name, mouth in stage.mouths.items() if mouth.said} == {"/wildhands/hands", "/tf"}


@pytest.mark.parametrize(
    ("settings", "count", "first"),
    [
        ({}, 42, "left_wrist"),
        ({"tf_joints": False}, 2, "left_wrist"),
        ({"tf_prefix": "robot1/"}, 42, "robot1/left_wrist"),
        ({"publish_tf": False}, 0, None),
    ],
)
def test_tf_is_what_the_settings_say(stage: Stage, settings: dict[str, Any], count: int, first: str | None) -> None:
    stage.show(LEFT, RIGHT, **settings)
    frames = _frames(stage)
    assert len(frames) == count and (frames[0] if frames else None) == first


def test_tf_has_the_hands_of_a_stamp_once(stage: Stage) -> None:
    for at, count in ((1.0, 21), (1.0, 0), (1.5, 21), (2.0, 21), (2.0, 0)):  # tf2 warns of each that comes again
        stage.show(LEFT, at=at)
        assert len(_frames(stage)) == count
    assert len(stage.said("hands")) == 5


def test_without_a_parent_there_is_no_tf_and_it_is_said(stage: Stage) -> None:
    stage.show(LEFT, frame_id="")
    assert not stage.said("/tf") and stage.reports == ["no_frame_id"]
    assert len(stage.said("hands")) == 1


@pytest.mark.parametrize(
    ("take_away", "gone"),
    [
        (lambda stage: stage.show(LEFT, RIGHT, publish_markers=False), 6),
        (lambda stage: stage.show(LEFT, RIGHT, marker_mesh=False), 2),
        (lambda stage: stage.show(RIGHT), 3),
        (lambda stage: stage.show(), 6),
        (lambda stage: stage.outlets.hide(), 6),
        (lambda stage: (stage.listen(0), stage.show(LEFT, RIGHT)), 6),
    ],
)
def test_markers_that_nobody_wants_any_more_are_deleted_once(
    stage: Stage, take_away: Callable[[Stage], object], gone: int
) -> None:
    stage.show(LEFT, RIGHT)
    assert len(_markers(stage, Marker.ADD)) == 6
    take_away(stage)
    deleted = _markers(stage, Marker.DELETE)
    assert len(deleted) == gone and {marker.header.frame_id for marker in deleted} == {"camera"}
    take_away(stage)
    assert not _markers(stage, Marker.DELETE)


@pytest.mark.parametrize("lifetime", [0.0, 0.25, 3600.0])
def test_markers_live_as_long_as_the_settings_say(stage: Stage, lifetime: float) -> None:
    stage.show(LEFT, marker_lifetime=lifetime)
    (message,) = stage.said("markers")
    assert {marker.lifetime.sec + marker.lifetime.nanosec * 1e-9 for marker in message.markers} == {lifetime}


def test_points_and_vertices_go_out_where_they_are_wanted(stage: Stage) -> None:
    stage.show(LEFT)
    assert not stage.said("points") and not stage.said("hands")[0].hands[0].vertices
    stage.show(LEFT, publish_points=True, publish_vertices=True)
    assert stage.said("points")[0].width == 4 and len(stage.said("hands")[0].hands[0].vertices) == 12


@pytest.mark.parametrize("listened_to", ["image_annotated", "image_annotated/compressed"])
def test_annotated_pictures_go_where_somebody_listens(stage: Stage, listened_to: str) -> None:
    stage.listen(0)
    stage.mouths[f"/wildhands/{listened_to}"].listeners = 1
    stage.show(LEFT)
    topics = ("image_annotated", "image_annotated/compressed")
    assert [len(stage.said(topic)) for topic in topics] == [topic == listened_to for topic in topics]
    stage.show(LEFT, publish_annotated=False)
    assert not any(stage.said(topic) for topic in topics)


def test_jpegs_have_the_quality_of_the_settings(stage: Stage) -> None:
    sizes = []
    for quality in (1, 90):
        stage.show(LEFT, jpeg_quality=quality)
        (message,) = stage.said("image_annotated/compressed")
        assert cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR).shape == (240, 320, 3)
        sizes.append(len(message.data))
    assert 5 * sizes[0] < sizes[1]


def test_latency_is_that_of_the_stamp_and_none_for_one_that_is_ahead(stage: Stage) -> None:
    assert stage.show(LEFT, at=999.75).since_capture_s == pytest.approx(0.25)
    assert stage.said("latency")[0].data == pytest.approx(250.0)
    assert stage.said("hands")[0].latency.nanosec == 250_000_000
    assert math.isnan(stage.show(LEFT, at=1000.5).since_capture_s)
    latency = stage.said("hands")[0].latency
    assert not stage.said("latency") and (latency.sec, latency.nanosec) == (0, 0)
