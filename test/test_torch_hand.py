"""The differentiable hand gives what the NumPy hand gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hand_model.torch_hand import TorchHand
from wildhands_ros.hands import Side
from wildhands_ros.rotations import exp_so3

RNG = np.random.default_rng(3)


def _layer(side: Side, full: bool) -> HandLayer:
    layer = load_hand_model().layer(side)
    if not full:
        return layer
    # as MANO has them: a mean pose and pose correctives, neither without zeros
    mean, posedirs = RNG.normal(0, 0.3, 45), RNG.normal(0, 1e-3, (layer.vertex_count, 3, 135))
    mean[::4], posedirs[::3] = 0, 0
    return HandLayer(replace(layer.data, hands_mean=mean, posedirs=posedirs))


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("full", [False, True])
def test_same_as_numpy(side: Side, full: bool) -> None:
    layer = _layer(side, full)
    hand = TorchHand(layer)
    assert not hand.state_dict()  # checkpoints hold no hand model
    pose = exp_so3(RNG.normal(0, 0.5, (4, 16, 3)))
    betas, translation = RNG.normal(0, 1, (4, 10)), RNG.normal(0, 0.3, (4, 3))
    arguments = [torch.from_numpy(v).float() for v in (pose, betas, translation)]
    joints, vertices = hand(*arguments), hand.vertices(*arguments)
    for i in range(4):
        expected_vertices, expected_joints = layer.numpy(pose[i], betas[i], translation[i])
        np.testing.assert_allclose(joints[i].numpy(), expected_joints, atol=2e-6)
        np.testing.assert_allclose(vertices[i].numpy(), expected_vertices, atol=2e-6)


def test_gradient_is_that_of_finite_differences() -> None:
    hand = TorchHand(_layer(Side.RIGHT, full=True)).double()
    pose = torch.from_numpy(exp_so3(RNG.normal(0, 0.4, (2, 16, 3))))
    betas, translation = torch.zeros(2, 10, dtype=torch.double), torch.zeros(2, 3, dtype=torch.double)
    betas.requires_grad_()
    translation.requires_grad_()
    assert torch.autograd.gradcheck(lambda b, t: hand(pose, b, t), (betas, translation))
