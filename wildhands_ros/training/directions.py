"""Learning which way hands point, so that a network of upright hands knows how to turn its crops."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from wildhands_ros.estimation.wildhands.landmark_trunk import FINE_AFTER
from wildhands_ros.estimation.wildhands.upright import MIDDLE_KNUCKLE, WRIST, rolls_of_directions
from wildhands_ros.training.batch import Batch
from wildhands_ros.training.config import TrainingConfig
from wildhands_ros.training.data import TrainingData
from wildhands_ros.training.dataset import Drawn
from wildhands_ros.training.interrupts import interrupts_as_such
from wildhands_ros.training.module import TrainingModule, seed_step

logger = logging.getLogger(__name__)

DIRECTION_ERRORS = ("direction_median_deg", "direction_over_30_percent")
_LONG = 0.5  # half crops: longer directions count no more than this
_PLACE, _ANGLE, _SCALE = 3.0, 2.0, 0.1  # weights of the two losses; where the first becomes linear, in half crops


def learn_directions(
    trained: TrainingModule, config: TrainingConfig, out: Path, *, models_dir: Path | None = None, progress: bool = True
) -> dict[str, float]:
    """Trains the direction head of a network whose trunk is trained, on the same samples as the camera saw them.

    Returns the errors on the validation samples by name (`DIRECTION_ERRORS`), none where no keypoints of those tell
    directions. Where those of no training sample do, nothing is learned, and a warning says so.
    """
    module = DirectionModule(trained, config)
    settings = replace(
        config, steps=config.direction_steps, batch=2 * config.batch,
        network=replace(config.network, trained_from=FINE_AFTER),  # for the caches: nothing before that moves any more
    )  # fmt: skip
    as_seen = replace(trained.manner, upright=None)
    data = TrainingData(settings, trained, as_seen, out, models_dir, most=config.direction_samples)
    trainer = pl.Trainer(
        accelerator=config.accelerator, devices=config.devices, max_steps=settings.steps, max_epochs=-1,
        logger=TensorBoardLogger(str(out), name="", version="directions"), default_root_dir=str(out),
        val_check_interval=max(settings.steps // 4, 1), check_val_every_n_epoch=None, num_sanity_val_steps=0,
        enable_checkpointing=False, enable_progress_bar=progress, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    with interrupts_as_such():
        trainer.fit(module, datamodule=data)
    if not float(module.known):
        logger.warning(
            "no sample's 2D keypoints told which way its hand points: the network has not learned to see it, and turns "
            "hands at random; training samples need the keypoints of the wrist and of the middle finger's knuckle"
        )
    trainer.validate(module, datamodule=data, verbose=False)
    errors = {name: float(trainer.callback_metrics[f"val/{name}"]) for name in DIRECTION_ERRORS}
    return {name: error for name, error in errors.items() if math.isfinite(error)}


class DirectionModule(pl.LightningModule):
    """The direction head in training; the trunk before it stays as it is.

    known: of how many samples it has learned from the directions were known.
    """

    def __init__(self, trained: TrainingModule, config: TrainingConfig) -> None:
        super().__init__()
        self.trained = trained.requires_grad_(False)
        self.head = trained.network.direction_head.requires_grad_(True)
        self.known = torch.zeros(())
        self._config = config
        self._errors: list[Tensor] = []

    def forward(self, drawn: Drawn) -> Tensor:
        """Directions (N, 2) in half crops."""
        with torch.no_grad():
            fine = self.trained.fine_map(drawn)
        return self.head(fine)

    def on_train_batch_start(self, batch: Drawn, batch_idx: int) -> None:
        seed_step(self._config.seed, self.global_step)

    def training_step(self, drawn: Drawn, index: int) -> Tensor:
        found, (wanted, known) = self(drawn), true_directions(drawn.batch)
        self.known = self.known.to(known.device) + known.sum()
        length = wanted.norm(dim=1)
        cosine = (normalize(found, dim=1) * wanted).sum(dim=1) / length.clamp(min=1e-3)
        place = smooth_l1_loss(found, wanted, beta=_SCALE, reduction="none").mean(dim=1)
        loss = (known * (_PLACE * place + _ANGLE * (1 - cosine) * length.clamp(max=_LONG))).sum() / known.sum().clamp(1)
        self.log("train/direction", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, drawn: Drawn, index: int) -> None:
        wanted, known = true_directions(drawn.batch)
        off = rolls_of_directions(self(drawn)) - rolls_of_directions(wanted)
        self._errors.append(torch.rad2deg(torch.atan2(off.sin(), off.cos()).abs())[known > 0])

    def on_validation_epoch_end(self) -> None:
        off = torch.cat(self._errors)
        self._errors.clear()
        for name, value in zip(DIRECTION_ERRORS, (off.median(), 100 * (off > 30).float().mean()), strict=True):
            self.log(f"val/{name}", value, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        rate, steps = 2 * self._config.optimiser.learning_rate, self._config.direction_steps
        optimiser = torch.optim.AdamW(self.head.parameters(), rate, weight_decay=0.02)
        # a rise that takes no step at all, which a tenth of ten would be, torch divides by
        rise = 0.1 if steps != 10 else 0.2
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=rise)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def true_directions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Directions (N, 2) in half crops, from the wrist to the knuckle of the middle finger, and (N,) 1 where they are
    known."""
    known = batch.keypoint_weights[:, [WRIST, MIDDLE_KNUCKLE]].amin(dim=1) > 0
    return batch.keypoints[:, MIDDLE_KNUCKLE] - batch.keypoints[:, WRIST], known.float()
