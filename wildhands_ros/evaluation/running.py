"""Runs an estimator, through its public interface, on samples."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.detection.landmarks import LandmarkNetwork, region_of_landmarks
from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.estimation import Estimator, hand_length
from wildhands_ros.estimation.known_length import of_length, resized
from wildhands_ros.evaluation.sample_scores import (
    Predictions,
    SampleScores,
    SceneHand,
    outlines_of,
    pair_errors,
    score_samples,
)
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand, HandBox, Landmarks, Side
from wildhands_ros.samples import BOX_FACTOR, CROP_SIZE, Sample

FloatArray = NDArray[np.float64]

logger = logging.getLogger(__name__)

_REGION_OF_BOX = 1.3  # edge of the first look's square over the box's longer edge
_WARM_UP = 3  # scenes run once before any is timed
_SAME_SIZE = 1e-3  # a quarter of a pixel over a crop


class LandmarkFinder:
    """Landmarks of a hand whose box is known, for estimators that start from them.

    Looks at the box with the fingers up, down, left and right, and each time again where the hand was seen then; the
    answer that is confident and that the second look confirms best is taken.
    """

    def __init__(self, network: LandmarkNetwork) -> None:
        self._network = network

    def find(self, image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> Landmarks | None:
        """image: (H, W, 3) RGB. None where the network sees nothing."""
        picture = Pyramid(image)
        x0, y0, x1, y1 = box
        edge = max(x1 - x0, y1 - y0)
        best, best_score = None, -np.inf
        for quarter in range(4):
            region = Region((x0 + x1) / 2, (y0 + y1) / 2, _REGION_OF_BOX * edge, quarter * np.pi / 2)
            first = self._network.look(picture, region)
            again = first and self._network.look(picture, region_of_landmarks(first.landmarks.image))
            if first is None or again is None:
                continue
            moved = np.linalg.norm(again.landmarks.image - first.landmarks.image, axis=1).mean() / edge
            if again.presence - moved > best_score:
                best, best_score = again.landmarks, again.presence - moved
        return best


def scenes(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples that follow each other and show the same picture, as the same camera has it, together."""
    for (_, scene, _), group in groupby(samples, key=lambda sample: (sample.source, sample.scene, sample.camera)):
        if scene:
            yield list(group)
        else:
            yield from ([sample] for sample in group)


def frame_from_scene(samples: Sequence[Sample]) -> Frame:
    """The picture that samples of one scene were cut from: the whole of it where they carry it (`Sample.picture`), else
    as far as they show it; the rest is black.

    Each crop is then scaled back to its place (a crop cut from the result at the same place is the same but for the
    blur of the two scalings). Where crops overlap, the one whose middle is nearer decides.
    Raises ValueError for samples of different cameras.
    """
    camera = samples[0].camera
    if any(sample.camera != camera for sample in samples):
        raise ValueError(f"scene '{samples[0].scene}': its samples have different cameras")
    name = samples[0].scene or samples[0].key
    whole = _whole_picture(samples)
    if whole is not None:
        return Frame(whole, camera, name=name)
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    nearest = np.full((camera.height, camera.width), np.inf, np.float32) if len(samples) > 1 else None
    for sample in samples:
        columns, x0 = _resampling(sample.center[0], sample.extent, camera.width)
        rows, y0 = _resampling(sample.center[1], sample.extent, camera.height)
        if not columns.size or not rows.size:
            continue
        across = np.einsum("xc,rcq->rxq", columns, sample.image.astype(np.float32), optimize=True)
        patch = np.clip(np.einsum("yr,rxq->yxq", rows, across, optimize=True) + 0.5, 0, 255).astype(np.uint8)
        window = np.s_[y0 : y0 + len(rows), x0 : x0 + len(columns)]
        if nearest is None:
            image[window] = patch
            continue
        y = np.abs(np.arange(y0, y0 + len(rows), dtype=np.float32) - sample.center[1])[:, None] / sample.extent
        x = np.abs(np.arange(x0, x0 + len(columns), dtype=np.float32) - sample.center[0])[None, :] / sample.extent
        distance = np.maximum(x, y)
        wins = distance < nearest[window]
        image[window] = np.where(wins[..., None], patch, image[window])
        nearest[window] = np.where(wins, distance, nearest[window])
    return Frame(image, camera, name=name)


def _whole_picture(samples: Sequence[Sample]) -> NDArray[np.uint8] | None:
    return next((sample.picture for sample in samples if sample.picture is not None), None)


def _looks_beyond(context: float, samples: Sequence[Sample]) -> bool:
    """Whether a network that looks so far about a box (`WildHands.context`) sees more than a scene's samples show."""
    if _whole_picture(samples) is not None:
        return False
    edges = ((max(s.box[2] - s.box[0], s.box[3] - s.box[1]), s.extent) for s in samples)
    return any(context * box > extent * (1 + _SAME_SIZE) for box, extent in edges)


def _resampling(center: float, extent: float, length: int) -> tuple[NDArray[np.float32], int]:
    """Weights (n, 224) of a crop's pixels in those of the picture's row that it covers, and where they start.

    A triangle as wide as the distance of the crop's samples or of the picture's pixels, whichever is larger.
    """
    start = max(int(np.ceil(center - extent / 2)), 0)
    end = min(int(np.floor(center + extent / 2)) + 1, length)
    places = (np.arange(start, max(end, start)) - center) * (CROP_SIZE / extent) + (CROP_SIZE - 1) / 2
    reach = max(CROP_SIZE / extent, 1.0)
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(CROP_SIZE)) / reach, 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return weights.astype(np.float32), start


def evaluate_estimator(
    estimator: Estimator,
    samples: Iterable[Sample],
    *,
    landmarks: LandmarkFinder | None = None,
    with_masks: bool = True,
    known_lengths: bool = False,
) -> tuple[SampleScores, FloatArray]:
    """Scores an estimator that is told each hand's side and box, as a perfect detector would; and the joints (N, 21, 3)
    that it found, metres, camera frame, NaN where it found none.

    Hands of one scene that follow each other are given together, in one picture (`frame_from_scene`). landmarks: given
    to the estimator with the boxes; the landmark fit needs them. Their time does not count: a detector has them anyway.
    known_lengths: hands are resized to the length that their labels' joints have, as if somebody had measured it.
    Latency is the wall time of `Estimator.estimate` over the number of hands. A network that looks beyond what samples
    show sees black there, of which a warning tells, once. Raises ValueError without samples.
    """
    context = float(getattr(of_length(estimator, 0), "context", 0.0))  # of networks
    warned = False
    faces = {side: estimator.hand_model.layer(side).faces for side in Side}
    with_masks = with_masks and bool(outlines_of(faces))  # asked once, so that a warning comes once
    parts, joints, hands_of_scenes = [], [], []
    for number, scene in enumerate(scenes(samples)):
        frame = frame_from_scene(scene)
        if not warned and _looks_beyond(context, scene):
            logger.warning(_black_around(estimator.name, context))
            warned = True
        boxes = [
            HandBox(
                sample.side, sample.box, 1.0,
                landmarks=None if landmarks is None else landmarks.find(frame.image, sample.box),
                follow_id=hand,  # of a detector: the box is as it should be, and samples may show nothing around it
            )
            for hand, sample in enumerate(scene)
        ]  # fmt: skip
        estimator.reset()
        if number < _WARM_UP:
            estimator.estimate(frame, boxes)
        start = time.perf_counter()
        estimates = estimator.estimate(frame, boxes)
        seconds = time.perf_counter() - start
        hands = [_hand_of(box, estimates.hands) for box in boxes]
        if known_lengths:
            hands = [
                _of_true_length(hand, sample, estimator, frame.camera)
                for hand, sample in zip(hands, scene, strict=True)
            ]
        predictions = _predictions(hands, faces, seconds / len(scene))
        parts.append(score_samples(predictions, scene, with_masks=with_masks))
        joints.append(predictions.joints)
        hands_of_scenes += [SceneHand.of(sample) for sample in scene]
    scores, together = SampleScores.joined(parts), np.concatenate(joints)
    # again, since in shuffled shards a scene's hands do not follow each other
    pairs = pair_errors(together, hands_of_scenes)
    return replace(scores, values={**scores.values, "mrrpe_mm": pairs}), together


def _black_around(name: str, context: float) -> str:
    looked_at = "the whole picture" if math.isinf(context) else f"{context:g} boxes about each hand"
    return (
        f"the network of '{name}' looks at {looked_at}, but samples without their whole pictures show only a square of "
        f"{BOX_FACTOR:g} boxes: around that the network sees black, and these figures do not tell how good it "
        "is on whole pictures"
    )


def _hand_of(box: HandBox, hands: Sequence[Hand]) -> Hand | None:
    return next((hand for hand in hands if hand.side is box.side and hand.box == box.xyxy), None)


def _of_true_length(hand: Hand | None, sample: Sample, estimator: Estimator, camera: Camera) -> Hand | None:
    length = math.nan if sample.joints is None else float(hand_length(sample.joints))
    return hand if hand is None or not length > 0 else resized(hand, length, estimator, camera)


def _predictions(hands: Sequence[Hand | None], faces: dict[Side, NDArray[np.int32]], seconds: float) -> Predictions:
    meshes = [hand.vertices for hand in hands if hand is not None and hand.vertices is not None]
    vertices = None
    if meshes:
        unknown = np.full_like(meshes[0], np.nan)
        vertices = np.stack([unknown if h is None or h.vertices is None else h.vertices for h in hands])
    return Predictions(
        joints=np.stack([np.full((21, 3), np.nan) if hand is None else hand.joints for hand in hands]),
        vertices=vertices,
        faces=faces if meshes else None,
        grasps=np.array([-1 if hand is None or hand.grasp is None else hand.grasp[0] for hand in hands]),
        latencies=np.array([np.nan if hand is None else seconds for hand in hands]),
        expected_errors=np.array([np.nan if hand is None else hand.expected_error for hand in hands]),
        valid=np.array([hand is not None and hand.valid for hand in hands]),
    )
