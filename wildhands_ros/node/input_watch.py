"""Whether the node's inputs come, and what to do where they do not: silence is an error that nobody raises."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

_PATIENCE_S = 5.0  # how long images may fail to come
_INFO_PATIENCE_S = 2.0  # how long images may come without camera info
_GHOSTS_S = 30.0  # how long the middleware may take for alive what was killed: Fast DDS for 20
_TELLING = 8  # so many camera infos, and images for less than half of them, cannot be chance
_MOST_KEPT = 2000  # times of either, whatever comes: of 5 s it is 400 a second


@dataclass(frozen=True)
class Surroundings:
    """What the ROS graph tells about the node's inputs.

    image_topic, info_topic: resolved names. image_publishers, info_publishers: how many there are. other_images: image
    topics that somebody publishes. other_transport: compressed ones where raw ones are wanted, or the other way round.
    fastdds_unprofiled: Fast DDS is in use without a profile of the user's. profile: path of the profile for large
    images. wrong_image_type, wrong_info_type: what a topic's publishers send where none of them sends what the node
    listens for; else empty. info_is_latched: all publishers of camera_info are reliable and transient local, so that
    late subscribers can get what was published before. hands_topic: of the node itself; hands_publishers: how many
    there are of that, the node included.
    """

    image_topic: str
    info_topic: str
    image_publishers: int
    info_publishers: int
    other_images: tuple[str, ...] = ()
    other_transport: tuple[str, ...] = ()
    fastdds_unprofiled: bool = False
    profile: str = ""
    wrong_image_type: str = ""
    wrong_info_type: str = ""
    info_is_latched: bool = False
    hands_topic: str = ""
    hands_publishers: int = 1


class _Lasting:
    """Tells what lasts from what the middleware believes of publishers that were killed. now: monotonic seconds."""

    def __init__(self, now: float) -> None:
        self.begin_anew(now)

    def begin_anew(self, now: float) -> None:
        self._not_so_at = now

    def __call__(self, now: float, is_so: bool) -> bool:
        """Whether it has been so each time that somebody asked, for longer than ghosts live."""
        if not is_so:
            self._not_so_at = now
        return now - self._not_so_at > _GHOSTS_S


class InputWatch:
    """Notices inputs that stay silent. Times are monotonic seconds; one `complaint` a second is enough.

    started: when the node began to listen.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._first_image: float | None = None
        self._images: deque[float] = deque(maxlen=_MOST_KEPT)
        self._infos: deque[float] = deque(maxlen=_MOST_KEPT)
        self._calibration: Hashable = None
        self._calibration_changed_at = -math.inf
        self._rivals = _Lasting(started)
        self._crowds = _Lasting(started)

    def begin_anew(self, now: float) -> None:
        """Watches from now on as if nothing had been seen before: nobody looked meanwhile, and inputs may have been
        switched off."""
        self._started = now
        self._rivals.begin_anew(now)
        self._crowds.begin_anew(now)
        self._first_image = None
        self._images.clear()

    def is_early(self, now: float) -> bool:
        """Whether the node has only begun to listen, and nothing can be said yet of what does not come."""
        return now - self._started <= _PATIENCE_S

    def image(self, now: float) -> None:
        """An image came."""
        self._first_image = now if self._first_image is None else self._first_image
        self._images.append(now)

    def info(self, now: float, calibration: Hashable) -> None:
        """Camera info came. calibration: all that it says but its stamp, to be compared."""
        if self._infos and calibration != self._calibration:
            self._calibration_changed_at = now
        self._calibration = calibration
        self._infos.append(now)

    def hears_info(self, now: float) -> bool:
        """Whether camera info has come in the last seconds."""
        return bool(self._infos) and now - self._infos[-1] <= _PATIENCE_S

    def rivalry(self, now: float, around: Surroundings) -> tuple[str, str] | None:
        """Kind and text of what is wrong where somebody else has published the node's results for long; or None."""
        if not self._rivals(now, around.hands_publishers > 1):
            return None
        return "results_of_others", (
            f"somebody else publishes {around.hands_topic} too: another node of this name (of two cameras give each "
            "node a namespace, -r __ns:=/head, and a tf_prefix), or a bag that is played with the results in it"
        )

    def crowd(self, now: float, around: Surroundings) -> tuple[str, str] | None:
        """Kind and text of what is wrong where several have published one of the inputs for long; or None.

        Several may publish the same camera_info, such as one driver for each of its image topics.
        """
        crowded = []
        if around.image_publishers > 1:
            crowded.append(f"{around.image_topic} has {around.image_publishers} publishers")
        if around.info_publishers > 1 and now - self._calibration_changed_at <= _PATIENCE_S:
            crowded.append(f"{around.info_topic} has {around.info_publishers} publishers")
        if not self._crowds(now, bool(crowded)):
            return None
        return "several_publishers", (
            f"{' and '.join(crowded)}: images of two cameras, or another camera's camera_info, make hands jump to and "
            "fro. Let one publish (was a driver started twice, or is a bag played while the camera runs? ros2 topic "
            f"info -v {around.image_topic}), and give each of two cameras a namespace and a node"
        )

    def complaint(self, now: float, around: Surroundings) -> tuple[str, str] | None:
        """Kind and text of what is wrong with the inputs, or None."""
        if self._first_image is not None and not self._infos and now - self._first_image > _INFO_PATIENCE_S:
            return "no_camera_info", _no_info(around)
        if self.is_early(now):
            return None
        images, infos = (sum(at > now - _PATIENCE_S for at in list(times)) for times in (self._images, self._infos))
        # They are sent in pairs, so images get lost on the way. One may have come just before the time looked at: of a
        # stream that is throttled to half its rate, half of them come.
        if infos >= _TELLING and (images + 1) * 2 < infos:
            return "images_do_not_arrive", _not_arriving(around, images, infos)
        if images:
            return None
        if around.wrong_image_type:
            return "wrong_type", _wrong_image_type(around)
        if self._images:
            return "images_stopped", (
                f"no image for {now - self._images[-1]:.0f} s on {around.image_topic} ({around.image_publishers} "
                "publishers): has the camera or the player stopped?"
            )
        if around.image_publishers == 0:
            return "no_publisher", _nobody(around)
        return "images_do_not_arrive", _not_arriving(around, images, infos)


def _nobody(around: Surroundings) -> str:
    seen = around.other_images or around.other_transport
    example = seen[0] if seen else "/camera/image_raw"
    remedy = f"Remap the input (--ros-args -r image:={example.removesuffix('/compressed')}"
    if seen is around.other_transport and seen:
        remedy += f" -p image_transport:={'compressed' if example.endswith('/compressed') else 'raw'}"
    return (
        f"nobody publishes {around.image_topic}. Image topics seen: {', '.join(seen) or 'none'}. {remedy}), and "
        "compare ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE of both sides"
    )


def _no_info(around: Surroundings) -> str:
    if around.wrong_info_type:
        return (
            f"images come on {around.image_topic}, but {around.info_topic} carries {around.wrong_info_type} and "
            "not sensor_msgs/msg/CameraInfo: remap camera_info to the topic of the same camera"
        )
    return (
        f"images come on {around.image_topic} but no camera_info on {around.info_topic} ({around.info_publishers} "
        "publishers), and without the camera's intrinsics nothing metric can be said: remap camera_info to the "
        "topic of the same camera, or calibrate it (ros2 run camera_calibration cameracalibrator)"
    )


def _not_arriving(around: Surroundings, images: int, infos: int) -> str:
    text = (
        f"{around.image_topic} has {around.image_publishers} publisher(s), but in the last {_PATIENCE_S:.0f} "
        f"s {images} image(s) arrived, and {infos} camera_info"
    )
    if images:
        text += (
            f" (if {around.image_topic} is throttled, remap camera_info to one that is throttled with it; if this "
            "machine is busy, images are replaced by newer ones before the node comes to read them: let the camera "
            "send fewer)"
        )
    text += f": is the camera running (ros2 topic hz {around.image_topic})?"
    if around.image_topic.endswith("/compressed"):
        return text
    if around.fastdds_unprofiled:
        return (
            f"{text} If so: Fast DDS loses images larger than its shared memory (512 KB). Start the camera driver "
            f"and this node with FASTDDS_DEFAULT_PROFILES_FILE={around.profile} (Humble, Jazzy: "
            "FASTRTPS_DEFAULT_PROFILES_FILE), or set image_transport to compressed"
        )
    return (
        f"{text} If so: over Fast DDS the camera driver's process needs a profile for large images too "
        "(FASTDDS_DEFAULT_PROFILES_FILE; Humble, Jazzy: FASTRTPS_DEFAULT_PROFILES_FILE), or set image_transport to "
        "compressed"
    )


def _wrong_image_type(around: Surroundings) -> str:
    text = f"{around.image_topic} carries {around.wrong_image_type}"
    if around.wrong_image_type == "sensor_msgs/msg/CompressedImage":
        base = around.image_topic.removesuffix("/compressed")
        return f"{text}: set image_transport to compressed, and remap image to {base} (-r image:={base})"
    if around.wrong_image_type == "sensor_msgs/msg/Image":
        return f"{text}: set image_transport to raw, and remap image to it"
    return f"{text}, which is no image: remap the input (-r image:=<topic>)"
