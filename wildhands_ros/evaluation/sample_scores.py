"""How far predictions for samples are from their labels, hand by hand."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.evaluation.facts import BREAKDOWNS, OF_ESTIMATES, describe, describe_estimate
from wildhands_ros.evaluation.metrics import (
    absolute_errors,
    intersection_over_union,
    mpjpe_errors,
    orientation_errors,
    pa_mpjpe_errors,
    weighted_keypoint_errors,
    wrist_errors,
)
from wildhands_ros.evaluation.outline import Outline
from wildhands_ros.hands import FINGERS, Side
from wildhands_ros.samples import CROP_SIZE, HIDDEN, Sample, inside_picture

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

logger = logging.getLogger(__name__)

_FRAME = 224  # edge of the padded frame in whose pixels the field reports 2D errors
_NEAREST = 0.01  # metres; joints that are predicted nearer, or behind the camera, are projected from here
_TIPS = [finger[-1] for finger in FINGERS.values()]


@dataclass(frozen=True)
class Measure:
    """One column of a table."""

    name: str
    title: str
    decimals: int = 1


MEASURES: tuple[Measure, ...] = (
    Measure("mpjpe_mm", "MPJPE mm"),
    Measure("pa_mpjpe_mm", "PA-MPJPE mm"),
    Measure("wrist_mm", "wrist mm"),
    Measure("wrist_percent", "wrist % of distance", 2),
    Measure("absolute_mm", "absolute mm"),
    Measure("mrrpe_mm", "MRRPE mm"),
    Measure("orientation_deg", "orientation °"),
    Measure("keypoint_px", "2D px of 224", 2),
    Measure("keypoint_percent", "2D % of box", 2),
    Measure("tip_percent", "tips % of box", 2),
    Measure("mask_iou_percent", "mask IoU %"),
    Measure("grasp_percent", "grasp right %"),
    Measure("estimated_percent", "estimated %"),
    Measure("latency_ms", "ms a hand", 2),
)
"""What is measured. docs/evaluation.md defines each."""


@dataclass(frozen=True)
class Predictions:
    """What an estimator said of N samples; NaN (-1 for `grasps`) where it said nothing.

    joints: (N, 21, 3) metres, camera frame, keypoint order.
    vertices: (N, V, 3) metres, with `faces` of each side (F, 3): for mask IoU.
    grasps: (N,) class numbers. latencies: (N,) seconds. expected_errors: (N,) metres, see `Hand.expected_error`.
    valid: (N,) see `Hand.valid`; counts where joints are finite.
    """

    joints: FloatArray
    vertices: FloatArray | None = None
    faces: Mapping[Side, NDArray[np.int32]] | None = None
    grasps: NDArray[np.int64] | None = None
    latencies: FloatArray | None = None
    expected_errors: FloatArray | None = None
    valid: BoolArray | None = None

    def __post_init__(self) -> None:
        if self.joints.ndim != 3 or self.joints.shape[1:] != (21, 3):
            raise ValueError(f"joints have shape {self.joints.shape}, expected (N, 21, 3)")
        for name in ("vertices", "grasps", "latencies", "expected_errors", "valid"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.joints):
                raise ValueError(f"{len(value)} {name} for {len(self.joints)} hands")
        if self.vertices is not None and self.faces is None:
            raise ValueError("vertices need the faces of their mesh")


@dataclass(frozen=True)
class SampleScores:
    """The measures of N samples.

    keys: (N) of the samples. scenes: (N) which of them belong together, for confidence intervals.
    values: measure's name → (N,), in the unit of its title; NaN where the sample has no such label or there was no
        estimate. `estimated_percent` is 100 or 0, so that means of the others can be read beside it.
    groups: breakdown's name (`facts.BREAKDOWNS` and `OF_ESTIMATES`) → (N) the group of each sample.
    labelled: measure's name → (N,) which samples have the label that it needs, estimated or not; for the measures in
        `plots.plot_curves`.
    """

    keys: tuple[str, ...]
    scenes: tuple[str, ...]
    values: Mapping[str, FloatArray]
    groups: Mapping[str, tuple[str, ...]]
    labelled: Mapping[str, BoolArray]

    def __len__(self) -> int:
        return len(self.keys)

    def mean(self, measure: str) -> float:
        """Mean over the samples that have a value; NaN where none has."""
        values = self.values[measure]
        finite = values[np.isfinite(values)]
        return float(finite.mean()) if len(finite) else float("nan")

    def means(self) -> dict[str, float]:
        """Every measure's mean, those without any value left out."""
        every = {name: self.mean(name) for name in self.values}
        return {name: value for name, value in every.items() if np.isfinite(value)}

    @classmethod
    def joined(cls, parts: Sequence[SampleScores]) -> SampleScores:
        """The samples of all parts. Raises ValueError without any."""
        if not parts:
            raise ValueError("there are no samples to score")
        return cls(
            tuple(key for part in parts for key in part.keys),
            tuple(scene for part in parts for scene in part.scenes),
            {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
            {name: tuple(g for part in parts for g in part.groups[name]) for name in parts[0].groups},
            {name: np.concatenate([part.labelled[name] for part in parts]) for name in parts[0].labelled},
        )


def score_samples(predictions: Predictions, samples: Sequence[Sample], *, with_masks: bool = True) -> SampleScores:
    """Compares prediction i with sample i. Labels that a sample lacks leave their measures NaN.

    with_masks: mask IoU costs about 1 ms a hand, all else some 0.05 ms. It stays NaN, with a warning, where the faces
        are no surface.
    """
    if len(predictions.joints) != len(samples):
        raise ValueError(f"{len(predictions.joints)} predictions for {len(samples)} samples")
    joints, count = predictions.joints, len(samples)
    estimated = np.asarray(np.isfinite(joints).all(axis=(1, 2)))
    values = {measure.name: np.full(count, np.nan) for measure in MEASURES}
    values["estimated_percent"] = np.where(estimated, 100.0, 0.0)
    if predictions.latencies is not None:
        values["latency_ms"] = 1e3 * predictions.latencies
    _score_joints(values, joints, samples, estimated)
    values["mrrpe_mm"] = pair_errors(joints, [SceneHand.of(sample) for sample in samples])
    _score_keypoints(values, joints, samples, estimated)
    _score_grasps(values, predictions.grasps, samples)
    if with_masks and predictions.vertices is not None and predictions.faces is not None:
        outlines = outlines_of(predictions.faces)
        for i in np.flatnonzero(estimated).tolist() if outlines else ():
            values["mask_iou_percent"][i] = 100 * _mask_iou(predictions.vertices[i], outlines, samples[i])
    described = [
        describe(sample)
        | describe_estimate(
            math.nan if predictions.expected_errors is None else float(predictions.expected_errors[i]),
            bool(predictions.valid[i]) if predictions.valid is not None and estimated[i] else None,
        )
        for i, sample in enumerate(samples)
    ]
    return SampleScores(
        tuple(sample.key for sample in samples),
        tuple(sample.scene or f"{sample.source}/{sample.key}" for sample in samples),
        values,
        {name: tuple(facts[name] for facts in described) for name in (*BREAKDOWNS, *OF_ESTIMATES)},
        _labelled(samples),
    )


def _labelled(samples: Sequence[Sample]) -> dict[str, BoolArray]:
    """`SampleScores.labelled`: the samples for which any estimate has an error."""
    joints = [np.full((21, 3), np.nan) if sample.joints is None else sample.joints for sample in samples]
    whole = np.array([np.isfinite(points).all() for points in joints], dtype=bool)
    wrist = np.array([np.isfinite(points[0]).all() and points[0].any() for points in joints], dtype=bool)
    keypoints = np.array([_has_keypoints(sample) for sample in samples], dtype=bool)
    return {"mpjpe_mm": whole, "pa_mpjpe_mm": whole, "wrist_percent": wrist, "keypoint_percent": keypoints}


def _has_keypoints(sample: Sample) -> bool:
    if sample.keypoints is None or sample.keypoint_weights is None:
        return False
    error = weighted_keypoint_errors(np.zeros((21, 2)), sample.keypoints, sample.keypoint_weights)
    return bool(np.isfinite(error))


def _score_joints(
    values: dict[str, FloatArray], joints: FloatArray, samples: Sequence[Sample], estimated: BoolArray
) -> None:
    chosen = [i for i in np.flatnonzero(estimated).tolist() if samples[i].joints is not None]
    if not chosen:
        return
    truth = np.stack([j for i in chosen if (j := samples[i].joints) is not None])
    found = joints[chosen]
    values["mpjpe_mm"][chosen] = 1e3 * mpjpe_errors(found, truth)
    values["pa_mpjpe_mm"][chosen] = 1e3 * pa_mpjpe_errors(found, truth)
    values["absolute_mm"][chosen] = 1e3 * absolute_errors(found, truth)
    wrist = wrist_errors(found, truth)
    values["wrist_mm"][chosen] = 1e3 * wrist
    distance = np.linalg.norm(truth[:, 0], axis=-1)
    values["wrist_percent"][chosen] = 100 * wrist / np.where(distance > 0, distance, np.nan)
    values["orientation_deg"][chosen] = np.degrees(orientation_errors(found, truth))


@dataclass(frozen=True)
class SceneHand:
    """What tells which hands are a pair, and its wrist (3,), metres; None where the sample has no joints."""

    source: str
    scene: str
    side: Side
    camera: Camera
    wrist: FloatArray | None

    @classmethod
    def of(cls, sample: Sample) -> SceneHand:
        wrist = None if sample.joints is None else sample.joints[0]
        return cls(sample.source, sample.scene, sample.side, sample.camera, wrist)


def pair_errors(joints: FloatArray, hands: Sequence[SceneHand]) -> FloatArray:
    """MRRPE (N,) in millimetres of joints (N, 21, 3); NaN for hands that are no pair: one left and one right hand, the
    only ones of their scene, estimated or not.

    Given to both hands of a pair, so that its mean over samples is the mean over pairs.
    """
    errors = np.full(len(hands), np.nan)
    estimated = np.asarray(np.isfinite(joints).all(axis=(1, 2)))
    scenes: dict[tuple[str, str, Camera], list[int]] = {}
    for i, hand in enumerate(hands):
        if hand.scene:
            scenes.setdefault((hand.source, hand.scene, hand.camera), []).append(i)
    for together in scenes.values():
        pair = {hands[i].side: i for i in together}
        if len(pair) == len(together) == 2 and estimated[together].all():
            left, right = pair[Side.LEFT], pair[Side.RIGHT]
            true_left, true_right = hands[left].wrist, hands[right].wrist
            if true_left is not None and true_right is not None:
                offset = joints[left, 0] - joints[right, 0] - (true_left - true_right)
                errors[[left, right]] = 1e3 * np.linalg.norm(offset)
    return errors


def _score_keypoints(
    values: dict[str, FloatArray], joints: FloatArray, samples: Sequence[Sample], estimated: BoolArray
) -> None:
    for i in np.flatnonzero(estimated).tolist():
        sample = samples[i]
        if sample.keypoints is None or sample.keypoint_weights is None:
            continue
        camera = sample.camera
        found = _project(camera, joints[i], limit=float(np.hypot(camera.width, camera.height)), near=sample.keypoints)
        error = float(weighted_keypoint_errors(found, sample.keypoints, sample.keypoint_weights))
        x0, y0, x1, y1 = sample.box
        edge = max(x1 - x0, y1 - y0)
        values["keypoint_px"][i] = error * _FRAME / max(camera.width, camera.height)
        values["keypoint_percent"][i] = 100 * error / edge
        tips = sample.keypoint_weights[_TIPS]
        if sample.visible is not None:
            tips = tips * sample.visible[_TIPS]
        tip_error = float(weighted_keypoint_errors(found[_TIPS], sample.keypoints[_TIPS], tips))
        values["tip_percent"][i] = 100 * tip_error / edge


def _project(camera: Camera, joints: FloatArray, *, limit: float, near: FloatArray) -> FloatArray:
    """Pixels of joints. Those at or behind the camera have none, and count as far off, but no more than `limit`."""
    front = np.concatenate([joints[:, :2], np.maximum(joints[:, 2:], _NEAREST)], axis=1)
    offset = camera.project(front) - near
    length = np.linalg.norm(offset, axis=-1, keepdims=True)
    return near + offset * np.minimum(1.0, limit / np.maximum(length, 1e-9))


def _score_grasps(values: dict[str, FloatArray], grasps: NDArray[np.int64] | None, samples: Sequence[Sample]) -> None:
    if grasps is None:
        return
    for i, sample in enumerate(samples):
        if sample.grasp is not None and grasps[i] >= 0:
            values["grasp_percent"][i] = 100.0 * (int(grasps[i]) == sample.grasp)


def outlines_of(faces: Mapping[Side, NDArray[np.int32]]) -> dict[Side, Outline]:
    """The outline of each side's mesh; none, with a warning, where their faces are no surface."""
    try:
        return {side: Outline(triangles) for side, triangles in faces.items()}
    except ValueError as error:
        logger.warning("mask IoU stays unknown: the hand model's faces are no surface that has an outline (%s)", error)
        return {}


def _mask_iou(vertices: FloatArray, outlines: Mapping[Side, Outline], sample: Sample) -> float:
    """IoU over the crop's pixels that lie in the picture and of which it is known whether they show this hand."""
    if sample.mask is None or not np.any(sample.mask == 255):
        return float("nan")
    if not np.isfinite(vertices).all():
        return float("nan")
    if vertices[:, 2].min() <= _NEAREST:
        return 0.0
    pixels = crop_pixels(sample, sample.camera.project(vertices))
    covered = outlines[sample.side].mask(pixels, CROP_SIZE)
    known = (sample.mask != HIDDEN) & inside_picture(sample)
    return intersection_over_union(covered, sample.mask == 255, known)


def crop_pixels(sample: Sample, pixels: FloatArray) -> FloatArray:
    """Pixels (…, 2) of a sample's picture as pixels of its crop; the inverse of what `Sample` says of `center`."""
    return np.asarray((pixels - np.array(sample.center)) * (CROP_SIZE / sample.extent) + (CROP_SIZE - 1) / 2)
