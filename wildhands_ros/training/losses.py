"""The losses, each over the samples that have the label it needs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from wildhands_ros.training.batch import NO_GRASP, Batch, Geometry, project_to_crop, relative_depths
from wildhands_ros.training.config import LossConfig


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of per-sample values (N, …) over the samples by weight (N,); zero where all weights are.

    Values without weight do not matter, not even if they are not finite.
    """
    per_sample = values.flatten(1).mean(dim=1) if values.ndim > 1 else values
    return (torch.where(weights > 0, per_sample, 0.0) * weights).sum() / weights.sum().clamp(min=1e-6)


def robust(errors: Tensor, scale: float) -> Tensor:
    """Squared where small, linear where larger than `scale` (pseudo-Huber); squared for scale 0."""
    if scale == 0:
        return errors.square()
    return scale * ((errors / scale).square() + 1).sqrt() - scale


def hand_losses(
    batch: Batch, where: Geometry, weights: LossConfig, *, pose: Tensor, betas: Tensor, camera: Tensor,
    camera_start: Tensor, camera_target: Tensor, joints: Tensor, grasp: Tensor | None,
    keypoints: Tensor | None = None, depths: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Weighted losses by name.

    pose (N, 16, 3, 3) and betas (N, 10): as decoded, in the camera frame. camera, camera_start (N, 3): the heads' own
    numbers and camera_target those that would give the true translation. joints: (N, 21, 3) of the estimate, metres.
    grasp: (N, 9) logits or None.
    keypoints: (N, 21, 2) in the crop, as read off heat maps, or None. depths: (N, 21) as read off them, or None.
    """
    scale = weights.robust
    true_mano = batch.has_mano
    losses = {
        "camera": weights.camera * masked_mean(robust(camera - camera_target, scale), true_mano),
        "camera_start": weights.camera * masked_mean(robust(camera_start - camera_target, scale), true_mano),
        "pose": weights.pose * masked_mean((pose - batch.pose).square().sum((-1, -2)), true_mano),
        "betas": weights.betas * masked_mean((betas - batch.betas).square(), true_mano),
    }
    relative, true_relative = joints - joints[:, :1], batch.joints - batch.joints[:, :1]
    losses["joints"] = weights.joints * masked_mean(robust(10 * (relative - true_relative), scale), batch.has_joints)
    distance = batch.joints[:, 0].norm(dim=-1).clamp(min=0.05)
    away = (joints[:, 0] - batch.joints[:, 0]).norm(dim=-1) / distance
    losses["translation"] = weights.translation * masked_mean(away, batch.has_joints)
    seen = project_to_crop(joints, where)
    off = (robust((seen - batch.keypoints).clamp(-4, 4), scale).mean(-1) * batch.keypoint_weights).sum(1)
    known = batch.keypoint_weights.sum(1)
    losses["keypoints"] = weights.keypoints * masked_mean(off / known.clamp(min=1e-6), (known > 0).float())
    if keypoints is not None:
        off = (robust(keypoints - batch.keypoints.clamp(-1, 1), scale).mean(-1) * batch.keypoint_weights).sum(1)
        losses["heat"] = weights.heat * masked_mean(off / known.clamp(min=1e-6), (known > 0).float())
    if depths is not None:
        off = robust(depths - relative_depths(batch.joints, where), scale)
        losses["depth"] = weights.depth * masked_mean(off, batch.has_joints)
    if grasp is not None:  # also where nobody knows any grasp: several devices wait for every weight's gradient
        known_grasps = (batch.grasp != NO_GRASP).sum().clamp(min=1)
        off = cross_entropy(grasp, batch.grasp, ignore_index=NO_GRASP, reduction="sum")
        losses["grasp"] = weights.grasp * off / known_grasps
    return losses


def mask_loss(silhouette: Tensor, mask: Tensor, has_mask: Tensor) -> Tensor:
    """Mean absolute difference of soft silhouettes (N, S, S) and masks (N, S, S): 0 to 1, NaN where nobody knows."""
    known = torch.isfinite(mask)
    difference = torch.where(known, (silhouette - torch.nan_to_num(mask)).abs(), torch.zeros_like(silhouette))
    per_sample = difference.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
    return masked_mean(per_sample, has_mask)
