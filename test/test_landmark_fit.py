"""The landmark fit recovers hands whose landmarks are known, and says so where it cannot."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.estimation import Estimator, LandmarkFit, LandmarkFitConfig
from wildhands_ros.estimation.fitting.evidence import Evidence, gather
from wildhands_ros.estimation.fitting.freedom import hand_kinematics, natural_prior
from wildhands_ros.estimation.fitting.kinematics import Kinematics, Posture, small_turn
from wildhands_ros.estimation.fitting.minimise import minimise
from wildhands_ros.estimation.fitting.terms import Linearised, Prior, add_limits, impossible, small_log
from wildhands_ros.estimation.landmark_fit.objective import Estimate, Objective, Weights
from wildhands_ros.estimation.landmark_fit.start import first_estimate, place
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandLayer, HandModel, load_hand_model
from wildhands_ros.hands import HandBox, Landmarks, Side
from wildhands_ros.mounting import Turn
from wildhands_ros.rotations import exp_so3

FloatArray = NDArray[np.float64]

WIDE = Camera.pinhole(1280, 720, 540)
FISHEYE = Camera(1280, 720, 400, 400, 635, 355, Distortion.EQUIDISTANT, (0.02, -0.01, 0.003, 0.0))
ODD = Camera(1280, 720, 900, 700, 250, 600)
BARREL = Camera(1280, 720, 700, 690, 640, 350, Distortion.PLUMB_BOB, (-0.2, 0.05, 0.001, -0.001))
TRUSTING = LandmarkFitConfig(weights=Weights(pixels=1e-4, world=1e-3), max_steps=60, tolerance=1e-9)
"""For evidence without noise: priors then hardly matter, and what is there must be found."""


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model(None)


def a_posture(model: HandModel, side: Side, seed: int, *, place: tuple[float, float, float] | None = None) -> Posture:
    """A hand that people could make, in front of the camera."""
    rng = np.random.default_rng(seed)
    layer = model.layer(side)
    kinematics, prior = hand_kinematics(layer), natural_prior(layer, 0.3)
    d = len(kinematics.dofs)
    angles = np.clip(prior.mean[:d] + 0.25 * rng.standard_normal(d), prior.lower, prior.upper)
    wrist = np.array(place) if place else np.array([0.0, 0.05, 0.45]) + rng.uniform(-0.08, 0.08, 3)
    return Posture(exp_so3(rng.uniform(-1.5, 1.5, 3)), wrist, angles, np.zeros(kinematics.shape_count))


def perfect_box(kinematics: Kinematics, posture: Posture, side: Side, camera: Camera, follow_id: int = -1) -> HandBox:
    """The box that a landmark network without any error would give."""
    points = kinematics.landmarks(posture)
    pixels = camera.project(points)
    ray = points.mean(axis=0) / np.linalg.norm(points.mean(axis=0))
    a, b, c = ray
    look = np.stack([  # the network answers as if the camera looked straight at the hand
        [1 - a * a / (1 + c), -a * b / (1 + c), -a], [-a * b / (1 + c), 1 - b * b / (1 + c), -b], ray,
    ])  # fmt: skip
    world = (points - points.mean(axis=0)) @ look.T
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    landmarks = Landmarks(pixels, world, presence=1.0)
    return HandBox(side, (low[0], low[1], high[0], high[1]), 0.9, 0.8, landmarks, follow_id)


def a_frame(camera: Camera, stamp_ns: int = 0) -> Frame:
    return Frame(np.zeros((camera.height, camera.width, 3), np.uint8), camera, stamp_ns)


def evidence_of(box: HandBox, camera: Camera) -> Evidence:
    assert box.landmarks is not None
    (evidence,) = gather([box.landmarks], camera)
    assert isinstance(evidence, Evidence)
    return evidence


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", Side)
def test_kinematic_jacobian_agrees_with_finite_differences(model: HandModel, side: Side) -> None:
    kinematics = hand_kinematics(model.layer(side))
    posture = replace(a_posture(model, side, 1), betas=np.linspace(-0.5, 0.5, kinematics.shape_count))
    points, jacobian = kinematics.landmarks_and_jacobian(posture)
    h = 1e-6
    steps = h * np.eye(kinematics.size)
    numeric = np.stack(
        [(kinematics.landmarks(posture.moved(s)) - kinematics.landmarks(posture.moved(-s))) / (2 * h) for s in steps],
        axis=-1,
    )
    assert np.allclose(points, kinematics.landmarks(posture), atol=1e-12)
    assert np.abs(jacobian - numeric).max() < 1e-8


def test_gradient_agrees_with_finite_differences_where_robust_terms_and_limits_are_at_work(model: HandModel) -> None:
    kinematics, prior = hand_kinematics(model.layer(Side.RIGHT)), natural_prior(model.layer(Side.RIGHT), 0.3)
    box = perfect_box(kinematics, a_posture(model, Side.RIGHT, 2), Side.RIGHT, FISHEYE)
    evidence = evidence_of(box, FISHEYE)
    objective = Objective(kinematics, prior, Weights(), evidence)
    n = kinematics.size + 4
    shove = 0.1 * np.random.default_rng(3).standard_normal(n)
    shove[6:-4] *= 5
    at = first_estimate(kinematics, prior, evidence).moved(shove)
    assert np.any(at.posture.angles > prior.upper) or np.any(at.posture.angles < prior.lower)
    h = 1e-6
    steps = h * np.eye(n)
    numeric = np.array([(objective(at.moved(s)).cost - objective(at.moved(-s)).cost) / (2 * h) for s in steps])
    gradient = objective(at).gradient
    assert np.abs(gradient - numeric).max() < 1e-5 * np.abs(numeric).max()


@pytest.mark.parametrize("side", Side)
def test_kinematics_agree_with_the_hand_model(model: HandModel, side: Side) -> None:
    layer = model.layer(side)
    kinematics = hand_kinematics(layer)
    posture = replace(a_posture(model, side, 4), betas=np.linspace(-1, 1, kinematics.shape_count))
    betas = np.zeros(10)
    betas[: kinematics.shape_count] = posture.betas
    _, joints = layer.numpy(kinematics.mano_pose(posture), betas, kinematics.translation(posture))
    distance = np.linalg.norm(joints - kinematics.keypoints(posture), axis=1)
    tips = [4, 8, 12, 16, 20]
    assert np.delete(distance, tips).max() < 1e-5
    assert distance[tips].max() < 2e-3


def with_mean_pose(model: HandModel) -> HandModel:
    """The same hands, with a mean pose as MANO's files have one."""

    def changed(layer: HandLayer) -> HandLayer:
        mirror = np.array([1.0, 1.0, 1.0]) if layer.side is Side.RIGHT else np.array([1.0, -1.0, -1.0])
        mean = np.random.default_rng(1).normal(0, 0.2, (15, 3)) * mirror
        return HandLayer(replace(layer.data, hands_mean=mean.ravel()))

    return HandModel("mano", changed(model.right), changed(model.left), "")


@pytest.mark.parametrize("side", Side)
def test_pose_is_relative_to_the_mean_of_the_users_own_model(model: HandModel, side: Side) -> None:
    mano = with_mean_pose(model)
    kinematics = hand_kinematics(mano.layer(side))
    posture = a_posture(mano, side, 22)
    box = perfect_box(kinematics, posture, side, WIDE)
    (hand,) = LandmarkFit(mano, config=TRUSTING).estimate(a_frame(WIDE), [box]).hands
    (same,) = LandmarkFit(model, config=TRUSTING).estimate(a_frame(WIDE), [box]).hands
    assert hand.hand_model == "mano"
    assert np.abs(hand.pose[1:] - same.pose[1:]).max() > 0.05  # other numbers
    assert np.allclose(hand.joints, same.joints, atol=1e-6)  # for the same hand
    assert np.allclose(hand.joints, kinematics.keypoints(posture), atol=0.01)


# --- recovering what is known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", [WIDE, FISHEYE, ODD, BARREL], ids=["wide", "fisheye", "odd", "barrel"])
@pytest.mark.parametrize("side", Side)
def test_landmarks_without_noise_give_the_hand_back(model: HandModel, side: Side, camera: Camera) -> None:
    fit = LandmarkFit(model, config=TRUSTING)
    kinematics = hand_kinematics(model.layer(side))
    for seed in range(3):
        posture = a_posture(model, side, seed)
        ray = camera.unproject((camera.width * 0.45, camera.height * 0.55))
        posture = replace(posture, wrist=0.45 * ray)
        (hand,) = fit.estimate(a_frame(camera), [perfect_box(kinematics, posture, side, camera)]).hands
        truth = kinematics.keypoints(posture)
        assert hand.valid
        assert hand.reprojection_error < 0.5
        assert np.linalg.norm(hand.joints[0] - truth[0]) < 0.01 * np.linalg.norm(truth[0])
        assert np.linalg.norm(hand.joints - truth, axis=1).mean() < 0.006
        assert np.allclose(hand.keypoints, camera.project(hand.joints))


def test_default_weights_pull_a_perfect_hand_only_a_little_towards_the_usual(model: HandModel) -> None:
    fit = LandmarkFit(model)
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    aligned, wrists = [], []
    for seed in range(12):
        posture = a_posture(model, Side.RIGHT, seed)
        (hand,) = fit.estimate(a_frame(WIDE), [perfect_box(kinematics, posture, Side.RIGHT, WIDE)]).hands
        truth = kinematics.keypoints(posture)
        aligned.append(np.linalg.norm(hand.joints - hand.joints[0] - truth + truth[0], axis=1).mean())
        wrists.append(np.linalg.norm(hand.joints[0] - truth[0]) / np.linalg.norm(truth[0]))
    assert np.mean(aligned) < 0.008
    assert np.mean(wrists) < 0.02


def test_noisy_landmarks_stay_within_the_promise(model: HandModel) -> None:
    """Noise of 3 % of the hand's box in the picture and 12 mm in the network's 3D."""
    rng = np.random.default_rng(5)
    fit = LandmarkFit(model)
    aligned, wrists = [], []
    for seed in range(30):
        side = list(Side)[seed % 2]
        kinematics = hand_kinematics(model.layer(side))
        posture = a_posture(model, side, seed)
        box = perfect_box(kinematics, posture, side, WIDE)
        assert box.landmarks is not None
        noisy = Landmarks(
            box.landmarks.image + 0.03 * box.size * rng.standard_normal((21, 2)),
            box.landmarks.world + 0.012 * rng.standard_normal((21, 3)),
            1.0,
        )
        (hand,) = fit.estimate(a_frame(WIDE), [replace(box, landmarks=noisy)]).hands
        truth = kinematics.keypoints(posture)
        aligned.append(np.linalg.norm(hand.joints - hand.joints[0] - truth + truth[0], axis=1).mean())
        wrists.append(np.linalg.norm(hand.joints[0] - truth[0]) / np.linalg.norm(truth[0]))
    assert np.mean(aligned) < 0.030
    assert np.mean(wrists) < 0.15


def test_the_scale_of_the_world_landmarks_does_not_matter(model: HandModel) -> None:
    kinematics = hand_kinematics(model.layer(Side.LEFT))
    box = perfect_box(kinematics, a_posture(model, Side.LEFT, 6), Side.LEFT, WIDE)
    assert box.landmarks is not None
    doubled = replace(box, landmarks=replace(box.landmarks, world=2 * box.landmarks.world))
    one, other = LandmarkFit(model).estimate(a_frame(WIDE), [box, doubled]).hands
    assert np.allclose(one.joints, other.joints, atol=1e-6)


def test_twice_the_focal_length_is_twice_the_distance(model: HandModel) -> None:
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    narrow, narrower = Camera.pinhole(1280, 720, 1500), Camera.pinhole(1280, 720, 3000)
    box = perfect_box(kinematics, a_posture(model, Side.RIGHT, 7, place=(0.0, 0.0, 0.6)), Side.RIGHT, narrow)
    (near,) = LandmarkFit(model).estimate(a_frame(narrow), [box]).hands
    (far,) = LandmarkFit(model).estimate(a_frame(narrower), [box]).hands
    assert far.joints[0, 2] / near.joints[0, 2] == pytest.approx(2.0, rel=0.05)  # perspective within the hand changes


def test_size_is_held_so_that_depth_is_known(model: HandModel) -> None:
    """A hand 10 % farther away looks smaller, and is found farther away instead of smaller."""
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    fit = LandmarkFit(model)
    posture = a_posture(model, Side.RIGHT, 8, place=(0.0, 0.0, 0.5))
    farther = replace(posture, wrist=posture.wrist * 1.1)
    boxes = [perfect_box(kinematics, p, Side.RIGHT, WIDE) for p in (posture, farther)]
    near, far = fit.estimate(a_frame(WIDE), boxes).hands
    assert far.joints[0, 2] / near.joints[0, 2] == pytest.approx(1.1, abs=0.015)
    assert np.abs(near.betas).max() < 0.5


def noisy_box(model: HandModel, side: Side, seed: int, camera: Camera) -> HandBox:
    box = perfect_box(hand_kinematics(model.layer(side)), a_posture(model, side, seed), side, camera)
    assert box.landmarks is not None
    rng = np.random.default_rng(seed)
    image = box.landmarks.image + rng.normal(0, 5, (21, 2))
    return replace(box, landmarks=Landmarks(image, box.landmarks.world + rng.normal(0, 0.005, (21, 3)), 1.0))


LENSES = pytest.mark.parametrize("camera", [WIDE, FISHEYE, ODD, BARREL], ids=["wide", "fisheye", "odd", "barrel"])


@LENSES
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_picture_gives_the_turned_hand(model: HandModel, camera: Camera, quarters: int) -> None:
    turn = Turn(quarters, camera.width, camera.height)
    for seed, side in enumerate(Side):
        box = noisy_box(model, side, seed, camera)
        (hand,) = LandmarkFit(model).estimate(a_frame(camera), [box]).hands
        (turned,) = LandmarkFit(model).estimate(a_frame(turn.camera(camera)), [turn.box(box)]).hands
        expected = turn.hand(hand)
        assert np.allclose(turned.joints, expected.joints, atol=1e-9)
        assert np.allclose(turned.pose, expected.pose, atol=1e-9)
        assert turned.reprojection_error == pytest.approx(hand.reprojection_error)


@LENSES
def test_neither_the_resolution_nor_the_window_of_a_picture_matters(model: HandModel, camera: Camera) -> None:
    for seed, side in enumerate(Side):
        box = noisy_box(model, side, seed, camera)
        assert box.landmarks is not None
        (hand,) = LandmarkFit(model).estimate(a_frame(camera), [box]).hands
        for other, image, scale in (
            (camera.resized(320, 180), (box.landmarks.image + 0.5) / 4 - 0.5, 0.25),
            (camera.resized(3840, 2160), (box.landmarks.image + 0.5) * 3 - 0.5, 3),
            (camera.cropped(100, -50, 900, 800), box.landmarks.image - [100, -50], 1),
        ):
            seen = replace(box, landmarks=replace(box.landmarks, image=image))
            (again,) = LandmarkFit(model).estimate(a_frame(other), [seen]).hands
            assert np.allclose(again.joints, hand.joints, atol=1e-9)
            assert np.allclose(again.betas, hand.betas, atol=1e-9)
            assert again.reprojection_error == pytest.approx(scale * hand.reprojection_error)


def test_hands_are_fitted_each_by_itself_in_any_order(model: HandModel) -> None:
    boxes = [noisy_box(model, side, seed, FISHEYE) for seed in range(2) for side in Side]
    alone = [LandmarkFit(model).estimate(a_frame(FISHEYE), [box]).hands[0] for box in boxes]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        together = LandmarkFit(model).estimate(a_frame(FISHEYE), [boxes[i] for i in order]).hands
        for i, hand in zip(order, together, strict=True):
            assert hand.side is alone[i].side and np.allclose(hand.joints, alone[i].joints, atol=1e-9)


@pytest.mark.parametrize("camera", [WIDE, FISHEYE, BARREL], ids=["wide", "fisheye", "barrel"])
def test_a_mirrored_picture_gives_the_mirrored_hand(model: HandModel, camera: Camera) -> None:
    mirror = np.array([-1.0, 1.0, 1.0])
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    for seed in (9, 10):
        box = perfect_box(kinematics, a_posture(model, Side.RIGHT, seed), Side.RIGHT, camera)
        assert box.landmarks is not None
        image = box.landmarks.image * [-1, 1] + [camera.width - 1, 0]
        x0, y0, x1, y1 = box.xyxy
        mirrored = replace(
            box, side=Side.LEFT, xyxy=(camera.width - 1 - x1, y0, camera.width - 1 - x0, y1),
            landmarks=Landmarks(image, box.landmarks.world * mirror, 1.0),
        )  # fmt: skip
        (right,) = LandmarkFit(model).estimate(a_frame(camera), [box]).hands
        (left,) = LandmarkFit(model).estimate(a_frame(camera.mirrored()), [mirrored]).hands
        assert left.side is Side.LEFT
        assert np.allclose(left.joints, right.joints * mirror, atol=1e-6)
        assert np.allclose(left.pose, right.pose * np.outer(mirror, mirror), atol=1e-5)
        assert left.vertices is not None and right.vertices is not None
        assert np.allclose(left.vertices, right.vertices * mirror, atol=1e-6)


@pytest.mark.parametrize(
    ("distance", "within"), [(0.049, False), (0.051, True), (1.99, True), (2.01, False), (np.nan, False)]
)
def test_a_valid_hands_wrist_lies_in_reach(model: HandModel, distance: float, within: bool) -> None:
    joints = np.zeros((21, 3))
    joints[0] = distance * np.array([0.48, -0.36, 0.8])
    assert LandmarkFit(model).within_reach(joints) == within


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_followed_hand_ends_where_a_fresh_one_does(model: HandModel) -> None:
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    followed, fresh = LandmarkFit(model), LandmarkFit(model)
    start = a_posture(model, Side.RIGHT, 11)
    for step in range(6):
        moved = replace(
            start,
            orientation=exp_so3([0.0, 0.06 * step, 0.04 * step]) @ start.orientation,
            wrist=start.wrist + np.array([0.01, -0.005, 0.008]) * step,
        )
        box = perfect_box(kinematics, moved, Side.RIGHT, WIDE, follow_id=4)
        (warm,) = followed.estimate(a_frame(WIDE, step), [box]).hands
        (cold,) = fresh.estimate(a_frame(WIDE, step), [replace(box, follow_id=-1)]).hands
        assert warm.follow_id == 4 and cold.follow_id == -1
        assert np.allclose(warm.joints, cold.joints, atol=2e-3)


def test_following_starts_nearer_to_the_answer(model: HandModel, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    evaluate = Objective.__call__

    def counting(self: Objective, estimate: Estimate) -> Linearised:
        counts.append(estimate)
        return evaluate(self, estimate)

    def evaluations(fit: LandmarkFit, box: HandBox) -> int:
        before = len(counts)
        fit.estimate(a_frame(WIDE), [box])
        return len(counts) - before

    monkeypatch.setattr(Objective, "__call__", counting)
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    fit = LandmarkFit(model)
    first, followed, after_reset = 0, 0, 0
    for seed in range(5):
        box = perfect_box(kinematics, a_posture(model, Side.RIGHT, seed), Side.RIGHT, WIDE, follow_id=seed)
        first += evaluations(fit, box)
        followed += evaluations(fit, box)
        fit.reset()
        after_reset += evaluations(fit, box)
    assert followed <= 2 * 5 < first
    assert after_reset == first


def test_a_follow_id_that_jumps_to_another_hand_does_not_mislead(model: HandModel) -> None:
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    fit = LandmarkFit(model)
    fit.estimate(a_frame(WIDE), [perfect_box(kinematics, a_posture(model, Side.RIGHT, 13), Side.RIGHT, WIDE, 0)])
    other = replace(a_posture(model, Side.RIGHT, 14), orientation=exp_so3([0.0, 0.0, 2.6]))
    box = perfect_box(kinematics, other, Side.RIGHT, WIDE, 0)
    (warm,) = fit.estimate(a_frame(WIDE, 1), [box]).hands
    (cold,) = LandmarkFit(model).estimate(a_frame(WIDE, 1), [box]).hands
    assert np.allclose(warm.joints, cold.joints, atol=3e-3)


# --- what it says about itself ----------------------------------------------------------------------------------------


def test_results_say_where_they_come_from(model: HandModel) -> None:
    fit: Estimator = LandmarkFit(model)
    box = perfect_box(hand_kinematics(model.layer(Side.LEFT)), a_posture(model, Side.LEFT, 15), Side.LEFT, WIDE, 7)
    (hand,) = fit.estimate(a_frame(WIDE), [box]).hands
    assert (hand.side, hand.score, hand.side_probability, hand.box) == (Side.LEFT, 0.9, 0.8, box.xyxy)
    assert hand.estimator == fit.name == "landmarks"
    assert hand.hand_model == fit.hand_model.name
    assert not hand.smoothed and hand.track_id == -1 and hand.follow_id == 7
    assert np.allclose(hand.pose @ np.swapaxes(hand.pose, -1, -2), np.eye(3), atol=1e-9)
    vertices, joints = model.layer(Side.LEFT).numpy(hand.pose, hand.betas, hand.translation)
    assert np.allclose(hand.joints, joints, atol=1e-5)
    assert hand.vertices is not None and np.allclose(hand.vertices, vertices, atol=1e-5)


def test_without_mesh_the_joints_are_the_same(model: HandModel) -> None:
    box = perfect_box(hand_kinematics(model.layer(Side.RIGHT)), a_posture(model, Side.RIGHT, 16), Side.RIGHT, WIDE)
    (full,) = LandmarkFit(model).estimate(a_frame(WIDE), [box]).hands
    (bare,) = LandmarkFit(model, with_mesh=False).estimate(a_frame(WIDE), [box]).hands
    assert bare.vertices is None and full.vertices is not None
    assert np.allclose(bare.joints, full.joints, atol=1e-3)


def test_landmarks_that_are_no_hand_are_invalid(model: HandModel) -> None:
    rng = np.random.default_rng(17)
    image = np.array([640, 360]) + 120 * rng.standard_normal((21, 2))
    landmarks = Landmarks(image, rng.normal(0, 0.05, (21, 3)), 1.0)
    nonsense = HandBox(Side.RIGHT, (400, 100, 900, 600), 0.9, landmarks=landmarks)
    (hand,) = LandmarkFit(model).estimate(a_frame(WIDE), [nonsense]).hands
    assert not hand.valid
    assert hand.reprojection_error > 10


def test_a_hand_farther_than_an_arm_can_reach_is_invalid(model: HandModel) -> None:
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    camera = Camera.pinhole(1280, 720, 3000)
    box = perfect_box(kinematics, a_posture(model, Side.RIGHT, 18, place=(0, 0, 3.0)), Side.RIGHT, camera)
    (hand,) = LandmarkFit(model).estimate(a_frame(camera), [box]).hands
    assert hand.joints[0, 2] > 2.5 and not hand.valid


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lm: None, "no landmarks"),
        (lambda lm: replace(lm, image=np.full((21, 2), 300.0)), "span only"),
        (lambda lm: replace(lm, image=np.full((21, 2), np.nan)), "only 0 of 21"),
        (lambda lm: replace(lm, world=np.full((21, 3), np.nan)), "not finite"),
        (lambda lm: replace(lm, world=np.zeros((21, 3))), "one line"),
        (lambda lm: replace(lm, image=lm.image * np.inf), "only 0 of 21"),
    ],
    ids=["none", "one pixel", "nan image", "nan world", "flat world", "infinite"],
)
def test_boxes_that_cannot_be_fitted_are_left_out_with_the_reason(model: HandModel, change, reason: str) -> None:
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    good = perfect_box(kinematics, a_posture(model, Side.RIGHT, 19), Side.RIGHT, WIDE)
    assert good.landmarks is not None
    bad = replace(good, side=Side.LEFT, landmarks=change(good.landmarks))
    result = LandmarkFit(model).estimate(a_frame(WIDE), [bad, good])
    (hand,) = result.hands
    (why,) = result.skipped
    assert hand.side is Side.RIGHT and hand.valid
    assert reason in why and why.startswith("left hand in box 0")


def test_some_missing_landmarks_do_not_matter(model: HandModel) -> None:
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    posture = a_posture(model, Side.RIGHT, 20)
    box = perfect_box(kinematics, posture, Side.RIGHT, WIDE)
    assert box.landmarks is not None
    image = box.landmarks.image.copy()
    image[[4, 12, 20]] = np.nan
    (hand,) = (
        LandmarkFit(model).estimate(a_frame(WIDE), [replace(box, landmarks=replace(box.landmarks, image=image))]).hands
    )
    assert hand.valid
    assert np.linalg.norm(hand.joints - kinematics.keypoints(posture), axis=1).mean() < 0.02


def test_no_boxes_no_hands(model: HandModel) -> None:
    result = LandmarkFit(model).estimate(a_frame(WIDE), [])
    assert result.hands == () and result.skipped == ()


@pytest.mark.parametrize("seed", range(8))
def test_wild_landmarks_never_raise(model: HandModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = []
    for side in Side:
        pixels = 10.0 ** rng.uniform(-3, 7) * rng.standard_normal((21, 2))
        world = 10.0 ** rng.uniform(-6, 6) * rng.standard_normal((21, 3))
        boxes.append(HandBox(side, (0, 0, 1, 1), 0.9, landmarks=Landmarks(pixels, world, 1.0), follow_id=0))
    fit = LandmarkFit(model)
    for camera in (WIDE, FISHEYE, BARREL):
        result = fit.estimate(a_frame(camera), boxes)
        assert len(result.hands) + len(result.skipped) == 2
        assert all(np.isfinite(hand.joints).all() for hand in result.hands)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_place_finds_the_shift_of_known_points(model: HandModel) -> None:
    kinematics = hand_kinematics(model.layer(Side.RIGHT))
    posture = a_posture(model, Side.RIGHT, 21)
    evidence = evidence_of(perfect_box(kinematics, posture, Side.RIGHT, FISHEYE), FISHEYE)
    centred = kinematics.landmarks(posture) - posture.wrist
    assert np.allclose(place(centred, evidence), posture.wrist, atol=1e-6)


def test_evidence_points_every_way_a_fisheye_looks() -> None:
    """Rays and their planes stay orthonormal up to and beyond 90° from the axis."""
    camera = Camera(1000, 1000, 300, 300, 499.5, 499.5, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0))
    angles = np.linspace(0, np.deg2rad(94), 21)
    directions = np.stack([np.sin(angles), 0.05 * np.ones(21), np.cos(angles)], axis=-1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    world = np.random.default_rng(0).normal(0, 0.03, (21, 3))
    (evidence,) = gather([Landmarks(camera.project(directions), world, 1.0)], camera)
    assert isinstance(evidence, Evidence)
    assert evidence.seen.all()
    assert np.allclose(evidence.rays, directions, atol=1e-9)
    assert np.allclose(np.matmul(evidence.across, evidence.rays[..., None]), 0, atol=1e-6)
    # a small turn of a ray moves its pixel as `across` says
    turned = evidence.rays + 1e-4 * np.array([0.3, -0.5, 0.2])
    moved = camera.project(turned) - camera.project(evidence.rays)
    assert np.allclose(evidence.across @ (1e-4 * np.array([0.3, -0.5, 0.2])), moved, atol=1e-3)


def test_evidence_is_of_one_hand_each_and_of_what_the_lens_sees() -> None:
    lens = Camera(640, 480, 400, 410, 300, 250, Distortion.PLUMB_BOB, (-0.4, 0.0, 0.0, 0.0))  # no rays in its corners
    rng = np.random.default_rng(1)
    clear = Landmarks(rng.uniform((240, 180), (300, 330), (21, 2)), rng.normal(0.1, 0.03, (21, 3)), 1.0)
    beyond = [replace(clear, image=np.where(np.arange(21)[:, None] < n, 5.0, clear.image)) for n in (13, 14)]
    unknown = replace(clear, image=np.where(np.arange(21)[:, None] < 3, np.nan, clear.image))
    hands = [beyond[0], clear, unknown, beyond[1]]
    found = gather(hands, lens)
    for together, hand in zip(found, hands, strict=True):
        (alone,) = gather([hand], lens)
        if isinstance(alone, Evidence):
            assert isinstance(together, Evidence)
            for name, value in vars(alone).items():
                np.testing.assert_array_equal(getattr(together, name), value)
    assert found[3] == "only 7 of 21 landmarks can be seen through this lens, 8 are needed"
    few, whole, most = (each for each in found if isinstance(each, Evidence))
    assert (few.seen.sum(), whole.seen.sum(), most.seen.sum()) == (8, 21, 18)
    for evidence in (few, most):
        assert np.isfinite(evidence.rays).all() and not evidence.across[evidence.seen == 0].any()
    assert whole.size == np.ptp(clear.image[:, 1]) > np.ptp(clear.image[:, 0])
    spread = whole.world[:, None] - whole.world, clear.world[:, None] - clear.world  # turned, and as large as before
    assert np.allclose(*(np.linalg.norm(each, axis=-1) for each in spread)) and np.allclose(whole.world.mean(axis=0), 0)


@pytest.mark.parametrize(
    ("width", "height", "thickness", "problem"),
    [
        (2.0, 2.8, 0.03, "span only 2.8 pixels"), (2.0, 3.2, 0.03, None),
        (90, 70, 1e-5, "on one line"), (90, 70, 1e-3, None),  # a flat hand is one
    ],
)  # fmt: skip
def test_landmarks_that_span_too_little_are_no_evidence(
    width: float, height: float, thickness: float, problem: str | None
) -> None:
    rng = np.random.default_rng(2)
    image = [600, 300] + [width, height] * np.concatenate([[[0, 0], [1, 1]], rng.uniform(0, 1, (19, 2))])
    world = rng.normal(0, 0.03, (21, 1)) * [0.6, 0.0, 0.8] + thickness * rng.normal(size=(21, 1)) * [0.0, 1.0, 0.0]
    (found,) = gather([Landmarks(image, world, 1.0)], WIDE)
    assert isinstance(found, Evidence) if problem is None else isinstance(found, str) and problem in found


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.3, 2.0, 3.0])
def test_the_logarithm_of_one_turn_is_that_of_any(angle: float) -> None:
    turn = angle * np.array([0.36, -0.48, 0.8])
    np.testing.assert_allclose(small_log(exp_so3(turn)), turn, atol=1e-14)
    np.testing.assert_allclose(small_turn(turn), exp_so3(turn), atol=1e-15)


def test_limits_cost_what_lies_beyond_them() -> None:
    gradient, curvature = np.ones(11), np.eye(11)
    angles, lower, upper = np.array([0.5, -0.2, 0.9, -1.0]), np.full(4, -0.4), np.full(4, 0.7)
    assert add_limits(angles, lower, upper, 0.1, gradient, curvature) == pytest.approx(0.5 * (2**2 + 6**2))
    assert gradient == pytest.approx([*[1] * 8, 1 + 2 / 0.1, 1 - 6 / 0.1, 1])
    assert curvature == pytest.approx(np.diag([*[1] * 8, 1 + 1 / 0.1**2, 1 + 1 / 0.1**2, 1]))
    assert add_limits(angles[:2], lower[:2], upper[:2], 0.1, gradient[:9], curvature[:9, :9]) == 0


@dataclass(frozen=True)
class Point:
    place: FloatArray

    def moved(self, step: FloatArray) -> Point:
        return Point(self.place + step)


def banana(point: Point) -> Linearised:
    """Rosenbrock's valley as a sum of squares: its full steps overshoot."""
    x, y = point.place
    residual, slope = np.array([10 * (y - x * x), 1 - x]), np.array([[-20 * x, 10], [-1, 0]])
    return Linearised(0.5 * float(residual @ residual), slope.T @ residual, slope.T @ slope)


def test_the_minimiser_finds_the_bottom_of_a_bent_valley_and_never_climbs() -> None:
    start, costs = Point(np.array([-1.2, 1.0])), []
    for steps in range(40):
        found, cost = minimise(banana, start, max_steps=steps, tolerance=1e-20)
        assert cost == banana(found).cost
        costs.append(cost)
    assert costs[0] == banana(start).cost and (np.diff(costs) <= 0).all()
    assert found.place == pytest.approx([1, 1], abs=1e-6) and cost < 1e-12


def test_the_minimiser_stops_where_nothing_is_to_be_gained() -> None:
    asked: list[Point] = []

    def bowl(point: Point) -> Linearised:
        asked.append(point)
        return Linearised(0.5 * float(point.place @ point.place), point.place.copy(), np.eye(2))

    found, cost = minimise(bowl, Point(np.array([3.0, 4.0])), max_steps=50, tolerance=1e-3)
    assert cost < 1e-3 and np.abs(found.place).max() < 0.01 and len(asked) == 2
    asked.clear()
    start = Point(np.array([0.01, 0.0]))
    assert minimise(bowl, start, max_steps=50, tolerance=1e-3)[0] is start and len(asked) == 1


def test_the_minimiser_stays_out_of_what_is_impossible() -> None:
    def walled(point: Point) -> Linearised:
        return banana(point) if point.place[0] < 0.5 else impossible(2)

    found, cost = minimise(walled, Point(np.array([-1.2, 1.0])), max_steps=60, tolerance=1e-20)
    assert np.isfinite(cost) and cost == banana(found).cost < banana(Point(np.array([0.3, 0.09]))).cost
    nowhere = Point(np.ones(2))
    assert minimise(walled, nowhere, max_steps=60, tolerance=1e-20) == (nowhere, np.inf)


def test_the_prior_keeps_its_own_limits(model: HandModel) -> None:
    for side in Side:
        prior: Prior = natural_prior(model.layer(side), 0.3)
        d = len(prior.lower)
        assert np.all(prior.lower < prior.upper)
        assert np.all((prior.mean[:d] >= prior.lower) & (prior.mean[:d] <= prior.upper))
        assert np.all(np.linalg.eigvalsh(prior.precision) > 0)
        shape = np.s_[d:, d:]  # of which nothing else is known
        assert np.allclose(prior.precision[shape], np.eye(10) / 0.3**2) and not prior.mean[d:].any()
