"""One image with everything that came of it, kept on disk for a bug report."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from wildhands_ros.drawing import draw_hands
from wildhands_ros.errors import WildHandsError
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Side
from wildhands_ros.images import encoded
from wildhands_ros.json_lines import frame_to_json
from wildhands_ros.paths import require_home
from wildhands_ros.pipeline import PipelineResult

_MOST_OF_ONE_SECOND = 1000


class CaptureError(WildHandsError):
    """A capture that could not be made: no image came, or the folder cannot be written."""


@dataclass(frozen=True)
class Sight:
    """One image and what the pipeline made of it, in the camera's frame."""

    frame: Frame
    result: PipelineResult
    faces: Mapping[Side, NDArray[np.integer]]


class Shutter:
    """Hands the next processed image to the thread that waits for one. Thread-safe; one may wait at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: Future[Sight] | None = None

    def next(self, timeout_s: float) -> Sight:
        """Waits for the next image that is processed. Raises CaptureError if none comes in time."""
        wanted: Future[Sight] = Future()
        with self._lock:
            self._wanted = wanted
        try:
            return wanted.result(timeout_s)
        except FutureTimeoutError:
            raise CaptureError(f"no image was processed within {timeout_s:g} s: see the diagnostics for why") from None
        finally:
            with self._lock:
                self._wanted = None

    def offer(self, sight: Sight) -> None:
        """Gives an image that was just processed to the one who waits, if any."""
        wanted = self._take()
        if wanted is not None:
            wanted.set_result(sight)

    def cancel(self, reason: str) -> None:
        """Tells the one who waits, if any, that no image will come."""
        wanted = self._take()
        if wanted is not None:
            wanted.set_exception(CaptureError(reason))

    def _take(self) -> Future[Sight] | None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            return wanted


def write_capture(folder: Path, sight: Sight, diagnostics: Mapping[str, str], at: datetime | None = None) -> Path:
    """Writes a new folder below `folder` and returns it; `folder` is made if need be, and nothing else is touched.

    image.png, as it came (RGB); annotated.png; hands.json, as `wildhands run --json --vertices` writes them;
    camera.yaml, in the format of camera_calibration; diagnostics.json. The new folder appears when it is complete.

    Raises CaptureError with the reason where it cannot be written.
    """
    name = (at or datetime.now(timezone.utc)).strftime("%Y%m%d_%H%M%S")
    part = None
    try:
        require_home(folder)
        folder.mkdir(parents=True, exist_ok=True)
        place = _unused(folder, name)
        part = place.with_name(f".{place.name}.part")
        part.mkdir()
        _write_files(part, sight, diagnostics)
        part.rename(place)
        return place
    except OSError as error:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        raise CaptureError(
            f"cannot write the capture into {folder}: {error.strerror or error}. Make room or set capture_dir"
        ) from error


def _unused(folder: Path, name: str) -> Path:
    for number in range(_MOST_OF_ONE_SECOND):
        place = folder / (name if number == 0 else f"{name}_{number}")
        if not place.exists() and not place.with_name(f".{place.name}.part").exists():
            return place
    raise OSError(f"there are {_MOST_OF_ONE_SECOND} captures called {name} already")


def _write_files(folder: Path, sight: Sight, diagnostics: Mapping[str, str]) -> None:
    frame, result = sight.frame, sight.result
    _write_png(folder / "image.png", frame.image)
    _write_png(folder / "annotated.png", draw_hands(frame.image, result.hands, frame.camera, sight.faces))
    hand = result.hands[0] if result.hands else None
    hands = frame_to_json(
        frame,
        result,
        estimator="" if hand is None else hand.estimator,
        hand_model="" if hand is None else hand.hand_model,
        vertices=True,
    )
    (folder / "hands.json").write_text(f"{hands}\n")
    (folder / "camera.yaml").write_text(yaml.safe_dump(frame.camera.to_calibration(frame.frame_id), sort_keys=False))
    (folder / "diagnostics.json").write_text(json.dumps(dict(diagnostics), indent=2, ensure_ascii=False) + "\n")


def _write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    data = encoded(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if data is None:
        raise OSError(f"OpenCV could not encode {path.name}")
    path.write_bytes(data)
