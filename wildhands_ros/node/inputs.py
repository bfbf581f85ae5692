"""What the node listens to: names of topics, cameras from camera_info, and what else is around."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo

from wildhands_ros.camera import Camera, ignored_skew
from wildhands_ros.node.input_watch import Surroundings
from wildhands_ros.node.qos import fastdds_profile, profile_variable

if TYPE_CHECKING:  # newer rclpy has it in rclpy.endpoint_info
    from rclpy.topic_endpoint_info import TopicEndpointInfo

_IMAGE_TYPES = {False: "sensor_msgs/msg/Image", True: "sensor_msgs/msg/CompressedImage"}

_Fields: TypeAlias = "tuple[object, ...]"


@dataclass(frozen=True)
class InputTopics:
    """Resolved names. compressed: whether `image` carries CompressedImage."""

    image: str
    info: str
    compressed: bool


def input_topics(node: Node, transport: str, arguments: Sequence[str] = ()) -> InputTopics:
    """Where to listen, as image_transport does it. arguments: of the command line, with its remappings.

    `image` may be remapped; for compressed transport `/compressed` is appended to the result (unless `image/compressed`
    is remapped itself). `camera_info` is the image's neighbour (/camera/image_raw → /camera/camera_info) unless it is
    remapped; that of `image/compressed` where this alone is remapped.
    """
    image = node.resolve_topic_name("image")
    compressed = ""
    if transport == "compressed":
        compressed = f"{image}/compressed"
        if _is_remapped(node, "image/compressed", arguments):
            compressed = node.resolve_topic_name("image/compressed")
            if not _is_remapped(node, "image", arguments):
                image = compressed.removesuffix("/compressed")
    info = node.resolve_topic_name("camera_info")
    if not _is_remapped(node, "camera_info", arguments):
        info = f"{image.rpartition('/')[0]}/camera_info"
    return InputTopics(compressed or image, info, compressed=bool(compressed))


def _is_remapped(node: Node, name: str, arguments: Sequence[str]) -> bool:
    """Whether a remapping rule names the topic, even one that leaves it where it would be without the rule."""
    expanded = node.resolve_topic_name(name, only_expand=True)
    if node.resolve_topic_name(name) != expanded:
        return True
    topics = (topic for whose, topic in _remapped_topics(arguments) if whose in ("", node.get_name()))
    return any(node.resolve_topic_name(topic, only_expand=True) == expanded for topic in topics)


def _remapped_topics(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The node (empty: every node) and the topic of each remapping rule of a command line."""
    of_ros = False
    for word, rule in pairwise([*arguments, ""]):
        of_ros = word == "--ros-args" or (of_ros and word != "--")
        if of_ros and word in ("-r", "--remap"):
            whose, _, topic = rule.partition(":=")[0].removeprefix("rostopic://").rpartition(":")
            if topic and not topic.startswith("__"):  # __ns and __node are no topics
                yield whose, topic


class CameraCache:
    """Cameras from camera_info, computed only when it changes. rectified: as for `Camera.from_camera_info`.

    left_out: what the last camera leaves out of its camera_info, in words; or empty.
    """

    def __init__(self, rectified: bool) -> None:
        self._rectified = rectified
        self._fields: _Fields | None = None
        self._camera: Camera | None = None
        self.left_out = ""

    def __call__(self, info: CameraInfo) -> Camera:
        """Raises CameraError for what no camera can be."""
        fields = calibration_of(info)
        if self._camera is None or fields != self._fields:
            self._camera = Camera.from_camera_info(info, rectified=self._rectified)
            self.left_out = ignored_skew(info, rectified=self._rectified)
            self._fields = fields
        return self._camera


def survey(node: Node, topics: InputTopics) -> Surroundings:
    """What can be seen of the inputs from outside, for `InputWatch`."""
    profiled = any(variable in os.environ for variable in (profile_variable(), "FASTDDS_BUILTIN_TRANSPORTS"))
    unprofiled = "fastrtps" in get_rmw_implementation_identifier() and not profiled
    own = node.get_fully_qualified_name()
    hands = node.resolve_topic_name("~/hands")
    published = [
        (name, types)
        for name, types in node.get_topic_names_and_types()
        # nor what another node like this one has drawn its hands into
        if name != topics.image and "/image_annotated" not in name and node.count_publishers(name)
    ]
    others, of_other_transport = (
        tuple(sorted(name for name, types in published if kind in types))
        for kind in (_IMAGE_TYPES[topics.compressed], _IMAGE_TYPES[not topics.compressed])
    )
    images, infos = (node.get_publishers_info_by_topic(topic) for topic in (topics.image, topics.info))
    return Surroundings(
        image_topic=topics.image,
        info_topic=topics.info,
        image_publishers=len(images),
        info_publishers=len(infos),
        other_images=others,
        other_transport=of_other_transport,
        fastdds_unprofiled=unprofiled,
        profile=str(fastdds_profile()) if unprofiled else "",
        wrong_image_type=_wrong_type(images, _IMAGE_TYPES[topics.compressed]),
        wrong_info_type=_wrong_type(infos, "sensor_msgs/msg/CameraInfo"),
        hands_topic=hands,
        # where it is remapped, several nodes may be meant to publish it
        hands_publishers=node.count_publishers(hands) if hands == f"{own}/hands" else 1,
        info_is_latched=bool(infos) and all(_is_latched(e) for e in infos),
    )


def _is_latched(publisher: TopicEndpointInfo) -> bool:
    """Whether a late subscriber, if it asks for reliable delivery, gets what was published before."""
    profile = publisher.qos_profile
    return bool(
        profile.durability is DurabilityPolicy.TRANSIENT_LOCAL and profile.reliability is ReliabilityPolicy.RELIABLE
    )


def _wrong_type(publishers: Iterable[TopicEndpointInfo], expected: str) -> str:
    """The types that the publishers send, where none of them is the expected one; else empty."""
    types = {publisher.topic_type for publisher in publishers}
    return "" if expected in types else ", ".join(sorted(types))


def calibration_of(info: CameraInfo) -> _Fields:
    """Everything of a camera_info but its header, to be compared."""
    roi = info.roi
    arrays = (bytes(memoryview(v)) for v in (info.d, info.k, info.r, info.p))
    region = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    return (info.width, info.height, info.distortion_model, info.binning_x, info.binning_y, *region, *arrays)
