"""A training run from its configuration to a checkpoint that estimators load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.wildhands import CheckpointInfo, Encoding, save_checkpoint
from wildhands_ros.hand_model import HandModel
from wildhands_ros.pipeline import config_to_dict
from wildhands_ros.samples import SampleSource, ShardReader
from wildhands_ros.training.batch import LABELS
from wildhands_ros.training.config import TrainingConfig
from wildhands_ros.training.dataset import (
    CachedDataset,
    Drawn,
    Manner,
    MixedDataset,
    MixingSampler,
    SampleDataset,
    open_source,
)
from wildhands_ros.training.module import ERRORS, TrainingModule, fresh_network, joint_errors, variant_of
from wildhands_ros.training.pictures import PictureLog

RESUME, NETWORK, SETTINGS, SAMPLE_ERRORS = "last.ckpt", "network.safetensors", "settings.json", "sample_errors.pt"


@dataclass(frozen=True)
class TrainingResult:
    """network: the checkpoint of the best weights. errors: of those on the validation samples, by name; millimetres
    and percent. steps: how many were made in all."""

    network: Path
    errors: dict[str, float]
    steps: int


def train(
    config: TrainingConfig, out: Path, hand_model: HandModel, landmark_weights: bytes, *,
    models_dir: Path | None = None, licence: str = "Apache-2.0", training_data: str = "", progress: bool = True,
    half: bool = False, extra: tuple[Callback, ...] = (),
) -> TrainingResult:  # fmt: skip
    """Trains, or goes on where an earlier run into the same folder was interrupted.

    landmark_weights: the content of hand_landmark_full.tflite, from which the trunk starts. models_dir: of the detector
    that labels video. half: the checkpoint's
    tensors in float16. extra: further callbacks. Writes into `out`:
    `last.ckpt` (to go on from), `best.ckpt`, TensorBoard logs, `settings.json`, and `network.safetensors`.
    Raises ConfigError where `out` holds a run with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    _same_settings(out / SETTINGS, config)
    torch.set_flush_denormal(True)  # tails of heat maps fall below 1e-38, with which CPUs are many times slower
    pl.seed_everything(config.seed, workers=True, verbose=False)
    variant = variant_of(config.network, hand_model)
    module = TrainingModule(fresh_network(variant, landmark_weights), config, hand_model)
    data = HandData(config, module, hand_model, models_dir)

    best = ModelCheckpoint(
        out, "best", monitor="val/mpjpe_mm", mode="min", save_top_k=1, enable_version_counter=False,
    )  # fmt: skip  # whole: a file of weights only would hold the last ones, not the averaged ones that were validated
    regularly = ModelCheckpoint(
        out, "last", every_n_train_steps=max(min(config.validate_every, config.steps) // 2, 1), save_top_k=1,
        enable_version_counter=False, save_on_train_epoch_end=False,
    )  # fmt: skip
    callbacks: list[Callback] = [
        EMAWeightAveraging(decay=config.optimiser.ema, update_every_n_steps=1), best, regularly,
        LearningRateMonitor("step"),
        PictureLog(SampleDataset(ShardReader(config.validation), Manner.of(variant, hand_model))), *extra,
    ]  # fmt: skip
    if config.stop_minutes > 0:
        callbacks.append(Timer(timedelta(minutes=config.stop_minutes)))
    trainer = pl.Trainer(
        accelerator=config.accelerator, devices=config.devices, precision=config.precision,  # type: ignore[arg-type]
        max_steps=config.steps, max_epochs=-1, callbacks=callbacks, gradient_clip_val=config.optimiser.clip,
        logger=TensorBoardLogger(str(out), name="", version="log"), default_root_dir=str(out),
        val_check_interval=min(config.validate_every, config.steps), check_val_every_n_epoch=None,
        num_sanity_val_steps=0, log_every_n_steps=50, enable_progress_bar=progress, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    resume = out / RESUME
    trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume.is_file() else None, weights_only=True)
    info = CheckpointInfo(
        training_data=training_data or ", ".join(f"{s.kind}: {s.path.name}" for s in config.sources),
        hand_model=hand_model.name, licence=licence,
    )  # fmt: skip
    return _finish(module, trainer, data, Path(best.best_model_path or resume), out, info, half)


class HandData(pl.LightningDataModule):
    """The samples of a run, cached where the configuration names a folder for that."""

    def __init__(
        self, config: TrainingConfig, module: TrainingModule, hand_model: HandModel, models_dir: Path | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self._manner = Manner.of(module.network.variant, hand_model)
        self._models_dir = models_dir
        self._module = module
        self._parts: list[SampleDataset | CachedDataset] = []
        self._validation: SampleDataset | CachedDataset | None = None

    def setup(self, stage: str = "fit") -> None:
        if self._parts:
            return
        self._parts = [
            self._dataset(open_source(s, self.config.cache, self._models_dir), frozenset(s.only))
            for s in self.config.sources
        ]
        self._validation = self._dataset(ShardReader(self.config.validation), frozenset())

    def _dataset(self, source: SampleSource, only: frozenset[str]) -> SampleDataset | CachedDataset:
        variant, only = self._module.network.variant, only or LABELS
        if self.config.cache is None or variant.encoding is Encoding.INPUT:  # nothing is fixed behind a changed input
            return SampleDataset(source, self._manner, only)
        return CachedDataset(
            source, self._manner, self._module.trunk, self.config.network.trained_from, self.config.cache, only
        )

    def train_dataloader(self) -> DataLoader[Drawn]:
        trainer = self.trainer
        assert trainer is not None
        sampler = MixingSampler(
            [len(part) for part in self._parts], [s.weight for s in self.config.sources], self.config.batch,
            self.config.steps, self.config.seed, trainer.global_step, (trainer.global_rank, trainer.world_size),
        )  # fmt: skip
        return DataLoader(
            MixedDataset(self._parts), sampler=sampler, batch_size=None, num_workers=self.config.workers,
            persistent_workers=self.config.workers > 0, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader[Drawn]:
        assert self._validation is not None
        count = min(len(self._validation), self.config.validation_samples)
        chosen = np.linspace(0, len(self._validation) - 1, count).astype(int).tolist()
        batches = [chosen[i : i + self.config.batch] for i in range(0, count, self.config.batch)]
        return DataLoader(MixedDataset([self._validation]), sampler=batches, batch_size=None)  # type: ignore[arg-type]


def _same_settings(path: Path, config: TrainingConfig) -> None:
    """A folder belongs to one configuration: going on with another would mix two runs."""
    wanted = json.loads(json.dumps(config_to_dict(config), default=_plain))
    if path.is_file():
        found = json.loads(path.read_text())
        changed = sorted(k for k in wanted if wanted[k] != found.get(k) and k not in ("stop_minutes", "workers"))
        if changed:
            raise ConfigError(
                f"{path.parent} holds a run with other settings ({', '.join(changed)}): choose another folder, or "
                "delete it"
            )
    path.write_text(json.dumps(wanted, indent=1))


def _plain(value: Any) -> Any:
    return config_to_dict(value) if hasattr(value, "__dataclass_fields__") else str(value)


def _finish(
    module: TrainingModule, trainer: pl.Trainer, data: HandData, best: Path, out: Path, info: CheckpointInfo, half: bool
) -> TrainingResult:  # fmt: skip
    steps = trainer.global_step
    if best.is_file():
        state = torch.load(best, weights_only=True, map_location="cpu")["state_dict"]
        module.load_state_dict(state)
    errors = evaluate(module, data.val_dataloader())
    torch.save(errors, out / SAMPLE_ERRORS)
    found = {name: float(value.mean()) for name, value in errors.items() if name != "angle"}
    save_checkpoint(out / NETWORK, module.network, info, half=half)
    (out / "errors.json").write_text(json.dumps({"steps": steps, **found}, indent=1))
    return TrainingResult(out / NETWORK, found, steps)


@torch.inference_mode()
def evaluate(module: TrainingModule, loader: DataLoader[Drawn]) -> dict[str, Tensor]:
    """Errors of each sample by name (`ERRORS`), and 'angle', degrees between optical axis and crop; each (N,)."""
    module.eval()
    rows = []
    for drawn in loader:
        drawn = drawn.to(module.device)
        _, where, _, _, joints = module.estimate(drawn)
        angle = where.rays.norm(dim=1).atan().rad2deg()
        rows.append(torch.cat([joint_errors(joints, drawn.batch, where), angle[:, None]], dim=1).cpu())
    columns = torch.cat(rows).unbind(dim=1)
    return dict(zip((*ERRORS, "angle"), columns, strict=True))
