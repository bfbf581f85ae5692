"""One picture of a stream, with everything needed to understand it."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ImageError

LATE_NS = 300_000_000
"""A picture that arrives out of order is at most this late, in nanoseconds; more is a jump of the clock."""


def stream_time(last_ns: int | None, stamp_ns: int) -> int:
    """A picture's time in its stream: its stamp, or `last_ns` where it arrived out of order (by at most `LATE_NS`).

    A result below `last_ns` therefore belongs to another stream. last_ns: the time of the picture before; None for the
    first.
    """
    return last_ns if last_ns is not None and last_ns - LATE_NS <= stamp_ns < last_ns else stamp_ns


class StreamClock:
    """The time of a stream's pictures, which goes on where their stamps stand still.

    A picture that comes again, or late, takes no time. But by a clock that stands still (a driver that stamps nothing)
    nothing would ever be forgotten: after `MOST_REPEATS` pictures with one stamp, each further one counts as
    `PERIOD_NS` later.
    """

    MOST_REPEATS = 30
    PERIOD_NS = 33_333_333

    def __init__(self) -> None:
        self._stamp_ns: int | None = None
        self._repeats = 0
        self._ahead_ns = 0

    def __call__(self, stamp_ns: int) -> int:
        """Time in nanoseconds of the next picture; it is below the last one's only where a new stream begins, which an
        earlier stamp means."""
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self._ahead_ns = 0
        self._repeats = self._repeats + 1 if stamp_ns == self._stamp_ns else 0
        self._stamp_ns = stamp_ns
        if self._repeats > self.MOST_REPEATS:
            self._ahead_ns += self.PERIOD_NS
        return stamp_ns + self._ahead_ns


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and its camera.

    image: (H, W, 3) uint8 RGB.
    camera: intrinsics and distortion of exactly this picture (its size is checked against the image's).
    stamp_ns: whole nanoseconds, when the picture was taken: time.time_ns(), or round(seconds * 1e9). Following
        and smoothing need it.
    frame_id: the camera's optical frame.
    index: place in the stream, from 0.
    name: file name or topic, for messages to people.

    Raises ImageError for anything else.
    """

    image: NDArray[np.uint8]
    camera: Camera
    stamp_ns: int = 0
    frame_id: str = "camera_optical_frame"
    index: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.image, np.ndarray):
            raise ImageError(
                f"a frame needs an image as an array, not {type(self.image).__name__}"
                + (": the file could not be read (cv2.imread gives None then)" if self.image is None else "")
            )
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ImageError(
                "a frame needs an RGB image of shape (H, W, 3) and type uint8, "
                f"not {self.image.shape} {self.image.dtype}"
            )
        if self.image.size == 0:
            raise ImageError("the image is empty (zero width or height): check the camera driver or the file")
        if not isinstance(self.camera, Camera):
            raise ImageError(
                f"a frame needs its Camera, not {type(self.camera).__name__}: Camera.pinhole(width, height, focal), "
                "Camera(width, height, fx, fy, cx, cy) or Camera.from_yaml(path)"
            )
        height, width = self.image.shape[:2]
        if (width, height) != (self.camera.width, self.camera.height):
            raise ImageError(
                f"the image is {width}x{height} but its camera describes {self.camera.width}x{self.camera.height}: "
                "publish camera_info for this resolution, or set its binning and roi"
            )
        # numpy's whole numbers become plain ones: JSON and messages would refuse them
        try:
            object.__setattr__(self, "index", operator.index(self.index))
        except TypeError as error:
            raise ImageError(f"index is a whole number, the place in the stream, not {self.index!r}") from error
        try:
            object.__setattr__(self, "stamp_ns", operator.index(self.stamp_ns))
        except TypeError as error:  # seconds or milliseconds, as most clocks and videos tell them
            raise ImageError(
                f"stamp_ns is whole nanoseconds, not {self.stamp_ns!r}: give time.time_ns(), round(seconds * 1e9), or "
                "round(milliseconds * 1e6)"
            ) from error
