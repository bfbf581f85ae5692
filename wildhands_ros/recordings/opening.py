"""Opens whatever holds pictures as a source of frames."""

from __future__ import annotations

from pathlib import Path

from wildhands_ros.camera import Camera
from wildhands_ros.errors import RecordingError
from wildhands_ros.paths import expanded
from wildhands_ros.recordings.bag_reader import is_bag
from wildhands_ros.recordings.bag_source import BagSource
from wildhands_ros.recordings.pictures import PICTURE_SUFFIXES, PictureSource
from wildhands_ros.recordings.source import CameraChoice, FrameSource
from wildhands_ros.recordings.video import VIDEO_SUFFIXES, VideoSource, WebcamSource

WEBCAM_PREFIX = "webcam:"
_MOST_DIGITS = 9  # of a webcam's number: OpenCV takes 32 bits


def open_source(
    source: str | Path,
    *,
    camera: Camera | None = None,
    focal: float | None = None,
    topic: str | None = None,
    camera_info_topic: str | None = None,
    rectified: bool | None = None,
    fps: float = 30.0,
    frame_id: str = "camera_optical_frame",
) -> FrameSource:
    """Opens a picture, a folder of pictures, a video file, "webcam:0", or a rosbag2 (folder, .mcap, .db3, .zstd).

    camera: used instead of what was recorded; resized to pictures of the same shape.
    focal: in pixels; used instead of what was recorded, with the principal point in the middle and no distortion.
    topic: the bag's image topic, raw or compressed; may be left out where there is only one.
    camera_info_topic: by default the one beside the image topic, else the bag's only one.
    rectified: whether a bag's pictures are rectified (`P` of camera_info is then used instead of `K` and `D`); by
        default if its topic is called image_rect or the like.
    fps: frames a second of a folder of pictures.
    frame_id: the camera's frame where none was recorded.

    With neither camera, focal nor camera_info the focal length is guessed, and `camera_is_guess` says so.
    Raises RecordingError or CameraError with what is wrong and what to do.
    """
    choice = CameraChoice(camera, focal)
    if not 1e-3 <= fps < 1e6:
        raise RecordingError(f"fps must be a number of frames a second from 0.001 on, not {fps}")
    if str(source).startswith(WEBCAM_PREFIX):
        number = str(source)[len(WEBCAM_PREFIX) :]
        if not number.isdecimal() or len(number) > _MOST_DIGITS:
            raise RecordingError(f"'{source}' is no webcam: write webcam: and its number, as in webcam:0")
        return WebcamSource(int(number), choice, frame_id=frame_id)
    if not str(source):  # which would be the current folder
        raise RecordingError("no source was named: it is empty (a shell variable that is not set?)")
    path = expanded(source)
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    if is_bag(path):
        return BagSource(
            path, choice, topic=topic, camera_info_topic=camera_info_topic, rectified=rectified, frame_id=frame_id
        )
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in PICTURE_SUFFIXES:
        return PictureSource(path, choice, fps=fps, frame_id=frame_id)
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path, choice, frame_id=frame_id)
    if suffix == ".bag":
        raise RecordingError(f"{path} is a ROS 1 bag: convert it with rosbags-convert --src {path}")
    raise RecordingError(
        f"{path} is of no known kind: give a picture ({', '.join(sorted(PICTURE_SUFFIXES))}), a folder of them, a "
        f"video ({', '.join(sorted(VIDEO_SUFFIXES))}), webcam:0, or a rosbag2 folder, .mcap or .db3 (as it is, or "
        "packed as .zst or .zstd)"
    )
