"""Hand boxes from a JSON file.

{"picture.jpg": [{"side": "right", "box": [x0, y0, x1, y1], "score": 1.0}, …]}, by the frame's name or number, or
by a path that ends in its name.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wildhands_ros.errors import ConfigError
from wildhands_ros.frames import Frame
from wildhands_ros.hands import HandBox, Side


class BoxFile:
    """Hand boxes given by the user instead of a detector's."""

    def __init__(self, boxes: Mapping[str, tuple[HandBox, ...]]) -> None:
        self._boxes = boxes
        self._asked: set[str] = set()
        names = {key: _file_name(key) for key in boxes}
        count = Counter(names.values())
        self._keys = {name: key for key, name in names.items() if count[name] == 1}

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
        """The boxes of a frame, by its name, its file name, or its number; none if the file does not mention it.

        A key that is a path stands for the file at its end, where no other key ends in the same.
        """
        file = Path(frame.name).name
        for key in (frame.name, file, self._keys.get(_file_name(file)), str(frame.index)):
            if key is not None and key in self._boxes:
                self._asked.add(key)
                return self._boxes[key]
        return ()

    def unused(self) -> tuple[str, ...]:
        """The names and numbers in the file that no frame asked for so far has."""
        return tuple(key for key in self._boxes if key not in self._asked)


def _file_name(key: str) -> str:
    """Without folders, and with umlauts as one letter: some systems' file names have them as two."""
    return unicodedata.normalize("NFC", re.split(r"[/\\]", key)[-1])


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
