"""Training: what the network is given is what the estimator gives it, losses, sampling, and whole small runs."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from pretend_cuda import pretended_gpu

from wildhands_ros.camera import Camera
from wildhands_ros.cli import main
from wildhands_ros.detection.models import LANDMARK_MODEL, load_model
from wildhands_ros.errors import ConfigError, ModelFileError, WildHandsError
from wildhands_ros.estimation.wildhands import (
    CheckpointInfo,
    Perspective,
    Translation,
    Variant,
    WildHands,
    WildHandsConfig,
    expected_errors,
    load_checkpoint,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.accelerated import Unusable
from wildhands_ros.estimation.wildhands.crops import CropMaker
from wildhands_ros.estimation.wildhands.decode import crop_view, decode
from wildhands_ros.estimation.wildhands.kpe import crop_ray_rotation
from wildhands_ros.estimation.wildhands.landmark_trunk import (
    FINE_CHANNELS,
    FineLandmarkTrunk,
    LandmarkTrunk,
    load_landmark_weights,
)
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.network import (
    KeypointHead,
    NetworkOutput,
    camera_of_translation,
    hand_translation,
)
from wildhands_ros.estimation.wildhands.places import CropPlace
from wildhands_ros.estimation.wildhands.runtime import Backend, RuntimeConfig
from wildhands_ros.estimation.wildhands.trunks import Trunk, initialise, make_trunk
from wildhands_ros.estimation.wildhands.upright import roll_of, roll_of_direction, rolled_back
from wildhands_ros.evaluation.metrics import mpjpe_errors
from wildhands_ros.evaluation.running import frame_from_scene
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hands import SKELETON, HandBox, Side
from wildhands_ros.rotations import exp_so3
from wildhands_ros.samples import HIDDEN, ManoLabels, Sample, SampleError, ShardReader, ShardWriter
from wildhands_ros.training import ablation as ablation_module
from wildhands_ros.training import cache as cache_module
from wildhands_ros.training import dataset as dataset_module
from wildhands_ros.training import module as module_module
from wildhands_ros.training import precision as precision_module
from wildhands_ros.training import run as run_module
from wildhands_ros.training.ablation import (
    VARIANTS,
    AblationResult,
    ablation_table,
    read_result,
    run_ablation,
    run_auxiliary,
)
from wildhands_ros.training.batch import (
    NO_GRASP,
    Batch,
    Geometry,
    batch_of,
    collate,
    encoding,
    geometry,
    project_to_crop,
    relative_depths,
    rolled,
    rolls_of,
)
from wildhands_ros.training.cache import CachedDataset, _cache_key
from wildhands_ros.training.config import (
    LABELS,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    SourceConfig,
    TrainingConfig,
    read_training_config,
)
from wildhands_ros.training.data import TrainingData
from wildhands_ros.training.dataset import Drawn, FirstSamples, Manner, SampleDataset, normalised, open_source
from wildhands_ros.training.directions import DirectionModule
from wildhands_ros.training.losses import hand_losses, mask_loss, masked_mean
from wildhands_ros.training.mixing import MixedDataset, MixingSampler
from wildhands_ros.training.module import TrainingModule, fresh_network, joint_errors, variant_of
from wildhands_ros.training.pairs import shown_hands, shown_pair_errors
from wildhands_ros.training.precision import bfloat16_is_slower, precision_here
from wildhands_ros.training.run import check_settings, settings_of, train

MODEL = load_hand_model()
SMALL = NetworkConfig(fusion=(32, 32, 32), features=64, hidden=64, trained_from=12)
UPRIGHT = replace(SMALL, trunk="landmarks-fine", trained_from=11, upright=True)


def drawn_hand(rng: np.random.Generator, key: str) -> Sample:
    """A hand as a drawing of its bones: enough for a network to learn something from."""
    side = Side.LEFT if rng.uniform() < 0.5 else Side.RIGHT
    camera = Camera(1280, 720, 700, 704, 645, 352)
    pose = exp_so3(np.concatenate([rng.normal(0, 0.5, (1, 3)), rng.normal(0, 0.1, (15, 3))]))
    betas, depth = rng.normal(0, 0.3, 10), rng.uniform(0.3, 0.6)
    translation = np.array([rng.uniform(-0.4, 0.4) * depth, rng.uniform(-0.2, 0.2) * depth, depth])
    _, joints = MODEL.layer(side).numpy(pose, betas, translation)
    keypoints = camera.project(joints)
    low, high = keypoints.min(axis=0), keypoints.max(axis=0)
    center, extent = (low + high) / 2, float(1.5 * (high - low).max())
    places = ((keypoints - center) * 224 / extent + 111.5).astype(int)
    image, mask = np.full((224, 224, 3), 60, np.uint8), np.zeros((224, 224), np.uint8)
    for a, b in SKELETON:
        cv2.line(image, places[a].tolist(), places[b].tolist(), (230, 180, 150), 9)
        cv2.line(mask, places[a].tolist(), places[b].tolist(), 255, 9)
    mask[:10] = HIDDEN
    return Sample(
        key, "drawn", image, camera, (float(center[0]), float(center[1])), extent, side, (*low, *high), joints=joints,
        mano=ManoLabels(pose, betas, translation, "open"), keypoints=keypoints, keypoint_weights=np.ones(21),
        visible=np.ones(21, bool), mask=mask, grasp=int(rng.integers(9)),
    )  # fmt: skip


def write_shards(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with ShardWriter(folder / "0.tar") as shard:
        for index in range(count):
            shard.add(drawn_hand(rng, f"{index:04d}"))
    return folder


# --- what the network is given ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("perspective", ["none", "correction"])
@pytest.mark.parametrize("kind", ["sparse", "dense", "location", "camconv"])
def test_inputs_are_those_of_the_estimator(perspective: str, kind: str) -> None:
    variant = variant_of(replace(SMALL, perspective=perspective, encoding=kind), MODEL)
    rng = np.random.default_rng(4)
    for index in range(6):
        sample = drawn_hand(rng, str(index))
        maker = CropMaker(variant, variant.box_factor)
        frame = maker.frame(sample.camera)
        x, y = ((c - h) * frame.scale + frame.middle for c, h in zip(sample.center, frame.half, strict=True))
        extent = sample.extent * frame.scale
        place = CropPlace.square((x, y), extent)
        picture = np.zeros((sample.camera.height, sample.camera.width, 3), np.uint8)
        prepared = maker.prepare(picture, sample.camera, [place], [sample.side is Side.RIGHT])
        batch = batch_of(sample)
        where = geometry(batch, variant)
        torch.testing.assert_close(encoding(batch, variant), prepared.inputs.encoding, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(where.rays, prepared.rays, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(where.extents, prepared.extents, atol=1e-4, rtol=1e-5)
        if where.turns is not None:
            torch.testing.assert_close(where.turns, prepared.turns, atol=1e-6, rtol=1e-5)


def test_labels_of_left_hands_are_mirrored_into_right_ones() -> None:
    rng = np.random.default_rng(5)
    variant = variant_of(SMALL, MODEL)
    samples = [drawn_hand(rng, str(i)) for i in range(12)]
    assert {s.side for s in samples} == set(Side)
    batch = collate([batch_of(s) for s in samples])
    for i, sample in enumerate(samples):
        posed = [getattr(batch, name)[i].double().numpy() for name in ("pose", "betas", "translation")]
        _, joints = MODEL.right.numpy(*posed)
        np.testing.assert_allclose(joints, batch.joints[i].numpy(), atol=1e-5)
        assert bool(batch.mirrored[i]) == (sample.side is Side.LEFT)
    seen = project_to_crop(batch.joints, geometry(batch, variant))
    torch.testing.assert_close(seen, batch.keypoints, atol=1e-3, rtol=0)
    # and the pictures and masks go with them: bones are drawn in a colour of their own, of all joints, also of the tips
    for i in range(len(samples)):
        x, y = ((batch.keypoints[i].numpy() + 1) * 112 - 0.5).round().astype(int).T
        assert (batch.crops[i, 0, y, x] > 150).all()
        x, y = ((batch.keypoints[i].numpy() + 1) * 28 - 0.5).round().astype(int).T
        assert np.nanmin(batch.mask[i, y, x]) > 0.2


def test_samples_of_numpys_numbers_are_like_any_others() -> None:
    """What a source of one's own computes is of NumPy's types, in which shards do not give it back."""
    sample = drawn_hand(np.random.default_rng(28), "0")
    (x, y), box = sample.center, sample.box
    assert sample.mano is not None and sample.grasp is not None
    numpys = replace(
        sample, center=(np.float64(x), np.float64(y)), extent=np.float64(sample.extent),  # type: ignore[arg-type]
        box=tuple(np.array(box)), grasp=np.uint8(sample.grasp),  # type: ignore[arg-type]
    )  # fmt: skip
    for manner in (Manner(), Manner(box_factor=1.3), Manner(upright=MODEL.right)):
        expected, found = manner.batch([sample]), manner.batch([numpys])
        for field in fields(Batch):
            torch.testing.assert_close(getattr(found, field.name), getattr(expected, field.name), equal_nan=True)


def test_a_rolled_camera_sees_the_same_hands_upright() -> None:
    rng = np.random.default_rng(15)
    variant = variant_of(UPRIGHT, MODEL)
    samples = [drawn_hand(rng, str(i)) for i in range(12)]
    plain = collate([batch_of(s) for s in samples])
    exact = torch.tensor([roll_of(k) for k in plain.keypoints.numpy()])
    batch = rolled(plain, exact, MODEL.right)
    up = batch.keypoints[:, 9] - batch.keypoints[:, 0]
    torch.testing.assert_close(up[:, 0], torch.zeros(12), atol=0.03, rtol=0)  # (fx and fy differ a little)
    assert bool((up[:, 1] < 0).all())
    torch.testing.assert_close(batch.joints.norm(dim=-1), plain.joints.norm(dim=-1))
    seen = project_to_crop(batch.joints, geometry(batch, variant))
    torch.testing.assert_close(seen, batch.keypoints, atol=1e-3, rtol=0)
    for i in range(len(samples)):
        posed = [getattr(batch, name)[i].double().numpy() for name in ("pose", "betas", "translation")]
        np.testing.assert_allclose(MODEL.right.numpy(*posed)[1], batch.joints[i].numpy(), atol=1e-5)
        x, y = ((batch.keypoints[i, 9].numpy() + 1) * 112 - 0.5).round().astype(int)
        assert batch.crops[i, 0, y, x] > 150  # the picture turns with its labels
        x, y = ((batch.keypoints[i, 9].numpy() + 1) * 28 - 0.5).round().astype(int)
        assert batch.mask[i, y, x] > 0.5
    assert torch.isnan(batch.mask).sum() > torch.isnan(plain.mask).sum()  # what is out of the crop is unknown


@pytest.mark.parametrize("upright", [True, False])
def test_crops_are_as_large_as_the_network_wants_them(upright: bool) -> None:
    rng = np.random.default_rng(25)
    samples = [drawn_hand(rng, str(i)) for i in range(8)]
    own = collate([batch_of(s) for s in samples])
    config = replace(UPRIGHT if upright else SMALL, box_factor=1.2)
    variant = variant_of(config, MODEL)
    batch = Manner.of(variant, MODEL).batch(samples)
    shares = [max(s.box[2] - s.box[0], s.box[3] - s.box[1]) / s.extent for s in samples]
    longer = torch.tensor(shares, dtype=torch.float32)
    edges = batch.box[:, 2:] - batch.box[:, :2]
    torch.testing.assert_close(edges, (own.box[:, 2:] - own.box[:, :2]) * 1.2 * longer[:, None], atol=1e-3, rtol=1e-4)
    seen = project_to_crop(batch.joints, geometry(batch, variant))
    torch.testing.assert_close(seen, batch.keypoints, atol=1e-3, rtol=0)
    for i in range(len(samples)):
        x, y = ((batch.keypoints[i, 9].numpy() + 1) * 112 - 0.5).round().astype(int)
        assert batch.crops[i, 0, y, x] > 150  # the picture is cut with its labels
        x, y = ((batch.keypoints[i, 9].numpy() + 1) * 28 - 0.5).round().astype(int)
        assert batch.mask[i, y, x] > 0.5


def test_what_lies_beyond_the_picture_is_unknown_of_a_mask() -> None:
    sample = drawn_hand(np.random.default_rng(27), "a")
    assert sample.mask is not None
    sample = replace(sample, center=(20.0, sample.center[1]), extent=200.0)  # 80 of 200 pixels reach over the left edge
    mask = batch_of(sample).mask[0]
    beyond = mask.flip(-1) if sample.side is Side.LEFT else mask
    assert bool(torch.isnan(beyond[:, :22]).all()) and not bool(torch.isnan(beyond[4:, 24:]).any())


@pytest.mark.parametrize("side", list(Side))
def test_small_masks_are_shares_of_what_is_known(side: Side) -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[:, :114] = 255  # 28 and a half of the cells of 4 by 4 pixels
    mask[40, 12:15] = HIDDEN  # three pixels of a cell that is the hand's
    mask[80, 112:114] = HIDDEN  # two of the eight that a cell has of it
    mask[120:122, 12:14] = HIDDEN  # four: nobody knows
    sample = replace(
        drawn_hand(np.random.default_rng(31), "a"), side=side, center=(640.0, 360.0), extent=224.0,
        box=(565.0, 285.0, 715.0, 435.0), mask=mask,
    )  # fmt: skip
    expected = np.repeat([[1.0] * 28 + [0.5] + [0.0] * 27], 56, axis=0)
    expected[20, 28], expected[30, 3] = 6 / 14, np.nan
    if side is Side.LEFT:
        expected = expected[:, ::-1]
    np.testing.assert_allclose(batch_of(sample).mask[0].numpy(), expected, rtol=1e-5)


def test_turned_masks_are_shares_of_what_is_known() -> None:
    mask = np.full((224, 224), 255, np.uint8)
    mask[:, :90] = HIDDEN
    sample = replace(
        drawn_hand(np.random.default_rng(31), "a"), side=Side.RIGHT, center=(640.0, 360.0), extent=224.0,
        box=(565.0, 285.0, 715.0, 435.0), mask=mask,
    )  # fmt: skip
    turned = rolled(batch_of(sample), torch.tensor([0.3]), MODEL.right).mask[0]
    known = turned[turned.isfinite()]
    assert 1000 < len(known) < 2200
    torch.testing.assert_close(known, torch.ones_like(known))  # all that is known is the hand, also at the border


def test_samples_as_large_as_wanted_are_not_resampled() -> None:
    samples = [drawn_hand(np.random.default_rng(26), str(i)) for i in range(4)]
    factor = samples[0].extent / max(samples[0].box[2] - samples[0].box[0], samples[0].box[3] - samples[0].box[1])
    found = Manner(box_factor=factor).batch(samples[:1])
    assert torch.equal(found.crops, batch_of(samples[0]).crops)
    assert Manner().name == "" and Manner(box_factor=1.3).name == "-1.3"  # caches of other crops are others


def test_rolls_are_about_right_and_their_samples_own() -> None:
    rng = np.random.default_rng(16)
    samples = [drawn_hand(rng, str(i)) for i in range(200)]
    batch, keys = collate([batch_of(s) for s in samples]), [s.key for s in samples]
    rolls = rolls_of(batch, keys)
    off = rolls - torch.tensor([roll_of(k) for k in batch.keypoints.numpy()])
    off = torch.atan2(off.sin(), off.cos()).abs()
    assert 0.02 < float(off.median()) < 0.25 and 5 < int((off > 0.6).sum()) < 60
    torch.testing.assert_close(rolls_of(batch[torch.arange(50, 60)], keys[50:60]), rolls[50:60])
    nothing = batch_of(samples[0], only=frozenset(["joints"]))
    assert rolls_of(nothing, keys[:1]).tolist() == [0.0]


@pytest.mark.parametrize("factor", [1.5, 1.2])
@pytest.mark.parametrize("perspective", ["none", "correction", "crop"])
def test_rolled_inputs_are_those_of_the_estimator(perspective: str, factor: float) -> None:
    variant = variant_of(replace(UPRIGHT, perspective=perspective, box_factor=factor), MODEL)
    rng = np.random.default_rng(17)
    for index in range(6):
        sample = drawn_hand(rng, str(index))
        right = sample.side is Side.RIGHT
        maker = CropMaker(variant, variant.box_factor)
        frame = maker.frame(sample.camera)
        x, y = ((c - h) * frame.scale + frame.middle for c, h in zip(sample.center, frame.half, strict=True))
        zoom = factor / 1.5
        place = CropPlace.square((x, y), sample.extent * frame.scale * zoom)
        assert sample.keypoints is not None
        roll = roll_of(sample.keypoints)
        picture = frame_from_scene([sample]).image
        prepared = maker.prepare(picture, sample.camera, [place], [right], [roll])
        rolls = torch.tensor([roll if right else -roll])
        batch = rolled(batch_of(sample), rolls, MODEL.right, torch.tensor([zoom]))
        where = geometry(batch, variant)
        torch.testing.assert_close(encoding(batch, variant), prepared.inputs.encoding, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(where.rays, prepared.rays, atol=1e-5, rtol=1e-5)
        if where.turns is not None:
            torch.testing.assert_close(where.turns, prepared.turns, atol=1e-5, rtol=1e-5)
        if perspective != "crop":
            wanted = normalised(batch.crops)
            assert float((wanted - prepared.inputs.crops).abs().mean()) < 0.08  # (the picture is drawn again)
            black = normalised(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
            both = (wanted, prepared.inputs.crops)
            shares = [float(((crops - black).abs().amax(1) < 0.05).float().mean()) for crops in both]
            assert shares[0] == pytest.approx(shares[1], abs=0.03), shares  # corners show as much of the picture
        # and the answer to the truth is the truth
        camera = camera_of_translation(
            variant.translation, _place(batch, where, variant), *crop_view(variant, where.focal, where.rays),
            where.extents,
        )  # fmt: skip
        seen = batch.pose.clone()
        if where.turns is not None:
            seen[:, 0] = where.turns.transpose(1, 2) @ seen[:, 0]
        output = NetworkOutput(seen, batch.betas, camera, camera, None, None)
        found = decode(variant, prepared, output)
        assert sample.mano is not None
        wrist = MODEL.layer(sample.side).rest_joints(sample.mano.betas)[0]
        pose, translation = rolled_back(found.pose[0], found.translation[0], wrist, roll)
        np.testing.assert_allclose(pose, sample.mano.pose, atol=1e-4)
        np.testing.assert_allclose(translation, sample.mano.translation, atol=1e-4)


def _place(batch: Batch, where: Geometry, variant: Variant) -> torch.Tensor:
    """Where the hands' wrists are, for their heads' cameras."""
    wrist = batch.translation + batch.translation.new_tensor(variant.root)
    if variant.perspective is Perspective.CROP and where.turns is not None:
        wrist = (where.turns.transpose(1, 2) @ wrist[..., None])[..., 0]
    return wrist


@given(st.floats(0.1, 3), st.floats(-1, 1), st.floats(-1, 1), st.floats(20, 300), st.sampled_from(list(Translation)))
def test_a_camera_gives_back_the_translation_it_was_made_from(
    z: float, x: float, y: float, extent: float, kind: Translation
) -> None:
    place = torch.tensor([[x * z, y * z, z]], dtype=torch.double)
    rays, edge = torch.tensor([[0.3, -0.2]], dtype=torch.double), torch.tensor([extent], dtype=torch.double)
    focal = torch.tensor([200.0], dtype=torch.double)
    if kind is Translation.METRIC and 2 * 200 / (224 * z) < 0.1:
        return
    camera = camera_of_translation(kind, place, focal, rays, edge)
    torch.testing.assert_close(hand_translation(kind, camera, focal, rays, edge), place)


def test_fixed_filters_change_neither_answers_nor_gradients() -> None:
    torch.manual_seed(0)
    trunk, x = LandmarkTrunk(), torch.randn(2, 40, 28, 28)

    def gradients(fixed: bool) -> list[torch.Tensor]:
        for module in trunk.modules():
            if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
                module.weight.requires_grad_(not fixed)
        trunk.zero_grad(set_to_none=True)
        out = trunk.blocks[4:8](x)
        out.square().mean().backward()
        layers = [m for m in trunk.blocks[4:8].modules() if isinstance(m, torch.nn.Conv2d)]
        found = [out.detach()] + [m.bias.grad for m in layers if m.bias is not None and m.bias.grad is not None]
        assert all((m.weight.grad is None) == (fixed and m.groups > 1) for m in layers)
        assert len(found) == 1 + len(layers)
        return found

    for free, fixed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(fixed, free, rtol=1e-4, atol=1e-7)


# --- losses -----------------------------------------------------------------------------------------------------------


def _perfect(batch_samples: list[Sample], only: frozenset[str] | None = None) -> dict[str, torch.Tensor]:
    batch = collate([batch_of(s) if only is None else batch_of(s, only=only) for s in batch_samples])
    full = collate([batch_of(s) for s in batch_samples])
    camera = torch.zeros(len(batch), 3)
    return hand_losses(
        batch, geometry(batch, variant_of(SMALL, MODEL)), LossConfig(), pose=full.pose, betas=full.betas,
        camera=camera, camera_start=camera, camera_target=camera, joints=full.joints, grasp=None,
    )  # fmt: skip


def test_the_truth_costs_nothing() -> None:
    rng = np.random.default_rng(6)
    for name, value in _perfect([drawn_hand(rng, str(i)) for i in range(4)]).items():
        assert float(value) == pytest.approx(0, abs=1e-4), name


@pytest.mark.parametrize("label", ["joints", "mano", "keypoints", "grasp"])
def test_each_loss_needs_its_own_label_only(label: str) -> None:
    needs = {"joints": {"joints", "translation"}, "mano": {"camera", "camera_start", "pose", "betas"},
             "keypoints": {"keypoints"}, "grasp": {"grasp"}}  # fmt: skip
    rng = np.random.default_rng(7)
    batch = collate([batch_of(drawn_hand(rng, str(i)), only=frozenset([label])) for i in range(4)])
    wrong = torch.eye(3).expand(4, 16, 3, 3)
    wrong_camera = torch.ones(4, 3)
    losses = hand_losses(
        batch, geometry(batch, variant_of(SMALL, MODEL)), LossConfig(), pose=wrong, betas=torch.ones(4, 10),
        camera=wrong_camera, camera_start=wrong_camera, camera_target=torch.zeros(4, 3),
        joints=torch.randn(4, 21, 3) * 0.1 + torch.tensor([0, 0, 1.0]), grasp=torch.zeros(4, 9),
    )  # fmt: skip
    assert {name for name, value in losses.items() if float(value) > 0} == needs[label]


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_losses_worked_out_hand_by_hand(scale: float) -> None:
    """Every loss is a mean over the hands that have its label, in the units that `LossConfig` names."""
    rng = np.random.default_rng(40)
    samples = [drawn_hand(rng, str(i)) for i in range(4)]
    samples[1], samples[2] = replace(samples[1], mano=None, grasp=0), replace(samples[2], joints=None, grasp=None)
    samples[3] = replace(samples[3], keypoint_weights=np.where(np.arange(21) % 3, 0.5 + 0.5 * (np.arange(21) % 2), 0))
    batch = collate([batch_of(sample) for sample in samples])
    batch = replace(batch, keypoints=2 * batch.keypoints)  # some beyond the crop
    where = geometry(batch, variant_of(SMALL, MODEL))
    joints = batch.joints + torch.from_numpy(rng.normal(0, 0.1, (4, 21, 3))).float() + torch.tensor([0.1, 0, 0.2])
    joints[0] += torch.tensor([9.0, 0, 0])  # far beside its crop
    found = {name: torch.from_numpy(rng.normal(size=shape)).float() for name, shape in (
        ("pose", (4, 16, 3, 3)), ("betas", (4, 10)), ("camera", (4, 3)), ("camera_start", (4, 3)),
        ("camera_target", (4, 3)), ("grasp", (4, 9)), ("keypoints", (4, 21, 2)), ("depths", (4, 21)),
    )}  # fmt: skip
    weights = LossConfig(camera=2, keypoints=3, heat=5, depth=7, joints=11, pose=13, betas=17, translation=19, grasp=23,
                         robust=scale)  # fmt: skip
    losses = hand_losses(batch, where, weights, joints=joints, **found)

    pose, betas, camera, start, target, logits, heat, depths = (value.double().numpy() for value in found.values())
    places, depth = project_to_crop(joints, where).double().numpy(), relative_depths(batch.joints, where).numpy()
    hands, truth = joints.double().numpy(), batch.joints.double().numpy()

    def error(off: np.ndarray) -> np.ndarray:
        return off**2 if scale == 0 else scale * np.sqrt(1 + off**2 / scale**2) - scale

    expected: dict[str, list[float]] = {name: [] for name in losses}
    for i, sample in enumerate(samples):
        if sample.mano is not None:
            expected["camera"].append(2 * error(camera[i] - target[i]).mean())
            expected["camera_start"].append(2 * error(start[i] - target[i]).mean())
            expected["pose"].append(
                13 * sum(((pose[i, k] - batch.pose[i, k].numpy()) ** 2).sum() for k in range(16)) / 16
            )
            expected["betas"].append(17 * ((betas[i] - batch.betas[i].numpy()) ** 2).mean())
        if sample.joints is not None:
            moved = hands[i] - hands[i, 0] - (truth[i] - truth[i, 0])
            expected["joints"].append(11 * error(10 * moved).mean())
            wrist = np.linalg.norm(hands[i, 0] - truth[i, 0]) / np.linalg.norm(truth[i, 0])
            expected["translation"].append(19 * wrist)
            expected["depth"].append(7 * error(depths[i] - depth[i]).mean())
        if sample.grasp is not None:
            chances = np.exp(logits[i]) / np.exp(logits[i]).sum()
            expected["grasp"].append(-23 * np.log(chances[sample.grasp]))
        assert sample.keypoint_weights is not None
        share, wanted = sample.keypoint_weights / sample.keypoint_weights.sum(), batch.keypoints[i].double().numpy()
        expected["keypoints"].append(3 * share @ error(np.clip(places[i] - wanted, -4, 4)).mean(axis=1))
        expected["heat"].append(5 * share @ error(heat[i] - np.clip(wanted, -1, 1)).mean(axis=1))
    for name, value in losses.items():
        assert float(value) == pytest.approx(np.mean(expected[name]), rel=1e-4), name


def test_labels_that_are_not_finite_count_as_missing() -> None:
    sample = drawn_hand(np.random.default_rng(18), "0")
    assert sample.joints is not None and sample.mano is not None and sample.keypoints is not None
    odd = np.where(np.arange(21) == 4, np.nan, 1.0)
    broken = replace(
        sample, joints=sample.joints * odd[:, None], mano=replace(sample.mano, betas=np.full(10, np.inf)),
        keypoint_weights=odd,
    )  # fmt: skip
    batch = batch_of(broken)
    assert (float(batch.has_joints), float(batch.has_mano), float(batch.keypoint_weights.sum())) == (0, 0, 20)
    for name in ("joints", "pose", "betas", "translation", "keypoints", "keypoint_weights"):
        assert bool(torch.isfinite(getattr(batch, name)).all()), name


def test_parameters_of_another_hand_model_count_as_missing() -> None:
    sample = drawn_hand(np.random.default_rng(18), "0")
    assert sample.mano is not None
    other = replace(sample, mano=replace(sample.mano, hand_model="mano"))
    manner = Manner.of(variant_of(SMALL, MODEL), MODEL)
    batch = manner.batch([sample, other])
    assert batch.has_mano.flatten().tolist() == [1, 0] and batch.has_joints.flatten().tolist() == [1, 1]


@pytest.mark.parametrize("scale", [0.0, 0.02])
def test_hands_without_labels_pull_nowhere(scale: float) -> None:
    """One hand of which nothing is known must not make the gradients of all others no numbers."""
    rng = np.random.default_rng(41)
    samples = [drawn_hand(rng, str(i)) for i in range(2)]
    batch = collate([batch_of(samples[0]), batch_of(samples[1], only=())])
    given = {
        name: torch.from_numpy(rng.normal(size=shape)).float().requires_grad_()
        for name, shape in (
            ("pose", (2, 16, 3, 3)), ("betas", (2, 10)), ("camera", (2, 3)), ("camera_start", (2, 3)),
            ("joints", (2, 21, 3)), ("grasp", (2, 9)), ("keypoints", (2, 21, 2)), ("depths", (2, 21)),
        )
    }  # fmt: skip
    losses = hand_losses(
        batch, geometry(batch, variant_of(SMALL, MODEL)), LossConfig(robust=scale), camera_target=torch.zeros(2, 3),
        **given,
    )  # fmt: skip
    torch.stack(list(losses.values())).sum().backward()
    for name, value in given.items():
        assert value.grad is not None and bool(torch.isfinite(value.grad).all()), name
        assert float(value.grad[0].abs().max()) > 0 and float(value.grad[1].abs().max()) == 0, name


def test_values_without_weight_do_not_matter() -> None:
    values = torch.tensor([[2.0], [torch.nan]], requires_grad=True)
    mean = masked_mean(values, torch.tensor([1.0, 0.0]))
    mean.backward()
    assert mean.item() == 2 and values.grad is not None and values.grad.tolist() == [[1.0], [0.0]]


def test_means_count_by_their_weights() -> None:
    values = torch.tensor([[1.0, 3.0], [6.0, 10.0], [7.0, 7.0]])
    assert float(masked_mean(values, torch.tensor([1.0, 3.0, 0.0]))) == pytest.approx((2 + 3 * 8) / 4)
    assert float(masked_mean(values, torch.zeros(3))) == 0


def test_mask_loss_is_the_mean_over_what_is_known_of_each_mask() -> None:
    nan = math.nan
    masks = torch.tensor([[[1.0, 0.0], [nan, nan]], [[1.0, 1.0], [0.0, 0.0]], [[nan, nan], [nan, nan]]])
    silhouettes = torch.tensor([[[0.5, 0.1], [0.9, 0.9]], [[0.6, 0.8], [0.2, 0.0]], [[0.3, 0.3], [0.3, 0.3]]])
    first, second = (0.5 + 0.1) / 2, (0.4 + 0.2 + 0.2) / 4
    assert float(mask_loss(silhouettes, masks, torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx((first + second) / 2)
    assert float(mask_loss(silhouettes, masks, torch.tensor([0.0, 1.0, 0.0]))) == pytest.approx(second)


def test_training_stops_before_its_weights_are_lost(landmark_weights: bytes) -> None:
    config = TrainingConfig(sources=(SourceConfig(),), network=SMALL)
    module = TrainingModule(fresh_network(variant_of(SMALL, MODEL), landmark_weights), config, MODEL)
    batch = batch_of(drawn_hand(np.random.default_rng(19), "0"))
    with pytest.raises(WildHandsError, match="not a number at step 1 \\(.*pose.*learning_rate"):
        module.training_step(Drawn(replace(batch, pose=batch.pose * torch.nan), None), 0)


@pytest.mark.parametrize("perspective", ["correction", "crop"])
def test_mixed_precision_is_the_convolutions_alone(
    perspective: str, landmark_weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(21)
    heat = perspective != "crop"  # with which keypoints are not read off heat maps
    network = replace(UPRIGHT, upright=False, keypoints=heat, depths=heat, perspective=perspective)
    config = TrainingConfig(sources=(SourceConfig(),), network=network, losses=LossConfig(mask=1.0))
    module = TrainingModule(fresh_network(variant_of(network, MODEL), landmark_weights), config, MODEL).eval()
    drawn = Drawn(collate([batch_of(drawn_hand(rng, str(i))) for i in range(3)]), None)
    features, planes = torch.randn(3, module.network.variant.features), torch.randn(3, 96, 14, 14)
    halved: list[torch.dtype] = []

    def coarse(crops: torch.Tensor, blocks: int) -> torch.Tensor:
        halved.append((crops.flatten(2) @ crops.flatten(2).mT).dtype)
        return torch.nn.functional.adaptive_avg_pool2d(crops, 7)

    def look(maps: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        halved.append((maps.flatten(2) @ maps.flatten(2).mT).dtype)
        return features, planes if heat else None

    monkeypatch.setattr(module.trunk, "early", lambda crops, blocks: crops)
    monkeypatch.setattr(module.trunk, "late", coarse)
    monkeypatch.setattr(module.network, "look", look)
    wanted = module.losses(drawn)
    with torch.autocast("cpu", torch.bfloat16):
        found = module.losses(drawn)
    assert halved == [torch.float32] * 2 + [torch.bfloat16] * 2
    expected = {"joints", "mask", "camera", "grasp"} | ({"heat", "depth"} if heat else set())
    assert found.keys() == wanted.keys() >= expected
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@torch.no_grad()
@pytest.mark.parametrize("perspective", ["correction", "crop"])
def test_a_gpu_computes_the_same_losses(
    perspective: str, landmark_weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(23)
    heat = perspective != "crop"
    network = replace(UPRIGHT, upright=False, keypoints=heat, depths=heat, perspective=perspective)
    config = TrainingConfig(sources=(SourceConfig(),), network=network, losses=LossConfig(mask=1.0))
    module = TrainingModule(fresh_network(variant_of(network, MODEL), landmark_weights), config, MODEL).eval()
    samples = [drawn_hand(rng, str(i)) for i in range(3)]
    drawn = Drawn(collate([batch_of(s) for s in [*samples, replace(samples[0], mask=None, grasp=None)]]), None)
    wanted, errors = module.losses(drawn), joint_errors(module.estimate(drawn)[-1], drawn.batch, _where(module, drawn))
    with pretended_gpu(monkeypatch):
        module.to("cuda")
        there = drawn.to(torch.device("cuda"))
        found = module.losses(there)
        assert found.keys() == wanted.keys() and all(value.device.type == "cuda" for value in found.values())
        for name, value in found.items():
            assert value.item() == pytest.approx(wanted[name].item(), rel=1e-4), name
        found_errors = joint_errors(module.estimate(there)[-1], there.batch, _where(module, there))
        torch.testing.assert_close(found_errors.cpu(), errors, rtol=1e-4, atol=1e-3)
        with torch.autocast("cuda", torch.float16):
            coarse = module.losses(there)
        assert all(torch.isfinite(value.cpu()) for value in coarse.values())


def _where(module: TrainingModule, drawn: Drawn) -> Geometry:
    return geometry(drawn.batch, module.network.variant)


def test_mask_loss_pulls_the_hand_onto_its_mask(landmark_weights: bytes) -> None:
    rng = np.random.default_rng(8)
    samples = [drawn_hand(rng, str(i)) for i in range(3)]
    config = TrainingConfig(sources=(SourceConfig(),), network=SMALL, losses=LossConfig(mask=1.0))
    module = TrainingModule(fresh_network(variant_of(SMALL, MODEL), landmark_weights), config, MODEL)
    batch = collate([batch_of(s) for s in samples])
    where = geometry(batch, module.network.variant)

    def loss(shift: float) -> float:
        moved = batch.translation + torch.tensor([shift, 0.0, 0.0])
        return float(module._mask_loss(batch, where, batch.pose, batch.betas, moved))

    assert loss(0.0) < loss(0.01) < loss(0.03)


def test_masks_need_a_hand_model_with_a_surface(landmark_weights: bytes) -> None:
    right = MODEL.right
    faces = np.concatenate([right.faces, [[*right.faces[0, :2], 700]]]).astype(np.int32)
    broken = replace(MODEL, right=HandLayer(replace(right.data, faces=faces)))
    config = TrainingConfig(sources=(SourceConfig(),), network=SMALL)
    network = fresh_network(variant_of(SMALL, broken), landmark_weights)
    assert TrainingModule(network, config, broken).silhouettes is None
    with pytest.raises(ConfigError, match="losses.mask needs .*'open'.*form no loop.*set losses.mask to 0"):
        TrainingModule(network, replace(config, losses=LossConfig(mask=1.0)), broken)


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_sources_are_drawn_by_weight_and_their_samples_equally() -> None:
    sampler = MixingSampler([50, 10], [3, 1], batch=40, steps=100, seed=3)
    counts = np.bincount(np.concatenate(list(sampler)), minlength=60)
    assert counts.sum() == 4000
    assert counts[:50].sum() == pytest.approx(3000, abs=5)
    assert counts[:50].min() >= 59 and counts[:50].max() <= 61
    assert counts[50:].min() >= 99 and counts[50:].max() <= 101
    large = np.bincount(np.concatenate(list(MixingSampler([1700, 40], [4, 1], batch=50, steps=85, seed=3))))
    assert set(large[:1700]) == {2} and large[1700:].min() >= 21 and large[1700:].max() <= 22


def test_labels_that_are_not_wanted_are_missing() -> None:
    samples = Listed(drawn_hand(np.random.default_rng(29), str(i)) for i in range(2))
    whole = SampleDataset(samples, Manner()).take([0, 1]).batch
    fields_of = {"joints": "has_joints", "mano": "has_mano", "mask": "has_mask", "keypoints": "keypoint_weights"}
    for wanted in (*LABELS, ""):
        batch = SampleDataset(samples, Manner(), [wanted]).take([0, 1]).batch
        for label, name in fields_of.items():
            assert bool((getattr(whole, name) == 1).all())
            assert bool((getattr(batch, name) == (label == wanted)).all()), (wanted, label)
        assert torch.equal(batch.grasp, whole.grasp) == (wanted == "grasp")
        assert wanted == "grasp" or set(batch.grasp.tolist()) == {NO_GRASP}


def test_a_source_that_would_never_be_drawn_is_named() -> None:
    assert 1 in MixingSampler([1, 1], [500, 1], batch=1000, steps=1, seed=3).batch(0)
    with pytest.raises(ConfigError, match="weight of source 2 is too small"):
        MixingSampler([1, 1], [3000, 1], batch=1000, steps=1, seed=3)


def test_a_source_without_samples_is_named() -> None:
    with pytest.raises(ConfigError, match="source 2 holds no samples"):
        MixingSampler([4, 0, 3], [1, 1, 1], batch=8, steps=1, seed=3)


def test_samples_that_are_not_there_come_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'wildhands render .*none --samples N'"):
        open_source(SourceConfig(path=tmp_path / "none"), None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": ({}, {"path": Path("gone")})}, "gone is not there"),
        ({"sources": ({}, {"path": Path("empty.tar")})}, "source 2 holds no samples"),
        ({"sources": ({}, {"weight": 1e-6})}, "weight of source 2 is too small"),
        ({"sources": ({},), "validation": Path("bare.tar")}, "none of the validation samples has 3D joints"),
        ({"sources": ({},), "validation": Path("gone.tar")}, "gone.tar does not exist"),
    ],
)
def test_what_is_wrong_with_any_source_is_said_before_hours_go_into_the_first(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], said: str,
) -> None:  # fmt: skip
    (usual,) = config.sources
    with ShardWriter(tmp_path / "empty.tar"):
        pass
    with ShardWriter(tmp_path / "bare.tar") as shard:
        shard.add(replace(drawn_hand(np.random.default_rng(23), "0"), joints=None))
    sources = tuple(replace(usual, **of_one) for of_one in changes["sources"])
    cache = tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    wrong = replace(config, **changes | {"sources": sources, "cache": cache})
    module = TrainingModule(fresh_network(variant_of(SMALL, MODEL), landmark_weights), wrong, MODEL)
    with pytest.raises(WildHandsError, match=said):
        TrainingData(wrong, module, module.manner, tmp_path / "run").setup()
    assert not cache.exists()


class _Numbered(SampleDataset):
    """A source whose maps are its samples' numbers, and a hundred for each of its own."""

    def __init__(self, keys: Sequence[str], hundreds: int) -> None:
        rng = np.random.default_rng(hundreds)
        super().__init__(Listed(drawn_hand(rng, key) for key in keys), Manner())
        self._hundreds = hundreds

    def take(self, indices: Sequence[int]) -> Drawn:
        return replace(super().take(indices), maps=100.0 * self._hundreds + torch.tensor(indices)[:, None, None, None])


def test_samples_put_together_keep_their_labels_and_their_maps() -> None:
    parts = [_Numbered("abc", 1), _Numbered("defg", 2), _Numbered("h", 3)]
    mixed = MixedDataset(parts)
    assert len(mixed) == 8
    drawn = mixed[[7, 3, 0, 6, 2, 3]]
    assert drawn.maps is not None
    numbers = drawn.maps.flatten().tolist()
    assert sorted(numbers) == [100, 102, 200, 200, 203, 300]
    for row, number in enumerate(numbers):
        source, index = divmod(int(number), 100)
        truth = batch_of(parts[source - 1].source[index])
        assert torch.equal(drawn.batch.joints[row], truth.joints[0])
        assert torch.equal(drawn.batch.crops[row], truth.crops[0])
    plain = MixedDataset([parts[0], SampleDataset(parts[1].source, Manner())])  # of which one has no maps
    assert plain[[0, 3]].maps is None and plain[[0, 1]].maps is not None


def test_an_interrupted_run_sees_the_same_batches() -> None:
    whole = list(MixingSampler([30, 7], [1, 1], batch=8, steps=20, seed=1))
    assert list(MixingSampler([30, 7], [1, 1], batch=8, steps=20, seed=1, first=12)) == whole[12:]
    shares = [list(MixingSampler([30, 7], [1, 1], 8, 20, 1, share=(rank, 2))) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    later = [list(MixingSampler([30, 7], [1, 1], 8, 20, 1, first=12, share=(rank, 2))) for rank in range(2)]
    assert later == [share[12:] for share in shares]


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_every_device_learns_from_every_source(devices: int) -> None:
    for rank in range(devices):
        parts = list(MixingSampler([40, 40], [1, 1], batch=16, steps=9, seed=1, share=(rank, devices)))
        assert len(parts) == 9 and {len(part) for part in parts} <= {16 // devices, -(-16 // devices)}
        for part in parts:
            assert abs(2 * sum(index < 40 for index in part) - len(part)) <= 1


class Listed(list[Sample]):
    """A source of a few samples, without a fingerprint."""

    name = "listed"


def test_caches_are_those_of_all_samples_and_their_labels() -> None:
    rng = np.random.default_rng(20)
    samples = Listed(drawn_hand(rng, str(i)) for i in range(3))

    def key(source: Listed) -> str:
        return _cache_key(source, Manner(), trunk, 1)

    trunk = LandmarkTrunk()
    assert key(samples) == key(Listed(samples))
    others = {_cache_key(samples, Manner(hand_model=name), trunk, 1) for name in (None, "open", "mano")}
    assert len(others) == 3  # whose parameters count differs
    mano = samples[1].mano
    assert mano is not None
    changes: list[dict[str, Any]] = [
        {"grasp": None}, {"image": samples[0].image}, {"key": "other"}, {"box": samples[0].box},
        {"mano": replace(mano, hand_model="mano")},
    ]  # fmt: skip
    for change in changes:
        assert key(samples) != key(Listed([samples[0], replace(samples[1], **change), samples[2]]))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_said_in_the_same_words_by_any_process(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, workers: int
) -> None:
    shard = write_shards(tmp_path / "damaged", 4, 1) / "0.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:512] + b"no JPEG" + content[519:])
    run = replace(config, sources=(SourceConfig(path=shard),), cache=None, workers=workers)
    module = TrainingModule(fresh_network(variant_of(SMALL, MODEL), landmark_weights), run, MODEL)
    data = TrainingData(run, module, module.manner, tmp_path / "run")
    data.setup()
    data.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1)  # type: ignore[assignment]
    with pytest.raises(SampleError) as caught:
        next(iter(data.train_dataloader()))
    assert str(caught.value) == f"{shard}: sample '0000' cannot be read (its picture is damaged)"


class Ending(Listed):
    """A source that can be read so many times only."""

    def __init__(self, samples: list[Sample], reads: int) -> None:
        super().__init__(samples)
        self.reads = reads

    def __getitem__(self, index: Any) -> Any:
        if self.reads == 0:
            raise Killed
        self.reads -= 1
        return super().__getitem__(index)

    def fingerprint(self) -> str:
        return "always the same"


def test_caches_are_made_on_where_they_were_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(23)
    samples = [drawn_hand(rng, str(i)) for i in range(7)]
    monkeypatch.setattr(cache_module, "_CHUNK", 2)
    trunk = LandmarkTrunk()

    def cached(source: Listed, folder: str) -> CachedDataset:
        return CachedDataset(source, Manner(), trunk, 1, tmp_path / folder)

    with pytest.raises(Killed):
        cached(Ending(samples, 5), "interrupted")
    rest = Ending(samples, 3)  # two parts of two are there
    found = cached(rest, "interrupted").take(range(7))
    assert rest.reads == 0
    expected = cached(Ending(samples, 7), "whole").take(range(7))
    assert found.maps is not None and expected.maps is not None and found.maps.abs().amax() > 0
    assert torch.equal(found.maps, expected.maps)
    for field in fields(Batch):
        torch.testing.assert_close(
            getattr(found.batch, field.name), getattr(expected.batch, field.name), rtol=0, atol=0, equal_nan=True
        )
    (place,) = (tmp_path / "interrupted").iterdir()
    assert {path.name for path in place.iterdir()} - {"lock"} == {"labels.pt", "maps.npy"}
    for name in ("labels.pt", "maps.npy"):  # as a disk that was full, or a power cut, may leave them
        (place / name).write_bytes((place / name).read_bytes()[:200])
        again = cached(Ending(samples, 7), "interrupted").take(range(7))
        assert again.maps is not None and torch.equal(again.maps, expected.maps)


def test_a_cache_that_may_only_be_read_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    samples, trunk = Ending([drawn_hand(np.random.default_rng(43), "0")], 1), LandmarkTrunk()
    made = CachedDataset(samples, Manner(), trunk, 1, tmp_path)
    monkeypatch.setattr(cache_module, "FileLock", refuse)
    again = CachedDataset(samples, Manner(), trunk, 1, tmp_path)
    assert torch.equal(again.take([0]).batch.joints, made.take([0]).batch.joints)


def test_caches_are_made_by_torch_where_openvino_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise Unusable("openvino is installed but cannot be imported")

    samples, trunk = Listed([drawn_hand(np.random.default_rng(44), "0")]), LandmarkTrunk()
    expected = CachedDataset(samples, Manner(), trunk, 1, tmp_path / "usual").take([0]).maps
    monkeypatch.setattr(cache_module, "openvino_core", fail)
    maps = CachedDataset(samples, Manner(), trunk, 1, tmp_path / "torch").take([0]).maps
    assert expected is not None and maps is not None
    torch.testing.assert_close(maps, expected, atol=1e-2, rtol=1e-2)
    assert "openvino is installed but cannot be imported" in caplog.text


@pytest.mark.parametrize("full", ["maps", "labels", "labels at their end"])
def test_a_disk_that_is_too_small_for_a_cache_is_named_and_not_filled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, full: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def save(content: object, file: io.BufferedWriter | io.BytesIO) -> None:
        if isinstance(file, io.BytesIO):  # of a part
            file.write(stored)
            return
        file.write(b"the beginning")
        try:
            refuse()
        finally:
            if full == "labels at their end":
                raise RuntimeError("unexpected pos 704 vs 598")  # as torch does, not knowing why

    samples = Ending([drawn_hand(np.random.default_rng(42), "0")], -1)
    stream = io.BytesIO()
    batch = Manner().batch(samples)
    torch.save({f.name: getattr(batch, f.name) for f in fields(Batch)}, stream)
    stored = stream.getvalue()
    with monkeypatch.context() as patch:
        if full == "maps":
            patch.setattr(os, "posix_fallocate", refuse, raising=False)
        else:
            patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match=f"No space left on device: '.*{full.split()[0]}.(npy|pt)'"):
            CachedDataset(samples, Manner(), LandmarkTrunk(), 1, tmp_path)
    (place,) = tmp_path.iterdir()
    left = {path.name for path in place.iterdir()} - {"lock"}
    assert left == (set() if full == "maps" else {"maps.npy", "parts"})  # which the next run goes on with


def test_the_first_samples_of_a_source_are_a_source() -> None:
    rng = np.random.default_rng(22)
    samples = Listed(drawn_hand(rng, str(i)) for i in range(4))
    first = FirstSamples(samples, 3)
    assert [sample.key for sample in first] == ["0", "1", "2"] and len(first) == 3 and first.name == samples.name
    assert first[-1].key == "2" and len(FirstSamples(samples, 9)) == 4
    with pytest.raises(IndexError):
        first[3]

    prints = {s.fingerprint() for s in (first, FirstSamples(samples, 2), FirstSamples(Listed(samples[1:]), 3))}
    assert len(prints) == 3 and FirstSamples(Listed(samples), 3).fingerprint() in prints


@pytest.mark.parametrize("cached", [False, True])
def test_labels_of_video_are_kept_in_the_cache_or_else_in_the_runs_folder(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """Not beside recordings, where nobody expects them, and where often nothing may be written."""
    (tmp_path / "recordings").mkdir()
    kept: list[Path] = []

    def video(path: Path, labels: Path, labeller: object, *, name: str) -> Listed:
        kept.append(labels)
        return Listed([drawn_hand(np.random.default_rng(24), "0")])

    focals: list[float | None] = []
    monkeypatch.setattr(
        dataset_module.PseudoLabeller, "from_directory", lambda folder, settings: focals.append(settings.focal)
    )
    monkeypatch.setattr(dataset_module, "VideoSource", video)
    sources = (SourceConfig("video", tmp_path / "recordings", focal=1030 if cached else 0),)
    run = replace(config, sources=sources, cache=tmp_path / "cache" if cached else None, validation_samples=1)
    module = TrainingModule(fresh_network(variant_of(SMALL, MODEL), landmark_weights), run, MODEL)
    TrainingData(run, module, module.manner, tmp_path / "run").setup()
    assert kept == [tmp_path / ("cache" if cached else "run")]
    assert focals == [1030 if cached else None]  # None: what is recorded, or a guess


def test_errors_are_those_of_samples_with_3d_labels() -> None:
    samples = [drawn_hand(np.random.default_rng(21), "0"), drawn_hand(np.random.default_rng(22), "1")]
    batch = collate([batch_of(samples[0]), batch_of(replace(samples[1], joints=None))])
    errors = joint_errors(batch.joints + 0.01, batch, geometry(batch, variant_of(SMALL, MODEL)))
    assert torch.isfinite(errors[0]).all() and torch.isnan(errors[1]).all()


def both_hands(rng: np.random.Generator, scene: str) -> list[Sample]:
    """A left and a right hand in one picture."""
    found: dict[Side, Sample] = {}
    while len(found) < 2:
        sample = drawn_hand(rng, f"{scene}-{len(found)}")
        found.setdefault(sample.side, replace(sample, scene=scene))
    return list(found.values())


@pytest.mark.parametrize("network", [SMALL, UPRIGHT], ids=["as seen", "upright"])
def test_pairs_are_compared_as_their_camera_saw_them(network: NetworkConfig) -> None:
    rng = np.random.default_rng(31)
    samples = [*both_hands(rng, "a"), drawn_hand(rng, "alone"), *both_hands(rng, "b")]
    manner = Manner.of(variant_of(network, MODEL), MODEL)
    hands = shown_hands(samples, manner)
    assert all((shown.roll != 0) == (network is UPRIGHT) for shown in hands)

    def errors(*moves: tuple[float, float, float]) -> torch.Tensor:
        """Of hands that are true but for these moves in the camera's frame."""
        moved = [replace(s, joints=s.joints + np.array(m)) for s, m in zip(samples, moves, strict=True)]
        return shown_pair_errors(manner.batch(moved).joints, hands)

    same = [(0.03, -0.02, 0.05)] * 5
    expected = torch.tensor([0, 0, torch.nan, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(errors(*same), expected, atol=1e-3, rtol=0, equal_nan=True)
    apart = errors((0.03, 0.04, 0), (0, 0, 0), *same[2:])
    expected = torch.tensor([50, 50, torch.nan, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(apart, expected, atol=1e-3, rtol=0, equal_nan=True)


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def landmark_weights(models_dir: Path) -> bytes:
    return load_model(LANDMARK_MODEL, models_dir)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    folder = tmp_path_factory.mktemp("samples")
    return TrainingConfig(
        sources=(SourceConfig(path=write_shards(folder / "train", 64, 1)),),
        validation=write_shards(folder / "validation", 16, 2), steps=24, batch=8, validate_every=8,
        validation_samples=16, cache=folder / "cache", network=SMALL, accelerator="cpu",
        optimiser=OptimiserConfig(warmup=2, ema=0.5),
    )  # fmt: skip


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends a run as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: object, *rest: object) -> None:
        if trainer.global_step == self.step:  # type: ignore[attr-defined]
            raise Killed


class Watch(Callback):
    """Notes the losses, and the error at each validation."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.validated: list[float] = []

    def on_train_batch_end(self, trainer: object, module: object, outputs: object, *rest: object) -> None:
        self.losses[trainer.global_step] = float(outputs["loss"])  # type: ignore[attr-defined, index]

    def on_validation_end(self, trainer: object, *rest: object) -> None:
        self.validated.append(float(trainer.callback_metrics["val/mpjpe_mm"]))  # type: ignore[attr-defined]


def test_a_run_learns_goes_on_after_a_kill_and_its_checkpoint_estimates_the_same(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    watch = Watch()
    whole = train(config, tmp_path / "whole", MODEL, landmark_weights, progress=False, extra=(watch,))
    losses = [watch.losses[k] for k in sorted(watch.losses)]
    assert whole.steps == 24 and len(losses) == 24  # a run that made its cache itself, unlike those that follow
    assert np.mean(losses[-8:]) < 0.85 * np.mean(losses[:4])
    assert whole.errors["mpjpe_mm"] == pytest.approx(min(watch.validated), rel=1e-4)  # of what is kept, not of the last

    with pytest.raises(Killed):
        train(config, tmp_path / "cut", MODEL, landmark_weights, progress=False, extra=(Kill(11),))
    assert sys.float_info.min / 2 > 0  # no run changes how the process calculates
    again = Watch()
    resumed = train(config, tmp_path / "cut", MODEL, landmark_weights, progress=False, extra=(again,))
    assert resumed.steps == 24
    assert sorted(again.losses) == list(range(9, 25))  # the last state was kept at step 8
    for step, loss in again.losses.items():
        assert loss == pytest.approx(watch.losses[step], rel=1e-3)
    assert resumed.errors == pytest.approx(whole.errors, rel=1e-3)

    runtime = RuntimeConfig(backend=Backend.TORCH)
    estimator = WildHands.load(WildHandsConfig(whole.network, runtime=runtime), MODEL)
    module = TrainingModule(estimator.network.runtime._network, config, MODEL).eval()  # type: ignore[attr-defined]
    for number in range(4):
        sample = drawn_hand(np.random.default_rng(number), str(number))
        picture = np.zeros((sample.camera.height, sample.camera.width, 3), np.uint8)
        cut = cv2.getRotationMatrix2D((0, 0), 0, sample.extent / 224)
        cut[:, 2] = np.array(sample.center) - 111.5 * sample.extent / 224
        cv2.warpAffine(sample.image, cut, picture.shape[1::-1], picture, cv2.INTER_LINEAR)
        edge = sample.extent / 1.5 / 2
        (x, y) = sample.center
        box = HandBox(sample.side, (x - edge, y - edge, x + edge, y + edge), 1.0)
        prepared = estimator.prepare(Frame(picture, sample.camera), [box])
        (hand,) = estimator.estimate(Frame(picture, sample.camera), [box]).hands
        crops = prepared.inputs.crops * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        crops = (crops + torch.tensor([0.485, 0.456, 0.406])[:, None, None]).mul(255).round().to(torch.uint8)
        batch = replace(batch_of(sample), crops=crops)
        with torch.inference_mode():
            joints = module.estimate(Drawn(batch, None))[4][0].numpy()
        flip = np.array([-1.0, 1, 1]) if sample.side is Side.LEFT else np.ones(3)
        np.testing.assert_allclose(joints * flip, hand.joints, atol=2e-3)  # crops are rounded to 8 bits here


@pytest.mark.parametrize("kind", ["efficientnet-lite0", "resnet18"])
def test_a_trunk_of_another_kind_learns_whole_goes_on_after_a_kill_and_estimates(
    config: TrainingConfig, kind: str, tmp_path: Path
) -> None:
    weights = tmp_path / "classifier.pth"
    torch.manual_seed(3)
    classifier = make_trunk(Trunk(kind))
    initialise(classifier)
    torch.save(classifier.state_dict(), weights)
    network = replace(SMALL, trunk=kind, trunk_weights=weights)
    run = replace(
        config, steps=4, batch=4, validate_every=2, validation_samples=4, network=network,
        optimiser=OptimiserConfig(warmup=1),
    )  # fmt: skip
    watch, again = Watch(), Watch()
    whole = train(run, tmp_path / "whole", MODEL, None, progress=False, extra=(watch,))
    with pytest.raises(Killed):
        train(run, tmp_path / "cut", MODEL, None, progress=False, extra=(Kill(3),))
    train(run, tmp_path / "cut", MODEL, None, progress=False, extra=(again,))
    assert sorted(again.losses) == [3, 4]  # the last state was kept at step 2
    for step, loss in again.losses.items():
        assert loss == pytest.approx(watch.losses[step], rel=1e-3)
    ends = [torch.load(tmp_path / folder / "last.ckpt", weights_only=True) for folder in ("whole", "cut")]
    for state in ("state_dict", "current_model_state"):  # averaged, and as they are
        # of batches: losses of training do not show whether they went on
        statistics, again_statistics = ({k: v for k, v in end[state].items() if "running_" in k} for end in ends)
        torch.testing.assert_close(again_statistics, statistics, rtol=1e-3, atol=1e-4)
        assert statistics
    learned = load_checkpoint(whole.network)[0].hand_backbone.state_dict()
    changed = [name for name, before in classifier.state_dict().items() if not torch.equal(before, learned[name])]
    assert len(changed) == len(learned)  # every layer, and what normalises it
    rng = np.random.default_rng(1)
    frame = Frame(np.full((720, 1280, 3), 60, np.uint8), drawn_hand(rng, "0").camera)
    for backend in (Backend.TORCH, Backend.OPENVINO):
        estimator = WildHands.load(WildHandsConfig(whole.network, runtime=RuntimeConfig(backend=backend)), MODEL)
        (hand,) = estimator.estimate(frame, [HandBox(Side.LEFT, (400.0, 300.0, 560.0, 470.0), 1.0)]).hands
        assert np.isfinite(hand.joints).all()


def test_landmark_trunks_need_their_weights(config: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'landmarks' needs the landmark network's weights"):
        train(config, tmp_path, MODEL, None, progress=False)


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_devices_the_first_speaks(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_module.TrainingResult(tmp_path / "network.safetensors", {"mpjpe_mm": 7.0}, 3)
    config = TrainingConfig(sources=(SourceConfig(),))
    monkeypatch.setattr("wildhands_ros.training.config.read_training_config", lambda path, **changes: config)
    monkeypatch.setattr(run_module, "train", lambda *given, **named: result)
    monkeypatch.setattr(run_module.rank_zero_only, "rank", rank)
    assert main(["train", "some.yaml", str(tmp_path)]) == 0
    assert ("3 steps" in capsys.readouterr().out) == (rank == 0)


def test_a_folder_belongs_to_one_configuration(config: TrainingConfig, landmark_weights: bytes, tmp_path: Path) -> None:
    short = replace(config, steps=2, validate_every=2)
    train(short, tmp_path / "run", MODEL, landmark_weights, progress=False, half=True)
    assert (tmp_path / "run" / "network.safetensors").stat().st_size < 8e6
    with pytest.raises(ConfigError, match="other settings \\(seed\\)"):
        train(replace(short, seed=9), tmp_path / "run", MODEL, landmark_weights, progress=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accelerator": "abacus"}, "accelerator 'abacus'.*cpu"),
        ({"network": replace(SMALL, trunk="landmarks-fine")}, "can be 11 at most, not 12"),
    ],
    ids=["accelerator", "trained_from"],
)
def test_a_start_that_fails_leaves_the_folder_to_others(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    for wrong in (replace(config, **change), replace(config, **change, seed=9)):
        with pytest.raises(ConfigError, match=said):
            train(wrong, tmp_path, MODEL, landmark_weights, progress=False)


@pytest.mark.parametrize("precision", ["abc", "64-true", "bf16-true"])
def test_precisions_that_would_round_the_labels_are_refused_at_once(config: TrainingConfig, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision '{precision}'.*bf16-mixed"):
        replace(config, precision=precision)


@pytest.mark.parametrize("slower", [False, True])
def test_bfloat16_gives_way_where_it_is_slower(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: bool
) -> None:
    used: list[str] = []

    class Watch(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            used.append(trainer.precision)

    monkeypatch.setattr(precision_module, "bfloat16_is_slower", lambda: slower)
    run = replace(config, steps=1, validate_every=1, precision="bf16-mixed")
    train(run, tmp_path, MODEL, landmark_weights, progress=False, extra=(Watch(),))
    assert used == ["32-true" if slower else "bf16-mixed"]
    assert precision_here(replace(run, accelerator="gpu")) == "bf16-mixed"


def test_whether_bfloat16_is_slower_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    # each twice in float32 and twice in bfloat16, of which the best counts
    ticks = iter([0, 1, 0, 1, 0, 3, 0, 2, 0, 3, 0, 2, 0, 1, 0, 1])
    monkeypatch.setattr(precision_module.time, "perf_counter", lambda: next(ticks))
    assert bfloat16_is_slower() and not bfloat16_is_slower()


@pytest.mark.parametrize("moved", [False, True], ids=["same folder", "moved"])
def test_a_resumed_run_keeps_weights_that_were_better_before(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    run, folder = replace(config, steps=12, validate_every=4), tmp_path / "run"
    real = module_module.joint_errors

    def killed(*given: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:  # the first validation is a very good one, and what goes on is not kept then
        patch.setattr(module_module, "joint_errors", lambda *given: 0.01 * real(*given))
        patch.setattr(run_module._Regularly, "on_validation_end", killed)
        with pytest.raises(Killed):
            train(run, folder, MODEL, landmark_weights, progress=False)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2
    if moved:
        folder = folder.rename(tmp_path / "elsewhere")
    train(run, folder, MODEL, landmark_weights, progress=False)
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == 4


def test_a_run_whose_best_weights_were_deleted_takes_the_next(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = replace(config, steps=8, validate_every=4), module_module.joint_errors
    with monkeypatch.context() as patch:  # the first validation is a very good one
        patch.setattr(module_module, "joint_errors", lambda *given: 0.01 * real(*given))
        with pytest.raises(Killed):
            train(run, tmp_path, MODEL, landmark_weights, progress=False, extra=(Kill(5),))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    (tmp_path / "best.ckpt").unlink()
    train(run, tmp_path, MODEL, landmark_weights, progress=False)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 8


def test_a_run_that_was_killed_while_it_validated_validates_again(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    class KillLate(Callback):
        def on_validation_batch_end(self, trainer: Any, *rest: object) -> None:
            if trainer.global_step == run.steps:
                raise Killed

    run = replace(config, steps=8, validate_every=4)
    whole = train(run, tmp_path / "whole", MODEL, landmark_weights, progress=False)
    with pytest.raises(Killed):
        train(run, tmp_path / "cut", MODEL, landmark_weights, progress=False, extra=(KillLate(),))
    watch = Watch()
    resumed = train(run, tmp_path / "cut", MODEL, landmark_weights, progress=False, extra=(watch,))
    assert sorted(watch.losses) == [7, 8] and len(watch.validated) == 1
    for folder in ("whole", "cut"):
        assert torch.load(tmp_path / folder / "best.ckpt", weights_only=True)["global_step"] == 8
    assert resumed.errors == pytest.approx(whole.errors, rel=1e-3)


def test_what_is_damaged_is_named_before_a_run_goes_on(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    run = replace(config, steps=4, validate_every=4)
    train(run, tmp_path, MODEL, landmark_weights, progress=False)
    for name in ("best.ckpt", "last.ckpt"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ConfigError, match=f"{name} is damaged .* delete it"):
            train(run, tmp_path, MODEL, landmark_weights, progress=False)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "run.yaml").write_text("steps: 2024-02-31")
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        read_training_config(tmp_path / "run.yaml")


def test_states_are_written_where_they_stay(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another file system, what is made elsewhere first would be copied: a kill meanwhile leaves half of it."""

    def elsewhere(*given: Any, **named: Any) -> None:
        raise AssertionError("made elsewhere first")

    monkeypatch.setattr("tempfile.mkstemp", elsewhere)
    train(replace(config, steps=2, validate_every=2), tmp_path / "run", MODEL, landmark_weights, progress=False)
    written = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert {"last.ckpt", "best.ckpt"} < written and not any(name.startswith(".") for name in written)


def test_ctrl_c_is_an_interruption(config: TrainingConfig, landmark_weights: bytes, tmp_path: Path) -> None:
    class Impatient(Callback):
        def on_train_batch_end(self, *given: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, MODEL, landmark_weights, progress=False, extra=(Impatient(),))


def test_validation_needs_3d_labels(config: TrainingConfig, landmark_weights: bytes, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "bare.tar") as shard:
        shard.add(replace(drawn_hand(np.random.default_rng(23), "0"), joints=None))
    bare = replace(config, validation=tmp_path / "bare.tar", cache=None)
    with pytest.raises(ConfigError, match="bare.tar: none of the validation samples has 3D joints"):
        train(bare, tmp_path / "run", MODEL, landmark_weights, progress=False)


def test_settings_that_are_damaged_are_named(config: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"steps"')
    with pytest.raises(ConfigError, match="settings.json is damaged"):
        check_settings(tmp_path, config)


def test_a_network_of_upright_hands_learns_which_way_they_point(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    upright = replace(config, steps=2, validate_every=2, network=replace(UPRIGHT, trained_from=10), direction_steps=40)
    untrained = replace(upright, direction_steps=1)
    start = train(untrained, tmp_path / "start", MODEL, landmark_weights, progress=False)
    result = train(upright, tmp_path / "run", MODEL, landmark_weights, progress=False)
    assert result.errors["direction_median_deg"] < 0.5 * start.errors["direction_median_deg"]

    runtime = RuntimeConfig(backend=Backend.TORCH)
    estimator = WildHands.load(WildHandsConfig(result.network, runtime=runtime), MODEL)
    off = []
    for number in range(12):
        sample = drawn_hand(np.random.default_rng(100 + number), str(number))
        assert sample.keypoints is not None
        prepared = estimator.prepare(frame_from_scene([sample]), [HandBox(sample.side, sample.box, 1.0)])
        decoded = decode(estimator.network.info.variant, prepared, estimator.network.runtime(prepared.inputs))
        assert decoded.directions is not None
        off.append(abs(math.remainder(roll_of_direction(decoded.directions[0]) - roll_of(sample.keypoints), math.tau)))
    assert np.rad2deg(np.median(off)) < 35  # through the estimator: sides, signs and crops are those of training

    with pytest.raises(ConfigError, match="trained_from can be 11 at most, not 12"):
        replace(UPRIGHT, trained_from=12)


def test_a_run_learns_how_wrong_hands_are_likely_to_be(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = replace(SMALL, trunk="landmarks-fine", keypoints=True, trained_from=11)
    run = replace(config, steps=2, validate_every=2, network=network)
    few = train(run, tmp_path / "few", MODEL, landmark_weights, progress=False)
    assert load_checkpoint(few.network)[1].errors is None
    monkeypatch.setattr(expected_errors, "FEWEST", 8)
    result = train(run, tmp_path / "run", MODEL, landmark_weights, progress=False)
    learned = load_checkpoint(result.network)[1].errors
    assert learned is not None
    # what the estimator says of the validation samples, through its own crops, sides and cameras
    estimator = WildHands.load(WildHandsConfig(result.network, runtime=RuntimeConfig(backend=Backend.TORCH)), MODEL)
    said, errors = [], []
    for sample in ShardReader(config.validation):
        box = HandBox(sample.side, sample.box, 1.0)
        (hand,) = estimator.estimate(frame_from_scene([sample]), [box]).hands
        said.append(hand.expected_error)
        assert sample.joints is not None
        errors.append(float(mpjpe_errors(hand.joints[None], sample.joints[None])[0]))
    assert np.log(said).mean() == pytest.approx(np.log(errors).mean(), abs=0.1)
    assert np.std(np.log(said)) < np.std(np.log(errors))


def test_directions_that_nothing_tells_are_said_to_be_unknown(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [record.message for record in caplog.records if record.name.startswith("wildhands_ros")]

    (tmp_path / "joints").mkdir()
    with ShardWriter(tmp_path / "joints" / "0.tar") as shard:
        for number in range(4):
            sample = drawn_hand(np.random.default_rng(number), str(number))
            shard.add(replace(sample, keypoints=None, keypoint_weights=None))
    upright = replace(
        config, steps=1, validate_every=1, batch=4, network=UPRIGHT, direction_steps=1, validation=tmp_path / "joints",
    )  # fmt: skip
    known = train(upright, tmp_path / "known", MODEL, landmark_weights, progress=False)
    assert not said()
    sources = (SourceConfig(path=tmp_path / "joints"),)
    unknown = train(replace(upright, sources=sources), tmp_path / "run", MODEL, landmark_weights, progress=False)
    assert len(said()) == 1 and "the network has not learned to see it" in said()[0]
    for result in (known, unknown):
        text = (result.network.parent / "errors.json").read_text()
        assert "mpjpe_mm" in text and "direction" not in text and "NaN" not in text


@pytest.mark.parametrize("steps", [1, 9, 10, 11])
def test_directions_are_learned_in_any_number_of_steps(
    config: TrainingConfig, landmark_weights: bytes, steps: int
) -> None:
    upright = replace(config, network=UPRIGHT, direction_steps=steps)
    trained = TrainingModule(fresh_network(variant_of(UPRIGHT, MODEL), landmark_weights), upright, MODEL)
    found = DirectionModule(trained, upright).configure_optimizers()
    optimiser, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    for _ in range(steps - 1):
        optimiser.step()
        schedule.step()
    assert 0 < schedule.get_last_lr()[0] < 1e-6


def test_a_finished_run_given_again_gives_the_same_directions(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    upright = replace(config, steps=1, validate_every=1, network=replace(UPRIGHT, trained_from=10), direction_steps=2)
    first, again = (
        train(upright, tmp_path, MODEL, landmark_weights, progress=False).network.read_bytes() for _ in range(2)
    )
    assert first == again


def test_a_run_ends_with_a_validation_whatever_its_length(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    seen: list[int] = []

    class Watch(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.global_step)

    train(
        replace(config, steps=5, validate_every=3), tmp_path, MODEL, landmark_weights, progress=False, extra=(Watch(),)
    )
    assert seen[-1] == 4 and len(seen) == 2


def test_what_a_run_goes_on_from_is_no_checkpoint_to_estimate_with(landmark_weights: bytes, tmp_path: Path) -> None:
    config = TrainingConfig(sources=(SourceConfig(),), network=SMALL)
    module = TrainingModule(fresh_network(variant_of(SMALL, MODEL), landmark_weights), config, MODEL)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "best.ckpt")
    with pytest.raises(ModelFileError, match=r"best.ckpt is what 'wildhands train' goes on from.*network.safetensors"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_averages_leave_what_is_no_weight_exactly_as_it_is(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    # 0.9995 k + 0.0005 k is less than k for some whole numbers k
    run = replace(config, steps=4, validate_every=4, optimiser=replace(config.optimiser, ema=0.9995))
    seen: dict[str, torch.Tensor] = {}

    class Look(Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: TrainingModule, *rest: object) -> None:
            seen.update((name, b.clone()) for name, b in pl_module.named_buffers() if not b.is_floating_point())

    network = train(run, tmp_path, MODEL, landmark_weights, progress=False, extra=(Look(),)).network
    wanted = dict(TrainingModule(load_checkpoint(network)[0], config, MODEL).named_buffers())
    assert seen
    for name, buffer in seen.items():
        assert torch.equal(buffer, wanted[name]), name


def test_a_run_that_ran_out_of_time_goes_on_from_there(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    run = replace(config, steps=400, validate_every=400)
    first = train(replace(run, stop_minutes=2 / 60), tmp_path, MODEL, landmark_weights, progress=False)
    assert 0 < first.steps < 400
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == first.steps
    second = train(replace(run, stop_minutes=1 / 60), tmp_path, MODEL, landmark_weights, progress=False)
    assert first.steps < second.steps < 400


def test_a_folder_that_was_moved_keeps_its_best_weights(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    run = replace(config, steps=4, validate_every=4)
    before = load_checkpoint(train(run, tmp_path / "a", MODEL, landmark_weights, progress=False).network)[0]
    (tmp_path / "a").rename(tmp_path / "b")
    after = load_checkpoint(train(run, tmp_path / "b", MODEL, landmark_weights, progress=False).network)[0]
    for name, weight in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight), name


def test_samples_of_which_nobody_knows_the_grasp_keep_every_weight_in_the_loss() -> None:
    grasp = torch.zeros(2, 9, requires_grad=True)
    batch = batch_of(drawn_hand(np.random.default_rng(28), "a"), only=frozenset(["joints"]))
    zeros = torch.zeros(1, 3)
    losses = hand_losses(
        batch, geometry(batch, variant_of(SMALL, MODEL)), LossConfig(), pose=batch.pose, betas=batch.betas,
        camera=zeros, camera_start=zeros, camera_target=zeros, joints=batch.joints, grasp=grasp[:1],
    )  # fmt: skip
    assert float(losses["grasp"]) == 0
    losses["grasp"].backward()
    assert grasp.grad is not None and float(grasp.grad.abs().max()) == 0


def test_directions_are_learned_from_as_many_samples_as_are_wanted(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    wanted = replace(
        config, steps=1, validate_every=1, network=replace(UPRIGHT, trained_from=10), direction_steps=1,
        direction_samples=5, cache=tmp_path / "cache",
    )  # fmt: skip
    train(wanted, tmp_path / "run", MODEL, landmark_weights, progress=False)
    small = {p.name for p in (tmp_path / "cache").iterdir() if np.load(p / "maps.npy", mmap_mode="r").shape[0] == 5}
    assert len(small) == 1 and "upright" not in small.pop()
    with pytest.raises(ConfigError, match="direction_samples must be 0 or more, not -1"):
        replace(wanted, direction_samples=-1)


def test_a_run_goes_on_from_a_checkpoint_of_the_same_network(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    network = replace(SMALL, trunk="landmarks-fine", keypoints=True, trained_from=11)
    short = replace(config, steps=2, validate_every=2, network=network)
    before = train(short, tmp_path / "before", MODEL, landmark_weights, progress=False)
    weights = load_checkpoint(before.network)[0].state_dict()
    open_trunk = LandmarkTrunk()
    load_landmark_weights(open_trunk, landmark_weights)
    for name, weight in open_trunk.blocks[:11].state_dict().items():
        assert torch.equal(weights[f"hand_backbone.blocks.{name}"], weight), name  # fixed, and not rounded either
    still = replace(short, start=before.network, optimiser=OptimiserConfig(learning_rate=1e-12, ema=0.5))
    after = train(still, tmp_path / "after", MODEL, landmark_weights, progress=False)
    assert after.errors == pytest.approx(before.errors, rel=1e-4)
    deep = train(
        replace(still, network=replace(network, depths=True)), tmp_path / "deep", MODEL, landmark_weights,
        progress=False,
    )  # fmt: skip
    assert deep.errors == pytest.approx(before.errors, rel=1e-4)  # nobody listens to the new head yet
    with pytest.raises(ConfigError, match="nope.safetensors is not there: 'start' names"):
        train(replace(still, start=tmp_path / "nope.safetensors"), tmp_path / "no", MODEL, landmark_weights)
    with pytest.raises(ConfigError, match="another network.*hidden 64 instead of 32"):
        other = replace(still, network=replace(network, hidden=32))
        train(other, tmp_path / "other", MODEL, landmark_weights, progress=False)


def test_networks_are_averaged_by_the_share_of_the_second(
    landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "average_networks.py"))["main"]
    paths = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "mean")]
    info = CheckpointInfo(training_data="drawn", hand_model="open", licence="Apache-2.0")
    for value, path in enumerate(paths[:2]):
        network = fresh_network(variant_of(SMALL, MODEL), landmark_weights)
        with torch.no_grad():
            network.head_r.cam_init[-1].bias.fill_(float(value))
        save_checkpoint(path, network, info)

    def run(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["average_networks.py", *map(str, arguments)])
        main()

    run(*paths[:2], 0.75, paths[2])
    mean, found = load_checkpoint(paths[2])
    assert mean.head_r.cam_init[-1].bias.tolist() == [0.75] * 3
    assert (found.training_data, found.hand_model, found.errors) == ("drawn", "open", None)
    for arguments, said in (
        ((paths[0], tmp_path / "third", 0.5, paths[2]), "third is missing"),
        ((*paths[:2], 0.5, paths[2], "--held-out", tmp_path / "none"), "none does not exist"),
        ((*paths[:2], 1.5, paths[2]), "the share must lie between 0 and 1"),
    ):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert said in capsys.readouterr().err


def test_configuration_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "sources:\n- {kind: rendered, path: a, weight: 2, only: [mask, grasp]}\nvalidation: .\nlosses: {mask: 10}\n"
    )
    config = read_training_config(path, steps=7)
    assert config.steps == 7 and config.losses.mask == 10
    assert config.sources == (SourceConfig("rendered", Path("a"), weight=2.0, only=("mask", "grasp")),)
    for text, message in (
        ("sources: []", "nothing to learn from"),
        ("sources: [{kind: tape}]", "unknown kind of source 'tape'"),
        ("sources: [{only: [smell]}]", "unknown labels smell"),
        ("sources: [{}, {path: b, only: [mask]}]", "nothing would be learned from b: .* only mask .*losses.mask"),
        (
            "sources: [{path: b, only: [keypoints]}]\nlosses: {keypoints: 0}",
            "nothing would be learned from b: .* only keypoints .*losses.keypoints, losses.heat",
        ),
        ("sources: [{}]\nlosess: {}", "did you mean 'losses'"),
        ("sources: [{}]\nbatch: 0", "batch must be positive"),
        ("sources: [{}]\nbatch: 3\ndevices: 4", "batch must be at least 4, as many as there are devices, not 3"),
        ("sources: [{weight: .inf}]", "weight of a source must be positive"),
        ("sources: [{}]\nnetwork: {encoding: foo}", "unknown network.encoding 'foo': known are none, sparse"),
        ("sources: [{}]\nnetwork: {perspective: foo}", "unknown network.perspective 'foo': known are none"),
        ("sources: [{}]\nnetwork: {translation: foo}", "unknown network.translation 'foo': known are metric, crop"),
        ("sources: [{}]\nnetwork: {trunk: resnet51}", "unknown network.trunk 'resnet51': known are resnet50, resnet18"),
        ("sources: [{}]\nnetwork: {trunk_weights: a.pth}", "'landmarks' starts from the landmark network's weights"),
        ("sources: [{}]\nnetwork: {trained_from: 99}", "network.trained_from must be from 0 to 15, not 99"),
        ("sources: [{}]\nnetwork: {dropout: 1}", "network.dropout must be from 0"),
        ("sources: [{}]\noptimiser: {ema: 2}", "optimiser.ema must be from 0 to 1, not 2"),
        ("sources: [{}]\noptimiser: {ema: 1}", "optimiser.ema must be less than 1"),
        ("sources: [{}]\noptimiser: {learning_rate: .nan}", "optimiser.learning_rate must be 0 or more, not nan"),
        ("sources: [{}]\noptimiser: {learning_rate: 1e-3}", "must be a number, not '1e-3', .* for text: write 1.0e-3$"),
        ("sources: [{}]\noptimiser: {learning_rate: 1.5e3}", "write 1.5e\\+3$"),
        ("sources: [{}]\noptimiser: {learning_rate: fast}", "must be a number, not 'fast'$"),
        ("sources: [{}]\nlosses: {pose: -1}", "losses.pose must be 0 or more"),
        ("sources: [{}]\nseed: -1", "seed must be from 0"),
        ("sources: [{}]\nworkers: -1", "workers must be 0 or more"),
        ("[", "is not YAML"),
        ("sources: [{path: a}]", "c.yaml does not name 'validation', the shards"),
        ("sources: [{path: a}]\nvalidation: ''", "does not name 'validation'"),
        ("sources: [{path: a}, {}]\nvalidation: b", "does not name 'sources[1].path', the source's file or folder"),
        (
            "sources: [{kind: epic-hand-kps, path: a}]\nvalidation: b",
            "does not name 'sources[0].frames', the folder with its pictures",
        ),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message.replace("[", "\\[")):
            read_training_config(path)


CONFIGURATIONS = sorted((Path(__file__).parents[1] / "config" / "training").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_shipped_configurations_describe_networks(path: Path) -> None:
    config = read_training_config(path)
    variant = variant_of(config.network, MODEL)
    assert Variant.from_dict(variant.to_dict()) == variant
    assert len(config.sources) == 2 and config.losses.mask > 0 if path.stem == "auxiliary" else config.losses.mask == 0


def test_comparisons_train_every_way_once_and_go_on(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(config, steps=2, validate_every=2)
    found = list(run_ablation(short, tmp_path / "kpe", MODEL, landmark_weights, ["none", "sparse"], [1]))
    assert [(r.variant, r.seed) for r in found] == [("none", 1), ("sparse", 1)]
    assert found[0].means["mpjpe_mm"] != found[1].means["mpjpe_mm"]
    assert sum(b["count"] for r in found for b in r.by_angle) == 2 * config.validation_samples
    with pytest.raises(ConfigError, match="unknown variants nothing"):
        list(run_ablation(short, tmp_path, MODEL, landmark_weights, ["nothing"], [1]))
    with_keypoints = replace(short, network=replace(SMALL, keypoints=True, trunk="landmarks-fine", trained_from=11))
    for impossible in ("dense", "pcl"):  # said before the first is trained
        with pytest.raises(ConfigError, match=f"variant '{impossible}'.*leave it out with --variants"):
            next(run_ablation(with_keypoints, tmp_path / "no", MODEL, landmark_weights, ["none", impossible], [1]))
    assert not (tmp_path / "no").exists()

    source = short.sources[0]
    two = replace(short, sources=(source, replace(source, weight=2 * source.weight)), losses=LossConfig(mask=1.0))
    learned = list(run_auxiliary(two, tmp_path / "aux", MODEL, landmark_weights, [1]))
    assert [r.variant for r in learned] == ["3D part alone", "+ grasps", "+ masks", "+ masks and grasps", "all labels"]
    settings = json.loads((tmp_path / "aux" / "with_masks-1" / "settings.json").read_text())
    assert settings["batch"] == 3 * short.batch and settings["sources"][1]["only"] == ["mask"]
    for wrong, said in ((short, "two sources"), (replace(two, losses=LossConfig()), "losses.mask")):
        with pytest.raises(ConfigError, match=said):
            list(run_auxiliary(wrong, tmp_path, MODEL, landmark_weights, [1]))

    with pytest.raises(ConfigError, match="none-1 holds a run with other settings \\(steps\\)"):
        list(run_ablation(replace(short, steps=3), tmp_path / "kpe", MODEL, landmark_weights, ["none"], [1]))

    monkeypatch.setattr(ablation_module, "train", None)  # what is there is only read
    assert list(run_ablation(short, tmp_path / "kpe", MODEL, landmark_weights, ["none", "sparse"], [1])) == found
    assert list(run_auxiliary(two, tmp_path / "aux", MODEL, landmark_weights, [1])) == learned


def test_the_ablations_table_has_means_over_seeds_and_weighs_the_ranges_by_their_hands() -> None:
    def result(variant: str, seed: int, off: float) -> AblationResult:
        means = {n: off for n in ("mpjpe_mm", "pa_mpjpe_mm", "wrist_percent", "keypoint_percent")}
        angles = [{"count": c, "mpjpe_mm": off + k, "wrist_percent": k} for k, c in enumerate((9.0, 9.0, 3.0, 1.0))]
        return AblationResult(variant, seed, means, angles)

    lines = ablation_table([result("none", 1, 50.0), result("none", 2, 52.0), result("center", 1, 40.0)]).split("\n")
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| 51.0 ± 1.4 | 53.2 ± 1.4 |" in lines[2]  # beyond 30 degrees: (3 × 2 + 1 × 3) / 4 more
    papers = "38.06 / 109.88 / 89.72 / 31.62 | 141.06 / 317.49"
    assert lines[2].endswith(f"| 2.2 ± 0.0 | – | 51.0 ± 1.4 | {papers} |")  # without MRRPE, as of older runs
    assert lines[3].startswith("| centre only | 40.0 |") and lines[3].endswith("|  |  |")
    assert "paper" not in ablation_table([result("+ masks", 1, 40.0)])


def test_comparisons_measure_how_hands_lie_to_each_other(
    config: TrainingConfig, landmark_weights: bytes, tmp_path: Path
) -> None:
    rng = np.random.default_rng(32)
    with ShardWriter(tmp_path / "pairs.tar") as shard:
        for sample in [*both_hands(rng, "a"), drawn_hand(rng, "alone"), *both_hands(rng, "b")]:
            shard.add(sample)
    short = replace(config, steps=2, validate_every=2, validation=tmp_path / "pairs.tar", cache=None)
    (result,) = run_ablation(short, tmp_path, MODEL, landmark_weights, ["sparse"], [1])
    stored = torch.load(tmp_path / "sparse-1" / "sample_errors.pt", weights_only=True)["mrrpe_mm"]
    assert stored.isfinite().tolist() == [True, True, False, True, True]
    assert stored[0] == stored[1] != stored[3] == stored[4]
    errors = json.loads((tmp_path / "sparse-1" / "errors.json").read_text())
    assert result.means["mrrpe_mm"] == errors["mrrpe_mm"] == pytest.approx(float(stored.nanmean()))
    assert f"| {result.means['mrrpe_mm']:.1f} |" in ablation_table([result]) and "MRRPE mm" in ablation_table([result])


def test_every_row_of_the_paper_has_its_numbers() -> None:
    papers = {name: variant.paper for name, variant in VARIANTS.items() if variant.paper is not None}
    assert len(papers) == 8 and papers["sparse"].mrrpe == (49.49, 164.90)
    for paper in papers.values():  # nothing is placed as well as sparse KPE
        assert all(a >= b for a, b in zip(paper.mrrpe, papers["sparse"].mrrpe, strict=True))


def test_ranges_of_the_angle_keep_their_places(tmp_path: Path) -> None:
    names = ("mpjpe_mm", "pa_mpjpe_mm", "wrist_percent", "keypoint_percent")
    angles, errors = torch.tensor([20.0, 25, 35, 40, 50, 60]), torch.tensor([1.0, 1, 10, 10, 100, 100])
    for count, beyond in ((6, "55.0"), (2, "–")):  # nowhere a hand in the first range
        torch.save({**{n: errors[:count] for n in names}, "angle": angles[:count]}, tmp_path / "sample_errors.pt")
        ablation_module._write(tmp_path, "sparse", 1)
        result = read_result(tmp_path)
        assert [b["count"] for b in result.by_angle] == [0, 2, min(count - 2, 2), max(count - 4, 0)]
        assert f"| {beyond} |" in ablation_table([result]).splitlines()[2]


@pytest.mark.parametrize(
    "content", ["", '{"means"', "[]", '{"variant": "a", "seed": 1, "means": {}, "by_angle": [{}]}']
)
def test_results_that_cannot_be_read_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(WildHandsError, match="result.json.*delete it"):
        read_result(tmp_path)


def test_settings_that_came_later_had_their_defaults(config: TrainingConfig, tmp_path: Path) -> None:
    stored = settings_of(config)
    for part, name in ((stored, "direction_steps"), (stored["network"], "depths"), (stored["sources"][0], "focal")):
        del part[name]
    (tmp_path / "settings.json").write_text(json.dumps(stored))
    check_settings(tmp_path, config)
    for other in (replace(config, direction_steps=1), replace(config, network=replace(SMALL, depths=True))):
        with pytest.raises(ConfigError, match="direction_steps|network"):
            check_settings(tmp_path, other)


def test_perspective_crops_place_the_hand_before_the_turned_camera() -> None:
    """A hand straight ahead of a turned camera lies on the crop's ray."""
    variant = Variant(
        frame_trunk=False, crops=variant_of(SMALL, MODEL).crops, translation=Translation.CROP,
        perspective=Perspective.CROP, mirror=True,
    )  # fmt: skip
    from wildhands_ros.estimation.wildhands.decode import in_camera
    from wildhands_ros.estimation.wildhands.network import NetworkOutput

    rays, extents, focal = torch.tensor([[0.5, -0.3]]), torch.tensor([60.0]), torch.tensor([150.0])
    turns = crop_ray_rotation(rays.atan())
    camera = torch.tensor([[-1.2, 0.0, 0.0]])
    output = NetworkOutput(torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, 10), camera, camera)
    _, place = in_camera(variant, output, focal, rays, extents, turns)
    torch.testing.assert_close(place[:, :2] / place[:, 2:], rays)
    back = (turns.transpose(1, 2) @ place[..., None])[..., 0]
    torch.testing.assert_close(
        camera_of_translation(Translation.CROP, back, *crop_view(variant, focal, rays), extents), camera
    )


# --- keypoints off heat maps ------------------------------------------------------------------------------------------


def test_heat_maps_point_to_where_they_are_hot() -> None:
    head = KeypointHead()
    with torch.no_grad():
        for part in (head.deep, head.mix):
            part.weight.zero_()
            part.bias.zero_()
        head.fine.weight.zero_()
        head.fine.bias.zero_()
        head.heat.bias.zero_()
        # the first channel of the fine map goes straight through to every keypoint's heat
        head.fine.weight[0, 0] = 1
        head.mix.weight[0, 0, 1, 1] = 1
        head.heat.weight.zero_()
        head.heat.weight[:, 0] = 50
    fine = torch.zeros(1, FINE_CHANNELS, 14, 14)
    row, column = 3, 9
    fine[0, 0, row, column] = 1
    maps = torch.cat([torch.zeros(1, 1152, 7, 7), torch.nn.functional.pixel_unshuffle(fine, 2)], dim=1)
    keypoints, spread, depths = head.read(head.look(maps))
    assert depths is None
    expected = torch.tensor([(2 * column + 1) / 14 - 1, (2 * row + 1) / 14 - 1])
    torch.testing.assert_close(keypoints, expected.expand(1, 21, 2), atol=1e-4, rtol=0)
    assert spread.shape == (1, 21) and float(spread.max()) < 0.01


def test_depths_are_those_at_the_heat() -> None:
    head = KeypointHead(depths=True)
    assert head.depth is not None
    with torch.no_grad():
        for part in (head.deep, head.fine, head.mix, head.heat, head.depth):
            part.weight.zero_()
            torch.nn.init.zeros_(part.bias)
        # the first channel is heat, the second depth
        for channel in (0, 1):
            head.fine.weight[channel, channel] = 1
            head.mix.weight[channel, channel, 1, 1] = 1
        head.heat.weight[:, 0], head.depth.weight[:, 1] = 50, 1
    fine = torch.zeros(1, FINE_CHANNELS, 14, 14)
    fine[0, 0, 3, 9] = 1
    fine[0, 1] = torch.arange(14.0)[:, None] / 10
    maps = torch.cat([torch.zeros(1, 1152, 7, 7), torch.nn.functional.pixel_unshuffle(fine, 2)], dim=1)
    _, _, depths = head.read(head.look(maps))
    assert depths is not None and head.outputs == 84
    torch.testing.assert_close(depths, torch.full((1, 21), 0.3), atol=1e-4, rtol=0)


def test_depths_are_in_half_crops_at_the_wrists_depth() -> None:
    ray = np.array([0.3, -0.4, 1.0]) / np.linalg.norm([0.3, -0.4, 1.0])
    joints = np.tile(0.5 * np.array([0.1, 0.2, 1.0]), (21, 1))  # the wrist at a depth of half a metre
    joints[1] += 0.07 * ray
    joints[2] -= 0.02 * ray
    joints[3] += 0.05 * np.array([0.8, 0.6, 0.0])  # across the ray
    joints[4] += 9.0 * ray
    where = Geometry(
        torch.tensor([200.0]), torch.tensor([[200.0, 200.0]]), torch.tensor([100.0]), torch.tensor([[0.3, -0.4]]), None
    )
    found = relative_depths(torch.tensor(joints[None], dtype=torch.float32), where)[0, :5]
    half_crop = 0.5 * 50 / 200
    expected = torch.tensor([0, 0.07 / half_crop, -0.02 / half_crop, 0, 3])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_depths_are_learned_from_joints_alone_and_along_the_crops_ray() -> None:
    rng = np.random.default_rng(11)
    batch = collate([batch_of(drawn_hand(rng, str(i))) for i in range(4)])
    where = geometry(batch, variant_of(SMALL, MODEL))
    truth = relative_depths(batch.joints, where)
    np.testing.assert_allclose(truth[:, 0], 0)
    # a hand as the camera that looks at the crop's middle would see it has the same depths straight ahead
    straight = batch.joints @ crop_ray_rotation(where.rays.atan())
    ahead = replace(where, rays=torch.zeros_like(where.rays))
    scale = batch.joints[:, :1, 2] / straight[:, :1, 2]
    torch.testing.assert_close(relative_depths(straight, ahead) / scale, truth, atol=1e-4, rtol=1e-3)

    def loss(depths: torch.Tensor, among: Batch) -> dict[str, torch.Tensor]:
        zero = torch.zeros(len(among), 3)
        return hand_losses(
            among, where, LossConfig(), pose=among.pose, betas=among.betas, camera=zero, camera_start=zero,
            camera_target=zero, joints=among.joints, grasp=None, depths=depths,
        )  # fmt: skip

    assert float(loss(truth, batch)["depth"]) == pytest.approx(0, abs=1e-6)
    assert float(loss(-truth, batch)["depth"]) > 0.1
    unlabelled = replace(batch, has_joints=torch.zeros(len(batch)))
    assert float(loss(-truth, unlabelled)["depth"]) == 0


def test_the_fine_trunk_holds_both_maps(landmark_weights: bytes) -> None:
    plain, both = LandmarkTrunk(), FineLandmarkTrunk()
    for trunk in (plain, both):
        load_landmark_weights(trunk, landmark_weights)
    picture = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        maps = both(picture)
        torch.testing.assert_close(maps[:, :1152], plain(picture))
        fine = torch.nn.functional.pixel_shuffle(maps[:, 1152:], 2)
        torch.testing.assert_close(fine, plain.early(picture, 11))
        torch.testing.assert_close(both.late(both.early(picture, 8), 8), maps)
    with pytest.raises(ValueError, match="14×14"):
        both.late(plain.early(picture, 12), 12)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_fixed_spatial_filters_change_neither_values_nor_gradients(
    precision: torch.dtype, landmark_weights: bytes
) -> None:
    trunk = FineLandmarkTrunk()
    load_landmark_weights(trunk, landmark_weights)
    maps = trunk.early(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(4)), 3).detach()
    filters = [m.weight for m in trunk.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        given = maps.clone().requires_grad_()
        moving = [p for p in trunk.blocks[3:].parameters() if all(p is not f for f in filters)]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            found = trunk.late(given, 3)
        assert found.dtype is precision
        found.float().square().mean().backward()
        gradients = [p.grad for p in [given, *moving] if p.grad is not None]
        assert len(gradients) == 1 + len(moving)
        trunk.zero_grad()
        return found.detach().float(), gradients

    wanted, all_gradients = run()
    for weight in filters:
        weight.requires_grad_(False)
    found, gradients = run()
    coarse = 0.01 if precision is torch.float32 else 0.3  # rounding makes some ReLUs let through what others stop
    for ours, theirs in zip([found, *gradients], [wanted, *all_gradients], strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < coarse


@pytest.mark.parametrize("backend", [Backend.ONNXRUNTIME, Backend.OPENVINO])
def test_a_network_with_keypoints_runs_exported(backend: Backend, tmp_path: Path) -> None:
    config = NetworkConfig(
        trunk="landmarks-fine", keypoints=True, depths=True, fusion=(32, 32, 32), features=64, hidden=64
    )
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, made_up_network(variant_of(config, MODEL), 3), CheckpointInfo(), half=True)
    picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    frame = Frame(picture, Camera.pinhole(320, 240, 250))
    boxes = [HandBox(side, (100 + shift, 60, 220, 200), 1.0) for side in Side for shift in (0, 30, -30)][:5]
    joints = []
    for runtime in (RuntimeConfig(backend=Backend.TORCH), RuntimeConfig(backend=backend, cache_dir=tmp_path)):
        estimator = WildHands.load(WildHandsConfig(path, all_hands=True, runtime=runtime), MODEL)
        joints.append([hand.joints for hand in estimator.estimate(frame, boxes).hands])
        joints.append([estimator.estimate(frame, [box]).hands[0].joints for box in boxes])
    assert len(joints[0]) == 5
    for others in joints[1:]:
        np.testing.assert_allclose(joints[0], others, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"trunk": "landmarks"}, {"encoding": "dense"}, {"encoding": "input"}, {"keypoints": False}],
    ids=["trunk", "dense", "input", "depths"],
)
def test_keypoints_need_the_fine_trunk_and_one_vector_and_depths_keypoints(change: dict[str, Any]) -> None:
    whole = {"trunk": "landmarks-fine", "keypoints": True, "depths": True}
    with pytest.raises(ModelFileError):
        variant_of(replace(SMALL, **{**whole, **change}), MODEL)
