"""The rendered sequence: what is drawn is what the truth says."""

from __future__ import annotations

import builtins
import math
from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError, ImageError, WildHandsError
from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hands import Side
from wildhands_ros.synthetic import VISIBLE_FRACTION, Lens, SequenceConfig, SyntheticSequence, demo_photos
from wildhands_ros.synthetic.arm import Arm, ArmLook
from wildhands_ros.synthetic.fingers import FingerPoser
from wildhands_ros.synthetic.light import reach, to_display
from wildhands_ros.synthetic.meshes import box, cup, longest_boundary, subdivide, vertex_normals
from wildhands_ros.synthetic.motion import FINGER_POSES, HandScript, HeadScript
from wildhands_ros.synthetic.renderer import Mesh, face_edges, render

SMALL = SequenceConfig(seconds=2.0, rate=6.0, width=480, height=270)


@pytest.fixture(scope="module")
def hand_model():
    return load_hand_model(None)


@pytest.fixture(scope="module")
def wide(hand_model):
    return SyntheticSequence(SMALL, hand_model)


@pytest.fixture(scope="module")
def fisheye(hand_model):
    return SyntheticSequence(replace(SMALL, lens=Lens.FISHEYE, seed=1), hand_model)


@pytest.fixture(params=["wide", "fisheye"])
def sequence(request):
    return request.getfixturevalue(request.param)


# --- truth ------------------------------------------------------------------------------------------------------------


def test_frames_and_truth_are_complete(sequence):
    assert len(sequence) == 12
    frame, truth = sequence[3]
    assert frame.image.shape == (270, 480, 3) and frame.camera == sequence.camera
    assert frame.index == 3 and frame.stamp_ns == 500_000_000
    assert [hand.side for hand in truth.hands] == [Side.LEFT, Side.RIGHT]
    assert all(hand.estimator == "truth" and hand.valid and hand.score == 1 for hand in truth.hands)


@pytest.mark.parametrize("index", [0, 4, 8, 11])
def test_keypoints_are_the_joints_seen_by_the_camera(sequence, index):
    for hand in sequence[index][1].hands:
        np.testing.assert_allclose(sequence.camera.project(hand.joints), hand.keypoints, atol=1e-6)


@pytest.mark.parametrize("index", [0, 4, 8, 11])
def test_the_hand_model_gives_the_truth_again_from_its_parameters(sequence, hand_model, index):
    for hand in sequence[index][1].hands:
        vertices, joints = hand_model.layer(hand.side).numpy(hand.pose, hand.betas, hand.translation)
        np.testing.assert_allclose(joints, hand.joints, atol=1e-6)
        np.testing.assert_allclose(vertices, hand.vertices, atol=1e-6)
        squares = hand.pose @ np.swapaxes(hand.pose, -1, -2)
        np.testing.assert_allclose(squares, np.tile(np.eye(3), (16, 1, 1)), atol=1e-9)


def test_hands_are_drawn_where_the_truth_says(wide, hand_model):
    """The same frame without hands differs exactly inside the arms, and everywhere inside the hands."""
    _, truth = wide[0]
    position, axes = wide._head.at(0.0)
    poses = [actor.pose(0.0, 0.0, position, axes) for actor in wide._actors]
    meshes, _ = wide._lit(poses, position, axes)
    black = np.zeros((270, 480, 3), np.float32)
    _, seen = render(meshes, wide.camera, black)
    for i, hand in enumerate(truth.hands):
        mask = np.zeros((270, 480), np.uint8)
        for face in hand_model.layer(hand.side).faces:
            cv2.fillConvexPoly(mask, np.round(wide.camera.project(hand.vertices[face])).astype(np.int32), 1)
        drawn = seen[..., i] > 0.5
        assert (drawn & (mask > 0)).sum() / (drawn | (mask > 0)).sum() > 0.85  # subdivision shrinks, rounding widens


def test_distances_are_those_of_a_wearers_hands(wide):
    for _, truth in (wide[i] for i in range(0, 12, 3)):
        for hand, visible in zip(truth.hands, truth.visible, strict=True):
            if visible:
                assert 0.2 < np.linalg.norm(hand.joints[0]) < 0.7


# --- determinism ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_sequence(wide, hand_model):
    again = SyntheticSequence(SMALL, hand_model)
    for index in (9, 2):  # in another order
        (a, truth_a), (b, truth_b) = wide[index], again[index]
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(truth_a.hands[0].joints, truth_b.hands[0].joints)


def test_another_seed_gives_another_sequence(wide, hand_model):
    other = SyntheticSequence(replace(SMALL, seed=5), hand_model)
    assert not np.array_equal(wide[0][0].image, other[0][0].image)
    assert not np.allclose(wide[0][1].hands[0].joints, other[0][1].hands[0].joints)
    assert not np.allclose(wide[0][1].hands[0].betas, other[0][1].hands[0].betas)


def test_iterating_gives_what_indexing_gives(wide):
    frames = [frame for frame, _ in islice(wide, 3)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert np.array_equal(frames[2].image, wide[2][0].image)
    with pytest.raises(IndexError, match="frame 12 of a sequence of 12"):
        wide[12]


# --- visibility -------------------------------------------------------------------------------------------------------


def test_one_hand_leaves_the_view_and_comes_back(sequence):
    right = [truth.visible_fraction[1] for _, truth in sequence]
    assert right[0] > 0.8 and right[-1] > 0.8 and min(right) == 0.0
    left = [truth.visible[0] for _, truth in sequence]
    assert all(left)


def test_visible_means_that_enough_is_seen(sequence):
    for _, truth in (sequence[i] for i in range(7, 11)):
        assert truth.visible == tuple(f >= VISIBLE_FRACTION for f in truth.visible_fraction)
        for hand, fraction in zip(truth.hands, truth.visible_fraction, strict=True):
            u, v = hand.keypoints.T
            inside = (u > 0) & (v > 0) & (u < 480) & (v < 270)
            if fraction > 0.9:
                assert inside.mean() > 0.75
            if not inside.any():
                assert fraction < 0.35


def test_a_hand_behind_another_is_hidden(wide, monkeypatch):
    left, right = wide._actors

    class InFront:
        """The right hand's script, brought nearer to the eye."""

        def at(self, seconds, fraction):
            motion = right._script.at(seconds, fraction)
            eye, _ = wide._head.at(seconds)
            return replace(motion, wrist=eye + (motion.wrist - eye) * 0.55)

    open_fraction = wide[0][1].visible_fraction[1]
    monkeypatch.setattr(left, "_script", InFront())
    hidden_fraction = wide[0][1].visible_fraction[1]
    assert open_fraction > 0.9 and hidden_fraction < 0.5 * open_fraction


# --- motion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", list(Side))
def test_motion_is_smooth_and_orientations_are_rotations(side):
    script = HandScript(side, np.random.default_rng(3))
    times = np.arange(0, 10, 1 / 60)
    motions = [script.at(t, t / 10) for t in times]
    wrists = np.stack([m.wrist for m in motions])
    turns = np.stack([m.orientation for m in motions])
    assert np.linalg.norm(np.diff(wrists, axis=0), axis=1).max() * 60 < 3.0  # metres a second
    np.testing.assert_allclose(turns @ np.swapaxes(turns, 1, 2), np.tile(np.eye(3), (len(times), 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-12)
    steps = np.swapaxes(turns[:-1], 1, 2) @ turns[1:]
    angles = np.arccos(np.clip((np.trace(steps, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert angles.max() * 60 < 12  # radians a second


def test_hands_stay_on_their_side_and_above_the_table():
    for side, sign in ((Side.RIGHT, 1), (Side.LEFT, -1)):
        script = HandScript(side, np.random.default_rng(0))
        wrists = np.stack([script.at(10 * f, f).wrist for f in np.linspace(0, 1, 50)])
        assert (wrists[:, 0] * sign > 0).all()
        in_view = np.abs(wrists[:, 0]) < 0.3
        assert (wrists[in_view, 2] > -0.42).all()


def test_the_head_looks_down_and_keeps_its_axes_right_handed():
    head = HeadScript(np.random.default_rng(0), pitch=0.7)
    for seconds in np.linspace(0, 10, 20):
        position, axes = head.at(seconds)
        assert np.linalg.norm(position) < 0.1 and np.isclose(np.linalg.det(axes), 1)
        assert axes[2, 2] < -0.4 and axes[2, 1] < -0.4  # forward and the picture's down both point downwards


def test_a_fist_is_smaller_than_an_open_hand_on_both_sides(hand_model):
    for side in Side:
        layer = hand_model.layer(side)
        tips = {}
        for name in ("flat", "fist"):
            _, joints = layer.numpy(FingerPoser(layer).rotations(FINGER_POSES[name]), np.zeros(10), np.zeros(3))
            tips[name] = np.linalg.norm(joints[[8, 12, 16, 20]] - joints[0], axis=1)
        assert (tips["fist"] < 0.68 * tips["flat"]).all()


def test_a_pinch_brings_thumb_and_index_together(hand_model):
    for side in Side:
        layer = hand_model.layer(side)
        _, joints = layer.numpy(FingerPoser(layer).rotations(FINGER_POSES["pinch"]), np.zeros(10), np.zeros(3))
        assert np.linalg.norm(joints[4] - joints[8]) < 0.03


def test_postures_are_the_same_for_a_model_with_a_mean_pose(hand_model):
    layer = hand_model.layer(Side.LEFT)
    mean = np.random.default_rng(0).normal(0, 0.2, 45)
    curled = HandLayer(replace(layer.data, hands_mean=mean))
    results = []
    for model in (layer, curled):
        results.append(model.numpy(FingerPoser(model).rotations(FINGER_POSES["hold"]), np.zeros(10), np.zeros(3))[1])
    np.testing.assert_allclose(results[0], results[1], atol=1e-9)


# --- arms, meshes, light ----------------------------------------------------------------------------------------------


def test_the_arm_continues_the_hand_without_a_gap(hand_model):
    layer = hand_model.layer(Side.RIGHT)
    arm = Arm(layer, np.zeros(10), ArmLook())
    vertices, joints = layer.numpy(np.tile(np.eye(3), (16, 1, 1)), np.zeros(10), np.zeros(3))
    elbow = joints[0] + 0.3 * (joints[0] - joints[9])
    fine = arm.fine(arm.coarse(vertices, joints, elbow))
    assert np.isfinite(fine).all() and len(arm.albedo) == len(fine)
    edges = np.sort(np.stack([arm.faces, np.roll(arm.faces, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert uses.max() == 2 and (uses == 1).sum() == len(longest_boundary(arm.faces))  # open at the far end only
    assert ((arm.albedo > 0) & (arm.albedo < 1)).all()


def test_subdivision_keeps_flat_things_flat_and_boundaries_in_place():
    vertices, faces = box((1.0, 1.0, 1.0), steps=3)
    matrix, finer = subdivide(faces, len(vertices))
    np.testing.assert_allclose(np.asarray(matrix.sum(axis=1)).ravel(), 1, atol=1e-12)
    smooth = matrix @ vertices
    assert len(finer) == 4 * len(faces)
    on_a_side = [np.isclose(smooth[:, i], side).any() for i, side in ((2, 0.0), (2, 1.0), (0, 0.5), (0, -0.5))]
    assert all(on_a_side)
    assert smooth.min() >= -0.5 - 1e-9 and smooth.max() <= 1 + 1e-9


@pytest.mark.parametrize("solid", [box((0.1, 0.2, 0.3)), cup(0.05, 0.1)])
def test_solids_face_outwards(solid):
    vertices, faces = solid
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0
    lengths = np.linalg.norm(vertex_normals(vertices, faces), axis=1)
    assert ((lengths > 0.99) | (lengths < 1e-6)).all()


def test_light_does_not_reach_below_a_roof():
    u, v = (g.ravel() for g in np.meshgrid(np.arange(0, 0.2, 0.002), np.arange(0, 0.2, 0.002)))
    floor = np.stack([u, v, np.zeros_like(u)], axis=1)
    roof = floor[(u < 0.1)] + (0, 0, 0.05)
    light = reach(np.concatenate([floor, roof]), np.array([0.0, 0.0, 1.0]))
    floor_light = light[: len(floor)]
    inner = (u > 0.01) & (v > 0.01) & (v < 0.19)  # shadows are soft at their edges
    assert floor_light[inner & (u < 0.09)].max() < 0.05 and floor_light[u > 0.11].min() > 0.95
    assert light[len(floor) :].min() > 0.95


def test_display_values_grow_with_light_and_stay_in_range():
    values = to_display(np.linspace(0, 5, 100))
    assert (np.diff(values) >= 0).all() and values[0] == 0 and values[-1] <= 255


def test_nearer_meshes_hide_farther_ones():
    camera = Camera.pinhole(64, 48, 50)
    vertices = np.array([(-1.0, -1.0, 0.0), (1.0, -1.0, 0.0), (0.0, 1.5, 0.0)])
    faces = np.array([[0, 2, 1]])
    values = {"near": np.tile([255.0, 0, 0, 1], (3, 1)), "far": np.tile([0.0, 255, 0, 0], (3, 1))}
    near = Mesh(vertices + (0, 0, 3.0), faces, values["near"], face_edges(faces))
    far = Mesh(vertices * 2 + (0, 0, 5.0), faces, values["far"], face_edges(faces))
    background = np.full((48, 64, 3), 9, np.float32)
    for meshes in ([near, far], [far, near]):
        picture, extra = render(meshes, camera, background)
        np.testing.assert_allclose(picture[24, 32], (255, 0, 0))
        assert extra[24, 32, 0] == 1 and extra[0, 0, 0] == 0
    assert (background == 9).all()
    behind = replace(near, vertices=vertices - (0, 0, 3.0))
    assert np.array_equal(render([behind], camera, background)[0], background)


# --- configuration, errors, photographs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [({"seconds": 0}, "must be positive"), ({"rate": -1}, "must be positive"), ({"width": 3}, "at least 16x16"),
     ({"noise": -1}, "not negative"), ({"shape_spread": math.nan}, "not negative"),
     ({"seed": -1}, "seed must not be negative"),
     ({"seconds": math.inf}, "must be positive")],
)  # fmt: skip
def test_nonsense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **values)


def test_lenses_are_wide():
    for lens in Lens:
        camera = lens.camera(1280, 720)
        left, right = camera.angles([[0, 359.5], [1279, 359.5]])
        assert np.degrees(right[0] - left[0]) > 100


def test_without_the_rasteriser_the_error_names_it(wide, monkeypatch):
    original = builtins.__import__

    def without_deodr(name, *arguments, **keywords):
        if name.startswith("deodr"):
            raise ImportError("No module named 'deodr'")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_deodr)
    with pytest.raises(WildHandsError, match="pip install deodr"):
        wide[0]


def test_demo_photos_are_pictures_of_hands():
    photos = demo_photos()
    assert len(photos) == 4
    for name, image in photos:
        assert name and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
        red, _, blue = image[image.shape[0] // 2, image.shape[1] // 2].astype(int)
        assert red > blue + 30  # skin: RGB, not BGR


def test_missing_photos_are_an_error_with_a_remedy(monkeypatch, tmp_path):
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})()
    monkeypatch.setattr("wildhands_ros.synthetic.photos.find_spec", lambda name: spec)
    with pytest.raises(ImageError, match="install deodr again"):
        demo_photos()
    monkeypatch.setattr("wildhands_ros.synthetic.photos.find_spec", lambda name: None)
    with pytest.raises(WildHandsError, match="pip install deodr"):
        demo_photos()
