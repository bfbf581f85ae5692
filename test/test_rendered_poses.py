"""Identities and poses of rendered hands: within limits, without collisions, tips that meet, both sides alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wildhands_ros.errors import WildHandsError
from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hands import Side
from wildhands_ros.rendered.identities import sample_identity
from wildhands_ros.rendered.poses import POSTURES, PosedHand, PoseSampler, mirrored_pose, sample_wrist
from wildhands_ros.rendered.spheres import THUMB, BallHandModel, ball
from wildhands_ros.rendered.touches import Touch, digit_freedoms, pad_facing, solve_touches
from wildhands_ros.rotations import exp_so3

_PARTNER = {"pinch_index": 3, "pinch_middle": 6, "pinch_pinky": 9, "pinch_ring": 12}  # MANO joint of the finger's end


@pytest.fixture(scope="module")
def layers() -> dict[Side, HandLayer]:
    model = load_hand_model()
    return {side: model.layer(side) for side in Side}


@pytest.fixture(scope="module")
def sampler(layers: dict[Side, HandLayer]) -> PoseSampler:
    return PoseSampler(layers[Side.RIGHT])


@pytest.fixture(scope="module")
def poses(sampler: PoseSampler) -> list[PosedHand]:
    rng = np.random.default_rng(7)
    return [sampler.sample(rng) for _ in range(600)]


def _length(layer: HandLayer, betas: np.ndarray) -> float:
    joints = layer.rest_joints(betas)[[0, 9, 10, 11, 12]]
    return float(np.linalg.norm(np.diff(joints, axis=0), axis=1).sum())


def test_identities_are_as_large_as_people(layers: dict[Side, HandLayer]) -> None:
    rng, layer = np.random.default_rng(0), layers[Side.RIGHT]
    lengths = np.array([_length(layer, sample_identity(rng)) for _ in range(3000)])
    average = _length(layer, np.zeros(10))
    assert abs(np.median(lengths) / average - 1) < 0.01
    assert 0.05 < np.std(lengths / average) < 0.085
    assert lengths.min() / average > 0.68 and lengths.max() / average < 1.25
    assert 0.02 < (lengths < 0.85 * average).mean() < 0.10  # children's hands


def test_identity_without_spread_is_the_average_hand() -> None:
    assert np.all(sample_identity(np.random.default_rng(1), spread=0.0) == 0)


def test_every_pose_is_within_the_limits(layers: dict[Side, HandLayer], poses: list[PosedHand]) -> None:
    layer = layers[Side.RIGHT]
    for posed in poses:
        rotations = layer.rotations_from_pose(posed.rotations)
        assert np.array_equal(rotations[0], np.eye(3))
        assert np.allclose(rotations @ np.swapaxes(rotations, 1, 2), np.eye(3), atol=1e-9)
        angles = layer.anatomy.angles(rotations[1:])
        assert np.allclose(angles, layer.anatomy.clamped(angles), atol=1e-6), posed.name


def test_poses_vary(poses: list[PosedHand]) -> None:
    names = {posed.name for posed in poses}
    assert {"relaxed", "fist", "point", "flat", "wild", "mixed", "tripod", "key", "purse", *_PARTNER} <= names
    bends = np.array([[np.arccos((np.trace(r) - 1) / 2) for r in posed.rotations[1:]] for posed in poses])
    assert np.all(bends[:, [1, 4, 7, 10]].std(axis=0) > 0.3)  # middle joints of the fingers
    # neighbours follow each other, far ones less
    correlation = np.corrcoef(bends[:, [1, 4, 10, 7]].T)
    assert correlation[1, 2] > 0.4 and correlation[0, 3] < correlation[1, 2]


def test_end_joints_follow_middle_joints(layers: dict[Side, HandLayer], poses: list[PosedHand]) -> None:
    anatomy = layers[Side.RIGHT].anatomy
    bends = np.array([(anatomy.angles(posed.rotations[1:]) + anatomy.rest)[:, 0] for posed in poses])
    for finger in (0, 3, 6, 9):
        assert np.corrcoef(bends[:, finger + 1], bends[:, finger + 2])[0, 1] > 0.8


def test_finger_tips_meet_in_pinches(layers: dict[Side, HandLayer], poses: list[PosedHand]) -> None:
    layer = layers[Side.RIGHT]
    owner = layer.data.weights.argmax(axis=1)
    met = 0
    for posed in poses:
        if posed.name not in _PARTNER:
            continue
        for size in (-2.0, 0.0, 2.0):  # meeting does not depend on how large the hand is
            betas = np.concatenate([[size], np.zeros(9)])
            vertices, _ = layer.numpy(posed.rotations, betas, np.zeros(3))
            thumb, finger = vertices[owner == 15], vertices[owner == _PARTNER[posed.name]]
            assert np.linalg.norm(thumb[:, None] - finger[None], axis=-1).min() < 0.008
        met += 1
    assert met >= 20


def test_open_hands_do_not_pinch(layers: dict[Side, HandLayer], sampler: PoseSampler) -> None:
    layer, rng = layers[Side.RIGHT], np.random.default_rng(2)
    turned = layer.anatomy.rotations(sampler.posture(rng, POSTURES["spread"]))
    _, joints = layer.numpy(np.concatenate([np.eye(3)[None], turned]), np.zeros(10), np.zeros(3))
    assert np.linalg.norm(joints[4] - joints[8]) > 0.05


def test_fingers_do_not_run_into_each_other(layers: dict[Side, HandLayer], poses: list[PosedHand]) -> None:
    """Bones of different fingers stay apart by most of a finger's thickness."""
    layer = layers[Side.RIGHT]
    share = np.linspace(0, 1, 5)[:, None]
    closest = []
    for posed in poses:
        _, joints = layer.numpy(posed.rotations, np.zeros(10), np.zeros(3))
        ends = [np.concatenate([a + share * (b - a) for a, b in zip(f[1:-1], f[2:], strict=True)])
                for f in joints[1:].reshape(5, 4, 3)]  # fmt: skip
        closest.append(
            min(np.linalg.norm(a[:, None] - b[None], axis=-1).min() for i, a in enumerate(ends) for b in ends[i + 1 :])
        )
    assert np.min(closest) > 0.006
    assert np.percentile(closest, 5) > 0.008


def test_few_poses_are_rejected(layers: dict[Side, HandLayer]) -> None:
    sampler, rng = PoseSampler(layers[Side.RIGHT]), np.random.default_rng(3)
    for _ in range(200):
        sampler.sample(rng)
    assert 200 <= sampler.tried < 260


def test_collisions_are_noticed(sampler: PoseSampler, layers: dict[Side, HandLayer]) -> None:
    anatomy = layers[Side.RIGHT].anatomy
    assert not sampler.collides(np.zeros((15, 3)))
    crossed = np.zeros((15, 3))
    crossed[0, 1], crossed[3, 1] = -0.4, 0.4  # index and middle finger through each other
    assert sampler.collides(crossed)
    pierced = np.zeros((15, 3))
    pierced[:9, 0] = anatomy.limits[:9, 0, 1]  # tips pressed through the palm
    assert sampler.collides(pierced)


def test_same_seed_same_hands(layers: dict[Side, HandLayer]) -> None:
    runs = []
    for _ in range(2):
        rng, sampler = np.random.default_rng(11), PoseSampler(layers[Side.RIGHT])
        runs.append([(sample_identity(rng), sampler.sample(rng).rotations, sample_wrist(rng)) for _ in range(20)])
    for first, second in zip(*runs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_mirrored_pose_is_the_mirror_image(layers: dict[Side, HandLayer], poses: list[PosedHand]) -> None:
    right, left = layers[Side.RIGHT], layers[Side.LEFT]
    for posed in poses[:30]:
        there, joints = right.numpy(posed.rotations, np.zeros(10), np.zeros(3))
        here, other_joints = left.numpy(posed.mirrored().rotations, np.zeros(10), np.zeros(3))
        assert np.allclose(other_joints, joints * (-1, 1, 1), atol=1e-9)
        assert np.allclose(np.sort(here[:, 0]), np.sort(-there[:, 0]), atol=1e-9)
        assert np.allclose(posed.mirrored().mirrored().rotations, posed.rotations)
        # the same anatomical angles
        angles = right.anatomy.angles(posed.rotations[1:])
        assert np.allclose(left.anatomy.angles(posed.mirrored().rotations[1:]), angles, atol=1e-9)


def test_mirrored_turn() -> None:
    about_y = exp_so3([0.0, 0.5, 0.0])
    assert np.allclose(mirrored_pose(about_y), exp_so3([0.0, -0.5, 0.0]))
    assert np.allclose(mirrored_pose(exp_so3([0.5, 0.0, 0.0])), exp_so3([0.5, 0.0, 0.0]))


def test_left_layer_is_refused(layers: dict[Side, HandLayer]) -> None:
    with pytest.raises(WildHandsError, match="right"):
        PoseSampler(layers[Side.LEFT])


def test_poses_are_relative_to_the_mean_pose(layers: dict[Side, HandLayer]) -> None:
    """A model with another mean pose gets poses that look the same."""
    right = layers[Side.RIGHT]
    bent = HandLayer(replace(right.data, hands_mean=np.full(45, 0.1)))
    rng, other_rng = np.random.default_rng(5), np.random.default_rng(5)
    here, there = PoseSampler(right).sample(rng), PoseSampler(bent).sample(other_rng)
    assert not np.allclose(here.rotations, there.rotations)
    assert np.allclose(right.rotations_from_pose(here.rotations), bent.rotations_from_pose(there.rotations), atol=1e-9)


def test_wrists_are_natural() -> None:
    rng = np.random.default_rng(0)
    wrists = np.degrees([sample_wrist(rng) for _ in range(2000)])
    assert np.all(wrists.min(axis=0) >= (-71, -31, -61)) and np.all(wrists.max(axis=0) <= (76, 21, 61))
    assert -20 < wrists[:, 0].mean() < -2  # a little extended
    assert np.all(wrists.std(axis=0) > (10, 5, 10))


# --- the hand made of balls -----------------------------------------------------------------------------------------


def test_balls_follow_the_mesh(layers: dict[Side, HandLayer], sampler: PoseSampler) -> None:
    """Skin of the fingers' middle and end lies near the balls' surface, however large and however bent the hand."""
    layer, rng = layers[Side.RIGHT], np.random.default_rng(4)
    owner = layer.data.weights.argmax(axis=1)
    skin = np.isin(owner, (2, 3, 5, 6, 8, 9, 11, 12, 15))
    model = BallHandModel(layer)
    for _ in range(10):
        betas = sample_identity(rng)
        angles, _ = sampler.sample_angles(rng)
        hand = model.person(betas)
        rotations = np.concatenate([np.eye(3)[None], hand.turned(angles)])
        assert np.allclose(rotations[1:], layer.anatomy.rotations(angles), atol=1e-12)
        vertices, _ = layer.numpy(layer.pose_from_rotations(rotations), betas, np.zeros(3))
        balls = slice(0, 40)
        centers = hand.centers(angles[None])[0][balls]
        gaps = np.linalg.norm(vertices[skin][:, None] - centers[None], axis=-1) - hand.radius[balls]
        assert abs(np.median(gaps.min(axis=1))) < 0.0015
        assert np.percentile(np.abs(gaps.min(axis=1)), 95) < 0.004


def test_touches_are_solved_with_a_gap(layers: dict[Side, HandLayer]) -> None:
    model = BallHandModel(layers[Side.RIGHT])
    hand = model.average
    index, thumb = 1, THUMB
    for gap in (0.0, 0.02, 0.05):
        touch = Touch(ball(thumb, 6), pad_facing(hand, thumb, 0.3), ball(index, 6), pad_facing(hand, index, 0.4), gap)
        angles, error = solve_touches(
            hand, np.zeros((15, 3)), [touch], digit_freedoms((thumb, index)), model.anatomy.limits
        )
        centers = hand.centers(angles[None])[0]
        apart = np.linalg.norm(centers[touch.ball] - centers[touch.other_ball])
        found = apart - hand.radius[touch.ball] - hand.radius[touch.other_ball]
        assert abs(found - gap) < 0.001 and abs(abs(found - gap) - error) < 1e-7
        assert np.all(angles >= model.anatomy.limits[..., 0]) and np.all(angles <= model.anatomy.limits[..., 1])
