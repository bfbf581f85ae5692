"""EPIC-HandKps: 21 hand joints in 2D on pictures of EPIC-KITCHENS VISOR, published with WildHands (ECCV 2024).

The annotations are one pickle (`hands_5000.pkl`; a smaller one for looking at is `hands_250.pkl`):

    {"…/rgb_frames/<split>/<kitchen>/<video>/<frame>.jpg": {
        "right": {"joints": 21 × (x, y), "joints_valid": 21 × (0 or 1), "bbox": (x0, y0, x1, y1) or None},
        "left": {…}}, …}

Either side may be missing. Places are pixels of the 1920 × 1080 picture; the joints are in the order of AssemblyHands.
The keys are paths on the authors' computer, of which only the file's name is used here. `bbox` holds the whole arm and
is not used. Boxes of a detector, by which the paper's 4,724 hands were chosen, are in another pickle
(`grasp_visor_val.pkl`): {the same key: {"right_bbox": (x0, y0, x1, y1) or None, "left_bbox": …, …}}.

The layout is taken from what the published code reads; the files themselves have not been seen.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ImageError
from wildhands_ros.hand_model.pickles import Plain, RefusedPickle, read_plain_pickle
from wildhands_ros.hands import Side
from wildhands_ros.recordings.pictures import read_picture
from wildhands_ros.samples import Sample, SampleError
from wildhands_ros.training.sources.crops import Box, cut, square_of

FloatArray = NDArray[np.float64]

logger = logging.getLogger(__name__)

WIDTH, HEIGHT, FOCAL = 1920, 1080, 1000.0
"""Size of the annotated pictures, and the focal length that the paper assumes for them."""

_FARTHEST = 4 * WIDTH  # pixels; a crop that reached farther would take memory without end

ASSEMBLY_TO_KEYPOINTS: tuple[int, ...] = (
    20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16,
)  # fmt: skip
"""Keypoint k is joint ASSEMBLY_TO_KEYPOINTS[k] of AssemblyHands, which counts each finger from its tip."""


@dataclass(frozen=True)
class _Annotation:
    key: str
    frame: Path
    side: Side
    keypoints: FloatArray
    weights: FloatArray
    box: Box


class EpicHandKps:
    """EPIC-HandKps as a `SampleSource`: 2D keypoints, no 3D.

    annotations: `hands_5000.pkl` or one of the same layout. frames: folder that holds the VISOR pictures, at any depth.
    boxes: `grasp_visor_val.pkl`; then only hands with a box there, cut by it; else boxes are those of the visible
        joints, widened by a tenth to the skin.
    min_visible: hands with fewer visible joints are left out. The paper says 3; its code asks for 4.
    whole: samples carry their whole picture too (6 MB each at full size), which evaluation wants and training does not.
    Joints that lie several pictures outside count as not visible, and hands with such boxes as not found.

    Raises SampleError for files that are not of this layout, and where none of the pictures is there.
    """

    def __init__(
        self, annotations: Path, frames: Path, *, boxes: Path | None = None, min_visible: int = 3, whole: bool = False
    ) -> None:
        self.name = "epic_hand_kps"
        self._whole = whole
        self._annotations, self._frames = annotations, frames
        self.missing_frames = 0
        entries = _entries(annotations)
        places = _pictures(frames, {_file_name(key) for key in entries})
        detected = None if boxes is None else _entries(boxes)
        self._hands: list[_Annotation] = []
        for key, entry in sorted(entries.items()):
            frame = places.get(_file_name(key))
            if frame is None:
                self.missing_frames += 1
                continue
            found_boxes = None if detected is None else detected.get(key, {})
            for side in Side:
                hand = _hand(annotations, boxes, key, frame, side, entry, found_boxes, min_visible)
                if hand is not None:
                    self._hands.append(hand)
        if entries and self.missing_frames == len(entries):
            raise SampleError(
                f"{frames} holds none of the {len(entries)} pictures that {annotations} describes (such as "
                f"{_file_name(next(iter(entries)))}): give the folder with VISOR's rgb_frames, unpacked"
            )

    def warn_of_missing_frames(self) -> None:
        """Logs how many pictures are missing, where any are: a folder that was unpacked in part looks like a whole one
        otherwise."""
        if self.missing_frames:
            logger.warning(
                "%d of the pictures that %s describes are not in %s: their hands are left out",
                self.missing_frames, self._annotations, self._frames,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._hands)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def fingerprint(self) -> str:
        """Changes with the labels, and with the pictures as far as their sizes tell."""
        digest = hashlib.sha256()
        for hand in self._hands:
            digest.update(repr((hand.key, hand.box, hand.frame.stat().st_size)).encode())
            digest.update(hand.keypoints.tobytes() + hand.weights.tobytes())
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Sample:
        hand = self._hands[index]
        try:
            image, _ = read_picture(hand.frame)
        except ImageError as error:
            raise SampleError(str(error)) from error
        height, width = image.shape[:2]
        scale = width / WIDTH  # VISOR is also passed round in smaller copies
        if abs(height - HEIGHT * scale) > 1:
            raise SampleError(f"{hand.frame} is {width}x{height}, expected the shape of {WIDTH}x{HEIGHT}")
        box: Box = tuple(_scaled(np.array(hand.box), scale).tolist())  # type: ignore[assignment]
        center, extent = square_of(box)
        return Sample(
            key=hand.key,
            source=self.name,
            image=cut(image, center, extent),
            camera=Camera.pinhole(width, height, FOCAL * scale),
            center=center,
            extent=extent,
            side=hand.side,
            box=box,
            keypoints=_scaled(hand.keypoints, scale),
            keypoint_weights=hand.weights,
            visible=hand.weights > 0,
            scene=hand.frame.stem,
            picture=image if self._whole else None,
        )


def _hand(
    annotations: Path, boxes_file: Path | None, key: str, frame: Path, side: Side, entry: Mapping[str, Plain],
    boxes: Mapping[str, Plain] | None, min_visible: int,
) -> _Annotation | None:  # fmt: skip
    """The hand of one side, or None where there is none, or too little of it. boxes: of the picture, from its file."""
    record = entry.get(side.value)
    if record is None:
        return None
    if not isinstance(record, dict) or "joints" not in record or "joints_valid" not in record:
        raise SampleError(f"{annotations}: '{key}', {side.value}: expected 'joints' and 'joints_valid'")
    joints = _numbers(annotations, key, record["joints"], (21, 2))
    valid = _numbers(annotations, key, record["joints_valid"], (21,))
    order = list(ASSEMBLY_TO_KEYPOINTS)
    keypoints, weights = joints[order], (valid[order] > 0).astype(np.float64)
    weights *= _is_near(keypoints)
    if weights.sum() < max(min_visible, 1):
        return None
    keypoints = np.where(weights[:, None] > 0, keypoints, 0.0)
    if boxes is None or boxes_file is None:
        box = _box_of(keypoints[weights > 0])
    else:
        given = boxes.get(f"{side.value}_bbox")
        if given is None:
            return None
        box = tuple(_numbers(boxes_file, key, given, (4,)).tolist())  # type: ignore[assignment]
    if not (box[2] - box[0] >= 1 and box[3] - box[1] >= 1 and _is_near(np.reshape(box, (2, 2))).all()):
        return None
    name = re.sub(r"[^A-Za-z0-9_-]", "_", frame.stem)
    return _Annotation(f"{name}_{side.value}", frame, side, keypoints, weights, box)


def _is_near(places: FloatArray) -> NDArray[np.bool_]:
    """Which pixels (N, 2) are numbers, and not so far outside the picture that they cannot be meant."""
    return np.asarray((np.abs(places) <= _FARTHEST).all(axis=1))


def _box_of(visible: FloatArray) -> Box:
    (x0, y0), (x1, y1) = visible.min(axis=0), visible.max(axis=0)
    margin = 0.1 * max(x1 - x0, y1 - y0)
    return float(x0 - margin), float(y0 - margin), float(x1 + margin), float(y1 + margin)


def _scaled(pixels: FloatArray, scale: float) -> FloatArray:
    """Pixels of the annotated size as those of a resized copy (pixel centres at integers)."""
    return (pixels + 0.5) * scale - 0.5


def _entries(path: Path) -> dict[str, dict[str, Plain]]:
    try:
        stored = read_plain_pickle(path.read_bytes())
    except OSError as error:
        raise SampleError(f"cannot read {path}: {error.strerror}") from error
    except RefusedPickle as error:
        raise SampleError(f"{path} {error}") from error
    if not isinstance(stored, dict):
        raise SampleError(f"{path} holds no dictionary of pictures")
    entries: dict[str, dict[str, Plain]] = {}
    for key, entry in stored.items():
        if not isinstance(entry, dict):
            raise SampleError(f"{path}: '{key}' holds no dictionary of hands")
        entries[key] = entry
    return entries


def _numbers(path: Path, key: str, value: Plain, shape: tuple[int, ...]) -> FloatArray:
    """An array of this shape. Measured before it is made: a small file can hold one list in very many places."""
    if not _holds(value, shape):
        found = _shape_of(value)
        if found is None or found == shape:
            raise SampleError(f"{path}: '{key}' does not hold numbers of shape {shape}")
        raise SampleError(f"{path}: '{key}' holds numbers of shape {found}, expected {shape}")
    try:
        return np.array(value, dtype=np.float64)
    except OverflowError as error:
        raise SampleError(f"{path}: '{key}' does not hold numbers ({error})") from error


def _holds(value: Plain, shape: tuple[int, ...]) -> bool:
    """Whether a number, an array, or lists of them have this shape."""
    if isinstance(value, np.ndarray):
        return value.shape == shape
    if not shape:
        return isinstance(value, (int, float))
    return isinstance(value, list) and len(value) == shape[0] and all(_holds(item, shape[1:]) for item in value)


def _shape_of(value: Plain) -> tuple[int, ...] | None:
    """The shape that lists have judging by the first of each; None where that is no number."""
    if isinstance(value, list):
        inner = _shape_of(value[0]) if value else ()
        return None if inner is None else (len(value), *inner)
    if isinstance(value, np.ndarray):
        return value.shape
    return () if isinstance(value, (int, float)) else None


def _file_name(key: str) -> str:
    return re.split(r"[/\\]", key)[-1]


def _pictures(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Those of these pictures that are below a folder, by their names, which are unique in VISOR."""
    if not folder.is_dir():
        raise SampleError(f"{folder} is no folder")
    found: dict[str, Path] = {}
    known: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        known.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(parent, name)) not in known]  # loops
        found.update({name: Path(parent) / name for name in names if name in wanted})
    return found
