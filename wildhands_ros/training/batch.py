"""Samples as tensors: what the network is given, and what it should have said."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from wildhands_ros.estimation.wildhands.crops import encode_boxes, mirror_boxes
from wildhands_ros.estimation.wildhands.kpe import crop_ray_rotation
from wildhands_ros.estimation.wildhands.places import square_frame
from wildhands_ros.estimation.wildhands.upright import (
    MIDDLE_KNUCKLE,
    WRIST,
    roll_boxes,
    roll_crops,
    roll_of,
    roll_places,
    rotations,
)
from wildhands_ros.estimation.wildhands.variant import Perspective, Variant
from wildhands_ros.hand_model import HandLayer
from wildhands_ros.hands import Side
from wildhands_ros.samples import HIDDEN, Sample, inside_picture
from wildhands_ros.training.config import LABELS

NO_GRASP = -1
MASK_SIZE = 56
"""Edge of the masks that the silhouettes are compared with."""

ROLL_NOISE = 0.06
"""Standard deviation of the landmarks from which training takes the rolls, in half crops."""

ROLL_ASTRAY, ROLL_ASTRAY_SHARE = 1.0, 0.2
"""Radians by which a share of the rolls is off besides."""

_FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Batch:
    """N samples; every left hand is mirrored into a right one (x → −x), together with its picture and its camera.

    crops: (N, 3, 224, 224) uint8, or (N, 0) where they are not needed. box: (N, 4) the crops' squares in the network's
    224 frame; matrix: (N, 3, 3) that frame's K. mirrored: (N,) bool.
    joints: (N, 21, 3) metres; pose (N, 16, 3, 3), betas (N, 10), translation (N, 3). keypoints: (N, 21, 2) in the crop,
    −1 to 1 from edge to edge, with keypoint_weights (N, 21). mask: (N, 56, 56), 0 to 1, NaN where nobody knows.
    grasp: (N,), `NO_GRASP` unknown. has_…: (N,) 1 where there is such a label, 0 where there is none.
    """

    crops: Tensor
    box: Tensor
    matrix: Tensor
    mirrored: Tensor
    joints: Tensor
    pose: Tensor
    betas: Tensor
    translation: Tensor
    keypoints: Tensor
    keypoint_weights: Tensor
    mask: Tensor
    grasp: Tensor
    has_joints: Tensor
    has_mano: Tensor
    has_mask: Tensor

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, index: Tensor) -> Batch:
        return Batch(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def pin_memory(self) -> Batch:
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))


@dataclass(frozen=True)
class Geometry:
    """What places a crop in space, in the network's frame: focal (N,) mean and focals (N, 2) in pixels, extents (N,),
    rays (N, 2), turns (N, 3, 3) or None; see `crops.Prepared`."""

    focal: Tensor
    focals: Tensor
    extents: Tensor
    rays: Tensor
    turns: Tensor | None


def collate(batches: Sequence[Batch]) -> Batch:
    """Batches put together."""
    return Batch(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(Batch)))


def batch_of(
    sample: Sample, *, only: Collection[str] = LABELS, picture: bool = True, hand_model: str | None = None
) -> Batch:
    """One sample as a batch of one. only: the labels that are used. picture: whether the crop is needed.

    Labels that are not finite count as missing, and parameters of another hand model than `hand_model` (None: of any).
    """
    frame = square_frame(sample.camera)
    x, y = (
        (c - half) * frame.scale + frame.middle for c, half in zip(sample.center, frame.half, strict=True)
    )  # fmt: skip
    half = sample.extent * frame.scale / 2
    edges = [x - half, y - half, x + half, y + half]
    box, matrix = torch.tensor([edges], dtype=torch.float32), torch.from_numpy(frame.matrix)[None]
    mirrored = sample.side is Side.LEFT
    flip = _FLIP if mirrored else np.ones(3)
    if mirrored:
        box, matrix = mirror_boxes(box, matrix)

    joints = sample.joints if "joints" in only and _finite(sample.joints) else None
    mano = sample.mano if "mano" in only else None
    if mano is not None and not all(_finite(part) for part in (mano.pose, mano.betas, mano.translation)):
        mano = None
    if mano is not None and hand_model not in (None, mano.hand_model):
        mano = None
    keypoints, weights = np.zeros((21, 2)), np.zeros(21)
    if sample.keypoints is not None and sample.keypoint_weights is not None and "keypoints" in only:
        known = np.isfinite(np.column_stack([sample.keypoints, sample.keypoint_weights])).all(axis=1)
        weights = np.where(known, sample.keypoint_weights, 0)
        places = (sample.keypoints - np.array(sample.center)) * (2 / sample.extent) * flip[:2]
        keypoints = np.where(weights[:, None] > 0, places, 0)
    crop = np.zeros(0, np.uint8)
    if picture:
        crop = (sample.image[:, ::-1] if mirrored else sample.image).transpose(2, 0, 1)
    mask = None if sample.mask is None or "mask" not in only else _small_mask(sample, sample.mask, mirrored)

    def row(value: np.ndarray | float) -> Tensor:
        return torch.from_numpy(np.array(value, dtype=np.float32)[None])

    return Batch(
        crops=torch.from_numpy(np.ascontiguousarray(crop[None])),
        box=box,
        matrix=matrix,
        mirrored=torch.tensor([mirrored]),
        joints=row(np.zeros((21, 3)) if joints is None else joints * flip),
        pose=row(np.tile(np.eye(3), (16, 1, 1)) if mano is None else flip[:, None] * mano.pose * flip),
        betas=row(np.zeros(10) if mano is None else mano.betas),
        translation=row(np.zeros(3) if mano is None else mano.translation * flip),
        keypoints=row(keypoints),
        keypoint_weights=row(weights),
        mask=row(np.zeros((MASK_SIZE, MASK_SIZE)) if mask is None else mask),
        grasp=torch.tensor([NO_GRASP if sample.grasp is None or "grasp" not in only else int(sample.grasp)]),
        has_joints=row(float(joints is not None)),
        has_mano=row(float(mano is not None)),
        has_mask=row(float(mask is not None)),
    )


def zoomed(batch: Batch, zooms: Tensor) -> Batch:
    """The samples with crops whose edges are those of their own times `zooms` (N,), about the same centres."""
    return _cut_again(batch, torch.zeros_like(zooms), zooms)


def rolled(batch: Batch, rolls: Tensor, right: HandLayer, zooms: Tensor | None = None) -> Batch:
    """The samples as the camera would see them when rolled by `rolls` (N,), see `estimation.wildhands.upright`.

    right: the hand model's, which turns about its wrist. zooms: as in `zoomed`; None leaves the crops' edges.
    """
    turns = rotations(rolls)
    wrists = [right.rest_joints(betas)[WRIST] for betas in batch.betas.double().numpy()]
    at_rest = torch.from_numpy(np.stack(wrists)).to(batch.translation)
    return replace(
        _cut_again(batch, rolls, zooms),
        joints=batch.joints @ turns.transpose(1, 2),
        pose=torch.cat([(turns @ batch.pose[:, 0])[:, None], batch.pose[:, 1:]], dim=1),
        translation=(turns @ (batch.translation + at_rest)[..., None])[..., 0] - at_rest,
    )


def _cut_again(batch: Batch, rolls: Tensor, zooms: Tensor | None) -> Batch:
    """What belongs to the crops, of the rolled picture and with other edges; cut from the crops themselves."""
    crops = batch.crops
    if crops.ndim == 4:
        crops = roll_crops(crops.float(), batch.matrix, rolls, zooms).round().to(torch.uint8)
    unknown = torch.isnan(batch.mask)
    # what comes from outside the crop is as unknown as what was unknown within
    planes = torch.stack([torch.where(unknown, 0.0, batch.mask), (~unknown).float()], dim=1)
    planes = roll_crops(planes, batch.matrix, rolls, zooms)
    mask = torch.where(planes[:, 1] > 0.75, planes[:, 0] / planes[:, 1].clamp(min=1e-6), torch.nan)
    box = roll_boxes(batch.box, batch.matrix, rolls)
    if zooms is not None:
        center, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * zooms[:, None]
        box = torch.cat([center - half, center + half], dim=1)
    return replace(
        batch,
        crops=crops,
        box=box,
        keypoints=roll_places(batch.keypoints, batch.matrix, rolls, zooms),
        mask=torch.where(batch.has_mask[:, None, None] > 0, mask, batch.mask),
    )


def rolls_of(batch: Batch, keys: Sequence[str]) -> Tensor:
    """(N,) rolls that make the samples' hands point up as far as a detector would have known it.

    Its landmarks are off by some part of the hand, and sometimes by a lot: the rolls are those of the true keypoints
    with noise, which depends on the samples' keys alone. Samples without keypoints stay as they are.
    """
    rolls = []
    for keypoints, weights, key in zip(batch.keypoints.numpy(), batch.keypoint_weights.numpy(), keys, strict=True):
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        noise = ROLL_NOISE * rng.standard_normal(keypoints.shape)
        astray = rng.normal(0, ROLL_ASTRAY) if rng.random() < ROLL_ASTRAY_SHARE else 0.0
        known = weights[[WRIST, MIDDLE_KNUCKLE]].min() > 0
        rolls.append(roll_of(keypoints + noise) + astray if known else 0.0)
    return torch.tensor(rolls, dtype=torch.float32)


def geometry(batch: Batch, variant: Variant) -> Geometry:
    """Where the crops of a batch look."""
    focals = torch.stack([batch.matrix[:, 0, 0], batch.matrix[:, 1, 1]], dim=1)
    rays = ((batch.box[:, :2] + batch.box[:, 2:]) / 2 - batch.matrix[:, :2, 2]) / focals
    turns = None if variant.perspective is Perspective.NONE else crop_ray_rotation(rays.atan())
    return Geometry(focals.mean(dim=1), focals, batch.box[:, 2] - batch.box[:, 0], rays, turns)


def encoding(batch: Batch, variant: Variant) -> Tensor:
    """What the network is told of the crops' places, see `kpe.encode`."""
    return encode_boxes(variant, batch.box, batch.matrix)


def project_to_crop(points: Tensor, where: Geometry) -> Tensor:
    """Points (N, K, 3) metres, camera frame → (N, K, 2) in the crop, −1 to 1 from edge to edge."""
    tangents = points[..., :2] / points[..., 2:].clamp(min=0.02)
    return (tangents - where.rays[:, None]) * where.focals[:, None] * (2 / where.extents)[:, None, None]


def relative_depths(joints: Tensor, where: Geometry) -> Tensor:
    """Joints (N, 21, 3) metres, camera frame → (N, 21): how much farther along the crop's ray than the wrist they lie.

    In half crops at the wrist's depth, the unit of `project_to_crop`; within ±3.
    """
    ray = normalize(torch.cat([where.rays, torch.ones_like(where.rays[:, :1])], dim=1), dim=1)
    farther = ((joints - joints[:, :1]) @ ray[..., None])[..., 0]
    half_crop = joints[:, :1, 2].clamp(min=0.05) * (where.extents / (2 * where.focal))[:, None]
    return (farther / half_crop).clamp(-3, 3)


def _finite(values: np.ndarray | None) -> bool:
    return values is not None and bool(np.isfinite(values).all())


def _small_mask(sample: Sample, mask: np.ndarray, mirrored: bool) -> np.ndarray:
    """(224, 224) uint8 → (56, 56) float, NaN where a quarter or more is hidden or beyond the picture's edge."""
    unknown = (mask == HIDDEN) | ~inside_picture(sample)
    hidden = cv2.resize(unknown.astype(np.float32), (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_AREA)
    seen = (mask == 255) & ~unknown
    hand = cv2.resize(seen.astype(np.float32), (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_AREA)
    small = np.where(hidden >= 0.25, np.nan, hand / np.maximum(1 - hidden, 0.25))
    return small[:, ::-1] if mirrored else small
