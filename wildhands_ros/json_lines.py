"""Results as JSON lines, and hand boxes from a JSON file.

One object a frame; all numbers are finite (what is not known is null) and lists are plain:

    {"frame": 0, "name": "picture.jpg", "stamp_ns": 0, "width": 1280, "height": 720,
     "camera": {"model": "pinhole", "K": [9 numbers], "D": []}, "estimator": "landmarks", "hand_model": "open",
     "hands": [{"side": "left", "side_probability": 0.99, "score": 0.97, "track_id": 3, "box": [x0, y0, x1, y1],
                "keypoints": [[u, v], … 21], "joints": [[x, y, z], … 21],
                "wrist": {"position": [3], "orientation": [x, y, z, w]},
                "pose": [[[3]×3]×16], "betas": [10], "translation": [3], "reprojection_error": 4.2, "valid": true,
                "jump": false, "smoothed": false, "grasp": {"class": 3, "probabilities": [one for each class]},
                "vertices": [[x, y, z], … 778]}],
     "skipped": ["why a box has no hand", …],
     "timings": {"detect": seconds, "estimate": seconds, "track": seconds, "total": seconds}}

`grasp` is null where the estimator tells none; `vertices` are there only where asked for.

Boxes: {"picture.jpg": [{"side": "right", "box": [x0, y0, x1, y1], "score": 1.0}, …]}, by the frame's name or number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wildhands_ros.errors import ConfigError
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand, HandBox, Side
from wildhands_ros.json_values import without_nan
from wildhands_ros.pipeline import PipelineResult
from wildhands_ros.rotations import quaternion_from_matrix


def frame_to_json(frame: Frame, result: PipelineResult, *, estimator: str, hand_model: str, vertices: bool) -> str:
    """One line without the line break; see the module's description."""
    record = {
        "frame": frame.index,
        "name": frame.name,
        "stamp_ns": frame.stamp_ns,
        "width": frame.camera.width,
        "height": frame.camera.height,
        "camera": frame.camera.to_dict(),
        "estimator": estimator,
        "hand_model": hand_model,
        "hands": [hand_to_dict(hand, vertices=vertices) for hand in result.hands],
        "skipped": list(result.skipped),
        "timings": dict(result.timings),
    }
    return json.dumps(without_nan(record), allow_nan=False, separators=(",", ":"))


def hand_to_dict(hand: Hand, *, vertices: bool = False) -> dict[str, Any]:
    """One hand as plain values, nothing rounded."""
    position, orientation = hand.wrist
    record: dict[str, Any] = {
        "side": hand.side.value,
        "side_probability": hand.side_probability,
        "score": hand.score,
        "track_id": hand.track_id,
        "box": list(hand.box),
        "keypoints": hand.keypoints.tolist(),
        "joints": hand.joints.tolist(),
        "wrist": {"position": position.tolist(), "orientation": quaternion_from_matrix(orientation).tolist()},
        "pose": hand.pose.tolist(),
        "betas": hand.betas.tolist(),
        "translation": hand.translation.tolist(),
        "reprojection_error": hand.reprojection_error,
        "valid": hand.valid,
        "jump": hand.jump,
        "smoothed": hand.smoothed,
        "grasp": None if hand.grasp is None else {"class": hand.grasp[0], "probabilities": hand.grasp[1].tolist()},
    }
    if vertices and hand.vertices is not None:
        record["vertices"] = hand.vertices.tolist()
    return record


class BoxFile:
    """Hand boxes given by the user instead of a detector's."""

    def __init__(self, boxes: Mapping[str, tuple[HandBox, ...]]) -> None:
        self._boxes = boxes
        self._asked: set[str] = set()

    @classmethod
    def read(cls, path: str | Path) -> BoxFile:
        """Raises ConfigError, naming the entry, for anything but the documented form."""
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        except OSError as error:
            raise ConfigError(f"cannot read the boxes in {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error
        if not isinstance(data, dict):
            found = "a list" if isinstance(data, list) else json.dumps(data)[:40]
            raise ConfigError(f"{path}: expected an object with a frame's name or number as key, not {found}")
        return cls({key: _boxes(f"{path}: '{key}'", entries) for key, entries in data.items()})

    def of(self, frame: Frame) -> tuple[HandBox, ...]:
        """The boxes of a frame, by its name, its file name, or its number; none if the file does not mention it."""
        for key in (frame.name, Path(frame.name).name, str(frame.index)):
            if key in self._boxes:
                self._asked.add(key)
                return self._boxes[key]
        return ()

    def unused(self) -> tuple[str, ...]:
        """The names and numbers in the file that no frame asked for so far has."""
        return tuple(key for key in self._boxes if key not in self._asked)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; refuses a key that occurs twice, of which json would silently drop the first value."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"'{key}' is there twice in one object")
        found[key] = value
    return found


def _boxes(where: str, entries: Any) -> tuple[HandBox, ...]:
    if not isinstance(entries, list):
        raise ConfigError(f"{where} must be a list of boxes")
    boxes = []
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise TypeError("it is no object")
            missing = [key for key in ("side", "box") if key not in entry]
            if missing:
                raise ValueError(f'it has no "{missing[0]}"')
            side = Side(entry["side"])
            if not isinstance(entry["box"], list):  # a text of four digits would do as well
                raise TypeError("the box is no list")
            x0, y0, x1, y1 = (_number(v) for v in entry["box"])
            score = _number(entry.get("score", 1.0))
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f'{where}, box {i}: expected {{"side": "left" or "right", "box": [x0, y0, x1, y1]}}, problem: {error}'
            ) from error
        if not all(map(math.isfinite, (x0, y0, x1, y1, score))) or x1 <= x0 or y1 <= y0:
            raise ConfigError(f"{where}, box {i}: needs finite numbers with x0 < x1 and y0 < y1, not {entry['box']}")
        if not 0 <= score <= 1:
            raise ConfigError(f"{where}, box {i}: the score is a probability, 0 to 1, not {score:g}")
        boxes.append(HandBox(side, (x0, y0, x1, y1), score))
    return tuple(boxes)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)
