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
