"""A network of upright hands: rolling the camera changes what it sees, and nothing about its answer."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands import (
    CheckpointInfo,
    Crops,
    Perspective,
    Translation,
    Trunk,
    Variant,
    WildHands,
    WildHandsConfig,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.decode import Decoded
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.upright import (
    grid_rolled,
    roll_boxes,
    roll_crops,
    roll_of,
    roll_places,
    rotations,
    to_crop,
)
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import HandBox, Landmarks, Side

MODEL = load_hand_model()
ROOT = tuple(float(v) for v in MODEL.right.joint_template[0])


def _variant(**changes: object) -> Variant:
    settings: dict[str, object] = {
        "trunk": Trunk.LANDMARKS, "frame_trunk": False, "crops": Crops.SHARP, "translation": Translation.CROP,
        "perspective": Perspective.CORRECTION, "fusion": (64, 32, 16), "features": 64, "hidden": 64, "mirror": True,
        "root": ROOT, "upright": True, **changes,
    }  # fmt: skip
    return Variant(**settings)  # type: ignore[arg-type]


# --- rolling ----------------------------------------------------------------------------------------------------------


@given(st.floats(-math.pi, math.pi), st.floats(0.1, 100), st.floats(-500, 500), st.floats(-500, 500))
def test_a_hand_rolled_by_its_roll_points_up(direction: float, length: float, x: float, y: float) -> None:
    keypoints = np.zeros((21, 2))
    keypoints[0] = x, y
    keypoints[9] = x + length * math.sin(direction), y - length * math.cos(direction)
    roll = roll_of(keypoints)
    assert math.remainder(roll + direction, math.tau) == pytest.approx(0, abs=1e-4)
    up = rotations(torch.tensor([roll], dtype=torch.float64))[0, :2, :2].numpy() @ (keypoints[9] - keypoints[0])
    np.testing.assert_allclose(up, (0, -length), atol=1e-3)


def test_a_hand_without_a_direction_is_not_rolled() -> None:
    assert roll_of(np.zeros((21, 2))) == 0.0
    assert roll_of(np.full((21, 2), np.nan)) == 0.0


def test_places_boxes_and_pictures_roll_together() -> None:
    rng = np.random.default_rng(0)
    matrix = torch.tensor([[150.0, 0, 100.0], [0, 170.0, 115.0], [0, 0, 1]]).expand(8, 3, 3)
    center, extent = torch.from_numpy(rng.uniform(20, 200, (8, 2))).float(), 60.0
    boxes = torch.cat([center - extent / 2, center + extent / 2], dim=1)
    rolls = torch.from_numpy(rng.uniform(-3, 3, 8)).float()
    places = torch.from_numpy(rng.uniform(-0.6, 0.6, (8, 1, 2))).float()

    def ray(place: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        pixels = (box[:, None, :2] + box[:, None, 2:]) / 2 + place * extent / 2
        focals = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], dim=1)[:, None]
        return torch.cat([(pixels - matrix[:, None, :2, 2]) / focals, torch.ones(8, 1, 1)], dim=-1)

    before = ray(places, boxes) @ rotations(rolls).transpose(1, 2)
    moved = roll_places(places, matrix, rolls)
    torch.testing.assert_close(ray(moved, roll_boxes(boxes, matrix, rolls)), before, atol=1e-4, rtol=1e-4)

    crops = torch.zeros(8, 3, 224, 224)
    for crop, (x, y) in zip(crops, ((places[:, 0] + 1) * 112 - 0.5).round().int().tolist(), strict=True):
        crop[:, y - 3 : y + 4, x - 3 : x + 4] = 1
    for crop, place in zip(roll_crops(crops, matrix, rolls), moved[:, 0], strict=True):
        weight = crop[0] / crop[0].sum()
        steps = (torch.arange(224) - 111.5) / 112
        found = torch.stack([(weight.sum(0) * steps).sum(), (weight.sum(1) * steps).sum()])
        if float(place.abs().max()) < 0.9:
            torch.testing.assert_close(found, place, atol=0.01, rtol=0)


def test_host_and_device_roll_pictures_alike() -> None:
    rng = np.random.default_rng(1)
    small = rng.uniform(0, 1, (2, 14, 14, 3)).astype(np.float32)
    pictures = [cv2.resize(p, (224, 224), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1) for p in small]
    crops, rolls = torch.from_numpy(np.stack(pictures)), torch.tensor([0.4, -2.0])
    matrix = torch.tensor([[150.0, 0, 100.0], [0, 160.0, 115.0], [0, 0, 1]])
    on_host = roll_crops(crops, matrix, rolls)
    elsewhere = grid_rolled(crops, to_crop(matrix, rolls))
    assert float((on_host - elsewhere).abs().max()) < 0.05 and float((on_host - elsewhere).abs().mean()) < 2e-3


# --- the estimator ----------------------------------------------------------------------------------------------------


def _estimator(tmp_path: Path, **changes: object) -> WildHands:
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, made_up_network(_variant(**changes), 5), CheckpointInfo())
    return WildHands.load(WildHandsConfig(path), MODEL)


def _picture(width: int, height: int, seed: int = 2) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _box(side: Side, xyxy: tuple[float, float, float, float], up: float) -> HandBox:
    """A box whose landmarks say that the hand points `up` radians clockwise from the picture's top."""
    image = np.zeros((21, 2)) + (xyxy[0] + xyxy[2]) / 2
    image[0] = (xyxy[0] + xyxy[2]) / 2, (xyxy[1] + xyxy[3]) / 2
    image[9] = image[0] + 40 * np.array([math.sin(up), -math.cos(up)])
    return HandBox(side, xyxy, 1.0, landmarks=Landmarks(image, np.zeros((21, 3)), 1.0))


def _only_one_look(estimator: WildHands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimator, "_look_again", lambda *arguments: arguments[-1])


@pytest.mark.parametrize("perspective", list(Perspective))
@pytest.mark.parametrize("side", list(Side))
def test_a_quarter_turn_of_the_camera_turns_the_hand(
    perspective: Perspective, side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = _estimator(tmp_path, perspective=perspective)
    _only_one_look(estimator, monkeypatch)
    picture, camera = _picture(320, 320), Camera(320, 320, 260, 260, 150.0, 171.0)
    turned = np.ascontiguousarray(np.rot90(picture, -1))  # clockwise: (x, y) → (319 − y, x)
    turned_camera = Camera(320, 320, 260, 260, 319 - 171.0, 150.0)
    x0, y0, x1, y1 = 90.0, 60.0, 190.0, 180.0
    (hand,) = estimator.estimate(Frame(picture, camera), [_box(side, (x0, y0, x1, y1), 0.4)]).hands
    box = _box(side, (319 - y1, x0, 319 - y0, x1), 0.4 + math.pi / 2)
    (other,) = estimator.estimate(Frame(turned, turned_camera), [box]).hands
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(other.joints, hand.joints @ quarter.T, atol=2e-3)
    np.testing.assert_allclose(other.pose[1:], hand.pose[1:], atol=2e-2)
    assert np.abs(other.joints - hand.joints).max() > 0.02


def test_hands_that_are_not_upright_are_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = _estimator(tmp_path)
    looks: list[list[float]] = []
    look = estimator._look

    def spy(*arguments: object) -> object:
        looks.append([round(float(roll), 3) for roll in arguments[-1]])  # type: ignore[attr-defined]
        return look(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(estimator, "_look", spy)
    frame = Frame(_picture(320, 240), Camera(320, 240, 260, 260, 150.0, 118.0))
    boxes = [_box(Side.RIGHT, (60.0, 60.0, 160.0, 160.0), 0.3), _box(Side.LEFT, (160.0, 60.0, 260.0, 160.0), 0.3)]

    monkeypatch.setattr(estimator, "_roll_seen", lambda decoded, i, box, camera: (-0.35, 1.2)[i])
    hands = estimator.estimate(frame, boxes).hands
    assert looks == [[-0.3, -0.3], [1.2]]  # the first stands as it is
    alone = estimator._look(frame.image, frame.camera, [estimator._crops.place(frame.camera, boxes[0].xyxy)],
                            boxes[:1], [-0.3])  # fmt: skip
    np.testing.assert_allclose(hands[0].pose, alone.pose[0], atol=1e-5)
    monkeypatch.setattr(estimator, "_roll_seen", lambda decoded, i, box, camera: None)
    looks.clear()
    estimator.estimate(frame, boxes)
    assert looks == [[-0.3, -0.3]]


def test_the_direction_that_is_seen_is_the_estimated_hands(tmp_path: Path) -> None:
    estimator = _estimator(tmp_path)
    camera = Camera(320, 240, 260, 255, 150.0, 118.0)
    boxes = [HandBox(side, (60.0, 60.0, 160.0, 160.0), 1.0) for side in Side]
    for hand, box in zip(estimator.estimate(Frame(_picture(320, 240), camera), boxes).hands, boxes, strict=True):
        decoded = Decoded(hand.pose[None], hand.betas[None], hand.translation[None], None)
        seen = estimator._roll_seen(decoded, 0, box, camera)
        assert seen is not None and seen == pytest.approx(roll_of(camera.project(hand.joints)), abs=1e-6)
        behind = Decoded(hand.pose[None], hand.betas[None], hand.translation[None] - (0, 0, 2.0), None)
        assert estimator._roll_seen(behind, 0, box, camera) is None


def test_landmarks_of_a_distorted_picture_are_rectified_first(tmp_path: Path) -> None:
    estimator = _estimator(tmp_path)
    lens = Camera(320, 240, 120, 120, 160.0, 118.0, Distortion.EQUIDISTANT, (0.05, 0.01, 0.0, 0.0))
    box = _box(Side.RIGHT, (220.0, 20.0, 300.0, 100.0), 0.5)
    assert box.landmarks is not None
    _, camera, view = estimator._undistorted(Frame(_picture(320, 240), lens))
    rays = lens.unproject(box.landmarks.image[[0, 9]])
    ends = rays[:, :2] / rays[:, 2:]
    assert estimator._roll(box, camera, view) == pytest.approx(-math.atan2(*(ends[1] - ends[0]) * (1, -1)), abs=1e-3)
    (hand,) = estimator.estimate(Frame(_picture(320, 240), lens), [box]).hands
    assert np.isfinite(hand.joints).all()


def test_whole_frames_cannot_be_upright() -> None:
    with pytest.raises(ModelFileError, match="upright"):
        _variant(frame_trunk=True, mirror=False, root=(0.0, 0.0, 0.0))
    with pytest.raises(ModelFileError, match="upright"):
        _variant(crops=Crops.PUBLISHED, mirror=False, root=(0.0, 0.0, 0.0), perspective=Perspective.NONE)
