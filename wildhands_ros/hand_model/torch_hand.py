"""One side of a hand model in torch: batched, differentiable, for training and scoring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wildhands_ros.hand_model.data import PARENTS, ROWS
from wildhands_ros.hand_model.layer import HandLayer
from wildhands_ros.hand_model.torch_rotations import exp_so3_torch, log_so3_torch
from wildhands_ros.hands import MANO_TO_KEYPOINTS


class TorchHand(nn.Module):
    """Linear blend skinning of a MANO-format hand (Romero et al., "Embodied Hands", 2017), as `HandLayer.numpy` has it.

    float32; its arrays are buffers, so that it follows a module to a device, and are in no state_dict.
    """

    def __init__(self, layer: HandLayer) -> None:
        super().__init__()
        data, skeleton = layer.data, layer.skeleton()
        tips = data.tip_vertices.astype("int64")
        arrays = {
            "template": data.template, "shapedirs": data.shapedirs, "weights": data.weights,
            "joints_template": skeleton.joints_template, "joints_shapedirs": skeleton.joints_shapedirs,
            "mean": data.hands_mean.reshape(15, 3),
        }  # fmt: skip
        for name, value in arrays.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)
        basis = torch.tensor(data.posedirs, dtype=torch.float32) if data.posedirs.any() else None
        self.register_buffer("posedirs", basis, persistent=False)
        self.register_buffer("tips", torch.from_numpy(tips), persistent=False)
        self.register_buffer("order", torch.tensor(MANO_TO_KEYPOINTS), persistent=False)
        self._has_mean = bool(data.hands_mean.any())
        self.template: Tensor
        self.shapedirs: Tensor
        self.weights: Tensor
        self.joints_template: Tensor
        self.joints_shapedirs: Tensor
        self.mean: Tensor
        self.posedirs: Tensor | None
        self.tips: Tensor
        self.order: Tensor

    def forward(self, pose: Tensor, betas: Tensor, translation: Tensor) -> Tensor:
        """Keypoints (N, 21, 3) in metres of pose (N, 16, 3, 3), betas (N, 10), translation (N, 3)."""
        turned, placed, shifts = self._kinematics(pose, betas)
        tips = self._skinned(pose, betas, turned, shifts, self.tips)
        return torch.cat([placed, tips], dim=1)[:, self.order] + translation[:, None]

    def vertices(self, pose: Tensor, betas: Tensor, translation: Tensor) -> Tensor:
        """The mesh (N, V, 3) in metres of the same."""
        turned, _, shifts = self._kinematics(pose, betas)
        return self._skinned(pose, betas, turned, shifts, slice(None)) + translation[:, None]

    def _rotations(self, pose: Tensor) -> Tensor:
        if not self._has_mean:
            return pose
        return torch.cat([pose[:, :1], exp_so3_torch(log_so3_torch(pose[:, 1:]) + self.mean)], dim=1)

    def _kinematics(self, pose: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Global rotations (N, 16, 3, 3), places (N, 16, 3) of the joints, and what skinning adds (N, 16, 3)."""
        rotations = self._rotations(pose)
        joints = self.joints_template + torch.einsum("jck,nk->njc", self.joints_shapedirs, betas)
        turned: list[Tensor] = [rotations[:, 0]] + [rotations[:, 0]] * 15
        placed: list[Tensor] = [joints[:, 0]] + [joints[:, 0]] * 15
        for row in ROWS:
            parents = [PARENTS[j] for j in row]
            above = torch.stack([turned[p] for p in parents], dim=1)
            offset = (_chosen(joints, row) - _chosen(joints, parents))[..., None]
            places = torch.stack([placed[p] for p in parents], dim=1) + (above @ offset)[..., 0]
            turns = above @ _chosen(rotations, row)
            for i, j in enumerate(row):
                turned[j], placed[j] = turns[:, i], places[:, i]
        turn, place = torch.stack(turned, dim=1), torch.stack(placed, dim=1)
        return turn, place, place - (turn @ joints[..., None])[..., 0]

    def _skinned(self, pose: Tensor, betas: Tensor, turned: Tensor, shifts: Tensor, which: Tensor | slice) -> Tensor:
        rest = self.template[which] + torch.einsum("vck,nk->nvc", self.shapedirs[which], betas)
        if self.posedirs is not None:
            bent = (self._rotations(pose)[:, 1:] - torch.eye(3, device=pose.device)).flatten(1)
            rest = rest + torch.einsum("vck,nk->nvc", self.posedirs[which], bent)
        transforms = torch.cat([turned.flatten(2), shifts], dim=2)  # (N, 16, 12)
        blended = torch.einsum("vj,njk->nvk", self.weights[which], transforms)
        return torch.einsum("nvij,nvj->nvi", blended[..., :9].unflatten(-1, (3, 3)), rest) + blended[..., 9:]


def _chosen(values: Tensor, numbers: Sequence[int]) -> Tensor:
    """values[:, numbers]; as an index, a list of numbers would be copied to a GPU every time, which waits for it."""
    return torch.stack([values[:, number] for number in numbers], dim=1)
