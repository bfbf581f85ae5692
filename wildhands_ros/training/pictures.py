"""What the network does, as pictures in TensorBoard: the same validation samples after every validation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from wildhands_ros.evaluation.gallery import LEGEND, Panel, Section, draw_sheet, from_the_side, number_line
from wildhands_ros.hands import Side
from wildhands_ros.training.batch import Batch, project_to_crop
from wildhands_ros.training.dataset import Drawn, SampleDataset
from wildhands_ros.training.module import ERRORS, TrainingModule, joint_errors

FloatArray = NDArray[np.float64]

TAG = "validation"
"""Name of the pictures in TensorBoard."""


class PictureLog(Callback):
    """Adds a sheet of the same samples to TensorBoard after every validation.

    samples: of which some are taken, evenly over their length. count: how many. edge: of a crop on the sheet, pixels.
    keypoints: also draw those that the network reads off heat maps, where it has any.
    Hands are drawn as the network is shown them: left ones mirrored, and turned where it wants them upright.
    """

    def __init__(self, samples: SampleDataset, *, count: int = 12, edge: int = 192, keypoints: bool = True) -> None:
        self._samples, self._count, self._edge, self._keypoints = samples, count, edge, keypoints
        self._drawn: Drawn | None = None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Within a validation, since averaged weights are put in place before its first batch and taken out after its
        last."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero or not loggers:
            return
        assert isinstance(pl_module, TrainingModule)
        sheet = self.sheet(pl_module, f"step {trainer.global_step}")
        for logger in loggers:
            logger.experiment.add_image(TAG, sheet, trainer.global_step, dataformats="HWC")

    @torch.inference_mode()
    def sheet(self, module: TrainingModule, title: str) -> NDArray[np.uint8]:
        """The samples as the module estimates them now; (H, W, 3) RGB."""
        if self._drawn is None:
            count = min(self._count, len(self._samples))
            self._drawn = self._samples.take(np.linspace(0, len(self._samples) - 1, count).astype(int).tolist())
        panels = _panels(module, self._drawn.to(module.device), keypoints=self._keypoints)
        crosses = ", crosses: off heat maps" if any(panel.dots is not None for panel in panels) else ""
        return draw_sheet([Section(f"{title}   [{LEGEND}{crosses}]", panels)], edge=self._edge)


def _panels(module: TrainingModule, drawn: Drawn, *, keypoints: bool) -> list[Panel]:
    batch = drawn.batch
    output, where, _, _, joints = module.estimate(drawn)
    places = _numpy(project_to_crop(joints, where))
    rays = _numpy(torch.cat([where.rays, torch.ones_like(where.rays[:, :1])], dim=1))
    errors = _numpy(joint_errors(joints, batch, where))
    crops = batch.crops.permute(0, 2, 3, 1).cpu().numpy()
    read = _numpy(output.keypoints) if keypoints and output.keypoints is not None else None
    truth, true_joints, estimated = _numpy(_labelled_places(batch)), _numpy(batch.joints), _numpy(joints)
    panels = []
    for i, (mirrored, labelled) in enumerate(zip(batch.mirrored.tolist(), batch.has_joints.tolist(), strict=True)):
        known = dict(zip(ERRORS, errors[i].tolist(), strict=True)) if labelled else {}
        aside = from_the_side(true_joints[i], rays[i]) if labelled else np.full((21, 2), np.nan)
        panels.append(
            Panel(
                image=crops[i],
                seen=places[i],
                truth=truth[i],
                seen_aside=from_the_side(estimated[i], rays[i]),
                truth_aside=aside,
                side=Side.LEFT if mirrored else Side.RIGHT,
                lines=(number_line(known) or "no 3D label",),
                dots=None if read is None else read[i],
            )
        )
    return panels


def _labelled_places(batch: Batch) -> Tensor:
    """Keypoints in the crops, NaN where nobody knows."""
    return torch.where(batch.keypoint_weights[..., None] > 0, batch.keypoints, torch.nan)


def _numpy(values: Tensor) -> FloatArray:
    return np.asarray(values.detach().double().cpu().numpy())
