"""A network of upright hands: rolling the camera changes what it sees, and nothing about its answer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    WildHands,
    WildHandsConfig,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.decode import Decoded, crop_view, decode
from wildhands_ros.estimation.wildhands.looks import mean_of_looks
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.upright import (
    grid_rolled,
    roll_boxes,
    roll_crops,
    roll_of,
    roll_places,
    rolled_back,
    rolls_of_directions,
    rotations,
    to_crop,
)
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import HandBox, Landmarks, Side
from wildhands_ros.rotations import exp_so3

MODEL = load_hand_model()
ROOT = tuple(float(v) for v in MODEL.right.joint_template[0])


def _variant(**changes: object) -> Variant:
    settings: dict[str, object] = {
        "trunk": Trunk.LANDMARKS_FINE, "frame_trunk": False, "crops": Crops.SHARP, "translation": Translation.CROP,
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
    directions = torch.tensor([[math.nan, 1.0], [1.0, math.inf], [0.0, 0.0], [0.0, -1.0], [2.0, 0.0], [-1.0, 1.0]])
    wanted = torch.tensor([0.0, 0.0, 0.0, 0.0, -math.pi / 2, 3 * math.pi / 4])
    torch.testing.assert_close(rolls_of_directions(directions), wanted)


@pytest.mark.parametrize("roll", [0.0, 0.7, -2.5])
def test_a_hand_of_the_rolled_camera_is_turned_back_as_a_whole(roll: float) -> None:
    rng = np.random.default_rng(2)
    pose, betas, place = exp_so3(rng.normal(size=(16, 3))), rng.normal(size=10), np.array([0.1, -0.2, 0.5])
    back = rolled_back(pose, place, MODEL.left.rest_joints(betas)[0], roll)
    turn = rotations(torch.tensor([roll], dtype=torch.float64))[0].numpy()
    for seen, rolled in zip(
        MODEL.left.numpy(back[0], betas, back[1]), MODEL.left.numpy(pose, betas, place), strict=True
    ):
        np.testing.assert_allclose(seen @ turn.T, rolled, atol=1e-7)  # skinning weights sum to 1 as float32 do


@pytest.mark.parametrize("perspective", list(Perspective))
def test_perspective_crops_are_placed_by_the_camera_that_looks_at_them(perspective: Perspective) -> None:
    rays = torch.tensor([[0.0, 0.0], [0.75, 0.0], [0.6, -0.8]])
    focal, seen = crop_view(_variant(perspective=perspective), 200.0, rays)
    if perspective is Perspective.CROP:  # at 1 / cos of the focal length, the picture's own scale across the ray
        torch.testing.assert_close(focal, torch.tensor([200.0, 250.0, 200.0 * math.sqrt(2)]))
        assert seen.shape == rays.shape and not seen.any()
    else:
        assert focal == 200.0 and torch.equal(seen, rays)


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


def _estimator(
    tmp_path: Path, runtime: RuntimeConfig | None = None, looks: int = 1, **changes: object
) -> WildHands:  # fmt: skip
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, made_up_network(_variant(**changes), 5), CheckpointInfo())
    config = WildHandsConfig(path, all_hands=True, looks=looks, runtime=runtime or RuntimeConfig(backend=Backend.TORCH))
    return WildHands.load(config, MODEL)


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
    monkeypatch.setattr(estimator, "_look_again", lambda *arguments: arguments[-2:])


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
    (hand,) = estimator.estimate(Frame(picture, camera), [_box(side, (x0, y0, x1, y1), -0.8)]).hands
    box = _box(side, (319 - y1, x0, 319 - y0, x1), -0.8 + math.pi / 2)
    (other,) = estimator.estimate(Frame(turned, turned_camera), [box]).hands
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(other.joints, hand.joints @ quarter.T, atol=2e-3)
    np.testing.assert_allclose(other.pose[1:], hand.pose[1:], atol=2e-2)
    assert np.abs(other.joints - hand.joints).max() > 0.02


def test_hands_that_are_not_upright_are_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = _estimator(tmp_path)
    looks: list[list[float]] = []
    look = estimator._look
    directions = [_pointing(0.2), _pointing(-1.2)]

    def spy(*arguments: object) -> object:
        looks.append([round(float(roll), 3) for roll in arguments[-1]])  # type: ignore[attr-defined]
        seen = look(*arguments)  # type: ignore[arg-type]
        return replace(seen, directions=np.array(directions[: len(seen.pose)]))

    monkeypatch.setattr(estimator, "_look", spy)
    frame = Frame(_picture(320, 240), Camera(320, 240, 260, 260, 150.0, 118.0))
    boxes = [_box(Side.RIGHT, (60.0, 60.0, 160.0, 160.0), 0.3), _box(Side.LEFT, (160.0, 60.0, 260.0, 160.0), 0.3)]
    hands = estimator.estimate(frame, boxes).hands
    assert looks == [[-0.3, -0.3], [0.9]]  # the first stands as it is, the second pointed 1.2 to the left
    for hand, box, roll in zip(hands, boxes, (-0.3, 0.9), strict=True):
        place = estimator._crops.place(frame.camera, box.xyxy)
        alone = look(frame.image, frame.camera, [place], [box], [roll])  # type: ignore[list-item]
        np.testing.assert_allclose(hand.pose, alone.pose[0], atol=1e-5)
        np.testing.assert_allclose(hand.translation, alone.translation[0], atol=1e-5)


def test_landmarks_that_point_down_are_not_believed_at_once(tmp_path: Path) -> None:
    estimator = _estimator(tmp_path)
    for up, believed in ((0.9, True), (-0.9, True), (1.3, False), (-3.0, False)):
        box = _box(Side.RIGHT, (60.0, 60.0, 160.0, 160.0), up)
        assert estimator._roll(box, CAMERA, None) == pytest.approx(-up if believed else 0.0)


def test_followed_hands_are_first_looked_at_as_they_were_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's own word of the picture before, not that of the landmarks, while it is fresh."""
    plain = _estimator(tmp_path)
    network = replace(plain.network, info=replace(plain.network.info, hand_model="open"))
    estimator = OpenHands(network, MODEL, plain.config, refine=False)
    looks: list[list[float]] = []
    says = {"up": 0.1}
    look = estimator._look

    def spy(*arguments: object) -> object:
        looks.append([round(float(roll), 3) for roll in arguments[-1]])  # type: ignore[attr-defined]
        seen = look(*arguments)  # type: ignore[arg-type]
        return replace(seen, directions=np.array([_pointing(says["up"])] * len(seen.pose)))

    monkeypatch.setattr(estimator, "_look", spy)
    followed = replace(_box(Side.RIGHT, (60.0, 60.0, 160.0, 160.0), 0.5), follow_id=3)

    def rolls(milliseconds: int, box: HandBox = followed) -> list[list[float]]:
        looks.clear()
        estimator.estimate(Frame(_picture(320, 240), SQUARE, stamp_ns=milliseconds * 10**6), [box])
        return list(looks)

    first = [[-0.5]]  # of the landmarks
    assert rolls(0) == first
    assert rolls(33) == [[-0.6]]  # it pointed 0.1 to the right
    says["up"] = -1.0
    assert rolls(66) == [[-0.7], [0.3]]  # far off: a second look
    assert rolls(99, replace(followed, follow_id=-1)) == [[-0.5], [0.5]]
    assert rolls(99, replace(followed, follow_id=4)) == [[-0.5], [0.5]]
    says["up"] = 0.0
    assert rolls(132) == [[1.3]]
    assert rolls(132) == first  # the same picture again
    says["up"] = -0.3
    assert rolls(165) == first
    assert rolls(198) == [[-0.2]]
    assert rolls(900) == first  # it was gone for too long
    assert rolls(933) == [[-0.2]]
    estimator.reset()
    assert rolls(966) == first


def _pointing(up: float) -> tuple[float, float]:
    """A direction `up` radians clockwise from the picture's top."""
    return math.sin(up), -math.cos(up)


BOXES = [
    HandBox(Side.RIGHT, (60.0, 60.0, 160.0, 160.0), 1.0), HandBox(Side.LEFT, (160.0, 60.0, 260.0, 160.0), 1.0),
    HandBox(Side.LEFT, (20.0, 90.0, 140.0, 200.0), 0.9),
]  # fmt: skip
CAMERA = Camera(320, 240, 260, 255, 150.0, 118.0)

STEPS = 1 if int(cv2.__version__.partition(".")[0]) >= 5 else 20
"""OpenCV 4 turns pictures in steps of a 32nd of a pixel, so that a hair's difference in roll moves joints more."""
SQUARE = replace(CAMERA, fy=CAMERA.fx)  # in which angles are those of the view that is looked at


def test_directions_are_those_in_the_picture(tmp_path: Path) -> None:
    estimator = _estimator(tmp_path)
    prepared = estimator.prepare(Frame(_picture(320, 240), CAMERA), BOXES)
    output = made_up_network(estimator.network.info.variant, 5)(prepared.inputs)
    assert output.direction is not None
    decoded = decode(estimator.network.info.variant, prepared, output)
    flips = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]])  # left hands are shown in the mirror
    np.testing.assert_allclose(decoded.directions, output.direction.numpy() * flips, atol=1e-6)


def test_the_mirror_image_gives_the_mirrored_hand(tmp_path: Path) -> None:
    estimator = _estimator(tmp_path)
    found = estimator.estimate(Frame(_picture(320, 240), CAMERA), BOXES).hands
    mirrored = [HandBox(b.side.other, (319 - b.xyxy[2], b.xyxy[1], 319 - b.xyxy[0], b.xyxy[3]), b.score) for b in BOXES]
    picture = np.ascontiguousarray(_picture(320, 240)[:, ::-1])
    camera = Camera(320, 240, 260, 255, 319 - 150.0, 118.0)
    for hand, other in zip(found, estimator.estimate(Frame(picture, camera), mirrored).hands, strict=True):
        np.testing.assert_allclose(other.joints * (-1, 1, 1), hand.joints, atol=1e-3 * STEPS)


@pytest.mark.parametrize("backend", [Backend.ONNXRUNTIME, Backend.OPENVINO])
def test_exported_networks_see_the_same_directions(backend: Backend, tmp_path: Path) -> None:
    frame = Frame(_picture(320, 240), CAMERA)
    reference = _estimator(tmp_path)
    exported = _estimator(tmp_path, RuntimeConfig(backend=backend, cache_dir=tmp_path / "cache"))
    inputs = reference.prepare(frame, BOXES).inputs
    directions = [e.network.runtime(inputs).direction for e in (reference, exported)]
    assert directions[0] is not None and directions[1] is not None
    torch.testing.assert_close(directions[1], directions[0], atol=1e-4, rtol=1e-4)
    for a, b in zip(reference.estimate(frame, BOXES).hands, exported.estimate(frame, BOXES).hands, strict=True):
        np.testing.assert_allclose(a.joints, b.joints, atol=1e-4 * STEPS)


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


# --- several looks ----------------------------------------------------------------------------------------------------


def _decoded(poses: np.ndarray, seed: int = 0) -> Decoded:
    rng = np.random.default_rng(seed)
    betas, translation, grasp, directions = (rng.normal(size=(len(poses), size)) for size in (10, 3, 9, 2))
    return Decoded(poses, betas, translation, grasp, directions)


def test_the_mean_lies_between_the_looks() -> None:
    rng = np.random.default_rng(4)
    middle, turn = exp_so3(rng.normal(size=(5, 16, 3))), rng.normal(size=(5, 16, 3)) * 0.3
    looks = [_decoded(middle @ exp_so3(sign * turn), seed) for seed, sign in enumerate((0, 1, -1))]
    mean = mean_of_looks(looks)
    np.testing.assert_allclose(mean.pose, middle, atol=1e-12)
    for name in ("betas", "translation", "grasp"):
        first, second, third = (getattr(look, name) for look in looks)
        np.testing.assert_allclose(getattr(mean, name), (first + second + third) / 3)
    assert mean.directions is looks[0].directions
    same = mean_of_looks([looks[1], looks[1]])
    np.testing.assert_allclose(same.pose, looks[1].pose, atol=1e-12)
    np.testing.assert_allclose(same.translation, looks[1].translation)


def test_the_mean_of_looks_that_contradict_each_other_is_still_a_rotation() -> None:
    axes = exp_so3(math.pi * np.eye(3)[:, None, :] * np.ones((3, 16, 1)))
    for poses in ([axes[0], np.tile(np.eye(3), (16, 1, 1))], list(axes)):
        mean = mean_of_looks([_decoded(pose[None]) for pose in poses]).pose
        np.testing.assert_allclose(mean @ mean.swapaxes(-1, -2), np.tile(np.eye(3), (1, 16, 1, 1)), atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(mean), 1.0)


def test_a_look_that_is_not_finite_spoils_its_own_hand_alone() -> None:
    looks = [_decoded(exp_so3(np.random.default_rng(seed).normal(size=(3, 16, 3))), seed) for seed in range(2)]
    expected = mean_of_looks(looks).pose[[0, 2]]
    looks[1].pose[1, 4, 0, 2] = np.nan
    mean = mean_of_looks(looks).pose
    np.testing.assert_array_equal(mean[[0, 2]], expected)
    assert np.isnan(mean[1, 4]).all()


@pytest.mark.parametrize("looks", [2, 3])
def test_hands_do_not_mix_in_several_looks(looks: int, tmp_path: Path) -> None:
    estimator, once = _estimator(tmp_path, looks=looks), _estimator(tmp_path)
    frame = Frame(_picture(320, 240), CAMERA)
    together, before = estimator.estimate(frame, BOXES).hands, once.estimate(frame, BOXES).hands
    for box, hand, other in zip(BOXES, together, before, strict=True):
        (alone,) = estimator.estimate(frame, [box]).hands
        np.testing.assert_allclose(hand.joints, alone.joints, atol=1e-5 * STEPS)
        assert np.abs(hand.joints - other.joints).max() > 1e-4  # and the further looks do count


def test_the_mirror_image_gives_the_mirrored_hand_in_several_looks(tmp_path: Path) -> None:
    estimator = _estimator(tmp_path, looks=2)
    found = estimator.estimate(Frame(_picture(320, 240), CAMERA), BOXES).hands
    mirrored = [HandBox(b.side.other, (319 - b.xyxy[2], b.xyxy[1], 319 - b.xyxy[0], b.xyxy[3]), b.score) for b in BOXES]
    picture = np.ascontiguousarray(_picture(320, 240)[:, ::-1])
    for hand, other in zip(found, estimator.estimate(Frame(picture, CAMERA.mirrored()), mirrored).hands, strict=True):
        np.testing.assert_allclose(other.joints * (-1, 1, 1), hand.joints, atol=1e-3)


@pytest.mark.parametrize("side", list(Side))
def test_looks_to_both_sides_cancel_out_where_they_see_the_same(side: Side, tmp_path: Path) -> None:
    frame = Frame(np.zeros((241, 321, 3), np.uint8), Camera(321, 241, 260, 260, 160.0, 120.0))
    box = HandBox(side, (110.0, 70.0, 210.0, 170.0), 1.0)
    (one,), (three,) = (_estimator(tmp_path, looks=n).estimate(frame, [box]).hands for n in (1, 3))
    np.testing.assert_allclose(three.pose, one.pose, atol=1e-4)
    np.testing.assert_allclose(three.betas, one.betas, atol=1e-4)
    along = np.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(three.joints[0] @ along, one.joints[0] @ along, atol=1e-5)


def test_numbers_of_looks_that_make_no_sense(tmp_path: Path) -> None:
    for looks in (0, 4):
        with pytest.raises(ConfigError, match=f"looks must lie between 1 and 3, not {looks}"):
            WildHandsConfig(looks=looks)
    with pytest.raises(ConfigError, match="not trained to see hands upright.*leave looks at 1"):
        _estimator(tmp_path, looks=2, upright=False)


@pytest.mark.parametrize(
    "change",
    [
        {"frame_trunk": True, "mirror": False, "root": (0.0, 0.0, 0.0)},
        {"crops": Crops.PUBLISHED, "mirror": False, "root": (0.0, 0.0, 0.0), "perspective": Perspective.NONE},
        {"trunk": Trunk.RESNET18},
    ],
    ids=["whole frames", "published crops", "another trunk"],
)
def test_networks_that_cannot_be_upright(change: dict[str, object]) -> None:
    with pytest.raises(ModelFileError, match="upright"):
        _variant(**change)
