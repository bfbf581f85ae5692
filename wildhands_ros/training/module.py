"""The network in training: one step, one validation, and which parameters move."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from wildhands_ros.errors import ConfigError, WildHandsError
from wildhands_ros.estimation.wildhands.decode import crop_view, in_camera
from wildhands_ros.estimation.wildhands.devices import constants
from wildhands_ros.estimation.wildhands.kpe import Encoding
from wildhands_ros.estimation.wildhands.landmark_trunk import (
    FINE_AFTER,
    FineLandmarkTrunk,
    LandmarkTrunk,
    load_landmark_weights,
)
from wildhands_ros.estimation.wildhands.network import NetworkOutput, WildHandsNetwork, camera_of_translation
from wildhands_ros.estimation.wildhands.trunk_weights import load_trunk_weights
from wildhands_ros.estimation.wildhands.trunks import FeatureTrunk, Trunk
from wildhands_ros.estimation.wildhands.variant import Crops, Perspective, Translation, Variant
from wildhands_ros.evaluation.metrics import pa_mpjpe_errors
from wildhands_ros.hand_model import HandModel
from wildhands_ros.hand_model.torch_hand import TorchHand
from wildhands_ros.samples import BOX_FACTOR
from wildhands_ros.training.batch import MASK_SIZE, Batch, Geometry, encoding, geometry, project_to_crop
from wildhands_ros.training.config import NetworkConfig, TrainingConfig
from wildhands_ros.training.dataset import Drawn, Manner, normalised, turned_crops
from wildhands_ros.training.losses import hand_losses, mask_loss
from wildhands_ros.training.silhouette import SilhouetteRasteriser


def variant_of(config: NetworkConfig, hand_model: HandModel) -> Variant:
    """The variant that a configuration names, for hands of this model."""
    root = hand_model.right.joint_template[0]
    return Variant(
        encoding=Encoding(config.encoding),
        trunk=Trunk(config.trunk),
        frame_trunk=False,
        grasp=True,
        crops=Crops.SHARP,
        perspective=Perspective(config.perspective),
        translation=Translation(config.translation),
        fusion=tuple(config.fusion),  # type: ignore[arg-type]
        features=config.features,
        hidden=config.hidden,
        box_factor=config.box_factor,
        mirror=True,
        root=tuple(float(v) for v in root),  # type: ignore[arg-type]
        keypoints=config.keypoints,
        depths=config.depths,
        upright=config.upright,
        roll_margin=max(BOX_FACTOR / config.box_factor, 1.0) if config.upright else 1.0,  # see `batch.rolled`
    )


def fresh_network(
    variant: Variant, landmark_weights: bytes | None, trunk_weights: Path | None = None
) -> WildHandsNetwork:  # fmt: skip
    """A network to start from: heads that guess a hand at arm's length.

    landmark_weights: the content of hand_landmark_full.tflite, which landmark trunks need. trunk_weights: for any other
    trunk, see `load_trunk_weights`; None for random ones.
    """
    network = WildHandsNetwork(variant)
    network.initialise()
    if isinstance(network.hand_backbone, LandmarkTrunk):
        if landmark_weights is None:
            raise ConfigError(f"the trunk '{variant.trunk.value}' needs the landmark network's weights")
        load_landmark_weights(network.hand_backbone, landmark_weights)
    elif trunk_weights is not None:
        load_trunk_weights(network.hand_backbone, trunk_weights)
    start = (5.0, 0.0, 0.4) if variant.translation is Translation.METRIC else (-1.3, 0.0, 0.0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.zeros_(module.bias)
        last = network.head_r.cam_init[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.mul_(0.1)
        last.bias.copy_(torch.tensor(start))
    return network


class TrainingModule(pl.LightningModule):
    """Lightning's view of a run. `network` is what is trained."""

    def __init__(self, network: WildHandsNetwork, config: TrainingConfig, hand_model: HandModel) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.manner = Manner.of(network.variant, hand_model)
        self.hand = TorchHand(hand_model.right)  # left hands are mirrored into right ones
        self.silhouettes = _silhouettes(hand_model) if config.losses.mask > 0 else None
        self._freeze()
        for part in network.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = config.network.dropout
        self._errors: list[Tensor] = []

    def _freeze(self) -> None:
        """Fixes what of the network is not to be trained, or not yet."""
        if isinstance(self.trunk, LandmarkTrunk):
            self._freeze_blocks(self.trunk)
        if self.network.variant.upright:
            self.network.direction_head.requires_grad_(False)  # learns afterwards, from hands as they are

    def _freeze_blocks(self, trunk: LandmarkTrunk) -> None:
        """Fixes the trunk's first blocks, and the spatial filters of the others unless they are to be trained."""
        config = self.config.network
        if isinstance(trunk, FineLandmarkTrunk) and config.trained_from > FINE_AFTER:
            raise ConfigError(
                f"the trunk 'landmarks-fine' has its finer map after {FINE_AFTER} blocks: network.trained_from can be "
                f"{FINE_AFTER} at most, not {config.trained_from}"
            )
        for part in (trunk.stem, trunk.blocks[: config.trained_from]):
            part.requires_grad_(False)
        if self.network.variant.encoding is Encoding.INPUT:
            trunk.stem.weight.requires_grad_()  # whose weights for the encoding start from zero
        if not config.depthwise:
            for module in trunk.modules():
                if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
                    module.weight.requires_grad_(False)

    @property
    def trunk(self) -> FeatureTrunk:
        return self.network.hand_backbone

    # --- one step -----------------------------------------------------------------------------------------------------

    def forward(self, drawn: Drawn) -> NetworkOutput:
        """The network's output for a batch; of it only the convolutions, most of the work, are in mixed precision."""
        network = self.network
        encoded = encoding(drawn.batch, network.variant)
        maps = self._maps(drawn, encoded)
        picture = maps.new_zeros(1, 0, *maps.shape[2:])
        features, planes = network.look(maps, picture, encoded)
        right = torch.ones(len(drawn.batch), dtype=torch.bool, device=maps.device)
        with _full_precision(maps):
            return network.read(features.float(), None if planes is None else planes.float(), picture, encoded, right)

    def fine_map(self, drawn: Drawn) -> Tensor:
        """The trunk's 14 × 14 map (N, 112, 14, 14) of a batch's crops; what is cached of them is that map."""
        assert isinstance(self.trunk, FineLandmarkTrunk)
        return self._early(self.trunk, drawn, encoding(drawn.batch, self.network.variant), FINE_AFTER)

    def _maps(self, drawn: Drawn, encoded: Tensor | None) -> Tensor:
        """What the trunk makes of a batch's crops. encoded: for networks that see it at the input."""
        if not isinstance(self.trunk, LandmarkTrunk):
            return self.trunk(self._pictures(drawn, encoded))
        blocks = self.config.network.trained_from
        return self.trunk.late(self._early(self.trunk, drawn, encoded, blocks), blocks)

    def _early(self, trunk: LandmarkTrunk, drawn: Drawn, encoded: Tensor | None, blocks: int) -> Tensor:
        """What comes out of the trunk's first blocks."""
        if drawn.maps is not None:
            return drawn.maps.float().to(memory_format=torch.channels_last)
        return trunk.early(self._pictures(drawn, encoded), blocks)

    def _pictures(self, drawn: Drawn, encoded: Tensor | None) -> Tensor:
        """What the trunk is given."""
        turned = self.network.variant.perspective is Perspective.CROP
        with _full_precision(drawn.batch.box):
            crops = normalised(turned_crops(drawn.batch) if turned else drawn.batch.crops)
        crops = crops.to(memory_format=torch.channels_last)
        return crops if encoded is None else self.network.trunk_input(crops, encoded)

    def estimate(self, drawn: Drawn) -> tuple[NetworkOutput, Geometry, Tensor, Tensor, Tensor]:
        """Output, geometry, pose and translation in the camera frame, and joints (N, 21, 3)."""
        output, variant = self(drawn), self.network.variant
        with _full_precision(output.pose):
            where = geometry(drawn.batch, variant)
            pose, translation = in_camera(variant, output, where.focal, where.rays, where.extents, where.turns)
            return output, where, pose, translation, self.hand(pose, output.betas, translation)

    def losses(self, drawn: Drawn) -> dict[str, Tensor]:
        """The weighted losses of a batch by name."""
        batch, variant, weights = drawn.batch, self.network.variant, self.config.losses
        output, where, pose, translation, joints = self.estimate(drawn)
        with _full_precision(joints):
            target = batch.translation + constants(batch.translation, variant.root)
            if variant.perspective is Perspective.CROP and where.turns is not None:
                target = (where.turns.transpose(1, 2) @ target[..., None])[..., 0]
            focal, rays = crop_view(variant, where.focal, where.rays)
            target = camera_of_translation(variant.translation, target, focal, rays, where.extents)
            found = hand_losses(
                batch, where, weights, pose=pose, betas=output.betas, camera=output.camera,
                camera_start=output.camera_start, camera_target=target, joints=joints, grasp=output.grasp,
                keypoints=output.keypoints, depths=output.depths,
            )  # fmt: skip
            if weights.mask > 0 and bool(batch.has_mask.any()):
                found["mask"] = weights.mask * self._mask_loss(batch, where, pose, output.betas, translation)
            return found

    def _mask_loss(self, batch: Batch, where: Geometry, pose: Tensor, betas: Tensor, translation: Tensor) -> Tensor:
        assert self.silhouettes is not None
        chosen = batch.has_mask.nonzero()[:, 0]
        vertices = self.hand.vertices(pose[chosen], betas[chosen], translation[chosen])
        part = Geometry(where.focal[chosen], where.focals[chosen], where.extents[chosen], where.rays[chosen], None)
        places = project_to_crop(vertices, part)
        silhouette = self.silhouettes((places + 1) * (MASK_SIZE / 2) - 0.5)
        return mask_loss(silhouette, batch.mask[chosen], batch.has_mask[chosen])

    def on_train_batch_start(self, batch: Drawn, batch_idx: int) -> None:
        seed_step(self.config.seed, self.global_step)

    def training_step(self, drawn: Drawn, index: int) -> Tensor:
        found = self.losses(drawn)
        total = torch.stack(list(found.values())).sum()
        # before it reaches the weights, of which nothing would be left; float16's scaler passes such steps over itself
        if self.config.precision != "16-mixed" and not bool(torch.isfinite(total)):
            wrong = ", ".join(name for name, value in found.items() if not bool(torch.isfinite(value)))
            raise WildHandsError(
                f"the loss is not a number at step {self.global_step + 1} ({wrong or 'their sum'}): lower "
                "optimiser.learning_rate, or look for labels that are far off, and train into another folder"
            )
        self.log_dict({f"train/{name}": value.detach() for name, value in found.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        return total

    # --- validation ---------------------------------------------------------------------------------------------------

    def validation_step(self, drawn: Drawn, index: int) -> None:
        batch = drawn.batch
        _, where, _, _, joints = self.estimate(drawn)
        self._errors.append(joint_errors(joints, batch, where))

    def on_validation_epoch_end(self) -> None:
        errors = torch.cat(self._errors).nanmean(dim=0)
        self._errors.clear()
        for name, value in zip(ERRORS, errors, strict=True):
            self.log(f"val/{name}", value, prog_bar=name in ("mpjpe_mm", "wrist_percent"), sync_dist=True)

    # --- optimiser ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        settings = self.config.optimiser
        trunk = [p for p in self.trunk.parameters() if p.requires_grad]
        inside = {id(p) for p in self.trunk.parameters()}
        heads = [p for p in self.network.parameters() if p.requires_grad and id(p) not in inside]
        optimiser = torch.optim.AdamW(
            [{"params": heads, "lr": settings.learning_rate},
             {"params": trunk, "lr": settings.learning_rate * settings.trunk}],
            weight_decay=settings.weight_decay,
        )  # fmt: skip

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(settings.warmup, 1))
            return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / self.config.steps, 1))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def seed_step(seed: int, step: int) -> None:
    """Dropout, too, depends on seed and step alone, so that a run that was interrupted goes on as it would have,
    whatever its process did before."""
    torch.manual_seed(seed * 1_000_003 + step)


def _silhouettes(hand_model: HandModel) -> SilhouetteRasteriser:
    try:
        return SilhouetteRasteriser(hand_model.right.faces, MASK_SIZE)
    except ValueError as error:
        raise ConfigError(
            f"losses.mask needs a hand model whose faces are a surface, which those of '{hand_model.name}' are not "
            f"({error}): set losses.mask to 0, or train with another hand model"
        ) from error


def _full_precision(like: Tensor) -> torch.autocast:
    """Rotations and places in half precision would be millimetres coarse, whatever precision a run has."""
    return torch.autocast(like.device.type, enabled=False)


ERRORS = ("mpjpe_mm", "pa_mpjpe_mm", "wrist_mm", "wrist_percent", "keypoint_percent")


@torch.no_grad()
def joint_errors(joints: Tensor, batch: Batch, where: Geometry) -> Tensor:
    """(N, 5) errors of joints (N, 21, 3) in the order of `ERRORS`; 2D error relative to the keypoints' longer edge.

    NaN for samples without 3D labels.
    """
    truth = batch.joints
    relative, true_relative = joints - joints[:, :1], truth - truth[:, :1]
    mpjpe = (relative - true_relative).norm(dim=-1).mean(dim=1)
    wrist = (joints[:, 0] - truth[:, 0]).norm(dim=-1)
    seen, wanted = project_to_crop(joints, where), project_to_crop(truth, where)
    size = (wanted.amax(dim=1) - wanted.amin(dim=1)).amax(dim=1)
    off = (seen - wanted).norm(dim=-1).mean(dim=1) / size
    aligned = pa_mpjpe_errors(joints.double().cpu().numpy(), truth.double().cpu().numpy())
    errors = torch.stack(
        [1e3 * mpjpe, 1e3 * torch.from_numpy(aligned).to(mpjpe), 1e3 * wrist, 100 * wrist / truth[:, 0].norm(dim=-1),
         100 * off], dim=1,
    )  # fmt: skip
    return torch.where(batch.has_joints[:, None] > 0, errors, torch.nan)
