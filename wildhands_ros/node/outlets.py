"""Where results leave the node: hands, TF, markers and annotated images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSPolicyKind, QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from wildhands_ros.drawing import draw_hands
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand, Side
from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.images import compressed_message, image_message
from wildhands_ros.node.markers import Key, hand_markers
from wildhands_ros.node.messages import hand_pose_array, stamp_ns
from wildhands_ros.node.parameters import NodeParameters
from wildhands_ros.node.qos import IMAGE_OUTPUT, RESULT_OUTPUT, output_mismatch, subscribers_of
from wildhands_ros.node.transforms import hand_transforms, make_broadcaster
from wildhands_ros.pipeline import PipelineResult

Report = Callable[[str, str], None]
"""Takes the kind and the text of a problem."""


@dataclass(frozen=True)
class Outcome:
    """What came of one image.

    header: the image's own. started: time.perf_counter() when work on the image began.
    """

    frame: Frame
    header: Header
    result: PipelineResult
    faces: Mapping[Side, NDArray[np.integer]]
    started: float


class Outlets:
    """The node's publishers. Everything but the hands is only computed while somebody listens."""

    def __init__(self, node: Node, report: Report) -> None:
        self._node = node
        self._report = report
        self._hands = self._publisher(HandPoseArray, "~/hands", RESULT_OUTPUT)
        self._raw_hands = self._publisher(HandPoseArray, "~/hands_raw", RESULT_OUTPUT)
        self._markers = self._publisher(MarkerArray, "~/markers", RESULT_OUTPUT)
        self._annotated = self._publisher(Image, "~/image_annotated", IMAGE_OUTPUT)
        self._annotated_jpeg = self._publisher(CompressedImage, "~/image_annotated/compressed", IMAGE_OUTPUT)
        self._broadcaster = make_broadcaster(node)
        self._shown: frozenset[Key] = frozenset()
        self._last_tf_stamp: int | None = None

    def publish(self, outcome: Outcome, settings: NodeParameters) -> None:
        """Sends one image's results: hands first, pictures for people last."""
        self._publish_hands(self._hands, outcome.result.hands, outcome, settings)
        if self._raw_hands.get_subscription_count():
            self._publish_hands(self._raw_hands, outcome.result.raw, outcome, settings)
        if settings.publish_tf:
            self._publish_transforms(outcome, settings)
        if settings.publish_markers and self._markers.get_subscription_count():
            self._publish_markers(outcome, settings)
        if settings.publish_annotated:
            self._publish_annotated(outcome, settings)

    def destroy(self) -> None:
        """Withdraws the publishers."""
        for publisher in (self._hands, self._raw_hands, self._markers, self._annotated, self._annotated_jpeg):
            self._node.destroy_publisher(publisher)

    def _publish_hands(
        self, publisher: Publisher, hands: tuple[Hand, ...], outcome: Outcome, settings: NodeParameters
    ) -> None:
        camera = outcome.frame.camera
        message = hand_pose_array(
            hands,
            outcome.header,
            (camera.width, camera.height),
            latency_ns=self._node.get_clock().now().nanoseconds - stamp_ns(outcome.header.stamp),
            processing_ns=round((time.perf_counter() - outcome.started) * 1e9),
            with_vertices=settings.publish_vertices,
        )
        publisher.publish(message)

    def _publish_transforms(self, outcome: Outcome, settings: NodeParameters) -> None:
        stamp = stamp_ns(outcome.header.stamp)
        if not outcome.header.frame_id:
            self._report(
                "no_frame_id",
                "the images' header.frame_id is empty, so TF has no parent for the hands: set frame_id in the driver",
            )
        elif stamp != self._last_tf_stamp:  # tf2 refuses a second transform of the same stamp, loudly
            transforms = hand_transforms(
                outcome.result.hands, outcome.header, prefix=settings.tf_prefix, joints=settings.tf_joints
            )
            if transforms:
                self._broadcaster.sendTransform(transforms)
                self._last_tf_stamp = stamp

    def _publish_markers(self, outcome: Outcome, settings: NodeParameters) -> None:
        message, self._shown = hand_markers(
            outcome.result.hands,
            outcome.header,
            outcome.faces,
            self._shown,
            mesh=settings.marker_mesh,
            lifetime_s=settings.marker_lifetime,
        )
        if message.markers:
            self._markers.publish(message)

    def _publish_annotated(self, outcome: Outcome, settings: NodeParameters) -> None:
        raw, jpeg = (p.get_subscription_count() > 0 for p in (self._annotated, self._annotated_jpeg))
        if not (raw or jpeg):
            return
        frame = outcome.frame
        picture = draw_hands(frame.image, outcome.result.hands, frame.camera, outcome.faces)
        if raw:
            self._annotated.publish(image_message(picture, outcome.header))
        if jpeg:
            self._annotated_jpeg.publish(compressed_message(picture, outcome.header, settings.jpeg_quality))

    def _publisher(self, kind: type, topic: str, profile: QoSProfile) -> Publisher:
        name = self._node.resolve_topic_name(topic)

        def on_incompatible(event: object) -> None:
            policy = QoSPolicyKind(getattr(event, "last_policy_kind", QoSPolicyKind.INVALID))
            text = output_mismatch(name, policy, profile, subscribers_of(self._node, name))
            self._report("output_qos_mismatch", text)

        events = PublisherEventCallbacks(incompatible_qos=on_incompatible)
        return self._node.create_publisher(kind, topic, profile, event_callbacks=events)
