"""The pictures of a bag as frames, each with the camera_info that belongs to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera, CameraInfoLike, ignored_skew, is_rectified_topic
from wildhands_ros.errors import CameraError, RecordingError, WildHandsError
from wildhands_ros.frames import Frame
from wildhands_ros.images import RgbImage, decode_compressed, decode_raw, require_colour
from wildhands_ros.recordings.bag_reader import BagReader, BagTopic
from wildhands_ros.recordings.salvage import RawMessage
from wildhands_ros.recordings.serialized import header_stamp_ns
from wildhands_ros.recordings.source import CameraChoice, FrameSource, SourceKind

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"

_LOOK_AHEAD = 8
_TIMED = 16  # frames from whose stamps the rate is told
_REMEMBERED = 256

Info = TypeVar("Info")


class _Stamp(Protocol):
    sec: int
    nanosec: int


class _Header(Protocol):
    stamp: _Stamp
    frame_id: str


class _ImageMessage(Protocol):
    header: _Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    format: str
    data: NDArray[np.uint8]


class _CameraInfoMessage(CameraInfoLike, Protocol):
    header: _Header


class InfoMatcher(Generic[Info]):
    """Finds the camera_info that belongs to a picture: the one with its stamp, else the latest before, else the first.

    As clocks may be set back in a recording, the camera_infos that arrived first are forgotten first, whatever their
    stamps.
    """

    def __init__(self) -> None:
        self._known: deque[tuple[int, Info]] = deque(maxlen=_REMEMBERED)
        self._added = 0

    @property
    def added(self) -> int:
        """How many have arrived so far."""
        return self._added

    def add(self, stamp_ns: int, info: Info) -> None:
        self._known.append((stamp_ns, info))
        self._added += 1

    def is_settled(self, stamp_ns: int, seen: int = 0) -> bool:
        """Whether no later camera_info could match better (they arrive roughly in order).

        seen: how many had arrived before the picture; those say nothing about what is still to come.
        """
        if any(stamp == stamp_ns for stamp, _ in self._known):
            return True
        return self._added > seen and self._known[-1][0] >= stamp_ns

    def match(self, stamp_ns: int) -> Info | None:
        """None only where none has been added. Of several with one stamp, the last to arrive."""
        if not self._known:
            return None
        before = [known for known in self._known if known[0] <= stamp_ns]
        _, info = max(reversed(before), key=_stamp_of) if before else min(reversed(self._known), key=_stamp_of)
        return info


class BagSource(FrameSource):
    """The frames of one image topic of a bag, by the time they were recorded, stamped by their headers."""

    def __init__(
        self, path: Path, choice: CameraChoice, *, topic: str | None, camera_info_topic: str | None,
        rectified: bool | None, frame_id: str,
    ) -> None:  # fmt: skip
        self._bag = BagReader(path)
        try:
            self._choice, self._frame_id = choice, frame_id
            topics = self._bag.topics
            self._topic = choose_image_topic(topics, topic, str(path))
            self._rectified = is_rectified_topic(self._topic.name) if rectified is None else rectified
            if self._rectified and choice.camera is not None and choice.camera.has_distortion:
                raise CameraError(
                    f"the pictures of {self._topic.name} are rectified and have no lens distortion, but the given "
                    "camera has: take the calibration's projection_matrix (--rectified with --camera; "
                    "Camera.from_yaml(path, rectified=True)), or say that they are not rectified (--no-rectified)"
                )
            self._left_out = ""
            self._info_topic = None if choice.is_given else choose_info_topic(topics, self._topic, camera_info_topic)
            self._first_camera = self._look_at_first_info()
        except BaseException:
            self._bag.close()
            raise
        super().__init__(
            SourceKind.BAG, f"{self._topic.name} of {path}", length=self._topic.count,
            camera_is_guess=not choice.is_given and self._first_camera is None,
        )  # fmt: skip
        if self._left_out:
            self._report(f"{self._info_topic}: {self._left_out}")
        found = self._info_topic if camera_info_topic is None else None
        if found is not None and found != _beside(self._topic) and _is_anothers(found, topics):
            self._report(
                f"{self._topic.name} has no camera_info beside it; that of another camera, {found}, is "
                "taken because there is no other: if theirs differ, name a topic or a calibration"
            )

    @property
    def problems(self) -> tuple[str, ...]:
        return (*self._bag.problems, *super().problems)

    @property
    def topic(self) -> str:
        """The image topic that is read."""
        return self._topic.name

    @property
    def camera_info_topic(self) -> str | None:
        """The camera_info topic that is read, if any."""
        return self._info_topic

    def close(self) -> None:
        self._bag.close()

    def _look_at_first_info(self) -> tuple[int, Camera] | None:
        """Stamp and camera of the first camera_info, so that a useless one is refused before anything is read."""
        if self._info_topic is None:
            return None
        for message in self._bag.messages([self._info_topic]):
            try:
                return self._camera(message)
            except RecordingError:  # damaged; another one may not be
                continue
        self._info_topic = None
        return None

    @cached_property
    def fps(self) -> float | None:  # type: ignore[override] # looked for when it is asked for
        """Frames a second by the stamps of the first ones; None where they do not tell."""
        stamps = [_peek_stamp_ns(message) for message in islice(self._bag.messages([self._topic.name]), _TIMED)]
        steps = np.diff(stamps)
        steps = steps[steps > 0]
        rate = 1e9 / float(np.median(steps)) if len(steps) else 0.0
        return rate if 0.01 < rate < 1e4 else None

    def _camera(self, message: RawMessage) -> tuple[int, Camera]:
        if message.msgtype != CAMERA_INFO:
            raise RecordingError(f"a message of {message.topic} is of type {message.msgtype}, not {CAMERA_INFO}")
        info = cast(_CameraInfoMessage, self._bag.deserialize(message))
        try:
            camera = Camera.from_camera_info(info, rectified=self._rectified)
        except CameraError as error:
            raise CameraError(f"{message.topic}: {error}") from error
        self._left_out = ignored_skew(info, rectified=self._rectified)
        return _stamp_ns(info.header, message), camera

    def _frames(self) -> Iterator[Frame]:
        index = delivered = 0
        for message, camera in self._paired():
            try:
                frame = self._frame(message, camera, index)
            except WildHandsError as error:
                self._skip(f"{self._topic.name} #{index}", error, delivered=delivered)
            else:
                delivered += 1
                yield frame
            index += 1

    def _paired(self) -> Iterator[tuple[RawMessage, Camera | None]]:
        """Each image message with its camera; keeps a few images back until their camera_info has come."""
        if self._info_topic is None:
            for message in self._bag.messages([self._topic.name]):
                yield message, None
            return
        matcher: InfoMatcher[Camera] = InfoMatcher()
        if self._first_camera is not None:
            matcher.add(*self._first_camera)
        waiting: deque[tuple[int, int, RawMessage]] = deque()
        for message in self._bag.messages([self._topic.name, self._info_topic]):
            if message.topic == self._info_topic:
                try:
                    matcher.add(*self._camera(message))
                except WildHandsError as error:
                    self._report(f"a camera_info was left out: {error}")
            else:
                waiting.append((_peek_stamp_ns(message), matcher.added, message))
            while waiting and (matcher.is_settled(*waiting[0][:2]) or len(waiting) > _LOOK_AHEAD):
                stamp_ns, _, image = waiting.popleft()
                yield image, matcher.match(stamp_ns)
        for stamp_ns, _, image in waiting:
            yield image, matcher.match(stamp_ns)

    def _frame(self, message: RawMessage, camera: Camera | None, index: int) -> Frame:
        if message.msgtype not in (IMAGE, COMPRESSED_IMAGE):
            raise RecordingError(f"a message is of type {message.msgtype}, not an image")
        picture = cast(_ImageMessage, self._bag.deserialize(message))
        image = _decode(picture, message.msgtype, self._topic.name)
        height, width = image.shape[:2]
        if camera is None:
            camera = self._choice.of_size(width, height)
        elif (camera.width, camera.height) != (width, height):
            raise CameraError(  # `Frame` would ask for another camera_info to be published, but this is a recording
                f"the image is {width}x{height} but its camera describes {camera.width}x{camera.height}: instead of "
                f"{self._info_topic} give a calibration, or a focal length in pixels, of these pictures"
            )
        frame_id = picture.header.frame_id or self._frame_id
        return Frame(image, camera, _stamp_ns(picture.header, message), frame_id, index, self._topic.name)


def choose_image_topic(topics: Mapping[str, BagTopic], wanted: str | None, where: str) -> BagTopic:
    """The wanted image topic (or its compressed form), or the only one. Raises RecordingError listing what there is."""
    images = {
        n: t for n, t in topics.items() if t.msgtype in (IMAGE, COMPRESSED_IMAGE) and not _is_of_unread_transport(n)
    }
    if wanted is not None:
        found = [images[name] for name in (wanted, f"{wanted}/compressed") if name in images]
        if found:
            return next((topic for topic in found if topic.count), found[0])  # large raw images may all have been lost
        if wanted in topics:
            raise RecordingError(
                f"{wanted} of {where} is of type {topics[wanted].msgtype}, not an image; {_list_images(images)}"
            )
        raise RecordingError(f"{where} has no topic {wanted}; {_list_images(images)}{_list_others(topics)}")
    with_messages = {n for n, t in images.items() if t.count}
    # the compressed twin of a raw topic shows the same pictures, only worse
    twins = {n for n in with_messages if _camera_topic(n) != n and _camera_topic(n) in with_messages}
    candidates = [images[n] for n in sorted(with_messages - twins)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise RecordingError(f"{where} has several image topics, so name the one to use: {_list_images(images)}")
    raise RecordingError(f"{where} holds no images{_list_others(topics)}")


def choose_info_topic(topics: Mapping[str, BagTopic], image: BagTopic, wanted: str | None) -> str | None:
    """The camera_info topic beside an image topic (as image_transport names it), or the bag's only one, or None."""
    infos = [n for n, t in topics.items() if t.msgtype == CAMERA_INFO]
    if wanted is not None:
        if wanted not in infos:
            raise RecordingError(
                f"there is no camera_info topic {wanted}; camera_info topics are: {', '.join(infos) or 'none'}"
            )
        return wanted
    if _beside(image) in infos:
        return _beside(image)
    return infos[0] if len(infos) == 1 else None


def _beside(image: BagTopic) -> str:
    """Where image_transport expects the camera_info of an image topic."""
    return f"{_camera_topic(image.name).rpartition('/')[0]}/camera_info"


def _is_anothers(info: str, topics: Mapping[str, BagTopic]) -> bool:
    """Whether this camera_info topic has an image topic of its own beside it, and so is probably another camera's."""
    namespace = info.rpartition("/")[0]
    return any(
        topic.msgtype in (IMAGE, COMPRESSED_IMAGE) and _camera_topic(name).rpartition("/")[0] == namespace
        for name, topic in topics.items()
    )


def _stamp_of(known: tuple[int, object]) -> int:
    return known[0]


def _camera_topic(name: str) -> str:
    """The raw topic of an image_transport topic: /camera/image_raw for /camera/image_raw/compressed."""
    return name.removesuffix("/compressed")


def _is_of_unread_transport(name: str) -> bool:
    """Whether image_transport sends something on this topic that is not read here: depth, video, raw images packed."""
    return name.endswith(("/compressedDepth", "/theora", "/zstd"))


def _list_images(images: Mapping[str, BagTopic]) -> str:
    names = [f"{t.name} ({t.msgtype.rpartition('/')[2]}, {t.count})" for t in images.values()]
    return f"image topics are: {', '.join(names) or 'none'}"


def _list_others(topics: Mapping[str, BagTopic]) -> str:
    names = [f"{t.name} ({t.msgtype}, {t.count})" for t in topics.values()]
    types = sorted({t.msgtype for t in topics.values()})
    ros_1 = " (types of ROS 1: convert it first)" if any(t.count("/") == 1 for t in types) else ""
    foreign = [t or "unknown ones" for t in types if t.count("/") not in (1, 2)]  # protobuf, JSON, ...
    other = f" (only types of ROS 2 can be read, not {', '.join(foreign)})" if foreign else ""
    return f"; its topics are: {', '.join(names) or 'none'}{ros_1}{other}"


def _decode(picture: _ImageMessage, msgtype: str, topic: str) -> RgbImage:
    require_colour(topic, picture.format if msgtype == COMPRESSED_IMAGE else picture.encoding)
    if msgtype == COMPRESSED_IMAGE:
        return decode_compressed(picture.data, picture.format)
    return decode_raw(picture.data, picture.height, picture.width, picture.step, picture.encoding, picture.is_bigendian)


def _stamp_ns(header: _Header, message: RawMessage) -> int:
    """The header's stamp, or the time of recording where the driver left it empty."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec or message.log_time_ns


def _peek_stamp_ns(message: RawMessage) -> int:
    """The same without decoding."""
    return header_stamp_ns(message.data) or message.log_time_ns
