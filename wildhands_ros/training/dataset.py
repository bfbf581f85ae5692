"""Sources put together, drawn from in an order that depends on nothing but the seed and the step."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.wildhands.accelerated import available_threads, installed, openvino_core
from wildhands_ros.estimation.wildhands.export import by_tracing
from wildhands_ros.estimation.wildhands.kpe import perspective_crop
from wildhands_ros.estimation.wildhands.landmark_trunk import LandmarkTrunk
from wildhands_ros.estimation.wildhands.runtime import Backend
from wildhands_ros.estimation.wildhands.trunks import picture_mean_std
from wildhands_ros.estimation.wildhands.variant import Perspective, Variant
from wildhands_ros.hand_model import HandLayer, HandModel
from wildhands_ros.processes import worker_processes
from wildhands_ros.samples import BOX_FACTOR, CROP_SIZE, Sample, SampleSource, ShardReader
from wildhands_ros.training.batch import Batch, batch_of, collate, rolled, rolls_of, zoomed
from wildhands_ros.training.config import LABELS, SourceConfig
from wildhands_ros.training.sources import EpicHandKps, PseudoLabelConfig, PseudoLabeller, VideoSource
from wildhands_ros.training.sources.crops import square_of
from wildhands_ros.whole_files import becoming, write_whole

logger = logging.getLogger(__name__)

_CHUNK = 64  # samples in a part of a cache
_AT_ONCE = 8  # parts that a process is given at once
_MAPS, _LABELS, _PARTS = "maps.npy", "labels.pt", "parts"
_LABELS_VERSION = 2  # of what is made of a sample; caches of another one are made again
_PERIOD = 1000
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
        return f"{_fingerprint(self._source)}, first {self._count}"


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
        return Drawn(_without(self._manner.batch(samples), self._only), None)


class CachedDataset(Dataset[Drawn]):
    """One source whose crops have gone through the fixed part of a trunk; labels and maps stay on disk.

    folder: made when first needed, found again by the trunk's weights, the hand model's name and the source's contents
    (its `fingerprint()`, where it has one). Making it goes on where it was interrupted. Raises WildHandsError where the
    system ends a process that does it.
    """

    def __init__(
        self, source: SampleSource, manner: Manner, trunk: LandmarkTrunk, blocks: int, folder: Path,
        only: Collection[str] = LABELS,
    ) -> None:  # fmt: skip
        place = folder / _cache_key(source, manner, trunk, blocks)
        place.mkdir(parents=True, exist_ok=True)
        kept = None
        with suppress(Exception):  # not there, or damaged, which is seen to with the lock
            kept = _read_cache(place)  # without one: a whole cache may lie where nothing can be written
        if kept is None:
            with FileLock(place / "lock"):  # one of a run's processes makes it for all of them
                kept = _kept(place) or _filled(_Filler(source, manner, trunk, blocks, place))
        labels, self._maps = kept
        self._labels = _without(labels, only)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Drawn:
        return self.take([index])

    def take(self, indices: Sequence[int]) -> Drawn:
        chosen = np.asarray(indices)
        order = np.argsort(chosen)  # in the order of the file
        maps = np.empty((len(chosen), *self._maps.shape[1:]), np.float16)
        maps[order] = self._maps[chosen[order]]
        rows = torch.from_numpy(maps).permute(0, 3, 1, 2)
        return Drawn(self._labels[torch.from_numpy(chosen)], rows)


class MixedDataset(Dataset[Drawn]):
    """Several sources one after the other; items are asked for by lists of indices."""

    def __init__(self, parts: Sequence[SampleDataset | CachedDataset]) -> None:
        self.parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, indices: list[int]) -> Drawn:
        asked = np.asarray(indices)
        which = np.searchsorted(self._starts, asked, side="right") - 1
        drawn = [
            part.take((asked[which == k] - self._starts[k]).tolist())
            for k, part in enumerate(self.parts)
            if (which == k).any()
        ]
        maps = [d.maps for d in drawn]
        known = [m for m in maps if m is not None]
        return Drawn(collate([d.batch for d in drawn]), torch.cat(known) if len(known) == len(maps) else None)


class MixingSampler(Sampler[list[int]]):
    """Batches of indices into a `MixedDataset`, each source by its weight, each of its samples equally often.

    Batch k depends on the seed and on k alone, so that an interrupted run goes on with the batches that it would have
    had. first: the step to begin with. share: (rank, count) where several processes share every batch.
    """

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], batch: int, steps: int, seed: int, first: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        if not lengths or min(lengths) < 1:
            which = f"source {np.argmin(lengths) + 1}" if lengths else "a source"
            raise ConfigError(f"{which} holds no samples: render some, or take it out of the configuration")
        self._lengths, self._batch, self._steps, self._seed, self._first = list(lengths), batch, steps, seed, first
        # which source each position of a period draws from, and the how-manieth of that source's it is there
        self._which = _spread(np.array(weights) / np.sum(weights))
        self._counts = np.bincount(self._which, minlength=len(lengths))
        if not self._counts.all():
            raise ConfigError(
                f"the weight of source {int(self._counts.argmin()) + 1} is too small beside the others': none of "
                f"{_PERIOD} samples would come from it; give it more, or take it out of the configuration"
            )
        self._ranks_in_period = np.zeros(_PERIOD, np.int64)
        for source, count in enumerate(self._counts):
            self._ranks_in_period[self._which == source] = np.arange(count)
        self._starts = np.cumsum([0, *lengths])
        self._rank, self._ranks = share
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self._steps  # also of a run that goes on: whoever counts batches counts the earlier ones too

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(step) for step in range(self._first, self._steps))

    def batch(self, step: int) -> list[int]:
        """The indices of one step (this process's share of them)."""
        found = []
        for number in range(step * self._batch, (step + 1) * self._batch):
            period, position = divmod(number, _PERIOD)
            source = int(self._which[position])
            turn, place = divmod(
                int(period * self._counts[source] + self._ranks_in_period[position]), self._lengths[source]
            )
            found.append(int(self._starts[source] + self._order(source, turn)[place]))
        # in one piece: every n-th would be those of one source where sources take turns
        return found[len(found) * self._rank // self._ranks : len(found) * (self._rank + 1) // self._ranks]

    def _order(self, source: int, turn: int) -> NDArray[np.int64]:
        key = (source, turn)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != source or k[1] >= turn - 1}
            rng = np.random.default_rng((self._seed, source, turn))
            self._orders[key] = rng.permutation(self._lengths[source])
        return self._orders[key]


def _spread(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """(_PERIOD,) sources by their shares, as evenly as can be: always the one that lags furthest behind."""
    given, order = np.zeros(len(shares)), np.empty(_PERIOD, np.int64)
    for position in range(_PERIOD):
        order[position] = np.argmax(shares * (position + 1) - given)
        given[order[position]] += 1
    return order


def open_source(config: SourceConfig, labels: Path, models_dir: Path | None = None) -> SampleSource:
    """The samples of one configured source.

    labels: folder in which those of unlabelled video are kept. models_dir: of the detector that makes them.
    Raises ConfigError or SampleError for what is not there.
    """
    if not config.path.exists():
        raise ConfigError(
            f"{config.path} is not there: 'wildhands render {config.path} --samples N' makes rendered samples"
        )
    if config.kind == "video":
        labeller = PseudoLabeller.from_directory(models_dir, PseudoLabelConfig(focal=config.focal or None))
        return VideoSource(config.path, labels, labeller, name=config.path.stem)
    if config.kind == "epic-hand-kps":
        return EpicHandKps(config.path, config.frames)
    return ShardReader(config.path, name=config.path.name)


def _without(labels: Batch, only: Collection[str]) -> Batch:
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


def _cache_key(source: SampleSource, manner: Manner, trunk: LandmarkTrunk, blocks: int) -> str:
    digest = hashlib.sha256(f"{_LABELS_VERSION} {manner.hand_model} {_fingerprint(source)}".encode())
    for part in (trunk.stem, trunk.blocks[:blocks]):
        for value in part.state_dict().values():
            digest.update(value.detach().cpu().numpy().tobytes())
    return f"{source.name}-{blocks}-{digest.hexdigest()[:16]}{manner.name}"


def _fingerprint(source: SampleSource) -> str:
    own = getattr(source, "fingerprint", None)
    return str(own()) if own is not None else _content(source)


def _content(source: SampleSource) -> str:
    """Changes with anything in a source that a cache keeps. Reads all of it: sources that know better have a
    `fingerprint`."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        sample = source[index]
        batch = batch_of(sample)
        whose = None if sample.mano is None else sample.mano.hand_model
        digest.update(repr((sample.key, sample.box, whose)).encode())  # by these it is rolled, cut and left out
        for field in fields(Batch):
            digest.update(getattr(batch, field.name).numpy().tobytes())
    return digest.hexdigest()


class _Filler:
    """Fills parts of a cache. Each process has its own, with one thread: layers this small gain nothing from more."""

    def __init__(self, source: SampleSource, manner: Manner, trunk: LandmarkTrunk, blocks: int, place: Path) -> None:
        self.source, self.blocks, self.place = source, blocks, place
        self.trunk = deepcopy(trunk).requires_grad_(False)  # a copy: the trunk's later blocks are to be trained
        self._manner = manner
        self._early: Callable[[Tensor], NDArray[np.float32]] | None = None

    def __call__(self, start: int) -> int:
        """Fills the part that begins with this sample; how many samples it has."""
        if self._early is None:
            self._early = _early_part(self.trunk, self.blocks)
        stop = min(start + _CHUNK, len(self.source))
        batch = self._manner.batch([self.source[i] for i in range(start, stop)])
        pictures = turned_crops(batch) if self._manner.turned else batch.crops
        maps = np.lib.format.open_memmap(self.place / _MAPS, "r+")
        for index in range(start, stop):
            found = self._early(normalised(pictures[index - start][None]))
            maps[index] = found[0].transpose(1, 2, 0)
        maps.flush()
        labels = replace(batch, crops=torch.zeros(len(batch), 0, dtype=torch.uint8))
        content = io.BytesIO()
        torch.save({f.name: getattr(labels, f.name) for f in fields(Batch)}, content)
        write_whole(self.part(start), content.getvalue())  # last: a part with labels is whole
        return stop - start

    def part(self, start: int) -> Path:
        """The labels of a part that is filled."""
        return self.place / _PARTS / f"{start:09}.pt"


class _Early(torch.nn.Module):
    def __init__(self, trunk: LandmarkTrunk, blocks: int) -> None:
        super().__init__()
        self.trunk, self.blocks = trunk, blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk.early(x, self.blocks)


def _early_part(trunk: LandmarkTrunk, blocks: int) -> Callable[[Tensor], NDArray[np.float32]]:
    """The fixed part of a trunk for one crop at a time; by OpenVINO where it is installed, which takes a sixth of
    torch's time here."""
    module, shape = _Early(trunk, blocks).eval(), (1, 3, CROP_SIZE, CROP_SIZE)
    if installed(Backend.OPENVINO) and find_spec("onnx") is not None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's tracing
            path = Path(folder) / "early.onnx"
            torch.onnx.export(module, (torch.zeros(shape),), str(path), **by_tracing())
            model = openvino_core().read_model(path)
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino_core().compile_model(model, "CPU", options)
        return lambda crop: np.asarray(compiled([crop.numpy()])[0])

    def run(crop: Tensor) -> NDArray[np.float32]:
        with torch.no_grad():
            return module(crop.to(memory_format=torch.channels_last)).numpy()

    return run


def _kept(place: Path) -> tuple[Batch, NDArray[np.float16]] | None:
    """What is cached there; None where nothing whole is. What is damaged is taken away."""
    if not (place / _LABELS).is_file():
        return None
    try:
        return _read_cache(place)
    except Exception as error:  # whatever torch and numpy make of damaged files
        logger.warning("the cache %s is damaged (%s) and made anew", place, error)
        (place / _LABELS).unlink()
        (place / _MAPS).unlink(missing_ok=True)
        return None


def _read_cache(place: Path) -> tuple[Batch, NDArray[np.float16]]:
    """Labels and maps, both on disk."""
    labels = Batch(**torch.load(place / _LABELS, weights_only=True, mmap=True))
    maps = np.load(place / _MAPS, mmap_mode="r")
    if len(maps) != len(labels):
        raise ValueError(f"{len(maps)} maps, {len(labels)} labels")
    return labels, maps


def _filled(filler: _Filler) -> tuple[Batch, NDArray[np.float16]]:
    """What is cached there once everything that was missing is made."""
    source, place = filler.source, filler.place
    if not len(source):
        raise ConfigError(f"{source.name} holds no samples")
    if not (place / _MAPS).is_file():
        shutil.rmtree(place / _PARTS, ignore_errors=True)
        _make_maps(filler)
    (place / _PARTS).mkdir(exist_ok=True)
    starts = range(0, len(source), _CHUNK)
    missing = [start for start in starts if not filler.part(start).is_file()]
    filled = len(source) - sum(min(_CHUNK, len(source) - start) for start in missing)
    with tqdm(total=len(source), initial=filled, desc=f"caching {source.name}", unit="crop") as progress:
        for count in _filled_parts(filler, missing):
            progress.update(count)
    together: dict[str, Tensor] = {}
    for start in starts:  # into tensors that are as large from the beginning: two copies could be too much
        for name, values in torch.load(filler.part(start), weights_only=True).items():
            if start == 0:
                together[name] = values.new_empty((len(source), *values.shape[1:]))
            together[name][start : start + len(values)] = values
    partial = place / "labels.partial"
    with becoming(place / _LABELS, partial):  # last: a cache with labels is whole
        _save(together, partial)
    shutil.rmtree(place / _PARTS)
    return _read_cache(place)


def _save(content: Any, path: Path) -> None:
    """`torch.save`, which of a full disk says nothing but where it stumbles. Raises OSError there."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # of ending the file, after the system's
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _make_maps(filler: _Filler) -> None:
    """Makes the file of maps, all zero."""
    maps = filler.place / _MAPS
    with torch.no_grad():
        channels, *size = filler.trunk.early(torch.zeros(1, 3, CROP_SIZE, CROP_SIZE), filler.blocks).shape[1:]
    partial = maps.with_suffix(".partial")
    with becoming(maps, partial):
        np.lib.format.open_memmap(partial, "w+", np.float16, (len(filler.source), *size, channels)).flush()
        if hasattr(os, "posix_fallocate"):
            with partial.open("r+b") as file:  # no room: this says so; a write into the mapped file could not
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)


def _filled_parts(filler: _Filler, starts: Sequence[int]) -> Iterator[int]:
    """Fills the parts that begin with these samples, in several processes where it is worth it; how many samples each
    part has."""
    count = min(available_threads(), len(starts) // _AT_ONCE)
    if count < 2:
        yield from map(filler, starts)
        return
    with worker_processes(count, partial(_take_filler, filler)) as pool:
        yield from pool.map(_fill_part, starts, chunksize=_AT_ONCE)


_fillers: list[_Filler] = []  # of a worker process, its only one: sent and made ready once, not with every part


def _take_filler(filler: _Filler) -> None:
    torch.set_num_threads(1)
    _fillers.append(filler)


def _fill_part(start: int) -> int:
    return _fillers[0](start)
