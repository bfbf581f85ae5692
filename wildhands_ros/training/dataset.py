"""Samples of one source as a network in training is shown them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.wildhands.kpe import perspective_crop
from wildhands_ros.estimation.wildhands.trunks import picture_mean_std
from wildhands_ros.estimation.wildhands.variant import Perspective, Variant
from wildhands_ros.hand_model import HandLayer, HandModel
from wildhands_ros.samples import BOX_FACTOR, CROP_SIZE, Sample, SampleSource, ShardReader
from wildhands_ros.training.batch import Batch, batch_of, collate, rolled, rolls_of, zoomed
from wildhands_ros.training.config import LABELS, SourceConfig
from wildhands_ros.training.sources import EpicHandKps, PseudoLabelConfig, PseudoLabeller, VideoSource
from wildhands_ros.training.sources.crops import square_of

_SAME_SIZE = 1e-4  # a hundredth of a pixel over a crop


@dataclass(frozen=True)
class Drawn:
    """A batch as it comes from the data: the samples, and (N, C, H, W) what the fixed part of the trunk makes of their
    crops, or None where the whole trunk must run."""

    batch: Batch
    maps: Tensor | None

    def to(self, device: torch.device) -> Drawn:
        return Drawn(self.batch.to(device), None if self.maps is None else self.maps.to(device, non_blocking=True))

    def pin_memory(self) -> Drawn:
        return Drawn(self.batch.pin_memory(), None if self.maps is None else self.maps.pin_memory())


@dataclass(frozen=True)
class Manner:
    """How a network wants its samples.

    upright: rolled until the hand points up, which turns like this (right) hand; None: as they are.
    turned: the crops are what cameras turned to them would see (perspective crop layers).
    box_factor: edge of the crops over the longer edge of the boxes; they are cut from the samples' own, black outside.
    hand_model: the name of the one whose parameters count; None: of any.
    """

    upright: HandLayer | None = None
    turned: bool = False
    box_factor: float = BOX_FACTOR
    hand_model: str | None = None

    @classmethod
    def of(cls, variant: Variant, hand_model: HandModel) -> Manner:
        turned = variant.perspective is Perspective.CROP
        return cls(hand_model.right if variant.upright else None, turned, variant.box_factor, hand_model.name)

    @property
    def name(self) -> str:
        size = "" if self.box_factor == BOX_FACTOR else f"-{self.box_factor:g}"
        return ("-upright" if self.upright else "") + ("-turned" if self.turned else "") + size

    def roll(self, sample: Sample) -> float:
        """Radians by which `batch` rolls the camera of a sample, after a left hand was mirrored."""
        if self.upright is None:
            return 0.0
        return float(rolls_of(batch_of(sample, only=("keypoints",), picture=False), [sample.key])[0])

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The samples, right hands all."""
        batch = collate([batch_of(sample, hand_model=self.hand_model) for sample in samples])
        edges = [self.box_factor / BOX_FACTOR * square_of(s.box)[1] / s.extent for s in samples]  # 1.5 boxes: their own
        zooms = torch.tensor(edges, dtype=torch.float32)
        if self.upright is not None:
            return rolled(batch, rolls_of(batch, [sample.key for sample in samples]), self.upright, zooms)
        if (zooms - 1).abs().max() < _SAME_SIZE:
            return batch  # as they are, not resampled
        return zoomed(batch, zooms)


class FirstSamples:
    """The first samples of a source, as a source."""

    def __init__(self, source: SampleSource, count: int) -> None:
        self.name = source.name
        self._source = source
        self._count = min(count, len(source))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return self._source[range(self._count)[index]]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self._count))

    def fingerprint(self) -> str:
        """Changes with the content, as that of the whole source."""
        return f"{fingerprint_of(self._source)}, first {self._count}"


class SampleDataset(Dataset[Drawn]):
    """One source. Items are asked for by the list, and come as one `Drawn`."""

    def __init__(self, source: SampleSource, manner: Manner, only: Collection[str] = LABELS) -> None:
        self.source = source
        self._manner = manner
        self._only = only

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Drawn:
        return self.take([index])

    def take(self, indices: Sequence[int]) -> Drawn:
        samples = [self.source[int(i)] for i in indices]
        return Drawn(without(self._manner.batch(samples), self._only), None)


def open_source(config: SourceConfig, labels: Path, models_dir: Path | None = None) -> SampleSource:
    """The samples of one configured source.

    labels: folder in which those of unlabelled video are kept. models_dir: of the detector that makes them.
    Raises ConfigError or SampleError for what is not there.
    """
    require_there(config)
    if config.kind == "video":
        labeller = PseudoLabeller.from_directory(models_dir, PseudoLabelConfig(focal=config.focal or None))
        return VideoSource(config.path, labels, labeller, name=config.path.stem)
    if config.kind == "epic-hand-kps":
        source = EpicHandKps(config.path, config.frames)
        source.warn_of_missing_frames()
        return source
    return ShardReader(config.path, name=config.path.name)


def require_there(config: SourceConfig) -> None:
    """Raises ConfigError where there is no such file or folder."""
    if not config.path.exists():
        raise ConfigError(
            f"{config.path} is not there: 'wildhands render {config.path} --samples N' makes rendered samples"
        )


def without(labels: Batch, only: Collection[str]) -> Batch:
    """The same with the labels that are not to be used marked as missing."""
    changes: dict[str, Tensor] = {}
    for name, field in (("joints", "has_joints"), ("mano", "has_mano"), ("mask", "has_mask"),
                        ("keypoints", "keypoint_weights")):  # fmt: skip
        if name not in only:
            changes[field] = torch.zeros_like(getattr(labels, field))
    if "grasp" not in only:
        changes["grasp"] = torch.full_like(labels.grasp, -1)
    return replace(labels, **changes)


def normalised(crops: Tensor) -> Tensor:
    """Crops (N, 3, 224, 224) uint8 → what trunks take, float32."""
    mean, std = picture_mean_std(crops.device)
    return (crops.float() / 255 - mean[:, None, None]) / std[:, None, None]


def turned_crops(batch: Batch) -> Tensor:
    """The crops (N, 3, 224, 224) as cameras turned to them would see them, uint8, see `kpe.perspective_crop`.

    They are cut from the crops themselves, so that what lies outside is black, as it is outside the picture.
    """
    homographies, _ = perspective_crop(batch.box, batch.matrix, CROP_SIZE)
    steps = torch.arange(CROP_SIZE, device=batch.box.device, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    places = torch.einsum("nij,hwj->nhwi", homographies, pixels)
    center = (batch.box[:, :2] + batch.box[:, 2:]) / 2
    extent = batch.box[:, 2] - batch.box[:, 0]
    grid = 2 * (places[..., :2] / places[..., 2:] - center[:, None, None]) / extent[:, None, None, None]
    found = torch.nn.functional.grid_sample(batch.crops.float(), grid, align_corners=False)
    return found.round().clamp(0, 255).to(torch.uint8)


def fingerprint_of(source: SampleSource) -> str:
    """Changes with anything in a source that a cache keeps: its own `fingerprint()`, where it has one."""
    own = getattr(source, "fingerprint", None)
    return str(own()) if own is not None else _content(source)


def _content(source: SampleSource) -> str:
    """The same of any source. Reads all of it: sources that know better have a fingerprint of their own."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        sample = source[index]
        batch = batch_of(sample)
        whose = None if sample.mano is None else sample.mano.hand_model
        digest.update(repr((sample.key, sample.box, whose)).encode())  # by these it is rolled, cut and left out
        for field in fields(Batch):
            digest.update(getattr(batch, field.name).numpy().tobytes())
    return digest.hexdigest()
