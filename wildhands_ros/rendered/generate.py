"""Shards of rendered samples: the same seed gives the same bytes, however many processes make them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import cv2
import numpy as np

from wildhands_ros.errors import ConfigError
from wildhands_ros.hand_model import HandModel, load_hand_model
from wildhands_ros.processes import worker_processes
from wildhands_ros.rendered.backgrounds import TextureBank
from wildhands_ros.rendered.labels import hand_sample
from wildhands_ros.rendered.scenes import SceneSampler
from wildhands_ros.rendered.sensor import Sensor
from wildhands_ros.samples import Sample, ShardReader, ShardWriter

SOURCE = "rendered"

_THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


class Split(str, Enum):
    """What samples are for. Held-out ones show other people, and also textures and things that training never sees."""

    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class RenderConfig:
    """samples: how many. seed, split: decide what they show. size_per_shard: samples of each shard but the last, and
    textures: made for each shard; part of what decides, too. workers: processes, which decide nothing.

    Raises ConfigError for numbers that are not positive.
    """

    samples: int
    seed: int = 0
    split: Split = Split.TRAIN
    size_per_shard: int = 1000
    workers: int = 1
    textures: int = 32

    def __post_init__(self) -> None:
        if min(self.samples, self.size_per_shard, self.workers, self.textures) < 1:
            raise ConfigError("samples, size per shard, workers and textures must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"the seed must not be negative, not {self.seed}")

    @property
    def shards(self) -> int:
        return math.ceil(self.samples / self.size_per_shard)

    def size(self, shard: int) -> int:
        """Samples of a shard."""
        return min(self.size_per_shard, self.samples - shard * self.size_per_shard)

    def path(self, folder: Path, shard: int) -> Path:
        return folder / f"{self.split.value}-{self.seed:03d}-{shard:05d}.tar"


def rendered_samples(config: RenderConfig, shard: int, model: HandModel | None = None) -> Iterator[Sample]:
    """The samples of one shard, made one after the other.

    Each scene has its own generator, seeded by split, seed, shard and its number there; a scene of two hands gives two
    samples.
    """
    model = load_hand_model() if model is None else model
    held_out = config.split is Split.HELD_OUT
    root = (int(held_out), config.seed, shard)
    bank = TextureBank.made(np.random.default_rng((*root, 0)), config.textures, held_out=held_out)
    sampler = SceneSampler(model, config.textures, held_out=held_out)
    left, number = config.size(shard), 0
    while left:
        number += 1
        rng = np.random.default_rng((*root, number))
        scene = sampler.sample(rng)
        if scene is None:
            continue
        sensor = Sensor.sampled(rng, scene.view.camera.width, dim=scene.lights.name == "dim")
        for hand in range(len(scene.hands)):
            key = f"{config.split.value}-{config.seed}-{shard}-{number}-{hand}"
            sample = hand_sample(rng, scene, hand, bank, sensor, key=key, source=SOURCE, hand_model=model.name)
            if sample is not None and left:
                left -= 1
                yield sample


def render_shards(config: RenderConfig, folder: Path) -> Iterator[int]:
    """Writes the shards that are not there yet, or hold fewer samples than they should; yields the size of each as it
    is done.

    What is under a shard's final name is whole, so that an interrupted run can be started again, or go on with more
    samples. Raises ConfigError where the folder holds more, SampleError for shards that are damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = _missing_shards(config, folder)
    if config.workers == 1 or len(missing) <= 1:
        for shard in missing:
            yield _write_shard(config, folder, shard)
        return
    with worker_processes(min(config.workers, len(missing))) as pool:
        try:
            with _one_thread_each():
                shards = [pool.submit(_write_shard, config, folder, shard) for shard in missing]
            for done in as_completed(shards):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _missing_shards(config: RenderConfig, folder: Path) -> list[int]:
    """The shards to be written. A shard that is too short is the beginning of what it becomes."""
    expected = [config.path(folder, shard) for shard in range(config.shards)]
    sizes = [len(ShardReader(path)) if path.exists() else 0 for path in expected]
    more = sorted(set(folder.glob(f"{config.split.value}-{config.seed:03d}-*.tar")) - set(expected))
    more += [path for shard, path in enumerate(expected) if sizes[shard] > config.size(shard)]
    if more:
        raise ConfigError(
            f"{more[0]} comes from a run of more samples, or of another size per shard: give the same as then, "
            "another folder, or delete the shards of this split and seed"
        )
    return [shard for shard, size in enumerate(sizes) if size < config.size(shard)]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile do linear algebra in one thread, unless the user said otherwise: threads of several
    processes wait for each other. NumPy's libraries take their number from the environment only, when they are loaded.
    """
    names = [name for name in _THREAD_COUNTS if name not in os.environ]
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def _write_shard(config: RenderConfig, folder: Path, shard: int) -> int:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # processes share the work already
    try:
        with ShardWriter(config.path(folder, shard)) as writer:
            for sample in rendered_samples(config, shard):
                writer.add(sample)
    finally:
        cv2.setNumThreads(threads)
    return config.size(shard)
