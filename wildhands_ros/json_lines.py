"""Results as JSON lines.

One object a frame; all numbers are finite (what is not known is null) and lists are plain:

    {"frame": 0, "name": "picture.jpg", "stamp_ns": 0, "width": 1280, "height": 720,
     "camera": {"model": "pinhole", "K": [9 numbers], "D": []}, "estimator": "landmarks", "hand_model": "open",
     "hands": [{"side": "left", "side_probability": 0.99, "score": 0.97, "track_id": 3, "box": [x0, y0, x1, y1],
                "keypoints": [[u, v], … 21], "joints": [[x, y, z], … 21],
                "wrist": {"position": [3], "orientation": [x, y, z, w]},
                "pose": [[[3]×3]×16], "betas": [10], "translation": [3], "reprojection_error": 4.2,
                "expected_error": 0.015, "valid": true, "jump": false, "smoothed": false,
                "grasp": {"class": 3, "probabilities": [one for each class]}, "vertices": [[x, y, z], … 778]}],
     "skipped": ["why a box has no hand", …],
     "timings": {"detect": seconds, "estimate": seconds, "track": seconds, "total": seconds}}

`grasp` is null where the estimator tells none; `vertices` are there only where asked for.
"""

from __future__ import annotations

import json
from typing import Any

from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand
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
        "expected_error": hand.expected_error,
        "valid": hand.valid,
        "jump": hand.jump,
        "smoothed": hand.smoothed,
        "grasp": None if hand.grasp is None else {"class": hand.grasp[0], "probabilities": hand.grasp[1].tolist()},
    }
    if vertices and hand.vertices is not None:
        record["vertices"] = hand.vertices.tolist()
    return record
