"""How wrong hands are likely to be: the law, and what the estimator makes of it."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_open_estimator import alone, landmarks_of

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.wildhands import (
    Backend,
    CheckpointInfo,
    Crops,
    OpenHands,
    Perspective,
    RuntimeConfig,
    Translation,
    Trunk,
    Variant,
    WildHandsConfig,
    load_checkpoint,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands import estimator as estimator_module
from wildhands_ros.estimation.wildhands.estimator import Found
from wildhands_ros.estimation.wildhands.expected_errors import FEWEST, ExpectedErrors, disagreement
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.upright import rotations
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import MIDDLE_MCP, HandBox, Landmarks, Side

MODEL = load_hand_model()
LAW = ExpectedErrors(0.1, 0.5, 0.25)
CAMERA = Camera(640, 480, 500.0, 500.0, 330.0, 235.0)
CAMERAS = {
    "pinhole": CAMERA,
    "pixels that are not square": Camera(640, 480, 500.0, 530.0, 330.0, 235.0),
    "fisheye": Camera(640, 480, 300.0, 300.0, 322.0, 238.0, Distortion.EQUIDISTANT, (0.02, -0.01, 0.0, 0.0)),
}
BOX = HandBox(Side.RIGHT, (330.0, 180.0, 450.0, 310.0), 0.9)


# --- the law ----------------------------------------------------------------------------------------------------------


def test_the_law_is_a_power_law() -> None:
    np.testing.assert_allclose(LAW(np.array([0.25, 1.0]), np.array([0.0625, 1.0])), [0.1 * 0.5 * 0.5, 0.1])
    none, least, more = LAW(np.array([0.0, 1e-3, 2e-3]), np.ones(3))
    assert 0 < none == least < more  # nothing is surer than that, and no error is zero


def test_a_law_is_learned_back_from_what_it_says() -> None:
    rng = np.random.default_rng(0)
    spreads, apart = rng.uniform(0.1, 0.6, 5000), rng.uniform(0.01, 0.3, 5000)
    exact = ExpectedErrors.learned(spreads, apart, LAW(spreads, apart))
    assert exact is not None
    np.testing.assert_allclose(list(asdict(exact).values()), list(asdict(LAW).values()), rtol=1e-6)
    errors = LAW(spreads, apart) * np.exp(rng.normal(0, 0.5, 5000))
    noisy = ExpectedErrors.learned(spreads, apart, errors)
    assert noisy is not None
    assert np.mean(errors < noisy(spreads, apart)) == pytest.approx(0.5, abs=0.03)  # half of them are better
    np.testing.assert_allclose(noisy(spreads, apart), LAW(spreads, apart), rtol=0.1)


def test_whoever_is_surer_is_never_said_to_be_worse() -> None:
    rng = np.random.default_rng(1)
    spreads, apart = rng.uniform(0.1, 0.6, 500), rng.uniform(0.01, 0.3, 500)
    learned = ExpectedErrors.learned(spreads, apart, 0.01 * (spreads / apart) ** 0.3)  # what cannot be of a network
    assert learned is not None
    assert learned.of_disagreement == 0 < learned.of_spread
    alike = ExpectedErrors.learned(np.full(500, 0.2), np.full(500, 0.05), np.full(500, 0.02))
    assert alike is not None and alike(np.array([0.2]), np.array([0.05])) == pytest.approx(0.02)


def test_hands_of_unknown_error_are_left_out_and_too_few_teach_nothing() -> None:
    rng = np.random.default_rng(2)
    spreads, apart = rng.uniform(0.1, 0.6, FEWEST + 2), rng.uniform(0.01, 0.3, FEWEST + 2)
    errors = LAW(spreads, apart)
    errors[0], spreads[1] = np.nan, np.nan
    learned = ExpectedErrors.learned(spreads, apart, errors)
    assert learned is not None and learned.scale == pytest.approx(LAW.scale)
    errors[0] = np.inf
    assert ExpectedErrors.learned(spreads, apart, errors) == learned
    assert ExpectedErrors.learned(spreads[1:], apart[1:], errors[1:]) is not None
    assert ExpectedErrors.learned(spreads[3:], apart[3:], errors[3:]) is None


@pytest.mark.parametrize("varying", [1e-3, 1e-5])  # too large a scale, and one beyond floats
def test_hands_of_which_a_network_is_as_sure_teach_nothing(varying: float) -> None:
    """As at the beginning of a training: what fits their noise best is no law, and no number at all."""
    rng = np.random.default_rng(1)
    spreads, apart = 0.55 + varying * rng.standard_normal(120), rng.uniform(0.3, 0.5, 120)
    errors = np.where(spreads > 0.55, 0.06, 0.04)
    assert ExpectedErrors.learned(spreads, apart, errors) is None


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, "1", None, True])
@pytest.mark.parametrize("name", ["scale", "of_spread", "of_disagreement"])
def test_impossible_laws_are_refused(name: str, wrong: object) -> None:
    with pytest.raises(ModelFileError, match=f"expected errors: {name} must be a number"):
        replace(LAW, **{name: wrong})


@pytest.mark.parametrize(
    "errors", [[0.1, 0.5, 0.25], "small", {"scale": 1.0}, {**asdict(LAW), "more": 1.0}, {**asdict(LAW), "scale": -1.0}]
)
def test_checkpoints_with_other_laws_are_refused(errors: object, tmp_path: Path, monkeypatch) -> None:
    variant = Variant(
        trunk=Trunk.LANDMARKS, frame_trunk=False, crops=Crops.SHARP, fusion=(8, 8, 8), features=8, hidden=8
    )
    written, network = CheckpointInfo.to_dict, made_up_network(variant, 1)
    monkeypatch.setattr(CheckpointInfo, "to_dict", lambda self: {**written(self), "errors": asdict(LAW)})
    save_checkpoint(tmp_path / "n.safetensors", network, CheckpointInfo())
    assert load_checkpoint(tmp_path / "n.safetensors")[1].errors == LAW
    monkeypatch.setattr(CheckpointInfo, "to_dict", lambda self: {**written(self), "errors": errors})
    save_checkpoint(tmp_path / "n.safetensors", network, CheckpointInfo())
    with pytest.raises(ModelFileError, match=r"n\.safetensors: (its description cannot be read|expected errors: )"):
        load_checkpoint(tmp_path / "n.safetensors")


def test_disagreement_is_the_same_for_turned_mirrored_and_shifted_hands() -> None:
    rng = np.random.default_rng(3)
    seen, posed = rng.uniform(-1, 1, (2, 5, 21, 2))
    apart = disagreement(seen, posed)
    assert apart.shape == (5,) and (apart > 0.1).all()
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    for moved in (seen @ turn.T, seen * (-1, 1), seen + (3.0, -2.0)):
        np.testing.assert_allclose(disagreement(moved, posed), apart)
    np.testing.assert_allclose(disagreement(seen, seen), 0)
    pairs = [np.linalg.norm(seen[0, i] - seen[0, j]) for i in range(21) for j in range(i)]
    assert disagreement(seen[0], 1.1 * seen[0]) == pytest.approx(0.1 * np.mean(pairs))


# --- the estimator ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y, z = (float(v) for v in MODEL.right.joint_template[0])
    variant = Variant(
        trunk=Trunk.LANDMARKS_FINE, frame_trunk=False, grasp=True, crops=Crops.SHARP,
        perspective=Perspective.CORRECTION, translation=Translation.CROP, fusion=(32, 32, 16), features=64, hidden=32,
        box_factor=1.3, mirror=True, root=(x, y, z), keypoints=True, depths=True, upright=True, roll_margin=1.15,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("law") / "network.safetensors"
    save_checkpoint(path, made_up_network(variant, 5), CheckpointInfo(hand_model="open", errors=LAW))
    return path


def load(checkpoint: Path, *, refine: bool = False, backend: Backend = Backend.TORCH, **settings: float) -> OpenHands:
    """Crops are those of the boxes: hands of a network that has learned nothing do not lie where it looks."""
    runtime = RuntimeConfig("cpu", backend, threads=1, tolerance_mm=50.0, cache_dir=checkpoint.parent / "cache")
    config = WildHandsConfig(checkpoint, look_again=False, runtime=runtime, **settings)
    return OpenHands.load(config, MODEL, refine=refine)


def picture(camera: Camera) -> Frame:
    small = np.random.default_rng(4).integers(0, 255, (15, 20, 3), dtype=np.uint8)
    return Frame(cv2.resize(small, (camera.width, camera.height), interpolation=cv2.INTER_CUBIC), camera)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(("name", "up"), [*((name, 0.0) for name in CAMERAS), ("pinhole", 0.7)])
def test_hands_say_what_the_law_says_of_their_heat_maps(
    checkpoint: Path, name: str, up: float, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one look, so that the crop is known. up: by how much the landmarks say that the hand is turned clockwise."""
    estimator, frame = load(checkpoint), picture(CAMERAS[name])
    image = np.full((21, 2), 390.0)
    image[0] -= (0, 100)
    image[MIDDLE_MCP] = image[0] + 40 * np.array([math.sin(up), -math.cos(up)])
    image[20] += 2000  # far out of the picture, so that the hand stays as the network has it
    box = replace(BOX, side=side, landmarks=Landmarks(image, np.zeros((21, 3)), 0.1))
    monkeypatch.setattr(estimator, "_look_again", lambda *arguments: arguments[-2:])
    hand = alone(estimator, frame, box)
    prepared = estimator.prepare(frame, [box])
    network, info = load_checkpoint(checkpoint)
    with torch.inference_mode():
        seen = network(prepared.inputs)
    assert seen.keypoints is not None and seen.spread is not None
    # the hand in the network's own frame, in half crops
    scale = prepared.frame.focal * 2 / float(prepared.extents[0])
    joints = hand.joints @ rotations(torch.tensor([-up], dtype=torch.float64))[0].numpy().T
    posed = joints[:, :2] / joints[:, 2:] * scale
    if side is Side.LEFT:
        posed = posed * (-1, 1)
    apart = disagreement(seen.keypoints[0].double().numpy(), posed)
    assert apart > 0.05
    assert hand.expected_error == pytest.approx(float(LAW(float(seen.spread.mean()), apart)), rel=0.01)
    assert info.errors == LAW


def test_hands_that_are_looked_at_again_say_it_of_the_second_look(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, looks = load(checkpoint), []
    look = estimator._look
    monkeypatch.setattr(estimator, "_look", lambda *arguments: looks.append(look(*arguments)) or looks[-1])
    monkeypatch.setattr(estimator_module, "_UPRIGHT_ENOUGH", 0.0)
    boxes = [BOX, replace(BOX, side=Side.LEFT)]
    hands = estimator.estimate(picture(CAMERA), boxes).hands
    first, second = looks
    half_crop = 0.5 * 1.3 * BOX.size
    for index, hand in enumerate(hands):
        said = [
            float(LAW(look.spread[index], disagreement(look.keypoints[index], CAMERA.project(hand.joints) / half_crop)))
            for look in (first, second)
        ]
        assert hand.expected_error == pytest.approx(said[1])
        assert hand.expected_error != pytest.approx(said[0], rel=1e-3)


def test_every_backend_says_the_same(checkpoint: Path) -> None:
    frame = picture(CAMERA)
    expected = alone(load(checkpoint), frame, BOX).expected_error
    for backend in (Backend.ONNXRUNTIME, Backend.OPENVINO):
        assert alone(load(checkpoint, backend=backend), frame, BOX).expected_error == pytest.approx(expected, rel=1e-3)


def test_without_a_law_nothing_is_said(checkpoint: Path, tmp_path: Path) -> None:
    network, info = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "n.safetensors", network, replace(info, errors=None))
    hand = alone(load(tmp_path / "n.safetensors", largest_expected_error=1e-6), picture(CAMERA), BOX)
    assert math.isnan(hand.expected_error) and hand.valid


def test_hands_that_are_likely_to_be_wrong_are_not_valid(checkpoint: Path) -> None:
    frame = picture(CAMERA)
    expected = alone(load(checkpoint), frame, BOX).expected_error
    for limit, valid in ((1.01, True), (0.99, False)):
        hand = alone(load(checkpoint, largest_expected_error=limit * expected), frame, BOX)
        assert (hand.valid, hand.expected_error) == (valid, expected)
    estimator = load(checkpoint)
    for limit, valid in ((0.99, False), (1.01, True)):
        estimator.trust_up_to(limit * expected)
        hand = alone(estimator, frame, BOX)
        assert (hand.valid, hand.expected_error) == (valid, expected)
    with pytest.raises(ConfigError, match="largest_expected_error must be positive"):
        WildHandsConfig(checkpoint, largest_expected_error=0.0)


def test_a_hand_that_reaches_behind_the_camera_is_likely_to_be_wrong(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wrist lies ahead and within reach; of its fingers no pixel would see all."""

    def towards_the_camera(estimator: OpenHands, frame: Frame, box: HandBox, found: Found) -> Found:
        layer = MODEL.layer(box.side)
        _, joints = estimator.pose_hand(box.side, np.tile(np.eye(3), (16, 1, 1)), np.zeros(10), np.zeros(3))
        along = joints[MIDDLE_MCP] - joints[0]
        across = np.cross(along, [0.0, 1.0, 0.3])
        pose = np.tile(np.eye(3), (16, 1, 1))
        axes = np.stack([across, np.cross(along, across), -along])
        pose[0] = axes / np.linalg.norm(axes, axis=1, keepdims=True)
        return Found(pose, np.zeros(10), np.array([0.01, 0.01, 0.08]) - layer.rest_joints(np.zeros(10))[0])

    frame = picture(CAMERA)
    usual = alone(load(checkpoint), frame, BOX).expected_error
    monkeypatch.setattr(OpenHands, "_settled", towards_the_camera)
    hand = alone(load(checkpoint, largest_expected_error=1.5 * usual), frame, BOX)
    assert 0 < hand.joints[:, 2].max() == hand.joints[0, 2] and hand.joints[:, 2].min() < 0
    assert np.linalg.norm(hand.joints[0]) > 0.05
    assert hand.expected_error > 1.5 * usual and not hand.valid


def test_landmarks_of_another_hand_count_where_the_network_is_not_sure(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenHands, "_first_rolls", lambda *arguments: [0.0])  # landmarks only contradict
    frame = picture(CAMERA)
    raw = alone(load(checkpoint), frame, BOX)
    same = landmarks_of(raw, MODEL, CAMERA)
    seen = same.image
    middle = seen.mean(axis=0)
    other = replace(same, image=middle + 0.45 * (seen - middle) + np.ptp(seen, axis=0) * 0.3)
    for limit, valid in ((1.6, True), (1.4, False)):
        estimator = load(checkpoint, largest_expected_error=limit * raw.expected_error)
        assert alone(estimator, frame, replace(BOX, landmarks=same)).valid
        contradicted = alone(estimator, frame, replace(BOX, landmarks=other))
        assert (contradicted.valid, contradicted.expected_error) == (valid, raw.expected_error)
