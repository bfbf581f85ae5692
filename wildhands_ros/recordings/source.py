"""What all sources of frames have in common, and the camera for pictures that were recorded without one."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TypeVar

from wildhands_ros.camera import Camera
from wildhands_ros.errors import CameraError, RecordingError, WildHandsError
from wildhands_ros.frames import Frame

logger = logging.getLogger(__name__)

Self = TypeVar("Self", bound="FrameSource")

_ASPECT_TOLERANCE = 0.01
_REPORTED_SKIPS = 5
_GIVE_UP_AFTER = 1000


class SourceKind(str, Enum):
    """What frames come from. Pictures of a folder may or may not be a stream; single ones never are."""

    PICTURE = "picture"
    FOLDER = "folder"
    VIDEO = "video"
    WEBCAM = "webcam"
    BAG = "bag"


@dataclass(frozen=True)
class CameraChoice:
    """The camera for pictures that come without one.

    camera: the user's calibration, resized to pictures of the same shape. focal: or the user's focal length in pixels.
    With neither, the focal length is guessed.
    """

    camera: Camera | None = None
    focal: float | None = None

    def __post_init__(self) -> None:
        if self.camera is not None and self.focal is not None:
            raise CameraError("a camera and a focal length were both given: give one of them")
        if self.focal is not None and not (math.isfinite(self.focal) and self.focal > 0):
            raise CameraError(f"the focal length must be a positive number of pixels, not {self.focal}")

    @property
    def is_given(self) -> bool:
        return self.camera is not None or self.focal is not None

    def of_size(self, width: int, height: int, guessed_focal: float | None = None) -> Camera:
        """The camera of a picture of this size. guessed_focal: in pixels, better than nothing (from EXIF, say).

        Raises CameraError where the given calibration is of a picture of another shape.
        """
        if self.camera is not None:
            return fitted(self.camera, width, height)
        focal = self.focal or guessed_focal
        return Camera.pinhole(width, height, focal) if focal else Camera.guess(width, height)


def fitted(camera: Camera, width: int, height: int) -> Camera:
    """`camera` for a picture of this size, which must have the shape of the calibrated one."""
    if (camera.width, camera.height) == (width, height):
        return camera
    if abs(width * camera.height / (height * camera.width) - 1) > _ASPECT_TOLERANCE:
        raise CameraError(
            f"the picture is {width}x{height} but the camera was calibrated at {camera.width}x{camera.height}, another "
            "shape: give a calibration made at this resolution, or a focal length in pixels"
        )
    return camera.resized(width, height)


class FrameSource(ABC):
    """Frames, one after the other; a context manager. Iterating again starts again (except on a webcam).

    kind: what it is. description: for people. length: number of frames, or None where only reading tells (for videos
    it is what the file claims). fps: frames a second, None where unknown.
    camera_is_guess: True where nobody knows the focal length, so that depth and size are guesses too.
    """

    def __init__(
        self, kind: SourceKind, description: str, *, length: int | None, camera_is_guess: bool, fps: float | None = None
    ) -> None:
        self.kind = kind
        self.description = description
        self.length = length
        self.camera_is_guess = camera_is_guess
        self._fps = fps
        self._problems: list[str] = []
        self._skipped = 0

    @property
    def fps(self) -> float | None:
        return self._fps

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with the recording so far; each was also logged as a warning."""
        return tuple(self._problems)

    def __iter__(self) -> Iterator[Frame]:
        """Raises RecordingError at the end where not a single frame could be read."""
        self._skipped = 0
        delivered = False
        for frame in self._frames():
            delivered = True
            yield frame
        if self._skipped > _REPORTED_SKIPS:
            self._report(f"{self.description}: {self._skipped} frames could not be read in all")
        if not delivered:
            raise RecordingError(f"no frame could be read {self._because()}")

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Frees what the source holds open."""

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """The frames from the beginning."""

    def _report(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)
            logger.warning(problem)

    def _skip(self, what: str, error: WildHandsError, *, delivered: int) -> None:
        """Notes one unreadable frame; raises RecordingError where it looks as if no frame will ever be readable."""
        self._skipped += 1
        if self._skipped <= _REPORTED_SKIPS:
            self._report(f"{what} was left out: {error}")
        if not delivered and self._skipped >= _GIVE_UP_AFTER:
            raise RecordingError(f"none of the first {self._skipped} frames could be read {self._because()}")

    def _because(self) -> str:
        reason = next(iter((*self._problems, *self.problems)), "it holds none")
        return f"from {self.description}: {reason}"
