"""A training run from its configuration to a checkpoint that estimators load."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.wildhands import CheckpointInfo, load_checkpoint, save_checkpoint
from wildhands_ros.estimation.wildhands.network import PLANE_OUTPUTS, WildHandsNetwork
from wildhands_ros.hand_model import HandModel
from wildhands_ros.samples import ShardReader
from wildhands_ros.settings import config_to_dict
from wildhands_ros.training.config import SourceConfig, TrainingConfig
from wildhands_ros.training.data import TrainingData
from wildhands_ros.training.dataset import Drawn, SampleDataset
from wildhands_ros.training.directions import learn_directions
from wildhands_ros.training.expected_errors import learn_expected_errors
from wildhands_ros.training.interrupts import interrupts_as_such
from wildhands_ros.training.module import ERRORS, TrainingModule, fresh_network, joint_errors, variant_of
from wildhands_ros.training.pairs import MRRPE, ShownHand, shown_pair_errors
from wildhands_ros.training.pictures import PictureLog
from wildhands_ros.training.precision import precision_here
from wildhands_ros.whole_files import write_whole

RESUME, BEST, NETWORK, SETTINGS, SAMPLE_ERRORS = (
    "last.ckpt", "best.ckpt", "network.safetensors", "settings.json", "sample_errors.pt",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingResult:
    """network: the checkpoint of the best weights. errors: of those on the validation samples, by name; millimetres
    and percent. steps: how many were made in all."""

    network: Path
    errors: dict[str, float]
    steps: int


class _WholeCheckpoints(TorchCheckpointIO):
    """Lightning's own writes into the system's folder for temporary files, from where a file is copied to another file
    system: a kill meanwhile would leave half of it in place of the only whole one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), _stored(checkpoint))


def _stored(content: Any) -> bytes:
    """What `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


class _Average(EMAWeightAveraging):
    """The running average of the weights; what is no weight stays exactly as it is.

    On the device where the training is, of which the module does not know yet when callbacks are set up.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, decay=decay)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class _Best(ModelCheckpoint):
    """Keeps the weights of the best validation, also of one that a resumed run does not know of.

    What is gone on from is kept after these: a run may have ended in between, or its folder was moved since.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        path = Path(str(self.dirpath)) / BEST
        if path.is_file():
            kept = _read(path)["callbacks"][self.state_key]["best_model_score"]
            self.best_model_score = self.kth_value = kept
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_k_models = {str(path): kept}
        else:  # deleted, as it was damaged: no validation was the best so far
            self.best_model_score, self.kth_value = None, torch.tensor(torch.inf)
            self.best_model_path = self.kth_best_model_path = ""
            self.best_k_models = {}


class _Regularly(Checkpoint):
    """Keeps what a run goes on from, every so many steps, and after every validation.

    Not before a validation that is due: whoever went on from there would leave it out (Lightning takes it for done),
    and with it, perhaps, the best weights of all.
    """

    def __init__(self, path: Path, every: int, validated: int) -> None:
        self._path, self._every, self._validated = path, every, validated

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self._every == 0 and trainer.global_step % self._validated:
            trainer.save_checkpoint(self._path)

    def on_validation_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.save_checkpoint(self._path)


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint of Lightning's. Raises ConfigError, with what to do, where it is damaged."""
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # of damaged files torch raises whatever it stumbles over
        raise ConfigError(
            f"{path} is damaged ({type(error).__name__}): delete it; without {RESUME} a run begins anew, without "
            f"{BEST} it goes on, and the next validation is the best"
        ) from error
    return found


class _Limit(Timer):
    """Ends a run after so many minutes of this process, whatever earlier ones took, with its state kept."""

    def __init__(self, minutes: float, path: Path) -> None:
        super().__init__(timedelta(minutes=minutes))
        self._path = path

    def on_train_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        super().on_train_end(trainer, *args, **kwargs)
        if trainer.should_stop:
            trainer.save_checkpoint(self._path)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def _validation_interval(config: TrainingConfig) -> int:
    """Steps from one validation to the next: about as many as wanted, and so that hardly any are left at the end."""
    times = max(round(config.steps / config.validate_every), 1)
    return config.steps // times


@contextmanager
def _tiny_numbers_are_zero() -> Iterator[None]:
    """Tails of heat maps fall below 1e-38, with which CPUs are many times slower; then the thread is as it was."""
    before = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@_tiny_numbers_are_zero()
def train(
    config: TrainingConfig, out: Path, hand_model: HandModel, landmark_weights: bytes | None, *,
    models_dir: Path | None = None, licence: str = "Apache-2.0", training_data: str = "", progress: bool = True,
    half: bool = False, extra: tuple[Callback, ...] = (),
) -> TrainingResult:  # fmt: skip
    """Trains, or goes on where an earlier run into the same folder was interrupted.

    landmark_weights: the content of hand_landmark_full.tflite, from which a landmark trunk starts; None for other
    trunks. models_dir: of the detector that labels video. licence, training_data: what the checkpoint says of itself;
    without training_data it names the sources. half: the checkpoint's tensors in float16. extra: further callbacks.

    Writes into `out`: `last.ckpt` (to go on from), `best.ckpt`, TensorBoard logs, `settings.json`, the validation
    samples' errors (`errors.json` their means, `sample_errors.pt` each) and `network.safetensors`.
    Raises ConfigError where `out` holds a run with other settings, once it got as far as something to go on from, and
    where what it holds is damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (out / RESUME).is_file() or (out / NETWORK).is_file():
        check_settings(out, config)
    write_record(out / SETTINGS, settings_of(config))
    pl.seed_everything(config.seed, workers=True, verbose=False)
    variant = variant_of(config.network, hand_model)
    network = fresh_network(variant, landmark_weights, config.network.trunk_weights)
    if config.start is not None:
        _start_from(config.start, network)
    module = TrainingModule(network, config, hand_model)
    fixed = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    data = TrainingData(config, module, module.manner, out, models_dir)

    best = _Best(
        out, "best", monitor="val/mpjpe_mm", mode="min", save_top_k=1, enable_version_counter=False,
    )  # fmt: skip  # whole: a file of weights only would hold the last ones, not the averaged ones that were validated
    regularly = _Regularly(
        out / RESUME, max(min(config.validate_every, config.steps) // 2, 1), _validation_interval(config)
    )
    callbacks: list[Callback] = [
        _Average(config.optimiser.ema), best, regularly, LearningRateMonitor("step"),
        PictureLog(SampleDataset(ShardReader(config.validation), module.manner)), *extra,
    ]  # fmt: skip
    if config.stop_minutes > 0:
        callbacks.insert(0, _Limit(config.stop_minutes, out / RESUME))  # before averaging ends
    try:
        trainer = pl.Trainer(
            accelerator=config.accelerator, devices=config.devices,
            precision=precision_here(config),  # type: ignore[arg-type]
            max_steps=config.steps, max_epochs=-1, callbacks=callbacks, gradient_clip_val=config.optimiser.clip,
            logger=TensorBoardLogger(str(out), name="", version="log"), default_root_dir=str(out),
            val_check_interval=_validation_interval(config), check_val_every_n_epoch=None,
            num_sanity_val_steps=0, log_every_n_steps=50, enable_progress_bar=progress, enable_model_summary=False,
            use_distributed_sampler=False, plugins=[_WholeCheckpoints()],
        )  # fmt: skip
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"accelerator '{config.accelerator}', devices {config.devices} and precision '{config.precision}' cannot "
            f"be had here ({error})"
        ) from error
    resume = out / RESUME
    if resume.is_file():
        _read(resume)
    with interrupts_as_such():
        trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume.is_file() else None, weights_only=True)
    steps = trainer.global_step
    kept = out / BEST  # by its place: what the trainer remembers is where it was before a folder was moved
    _put_best(module, kept if kept.is_file() else resume)
    # averaging has rounded them, and the caches are those of the exact ones
    module.load_state_dict(fixed, strict=False)
    directions = {}
    if variant.upright:
        directions = learn_directions(module, config, out, models_dir=models_dir, progress=progress)
    errors = evaluate(module, data.val_dataloader(), data.validation_hands())
    if trainer.is_global_zero:  # on several devices every one's process comes here, with the same errors
        write_whole(out / SAMPLE_ERRORS, _stored(errors))
    trainer.strategy.barrier()  # whoever reads them next may be another one
    measured = {name: values for name, values in errors.items() if name != "angle" and bool(values.isfinite().any())}
    found = {name: float(values.nanmean()) for name, values in measured.items()} | directions
    info = CheckpointInfo(
        training_data=training_data or ", ".join(f"{s.kind}: {s.path.name}" for s in config.sources),
        hand_model=hand_model.name, licence=licence, errors=learn_expected_errors(module, data.val_dataloader()),
    )  # fmt: skip
    save_checkpoint(out / NETWORK, module.network, info, half=half)
    write_record(out / "errors.json", {"steps": steps, **found})
    return TrainingResult(out / NETWORK, found, steps)


def _start_from(path: Path, network: WildHandsNetwork) -> None:
    """Puts a checkpoint's weights in. Raises ModelFileError for a damaged one, ConfigError for one that is not there or
    another network's."""
    if not path.exists():
        raise ConfigError(f"{path} is not there: 'start' names the checkpoint of an earlier run ({NETWORK})")
    found, info = load_checkpoint(path)
    weights = found.state_dict()
    ours = network.variant
    theirs_here = replace(  # any weights can get used to other crops
        info.variant, box_factor=ours.box_factor, roll_margin=ours.roll_margin
    )
    if ours.depths and theirs_here == replace(ours, depths=False):
        weights = _with_depths(weights, network)
    elif theirs_here != ours:
        wanted, theirs = ours.to_dict(), theirs_here.to_dict()
        changed = ", ".join(f"{k} {theirs[k]!r} instead of {wanted[k]!r}" for k in wanted if wanted[k] != theirs[k])
        raise ConfigError(f"{path} holds another network than the configuration describes: {changed}")
    network.load_state_dict(weights)


def _with_depths(weights: Mapping[str, Tensor], network: WildHandsNetwork) -> dict[str, Tensor]:
    """Weights of a network without depths, and those of a new head for them, to which nobody listens yet."""
    widened = {**network.state_dict(), **weights}
    known = network.variant.features + PLANE_OUTPUTS
    for name in ("head_r.cam_init.0.weight", "head_r.refine.0.weight"):
        before, after = weights[name][:, :known], weights[name][:, known:]
        widened[name] = torch.cat([before, before.new_zeros(len(before), 21), after], dim=1)
    return widened


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """What `settings.json` holds of a configuration."""
    wanted: dict[str, Any] = json.loads(json.dumps(config_to_dict(config)))
    return wanted


def check_settings(out: Path, config: TrainingConfig) -> None:
    """A folder belongs to one configuration: going on with another would mix two runs. Raises ConfigError there.

    Settings that did not exist yet when the run was made had their defaults.
    """
    path = out / SETTINGS
    if not path.is_file():
        return
    try:
        found = _completed(json.loads(path.read_text()), settings_of(TrainingConfig(sources=(SourceConfig(),))))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it if {out} holds the run that is meant") from error
    wanted = settings_of(config)
    changed = sorted(k for k in wanted if wanted[k] != found.get(k) and k not in ("stop_minutes", "workers"))
    if changed:
        raise ConfigError(
            f"{out} holds a run with other settings ({', '.join(changed)}): choose another folder, or delete it"
        )


def _completed(found: Any, defaults: Any) -> Any:
    """Stored settings with defaults for those that are missing."""
    if isinstance(defaults, dict):
        return {**found, **{name: _completed(found.get(name, value), value) for name, value in defaults.items()}}
    if isinstance(defaults, list) and defaults and isinstance(defaults[0], dict):  # sources
        return [_completed(item, defaults[0]) for item in found]
    return found


def is_first_process() -> bool:
    """Whether this process is the one that speaks for all where a run has several devices, each with its own."""
    return not getattr(rank_zero_only, "rank", 0)


def write_record(path: Path, content: Any) -> None:
    """Writes a JSON file that is whole at any time; on several devices several processes write it."""
    write_whole(path, json.dumps(content, indent=1).encode())


def _put_best(module: TrainingModule, best: Path) -> None:
    if best.is_file():
        module.load_state_dict(_read(best)["state_dict"])


@torch.inference_mode()
def evaluate(module: TrainingModule, loader: DataLoader[Drawn], hands: Sequence[ShownHand]) -> dict[str, Tensor]:
    """Errors of each sample by name (`ERRORS` and `MRRPE`, which is NaN for hands that are no pair), and 'angle',
    degrees between optical axis and crop; each (N,). hands: those of the loader's samples."""
    module.eval()
    rows, found = [], []
    for drawn in loader:
        drawn = drawn.to(module.device)
        _, where, _, _, joints = module.estimate(drawn)
        angle = where.rays.norm(dim=1).atan().rad2deg()
        rows.append(torch.cat([joint_errors(joints, drawn.batch, where), angle[:, None]], dim=1).cpu())
        found.append(joints.cpu())
    columns = torch.cat(rows).unbind(dim=1)
    errors = dict(zip((*ERRORS, "angle"), columns, strict=True))
    return {**errors, MRRPE: shown_pair_errors(torch.cat(found), hands)}
