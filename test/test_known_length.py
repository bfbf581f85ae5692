"""Hands of a known length: scaled about the camera, into shapes that the hand model has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation import KnownLength, LandmarkFit, hand_length
from wildhands_ros.estimation.estimator import Estimates
from wildhands_ros.estimation.known_length import betas_of_length, resized
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Hand, HandBox, Side
from wildhands_ros.mounting import Turn
from wildhands_ros.pipeline import EstimationConfig, Pipeline, PipelineConfig
from wildhands_ros.pipeline.pipeline import make_estimator
from wildhands_ros.tracking import TrackingConfig

CAMERA = Camera(1280, 720, 640, 660, 600, 350)
MODEL = load_hand_model()
BOX = (500.0, 300.0, 700.0, 500.0)

seeds = st.integers(0, 10_000)
sides = st.sampled_from(list(Side))
lengths = st.floats(0.13, 0.24)


def made_up(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pose, betas and translation of somebody's hand in front of the camera."""
    rng = np.random.default_rng(seed)
    pose = Rotation.from_rotvec(rng.normal(scale=0.4, size=(16, 3))).as_matrix()
    return pose, rng.normal(size=10), rng.uniform((-0.2, -0.1, 0.3), (0.2, 0.1, 0.8))


class Says:
    """An estimator that always says the same hand; of its own mind about poses, as the published network is."""

    name, hand_model = "says", MODEL

    def __init__(self, seed: int, turn: float = 0.0) -> None:
        self.parameters = made_up(seed)
        self.turn = Rotation.from_euler("z", turn).as_matrix()
        self.resets = 0
        self.reach = 10.0

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        return Estimates(tuple(self.hand(box.side, frame.camera) for box in boxes), ("one more",))

    def hand(self, side: Side, camera: Camera = CAMERA) -> Hand:
        vertices, joints = self.pose_hand(side, *self.parameters)
        pose, betas, translation = self.parameters
        return Hand(
            side, 0.9, BOX, joints, camera.project(joints), pose, betas, translation, self.name, MODEL.name,
            vertices=vertices,
        )  # fmt: skip

    def pose_hand(
        self, side: Side, pose: np.ndarray, betas: np.ndarray, translation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        vertices, joints = MODEL.layer(side).numpy(pose, betas, np.zeros(3))
        return vertices @ self.turn.T + translation, joints @ self.turn.T + translation

    def within_reach(self, joints: np.ndarray) -> bool:
        return float(np.linalg.norm(joints[0])) < self.reach

    def trust_up_to(self, largest_expected_error: float) -> None:
        self.trusted = largest_expected_error

    def reset(self) -> None:
        self.resets += 1


def test_the_mean_hand_is_as_long_as_peoples_hands_are() -> None:
    """190 mm and 176 mm for 150 men and 150 women (Ibeachu et al., Asian Journal of Medical Sciences 3(8), 2011)."""
    for side in Side:
        assert 0.175 < hand_length(MODEL.layer(side).rest_joints(np.zeros(10))) < 0.195


def test_a_hand_that_its_length_moves_out_of_reach_is_not_valid() -> None:
    plain = Says(1)
    (hand,) = plain.estimate(Frame(np.zeros((720, 1280, 3), np.uint8), CAMERA), [HandBox(Side.LEFT, BOX, 1.0)]).hands
    length = float(hand_length(hand.joints))
    plain.reach = 1.05 * float(np.linalg.norm(hand.joints[0]))
    assert hand.valid and resized(hand, length, plain, CAMERA).valid
    assert not resized(hand, 1.1 * length, plain, CAMERA).valid
    assert not resized(replace(hand, valid=False), length, plain, CAMERA).valid


@given(seeds, sides)
def test_a_bent_hand_is_as_long_as_a_flat_one(seed: int, side: Side) -> None:
    pose, betas, translation = made_up(seed)
    layer = MODEL.layer(side)
    _, joints = layer.numpy(pose, betas, translation)
    flat = hand_length(layer.rest_joints(betas))
    assert hand_length(joints) == pytest.approx(flat, rel=0.01)  # the tip lies on the skin, which bends a little
    twice = hand_length(np.stack([joints, 2 * joints]))
    np.testing.assert_allclose(twice, float(hand_length(joints)) * np.array([1, 2]))


@given(seeds, sides, lengths)
def test_betas_reach_the_length_and_no_others_are_nearer(seed: int, side: Side, length: float) -> None:
    _, betas, _ = made_up(seed)
    layer = MODEL.layer(side)
    found = betas_of_length(layer, betas, length)
    assert hand_length(layer.rest_joints(found)) == pytest.approx(length, abs=1e-9)
    np.testing.assert_allclose(betas_of_length(layer, found, length), found, atol=1e-9)
    for step in 0.3 * np.random.default_rng(seed).normal(size=(5, 10)):
        other = betas_of_length(layer, found + step, length)  # another hand of that length
        assert np.linalg.norm(other - betas) >= np.linalg.norm(found - betas) - 1e-6


@given(seeds, sides, lengths)
def test_a_resized_hand_looks_the_same_and_lies_as_much_farther_as_it_is_longer(
    seed: int, side: Side, length: float
) -> None:
    estimator = Says(seed, turn=0.4)
    hand = estimator.hand(side)
    layer = MODEL.layer(side)
    found = resized(hand, length, estimator, CAMERA)
    scale = length / hand_length(layer.rest_joints(hand.betas))
    np.testing.assert_allclose(found.joints[0], scale * hand.joints[0], atol=1e-9)
    assert hand_length(layer.rest_joints(found.betas)) == pytest.approx(length)
    size = np.ptp(hand.keypoints, axis=0).max()
    assert np.linalg.norm(found.keypoints - hand.keypoints, axis=1).mean() < 0.15 * abs(scale - 1) * size + 1e-6
    np.testing.assert_allclose(found.keypoints, CAMERA.project(found.joints))
    assert hand.vertices is not None and found.vertices is not None
    assert np.linalg.norm(found.vertices - scale * hand.vertices, axis=1).mean() < 0.025 * abs(scale - 1) + 1e-9
    vertices, joints = estimator.pose_hand(side, found.pose, found.betas, found.translation)  # as trackers pose it
    np.testing.assert_allclose(joints, found.joints, atol=1e-12)
    np.testing.assert_allclose(vertices, found.vertices, atol=1e-12)
    np.testing.assert_array_equal(found.pose, hand.pose)
    again = resized(found, length, estimator, CAMERA)
    np.testing.assert_allclose(again.joints, found.joints, atol=1e-9)


@given(seeds, sides, lengths)
def test_hands_before_a_turned_camera_and_in_the_mirror_are_resized_the_same(
    seed: int, side: Side, length: float
) -> None:
    estimator, turn, flip = Says(seed), Turn(1, CAMERA.width, CAMERA.height), np.diag([-1.0, 1.0, 1.0])
    hand = estimator.hand(side)
    found = resized(hand, length, estimator, CAMERA)
    turned = resized(turn.hand(hand), length, estimator, turn.camera(CAMERA))
    np.testing.assert_allclose(turned.joints, turn.hand(found).joints, atol=1e-9)
    np.testing.assert_allclose(turned.keypoints, turn.hand(found).keypoints, atol=1e-6)

    pose, translation = flip @ hand.pose @ flip, flip @ hand.translation
    vertices, joints = estimator.pose_hand(side.other, pose, hand.betas, translation)
    other = replace(
        hand, side=side.other, pose=pose, translation=translation, vertices=vertices, joints=joints,
        keypoints=CAMERA.mirrored().project(joints),
    )  # fmt: skip
    mirrored = resized(other, length, estimator, CAMERA.mirrored())
    np.testing.assert_allclose(mirrored.joints, found.joints @ flip, atol=1e-9)
    np.testing.assert_allclose(mirrored.betas, found.betas, atol=1e-9)


def test_a_hand_that_was_taken_for_a_smaller_one_comes_to_its_true_place() -> None:
    truth = Says(5).hand(Side.RIGHT)
    estimator = Says(5)
    pose, betas, _ = estimator.parameters
    layer = MODEL.layer(Side.RIGHT)
    small = betas_of_length(layer, betas, 0.9 * float(hand_length(layer.rest_joints(betas))))
    at_zero = layer.numpy(pose, small, np.zeros(3))[1]
    estimator.parameters = pose, small, 0.9 * truth.joints[0] - at_zero[0]
    mistaken = estimator.hand(Side.RIGHT)
    assert np.linalg.norm(mistaken.joints[0] - truth.joints[0]) > 0.03
    found = resized(mistaken, float(hand_length(layer.rest_joints(betas))), estimator, CAMERA)
    np.testing.assert_allclose(found.joints[0], truth.joints[0], atol=1e-9)
    np.testing.assert_allclose(found.joints, truth.joints, atol=1e-4)
    np.testing.assert_allclose(found.betas, betas, atol=1e-2)


def test_a_hand_without_mesh_gets_none_and_one_that_is_not_finite_stays() -> None:
    estimator = Says(1)
    hand = replace(estimator.hand(Side.LEFT), vertices=None)
    assert resized(hand, 0.2, estimator, CAMERA).vertices is None
    broken = replace(hand, betas=np.full(10, np.nan))
    assert resized(broken, 0.2, estimator, CAMERA) is broken
    nowhere = replace(hand, joints=np.where(np.arange(21)[:, None] == 0, np.nan, hand.joints))
    assert resized(nowhere, 0.2, estimator, CAMERA) is nowhere


def test_an_estimator_of_known_length_is_otherwise_the_same() -> None:
    inner = Says(2)
    estimator = KnownLength(inner, 0.17)
    frame, boxes = Frame(np.zeros((720, 1280, 3), np.uint8), CAMERA), [HandBox(side, BOX, 1.0) for side in Side]
    found = estimator.estimate(frame, boxes)
    assert found.skipped == ("one more",)
    for hand, box in zip(found.hands, boxes, strict=True):
        expected = resized(inner.hand(box.side), 0.17, inner, CAMERA)
        np.testing.assert_array_equal(hand.joints, expected.joints)
        assert hand.side is box.side and hand.estimator == "says"
    estimator.reset()
    estimator.trust_up_to(0.02)
    assert inner.resets == 1 and inner.trusted == 0.02 and estimator.name == "says" and estimator.hand_model is MODEL


@pytest.mark.parametrize("length", [0.01, 0.079, 0.301, 0.5, -0.19, float("nan"), 18.9, 189.0])
def test_lengths_that_no_hand_has_are_refused(length: float) -> None:
    with pytest.raises(ConfigError, match="metres, from the crease of the wrist to the tip of the middle finger"):
        EstimationConfig(hand_length=length)
    with pytest.raises(ConfigError, match="hand_length"):
        KnownLength(Says(0), length)


def test_centimetres_and_millimetres_are_recognised() -> None:
    with pytest.raises(ConfigError, match=r"not 18\.9 \(given in centimetres\? in metres 0\.189\)$"):
        EstimationConfig(hand_length=18.9)
    with pytest.raises(ConfigError, match=r"not 189 \(given in millimetres\? in metres 0\.189\)$"):
        EstimationConfig(hand_length=189)


@pytest.mark.parametrize("length", [0.08, 0.3])
def test_the_smallest_and_the_largest_hands_have_shapes(length: float) -> None:
    assert EstimationConfig(hand_length=length).hand_length == KnownLength(Says(3), length).length == length
    for side in Side:
        hand = resized(Says(3).hand(side), length, Says(3), CAMERA)
        assert np.isfinite(hand.joints).all() and hand_length(hand.joints) == pytest.approx(length, rel=0.02)


def test_the_configured_length_reaches_the_pipelines_hands_also_when_smoothed() -> None:
    config = PipelineConfig(
        estimation=EstimationConfig(estimator="landmarks", hand_length=0.16), tracking=TrackingConfig(smooth=True)
    )
    estimator = make_estimator(config.estimation, MODEL)
    assert isinstance(estimator, KnownLength) and isinstance(estimator.inner, LandmarkFit)
    assert not isinstance(make_estimator(EstimationConfig(estimator="landmarks"), MODEL), KnownLength)
    pipeline = Pipeline(config, None, KnownLength(Says(4), 0.16), MODEL)
    frame = Frame(np.zeros((720, 1280, 3), np.uint8), CAMERA)
    for step in range(3):
        found = pipeline.process(replace(frame, stamp_ns=step * 33_000_000), [HandBox(Side.RIGHT, BOX, 1.0)])
        for hand in (*found.hands, *found.raw):
            assert hand_length(hand.joints) == pytest.approx(0.16, rel=0.01)


def test_another_persons_length_holds_at_once_also_when_smoothed() -> None:
    config = PipelineConfig(estimation=EstimationConfig(estimator="landmarks"), tracking=TrackingConfig(smooth=True))
    pipeline = Pipeline(config, None, Says(4), MODEL)
    frame = Frame(np.zeros((720, 1280, 3), np.uint8), CAMERA)
    track_ids = set()
    for step, length in enumerate([0.16] * 5 + [0.2] * 3 + [0.0]):
        taken = replace(config, estimation=replace(config.estimation, hand_length=length))
        assert pipeline.configure(taken) and pipeline.config == taken
        found = pipeline.process(replace(frame, stamp_ns=step * 33_000_000), [HandBox(Side.RIGHT, BOX, 1.0)])
        ((hand,), (raw,)) = found.hands, found.raw
        np.testing.assert_allclose(hand.joints, raw.joints, atol=1e-9)
        assert not length or hand_length(hand.joints) == pytest.approx(length, rel=0.01)
        track_ids.add(hand.track_id)
    assert track_ids == {0}
