"""Rotations: axioms, and SciPy as the independent implementation."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from wildhands_ros.rotations import (
    angle_between,
    exp_so3,
    log_so3,
    matrix_from_quaternion,
    nearest_rotation,
    quaternion_from_matrix,
    rotation_about,
)

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([1e-12, 1e-5, 1e-2, 1.0, np.pi - 1e-7, np.pi]))
def test_log_is_the_inverse_of_exp(seed: int, angle: float) -> None:
    axis = np.random.default_rng(seed).normal(size=3)
    vector = angle * axis / np.linalg.norm(axis)
    back = log_so3(exp_so3(vector))
    # at half a turn both directions are the same rotation
    assert min(np.abs(back - vector).max(), np.abs(back + vector).max() if angle > 3.14 else np.inf) < 1e-8


@given(seeds)
def test_agrees_with_scipy(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(7, 3))
    matrices = exp_so3(vectors)
    assert np.allclose(matrices, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)
    ours, theirs = quaternion_from_matrix(matrices), Rotation.from_rotvec(vectors).as_quat()
    assert np.allclose(np.abs(np.sum(ours * theirs, axis=-1)), 1)
    assert np.allclose(matrix_from_quaternion(ours), matrices)


@given(seeds, st.sampled_from([0.0, 1e-9, 5e-5, 0.99e-4, 1.01e-4, 1e-3, 0.5, 3.0]))
def test_every_angle_is_accurate_however_small(seed: int, angle: float) -> None:
    axes = np.random.default_rng(seed).normal(size=(2, 5, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    exact = Rotation.from_rotvec(angle * axes.reshape(10, 3)).as_matrix().reshape(2, 5, 3, 3)
    assert np.allclose(exp_so3(angle * axes), exact, atol=1e-14, rtol=0)
    sines, cosines = np.full((2, 5, 1), np.sin(angle)), np.full((2, 5, 1), np.cos(angle))
    assert np.allclose(rotation_about(axes, sines, cosines), exact, atol=1e-14, rtol=0)
    assert np.allclose(angle_between(np.broadcast_to(np.eye(3), exact.shape), exact), angle, atol=1e-14)


def test_half_turns_are_not_ill_conditioned() -> None:
    for axis in np.eye(3):
        q = quaternion_from_matrix(exp_so3(np.pi * axis))
        assert np.allclose(np.abs(q), [*axis, 0], atol=1e-9)


@given(seeds)
def test_angle_between_is_the_angle_turned(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, axis, angle = exp_so3(rng.normal(size=3)), rng.normal(size=3), rng.uniform(0, np.pi)
    turned = start @ exp_so3(angle * axis / np.linalg.norm(axis))
    assert np.isclose(angle_between(start, turned), angle)


@given(seeds)
def test_the_nearest_rotation_is_nearer_than_any_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrices = rng.normal(size=(4, 3, 3))
    nearest = nearest_rotation(matrices)
    np.testing.assert_allclose(np.linalg.det(nearest), 1.0)
    np.testing.assert_allclose(nearest @ nearest.swapaxes(-1, -2), np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)
    others = Rotation.random(50, random_state=seed).as_matrix()[:, None]
    least = np.linalg.norm(nearest - matrices, axis=(-2, -1))
    assert (np.linalg.norm(others - matrices, axis=(-2, -1)) >= least - 1e-12).all()


@given(seeds)
def test_the_nearest_of_a_mean_agrees_with_scipy(seed: int) -> None:
    rotations = Rotation.random(5, random_state=seed)
    ours = nearest_rotation(rotations.as_matrix().mean(axis=0))
    assert angle_between(ours, rotations.mean().as_matrix()) < 1e-6
