"""Where results leave the node: hands, TF, markers, points and annotated images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rclpy.lifecycle import LifecycleNodeMixin, LifecyclePublisher
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Float64, Header
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from wildhands_ros.drawing import draw_hands
from wildhands_ros.frames import LATE_NS, stream_time
from wildhands_ros.hands import Hand
from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.captures import Sight
from wildhands_ros.node.clouds import hand_cloud
from wildhands_ros.node.frame_names import FrameNames
from wildhands_ros.node.images import compressed_message, image_message
from wildhands_ros.node.markers import Key, serialized_hand_markers
from wildhands_ros.node.messages import hand_pose_array, stamp_ns
from wildhands_ros.node.parameters import NodeParameters
from wildhands_ros.node.qos import (
    IMAGE_OUTPUT,
    RESULT_OUTPUT,
    TF_OUTPUT,
    output_events,
    overridable,
)
from wildhands_ros.node.transforms import SerializedTransforms

Report = Callable[[str, str], None]
"""Takes the kind and the text of a problem."""


class PublishingNode(LifecycleNodeMixin, Node):
    """What the outlets need of a node."""


@dataclass(frozen=True)
class Outcome:
    """What is published of one image.

    header: the image's stamp, and the frame that `hands` and `raw` are in. started: time.perf_counter() when work on
    the image began.
    """

    size: tuple[int, int]
    header: Header
    hands: tuple[Hand, ...]
    raw: tuple[Hand, ...]
    started: float


class Published(NamedTuple):
    """When an image's hands left.

    at: time.monotonic(). since_capture_s: from the image's stamp; NaN where that is ahead of the clock, which then
    knows no latency.
    """

    at: float
    since_capture_s: float


class Outlets:
    """The node's publishers. Everything but the hands is only computed while somebody listens.

    They are managed publishers: nothing leaves them while the node is not active.
    """

    def __init__(self, node: PublishingNode, report: Report) -> None:
        self._node = node
        self._report = report
        self._publishers: list[LifecyclePublisher] = []
        self._hands = self._publisher(HandPoseArray, "~/hands", RESULT_OUTPUT)
        self._raw_hands = self._publisher(HandPoseArray, "~/hands_raw", RESULT_OUTPUT)
        self._markers = self._publisher(MarkerArray, "~/markers", RESULT_OUTPUT)
        self._points = self._publisher(PointCloud2, "~/points", RESULT_OUTPUT)
        self._latency = self._publisher(Float64, "~/latency", RESULT_OUTPUT)
        self._annotated = self._publisher(Image, "~/image_annotated", IMAGE_OUTPUT)
        self._annotated_jpeg = self._publisher(CompressedImage, "~/image_annotated/compressed", IMAGE_OUTPUT)
        # not tf2_ros's broadcaster: it takes transforms as objects, and has no QoS parameters in Python
        self._tf = self._publisher(TFMessage, "/tf", TF_OUTPUT)
        self._frame_names = FrameNames()
        self._serialized_transforms = SerializedTransforms()
        self._shown: frozenset[Key] = frozenset()
        self._shown_in = Header()
        self._tf_time: int | None = None  # of the stream: the newest stamp
        self._tf_stamps: set[int] = set()  # with which frames were sent, as far back as images may come late

    def publish(self, outcome: Outcome, sight: Sight, settings: NodeParameters) -> Published:
        """Sends one image's results, hands first; nothing on `~/latency` where the stamp is ahead of the clock."""
        at = time.monotonic()
        latency_ns = self._publish_hands(self._hands, outcome.hands, outcome, settings)
        if self._raw_hands.get_subscription_count():
            self._publish_hands(self._raw_hands, outcome.raw, outcome, settings)
        if settings.publish_tf:
            self._publish_transforms(outcome, settings)
        if settings.publish_markers and self._markers.get_subscription_count():
            self._publish_markers(outcome, sight, settings)
        elif self._shown:
            self.hide()
        if settings.publish_points and self._points.get_subscription_count():
            self._points.publish(hand_cloud(outcome.hands, outcome.header))
        if latency_ns < 0:
            return Published(at, math.nan)
        if self._latency.get_subscription_count():
            self._latency.publish(Float64(data=latency_ns * 1e-6))
        return Published(at, latency_ns * 1e-9)

    def publish_annotated(self, sight: Sight, camera_header: Header, settings: NodeParameters) -> None:
        """Sends the picture with its hands drawn into it: for people, and last."""
        raw, jpeg = (p.get_subscription_count() > 0 for p in (self._annotated, self._annotated_jpeg))
        if not settings.publish_annotated or not (raw or jpeg):
            return
        frame = sight.frame
        picture = draw_hands(frame.image, sight.result.hands, frame.camera, sight.faces)
        if raw:
            self._annotated.publish(image_message(picture, camera_header))
        if jpeg:
            self._annotated_jpeg.publish(compressed_message(picture, camera_header, settings.jpeg_quality))

    def hide(self) -> None:
        """Takes all markers away."""
        message, self._shown = serialized_hand_markers((), self._shown_in, {}, self._shown)
        if message:
            self._markers.publish(message)

    def destroy(self) -> None:
        """Withdraws the publishers."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = []

    def _publish_hands(
        self, publisher: LifecyclePublisher, hands: tuple[Hand, ...], outcome: Outcome, settings: NodeParameters
    ) -> int:
        latency_ns = int(self._node.get_clock().now().nanoseconds) - stamp_ns(outcome.header.stamp)
        message = hand_pose_array(
            hands,
            outcome.header,
            outcome.size,
            latency_ns=latency_ns,
            processing_ns=round((time.perf_counter() - outcome.started) * 1e9),
            with_vertices=settings.publish_vertices,
        )
        publisher.publish(message)
        return latency_ns

    def _publish_transforms(self, outcome: Outcome, settings: NodeParameters) -> None:
        stamp = stamp_ns(outcome.header.stamp)
        if not outcome.header.frame_id:
            self._report(
                "no_frame_id",
                "the images' header.frame_id is empty, so TF has no parent for the hands: set frame_id in the driver",
            )
        elif not self._has_sent(stamp):  # tf2 refuses a second transform of the same stamp, loudly
            named = self._frame_names(outcome.hands, stamp)
            message = self._serialized_transforms(
                named, outcome.header, prefix=settings.tf_prefix, joints=settings.tf_joints
            )
            if message:
                self._tf.publish(message)
                self._tf_stamps.add(stamp)

    def _has_sent(self, stamp: int) -> bool:
        """Whether frames of this stamp were sent already, also where another one was in between."""
        now = stream_time(self._tf_time, stamp)
        if self._tf_time is not None and now < self._tf_time:  # time went back, for whoever listens to TF as well
            self._tf_stamps.clear()
        self._tf_time = now
        self._tf_stamps = {sent for sent in self._tf_stamps if sent >= now - LATE_NS}
        return stamp in self._tf_stamps

    def _publish_markers(self, outcome: Outcome, sight: Sight, settings: NodeParameters) -> None:
        message, self._shown = serialized_hand_markers(
            outcome.hands,
            outcome.header,
            sight.faces,
            self._shown,
            mesh=settings.marker_mesh,
            lifetime_s=settings.marker_lifetime,
        )
        self._shown_in = outcome.header
        if message:
            self._markers.publish(message)

    def _publisher(self, kind: type, topic: str, standard: QoSProfile) -> LifecyclePublisher:
        name = self._node.resolve_topic_name(topic)
        profile, overriding = overridable(standard)
        publisher = self._node.create_lifecycle_publisher(
            kind,
            topic,
            profile,
            event_callbacks=output_events(self._node, name, profile, self._report),
            qos_overriding_options=overriding,
        )
        self._publishers.append(publisher)
        return publisher
