"""The estimator from pictures to hands, and the ways of running its network."""

import errno
import gc
import importlib
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import weakref
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.wildhands import (
    Backend,
    CheckpointInfo,
    Crops,
    Encoding,
    Perspective,
    Precision,
    RuntimeConfig,
    Translation,
    Trunk,
    Variant,
    WildHands,
    WildHandsConfig,
    accelerated,
    published,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands import exported as exported_module
from wildhands_ros.estimation.wildhands import loading as loading_module
from wildhands_ros.estimation.wildhands.agreement import (
    check_inputs,
    expected_outputs,
    hand_inputs,
    inputs_anywhere,
    joint_distance,
)
from wildhands_ros.estimation.wildhands.bench import bench_frame, bench_wildhands, reference_way
from wildhands_ros.estimation.wildhands.calibration import calibration
from wildhands_ros.estimation.wildhands.check_pictures import COUNT, FOLDER, HEIGHT, WIDTH, check_pictures
from wildhands_ros.estimation.wildhands.export import by_tracing, example_inputs, export_onnx, export_parts
from wildhands_ros.estimation.wildhands.exported import exported_network
from wildhands_ros.estimation.wildhands.loading import load_network
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.runtime import TorchRuntime, resolve_device
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandLayer, HandModel, load_hand_model
from wildhands_ros.hands import HandBox, Landmarks, Side
from wildhands_ros.pipeline import EstimationConfig
from wildhands_ros.pipeline.pipeline import make_estimator
from wildhands_ros.rotations import exp_so3
from wildhands_ros.tracking import HandTracker, TrackingConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Variant(trunk=Trunk.RESNET18, fusion=(32, 24, 16), features=64, hidden=32, grasp=True)
RIGHT = HandBox(Side.RIGHT, (700.0, 330.0, 930.0, 560.0), 0.9, follow_id=4)
LEFT = HandBox(Side.LEFT, (330.0, 350.0, 560.0, 550.0), 0.8, 0.7)


@pytest.fixture(scope="module")
def network():
    return made_up_network(SMALL, 1)


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(path, network, CheckpointInfo(SMALL, "none", "open", "Apache-2.0"))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint for tests of how networks are kept and chosen: exporting and loading it takes half as long."""
    variant = replace(SMALL, trunk=Trunk.LANDMARKS, frame_trunk=False)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_checkpoint(path, made_up_network(variant, 1), CheckpointInfo(variant, "none", "open", "Apache-2.0"))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def hand_model():
    """The open hand with a mean pose, as MANO's files have one."""
    model = load_hand_model()
    mean = 0.2 * np.random.default_rng(0).standard_normal(45)
    layers = [HandLayer(replace(model.layer(side).data, hands_mean=mean)) for side in (Side.RIGHT, Side.LEFT)]
    return HandModel("test", *layers, sha256="")


@pytest.fixture(scope="module")
def frame():
    (picture,) = check_pictures(0, 1)
    return Frame(picture.image, picture.camera)


def config(checkpoint, **changes):
    runtime = RuntimeConfig(device="cpu", backend=Backend.TORCH, threads=1)
    return WildHandsConfig(checkpoint, runtime=runtime, **changes)


@pytest.fixture(scope="module")
def estimator(checkpoint, hand_model):
    return WildHands.load(config(checkpoint), hand_model)


def own(variant, hand_model, tmp_path, seed=2, **changes):
    save_checkpoint(tmp_path / "own.safetensors", made_up_network(variant, seed), CheckpointInfo(variant))
    return WildHands.load(config(tmp_path / "own.safetensors", **changes), hand_model)


# --- estimator --------------------------------------------------------------------------------------------------------


def test_hands_are_whole_and_consistent(estimator, frame, hand_model):
    found = estimator.estimate(frame, [RIGHT, LEFT])
    assert [h.side for h in found.hands] == [Side.RIGHT, Side.LEFT] and found.skipped == ()
    for hand, box in zip(found.hands, (RIGHT, LEFT), strict=True):
        assert (hand.box, hand.score, hand.side_probability) == (box.xyxy, box.score, box.side_probability)
        assert (hand.follow_id, hand.estimator, hand.hand_model) == (box.follow_id, "wildhands", "test")
        np.testing.assert_allclose(hand.keypoints, frame.camera.project(hand.joints))
        assert hand.vertices.shape == (hand_model.right.vertex_count, 3)
        index, probabilities = hand.grasp
        assert index == probabilities.argmax() and probabilities.sum() == pytest.approx(1)
        vertices, joints = hand_model.layer(hand.side).numpy(hand.pose, hand.betas, hand.translation)
        np.testing.assert_allclose(hand.joints, joints, atol=0.03)  # the same but for very bent joints, see below
        assert hand.valid


def test_order_and_company_change_nothing(estimator, frame):
    both = estimator.estimate(frame, [RIGHT, LEFT]).hands
    swapped = estimator.estimate(frame, [LEFT, RIGHT]).hands
    alone = estimator.estimate(frame, [LEFT]).hands
    np.testing.assert_allclose(swapped[1].joints, both[0].joints, atol=1e-5)
    np.testing.assert_allclose(alone[0].joints, both[1].joints, atol=1e-5)


def test_the_reference_way_gives_the_same(network, estimator, frame, hand_model):
    expected = reference_way(network, hand_model, frame, [RIGHT, LEFT])
    found = estimator.estimate(frame, [RIGHT, LEFT]).hands
    for hand, joints in zip(found, expected, strict=True):
        np.testing.assert_allclose(hand.joints, joints, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"encoding": encoding} for encoding in Encoding if encoding is not Encoding.SPARSE]
    + [{"perspective": Perspective.CORRECTION}, {"translation": Translation.CROP}, {"frame_trunk": False}],
    ids=str,
)
def test_the_reference_way_is_that_of_every_network_with_published_crops(changes, hand_model, frame, tmp_path):
    variant = replace(SMALL, trunk=Trunk.LANDMARKS, **changes)
    expected = reference_way(made_up_network(variant, 2), hand_model, frame, [LEFT, RIGHT])
    found = own(variant, hand_model, tmp_path).estimate(frame, [LEFT, RIGHT]).hands
    for hand, joints in zip(found, expected, strict=True):  # metres: 1.0e-5 of rounding with AVX-512's FP16, one thread
        np.testing.assert_allclose(hand.joints, joints, atol=2e-5)


def test_networks_without_a_reference_way_say_so(hand_model, frame):
    with_keypoints = replace(SMALL, trunk=Trunk.LANDMARKS_FINE, frame_trunk=False, keypoints=True)
    for variant in (replace(SMALL, trunk=Trunk.LANDMARKS, crops=Crops.SHARP), with_keypoints):
        with pytest.raises(ConfigError, match="the reference way exists for"):
            reference_way(made_up_network(variant, 2), hand_model, frame, [RIGHT, LEFT])


def test_the_best_of_each_side_or_all(checkpoint, hand_model, estimator, frame):
    weak = replace(RIGHT, xyxy=(100.0, 100.0, 300.0, 300.0), score=0.5)
    found = estimator.estimate(frame, [weak, RIGHT, LEFT])
    assert [h.box for h in found.hands] == [RIGHT.xyxy, LEFT.xyxy]
    assert len(found.skipped) == 1 and "box 0" in found.skipped[0] and "all_hands" in found.skipped[0]
    every = WildHands.load(config(checkpoint, all_hands=True), hand_model).estimate(frame, [weak, RIGHT, LEFT])
    assert [h.box for h in every.hands] == [weak.xyxy, RIGHT.xyxy, LEFT.xyxy]
    np.testing.assert_allclose(every.hands[1].joints, found.hands[0].joints, atol=1e-5)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 0, 0), (-50, 10, -20, 40), (1300, 800, 1400, 900), (100, 100, 101, 101), (float("nan"),) * 4, (9, 9, 3, 3)],
)
def test_useless_boxes_are_skipped_with_the_reason(estimator, frame, box):
    found = estimator.estimate(frame, [replace(RIGHT, xyxy=box), LEFT])
    assert [h.side for h in found.hands] == [Side.LEFT]
    assert "right hand in box 0" in found.skipped[0] and "its box" in found.skipped[0]


def test_hands_that_come_out_unusable_are_named_in_the_order_of_the_boxes(estimator, frame, monkeypatch):
    """Also where boxes are equal but for their landmarks, which cannot be compared."""
    seen = [Landmarks(np.full((21, 2), 300.0), np.zeros((21, 3)), 1.0) for _ in range(2)]
    boxes = [replace(RIGHT, landmarks=landmarks) for landmarks in seen]
    every = replace(estimator.config, all_hands=True)
    monkeypatch.setattr(estimator, "config", every)
    made = estimator._hand
    monkeypatch.setattr(estimator, "_hand", lambda f, box, d, i, at: None if i < 2 else made(f, box, d, i, at))
    found = estimator.estimate(frame, [boxes[0], replace(LEFT, xyxy=(0, 0, 0, 0)), boxes[1], LEFT])
    assert len(found.hands) == 1
    assert [int(text.split("box ")[1].split()[0]) for text in found.skipped] == [0, 1, 2]


def test_without_boxes_there_are_no_inputs(estimator, frame):
    with pytest.raises(ConfigError, match="without boxes"):
        estimator.prepare(frame, [])


def test_calibration_pictures_may_be_of_any_shape():
    assert len(inputs_anywhere(SMALL, [np.zeros((2000, 20, 3), np.uint8)], 1)) == 1


def test_check_pictures_show_two_hands_each_and_nothing_else_lies_beside_them():
    pictures = check_pictures(0, 99)
    assert len(pictures) == COUNT == len(list(FOLDER.glob("*.jpg")))
    for picture in pictures:
        assert picture.image.shape == (HEIGHT, WIDTH, 3)
        assert (picture.camera.width, picture.camera.height) == (WIDTH, HEIGHT)
        for side in Side:
            x0, y0, x1, y1 = picture.boxes[side]
            inside = (picture.keypoints[side] > (x0, y0)) & (picture.keypoints[side] < (x1, y1))
            assert inside.all(axis=1).sum() >= 10  # others may lie outside the picture, or behind things


@pytest.mark.parametrize(
    "box", [(-300, -200, 200, 300), (-1000, -1000, 3000, 3000), (1270, 710, 1290, 730), (60, 60, 70, 75)]
)
def test_boxes_at_the_border_tiny_or_huge_still_work(estimator, frame, box):
    (hand,) = estimator.estimate(frame, [replace(LEFT, xyxy=box)]).hands
    assert np.isfinite(hand.joints).all()


def test_smoothed_hands_are_posed_as_the_network_means_it(estimator, frame, hand_model):
    """The published code adds rotation vectors to the mean pose without wrapping them: so must what comes after."""
    (hand,) = estimator.estimate(frame, [RIGHT]).hands
    tracker = HandTracker(TrackingConfig(smooth=True), hand_model, estimator.pose_hand)
    _, (smooth,) = tracker.update([hand], 0, frame.camera)
    assert smooth.smoothed
    assert np.allclose(smooth.joints, hand.joints, atol=1e-6) and np.allclose(smooth.vertices, hand.vertices, atol=1e-6)


@pytest.mark.parametrize(
    ("trained", "used", "remedy"),
    [
        ("mano", "open", "estimation.mano_dir"), ("open", "mano", "leave mano_dir empty"),
        ("mano", "mano", None), ("open", "open", None), ("unknown", "open", None),
    ],
)  # fmt: skip
def test_another_hand_model_than_the_checkpoints_is_said_aloud(estimator, hand_model, trained, used, remedy, caplog):
    network = replace(estimator.network, info=replace(estimator.network.info, hand_model=trained))
    WildHands(network, replace(hand_model, name=used), estimator.config)
    if remedy is None:
        assert not caplog.records
    else:
        assert f"'{trained}'" in caplog.text and f"'{used}'" in caplog.text and remedy in caplog.text


def test_no_boxes_no_hands(estimator, frame):
    found = estimator.estimate(frame, [])
    assert found.hands == () and found.skipped == ()


def test_hands_too_far_are_invalid(checkpoint, hand_model, frame):
    estimator = WildHands.load(config(checkpoint, nearest=0.01, farthest=0.05), hand_model)
    hands = estimator.estimate(frame, [RIGHT, LEFT]).hands
    assert [hand.valid for hand in hands] == [False, False]


@pytest.mark.parametrize(
    ("wrist", "within"),
    [
        ((0, 0, 0.049), False), ((0, 0, 0.051), True), ((0, 0, 2.99), True), ((0, 0, 3.01), False),
        ((2.2, 0, 2.2), False), ((0.3, -0.2, 0.01), True), ((0.3, -0.2, -0.01), False), ((0, 0, np.nan), False),
    ],
)  # fmt: skip
def test_a_valid_hands_wrist_lies_in_front_of_the_camera_and_in_reach(estimator, wrist, within):
    joints = np.zeros((21, 3))
    joints[0] = wrist
    assert estimator.within_reach(joints) == within


def test_without_a_mesh(checkpoint, hand_model, frame):
    estimator = WildHands.load(config(checkpoint), hand_model, with_mesh=False)
    assert estimator.estimate(frame, [RIGHT]).hands[0].vertices is None


def test_focal_length_changes_depth_and_encoding(estimator, frame):
    longer = replace(frame, camera=replace(frame.camera, fx=1400.0, fy=1400.0))
    near, far = (estimator.estimate(f, [RIGHT]).hands[0] for f in (frame, longer))
    assert 1.5 < far.translation[2] / near.translation[2] < 2.5
    assert np.abs(far.pose - near.pose).max() > 1e-3


def test_unequal_focal_lengths_and_an_off_centre_principal_point_reach_the_network(estimator, frame):
    (plain,) = estimator.estimate(frame, [RIGHT]).hands
    for change in ({"fy": 900.0}, {"cx": 700.0}, {"cy": 300.0}):
        (moved,) = estimator.estimate(replace(frame, camera=replace(frame.camera, **change)), [RIGHT]).hands
        assert np.abs(moved.pose - plain.pose).max() > 1e-3


def test_crop_relative_hands_stand_where_the_crop_is(hand_model, frame, tmp_path):
    """With a crop-relative translation the network's hands land near their boxes under every camera."""
    variant = replace(SMALL, crops=Crops.SHARP, translation=Translation.CROP, grasp=False)
    estimator = own(variant, hand_model, tmp_path)
    for camera in (frame.camera, replace(frame.camera, cx=760.0, cy=250.0), replace(frame.camera, fy=560.0)):
        (hand,) = estimator.estimate(replace(frame, camera=camera), [RIGHT]).hands
        place = camera.project(hand.translation)
        assert np.linalg.norm(place - np.array(RIGHT.center)) < 0.9 * RIGHT.size


@pytest.mark.parametrize("perspective", [Perspective.NONE, Perspective.CROP])
def test_distorted_pictures_give_the_hands_of_undistorted_ones(hand_model, tmp_path, perspective):
    """The same scene through a barrel lens and through a pinhole: the same hands in the same camera frame."""
    variant = replace(
        SMALL, crops=Crops.SHARP, translation=Translation.CROP, perspective=perspective, encoding=Encoding.NONE,
        frame_trunk=False, grasp=False,
    )  # fmt: skip
    estimator = own(variant, hand_model, tmp_path)
    barrel = Camera(640, 480, 330, 330, 319.5, 239.5, Distortion.PLUMB_BOB, (-0.22, 0.05, 0.0, 0.0, 0.0))
    pinhole = barrel.undistorted()
    scene = cv2.GaussianBlur(bench_frame()[0].image[:480, :640], (0, 0), 3)
    maps = pinhole.rectification_maps(barrel)
    distorted = cv2.remap(scene, *maps, cv2.INTER_LINEAR)
    corners = np.array([[380.0, 200], [480, 200], [380, 300], [480, 300]])
    bent = barrel.project(pinhole.unproject(corners))
    (straight,) = estimator.estimate(
        Frame(scene, pinhole), [HandBox(Side.RIGHT, (380.0, 200.0, 480.0, 300.0), 1.0)]
    ).hands
    (through,) = estimator.estimate(
        Frame(distorted, barrel), [HandBox(Side.RIGHT, (*bent.min(axis=0), *bent.max(axis=0)), 1.0)]
    ).hands
    assert np.linalg.norm(through.translation - straight.translation) < 0.08 * straight.translation[2]
    assert np.abs(through.pose - straight.pose).max() < 0.35
    np.testing.assert_allclose(through.keypoints, barrel.project(through.joints))


@pytest.mark.parametrize("across, down", [(0.75, 1.0), (1.0, 0.75)])
def test_pixels_that_are_not_square_give_the_hands_of_square_ones(hand_model, tmp_path, across, down):
    """The same picture squeezed, as a stream that was scaled to another format: the same hands."""
    variant = replace(
        SMALL, crops=Crops.SHARP, translation=Translation.CROP, encoding=Encoding.NONE, frame_trunk=False, grasp=False
    )
    estimator = own(variant, hand_model, tmp_path)
    scene = cv2.GaussianBlur(bench_frame()[0].image[:480, :640], (0, 0), 3)
    width, height = round(640 * across), round(480 * down)
    squeezed = cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA)
    camera = Camera(width, height, 330 * across, 330 * down, (width - 1) / 2, (height - 1) / 2)
    box = np.array([380.0, 200.0, 480.0, 300.0])
    (square,) = estimator.estimate(
        Frame(scene, Camera.pinhole(640, 480, 330)), [HandBox(Side.RIGHT, tuple(box), 1.0)]
    ).hands
    factors = np.array([across, down, across, down])
    (other,) = estimator.estimate(
        Frame(squeezed, camera), [HandBox(Side.RIGHT, tuple((box + 0.5) * factors - 0.5), 1.0)]
    ).hands
    assert np.linalg.norm(other.translation - square.translation) < 0.01 * square.translation[2]
    assert np.abs(other.pose - square.pose).max() < 0.1
    np.testing.assert_allclose(other.keypoints, camera.project(other.joints))


def test_boxes_outside_a_rectified_view_are_skipped(estimator):
    fisheye = Camera(900, 900, 200, 200, 449.5, 449.5, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0))
    frame = Frame(np.full((900, 900, 3), 90, np.uint8), fisheye)
    found = estimator.estimate(frame, [replace(RIGHT, xyxy=(0.0, 440.0, 40.0, 480.0)), LEFT])
    assert len(found.hands) == 1 and "rectified view" in found.skipped[0]
    for box in ((9, 9, 3, 3), (-90, 10, -20, 60), (float("inf"),) * 4):
        found = estimator.estimate(frame, [replace(RIGHT, xyxy=box)])
        assert found.hands == () and "its box" in found.skipped[0]


def test_a_box_that_cannot_be_used_does_not_hide_one_that_can(estimator, frame):
    outside = replace(RIGHT, xyxy=(1300.0, 800.0, 1400.0, 900.0), score=0.99)
    weaker = replace(RIGHT, score=0.1)
    found = estimator.estimate(frame, [outside, weaker, RIGHT])
    assert [hand.box for hand in found.hands] == [RIGHT.xyxy]
    assert "box 0" in found.skipped[0] and "outside" in found.skipped[0]
    assert "box 1" in found.skipped[1] and "more probable" in found.skipped[1]


def test_published_joint_rotations_go_the_long_way_round():
    """A turn by −100° about z is, for the published code, one by 260°: with a mean about x that is another rotation."""
    turn, mean = np.array([0, 0, -np.radians(100)]), np.array([0.3, 0, 0])
    pose = np.tile(np.eye(3), (16, 1, 1))
    pose[5] = exp_so3(turn)
    hands_mean = np.zeros((15, 3))
    hands_mean[4] = mean
    found = published.joint_rotations(pose, hands_mean.ravel())[5]
    np.testing.assert_allclose(found, exp_so3(mean + [0, 0, np.radians(260)]), atol=1e-12)
    assert np.abs(found - exp_so3(turn + mean)).max() > 0.05
    pose[5] = exp_so3([0, 0, np.radians(100)])  # the other way there is no detour
    np.testing.assert_allclose(
        published.joint_rotations(pose, hands_mean.ravel())[5], exp_so3(mean + [0, 0, np.radians(100)]), atol=1e-12
    )


def test_missing_checkpoints_name_files_and_places(hand_model, tmp_path):
    for path in (None, tmp_path / "weights.ckpt"):
        with pytest.raises(ModelFileError, match="mano.is.tue.mpg.de"):
            WildHands.load(WildHandsConfig(path), hand_model)


@pytest.mark.parametrize("change", [{"box_factor": 0.1}, {"nearest": 2.0, "farthest": 1.0}])
def test_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError):
        WildHandsConfig(**change)


# --- runtimes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [Backend.ONNXRUNTIME, Backend.OPENVINO])
def test_float32_backends_agree_with_eager_torch(checkpoint, cache, network, backend):
    loaded = load_network(checkpoint, RuntimeConfig("cpu", backend, threads=1, tolerance_mm=0.1, cache_dir=cache))
    assert loaded.agreement_mm < 0.01
    assert backend.value in loaded.runtime.name
    for count in (1, 2, 3):  # any number of hands
        inputs = example_inputs(network, count)
        found, expected = loaded.runtime(inputs), network(inputs)
        torch.testing.assert_close(found.pose, expected.pose, atol=2e-4, rtol=0)
        torch.testing.assert_close(found.camera, expected.camera, atol=2e-4, rtol=0)
        torch.testing.assert_close(found.grasp, expected.grasp, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.BFLOAT16])
def test_coarser_precisions_stay_close(cache, tmp_path, precision):
    distances = []
    for seed in (1, 2, 3):  # one made-up network bears int8 twice as well as another
        path = tmp_path / f"{seed}.safetensors"
        save_checkpoint(path, made_up_network(SMALL, seed), CheckpointInfo(SMALL, "none", "open", "Apache-2.0"))
        config = RuntimeConfig("cpu", Backend.OPENVINO, precision, threads=1, tolerance_mm=50, cache_dir=cache)
        loaded = load_network(path, config)
        distances.append(loaded.agreement_mm)
        assert precision.value in loaded.runtime.name
    assert min(distances) > 0 and np.mean(distances) < 15


def test_cached_networks_are_checked_with_the_inputs_that_they_were_made_with():
    """What the check expects lies in the cache: where its inputs change, `exported._LAYOUT` must, too."""
    recorded = {
        Crops.PUBLISHED: ([78.75, 115.5, 45.5, 28.0, 45.5, 40.25, 84.0, 94.5], [-0.664, 0.101, 0.227, -0.422]),
        Crops.SHARP: ([77.33, 115.21, 45.39, 27.99, 46.30, 39.44, 84.34, 95.73], [-0.672, 0.074, 0.222, -0.418]),
    }
    assert exported_module._LAYOUT == "12"
    for crops, (extents, means) in recorded.items():
        variant = Variant(crops=crops)
        samples = check_inputs(variant)
        assert len(samples) == 8
        np.testing.assert_allclose(np.concatenate([s.extents for s in samples])[:8], extents, atol=0.01)
        np.testing.assert_allclose([float(s.inputs.crops.mean()) for s in samples[:4]], means, atol=1e-3)


def test_how_far_joints_stray_is_their_mean_in_millimetres(network):
    (sample,) = hand_inputs(SMALL, check_pictures(0, 1))
    (expected,) = expected_outputs(network, [sample])
    moved = expected.camera + torch.tensor([[0.0, 0.012, 0.0], [0.0, 0.0, 0.0]])  # the first hand, 12 mm to the right
    off = joint_distance(SMALL, [sample], lambda inputs: replace(expected, camera=moved), [expected])
    assert off == pytest.approx(6.0, abs=1e-3)


def test_a_way_of_running_that_gives_no_numbers_is_refused(tiny, cache, monkeypatch):
    monkeypatch.setattr(loading_module, "joint_distance", lambda *arguments: float("nan"))
    with pytest.raises(ConfigError, match="joints lie nan mm"):
        load_network(tiny, RuntimeConfig("cpu", Backend.ONNXRUNTIME, threads=1, cache_dir=cache))


def test_what_strays_too_far_is_refused(tiny, cache):
    strict = RuntimeConfig("cpu", Backend.OPENVINO, Precision.INT8, threads=1, tolerance_mm=1e-4, cache_dir=cache)
    with pytest.raises(ConfigError, match=r"mm from the float32 reference.*more than"):
        load_network(tiny, strict)


@pytest.mark.parametrize("backend", [Backend.ONNXRUNTIME, Backend.OPENVINO])
def test_versions_are_told_without_importing_what_may_not_be_used(backend, monkeypatch):
    def refuse(name):
        raise AssertionError(f"{name} was imported")

    with monkeypatch.context() as patch:
        patch.setattr(accelerated, "import_module", refuse)
        assert accelerated.version(backend)
    monkeypatch.setattr(accelerated, "version_of", lambda package: None)  # a build of another name
    assert accelerated.version(backend) == importlib.import_module(backend.value).__version__


def test_auto_takes_something_within_the_tolerance_and_remembers_it(tiny, cache, monkeypatch):
    config = RuntimeConfig("cpu", precision=Precision.AUTO, threads=1, tolerance_mm=0.05, cache_dir=cache)
    loaded = load_network(tiny, config)
    assert loaded.agreement_mm <= 0.05 and "float32" in loaded.runtime.name
    tried = []
    real = loading_module._load_candidate
    monkeypatch.setattr(loading_module, "_load_candidate", lambda *a: tried.append(a[2]) or real(*a))
    again = load_network(tiny, config)
    assert again.runtime.name == loaded.runtime.name and len(tried) == 1


@pytest.mark.parametrize("has", [False, True])
def test_auto_leaves_bfloat16_to_processors_that_have_it(has, monkeypatch):
    """Elsewhere it is float32 by another name, or slower, and chance would decide between them."""
    monkeypatch.setattr(accelerated, "openvino_has_bfloat16", lambda: has)
    both = (Backend.ONNXRUNTIME, Backend.OPENVINO)
    found = loading_module._candidates(both, Precision.AUTO)
    exact = [(backend, Precision.FLOAT32) for backend in both]
    coarser = ([Precision.BFLOAT16] if has else []) + [Precision.INT8]
    assert found == exact + [(Backend.OPENVINO, precision) for precision in coarser]
    assert loading_module._candidates(both[:1], Precision.AUTO) == exact[:1]
    assert loading_module._candidates(both[1:], Precision.BFLOAT16) == [(Backend.OPENVINO, Precision.BFLOAT16)]


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.INT8])
@pytest.mark.parametrize(("has", "off", "heads"), [(True, 0.5, True), (True, 5.0, False), (False, 0.5, False)])
def test_heads_are_coarse_where_the_processor_gains_by_it_and_joints_stay_within_the_tolerance(
    tiny, cache, monkeypatch, precision, has, off, heads
):
    monkeypatch.setattr(accelerated, "openvino_has_bfloat16", lambda: has)
    monkeypatch.setattr(
        loading_module, "joint_distance", lambda variant, samples, a, b: off if "heads in bfloat16" in a.name else 0.2
    )
    config = RuntimeConfig("cpu", Backend.OPENVINO, precision, threads=1, tolerance_mm=1.0, cache_dir=cache)
    loaded = load_network(tiny, config)
    assert ("heads in bfloat16" in loaded.runtime.name) == heads
    assert loaded.agreement_mm == (off if heads else 0.2)


def test_openvino_tells_what_the_processor_has():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    has = accelerated.openvino_has_bfloat16()
    assert has or not flags & {"avx512_bf16", "amx_bf16"}
    assert not has or flags & {"avx512f", "avx_ne_convert", "bf16", "i8mm"}  # the last two of ARM's


def test_exports_are_kept_and_mended(tiny, tmp_path, monkeypatch):
    first = exported_network(tiny, tmp_path)
    monkeypatch.setattr(exported_module, "load_checkpoint", lambda path: pytest.fail("exported again"))
    assert exported_network(tiny, tmp_path).folder == first.folder
    monkeypatch.undo()
    (first.folder / "info.json").write_text("{")
    assert exported_network(tiny, tmp_path).info == first.info
    assert not list(tmp_path.glob(".export-*"))


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("info.json", lambda content: b"[]"),
        ("info.json", lambda content: content[:-1] + b', "novel": 1}'),
        ("expected.npz", lambda content: content[: len(content) // 2]),
        ("hands.onnx", lambda content: content[:1000]),
    ],
    ids=["info that is a list", "info with more", "half of what is expected", "part of a graph"],
)
def test_a_damaged_cache_is_made_anew(tiny, cache, tmp_path, monkeypatch, name, damaged):
    whole = exported_network(tiny, cache).folder
    again = []

    def write(path, folder):
        again.append(path)
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)

    monkeypatch.setattr(exported_module, "_write_exported", write)
    mine = tmp_path / whole.name
    shutil.copytree(whole, mine)
    (mine / name).write_bytes(damaged((whole / name).read_bytes()))
    config = RuntimeConfig("cpu", Backend.ONNXRUNTIME, threads=1, cache_dir=tmp_path)
    assert load_network(tiny, config).agreement_mm < 0.01
    assert again == [tiny]


@pytest.mark.parametrize(
    ("backend", "name"),
    [(Backend.ONNXRUNTIME, "hands.onnx"), (Backend.OPENVINO, "hands.bin"), (Backend.OPENVINO, "trunks.bin")],
)
def test_damaged_weights_in_the_cache_are_made_anew(tiny, cache, tmp_path, backend, name):
    """Zeros, as a power failure leaves them: such a network runs, and is another one."""
    config = RuntimeConfig("cpu", backend, threads=1, tolerance_mm=0.1, cache_dir=tmp_path)
    folder = tmp_path / exported_network(tiny, cache).folder.name
    shutil.copytree(exported_network(tiny, cache).folder, folder)
    load_network(tiny, config)
    content = bytearray((folder / name).read_bytes())
    place = len(content) // 2
    content[place : place + len(content) // 20] = bytes(len(content) // 20)
    (folder / name).write_bytes(content)
    assert load_network(tiny, config).agreement_mm < 0.01


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: {"ranges": dict(list(found["ranges"].items())[1:]), "shifts": found["shifts"]},
        lambda found: {"ranges": found["ranges"], "shifts": 5},
        lambda found: {**found, "shifts": {name: values[:3] for name, values in found["shifts"].items()}},
    ],
    ids=["a range is missing", "no shifts", "short shifts"],
)
def test_a_damaged_calibration_in_the_cache_is_named_as_damage(tiny, cache, damage):
    """By the error after which the network is exported, and calibrated, anew."""
    exported = exported_network(tiny, cache)
    config = RuntimeConfig("cpu", Backend.OPENVINO, Precision.INT8, threads=1)
    found = damage(json.loads(json.dumps(asdict(calibration(exported, config)))))
    with pytest.raises(ModelFileError):
        accelerated.openvino_graph(exported.trunks, Precision.INT8, 1, accelerated.Calibration(**found))


KEPT = ("expected.npz", "hands.onnx", "info.json", "trunks.onnx")


def just_exported(checkpoint, cache, folder):
    """Makes the folder a cache that holds the exported network, and nothing yet that a backend made of it."""
    whole = exported_network(checkpoint, cache).folder
    (folder / whole.name).mkdir(parents=True)
    for name in KEPT:
        shutil.copy(whole / name, folder / whole.name / name)
    return folder / whole.name


@pytest.mark.parametrize(
    ("backend", "precision"), [(Backend.AUTO, Precision.FLOAT32), (Backend.OPENVINO, Precision.INT8)]
)
def test_a_cache_that_may_only_be_read_serves(tiny, cache, tmp_path, monkeypatch, backend, precision):
    entry = just_exported(tiny, cache, tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(accelerated.tempfile, "TemporaryDirectory", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    config = RuntimeConfig("cpu", backend, precision, threads=1, tolerance_mm=50, cache_dir=tmp_path)
    assert load_network(tiny, config).runtime.name
    assert sorted(path.name for path in entry.iterdir()) == list(KEPT)


def test_a_disk_with_no_room_for_openvinos_copy_serves(checkpoint, cache, tmp_path):
    entry = just_exported(checkpoint, cache, tmp_path)
    config = RuntimeConfig("cpu", Backend.OPENVINO, threads=1, cache_dir=tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))  # where files end, as on a full disk
    try:
        assert load_network(checkpoint, config).agreement_mm < 1e-2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in entry.iterdir()) == list(KEPT)


def test_calibration_pictures_are_used(checkpoint, tmp_path, cache):
    folder = tmp_path / "pictures"
    folder.mkdir()
    exported = exported_network(checkpoint, cache)
    config = RuntimeConfig("cpu", calibration=folder, threads=1)
    for empty in (folder, Path("~nobody-of-this-name/pictures")):
        with pytest.raises(ConfigError, match="no readable"):
            calibration(exported, replace(config, calibration=empty))
    with pytest.raises(ModelFileError, match="is missing"):
        exported_network(Path("~nobody-of-this-name/none.ckpt"), cache)
    cv2.imwrite(str(folder / "dark.png"), np.full((120, 160, 3), 40, np.uint8))
    dark = calibration(exported, config)
    usual = calibration(exported, replace(config, calibration=None))
    assert dark.ranges.keys() == usual.ranges.keys()
    widths = [np.mean([high - low for low, high in found.ranges.values()]) for found in (dark, usual)]
    assert widths[0] < widths[1]
    kept = calibration(exported, replace(config, calibration=None))  # from the cache, to the last bit
    assert kept == usual


@pytest.mark.parametrize("signed", [False, True])
def test_rare_large_values_are_clipped_and_even_ones_are_not(signed):
    even = np.linspace(-2 if signed else 0, 2, 400_000, dtype=np.float32)
    low, high = accelerated.rounding_range(even)
    assert high == pytest.approx(2, rel=1e-2) and low == pytest.approx(-2 if signed else 0, rel=2e-2)
    assert 1.9 < accelerated.rounding_range(np.append(even, np.float32(3)))[1] < 2.5
    assert accelerated.rounding_range(np.zeros(5, np.float32))[1] > 0


def test_int8_gives_back_what_rounding_takes_away_on_average(checkpoint, cache):
    """Every channel of the feature maps has the float32 mean again over the calibration's own samples."""
    exported = exported_network(checkpoint, cache)
    samples = [accelerated.as_arrays(s.inputs) for s in hand_inputs(exported.info.variant, check_pictures(8, 4))]
    found = accelerated.calibrate(exported.trunks, samples, threads=1)
    exact = accelerated.openvino_graph(exported.trunks, Precision.FLOAT32, 1)
    expected = np.mean([exact(s)["maps"].mean(axis=(0, 2, 3)) for s in samples], axis=0)

    def strays(calibration):
        rough = accelerated.openvino_graph(exported.trunks, Precision.INT8, 1, calibration)
        means = np.mean([rough(s)["maps"].mean(axis=(0, 2, 3)) for s in samples], axis=0)
        return np.linalg.norm(means - expected)

    assert strays(found) < 0.7 * strays(replace(found, shifts={}))


def test_without_a_home_nothing_is_kept_and_no_folder_of_its_name_made(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=r"cannot be kept in ~nobody-of-this-name/networks .*XDG_CACHE_HOME"):
        exported_network(checkpoint, Path("~nobody-of-this-name/networks"))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_cache_is_an_error_with_a_name(tiny, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ModelFileError, match="cache_dir"):
        exported_network(tiny, blocked)


def test_where_nothing_can_be_kept_it_is_prepared_for_this_process_alone(tiny, tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file" / "networks"
    blocked.parent.write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    loaded = load_network(tiny, RuntimeConfig("cpu", threads=1, cache_dir=blocked))
    assert not loaded.runtime.name.startswith("torch") and list(temporary.iterdir()) == []
    loaded.runtime(hand_inputs(loaded.info.variant, check_pictures(0, 1))[0].inputs)  # also after they are gone
    (said,) = [message for message in caplog.messages if "every start" in message]
    assert "estimation.cache_dir" in said and "XDG_CACHE_HOME" in said and str(blocked) in said


def test_where_there_is_no_room_at_all_torch_runs_it(tiny, network, tmp_path, monkeypatch, caplog):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    config = RuntimeConfig("cpu", threads=1, cache_dir=tmp_path)
    assert load_network(tiny, config).runtime.name.startswith("torch") and "no room" in caplog.text
    with pytest.raises(ModelFileError, match="No space left"):
        load_network(tiny, replace(config, backend=Backend.ONNXRUNTIME))
    with pytest.raises(ModelFileError, match="cannot be written.*No space left"):
        export_onnx(network, tmp_path / "whole.onnx")


def test_a_damaged_cache_that_cannot_be_made_anew_is_left_alone(tiny, cache, tmp_path, monkeypatch):
    def read_only(**options):
        raise OSError(errno.EROFS, "Read-only file system")

    folder = tmp_path / exported_network(tiny, cache).folder.name
    folder.mkdir()
    (folder / "info.json").write_text("{")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", read_only)
    with pytest.raises(ModelFileError, match="Read-only.*cache_dir"):
        exported_network(tiny, tmp_path)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_another_process_exports_meanwhile_is_left_to_it(tiny, cache, tmp_path, monkeypatch, damaged):
    """Of two nodes that start together, with no entry or with a damaged one, the first may be loading it already."""
    whole = exported_network(tiny, cache).folder
    entry = tmp_path / whole.name
    if damaged:
        entry.mkdir()
        (entry / "info.json").write_text("{")
    real = exported_module.export_parts

    def slower(*arguments):
        shutil.rmtree(entry, ignore_errors=True)
        shutil.copytree(whole, entry)
        (entry / "in use").write_text("")
        real(*arguments)

    monkeypatch.setattr(exported_module, "export_parts", slower)
    assert exported_network(tiny, tmp_path).folder == entry
    assert (entry / "in use").exists() and list(tmp_path.iterdir()) == [entry]


def test_that_the_network_is_being_prepared_is_said_once(tiny, tmp_path, caplog):
    for _ in range(2):
        exported_network(tiny, tmp_path)
    said = [record for record in caplog.records if "preparing the network" in record.message]
    assert len(said) == 1 and said[0].levelno == logging.WARNING  # which the commands show


def test_the_cache_forgets_what_was_used_longest_ago(tiny, tmp_path):
    kept = exported_module._KEPT
    others = [tmp_path / f"{index:024x}-6" for index in range(kept + 2)]
    for age, folder in enumerate(others):
        folder.mkdir()
        os.utime(folder, (1e9 - age, 1e9 - age))
    mine = tmp_path / "my notes"
    mine.mkdir()
    used = others[-1]
    with pytest.raises(FileNotFoundError):
        exported_module._read_exported(used)  # the oldest, but just used
    made = exported_network(tiny, tmp_path).folder
    assert set(tmp_path.iterdir()) == {made, mine, used, *others[: kept - 2]}


def test_the_cache_forgets_what_killed_processes_left(tiny, tmp_path):
    for name, days in ((".export-killed", 2), (".export-at-work", 0.1)):
        (tmp_path / name / "made").mkdir(parents=True)
        before = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (before, before))
    made = exported_network(tiny, tmp_path).folder
    assert set(tmp_path.iterdir()) == {made, tmp_path / ".export-at-work"}


def test_onnxruntime_reads_the_whole_exported_network(network, tmp_path):
    import onnxruntime

    path = tmp_path / "whole.onnx"
    export_onnx(network, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = example_inputs(network, 3)
    named = {
        "frame": inputs.frame.numpy(), "crops": inputs.crops.numpy(), "encoding": inputs.encoding.numpy(),
        "right": inputs.right.numpy(),
    }  # fmt: skip
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, named), strict=True))
    expected = network(inputs)
    assert list(found) == ["pose", "betas", "camera", "camera_start", "grasp"]
    np.testing.assert_allclose(found["pose"], expected.pose, atol=2e-4)
    np.testing.assert_allclose(found["camera"], expected.camera, atol=2e-4)


def test_onnxruntime_pads_within_the_convolutions_of_the_landmark_trunk(tmp_path):
    import onnx
    import onnxruntime

    trunks, optimised = tmp_path / "trunks.onnx", tmp_path / "optimised.onnx"
    landmarks = replace(SMALL, trunk=Trunk.LANDMARKS, frame_trunk=False)
    export_parts(made_up_network(landmarks, 1), trunks, tmp_path / "hands.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(str(trunks), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(optimised).graph.node]
    assert "Conv" in kinds and "Pad" not in kinds


@pytest.mark.parametrize(
    ("precision", "mean", "largest"), [(Precision.BFLOAT16, 0.03, 0.2), (Precision.FLOAT16, 0.004, 0.1)]
)
def test_torch_in_half_precision_keeps_float32_heads(network, precision, mean, largest):
    runtime = TorchRuntime(made_up_network(SMALL, 1), "cpu", precision)
    inputs = example_inputs(network, 2)
    found, expected = runtime(inputs), network(inputs)
    assert found.pose.dtype == found.camera.dtype == torch.float32
    off = (found.pose - expected.pose).abs()
    assert off.mean() < mean and 0 < off.max() < largest  # bfloat16's largest is 0.11 where AMX sums


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    for name in ("gpu", "mps", "cuda:99"):
        with pytest.raises(ConfigError, match=name):
            resolve_device(name)


def test_a_gpu_that_cannot_be_used_is_a_sentence(checkpoint, monkeypatch):
    """Seen by torch, but busy, or without a driver that fits: which it says when something is moved there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="on 'cuda.*choose another backend or device"):
        load_network(checkpoint, RuntimeConfig(device="cuda", backend=Backend.TORCH))


@pytest.mark.parametrize("change", [{"threads": -1}, {"tolerance_mm": 0}])
def test_runtime_configurations_that_make_no_sense(change):
    with pytest.raises(ConfigError):
        RuntimeConfig(**change)


def test_what_torch_cannot_run_is_said_in_a_line(checkpoint, monkeypatch):
    def broken(self, inputs):
        raise RuntimeError("inductor\n\nC++ compiler not found\n")

    monkeypatch.setattr(TorchRuntime, "_run", broken)
    monkeypatch.setattr(
        loading_module, "expected_outputs", lambda network, samples: [network(s.inputs) for s in samples]
    )
    with pytest.raises(ConfigError, match=r"bfloat16 on 'cpu' \(C\+\+ compiler not found\): choose another"):
        load_network(checkpoint, RuntimeConfig("cpu", Backend.TORCH, Precision.BFLOAT16))


def test_int8_takes_its_ranges_from_the_users_pictures(checkpoint, cache, hand_model, tmp_path):
    config = EstimationConfig(
        estimator="wildhands", checkpoint=checkpoint, device="cpu", backend="openvino", precision="int8",
        calibration=tmp_path, cache_dir=cache,
    )  # fmt: skip
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="no readable .*calibration"):
        make_estimator(config, hand_model)
    done, grey = cv2.imencode(".png", np.full((480, 640, 3), 120, np.uint8))
    assert done
    (tmp_path / os.fsdecode(b"grey-\xff.png")).write_bytes(grey.tobytes())  # a name that is no text
    exported = exported_network(checkpoint, cache)
    own = calibration(exported, RuntimeConfig("cpu", Backend.OPENVINO, calibration=tmp_path))
    usual = calibration(exported, RuntimeConfig("cpu", Backend.OPENVINO))
    assert own.ranges.keys() == usual.ranges.keys()
    assert own.ranges["crops:0"][1] < usual.ranges["crops:0"][1]  # where all is grey, no number is large


def test_backends_say_what_they_cannot_do(tiny, cache, monkeypatch):
    half = RuntimeConfig("cpu", Backend.ONNXRUNTIME, Precision.INT8, tolerance_mm=9, cache_dir=cache)
    with pytest.raises(ConfigError, match="use openvino"):
        load_network(tiny, half)
    with pytest.raises(ConfigError, match="torch does not run"):
        load_network(tiny, RuntimeConfig("cpu", Backend.TORCH, Precision.INT8))
    monkeypatch.setattr(accelerated, "installed", lambda backend: False)
    with pytest.raises(ConfigError, match="pip install onnx openvino"):
        load_network(tiny, RuntimeConfig("cpu", precision=Precision.INT8))
    with pytest.raises(ConfigError, match="onnxruntime is not installed"):
        load_network(tiny, RuntimeConfig("cpu", Backend.ONNXRUNTIME, cache_dir=cache))


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Makes the library of a backend one whose compiled parts do not fit the system."""

    def make(backend):
        monkeypatch.delitem(sys.modules, backend.value, raising=False)
        (tmp_path / backend.value).mkdir()
        (tmp_path / backend.value / "__init__.py").write_text("raise ImportError('cannot enable executable stack')")
        if backend is Backend.OPENVINO:  # as if it had not been loaded yet; the core itself must stay
            monkeypatch.setattr(accelerated, "openvino_core", accelerated.openvino_core.__wrapped__)

    monkeypatch.syspath_prepend(tmp_path)
    return make


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.AUTO])
@pytest.mark.parametrize("backend", [Backend.ONNXRUNTIME, Backend.OPENVINO])
def test_a_backend_that_cannot_be_imported_is_named_and_passed_over(
    tiny, cache, tmp_path, broken, caplog, backend, precision
):
    just_exported(tiny, cache, tmp_path / "networks")
    broken(backend)
    config = RuntimeConfig("cpu", precision=precision, threads=1, tolerance_mm=50, cache_dir=tmp_path / "networks")
    name = load_network(tiny, config).runtime.name
    assert not name.startswith(("torch", backend.value))
    (said,) = [message for message in caplog.messages if "cannot be imported" in message]
    assert backend.value in said and "executable stack" in said and "install a version" in said
    with pytest.raises(ConfigError, match=f"{backend.value} is installed but cannot be imported"):
        load_network(tiny, replace(config, backend=backend))


def test_where_no_backend_can_be_imported_torch_runs_it(tiny, cache, broken, caplog):
    for backend in (Backend.ONNXRUNTIME, Backend.OPENVINO):
        broken(backend)
    config = RuntimeConfig("cpu", threads=1, tolerance_mm=0.9, cache_dir=cache)  # of which no choice is remembered
    assert load_network(tiny, config).runtime.name.startswith("torch")
    assert "eager torch" in caplog.messages[-1] and "cannot be imported" in caplog.messages[-1]
    assert accelerated.version(Backend.OPENVINO)  # is known all the same


def test_without_faster_backends_it_runs_in_torch_and_says_so_once(tiny, monkeypatch, caplog):
    monkeypatch.setattr(accelerated, "installed", lambda backend: False)
    assert "torch" in load_network(tiny, RuntimeConfig("cpu", Backend.TORCH, threads=1)).runtime.name
    assert not caplog.messages  # of what was asked for
    assert "torch" in load_network(tiny, RuntimeConfig("cpu", threads=1)).runtime.name
    (said,) = caplog.messages
    assert "neither ONNX Runtime nor OpenVINO" in said and "pip install onnx onnxruntime openvino" in said


def test_without_onnx_it_runs_in_torch_unless_it_was_exported_before(tiny, tmp_path, monkeypatch, caplog):
    config = RuntimeConfig("cpu", threads=1, cache_dir=tmp_path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "onnx", None)
        assert "torch" in load_network(tiny, config).runtime.name
        assert "the library onnx" in caplog.messages[-1]
        with pytest.raises(ModelFileError, match="the library onnx"):
            load_network(tiny, replace(config, backend=Backend.OPENVINO))
        (tmp_path / "file").write_text("")  # below which nothing can be kept
        assert "torch" in load_network(tiny, replace(config, cache_dir=tmp_path / "file" / "x")).runtime.name
    load_network(tiny, config)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "torch" not in load_network(tiny, config).runtime.name


def test_torch_before_2_5_exports_too(network, tmp_path, monkeypatch):
    """As `setup_rig.py` installs where the distribution has a sympy too old for later ones; or NVIDIA, on a Jetson."""
    export, tracing = torch.onnx.export, by_tracing()

    def of_2_4(model, args, f, input_names=None, output_names=None, opset_version=None, dynamic_axes=None):
        names = {"input_names": input_names, "output_names": output_names}
        export(model, args, f, **names, opset_version=opset_version, dynamic_axes=dynamic_axes, **tracing)

    monkeypatch.setattr(torch.onnx, "export", of_2_4)
    export_onnx(network, tmp_path / "whole.onnx")
    assert (tmp_path / "whole.onnx").stat().st_size > 0


def test_export_without_onnx_names_what_is_missing(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelFileError, match=r"needs the library onnx.*pip install onnx"):
        export_onnx(network, tmp_path / "whole.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_what_was_there(network, tmp_path, monkeypatch):
    def full(_model, _inputs, path, **options):
        Path(path).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    path = tmp_path / "whole.onnx"
    path.write_bytes(b"of yesterday")
    with pytest.raises(ModelFileError, match=r"whole\.onnx cannot be written \(No space left"):
        export_onnx(network, path)
    assert path.read_bytes() == b"of yesterday" and list(tmp_path.iterdir()) == [path]


def test_an_export_takes_the_place_of_no_device(network, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ModelFileError, match="pipe is no file"):
        export_onnx(network, pipe)
    assert pipe.is_fifo()


def test_exporting_leaves_no_torch_weights_behind(tiny, tmp_path, monkeypatch):
    """The exported network is the only copy of the weights: those that it was made from are gone."""
    made = []
    real = exported_module.load_checkpoint

    def load(path):
        network, info = real(path)
        made.append(weakref.ref(network))
        return network, info

    monkeypatch.setattr(exported_module, "load_checkpoint", load)
    loaded = load_network(tiny, RuntimeConfig("cpu", Backend.ONNXRUNTIME, threads=1, cache_dir=tmp_path))
    gc.collect()
    assert loaded.runtime is not None and len(made) == 1 and made[0]() is None


def test_bench_measures_every_way(checkpoint, hand_model, cache):
    runtimes = [
        RuntimeConfig("cpu", Backend.TORCH, threads=1),
        RuntimeConfig("cpu", Backend.ONNXRUNTIME, threads=1, cache_dir=cache),
        RuntimeConfig("cpu", Backend.ONNXRUNTIME, Precision.INT8, threads=1, cache_dir=cache),
    ]
    said = []
    rows = bench_wildhands(checkpoint, hand_model, runtimes, rounds=2, progress=said.append)
    assert rows[0].what == "reference way" and rows[0].runs == 2
    whole = [row for row in rows if row.ratio is not None]
    assert len(whole) == 2 and all(row.distance_mm < 0.1 and row.ratio > 0 for row in whole)
    stages = [row.what.split(": ")[1] for row in rows if ": " in row.what]
    assert stages == ["crops", "network", "hand model"] * 2
    assert any("left out" in line and "int8" in line for line in said)


def test_inputs_stay_untouched(estimator, frame):
    before = frame.image.copy()
    estimator.estimate(frame, [RIGHT, LEFT])
    assert np.array_equal(frame.image, before)


@pytest.mark.parametrize("trunk", [Trunk.LANDMARKS, Trunk.EFFICIENTNET_LITE0])
def test_mobile_trunks_agree_in_openvino(trunk, tmp_path):
    variant = replace(SMALL, trunk=trunk, grasp=False)
    save_checkpoint(tmp_path / "own.safetensors", made_up_network(variant, 1), CheckpointInfo(variant))
    config = RuntimeConfig("cpu", Backend.OPENVINO, threads=1, tolerance_mm=1e6, cache_dir=tmp_path)
    assert load_network(tmp_path / "own.safetensors", config).agreement_mm < 0.05


def test_signals_are_handled_after_openvino_has_run_and_is_gone(tmp_path):
    program = """
        import gc, signal, sys
        from pathlib import Path
        import numpy as np, torch
        from wildhands_ros.estimation.wildhands.accelerated import openvino_graph, openvino_has_bfloat16
        from wildhands_ros.estimation.wildhands.export import by_tracing
        from wildhands_ros.estimation.wildhands.runtime import Precision

        path, names = Path(sys.argv[1]), {"input_names": ["crops"], "output_names": ["pose"]}
        torch.onnx.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),), str(path), **names, **by_tracing())
        openvino_has_bfloat16()
        graphs = [openvino_graph(path, Precision.FLOAT32, 1) for _ in range(3)]
        for graph in graphs:
            graph({"crops": np.zeros((1, 3), np.float32)})
        del graph
        while graphs:  # the first that came goes first
            del graphs[0]
            gc.collect()
        signal.signal(signal.SIGINT, lambda *_: print("heard"))
        signal.raise_signal(signal.SIGINT)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), str(tmp_path / "x.onnx")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
