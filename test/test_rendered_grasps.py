"""Rendered grasps: fingers that touch what they hold without running into it, in every class, on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from wildhands_ros.errors import WildHandsError
from wildhands_ros.estimation.wildhands.variant import GRASPS
from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hands import Side
from wildhands_ros.rendered.grasps import NO_GRASP, GraspedHand, GraspSampler
from wildhands_ros.rendered.identities import sample_identity

_EACH = 25
_DIGIT = np.array([5, 1, 1, 1, 2, 2, 2, 4, 4, 4, 3, 3, 3, 0, 0, 0])  # of each MANO joint; 5 is the palm
_PREHENSILE = ("Pow-Pris", "Pre-Pris", "Pow-Circ", "Pre-Circ", "Later")


@pytest.fixture(scope="module")
def layers() -> dict[Side, HandLayer]:
    model = load_hand_model()
    return {side: model.layer(side) for side in Side}


@pytest.fixture(scope="module")
def sampler(layers: dict[Side, HandLayer]) -> GraspSampler:
    return GraspSampler(layers[Side.RIGHT])


@pytest.fixture(scope="module")
def grasps(sampler: GraspSampler) -> dict[str, list[tuple[np.ndarray, GraspedHand]]]:
    rng = np.random.default_rng(1)
    made: dict[str, list[tuple[np.ndarray, GraspedHand]]] = {}
    for index, name in enumerate(GRASPS):
        for _ in range(_EACH):
            betas = sample_identity(rng)
            made.setdefault(name, []).append((betas, sampler.sample(rng, betas, index)))
    return made


def _distances(layer: HandLayer, betas: np.ndarray, hand: GraspedHand) -> np.ndarray:
    vertices, _ = layer.numpy(hand.rotations, betas, np.zeros(3))
    assert hand.thing is not None
    return hand.thing.distance(vertices)


def test_every_class_is_made(grasps: dict[str, list[tuple[np.ndarray, GraspedHand]]]) -> None:
    for name, made in grasps.items():
        assert all(GRASPS[hand.grasp] == name for _, hand in made)
        for _, hand in made:
            assert (hand.held is None) == (hand.thing is None) == (name == "none")
            assert (hand.object_name == "") == (name == "none")
        if name != "none":
            assert len({hand.object_name for _, hand in made}) >= 3, name


def test_classes_come_by_themselves(sampler: GraspSampler) -> None:
    rng = np.random.default_rng(2)
    seen = [sampler.sample(rng, np.zeros(10)).grasp for _ in range(150)]
    assert set(seen) == set(range(9))
    assert seen.count(NO_GRASP) < 20


def test_prehensile_grasps_touch_with_two_digits_or_more(
    layers: dict[Side, HandLayer], grasps: dict[str, list[tuple[np.ndarray, GraspedHand]]]
) -> None:
    layer = layers[Side.RIGHT]
    digit = _DIGIT[layer.data.weights.argmax(axis=1)]
    for name in _PREHENSILE:
        for betas, hand in grasps[name]:
            touching = set(digit[_distances(layer, betas, hand) < 0.004])
            assert len(touching - {5}) >= 2, (name, hand.object_name)
            assert 0 in touching, (name, hand.object_name)  # the thumb holds against the others
    powerful = [set(digit[_distances(layer, betas, hand) < 0.004]) for betas, hand in grasps["Pow-Pris"]]
    assert np.mean([len(touching - {5}) >= 4 for touching in powerful]) > 0.8
    assert np.mean([5 in touching for touching in powerful]) > 0.8  # power grasps use the palm


def test_non_prehensile_hands_touch(
    layers: dict[Side, HandLayer], grasps: dict[str, list[tuple[np.ndarray, GraspedHand]]]
) -> None:
    layer = layers[Side.RIGHT]
    joint = layer.data.weights.argmax(axis=1)
    for name in ("NP-Palm", "NP-Fin", "Other"):
        for betas, hand in grasps[name]:
            assert _distances(layer, betas, hand).min() < 0.004, (name, hand.object_name)
    for betas, hand in grasps["NP-Fin"]:  # with a finger's last segment
        nearest = joint[_distances(layer, betas, hand).argmin()]
        assert nearest in (3, 6, 9, 12, 15, 2, 5, 8, 11, 14), hand.object_name


def test_fingers_do_not_run_into_what_they_hold(
    layers: dict[Side, HandLayer], grasps: dict[str, list[tuple[np.ndarray, GraspedHand]]]
) -> None:
    layer = layers[Side.RIGHT]
    deep = [-_distances(layer, betas, hand).min() for name in GRASPS if name != "none" for betas, hand in grasps[name]]
    assert np.median(deep) < 0.003
    assert np.percentile(deep, 95) < 0.006
    assert np.max(deep) < 0.008


def test_grasps_are_within_the_limits(
    layers: dict[Side, HandLayer], grasps: dict[str, list[tuple[np.ndarray, GraspedHand]]]
) -> None:
    layer = layers[Side.RIGHT]
    for made in grasps.values():
        for _, hand in made:
            assert np.array_equal(hand.rotations[0], np.eye(3))
            angles = layer.anatomy.angles(layer.rotations_from_pose(hand.rotations)[1:])
            assert np.allclose(angles, layer.anatomy.clamped(angles), atol=1e-6)


def test_mirrored_grasps_are_mirror_images(
    layers: dict[Side, HandLayer], grasps: dict[str, list[tuple[np.ndarray, GraspedHand]]]
) -> None:
    right, left = layers[Side.RIGHT], layers[Side.LEFT]
    for name in GRASPS:
        betas, hand = grasps[name][0]
        image = hand.mirrored()
        _, joints = right.numpy(hand.rotations, betas, np.zeros(3))
        _, others = left.numpy(image.rotations, betas, np.zeros(3))
        assert np.allclose(others, joints * (-1, 1, 1), atol=1e-9)
        assert (image.grasp, image.object_name) == (hand.grasp, hand.object_name)
        if hand.thing is None or hand.held is None:
            continue
        assert image.thing is not None and image.held is not None
        assert np.allclose(image.held.vertices, hand.held.vertices * (-1, 1, 1))
        assert np.allclose(image.thing.distance(others), hand.thing.distance(joints), atol=1e-9)
        assert np.array_equal(image.mirrored().held.faces, hand.held.faces)  # type: ignore[union-attr]


def test_same_seed_same_grasps(layers: dict[Side, HandLayer]) -> None:
    runs = []
    for _ in range(2):
        sampler, rng = GraspSampler(layers[Side.RIGHT]), np.random.default_rng(4)
        runs.append([sampler.sample(rng, np.zeros(10)) for _ in range(15)])
    for first, second in zip(*runs, strict=True):
        assert np.array_equal(first.rotations, second.rotations)
        assert (first.grasp, first.object_name) == (second.grasp, second.object_name)
        if first.held is not None and second.held is not None:
            assert np.array_equal(first.held.vertices, second.held.vertices)


def test_most_attempts_succeed(layers: dict[Side, HandLayer]) -> None:
    sampler, rng = GraspSampler(layers[Side.RIGHT]), np.random.default_rng(5)
    for _ in range(100):
        sampler.sample(rng, sample_identity(rng))
    assert sum(sampler.tried.values()) < 200


def test_left_layer_is_refused(layers: dict[Side, HandLayer]) -> None:
    with pytest.raises(WildHandsError, match="right"):
        GraspSampler(layers[Side.LEFT])
