"""Crops alone are ambiguous: different hands that look the same, and what knowing the viewing angle takes away.

Seen from the camera's centre, a hand that is turned round that centre together with everything that it is seen by
gives nearly the same crop somewhere else in the picture; in the camera's frame it is another hand. This looks for such
pairs among samples, and measures how well 3D can be told from what is seen in the crop with and without its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import WildHandsError
from wildhands_ros.evaluation.metrics import intersection_over_union, mpjpe_errors, orientation_errors
from wildhands_ros.evaluation.sample_scores import crop_pixels
from wildhands_ros.hands import Side
from wildhands_ros.samples import CROP_SIZE, HIDDEN, Sample

FloatArray = NDArray[np.float64]

ANGLE_EDGES = (0, 15, 30, 45, 60)
"""Degrees off the axis that bound the groups in which errors are reported; what lies beyond is left out."""

_BLOCK = 512  # rows of the matrix of all pairs held at once
_RIDGE = 1e-3
_TRAINED_ON = 5000  # the regression solves a system of this size: some seconds
_LENGTHS = (0.5, 1.0, 2.0)  # kernel widths that are tried, in units of the median distance


@dataclass(frozen=True)
class Views:
    """What is seen of N hands, and what they are. Left hands are mirrored, so that all are right ones.

    looks: (N, 21, 2) keypoints in the crop, moved and scaled to middle 0 and mean square length 1: neither the place
        nor the size of the crop plays a part.
    rays: (N, 3) unit vectors to the middle of the hand (the mean of its keypoints' rays).
    spans: (N,) angle in radians under which the hand is seen (root mean square). joints: (N, 21, 3) metres from the
        wrist, camera frame. samples: (N) as they came.
    """

    looks: FloatArray
    rays: FloatArray
    spans: FloatArray
    joints: FloatArray
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.looks)

    @property
    def off_axis(self) -> FloatArray:
        """(N,) degrees between the optical axis and the hand's middle."""
        return np.degrees(np.arccos(np.clip(self.rays[:, 2], -1, 1)))


@dataclass(frozen=True)
class Pair:
    """Two hands (numbers of `Views`) that look the same.

    apart_percent: of the hand's size in the crop (four root mean square lengths), mean distance of keypoints; at most
        the root mean square distance, by which `find_pairs` chooses.
    mask_iou: of the visible hands, laid over each other.
    ray_degrees: between the two viewing directions.
    joints_mm: mean distance of joints, wrists together. orientation_degrees: between the hands in the camera frame.
    """

    first: int
    second: int
    apart_percent: float
    mask_iou: float
    ray_degrees: float
    joints_mm: float
    orientation_degrees: float


@dataclass(frozen=True)
class Unexplained:
    """How well root-relative joints are told from what is seen, for hands of one group of angles.

    mpjpe_mm: mean error of the regression. percent: of the joints' variance that is left, over the group;
        the variance is that about the mean of all hands that are predicted.
    """

    angles: str
    hands: int
    crop_mpjpe_mm: float
    kpe_mpjpe_mm: float
    crop_percent: float
    kpe_percent: float


def gather_views(samples: Iterable[Sample], *, least_visible: int = 18) -> Views:
    """Samples with 3D joints, keypoints and so many visible joints. Raises WildHandsError where they are below 100."""
    looks, rays, spans, joints, kept = [], [], [], [], []
    for sample in samples:
        if sample.joints is None or sample.keypoints is None:
            continue
        if not (np.isfinite(sample.joints).all() and np.isfinite(sample.keypoints).all()):
            continue
        if sample.visible is not None and sample.visible.sum() < least_visible:
            continue
        flip = -1.0 if sample.side is Side.LEFT else 1.0
        pixels = crop_pixels(sample, sample.keypoints) * [flip, 1]
        middle = pixels.mean(axis=0)
        scale = np.sqrt(((pixels - middle) ** 2).sum(axis=1).mean())
        seen = sample.camera.unproject(sample.keypoints) * [flip, 1, 1]
        ray = seen.mean(axis=0) / np.linalg.norm(seen.mean(axis=0))
        looks.append((pixels - middle) / scale)
        rays.append(ray)
        spans.append(np.sqrt((np.arccos(np.clip(seen @ ray, -1, 1)) ** 2).mean()))
        joints.append((sample.joints - sample.joints[0]) * [flip, 1, 1])
        kept.append(sample)
    if len(kept) < 100:
        raise WildHandsError(
            f"only {len(kept)} samples have 3D joints and at least {least_visible} visible ones: give more shards"
        )
    return Views(np.stack(looks), np.stack(rays), np.array(spans), np.stack(joints), tuple(kept))


def find_pairs(
    views: Views, *, most_apart_percent: float = 4.0, least_ray_degrees: float = 0.0, limit: int = 3000
) -> list[Pair]:
    """The pairs that look most alike first; of different scenes, each hand in at most one. Without mask IoU (NaN).

    Chosen and ordered by the root mean square distance of keypoints, not by their mean distance (`Pair.apart_percent`).
    most_apart_percent: of the hand's size in the crop, the root mean square distance below which a pair counts.
    least_ray_degrees: of the angle between the viewing directions.
    """
    flat = views.looks.reshape(len(views), -1)
    squares = (flat**2).sum(axis=1)
    largest = 21 * (4 * most_apart_percent / 100) ** 2  # the sum over 21 keypoints: it comes as one matrix product
    found: list[tuple[float, int, int]] = []
    for start in range(0, len(flat), _BLOCK):
        block = slice(start, start + _BLOCK)
        square = squares[block, None] + squares[None, :] - 2 * flat[block] @ flat.T
        close = (square < largest) & (np.arange(len(flat))[None, :] > np.arange(start, start + len(square))[:, None])
        close &= views.rays[block] @ views.rays.T < np.cos(np.radians(least_ray_degrees)) + 1e-12
        rows, columns = np.nonzero(close)
        found += zip(square[rows, columns].tolist(), (rows + start).tolist(), columns.tolist(), strict=True)
    pairs: list[Pair] = []
    used: set[int] = set()
    for _, i, j in sorted(found):
        a, b = views.samples[i], views.samples[j]
        if i in used or j in used or (a.scene and a.scene == b.scene):
            continue
        used |= {i, j}
        pairs.append(_pair(views, i, j))
        if len(pairs) == limit:
            break
    return pairs


def with_mask_iou(views: Views, pair: Pair) -> Pair:
    """The pair with the overlap of its masks, each moved and scaled as its keypoints are; NaN without masks."""
    masks = [_normal_mask(views.samples[i]) for i in (pair.first, pair.second)]
    iou = float("nan")
    if masks[0] is not None and masks[1] is not None:
        known = (masks[0] != HIDDEN) & (masks[1] != HIDDEN)
        iou = intersection_over_union(masks[0] == 255, masks[1] == 255, known)
    return replace(pair, mask_iou=iou)


def unexplained(views: Views, *, held_out: float = 0.3, seed: int = 0) -> list[Unexplained]:
    """Kernel ridge regression of root-relative joints from the crop's keypoints alone, and with the viewing angles.

    A Gaussian kernel on the look; for the second on look, (θx, θy) of the hand's middle and the angle that it spans:
    what KPE tells. The kernel's widths are chosen on a part of the training hands. held_out: share of the hands that
    are predicted, whole scenes. Raises WildHandsError where there are too few scenes to hold any out.
    """
    scene_names = sorted({sample.scene or sample.key for sample in views.samples})
    rng = np.random.default_rng(seed)
    if int(held_out * len(scene_names)) == 0:
        raise WildHandsError(
            f"the {len(views)} hands are of {len(scene_names)} scene(s) only: what their crops leave open shows on "
            "hands of others, so add samples of more scenes"
        )
    chosen = set(rng.permutation(scene_names)[: int(held_out * len(scene_names))].tolist())
    test = np.array([(sample.scene or sample.key) in chosen for sample in views.samples])
    train = rng.permutation(np.flatnonzero(~test))[:_TRAINED_ON]
    look = views.looks.reshape(len(views), -1)
    x, y, z = views.rays.T
    place = np.stack([np.arctan2(x, z), np.arctan2(y, z), views.spans], axis=1)
    target = views.joints[:, 1:].reshape(len(views), -1)
    errors, rest = {}, {}
    for name, features in {"crop": [look], "kpe": [look, place]}.items():
        predicted = _regress(features, target, train, np.flatnonzero(test))
        off = (predicted - target[test]).reshape(-1, 20, 3)
        errors[name] = np.linalg.norm(off, axis=-1).sum(axis=1) / 21  # the wrist is exact
        rest[name] = (off**2).sum(axis=(1, 2))
    angles = views.off_axis[test]
    spread = ((target[test] - target[test].mean(axis=0)) ** 2).sum(axis=1)
    rows = []
    groups = [*zip(ANGLE_EDGES[:-1], ANGLE_EDGES[1:], strict=True), (ANGLE_EDGES[0], ANGLE_EDGES[-1])]
    for low, high in groups:
        here = (angles >= low) & (angles < high)
        if here.any():
            rows.append(
                Unexplained(
                    f"{low}–{high}°", int(here.sum()),
                    1e3 * float(errors["crop"][here].mean()), 1e3 * float(errors["kpe"][here].mean()),
                    100 * float(rest["crop"][here].sum() / spread[here].sum()),
                    100 * float(rest["kpe"][here].sum() / spread[here].sum()),
                )
            )  # fmt: skip
    return rows


def telling_pairs(
    views: Views, pairs: Sequence[Pair], *, count: int = 6, least_ray_degrees: float = 30.0, least_iou: float = 0.75
) -> list[Pair]:
    """Pairs seen from directions that differ most, whose masks agree: the ones to look at, with mask IoU."""
    wide = [pair for pair in pairs if pair.ray_degrees >= least_ray_degrees]
    found = []
    for pair in sorted(wide, key=lambda pair: -pair.ray_degrees / max(pair.apart_percent, 2.0)):
        seen = with_mask_iou(views, pair)
        if seen.mask_iou >= least_iou:
            found.append(seen)
        if len(found) == count:
            break
    return found


def _pair(views: Views, i: int, j: int) -> Pair:
    cosine = float(np.clip(views.rays[i] @ views.rays[j], -1, 1))
    return Pair(
        i, j,
        apart_percent=100 * float(np.linalg.norm(views.looks[i] - views.looks[j], axis=1).mean()) / 4,
        mask_iou=float("nan"),
        ray_degrees=float(np.degrees(np.arccos(cosine))),
        joints_mm=1e3 * float(mpjpe_errors(views.joints[i], views.joints[j])),
        orientation_degrees=float(np.degrees(orientation_errors(views.joints[i], views.joints[j]))),
    )  # fmt: skip


def _normal_mask(sample: Sample, edge: int = 96) -> NDArray[np.uint8] | None:
    """The mask as if the keypoints' middle were that of the picture and their mean square length a quarter of it."""
    if sample.mask is None or sample.keypoints is None:
        return None
    pixels = crop_pixels(sample, sample.keypoints)
    mask = sample.mask
    if sample.side is Side.LEFT:
        pixels, mask = (CROP_SIZE - 1 - pixels[:, 0])[:, None] * [1, 0] + pixels * [0, 1], mask[:, ::-1]
    middle = pixels.mean(axis=0)
    scale = np.sqrt(((pixels - middle) ** 2).sum(axis=1).mean()) * 4 / edge
    affine = np.array([[scale, 0, middle[0] - scale * (edge - 1) / 2], [0, scale, middle[1] - scale * (edge - 1) / 2]])
    seen = cv2.warpAffine(
        np.ascontiguousarray(mask), affine, (edge, edge), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    return np.asarray(seen, dtype=np.uint8)


def _regress(
    features: Sequence[FloatArray], target: FloatArray, train: NDArray[np.int64], test: NDArray[np.int64]
) -> FloatArray:
    """Predictions for `test`: product of Gaussian kernels, one for each block of features, widths by validation."""
    cut = int(0.8 * len(train))
    fitted, checked = train[:cut][:2000], train[cut:]
    widths = [_median_distance(block[train]) for block in features]
    best, best_error = (1.0,) * len(features), np.inf
    for lengths in product(_LENGTHS, repeat=len(features)):
        scaled = [block / (w * length) for block, w, length in zip(features, widths, lengths, strict=True)]
        found = _solve(np.concatenate(scaled, axis=1), target, fitted, checked)
        error = float(((found - target[checked]) ** 2).mean())
        if error < best_error:
            best, best_error = lengths, error
    scaled = [block / (w * length) for block, w, length in zip(features, widths, best, strict=True)]
    return _solve(np.concatenate(scaled, axis=1), target, train, test)


def _solve(features: FloatArray, target: FloatArray, train: NDArray[np.int64], test: NDArray[np.int64]) -> FloatArray:
    from scipy.linalg import cho_factor, cho_solve

    mean = target[train].mean(axis=0)
    kernel = _kernel(features[train], features[train])
    kernel[np.diag_indices_from(kernel)] += _RIDGE * len(train) / 100
    weights = cho_solve(cho_factor(kernel, overwrite_a=True), target[train] - mean)
    return np.asarray(_kernel(features[test], features[train]) @ weights + mean)


def _kernel(a: FloatArray, b: FloatArray) -> FloatArray:
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.exp(-0.5 * np.maximum(square, 0)))


def _median_distance(block: FloatArray) -> float:
    few = block[:300]
    return float(np.median(np.linalg.norm(few[:, None] - few[None], axis=-1)))
