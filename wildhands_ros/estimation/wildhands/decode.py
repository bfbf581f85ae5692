"""From a network's output to MANO parameters in the camera frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wildhands_ros.estimation.wildhands.crops import Prepared
from wildhands_ros.estimation.wildhands.devices import constants
from wildhands_ros.estimation.wildhands.network import NetworkOutput, hand_translation
from wildhands_ros.estimation.wildhands.variant import Perspective, Variant

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Decoded:
    """N hands: pose (N, 16, 3, 3), betas (N, 10), translation (N, 3) metres, grasp probabilities (N, 9) or None.

    directions: (N, 2) which way they point in the picture that was shown, x to the right, y down, or None.
    keypoints: (N, 21, 2) off the heat maps, in half crops of what the network was shown, turned and mirrored; spread:
    (N,) mean standard deviation of these, in half crops; or None.
    """

    pose: FloatArray
    betas: FloatArray
    translation: FloatArray
    grasp: FloatArray | None
    directions: FloatArray | None = None
    keypoints: FloatArray | None = None
    spread: FloatArray | None = None

    def with_rows(self, rows: Sequence[int], other: Decoded) -> Decoded:
        """The same with these hands taken from another look at them."""

        together = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine is not None:
                together[field.name] = mine.copy()
                together[field.name][list(rows)] = theirs
        return replace(self, **together)

    def rows(self, which: Sequence[int]) -> Decoded:
        """These hands alone."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: part[list(which)] for name, part in parts.items()})

    def split(self, count: int) -> list[Decoded]:
        """As many equal parts, in order."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        pieces = {name: np.split(part, count) for name, part in parts.items()}
        return [replace(self, **{name: piece[i] for name, piece in pieces.items()}) for i in range(count)]


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
        direction = output.direction
        if direction is not None and prepared.mirrored is not None:
            back = torch.stack([-direction[:, 0], direction[:, 1]], dim=1)
            direction = torch.where(prepared.mirrored[:, None], back, direction)
        given = {
            "pose": pose.flatten(1), "betas": output.betas, "translation": translation, "grasp": output.grasp,
            "directions": direction, "keypoints": None if output.keypoints is None else output.keypoints.flatten(1),
            "spread": None if output.spread is None else output.spread.mean(dim=1, keepdim=True),
        }  # fmt: skip
        parts = {name: part for name, part in given.items() if part is not None}
        together = torch.cat(list(parts.values()), dim=1).cpu().numpy().astype(np.float64)  # one transfer
    ends = np.cumsum([part.shape[1] for part in parts.values()])
    found = dict(zip(parts, np.split(together, ends[:-1], axis=1), strict=True))
    return Decoded(
        pose=found["pose"].reshape(-1, 16, 3, 3),
        betas=found["betas"],
        translation=found["translation"],
        grasp=_softmax(found["grasp"]) if "grasp" in found else None,
        directions=found.get("directions"),
        keypoints=found["keypoints"].reshape(-1, 21, 2) if "keypoints" in found else None,
        spread=found["spread"][:, 0] if "spread" in found else None,
    )


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
    return pose, translation - constants(translation, variant.root)


def crop_view(variant: Variant, focal: float | Tensor, rays: Tensor) -> tuple[float | Tensor, Tensor]:
    """Focal length and rays with which a head's camera places the hand: with perspective crops, those of the turned
    camera, which looks straight at the crop and shows it as large as the picture does."""
    if variant.perspective is not Perspective.CROP:
        return focal, rays
    return focal * rays.square().sum(dim=-1).add(1).sqrt(), torch.zeros_like(rays)


def mirror_back(pose: Tensor, translation: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Where `mirrored` (N,) says so: the same of the mirror image (x → −x), a hand of the other side."""
    flip = constants(translation, (-1.0, 1.0, 1.0))
    return (
        torch.where(mirrored[:, None, None, None], flip[:, None] * pose * flip, pose),
        torch.where(mirrored[:, None], translation * flip, translation),
    )
