"""What the fixed part of a trunk makes of a source's crops, computed once and kept on disk."""

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
from dataclasses import fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.wildhands.accelerated import Unusable, available_threads, installed, openvino_core
from wildhands_ros.estimation.wildhands.export import by_tracing
from wildhands_ros.estimation.wildhands.landmark_trunk import LandmarkTrunk
from wildhands_ros.estimation.wildhands.runtime import Backend
from wildhands_ros.processes import worker_processes
from wildhands_ros.samples import CROP_SIZE, SampleSource
from wildhands_ros.training.batch import Batch
from wildhands_ros.training.config import LABELS
from wildhands_ros.training.dataset import (
    Drawn,
    Manner,
    fingerprint_of,
    normalised,
    turned_crops,
    without,
)
from wildhands_ros.whole_files import becoming, write_whole

logger = logging.getLogger(__name__)

_CHUNK = 64  # samples in a part of a cache
_AT_ONCE = 8  # parts that a process is given at once
_MAPS, _LABELS, _PARTS = "maps.npy", "labels.pt", "parts"
_LABELS_VERSION = 2  # of what is made of a sample; caches of another one are made again


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
        self._labels = without(labels, only)

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


def _cache_key(source: SampleSource, manner: Manner, trunk: LandmarkTrunk, blocks: int) -> str:
    digest = hashlib.sha256(f"{_LABELS_VERSION} {manner.hand_model} {fingerprint_of(source)}".encode())
    for part in (trunk.stem, trunk.blocks[:blocks]):
        for value in part.state_dict().values():
            digest.update(value.detach().cpu().numpy().tobytes())
    return f"{source.name}-{blocks}-{digest.hexdigest()[:16]}{manner.name}"


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
        try:
            core = openvino_core()
        except Unusable as error:
            logger.warning("crops are cached by torch, which takes six times as long: %s", error)
        else:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's tracing
                path = Path(folder) / "early.onnx"
                torch.onnx.export(module, (torch.zeros(shape),), str(path), **by_tracing())
                model = core.read_model(path)
            options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            compiled = core.compile_model(model, "CPU", options)
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
