"""One hand of a MANO-format model: from pose, shape and place to mesh and joints."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wildhands_ros.errors import ModelFileError
from wildhands_ros.hand_model.anatomy import HandAnatomy, hand_anatomy
from wildhands_ros.hand_model.data import PARENTS, ROWS, SHAPE_COUNT, HandData
from wildhands_ros.hands import MANO_TO_KEYPOINTS, Side
from wildhands_ros.libraries import how_to_get
from wildhands_ros.rotations import exp_so3, log_so3

if TYPE_CHECKING:  # torch takes seconds to import, and the NumPy part does not need it
    import torch
    from smplx import MANOLayer

FloatArray = NDArray[np.float64]

TIP_PARENTS: tuple[int, ...] = (15, 3, 6, 12, 9)
"""The MANO joint that carries each tip: thumb, index, middle, ring, pinky."""

_ROWS = tuple(np.array(row) for row in ROWS)
_PARENTS = np.array(PARENTS)
_KEYPOINTS = np.array(MANO_TO_KEYPOINTS)


@dataclass(frozen=True)
class HandSkeleton:
    """The rest pose's joints and tips and how they move with the shape, for kinematics without a mesh.

    parents: (16,) of the MANO joints, -1 for the wrist.
    joints_template (16, 3), joints_shapedirs (16, 3, 10): rest joint j is template[j] + shapedirs[j] @ betas. Metres.
    tips_template (5, 3), tips_shapedirs (5, 3, 10): likewise the finger tips, thumb to pinky.
    tip_parents: (5,) the MANO joint whose motion carries each tip.
    hands_mean: (45,) rotation vectors of the mean pose, to which a `Hand`'s pose is relative.
    """

    parents: NDArray[np.int64]
    joints_template: FloatArray
    joints_shapedirs: FloatArray
    tips_template: FloatArray
    tips_shapedirs: FloatArray
    tip_parents: NDArray[np.int64]
    hands_mean: FloatArray


@dataclass(frozen=True)
class HandMesh:
    """What a hand model puts out: vertices (N, V, 3) and joints (N, 21, 3) in keypoint order, metres."""

    vertices: torch.Tensor
    joints: torch.Tensor


class HandLayer:
    """One side of a hand model.

    Pose, everywhere here: (16, 3, 3) rotation matrices in MANO's order. The first turns the whole hand about its
    wrist; the others turn the fingers' joints and are relative to the model's mean pose as with smplx's
    `flat_hand_mean=False`, whose rotation vectors are the sum of the pose's and the mean's.

    `numpy` is for one hand at a time and needs no torch; `forward` is smplx's layer, batched and differentiable.
    Both give the same numbers (linear blend skinning, Romero et al., "Embodied Hands", 2017).
    """

    def __init__(self, data: HandData) -> None:
        self.data = data
        self._shape_basis = data.shapedirs.reshape(-1, SHAPE_COUNT)
        joint_shapes = np.einsum("jv,vck->jck", data.joint_regressor, data.shapedirs)
        self._skeleton = HandSkeleton(
            parents=_PARENTS.copy(),
            joints_template=data.joint_regressor @ data.template,
            joints_shapedirs=joint_shapes,
            tips_template=data.template[data.tip_vertices],
            tips_shapedirs=data.shapedirs[data.tip_vertices],
            tip_parents=np.array(TIP_PARENTS),
            hands_mean=data.hands_mean,
        )
        # Most of MANO's bytes; the open hand has none of them, and then the product is skipped
        self._pose_basis = data.posedirs.reshape(-1, 135) if data.posedirs.any() else None
        self._has_mean = bool(data.hands_mean.any())
        self._anatomy = hand_anatomy(self._skeleton.joints_template, self._skeleton.tips_template, data.side)
        self._module: MANOLayer | None = None

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def side(self) -> Side:
        return self.data.side

    @property
    def faces(self) -> NDArray[np.int32]:
        """(F, 3) vertex indices, counter-clockwise seen from outside."""
        return self.data.faces

    @property
    def vertex_count(self) -> int:
        return len(self.data.template)

    @property
    def tip_vertices(self) -> NDArray[np.int32]:
        """(5,) vertices at the finger tips: thumb, index, middle, ring, pinky."""
        return self.data.tip_vertices

    @property
    def anatomy(self) -> HandAnatomy:
        """Axes and limits of the finger joints."""
        return self._anatomy

    def skeleton(self) -> HandSkeleton:
        return self._skeleton

    @cached_property
    def joint_template(self) -> FloatArray:
        """(21, 3) keypoints at rest with zero betas and zero translation."""
        return np.concatenate([self._skeleton.joints_template, self._skeleton.tips_template])[_KEYPOINTS]

    @cached_property
    def joint_shapedirs(self) -> FloatArray:
        """(21, 3, 10) change of the rest keypoints with each shape coefficient."""
        return np.concatenate([self._skeleton.joints_shapedirs, self._skeleton.tips_shapedirs])[_KEYPOINTS]

    def rest_joints(self, betas: ArrayLike) -> FloatArray:
        """Keypoints (21, 3) at rest (all rotations identity, no mean pose) for betas (10,)."""
        return self.joint_template + self.joint_shapedirs @ np.asarray(betas, dtype=np.float64)

    # --- one hand, NumPy --------------------------------------------------------------------------------------------

    def numpy(self, pose: ArrayLike, betas: ArrayLike, translation: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Vertices (V, 3) and keypoints (21, 3) in metres of one hand; about 0.3 ms.

        pose (16, 3, 3), betas (10,), translation (3,) metres. Raises ValueError for other shapes.
        """
        rotations = self.rotations_from_pose(pose)
        betas = _shaped("betas", betas, (SHAPE_COUNT,))
        translation = _shaped("translation", translation, (3,))
        joints = self._skeleton.joints_template + self._skeleton.joints_shapedirs @ betas
        vertices = self.data.template + (self._shape_basis @ betas).reshape(-1, 3)
        if self._pose_basis is not None:
            vertices = vertices + (self._pose_basis @ (rotations[1:] - np.eye(3)).ravel()).reshape(-1, 3)

        turned, placed = rotations.copy(), joints.copy()
        for row in _ROWS:
            parent = _PARENTS[row]
            offset = (turned[parent] @ (joints[row] - joints[parent])[..., None])[..., 0]
            turned[row], placed[row] = turned[parent] @ rotations[row], placed[parent] + offset
        shifts = placed - (turned @ joints[..., None])[..., 0]
        blended = self.data.weights @ np.concatenate([turned.reshape(16, 9), shifts], axis=1)  # (V, 12)
        vertices = np.einsum("vij,vj->vi", blended[:, :9].reshape(-1, 3, 3), vertices) + blended[:, 9:]
        keypoints = np.concatenate([placed, vertices[self.data.tip_vertices]])[_KEYPOINTS]
        return vertices + translation, keypoints + translation

    def rotations_from_pose(self, pose: ArrayLike) -> FloatArray:
        """The rotations (16, 3, 3) that the joints really make: the rotation vectors of pose and mean pose added."""
        return self._shifted(_shaped("pose", pose, (16, 3, 3)), self.data.hands_mean)

    def pose_from_rotations(self, rotations: ArrayLike) -> FloatArray:
        """The pose (16, 3, 3) that makes these rotations of the joints; the inverse of `rotations_from_pose`.

        Short of joints whose rotation vector, less the mean, is longer than π, which no finger's is.
        """
        return self._shifted(_shaped("rotations", rotations, (16, 3, 3)), -self.data.hands_mean)

    def _shifted(self, rotations: FloatArray, mean: FloatArray) -> FloatArray:
        if not self._has_mean:
            return rotations.copy()
        return np.concatenate([rotations[:1], exp_so3(log_so3(rotations[1:]) + mean.reshape(15, 3))])

    # --- many hands, torch ------------------------------------------------------------------------------------------

    def forward(self, pose: torch.Tensor, betas: torch.Tensor, translation: torch.Tensor) -> HandMesh:
        """Meshes and keypoints of N hands by smplx, on the device of `pose`, in float32, differentiable.

        pose (N, 16, 3, 3), betas (N, 10), translation (N, 3) metres.
        """
        import torch

        from wildhands_ros.hand_model.torch_rotations import exp_so3_torch, log_so3_torch

        if pose.ndim != 4 or pose.shape[1:] != (16, 3, 3):
            raise ValueError(f"pose has shape {tuple(pose.shape)}, expected (N, 16, 3, 3)")
        module = self.module(pose.device)
        pose = pose.to(torch.float32)
        if not len(pose):  # which smplx cannot take
            return HandMesh(pose.new_zeros(0, self.vertex_count, 3), pose.new_zeros(0, len(MANO_TO_KEYPOINTS), 3))
        fingers = pose[:, 1:]
        if self._has_mean:  # exactly the identity otherwise, so the round trip is left out
            mean = module.hand_mean.reshape(15, 3)
            fingers = exp_so3_torch(log_so3_torch(fingers) + mean)
        out = module(
            betas=betas.to(torch.float32),
            global_orient=pose[:, :1],
            hand_pose=fingers,
            transl=translation.to(torch.float32),
        )
        tips = out.vertices[:, self.data.tip_vertices.tolist()]
        joints = torch.cat([out.joints, tips], dim=1)[:, list(MANO_TO_KEYPOINTS)]
        return HandMesh(out.vertices, joints)

    def module(self, device: torch.device | str = "cpu") -> MANOLayer:
        """smplx's layer with this hand's data on a device; made when first needed, kept afterwards.

        Raises ModelFileError where smplx is not installed.
        """
        import torch

        try:
            from smplx import MANOLayer
        except ImportError as error:
            raise ModelFileError(
                "batches of hands are evaluated by smplx, which is not installed: "
                f"{how_to_get('smplx==0.1.28')} (its licence allows non-commercial research only; single hands do "
                "without it)"
            ) from error

        if self._module is None:
            data = self.data
            # smplx prints a warning unless it sees room for 300 shapes; it takes the first `num_betas` of them
            shapes = np.zeros((self.vertex_count, 3, MANOLayer.SHAPE_SPACE_DIM), dtype=np.float32)
            shapes[:, :, :SHAPE_COUNT] = data.shapedirs
            arrays = SimpleNamespace(
                v_template=data.template,
                f=data.faces,
                shapedirs=shapes,
                posedirs=data.posedirs,
                J_regressor=data.joint_regressor,
                weights=data.weights,
                kintree_table=np.stack([_PARENTS, np.arange(16)]),
                hands_components=data.hands_components,
                hands_mean=data.hands_mean,
            )
            self._module = MANOLayer(
                "", is_rhand=self.side is Side.RIGHT, data_struct=arrays, use_pca=False, flat_hand_mean=False,
                num_betas=SHAPE_COUNT, dtype=torch.float32,
            ).requires_grad_(False)  # fmt: skip
        return self._module.to(device)


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    return array
