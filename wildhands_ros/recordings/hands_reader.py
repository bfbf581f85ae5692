"""Hands back out of a bag, as they were published."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wildhands_ros.errors import RecordingError
from wildhands_ros.hands import Hand, Side
from wildhands_ros.recordings.bag_reader import BagReader
from wildhands_ros.recordings.message_types import HAND_POSE_ARRAY

_SECOND = 10**9
_SIDES = {1: Side.LEFT, 2: Side.RIGHT}  # HandPose.SIDE_LEFT, SIDE_RIGHT
_GRASP_UNKNOWN = 255  # HandPose.GRASP_UNKNOWN


@dataclass(frozen=True)
class RecordedHands:
    """The hands of one image. stamp_ns: the image's. latency_s, processing_s: as the node measured them."""

    stamp_ns: int
    frame_id: str
    image_size: tuple[int, int]
    hands: tuple[Hand, ...]
    latency_s: float
    processing_s: float


def read_hands(path: str | Path, topic: str | None = None) -> Iterator[RecordedHands]:
    """Every HandPoseArray of a bag, in the order of recording.

    topic: may be left out where only one topic of the bag has that type. Raises RecordingError.
    """
    with BagReader(path) as bag:
        kinds = {name: t.msgtype for name, t in bag.topics.items()}
        candidates = [name for name, kind in kinds.items() if kind == HAND_POSE_ARRAY]
        if topic is None and len(candidates) == 1:
            topic = candidates[0]
        if topic not in candidates:
            raise RecordingError(
                f"{path}: name the topic of the hands; of type {HAND_POSE_ARRAY} are: {', '.join(candidates) or 'none'}"
            )
        for message in bag.messages([topic]):
            try:
                found = recorded_hands(bag.deserialize(message))
            except AttributeError as error:
                raise RecordingError(
                    f"{path}: {topic} was recorded by another version of wildhands_ros, whose messages lack "
                    f"'{error.name}': read it with that version"
                ) from error
            yield found


def recorded_hands(message: Any) -> RecordedHands:
    """The values of a HandPoseArray, from ROS or from a bag; those of float32 fields have that precision.

    Raises RecordingError where the vertices are not a multiple of three numbers.
    """
    return RecordedHands(
        stamp_ns=_nanoseconds(message.header.stamp),
        frame_id=str(message.header.frame_id),
        image_size=(int(message.image_width), int(message.image_height)),
        hands=tuple(_hand(m) for m in message.hands if m.side in _SIDES),
        latency_s=_nanoseconds(message.latency) * 1e-9,
        processing_s=_nanoseconds(message.processing_time) * 1e-9,
    )


def _hand(m: Any) -> Hand:
    if len(m.vertices) % 3:
        raise RecordingError(f"a hand has {len(m.vertices)} numbers for its vertices, which have three each")
    vertices = np.asarray(m.vertices, np.float64).reshape(-1, 3)
    known_grasp = m.grasp != _GRASP_UNKNOWN
    x0, y0, x1, y1 = (float(v) for v in m.box)
    return Hand(
        side=_SIDES[m.side],
        score=float(m.score),
        box=(x0, y0, x1, y1),
        joints=np.array([[p.x, p.y, p.z] for p in m.joints], np.float64),
        keypoints=np.asarray(m.keypoints, np.float64).reshape(21, 2),
        pose=np.asarray(m.mano_pose, np.float64).reshape(16, 3, 3),
        betas=np.asarray(m.mano_betas, np.float64),
        translation=np.asarray(m.mano_translation, np.float64),
        estimator=str(m.estimator),
        hand_model=str(m.hand_model),
        vertices=vertices if len(vertices) else None,
        side_probability=float(m.side_probability),
        reprojection_error=float(m.reprojection_error),
        expected_error=float(getattr(m, "expected_error", math.nan)),  # bags of before it was there
        valid=bool(m.valid),
        jump=bool(m.jump),
        smoothed=bool(m.smoothed),
        track_id=int(m.track_id),
        grasp=(int(m.grasp), np.asarray(m.grasp_probabilities, np.float64)) if known_grasp else None,
    )


def _nanoseconds(time: Any) -> int:
    return int(time.sec) * _SECOND + int(time.nanosec)
