"""Results into a bag, as a live node would have published them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from tf2_msgs.msg import TFMessage

from wildhands_ros.frames import Frame, stream_time
from wildhands_ros.hands import Side
from wildhands_ros.node.camera_info import camera_to_camera_info
from wildhands_ros.node.frame_names import FrameNames
from wildhands_ros.node.images import compressed_message
from wildhands_ros.node.markers import hand_markers
from wildhands_ros.node.messages import hand_pose_array, header_at
from wildhands_ros.node.transforms import hand_transforms
from wildhands_ros.pipeline import PipelineResult
from wildhands_ros.recordings import BagWriter

IMAGE, CAMERA_INFO = "/camera/image_raw/compressed", "/camera/camera_info"
HANDS, MARKERS, TF = "/wildhands/hands", "/wildhands/markers", "/tf"
_TYPES = {
    IMAGE: "sensor_msgs/msg/CompressedImage",
    CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
    HANDS: "wildhands_ros/msg/HandPoseArray",
    MARKERS: "visualization_msgs/msg/MarkerArray",
    TF: "tf2_msgs/msg/TFMessage",
}
_SECOND = 10**9


class HandsBag:
    """Writes frames and their hands to an MCAP bag: pictures (JPEG), camera_info, hands, TF and markers.

    A context manager; what was written before an exception is kept. path: `.mcap` file, replaced if it exists, but only
    when the first frame comes. faces: triangles of each side's mesh, for the markers.
    """

    def __init__(self, path: Path, faces: Mapping[Side, NDArray[np.integer]]) -> None:
        self._path, self._faces = path, faces
        self._writer: BagWriter | None = None
        self._frame_names = FrameNames()
        self._shown: frozenset[tuple[str, int]] = frozenset()
        self._last_ns: int | None = None
        self._ahead_ns, self._step_ns = 0, _SECOND // 30

    def write(self, frame: Frame, result: PipelineResult) -> None:
        """Appends one frame. Its messages have its stamp, which is also their time of recording (but at least 0).

        Bags are read in the order of recording: where a clock was set back, recording goes on one frame after the last,
        and a picture that came late is recorded at the time of the last.
        """
        header = header_at(frame.stamp_ns, frame.frame_id)
        size = (frame.camera.width, frame.camera.height)
        processing_ns = round(result.timings["total"] * _SECOND)
        markers, self._shown = hand_markers(result.hands, header, self._faces, self._shown)
        messages = {
            IMAGE: compressed_message(frame.image, header),
            CAMERA_INFO: camera_to_camera_info(frame.camera, header),
            HANDS: hand_pose_array(result.hands, header, size, processing_ns=processing_ns),
            MARKERS: markers,
            TF: TFMessage(transforms=hand_transforms(self._frame_names(result.hands, frame.stamp_ns), header)),
        }
        recorded_ns = self._recorded(max(frame.stamp_ns, 0))
        serialized = {topic: serialize_message(message) for topic, message in messages.items()}
        if self._writer is None:
            self._writer = self._open()
        for topic, data in serialized.items():
            self._writer.write_serialized(topic, data, recorded_ns)

    def _open(self) -> BagWriter:
        writer = BagWriter(self._path, overwrite=True)
        for topic, kind in _TYPES.items():
            writer.add_topic(topic, kind)
        return writer

    def _recorded(self, stamp_ns: int) -> int:
        time_ns = stream_time(self._last_ns, stamp_ns + self._ahead_ns)
        if self._last_ns is not None:
            if time_ns < self._last_ns:
                time_ns = self._last_ns + self._step_ns
                self._ahead_ns = time_ns - stamp_ns
            if 0 < time_ns - self._last_ns <= _SECOND:  # longer is a gap, or a clock that was set forward
                self._step_ns = time_ns - self._last_ns
        self._last_ns = time_ns
        return time_ns

    def __enter__(self) -> HandsBag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
