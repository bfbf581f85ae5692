"""From a network's output to MANO parameters in the camera frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wildhands_ros.estimation.wildhands.crops import Prepared
from wildhands_ros.estimation.wildhands.network import NetworkOutput, hand_translation
from wildhands_ros.estimation.wildhands.variant import Perspective, Variant

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Decoded:
    """N hands: pose (N, 16, 3, 3), betas (N, 10), translation (N, 3) metres, grasp probabilities (N, 9) or None."""

    pose: FloatArray
    betas: FloatArray
    translation: FloatArray
    grasp: FloatArray | None

    def with_rows(self, rows: Sequence[int], other: Decoded) -> Decoded:
        """The same with these hands taken from another look at them."""

        def taken(mine: FloatArray, theirs: FloatArray) -> FloatArray:
            together = mine.copy()
            together[list(rows)] = theirs
            return together

        return Decoded(
            taken(self.pose, other.pose),
            taken(self.betas, other.betas),
            taken(self.translation, other.translation),
            None if self.grasp is None or other.grasp is None else taken(self.grasp, other.grasp),
        )


def decode(variant: Variant, prepared: Prepared, output: NetworkOutput) -> Decoded:
    """What the output for these inputs means. The only point at which a GPU is waited for.

    In the camera's frame, or in that of the rolled camera where the crops were rolled (`upright.rolled_back`).
    """
    with torch.inference_mode():
        pose, translation = in_camera(
            variant, output, prepared.frame.focal, prepared.rays, prepared.extents, prepared.turns
        )
        if prepared.mirrored is not None:
            pose, translation = mirror_back(pose, translation, prepared.mirrored)
        grasp = [] if output.grasp is None else [output.grasp]
        parts = [pose.flatten(1), output.betas, translation, *grasp]
        together = torch.cat(parts, dim=1).cpu().numpy().astype(np.float64)  # one transfer
    found = np.split(together, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)
    return Decoded(found[0].reshape(-1, 16, 3, 3), found[1], found[2], _softmax(found[3]) if grasp else None)


def _softmax(logits: FloatArray) -> FloatArray:
    """Over the last axis. torch would wake its threads for it."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def in_camera(
    variant: Variant, output: NetworkOutput, focal: float | Tensor, rays: Tensor, extents: Tensor, turns: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Pose (N, 16, 3, 3) and translation (N, 3) in the camera frame, differentiable; arguments as in `Prepared`."""
    pose = output.pose
    translation = hand_translation(variant.translation, output.camera, *crop_view(variant, focal, rays), extents)
    if turns is not None:
        pose = torch.cat([(turns @ pose[:, 0])[:, None], pose[:, 1:]], dim=1)
        if variant.perspective is Perspective.CROP:  # the hand stands before the turned camera
            translation = (turns @ translation[..., None])[..., 0]
    return pose, translation - translation.new_tensor(variant.root)


def crop_view(variant: Variant, focal: float | Tensor, rays: Tensor) -> tuple[float | Tensor, Tensor]:
    """Focal length and rays with which a head's camera places the hand: with perspective crops, those of the turned
    camera, which looks straight at the crop and shows it as large as the picture does."""
    if variant.perspective is not Perspective.CROP:
        return focal, rays
    return focal * rays.square().sum(dim=-1).add(1).sqrt(), torch.zeros_like(rays)


def mirror_back(pose: Tensor, translation: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Where `mirrored` (N,) says so: the same of the mirror image (x → −x), a hand of the other side."""
    flip = translation.new_tensor([-1.0, 1.0, 1.0])
    return (
        torch.where(mirrored[:, None, None, None], flip[:, None] * pose * flip, pose),
        torch.where(mirrored[:, None], translation * flip, translation),
    )
