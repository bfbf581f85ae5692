"""From a network's output to MANO parameters in the camera frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

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


def decode(variant: Variant, prepared: Prepared, output: NetworkOutput) -> Decoded:
    """What the output for these inputs means. The only point at which a GPU is waited for."""
    with torch.inference_mode():
        pose, translation = output.pose, output.camera
        translation = hand_translation(
            variant.translation, output.camera, prepared.frame.focal, prepared.rays, prepared.extents
        )
        if prepared.turns is not None:
            turned = prepared.turns @ pose[:, 0]
            pose = torch.cat([turned[:, None], pose[:, 1:]], dim=1)
            if variant.perspective is Perspective.CROP:  # the hand stands before the turned camera
                translation = (prepared.turns @ translation[..., None])[..., 0]
        grasp = [] if output.grasp is None else [output.grasp.softmax(dim=1)]
        parts = [pose.flatten(1), output.betas, translation, *grasp]
        together = torch.cat(parts, dim=1).cpu().numpy().astype(np.float64)  # one transfer
    found = np.split(together, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)
    return Decoded(found[0].reshape(-1, 16, 3, 3), found[1], found[2], found[3] if grasp else None)
