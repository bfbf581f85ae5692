"""The samples of a training run, as its trainer asks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from wildhands_ros.errors import ConfigError, WildHandsError
from wildhands_ros.estimation.wildhands import Encoding
from wildhands_ros.estimation.wildhands.landmark_trunk import LandmarkTrunk
from wildhands_ros.samples import Sample, SampleSource, ShardReader
from wildhands_ros.training.cache import CachedDataset
from wildhands_ros.training.config import LABELS, TrainingConfig
from wildhands_ros.training.dataset import Drawn, FirstSamples, Manner, SampleDataset, open_source, require_there
from wildhands_ros.training.mixing import MixedDataset, MixingSampler
from wildhands_ros.training.module import TrainingModule
from wildhands_ros.training.pairs import ShownHand, shown_hands


class _Answers(Dataset[Drawn | WildHandsError]):
    """A data set that hands its errors over, for `_Loader`: of what is raised in a worker process, torch makes a
    message of that process's whole traceback."""

    def __init__(self, samples: MixedDataset) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, indices: list[int]) -> Drawn | WildHandsError:
        try:
            return self._samples[indices]
        except WildHandsError as error:
            return error


class _Loader(DataLoader[Drawn | WildHandsError]):
    """The batches of `_Answers`; raises its errors."""

    def __iter__(self) -> Iterator[Drawn]:  # type: ignore[override]
        for found in super().__iter__():
            if isinstance(found, WildHandsError):
                raise found
            yield found


class TrainingData(pl.LightningDataModule):
    """The samples of a run, cached where the configuration names a folder for that."""

    def __init__(
        self, config: TrainingConfig, module: TrainingModule, manner: Manner, out: Path,
        models_dir: Path | None = None, most: int = 0,
    ) -> None:  # fmt: skip
        """manner: how the samples are shown. out: the run's folder, in which labels of video are kept without a cache.
        models_dir: of the detector that makes them. most: samples of each source, its first ones (0: all)."""
        super().__init__()
        self.config = config
        self._manner = manner
        self._labels = config.cache or out
        self._models_dir = models_dir
        self._most = most
        self._module = module
        self._parts: list[SampleDataset | CachedDataset] = []
        self._validation: SampleDataset | CachedDataset | None = None

    def setup(self, stage: str = "fit") -> None:
        if self._parts:
            return
        # what is wrong with any of them is said now, and not after hours of labelling and caching another
        for source in self.config.sources:
            require_there(source)
        validation = ShardReader(self.config.validation)
        if not any(_has_joints(validation[index]) for index in self._validated(len(validation))):
            raise ConfigError(
                f"{self.config.validation}: none of the validation samples has 3D joints, whose error decides which "
                "weights are best"
            )
        opened = [
            _limited(open_source(s, self._labels, self._models_dir), s.first, self._most) for s in self.config.sources
        ]
        self._sampler([len(source) for source in opened])
        self._parts = [self._dataset(source, s.only) for source, s in zip(opened, self.config.sources, strict=True)]
        self._validation = self._dataset(validation, ())

    def _validated(self, available: int) -> list[int]:
        """Which of the validation samples are used, evenly over all of them."""
        count = min(available, self.config.validation_samples)
        return [int(index) for index in np.linspace(0, available - 1, count)]

    def validation_hands(self) -> list[ShownHand]:
        """The hands that `val_dataloader` shows, in its order."""
        validation = ShardReader(self.config.validation)
        return shown_hands((validation[index] for index in self._validated(len(validation))), self._manner)

    def _dataset(self, source: SampleSource, only: Collection[str]) -> SampleDataset | CachedDataset:
        trunk, only = self._module.trunk, only or LABELS
        plain = self._module.network.variant.encoding is not Encoding.INPUT  # nothing is fixed behind a changed input
        if self.config.cache is not None and plain and isinstance(trunk, LandmarkTrunk):
            return CachedDataset(source, self._manner, trunk, self.config.network.trained_from, self.config.cache, only)
        return SampleDataset(source, self._manner, only)

    def _sampler(self, lengths: Sequence[int], first: int = 0, share: tuple[int, int] = (0, 1)) -> MixingSampler:
        """What draws from sources of these lengths. Raises ConfigError where one of them would never be drawn from."""
        config = self.config
        return MixingSampler(
            lengths, [s.weight for s in config.sources], config.batch, config.steps, config.seed, first, share
        )

    def train_dataloader(self) -> _Loader:
        trainer = self.trainer
        assert trainer is not None
        sampler = self._sampler(
            [len(part) for part in self._parts], trainer.global_step, (trainer.global_rank, trainer.world_size)
        )
        return _Loader(
            _Answers(MixedDataset(self._parts)), sampler=sampler, batch_size=None, num_workers=self.config.workers,
            persistent_workers=self.config.workers > 0, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader[Drawn]:
        assert self._validation is not None
        chosen = self._validated(len(self._validation))
        batches = [chosen[i : i + self.config.batch] for i in range(0, len(chosen), self.config.batch)]
        return DataLoader(MixedDataset([self._validation]), sampler=batches, batch_size=None)  # type: ignore[arg-type]


def _limited(source: SampleSource, *limits: int) -> SampleSource:
    """The source's first samples, as many as every limit allows; 0 is none."""
    most = min(limit or len(source) for limit in limits)
    return FirstSamples(source, most) if most < len(source) else source


def _has_joints(sample: Sample) -> bool:
    return sample.joints is not None and bool(np.isfinite(sample.joints).all())
