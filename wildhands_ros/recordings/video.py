"""Video files and webcams as frames, and frames as a video file."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from wildhands_ros.errors import RecordingError
from wildhands_ros.frames import Frame
from wildhands_ros.images import MOST_PIXELS, RgbImage
from wildhands_ros.recordings.source import CameraChoice, FrameSource, SourceKind

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv"})

_CODECS = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG"}
_COUNTED_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi"})  # others know how long they are, not how many frames
_CONVERT = "try: ffmpeg -i FILE -c:v mjpeg copy.avi"
_TOLERANCE = 0.02
_FIRST_FRAMES = 16
_UNREADABLE_AT_ONCE = 1000  # packets of a damaged video; behind its end each attempt takes microseconds
_REORDERED = 16  # frames that may be stored between one and those shown before it, in any codec
_PTS: int | None = getattr(cv2, "CAP_PROP_PTS", None)  # the OpenCV of distributions is older: 4.6 in Ubuntu 24.04


class VideoSource(FrameSource):
    """The frames of a video file, stamped with their time in it (the first is about 0), turned upright."""

    def __init__(self, path: Path, choice: CameraChoice, *, frame_id: str) -> None:
        self._path, self._choice, self._frame_id = path, choice, frame_id
        capture = self._open()
        width, height = (int(capture.get(edge)) for edge in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MOST_PIXELS:  # a frame of some kilobytes would take gigabytes
            capture.release()
            raise RecordingError(
                f"the video {path} has frames of {width}x{height} pixels, more than the {MOST_PIXELS} that are "
                "decoded: it is damaged, or has to be made smaller"
            )
        count, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        length = int(count) if 0 < count < 1e9 else None
        rate = fps if 0 < fps < 1e4 else None
        self._missing_after_s: float | None = None
        self._lost = 0  # frames that could not be read, with others behind them
        if path.suffix.lower() not in _COUNTED_SUFFIXES:
            # here FFmpeg guesses the rate, 1000 where it cannot, and OpenCV the count, from that and the duration
            start_s, step_s = _beginning(capture, fps)
            if step_s and not 0.8 < fps * step_s < 1.25:
                rate = 1 / step_s
            if length is not None and fps > 0:
                self._missing_after_s = length / fps * (1 - _TOLERANCE) - 3 / (rate or 30.0) - start_s
                length = length if rate == fps else None
        capture.release()
        super().__init__(
            SourceKind.VIDEO, f"video {path}", camera_is_guess=not choice.is_given, length=length, fps=rate
        )

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(_file_name(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise RecordingError(
                f"the video {self._path} cannot be opened: damaged, cut off before its index was written, or of a "
                f"format that OpenCV does not know ({_CONVERT})"
            )
        return capture

    def _frames(self) -> Iterator[Frame]:
        cut_off = is_cut_off(self._path)
        capture = self._open()
        self._lost = 0
        try:
            held: Frame | None = None  # one frame behind, because the last of a video that is cut off is no good
            for frame in self._decoded(capture, to_the_end=not cut_off):
                if held is not None:
                    yield held
                held = frame
        finally:
            capture.release()
        read = 0 if held is None else held.index + 1
        if cut_off:
            self._report(
                f"{self.description} is cut off: {max(read - 1, 0)} whole frames were read of {self.length or '?'}"
            )
        elif held is None:
            self._report(
                f"{self.description} cannot be decoded, not one frame of it: damaged, or of a codec that this OpenCV "
                f"does not know, as often with AV1 ({_CONVERT})"
            )
        elif self._lost:
            missing = max(self._lost, (self.length or 0) - read)
            self._report(f"{self.description} is damaged: {read} frames were read, {missing} are missing")
        elif self._missing_after_s is not None:
            if held.stamp_ns * 1e-9 < self._missing_after_s:
                self._report(f"{self.description} ends early: its {read} frames do not last as long as it announces")
        elif self.length is not None and read < self.length * (1 - _TOLERANCE) - 1:
            self._report(f"{self.description} ends early: {read} frames were read of the {self.length} it announces")
        if held is not None and not cut_off:
            yield held

    def _decoded(self, capture: cv2.VideoCapture, *, to_the_end: bool) -> Iterator[Frame]:
        """The frames in the order of time. to_the_end: goes on behind packets that cannot be decoded."""
        period_ns = 1e9 / (self.fps or 30.0)
        index, last_ns, failures, timed = 0, -1, 0, True
        while True:
            done, bgr = capture.read()
            if not done:  # the end, or a damaged packet: OpenCV does not say which
                failures += 1
                complete = self.length is not None and index >= self.length
                if complete or not to_the_end or failures > (_UNREADABLE_AT_ONCE if index else _FIRST_FRAMES):
                    return
                continue
            self._lost += failures
            failures = 0
            stamp_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if stamp_ns <= last_ns:
                if self._lost and timed and 0 < stamp_ns and last_ns - stamp_ns < _REORDERED * period_ns:
                    self._lost += 1  # behind damage, decoders give frames too late
                    continue
                timed = False  # containers without times
                stamp_ns = last_ns + round(period_ns)
            last_ns = stamp_ns
            image = _rgb(bgr)
            camera = self._choice.of_size(image.shape[1], image.shape[0])
            yield Frame(image, camera, stamp_ns, self._frame_id, index, self._path.name)
            index += 1


class WebcamSource(FrameSource):
    """A camera of this computer, an endless source; frames are stamped with the system's time when they arrive."""

    def __init__(self, index: int, choice: CameraChoice, *, frame_id: str) -> None:
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise RecordingError(
                f"webcam:{index} cannot be opened: is a camera plugged in (ls /dev/video*), is another program using "
                "it, may this user read it (group video)?"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        super().__init__(
            SourceKind.WEBCAM, f"webcam:{index}", length=None, camera_is_guess=not choice.is_given,
            fps=fps if 0 < fps < 1e4 else None,
        )  # fmt: skip
        self._choice, self._frame_id = choice, frame_id

    def close(self) -> None:
        self._capture.release()

    def _frames(self) -> Iterator[Frame]:
        index = 0
        while True:
            done, bgr = self._capture.read()
            if not done:
                self._report(f"{self.description} stopped delivering frames after {index}: unplugged?")
                return
            stamp_ns = time.time_ns()
            image = _rgb(bgr)
            camera = self._choice.of_size(image.shape[1], image.shape[0])
            yield Frame(image, camera, stamp_ns, self._frame_id, index, self.description)
            index += 1


class VideoWriter:
    """Writes RGB pictures to a video file, which appears under its name only when it is complete.

    The suffix chooses the codec among those free to ship: `.mp4` is MPEG-4 part 2 (fast and small; plays in VLC, mpv
    and most players, not in browsers), `.webm` is VP8 (plays in browsers too; encoding takes some twenty times as
    long), `.avi` is Motion JPEG (each frame on its own; large). H.264 encoders are patented or GPL, so none is used.

    path: of the file; replaced if it exists. fps: frames a second. The first picture sets the size.

    A context manager; leaving it by an exception leaves no file. Raises RecordingError.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in _CODECS:
            raise RecordingError(f"videos are written as {', '.join(_CODECS)}, not '{self.path.suffix}': {self.path}")
        if not 0 < fps < 1e4:
            raise RecordingError(f"a video needs a positive number of frames a second, not {fps}")
        self._fps = _mpeg4_rate(fps) if self.path.suffix.lower() == ".mp4" else fps
        require_utf8(self.path)
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self.count = 0

    def write(self, image: RgbImage) -> None:
        """Appends a picture (H, W, 3), uint8 RGB, all of the same size; an odd last row or column is left out."""
        height, width = (side // 2 * 2 for side in image.shape[:2])  # the codecs share colours between 2×2 pixels
        if self._writer is None:
            self._writer, self._size = self._open(width, height), (width, height)
        if (width, height) != self._size:
            raise RecordingError(
                f"{self.path}: a picture of {width}x{height} in a video of {self._size[0]}x{self._size[1]}: resize it "
                "or write a video for each size"
            )
        self._writer.write(cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2BGR))
        self.count += 1

    def close(self) -> None:
        """Finishes the file. Raises RecordingError where nothing was written, the disk is full, or its name taken."""
        if self._writer is None:
            raise RecordingError(f"{self.path} was not written: there were no pictures to put into it")
        self._writer.release()
        self._writer = None
        if self.count and not is_complete_video(self._partial):
            self._partial.unlink(missing_ok=True)
            raise RecordingError(f"{self.path} could not be written completely: is the disk full?")
        try:
            self._partial.replace(self.path)
        except OSError as error:
            self._partial.unlink(missing_ok=True)
            raise RecordingError(f"cannot write the video {self.path}: {error.strerror}") from error

    def abort(self) -> None:
        """Gives up: the new file is deleted, one that was there before stays."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        with suppress(OSError):  # it may be there without a writer: Ctrl-C can come while the writer is made
            self._partial.unlink()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        if self.path.is_dir():  # better said before an hour of pictures than after it
            raise RecordingError(f"cannot write the video {self.path}: it is a folder")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(f"cannot create the folder {self.path.parent}: {error.strerror}") from error
        code = cv2.VideoWriter.fourcc(*_CODECS[self.path.suffix.lower()])
        writer = cv2.VideoWriter(_file_name(self._partial), cv2.CAP_FFMPEG, code, self._fps, (width, height))
        if width == 0 or height == 0 or not writer.isOpened():
            raise RecordingError(
                f"cannot write {width}x{height} pictures, {self._fps:g} a second, to {self.path}: is the folder "
                "writable, and does this OpenCV write videos (wildhands doctor)?"
            )
        return writer


def _beginning(capture: cv2.VideoCapture, fps: float) -> tuple[float, float]:
    """When the first frame is shown, by the file's clock, and the median time between frames, both in seconds.

    0 where unknown: older OpenCVs do not tell the former. fps: OpenCV's, in whose periods it counts the file's clock.
    """
    times_ms: list[float] = []
    start = 0.0
    while len(times_ms) < _FIRST_FRAMES and capture.grab():
        if not times_ms and _PTS is not None and fps > 0:
            start = max(capture.get(_PTS), 0.0) / fps
        times_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    steps = np.diff(times_ms)
    return start, float(np.median(steps)) * 1e-3 if len(steps) else 0.0


def is_complete_video(path: Path) -> bool:
    """Whether the file can be opened and is as long as it says."""
    capture = cv2.VideoCapture(_file_name(path), cv2.CAP_FFMPEG)
    opened = bool(capture.isOpened())
    capture.release()
    return opened and not is_cut_off(path)


def is_cut_off(path: Path) -> bool:
    """Whether the outermost boxes of an MP4 or MOV (ISO/IEC 14496-12), or chunks of an AVI, reach past its end.

    Some cameras append bytes of their own: after the index and the pictures only further ones can be cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            (length,) = struct.unpack("<I", head[4:8])
            return size < 8 + int(length)
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return False
        place, needed = 0, {b"moov", b"mdat"}
        while place + 8 <= size:
            file.seek(place)
            header = file.read(16)
            kind = header[4:8]
            if not needed and kind not in (b"moov", b"mdat", b"moof"):
                return False
            length = struct.unpack(">I", header[:4])[0]
            if length == 1 and len(header) == 16:
                length = struct.unpack(">Q", header[8:])[0]
            if length == 0:  # the last box, up to the end of the file
                return False
            if length < 8:
                return True
            place += length
            needed.discard(kind)
        return place > size or (place < size and bool(needed))


def _mpeg4_rate(fps: float) -> float:
    """The nearest rate that MPEG-4 part 2 can express: a fraction whose numerator has 16 bits."""
    digits = next((digits for digits in (3, 2, 1) if fps * 10**digits < 2**16 - 1), 0)
    return round(fps, digits) or fps


def _file_name(path: Path) -> str:
    """The absolute path: at the beginning of a relative one, FFmpeg takes what comes before a colon for a protocol.

    Raises RecordingError for a name that is not UTF-8.
    """
    require_utf8(path)
    return str(path.absolute())


def require_utf8(path: Path) -> None:
    """Raises RecordingError for a video whose name, or folder's name, is not UTF-8: OpenCV would end the process."""
    name = str(path.absolute())
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RecordingError(f"{name!r} is not UTF-8, as names of videos must be: rename the file or folder") from error


def _rgb(bgr: np.ndarray) -> RgbImage:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
