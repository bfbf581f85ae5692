"""Rolling the camera until a hand points up.

A camera that is rolled about its optical axis sees the same picture, turned about its principal point, and the same
hand, turned about the axis. A network that is shown every hand with its fingers up therefore has one degree of freedom
less to learn; and the open landmark network, whose features it starts from, was itself trained on upright hands.

Rolls are angles in radians, clockwise as a picture shows them (x to the right, y down): the rolled picture is the
picture turned by the roll, and a rolled direction is `rotations(rolls) @ direction`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]

WRIST, MIDDLE_KNUCKLE = 0, 9


def roll_of(keypoints: NDArray[np.floating]) -> float:
    """The roll that makes the hand with these keypoints (21, 2), pixels, point up: from the wrist to the knuckle of the
    middle finger. 0 where both are the same place or unknown."""
    return roll_of_direction(keypoints[MIDDLE_KNUCKLE, :2] - keypoints[WRIST, :2])


def roll_of_direction(direction: NDArray[np.floating]) -> float:
    """The roll that makes a direction (2,) in the picture point up; 0 for one without length or unknown."""
    return float(rolls_of_directions(torch.from_numpy(direction[None]))[0])


def rolls_of_directions(directions: Tensor) -> Tensor:
    """The rolls (N,) that make directions (N, 2) in the picture point up; 0 for those without length or unknown."""
    known = directions.isfinite().all(dim=1) & directions.any(dim=1)
    return torch.where(known, -torch.atan2(directions[:, 0], -directions[:, 1]), 0.0)


def rolled_back(
    pose: FloatArray, translation: FloatArray, wrist: FloatArray, roll: float
) -> tuple[FloatArray, FloatArray]:
    """Pose (16, 3, 3) and translation (3,) of a hand in the rolled camera's frame → in the camera's. wrist: (3,) at
    rest."""
    cos, sin = math.cos(roll), math.sin(roll)
    back = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])  # of `rotations`
    return np.concatenate([(back @ pose[0])[None], pose[1:]]), back @ (translation + wrist) - wrist


def rotations(rolls: Tensor) -> Tensor:
    """(N,) rolls → (N, 3, 3) rotations about the optical axis (z forward)."""
    cos, sin = rolls.cos(), rolls.sin()
    zero, one = torch.zeros_like(rolls), torch.ones_like(rolls)
    rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    return torch.stack(rows, dim=-1).reshape(*rolls.shape, 3, 3)


def roll_boxes(boxes: Tensor, matrix: Tensor, rolls: Tensor) -> Tensor:
    """Squares (N, 4) of a picture with K `matrix`, (3, 3) or (N, 3, 3) → squares of the same size about the same points
    of the rolled picture, whose K is the same."""
    focals = torch.stack([matrix[..., 0, 0], matrix[..., 1, 1]], dim=-1)
    center, middle = (boxes[:, :2] + boxes[:, 2:]) / 2, matrix[..., :2, 2]
    rays = (rotations(rolls)[:, :2, :2] @ ((center - middle) / focals)[..., None])[..., 0]
    moved = rays * focals + middle - center
    return boxes + torch.cat([moved, moved], dim=-1)


def roll_crops(crops: Tensor, matrix: Tensor, rolls: Tensor, zooms: Tensor | None = None) -> Tensor:
    """Crops (N, 3, S, S), float, of the picture → the crops of the rolled picture, bilinear; black (0) where they reach
    over the edge of what they are cut from. matrix: as in `roll_boxes`; zooms: as in `to_crop`."""
    turns = to_crop(matrix, rolls, zooms)
    return _host_rolled(crops, turns) if crops.device.type == "cpu" else grid_rolled(crops, turns)


def roll_places(places: Tensor, matrix: Tensor, rolls: Tensor, zooms: Tensor | None = None) -> Tensor:
    """Places (N, K, 2) in the crops, −1 to 1 from edge to edge → where they are in the crops of the rolled picture."""
    return places @ torch.linalg.inv_ex(to_crop(matrix, rolls, zooms)).inverse.transpose(1, 2)


def to_crop(matrix: Tensor, rolls: Tensor, zooms: Tensor | None = None) -> Tensor:
    """(N, 2, 2) from places in the crops of the rolled picture to places in the crops, both about their middles.

    zooms: (N,) edges of the rolled picture's crops over those of the crops; None: they are as large.
    """
    focals = torch.stack([matrix[..., 0, 0], matrix[..., 1, 1]], dim=-1).expand(len(rolls), 2)
    turns = rotations(-rolls)[:, :2, :2] * focals[:, :, None] / focals[:, None, :]
    return turns if zooms is None else turns * zooms[:, None, None]


def grid_rolled(crops: Tensor, turns: Tensor) -> Tensor:
    """Crops (N, 3, S, S) turned by `to_crop`'s matrices, on any device."""
    affine = torch.cat([turns, turns.new_zeros(len(turns), 2, 1)], dim=-1)
    grid = torch.nn.functional.affine_grid(affine, list(crops.shape), align_corners=False)
    return torch.nn.functional.grid_sample(crops, grid, align_corners=False)


def _host_rolled(crops: Tensor, turns: Tensor) -> Tensor:
    """The same by OpenCV, in a tenth of torch's time."""
    pictures = [np.ascontiguousarray(crop.transpose(1, 2, 0)) for crop in crops.numpy()]
    rolled = [roll_picture(p, turn) for p, turn in zip(pictures, turns.double().numpy(), strict=True)]
    return torch.from_numpy(np.stack([np.ascontiguousarray(p.transpose(2, 0, 1)) for p in rolled]))


def roll_picture(crop: NDArray[np.float32], turn: FloatArray) -> NDArray[np.float32]:
    """One crop (S, S, 3), contiguous, turned by `to_crop`'s matrix (2, 2)."""
    size = crop.shape[0]
    middle = (size - 1) / 2
    affine = np.hstack([turn, (middle - turn @ np.full(2, middle))[:, None]])
    turned = cv2.warpAffine(crop, affine, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(turned, np.float32)
