"""Evaluation on samples: measures worked out by hand, an estimator that knows the truth, tables and files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from wildhands_ros.camera import Camera
from wildhands_ros.cli import main
from wildhands_ros.errors import WildHandsError
from wildhands_ros.estimation import hand_length
from wildhands_ros.estimation.estimator import Estimates
from wildhands_ros.estimation.known_length import of_length, resized
from wildhands_ros.estimation.wildhands import (
    Backend,
    CheckpointInfo,
    RuntimeConfig,
    Trunk,
    Variant,
    WildHands,
    WildHandsConfig,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.evaluation import Predictions, SampleScores, plots, score_samples, statistics
from wildhands_ros.evaluation.facts import describe, group_order
from wildhands_ros.evaluation.metrics import (
    mpjpe,
    mpjpe_errors,
    orientation_errors,
    pa_mpjpe,
    pa_mpjpe_errors,
    weighted_keypoint_errors,
)
from wildhands_ros.evaluation.outline import Outline
from wildhands_ros.evaluation.report import (
    Report,
    breakdown_table,
    make_report,
    overall_table,
    read_json,
    short_names,
    write_json,
)
from wildhands_ros.evaluation.running import evaluate_estimator, frame_from_scene
from wildhands_ros.evaluation.sample_scores import crop_pixels
from wildhands_ros.evaluation.statistics import Estimate, by_group, estimate_mean
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandLayer, HandModel, load_hand_model
from wildhands_ros.hands import Hand, HandBox, Side, wrist_rotation
from wildhands_ros.samples import CROP_SIZE, HIDDEN, ManoLabels, Sample, ShardWriter, inside_picture
from wildhands_ros.samples.sample import Tag

CAMERA = Camera(1280, 720, 640, 640, 640, 360)


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model(None)


def made_sample(
    model: HandModel, *, side: Side = Side.RIGHT, place: Sequence[float] = (0.05, 0.0, 0.5), scene: str = "",
    key: str = "a", seed: int = 0, image: np.ndarray | None = None, **changes: object,
) -> Sample:  # fmt: skip
    """A hand in a random pose with all labels; its picture shows nothing of it unless given."""
    rng = np.random.default_rng(seed)
    pose = Rotation.from_rotvec(rng.normal(scale=0.3, size=(16, 3))).as_matrix()
    pose[0] = Rotation.random(random_state=seed).as_matrix()
    layer = model.layer(side)
    vertices, joints = layer.numpy(pose, np.zeros(10), np.array(place))
    keypoints, outline = CAMERA.project(joints), CAMERA.project(vertices)
    (x0, y0), (x1, y1) = keypoints.min(axis=0), keypoints.max(axis=0)
    center, extent = ((x0 + x1) / 2, (y0 + y1) / 2), 1.5 * max(x1 - x0, y1 - y0)
    sample = Sample(
        key, "made", np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8) if image is None else image, CAMERA, center, extent,
        side, (x0, y0, x1, y1), joints=joints, mano=ManoLabels(pose, np.zeros(10), np.array(place), model.name),
        keypoints=keypoints, keypoint_weights=np.ones(21), visible=np.ones(21, bool), grasp=3, scene=scene,
    )  # fmt: skip
    mask = Outline(layer.faces).mask(crop_pixels(sample, outline), CROP_SIZE)
    return replace(sample, mask=255 * mask.astype(np.uint8), **changes)


def joints_of(sample: Sample) -> np.ndarray:
    assert sample.joints is not None
    return sample.joints


# --- measures -----------------------------------------------------------------------------------------------------


def test_batched_measures_are_those_of_single_hands_and_of_scipy() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(scale=0.05, size=(7, 21, 3))
    found = 1.2 * truth @ Rotation.random(random_state=2).as_matrix() + rng.normal(scale=0.01, size=truth.shape)
    np.testing.assert_allclose(mpjpe_errors(found, truth), [mpjpe(f, t) for f, t in zip(found, truth, strict=True)])
    for error, f, t in zip(pa_mpjpe_errors(found, truth), found, truth, strict=True):
        assert error == pytest.approx(pa_mpjpe(f, t))
        target, aligned, _ = procrustes(t, f)  # both scaled by the target's spread
        spread = np.linalg.norm(t - t.mean(axis=0))
        assert error == pytest.approx(spread * np.linalg.norm(target - aligned, axis=1).mean())


def test_procrustes_of_a_batch_does_not_mirror() -> None:
    truth = np.random.default_rng(3).normal(size=(2, 21, 3))
    errors = pa_mpjpe_errors(truth * np.array([[[1, 1, 1]], [[-1, 1, 1]]]), truth)
    assert errors[0] == pytest.approx(0, abs=1e-12) and errors[1] > 0.3


def test_orientation_error_is_the_angle_of_the_wrist_frames() -> None:
    truth = np.random.default_rng(4).normal(size=(21, 3))
    turned = truth @ Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix().T
    assert orientation_errors(turned, truth) == pytest.approx(np.linalg.norm([0.3, -0.2, 0.5]))
    for side in Side:
        between = wrist_rotation(turned, side) @ wrist_rotation(truth, side).T
        assert Rotation.from_matrix(between).magnitude() == pytest.approx(float(orientation_errors(turned, truth)))
    other = np.random.default_rng(5).normal(size=(21, 3))  # not the same hand, turned
    between = wrist_rotation(other, Side.RIGHT) @ wrist_rotation(truth, Side.RIGHT).T
    assert orientation_errors(other, truth) == pytest.approx(Rotation.from_matrix(between).magnitude())


def test_keypoints_count_by_their_weights() -> None:
    truth, found = np.zeros((21, 2)), np.full((21, 2), 1e6)
    weights = np.zeros(21)
    weights[:2], found[0], found[1] = (1, 3), (3, 4), (0, 1)
    assert weighted_keypoint_errors(found, truth, weights) == pytest.approx((5 + 3 * 1) / 4)
    assert np.isnan(weighted_keypoint_errors(found, truth, np.zeros(21)))


def test_scores_worked_out_by_hand(model: HandModel) -> None:
    left = made_sample(model, side=Side.LEFT, place=(-0.1, 0, 0.4), scene="s", key="l")
    right = made_sample(model, place=(0.1, 0, 0.5), scene="s", key="r")
    joints = np.stack([joints_of(left) + [0.03, 0, 0.04], joints_of(right) - [0, 0.01, 0]])
    scores = score_samples(Predictions(joints, grasps=np.array([3, 0])), [left, right])
    assert scores.values["mpjpe_mm"] == pytest.approx([0, 0], abs=1e-9)
    assert scores.values["wrist_mm"] == pytest.approx([50, 10])
    assert scores.values["absolute_mm"] == pytest.approx([50, 10])
    distance = np.linalg.norm(joints_of(right)[0])
    assert scores.values["wrist_percent"][1] == pytest.approx(100 * 0.01 / distance)
    assert scores.values["mrrpe_mm"] == pytest.approx([1e3 * np.linalg.norm([0.03, 0.01, 0.04])] * 2)
    again = score_samples(Predictions(joints[[0, 1, 1]]), [left, right, right])  # two right ones: nobody knows whose
    assert np.isnan(again.values["mrrpe_mm"]).all()
    assert list(scores.values["grasp_percent"]) == [100, 0]
    shift = np.linalg.norm(CAMERA.project(joints[1]) - CAMERA.project(joints_of(right)), axis=1).mean()
    assert scores.values["keypoint_px"][1] == pytest.approx(shift * 224 / 1280)
    x0, y0, x1, y1 = right.box
    assert scores.values["keypoint_percent"][1] == pytest.approx(100 * shift / max(x1 - x0, y1 - y0))
    assert np.isnan(scores.mean("mask_iou_percent")) and "mask_iou_percent" not in scores.means()


def test_units_of_scores(model: HandModel) -> None:
    sample = made_sample(model)
    turned = joints_of(sample) @ Rotation.from_rotvec([0, 0.3, 0]).as_matrix().T
    joints = np.stack([turned, np.full((21, 3), np.nan)])
    predictions = Predictions(joints, grasps=np.array([-1, 3]), latencies=np.array([0.25, 0.5]))
    scores = score_samples(predictions, [sample, sample])
    assert scores.values["orientation_deg"][0] == pytest.approx(np.degrees(0.3))
    assert scores.values["pa_mpjpe_mm"][0] == pytest.approx(0, abs=1e-6) and scores.values["mpjpe_mm"][0] > 1
    assert list(scores.values["latency_ms"]) == [250, 500] and scores.mean("estimated_percent") == 50
    assert np.isnan(scores.values["grasp_percent"][0]) and scores.values["grasp_percent"][1] == 100
    assert scores.mean("orientation_deg") == scores.values["orientation_deg"][0]  # those without a value do not count


def test_tips_count_where_they_are_seen_and_in_boxes(model: HandModel) -> None:
    sample = made_sample(model, place=(0.05, 0.0, 0.5))
    x0, y0, x1, y1 = sample.box
    joints, tips = joints_of(sample).copy(), [4, 8, 12, 16, 20]
    joints[4] *= 1.2  # along its ray: the picture does not change
    joints[8], joints[12] = joints[8] + [0.03, 0, 0], joints[12] + [0.3, 0, 0]
    joints[[1, 3, 7, 11]] += [0, 0.1, 0]  # no tips
    visible = np.arange(21) != 12
    scores = score_samples(Predictions(joints[None]), [replace(sample, visible=visible)])
    off = np.linalg.norm(CAMERA.project(joints) - CAMERA.project(joints_of(sample)), axis=1)
    edge = max(x1 - x0, y1 - y0)
    assert scores.mean("tip_percent") == pytest.approx(100 * off[[4, 8, 16, 20]].mean() / edge)
    everything = score_samples(Predictions(joints[None]), [replace(sample, visible=None)])
    assert everything.mean("tip_percent") == pytest.approx(100 * off[tips].mean() / edge)


def test_upright_pictures_are_scaled_by_their_height(model: HandModel) -> None:
    sample = made_sample(model)
    camera = Camera(720, 1280, 640, 640, 360, 640)
    upright = replace(sample, camera=camera, keypoints=camera.project(joints_of(sample)))
    joints = joints_of(sample) + [0.01, 0, 0]
    off = np.linalg.norm(camera.project(joints) - camera.project(joints_of(sample)), axis=1).mean()
    assert score_samples(Predictions(joints[None]), [upright]).mean("keypoint_px") == pytest.approx(off * 224 / 1280)


def test_pairs_are_of_one_scene_source_and_camera(model: HandModel) -> None:
    left = made_sample(model, side=Side.LEFT, place=(-0.1, 0, 0.4), scene="s")
    right = made_sample(model, place=(0.1, 0, 0.5), scene="s")

    def errors(*hands: Sample) -> np.ndarray:
        joints = np.stack([joints_of(hand) + [0.01 * i, 0, 0] for i, hand in enumerate(hands)])
        return score_samples(Predictions(joints), list(hands)).values["mrrpe_mm"]

    assert errors(left, right) == pytest.approx([10, 10])
    other = replace(CAMERA, cx=CAMERA.cx + 1)
    for stranger in (replace(right, scene="t"), replace(right, source="other"), replace(right, camera=other)):
        assert np.isnan(errors(left, stranger)).all()
    assert np.isnan(errors(replace(left, scene=""), replace(right, scene=""))).all()
    assert np.isnan(errors(left, right, right)).all()
    bare = {"joints": None, "mano": None}  # where one's wrist is not known, how far it is from the other's neither
    for one, other in ((replace(left, **bare), right), (left, replace(right, **bare))):
        scores = score_samples(Predictions(np.stack([joints_of(left), joints_of(right)])), [one, other])
        assert np.isnan(scores.values["mrrpe_mm"]).all()


def test_samples_of_no_scene_are_drawn_by_themselves(model: HandModel) -> None:
    """Intervals are over draws of scenes: with all of them in one there would be none."""
    sample = made_sample(model, scene="")
    samples = [
        replace(sample, key="a"), replace(sample, key="b"), replace(sample, key="a", source="other"),
        replace(sample, key="c", scene="s"), replace(sample, key="d", scene="s"),
    ]  # fmt: skip
    scenes = score_samples(Predictions(np.stack([joints_of(sample)] * 5)), samples).scenes
    assert len(set(scenes)) == 4 and scenes[3] == scenes[4]


def test_who_else_is_in_the_picture_decides_on_pairs_whatever_was_said_of_them(model: HandModel) -> None:
    left = made_sample(model, side=Side.LEFT, place=(-0.1, 0, 0.4), scene="s")
    right, stranger = (made_sample(model, place=(x, 0, 0.5), scene="s") for x in (0.1, 0.4))
    joints = np.stack([joints_of(hand) for hand in (left, right, stranger)])
    joints[1] = np.nan
    for third in (stranger, replace(stranger, joints=None, mano=None)):
        scores = score_samples(Predictions(joints), [left, right, third])
        assert np.isnan(scores.values["mrrpe_mm"]).all()
    whole = np.stack([joints_of(hand) for hand in (left, right, stranger)])
    unlabelled = replace(right, joints=None, mano=None)  # the pair, of which only the third could be measured
    assert np.isnan(score_samples(Predictions(whole), [left, unlabelled, stranger]).values["mrrpe_mm"]).all()


def test_the_middle_of_a_crop_is_between_its_pixels(model: HandModel) -> None:
    sample = made_sample(model)
    assert crop_pixels(sample, np.array(sample.center)) == pytest.approx([111.5, 111.5])
    edge = np.array(sample.center) + sample.extent / 2
    assert crop_pixels(sample, edge) == pytest.approx([223.5, 223.5])


def test_masks_of_hands_in_and_behind_the_camera_and_beyond_the_picture(model: HandModel) -> None:
    """Nothing is known beyond the picture's edge; a hand in the camera covers nothing of its mask."""
    sample = made_sample(model, place=(0.0, 0.0, 0.5))
    assert sample.mano is not None and sample.mask is not None
    vertices, joints = model.layer(sample.side).numpy(sample.mano.pose, sample.mano.betas, sample.mano.translation)
    faces = {side: model.layer(side).faces for side in Side}

    def iou(points: np.ndarray, of: Sample) -> float:
        return score_samples(Predictions(joints[None], points[None], faces), [of]).mean("mask_iou_percent")

    assert iou(vertices - [0, 0, vertices[:, 2].min()], sample) == 0
    # a picture that ends in the middle of the hand, with a mask that ends there, too
    ends = replace(CAMERA, width=int(sample.center[0]))
    cut = replace(sample, camera=ends)
    cut = replace(cut, mask=np.where(inside_picture(cut), sample.mask, 0).astype(np.uint8))
    assert cut.mask is not None and 0 < (cut.mask == 255).sum() < (sample.mask == 255).sum()
    assert iou(vertices, cut) == pytest.approx(100)
    # where it is hidden nobody knows, and it is no part of the mask
    hidden = sample.mask.copy()
    hidden[:, 112:][sample.mask[:, 112:] > 0] = HIDDEN
    assert iou(vertices, replace(sample, mask=hidden)) == pytest.approx(100)
    # nothing to be held to
    for mask in (None, np.zeros_like(sample.mask), np.full_like(sample.mask, HIDDEN)):
        assert np.isnan(iou(vertices, replace(sample, mask=mask)))


def test_the_truth_scores_perfectly(model: HandModel) -> None:
    sample = made_sample(model)
    assert sample.mano is not None
    vertices, joints = model.layer(sample.side).numpy(sample.mano.pose, sample.mano.betas, sample.mano.translation)
    faces = {side: model.layer(side).faces for side in Side}
    scores = score_samples(Predictions(joints[None], vertices[None], faces), [sample])
    assert scores.mean("mask_iou_percent") == 100
    for name in ("mpjpe_mm", "pa_mpjpe_mm", "wrist_mm", "keypoint_px", "tip_percent"):
        assert scores.mean(name) == pytest.approx(0, abs=1e-4)  # arccos and square roots leave some
    lost = Predictions(joints[None], np.full_like(vertices, np.nan)[None], faces)
    assert np.isnan(score_samples(lost, [sample]).mean("mask_iou_percent"))
    # half of the hand unknown, and the estimate wrong there: does not matter
    assert sample.mask is not None
    cut = sample.mask.copy()
    cut[:112] = HIDDEN
    assert score_samples(Predictions(joints[None], vertices[None], faces), [replace(sample, mask=cut)]).mean(
        "mask_iou_percent"
    ) == pytest.approx(100)
    moved = vertices + [0.05, 0, 0]
    worse = score_samples(Predictions(joints[None], moved[None], faces), [sample]).mean("mask_iou_percent")
    assert 5 < worse < 80


def without_surface(model: HandModel) -> HandModel:
    """The model with three triangles at one edge of each hand."""
    hands = []
    for layer in (model.right, model.left):
        faces = np.concatenate([layer.faces, [[*layer.faces[0, :2], 700]]]).astype(np.int32)
        hands.append(HandLayer(replace(layer.data, faces=faces)))
    return replace(model, right=hands[0], left=hands[1])


def test_faces_that_are_no_surface_leave_mask_iou_unknown(model: HandModel, caplog: pytest.LogCaptureFixture) -> None:
    sample, broken = made_sample(model), without_surface(model)
    vertices, joints = broken.right.numpy(sample.mano.pose, sample.mano.betas, sample.mano.translation)
    faces = {side: broken.layer(side).faces for side in Side}
    scores = score_samples(Predictions(joints[None], vertices[None], faces), [sample])
    assert np.isnan(scores.mean("mask_iou_percent")) and scores.mean("mpjpe_mm") == pytest.approx(0, abs=1e-4)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "mask IoU stays unknown" in record.message and "form no loop" in record.message


def test_missing_estimates_and_labels_leave_gaps(model: HandModel) -> None:
    full = made_sample(model, key="full")
    bare = replace(full, key="bare", joints=None, mano=None, mask=None, grasp=None)
    joints = np.stack([np.full((21, 3), np.nan), joints_of(full)])
    scores = score_samples(Predictions(joints), [full, bare])
    assert list(scores.values["estimated_percent"]) == [0, 100]
    assert np.isnan(scores.values["mpjpe_mm"]).all() and np.isnan(scores.values["keypoint_px"][0])
    assert scores.values["keypoint_px"][1] == pytest.approx(0, abs=1e-9)


def test_labels_that_are_not_finite_leave_gaps_of_their_own(model: HandModel) -> None:
    full = made_sample(model, key="full")
    joints, keypoints, weights = joints_of(full).copy(), full.keypoints, np.ones(21)
    assert keypoints is not None
    joints[4], weights[9] = np.nan, np.nan
    samples = [
        full,
        replace(full, key="joints", joints=joints),
        replace(full, key="keypoints", keypoints=np.where(np.arange(21)[:, None] == 4, np.nan, keypoints)),
        replace(full, key="weights", keypoint_weights=weights),
        replace(full, key="wrist", joints=joints_of(full) - joints_of(full)[0]),
    ]
    scores = score_samples(Predictions(np.stack([joints_of(full)] * 5)), samples)
    assert list(np.isnan(scores.values["pa_mpjpe_mm"])) == [False, True, False, False, False]
    assert list(np.isnan(scores.values["wrist_percent"])) == [False, False, False, False, True]
    assert scores.values["keypoint_px"] == pytest.approx(0, abs=1e-9)
    for measure, labelled in scores.labelled.items():
        assert list(labelled) == list(np.isfinite(scores.values[measure]))
    assert scores.groups["angle off the axis"][1] == "" != scores.groups["angle off the axis"][0]


def test_joints_behind_the_camera_are_far_off_but_not_endlessly(model: HandModel) -> None:
    sample = made_sample(model)
    behind = joints_of(sample) * [1, 1, -1]
    error = score_samples(Predictions(behind[None]), [sample]).mean("keypoint_px")
    assert 10 < error <= 224 * np.hypot(1280, 720) / 1280
    thumb_tip = joints_of(sample).copy()
    thumb_tip[4] = 0.001, -0.002, -0.3
    alone = replace(sample, keypoint_weights=np.eye(21)[4])  # seen from 1 cm: a tenth and a fifth of the focal lengths
    assert sample.keypoints is not None
    place = np.array([CAMERA.cx + 0.1 * CAMERA.fx, CAMERA.cy - 0.2 * CAMERA.fy])
    error = score_samples(Predictions(thumb_tip[None]), [alone]).mean("keypoint_px")
    assert error == pytest.approx(np.linalg.norm(place - sample.keypoints[4]) * 224 / 1280)


def test_wrong_shapes_are_refused(model: HandModel) -> None:
    with pytest.raises(ValueError, match="21"):
        Predictions(np.zeros((2, 20, 3)))
    with pytest.raises(ValueError, match="faces"):
        Predictions(np.zeros((1, 21, 3)), np.zeros((1, 778, 3)))
    with pytest.raises(ValueError, match="2 predictions for 1"):
        score_samples(Predictions(np.zeros((2, 21, 3))), [made_sample(model)])


# --- outlines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_outline_covers_what_its_triangles_cover(model: HandModel, seed: int) -> None:
    side = list(Side)[seed % 2]
    sample = made_sample(model, side=side, seed=seed)
    assert sample.mano is not None and sample.mask is not None
    vertices, _ = model.layer(side).numpy(sample.mano.pose, sample.mano.betas, sample.mano.translation)
    pixels = crop_pixels(sample, CAMERA.project(vertices))
    scale, drawn = 8, np.zeros((CROP_SIZE * 8, CROP_SIZE * 8), np.uint8)
    corners = np.round(((pixels + 0.5) * scale - 0.5) * 16).astype(np.int32)
    for face in model.layer(side).faces:
        cv2.fillConvexPoly(drawn, corners[face], 1, shift=4)
    expected = drawn[scale // 2 :: scale, scale // 2 :: scale] > 0
    wrong = (sample.mask == 255) != expected  # OpenCV's triangles are half a pixel of its grid too large
    edge = cv2.morphologyEx(sample.mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    assert not np.any(wrong & ~edge) and wrong.sum() < 0.01 * expected.sum()


def test_outline_of_a_square() -> None:
    square = Outline(np.array([[0, 1, 2], [0, 2, 3]]))  # open all round: its lid is its back
    corners = np.array([[1.5, 2.5], [4.5, 2.5], [4.5, 6.5], [1.5, 6.5]])
    expected = np.zeros((9, 9), bool)
    expected[3:7, 2:5] = True
    assert np.array_equal(square.mask(corners, 9), expected)
    assert np.array_equal(square.mask(corners[::-1].copy(), 9), expected)
    assert not square.mask(corners + 100, 9).any() and square.mask((corners - 4) * 100, 9).all()


def test_outline_refuses_what_is_no_surface() -> None:
    solid = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    with pytest.raises(ValueError, match="more than two triangles"):
        Outline(np.concatenate([solid, solid[:1]]))
    with pytest.raises(ValueError, match="share a vertex"):
        Outline(np.array([[0, 1, 2], [0, 3, 4]]))
    with pytest.raises(ValueError, match="no loop"):
        Outline(np.array([[0, 1, 2], [0, 1, 3], [0, 2, 1]]))


def test_outlines_of_scattered_triangles_are_refused_in_one_way() -> None:
    rng, refused = np.random.default_rng(0), 0
    for _ in range(2000):
        faces = np.array([rng.permutation(6)[:3] for _ in range(rng.integers(1, 8))])
        try:
            Outline(faces)
        except ValueError:
            refused += 1
    assert 1000 < refused < 2000


# --- running ------------------------------------------------------------------------------------------------------


class Oracle:
    """Knows the hand of each box; moves it by 10 mm to the right and finds no left hands on demand."""

    name = "oracle"

    def __init__(self, model: HandModel, samples: Sequence[Sample], *, blind: bool = False) -> None:
        self.hand_model = model
        self.samples = {sample.box: sample for sample in samples}
        self.blind = blind
        self.frames: list[Frame] = []

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        self.frames.append(frame)
        hands = []
        for box in boxes:
            if self.blind and box.side is Side.LEFT:
                continue
            mano = self.samples[box.xyxy].mano
            assert mano is not None
            translation = mano.translation + [0.01, 0, 0]
            vertices, joints = self.pose_hand(box.side, mano.pose, mano.betas, translation)
            hands.append(
                Hand(box.side, 1.0, box.xyxy, joints, frame.camera.project(joints), mano.pose, mano.betas, translation,
                     "oracle", "open", vertices=vertices, grasp=(3, np.eye(9)[3]))
            )  # fmt: skip
        return Estimates(tuple(hands))

    def pose_hand(
        self, side: Side, pose: np.ndarray, betas: np.ndarray, translation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.hand_model.layer(side).numpy(pose, betas, translation)

    def within_reach(self, joints: np.ndarray) -> bool:
        return True

    def trust_up_to(self, largest_expected_error: float) -> None:
        pass

    def reset(self) -> None:
        pass


def some_samples(model: HandModel, count: int = 6) -> list[Sample]:
    """Every second scene has two hands."""
    samples = []
    for i in range(count):
        samples.append(made_sample(model, place=(0.1 + 0.05 * i, 0, 0.4), scene=f"s{i}", key=f"r{i}", seed=i))
        if i % 2:
            left = made_sample(model, side=Side.LEFT, place=(-0.1, 0, 0.4), scene=f"s{i}", key=f"l{i}", seed=i)
            samples.append(left)
    return samples


def test_estimators_are_run_scene_by_scene(model: HandModel) -> None:
    samples = some_samples(model)
    oracle = Oracle(model, samples)
    scores, _ = evaluate_estimator(oracle, samples)
    assert scores.keys == tuple(sample.key for sample in samples)
    assert {frame.name for frame in oracle.frames} == {f"s{i}" for i in range(6)}
    assert scores.values["wrist_mm"] == pytest.approx(np.full(9, 10))
    assert scores.mean("mrrpe_mm") == pytest.approx(0, abs=1e-9)
    assert np.isfinite(scores.values["mrrpe_mm"]).sum() == 6
    assert scores.mean("grasp_percent") == 100 and 40 < scores.mean("mask_iou_percent") < 95
    assert np.isfinite(scores.values["latency_ms"]).all()


class SaysHowGood(Oracle):
    """Is sure of right hands."""

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        return Estimates(
            tuple(
                replace(hand, expected_error=0.01 if hand.side is Side.RIGHT else 0.03, valid=hand.side is Side.RIGHT)
                for hand in super().estimate(frame, boxes).hands
            )
        )


def test_errors_are_broken_down_by_what_the_estimator_says_of_them(model: HandModel) -> None:
    samples = some_samples(model)
    scores, _ = evaluate_estimator(SaysHowGood(model, samples), samples)
    assert [group == "valid" for group in scores.groups["valid"]] == [s.side is Side.RIGHT for s in samples]
    groups = make_report(scores, "oracle", "made").breakdowns["expected error"]
    counts = {name: values["mpjpe_mm"].count for name, values in groups.items()}
    assert counts == {"0–12 mm": 6, "over 27 mm": 3}
    unknown, _ = evaluate_estimator(Oracle(model, samples, blind=True), samples)
    assert set(unknown.groups["expected error"]) == {""} and set(unknown.groups["valid"]) == {"valid", ""}


class TakesThemForSmaller(Oracle):
    """Says of every hand that it is smaller and nearer than it is, as pictures allow."""

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        found = super().estimate(frame, boxes).hands
        return Estimates(tuple(resized(hand, 0.16, self, frame.camera) for hand in found))


def test_a_model_without_a_surface_is_named_once(model: HandModel, caplog: pytest.LogCaptureFixture) -> None:
    oracle = Oracle(without_surface(model), some_samples(model, 4))
    scores, _ = evaluate_estimator(oracle, some_samples(model, 4))
    assert np.isfinite(scores.values["mpjpe_mm"]).all() and np.isnan(scores.values["mask_iou_percent"]).all()
    assert [record.message.split(":")[0] for record in caplog.records] == ["mask IoU stays unknown"]
    caplog.clear()
    evaluate_estimator(oracle, some_samples(model, 2), with_masks=False)
    assert not caplog.records


def test_known_lengths_bring_hands_to_their_distance(model: HandModel) -> None:
    samples = some_samples(model)
    unknown = replace(samples[0], key="no joints", scene="other", joints=None)
    estimator = TakesThemForSmaller(model, samples)
    mistaken, _ = evaluate_estimator(estimator, [*samples, unknown])
    assert mistaken.mean("wrist_percent") > 10
    scores, joints = evaluate_estimator(estimator, [*samples, unknown], known_lengths=True)
    assert scores.values["wrist_mm"][:-1] == pytest.approx(np.full(9, 10), abs=2)  # the oracle's own 10 mm, scaled
    assert scores.mean("keypoint_percent") == pytest.approx(mistaken.mean("keypoint_percent"), abs=1)
    assert hand_length(joints[-1]) == pytest.approx(0.16, rel=0.02)  # whose length nobody knows


def test_pairs_are_found_wherever_their_hands_are_and_cameras_of_their_own_are_no_pairs(model: HandModel) -> None:
    samples = sorted(some_samples(model), key=lambda sample: sample.side.value)  # as in shuffled shards
    scores, _ = evaluate_estimator(Oracle(model, samples), samples)
    assert scores.keys == tuple(sample.key for sample in samples)
    assert np.isfinite(scores.values["mrrpe_mm"]).sum() == 6
    pair = [s for s in some_samples(model) if s.scene == "s1"]
    apart = [pair[0], replace(pair[1], camera=Camera.pinhole(640, 480, 300))]
    scores, _ = evaluate_estimator(Oracle(model, apart), apart)
    assert np.isfinite(scores.values["wrist_mm"]).all() and np.isnan(scores.values["mrrpe_mm"]).all()


def test_hands_that_are_not_estimated_are_reported(model: HandModel) -> None:
    samples = some_samples(model)
    scores, _ = evaluate_estimator(Oracle(model, samples, blind=True), samples)
    assert scores.mean("estimated_percent") == pytest.approx(100 * 6 / 9)
    assert np.isnan(scores.values["mrrpe_mm"]).all()


def test_crops_return_to_their_place(model: HandModel) -> None:
    y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE]
    image = np.stack([x, y, np.full_like(x, 99)], axis=-1).astype(np.uint8)
    for extent in (90.0, 224.0, 501.0):
        sample = made_sample(model, image=image, center=(600.3, 330.7), extent=extent)
        frame = frame_from_scene([sample])
        for place in ([600, 331], [600 + int(extent / 4), 331 - int(extent / 4)]):
            u, v = crop_pixels(sample, np.array(place, float))
            assert frame.image[place[1], place[0]] == pytest.approx([u, v, 99], abs=1.0)
        assert np.count_nonzero(frame.image[..., 2]) == pytest.approx(extent**2, rel=0.03)


def test_crops_over_the_border_and_over_each_other(model: HandModel) -> None:
    red, blue = np.zeros((2, CROP_SIZE, CROP_SIZE, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    a = made_sample(model, image=red, center=(10.0, 300.0), extent=100.0, scene="s")
    b = made_sample(model, image=blue, center=(70.0, 300.0), extent=100.0, scene="s", side=Side.LEFT)
    image = frame_from_scene([a, b]).image
    assert tuple(image[300, 0]) == (200, 0, 0) and tuple(image[300, 38]) == (200, 0, 0)
    assert tuple(image[300, 42]) == (0, 0, 200) and tuple(image[300, 118]) == (0, 0, 200)
    assert not image[:, 125:].any()
    inside = inside_picture(a)
    assert not inside[:, :88].any() and inside[:, 88:].all()  # pixel −0.5 of the picture lies at crop pixel 87.98


def test_scenes_of_different_cameras_are_refused(model: HandModel) -> None:
    a = made_sample(model, scene="s")
    with pytest.raises(ValueError, match="different cameras"):
        frame_from_scene([a, replace(a, camera=Camera.pinhole(640, 480, 300))])


class Looks(Oracle):
    """Says that it is a network that looks so far about a hand."""

    context = 0.0


@pytest.mark.parametrize(
    ("context", "length", "said"),
    [(1.5, 0, None), (1.75, 0, "1.75 boxes about each hand"), (np.inf, 0.19, "the whole picture")],
)
def test_networks_that_look_beyond_what_samples_show_are_named_once(
    model: HandModel, caplog: pytest.LogCaptureFixture, context: float, length: float, said: str | None
) -> None:
    samples = some_samples(model)
    looks = Looks(model, samples)
    looks.context = context
    evaluate_estimator(of_length(looks, length), samples)
    assert len(caplog.records) == (said is not None)
    assert all(f"looks at {said}, but" in record.getMessage() for record in caplog.records)
    caplog.clear()
    picture = np.full((720, 1280, 3), 90, np.uint8)
    evaluate_estimator(looks, [replace(sample, picture=picture) for sample in samples])
    assert not caplog.records and all((frame.image == 90).all() for frame in looks.frames[-9:])


@pytest.mark.parametrize(
    ("variant", "context"),
    [(Variant(), np.inf), (Variant(frame_trunk=False), 1.75), (Variant(frame_trunk=False, box_factor=1.5), 1.5)],
)
def test_how_far_networks_look_is_known(model: HandModel, tmp_path: Path, variant: Variant, context: float) -> None:
    small = replace(variant, trunk=Trunk.RESNET18, fusion=(16, 16, 16), features=16, hidden=16)
    save_checkpoint(tmp_path / "small.safetensors", made_up_network(small, 1), CheckpointInfo())
    config = WildHandsConfig(tmp_path / "small.safetensors", runtime=RuntimeConfig(backend=Backend.TORCH))
    assert WildHands.load(config, model).context == context
    assert WildHands.load(replace(config, box_factor=2.0), model).context == max(context * 2 / small.box_factor, 2)


# --- statistics and reports ---------------------------------------------------------------------------------------


def test_interval_of_independent_values_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    found = estimate_mean(values, [str(i) for i in range(2000)])
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean()) and found.count == 2000
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


@pytest.mark.parametrize("scenes", [2, 257, 3000])
@pytest.mark.parametrize("block", [1, 5000, 1 << 18])
def test_intervals_are_the_same_in_blocks_of_any_size(scenes: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_BLOCK", block)
    rng = np.random.default_rng(scenes)
    values, owners = rng.normal(30, 9, 2 * scenes), rng.permutation(np.arange(2 * scenes) // 2)
    found = estimate_mean(values, [f"{owner:06}" for owner in owners], seed=3)
    sums = np.bincount(owners, weights=values)
    at_once = np.random.default_rng(3).integers(0, scenes, (1000, scenes))
    means = sums[at_once].sum(axis=1) / (2 * scenes)
    assert [found.low, found.high] == np.percentile(means, [2.5, 97.5]).tolist()


def test_intervals_of_many_scenes_take_little_memory() -> None:
    values, scenes = np.random.default_rng(1).normal(size=20_000), [str(i) for i in range(20_000)]
    tracemalloc.start()
    try:
        estimate_mean(values, scenes)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 30e6


def test_samples_of_one_scene_count_as_one_draw() -> None:
    values = np.random.default_rng(0).normal(5, 2, 200)
    alone = estimate_mean(values, [str(i) for i in range(200)])
    doubled = estimate_mean(np.repeat(values, 4), [str(i // 4) for i in range(800)])
    assert doubled.high - doubled.low == pytest.approx(alone.high - alone.low, rel=0.1)
    one = estimate_mean(values, ["one"] * 200)
    assert np.isnan(one.low) and one.mean == pytest.approx(values.mean())


def test_hands_without_a_value_count_neither_for_means_nor_for_intervals() -> None:
    values = np.random.default_rng(2).normal(5, 2, 60)
    gaps = np.insert(values, [0, 7, 60], [np.nan, np.inf, np.nan])
    scenes = [f"{i // 2:02}" for i in range(60)]
    with_gaps = ["gone", *scenes[:7], scenes[7], *scenes[7:], "away"]
    assert estimate_mean(gaps, with_gaps) == estimate_mean(values, scenes)
    assert estimate_mean(np.full(3, np.nan), ["a", "b", "c"]).count == 0


def test_breakdown_by_angle(model: HandModel) -> None:
    samples = [made_sample(model, place=(x, 0, 0.4), key=f"k{i}") for i, x in enumerate((0, 0.18, 0.3, 0.5, 1.2))]
    joints = np.stack([joints_of(s) + [1e-3 * i, 0, 0] for i, s in enumerate(samples)])
    groups = by_group(score_samples(Predictions(joints), samples), "wrist_mm", "angle off the axis")
    assert list(groups) == ["0–15°", "15–30°", "30–45°", "45–60°", "over 60°"]
    assert [g.mean for g in groups.values()] == pytest.approx([0, 1, 2, 3, 4])


def test_groups_are_in_order() -> None:
    assert group_order(["over 60°", "15–30°", "", "bottle", "0–15°", "60–70°"]) == [
        "0–15°", "15–30°", "60–70°", "over 60°", "bottle", "",
    ]  # fmt: skip


def test_any_text_may_be_a_group() -> None:
    words = ["1.5.2", ".", "²", "1.5", "over 2", "-3", "over the top", "under 0", "0–0.2", ""]
    assert group_order(words) == ["-3", "under 0", "0–0.2", "1.5", "1.5.2", "over 2", ".", "over the top", "²", ""]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ([0.0, 0.1, 0.99, 1.0, -3.5], ["0–0.2", "0–0.2", "over 0.8", "over 0.8", "under 0"]),
        ([0, 1, -3, 10**400], ["0", "1", "-3", "1" + 400 * "0"]),
        (["1.5.2", "²", ""], ["1.5.2", "²", "unnamed"]),
    ],
    ids=["floats", "whole numbers", "words"],
)
def test_tags_are_grouped_by_their_kind(model: HandModel, tag: list[Tag], expected: list[str]) -> None:
    sample = made_sample(model)
    assert [describe(replace(sample, tags={"light": value}))["light"] for value in tag] == expected


def test_shares_that_cannot_be_are_no_small_ones(model: HandModel) -> None:
    sample = made_sample(model)
    groups = [describe(replace(sample, tags={"occlusion": share}))["occlusion"] for share in (-0.5, 0.0, 0.019, 0.02)]
    assert groups == ["under 0 %", "0–2 %", "0–2 %", "2–15 %"]


def test_hands_are_grouped_by_their_labels_where_no_tag_tells(model: HandModel) -> None:
    sample = made_sample(model, place=(0, 0, 0.5))
    masks = np.zeros((4, CROP_SIZE, CROP_SIZE), np.uint8)
    masks[1:, :10, :10], masks[1, 0, 0], masks[2, :3, :10], masks[3, :7, :10] = 255, HIDDEN, HIDDEN, HIDDEN
    hidden = [describe(replace(sample, mask=mask, tags={}))["occlusion"] for mask in (None, *masks)]
    assert hidden == ["", "", "0–2 %", "15–35 %", "over 60 %"]
    seen = [describe(replace(sample, visible=np.arange(21) < n))["visible joints"] for n in (0, 6, 7, 14, 20, 21)]
    assert seen == ["0–6 joints", "0–6 joints", "7–13 joints", "14–20 joints", "14–20 joints", "all joints"]
    away = [replace(sample, joints=joints_of(sample) * d / np.linalg.norm(joints_of(sample)[0])) for d in
            (0.29, 0.31, 0.46, 0.61, 0.81)]  # fmt: skip
    assert [describe(s)["distance"] for s in away] == ["0–0.3 m", "0.3–0.45 m", "0.45–0.6 m", "0.6–0.8 m", "over 0.8 m"]
    sizes = [describe(replace(sample, extent=extent))["size of the crop"] for extent in (99, 101, 201, 401)]
    assert sizes == ["0–100 px", "100–200 px", "200–400 px", "over 400 px"]
    beside = replace(sample, joints=None, center=(640 + 640 * np.tan(0.6), 360.0))
    assert [describe(beside)[name] for name in ("distance", "angle off the axis")] == ["", "30–45°"]


@pytest.fixture
def scores(model: HandModel) -> SampleScores:
    samples = some_samples(model)
    tagged = [
        replace(s, tags={"glove": i % 2 == 0, "held": "" if i % 3 else "cup", "occlusion": 0.1 * i})
        for i, s in enumerate(samples)
    ]
    return evaluate_estimator(Oracle(model, samples), tagged)[0]


def test_reports_of_nothing_are_empty() -> None:
    report = make_report(score_samples(Predictions(np.zeros((0, 21, 3))), []), "oracle", "made")
    assert (report.samples, report.overall, report.breakdowns) == (0, {}, {})


def test_report_is_read_as_it_was_written(tmp_path: Path, scores: SampleScores) -> None:
    report = make_report(scores, "oracle", "made")
    write_json([report], tmp_path / "sub" / "r.json")
    (again,) = read_json(tmp_path / "sub" / "r.json")
    assert again.overall["wrist_mm"] == report.overall["wrist_mm"]
    assert overall_table([again]) == overall_table([report])
    assert set(report.breakdowns) >= {"glove", "holds", "occlusion", "side", "angle off the axis"}
    assert breakdown_table(again, "glove") == breakdown_table(report, "glove")
    assert "10.0" in overall_table([report]) and "bare" in breakdown_table(report, "glove")


def test_tables_show_intervals_where_there_are_any() -> None:
    sure, unsure = Estimate(10.04, 9.5, 9.0, 11.26, 8), Estimate(7.0, 7.5, math.nan, math.nan, 1)
    every = Estimate(100.0, 100.0, 100.0, 100.0, 9)
    groups = {
        "bare": {"estimated_percent": every, "mpjpe_mm": sure, "wrist_percent": sure},
        "gloved": {"estimated_percent": unsure, "mpjpe_mm": unsure},
    }
    overall = {"mpjpe_mm": sure, "wrist_mm": unsure, "latency_ms": sure}
    report = Report("oracle", "made", 9, overall, {"glove": groups})

    def cells(text: str) -> list[list[str]]:
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]

    rows = {name: values for name, *values in cells(overall_table([report]))[2:]}
    assert rows["MPJPE mm"] == ["10.0 (9.0–11.3)", "9.5"]
    assert rows["wrist mm"] == ["7.0", "7.5"] and rows["PA-MPJPE mm"] == ["–", "–"]
    assert rows["ms a hand"] == ["10.04 (9.00–11.26)", "9.50"]
    head, _, bare, gloved = cells(breakdown_table(report, "glove"))
    assert head == ["glove", "hands", "estimated %", "MPJPE mm", "wrist % of distance"]
    assert bare == ["bare", "9", "100", "10.0 (9.0–11.3)", "10.04"] and gloved == ["gloved", "1", "7", "7.0", "–"]


def head_of(*reports: Report) -> list[str]:
    """Names of a table's columns, without the medians."""
    return [cell.strip() for cell in overall_table(reports).splitlines()[0].strip("|").split("|")][1::2]


def test_reports_are_told_apart_and_other_samples_marked(scores: SampleScores) -> None:
    report = make_report(scores, "oracle", "made")
    assert head_of(report) == ["oracle, 9 hands of made"] and "other samples" not in overall_table([report])
    other, fewer = replace(report, source="real"), replace(report, samples=5)
    columns = ["oracle, 9 hands of made", "oracle, 9 hands of real *", "oracle, 5 hands of made *"]
    assert head_of(report, other, fewer) == columns
    assert overall_table([report, other]).endswith("Columns with * are of other samples than the first.")
    same = ["oracle, 9 hands of made", "oracle, 9 hands of made (2)", "oracle, 9 hands of made (3)"]
    assert head_of(report, report, report) == same == short_names([report] * 3)
    assert short_names([report, replace(other, estimator="open")]) == ["oracle", "open"]


def test_files_that_are_no_reports_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(WildHandsError, match="x.json"):
        read_json(tmp_path / "x.json")
    with pytest.raises(WildHandsError, match="y.json"):
        read_json(tmp_path / "y.json")


def test_plots_are_drawn(tmp_path: Path, scores: SampleScores) -> None:
    plots.plot_breakdowns([make_report(scores, "oracle", "made")], tmp_path / "b.png")
    plots.plot_curves({"oracle": scores}, tmp_path / "c.png")
    for name in ("b.png", "c.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None and picture.std() > 5


@pytest.mark.parametrize("name", ["a$b$c.ckpt", "x$\\frac{$", "price_$5_and_$6", "net_$\\alpha"])
def test_names_with_dollars_are_no_formulas(tmp_path: Path, scores: SampleScores, name: str) -> None:
    plots.plot_curves({name: scores}, tmp_path / "c.png")
    plots.plot_breakdowns([make_report(scores, name, name)], tmp_path / "b.png")
    assert (tmp_path / "c.png").stat().st_size and (tmp_path / "b.png").stat().st_size


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that the test draws, instead of files."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_equal_names_have_lines_of_their_own(scores: SampleScores, drawn: list[Figure]) -> None:
    report = make_report(scores, "oracle", "made")
    plots.plot_breakdowns([report, replace(report, source="real")], Path("b.png"))
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    names = ["oracle, 9 hands of made", "oracle, 9 hands of real"]
    assert [text.get_text() for text in legend.get_texts()] == names


def test_curves_end_at_the_share_of_labelled_hands_that_were_found(model: HandModel, drawn: list[Figure]) -> None:
    full = made_sample(model)
    bare = replace(full, joints=None, mano=None)
    joints = np.stack([joints_of(full) * [1, 1, 1.1]] * 16)
    joints[:4] = np.nan
    scores = score_samples(Predictions(joints), [full] * 8 + [bare] * 8)
    plots.plot_curves({"it": SampleScores.joined([scores, scores])}, Path("c.png"))
    ends = {axis.get_xlabel(): np.asarray(axis.lines[0].get_ydata())[-1] for axis in drawn[0].axes}
    assert ends == {"MPJPE mm": 50, "PA-MPJPE mm": 50, "wrist % of distance": 50, "2D % of box": 75}


def test_groups_of_equal_errors_are_drawn(scores: SampleScores, drawn: list[Figure]) -> None:
    report = make_report(scores, "oracle", "made")
    rounded = Estimate(np.nextafter(10, 11), 10.0, 10.0, 10.0, 4), Estimate(np.nextafter(10, 9), 10.0, 10.0, 10.0, 4)
    groups = {f"{k}": {"mpjpe_mm": found} for k, found in enumerate(rounded)}
    assert plots.plot_breakdowns([replace(report, breakdowns={"distance": groups})], Path("b.png"))


def test_groups_that_only_a_later_report_has_are_drawn_in_their_place(
    scores: SampleScores, drawn: list[Figure]
) -> None:
    report, found = make_report(scores, "oracle", "made"), Estimate(10.0, 10.0, 9.0, 11.0, 4)
    first, second = (
        replace(report, breakdowns={"distance": {group: {"mpjpe_mm": found} for group in groups}})
        for groups in (("0.3–0.45 m", "0.6–0.8 m"), ("0–0.3 m", "0.45–0.6 m", "over 0.8 m"))
    )
    plots.plot_breakdowns([first, second], Path("b.png"))
    names = ["0–0.3 m", "0.3–0.45 m", "0.45–0.6 m", "0.6–0.8 m", "over 0.8 m"]
    assert [label.get_text() for label in drawn[0].axes[0].get_xticklabels()] == names


def test_command_scores_the_landmark_fit(tmp_path: Path, model: HandModel, models_dir: Path, capsys) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        for sample in some_samples(model, 2):
            shard.add(sample)
    options = ["--models-dir", str(models_dir), "--max", "2", "--json", str(tmp_path / "r.json")]
    assert main(["eval", str(tmp_path / "x.tar"), "--estimator", "landmarks", *options]) == 0
    assert "estimated %" in capsys.readouterr().out  # black pictures: whether hands are found does not matter
    (report,) = read_json(tmp_path / "r.json")
    assert report.samples == 2 and report.estimator == "landmarks"
    beside = [*options[:2], "--max", "1", "--name", "again", "--compare", str(tmp_path / "r.json")]
    assert main(["eval", str(tmp_path / "x.tar"), "--estimator", "landmarks", *beside]) == 0
    (head,) = [line for line in capsys.readouterr().out.splitlines() if "median" in line]
    assert "again" in head and "landmarks" in head
    alone = [*options[:2], "--max", "1", "--plots", str(tmp_path / "plots")]
    assert main(["eval", str(tmp_path / "x.tar"), "--estimator", "landmarks", *alone]) == 0
    out = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"curves.png"}  # of one hand: no breakdowns
    assert "curves.png" in out and "breakdowns.png" not in out


def test_command_writes_its_tables_as_markdown(tmp_path: Path, model: HandModel, models_dir: Path, capsys) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        for sample in some_samples(model, 2):
            shard.add(sample)
    path = tmp_path / "sub" / "table.md"
    options = ["--estimator", "landmarks", "--models-dir", str(models_dir), "--table", str(path)]
    assert main(["eval", str(tmp_path / "x.tar"), *options]) == 0
    text, out = path.read_text(), capsys.readouterr().out
    assert text.strip() in out and f"wrote {path}" in out
    blocks = text.strip().split("\n\n")  # Markdown takes what stands right above a table for a part of it
    tables = [block.splitlines() for block in blocks if block != "landmarks"]
    assert len(tables) == len(blocks) // 2 + 1 > 2
    assert all(line.startswith("|") for lines in tables for line in lines)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], None),
        (["--smooth", "--min-score", "0"], "--min-score, --smooth"),
        (["--max-distance", "1.5"], "--max-distance"),
    ],
)
def test_command_names_options_that_samples_have_no_use_for(
    tmp_path: Path, model: HandModel, models_dir: Path, caplog, options: list[str], named: str | None
) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        shard.add(made_sample(model))
    command = ["eval", str(tmp_path / "x.tar"), "--estimator", "landmarks", "--models-dir", str(models_dir)]
    assert main([*command, *options]) == 0
    assert [message.rsplit(": ", 1)[1] for message in caplog.messages] == ([] if named is None else [named])
    assert all(message.startswith("no effect on samples") for message in caplog.messages)


def test_command_names_what_is_wrong(tmp_path: Path, capsys) -> None:
    assert main(["eval", str(tmp_path)]) == 1
    assert "no shards" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--baseline", "--name", "landmarks"], "another --name"),
        (["--ambiguity", "x.txt"], "'x.txt': its name must end in"),
        (["--json", "."], ". is a folder"),
        (["--json", "file/x.json"], "file"),
        (["--plots", "file"], "file"),
        (["--table", "file/x.md"], "file"),
    ],
)
def test_command_says_before_its_work_what_cannot_be_written(
    tmp_path: Path, model: HandModel, options: list[str], said: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with ShardWriter(Path("x.tar")) as shard:
        shard.add(made_sample(model))
    monkeypatch.setattr("wildhands_ros.cli.evaluate._score", None)
    monkeypatch.setattr("wildhands_ros.cli.evaluate._with_progress", None)
    assert main(["eval", "x.tar", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_figures_on_standard_output_are_json_alone(tmp_path: Path, model: HandModel, models_dir: Path) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        shard.add(made_sample(model))
    command = [sys.executable, "-m", "wildhands_ros.cli", "eval", str(tmp_path / "x.tar"), "--estimator", "landmarks"]
    command += ["--models-dir", str(models_dir), "--json", "-"]
    with (tmp_path / "figures.json").open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    assert json.loads((tmp_path / "figures.json").read_text())[0]["samples"] == 1
    assert "estimated %" in done.stderr
