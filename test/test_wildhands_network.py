"""The network, its variants and its checkpoints."""

import argparse
import gzip
import json
import os
import pickle
import random
import re
import struct
import warnings
import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from bounded import run_bounded
from safetensors.torch import save_file

from wildhands_ros.camera import Camera
from wildhands_ros.detection.models import LANDMARK_MODEL, load_model
from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.wildhands import (
    CheckpointInfo,
    Crops,
    Encoding,
    Perspective,
    Translation,
    Trunk,
    Variant,
    WildHandsNetwork,
    checkpoint_missing,
    load_checkpoint,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands import checkpoint as checkpoint_module
from wildhands_ros.estimation.wildhands.crops import CropMaker
from wildhands_ros.estimation.wildhands.decode import decode
from wildhands_ros.estimation.wildhands.expected_errors import ExpectedErrors
from wildhands_ros.estimation.wildhands.export import example_inputs
from wildhands_ros.estimation.wildhands.landmark_trunk import LandmarkTrunk, load_landmark_weights
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.network import (
    NetworkInputs,
    hand_translation,
    rotation_from_6d,
)
from wildhands_ros.estimation.wildhands.pytorch_files import file_sha256
from wildhands_ros.estimation.wildhands.runtime import Precision, RuntimeConfig
from wildhands_ros.estimation.wildhands.trunk_weights import load_trunk_weights
from wildhands_ros.estimation.wildhands.trunks import make_trunk, picture_mean_std

EXPECTED = np.load(Path(__file__).parent / "data" / "wildhands_expected.npz")
SMALL = Variant(trunk=Trunk.LANDMARKS, fusion=(32, 24, 16), features=64, hidden=32)


@pytest.fixture(scope="module", autouse=True)
def no_gradients(one_thread):
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def small():
    return made_up_network(SMALL, 1)


def published_file(path, network, extra=(), leave_out=(), prefix="model."):
    """A checkpoint with the published names."""
    state = {}
    for name, value in network.state_dict().items():
        for head in ("head_r.", "head_l."):
            for part in ("refine", "decoders"):
                name = name.replace(f"{head}{part}", f"{head}hmr_layer.{part}")
        if not any(word in name for word in leave_out):
            state[prefix + name] = value.clone()
    state.update(extra)
    torch.save({"epoch": 3, "global_step": 7, "pytorch-lightning_version": "1.9.5", "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def full():
    return made_up_network(Variant(), 11)


def test_published_network_has_the_published_tensors(full):
    names = full.state_dict()
    assert len(names) == 673
    assert sum(v.numel() for k, v in names.items() if "num_batches" not in k) == 69_289_056
    assert names["feature_conv.0.weight"].shape == (1024, 2128, 1, 1)
    assert names["head_l.decoders.cam_t/wp.weight"].shape == (3, 1024)


def test_published_network_gives_the_recorded_numbers(full):
    rng = np.random.default_rng(3)
    frame, crops, angles = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        for shape in ((1, 3, 224, 224), (2, 3, 224, 224), (2, 80))
    )
    out = full(NetworkInputs(frame, crops, angles.sin(), torch.tensor([True, False])))
    for name in ("pose", "betas", "camera", "camera_start"):
        np.testing.assert_allclose(getattr(out, name), EXPECTED[name], atol=1e-4, err_msg=name)


def test_each_hand_goes_through_its_own_head(small):
    inputs = example_inputs(small, 2)
    both = NetworkInputs(
        inputs.frame, inputs.crops[:1].expand(2, -1, -1, -1), inputs.encoding[:1].expand(2, -1), inputs.right
    )
    out = small(both)
    assert (out.pose[0] - out.pose[1]).abs().max() > 1e-2
    swapped = small(NetworkInputs(both.frame, both.crops, both.encoding, ~both.right))
    torch.testing.assert_close(swapped.pose, out.pose.flip(0))


def test_hands_do_not_depend_on_their_company(small):
    inputs = example_inputs(small, 3)
    together = small(inputs)
    alone = small(NetworkInputs(inputs.frame, inputs.crops[1:2], inputs.encoding[1:2], inputs.right[1:2]))
    torch.testing.assert_close(alone.pose[0], together.pose[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.camera[0], together.camera[1], atol=1e-5, rtol=0)


VARIANTS = [
    *(Variant(encoding=e, trunk=Trunk.LANDMARKS, fusion=(16, 12, 8), features=32, hidden=16) for e in Encoding),
    *(Variant(trunk=t, fusion=(16, 12, 8), features=32, hidden=16) for t in (Trunk.RESNET18, Trunk.EFFICIENTNET_LITE0)),
    Variant(trunk=Trunk.LANDMARKS, fusion=(16, 12, 8), features=32, hidden=16, frame_trunk=False, grasp=True),
    Variant(
        trunk=Trunk.LANDMARKS, fusion=(16, 12, 8), features=32, hidden=16, grasp=True, crops=Crops.SHARP,
        perspective=Perspective.CROP, encoding=Encoding.NONE, translation=Translation.CROP,
    ),
    Variant(
        trunk=Trunk.LANDMARKS, fusion=(16, 12, 8), features=32, hidden=16, crops=Crops.SHARP,
        perspective=Perspective.CORRECTION, translation=Translation.CROP,
    ),
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.trunk.value}-{v.encoding.value}-{v.perspective.value}")
def test_every_variant_runs_from_picture_to_parameters(variant, tmp_path):
    network = made_up_network(variant, 2)
    camera = Camera(320, 240, 260, 250, 150, 125)
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    maker = CropMaker(variant, variant.box_factor)
    places = [maker.place(camera, box) for box in ((30, 60, 110, 150), (190, 80, 280, 160))]
    prepared = maker.prepare(image, camera, places, [True, False])
    decoded = decode(variant, prepared, network(prepared.inputs))
    assert decoded.pose.shape == (2, 16, 3, 3)
    np.testing.assert_allclose(
        decoded.pose @ decoded.pose.swapaxes(-1, -2), np.tile(np.eye(3), (2, 16, 1, 1)), atol=1e-5
    )
    assert np.isfinite(decoded.translation).all() and (decoded.translation[:, 2] > 0).all()
    assert (decoded.grasp is not None) == variant.grasp
    if decoded.grasp is not None:
        np.testing.assert_allclose(decoded.grasp.sum(axis=1), 1, atol=1e-6)
    save_checkpoint(tmp_path / "n.safetensors", network, CheckpointInfo(variant))
    again, info = load_checkpoint(tmp_path / "n.safetensors")
    assert info.variant == variant
    torch.testing.assert_close(again(prepared.inputs).pose, network(prepared.inputs).pose)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_kpe_lets_a_fixed_network_see_where_a_crop_was_cut(encoding):
    """The same pixels in another place of the view: the output changes with every encoding, and not without."""
    variant = Variant(
        encoding=encoding, trunk=Trunk.LANDMARKS, frame_trunk=False, fusion=(16, 12, 8), features=32, hidden=16
    )
    network = made_up_network(variant, 3)
    patch = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    camera = Camera.pinhole(448, 448, 300)
    outputs = []
    for x, y in ((64, 128), (256, 192)):
        image = np.zeros((448, 448, 3), np.uint8)
        image[y : y + 64, x : x + 64] = patch
        maker = CropMaker(variant, 1.0)
        # half a pixel off: what lies on whole pixels of the frame falls to either side by rounding, as published
        box = (x + 8.5, y + 8.5, x + 56.5, y + 56.5)
        prepared = maker.prepare(image, camera, [maker.place(camera, box)], [True])
        outputs.append((prepared.inputs.crops, network(prepared.inputs)))
    torch.testing.assert_close(outputs[0][0], outputs[1][0], atol=1e-4, rtol=0)
    change = (outputs[0][1].pose - outputs[1][1].pose).abs().max()
    assert (change > 1e-3) == (encoding is not Encoding.NONE)


def test_perspective_correction_turns_with_the_crop():
    """A network blind to places must see the hand turned by the angle between the crops' rays."""
    variant = Variant(
        encoding=Encoding.NONE, perspective=Perspective.CORRECTION, trunk=Trunk.LANDMARKS, frame_trunk=False,
        fusion=(16, 12, 8), features=32, hidden=16,
    )  # fmt: skip
    network, camera, maker = made_up_network(variant, 3), Camera.pinhole(448, 448, 300), CropMaker(variant, 1.0)
    image = np.zeros((448, 448, 3), np.uint8)
    poses = []
    for box in ((200, 200, 248, 248), (300, 200, 348, 248)):
        prepared = maker.prepare(image, camera, [maker.place(camera, box)], [True])
        poses.append(decode(variant, prepared, network(prepared.inputs)).pose[0, 0])
    between = poses[1] @ poses[0].T
    angle = np.arccos((np.trace(between) - 1) / 2)
    assert angle == pytest.approx(np.arctan(100 / 300), abs=0.02)
    assert between[0, 2] > 0.2  # towards the right


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_rotations_come_from_their_first_two_rows():
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((5, 3, 3)))
    q *= np.sign(np.linalg.det(q))[:, None, None]
    rotation = torch.from_numpy(q)
    torch.testing.assert_close(rotation_from_6d(rotation[:, :2].flatten(1)), rotation)
    stretched = torch.cat([3 * rotation[:, 0], 0.5 * rotation[:, 1] + 2 * rotation[:, 0]], dim=1)
    torch.testing.assert_close(rotation_from_6d(stretched), rotation)


def test_metric_translation():
    camera = torch.tensor([[4.0, 0.1, -0.2], [0.01, 0, 0], [-3, 0, 0]])
    found = hand_translation(Translation.METRIC, camera, 112.0, torch.zeros(3, 2), torch.ones(3))
    torch.testing.assert_close(found, torch.tensor([[0.1, -0.2, 0.25], [0, 0, 10], [0, 0, 10]]))


def test_crop_translation_follows_the_crop():
    camera = torch.tensor([[-1.0, 0.5, 0.0]])
    rays, extent = torch.tensor([[0.3, -0.1]]), torch.tensor([56.0])
    found = hand_translation(Translation.CROP, camera, 112.0, rays, extent)[0]
    depth = 2 * np.exp(-1)
    torch.testing.assert_close(found, torch.tensor([(0.3 + 0.5 * 0.25) * depth, -0.1 * depth, depth]).float())


def test_landmark_trunk_is_the_landmark_network(models_dir):
    """Its feature map, averaged, gives the landmark network's own outputs through that network's last layers."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    content = load_model(LANDMARK_MODEL, models_dir)
    trunk = LandmarkTrunk().eval()
    load_landmark_weights(trunk, content)
    image = np.random.default_rng(0).random((1, 224, 224, 3)).astype(np.float32)
    interpreter = Interpreter(
        model_content=content, experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )  # fmt: skip
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    pooled = next(op for op in interpreter._get_ops_details() if op["op_name"] == "MEAN")
    expected = interpreter.get_tensor(pooled["inputs"][0])[0].transpose(2, 0, 1)
    mean, std = (v.numpy() for v in picture_mean_std())
    normalised = torch.from_numpy(((image - mean) / std).transpose(0, 3, 1, 2))
    found = trunk(normalised)[0].numpy()
    assert found.shape == (1152, 7, 7)
    assert np.abs(found - expected).max() < 1e-3 * max(1.0, np.abs(expected).max())


def test_landmark_weights_leave_room_for_an_encoding(models_dir):
    content = load_model(LANDMARK_MODEL, models_dir)
    plain, wide = LandmarkTrunk().eval(), LandmarkTrunk(3 + 16).eval()
    load_landmark_weights(plain, content)
    load_landmark_weights(wide, content)
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(wide(torch.cat([x, torch.randn(1, 16, 224, 224)], dim=1)), plain(x))


def test_landmark_weights_refuse_other_files():
    with pytest.raises(ModelFileError):
        load_landmark_weights(LandmarkTrunk(), b"\x1c\x00\x00\x00TFL3" + bytes(200))


def classifier_weights(kind: Trunk = Trunk.RESNET18) -> dict[str, torch.Tensor]:
    """As torchvision's classifiers are saved: a trunk's tensors, no two alike, and a last layer."""
    generator = torch.Generator().manual_seed(4)
    state = {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in make_trunk(kind).state_dict().items()
    }
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def saved_as(path: Path, state: dict[str, torch.Tensor], form: str) -> Path:
    if form == "safetensors":
        save_file(state, path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    elif form == "old":  # without batch norms' counters, and no archive
        torch.save(
            {k: v for k, v in state.items() if "num_batches" not in k}, path, _use_new_zipfile_serialization=False
        )
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("form", ["new", "old", "wrapped", "safetensors"])
@pytest.mark.parametrize("kind", [Trunk.RESNET18, Trunk.EFFICIENTNET_LITE0])
def test_trunks_start_from_weights_of_classifiers(kind, form, tmp_path):
    state = classifier_weights(kind)
    trunk = make_trunk(kind)
    load_trunk_weights(trunk, saved_as(tmp_path / "classifier", state, form))
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_weights_of_classifiers_leave_room_for_an_encoding(tmp_path):
    path = saved_as(tmp_path / "classifier", classifier_weights(), "new")
    plain, wide = make_trunk(Trunk.RESNET18).eval(), make_trunk(Trunk.RESNET18, 3 + 16).eval()
    load_trunk_weights(plain, path)
    load_trunk_weights(wide, path)
    x = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(wide(torch.cat([x, torch.rand(1, 16, 224, 224)], dim=1)), plain(x))


@pytest.mark.parametrize(("change", "message"), [
    (
        {"layer1.0.conv1.weight": None, "\x1b[2J": torch.zeros(1)},
        r"lacks 1 of this trunk's \d+ tensors \(layer1\.0\.conv1\.weight\): it holds '",
    ),
    ({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, r"layer1\.0\.conv1\.weight is \(64, 64, 1, 1\), expected"),
    ({"conv1.weight": torch.zeros(64, 4, 7, 7)}, r"conv1\.weight is \(64, 4, 7, 7\), expected \(64, 3, 7, 7\)"),
    ({"conv1.weight": torch.zeros(64, 3)}, r"conv1\.weight is \(64, 3\), expected \(64, 3, 7, 7\)"),
    ({"conv1.weight": torch.zeros(1).expand(10**12, 3, 7, 7)}, r"conv1\.weight is \(1000000000000, 3, 7, 7\), exp"),
    ({"bn1.bias": torch.full((64,), torch.nan)}, r"NaN or infinity in bn1\.bias"),
    ({"bn1.bias": torch.full((64,), 1e300, dtype=torch.float64)}, r"NaN or infinity in bn1\.bias"),
    ({"bn1.running_var": torch.full((64,), -1.0)}, r"variances below 0 in bn1\.running_var"),
    ({"bn1.bias": torch.zeros(64).to_sparse()}, r"holds bn1\.bias in a special form"),
    ({"bn1.bias": torch.zeros(64, device="meta")}, r"holds bn1\.bias in a special form"),
    ({"bn1.bias": torch.zeros(64, dtype=torch.int8)}, r"holds bn1\.bias in a special form"),
    ({"bn1.bias": torch.zeros(64, dtype=torch.complex64)}, r"holds bn1\.bias in a special form"),
    ({"bn1.bias": torch.zeros(64).to(torch.float8_e4m3fn)}, r"holds bn1\.bias in a special form"),
])  # fmt: skip
def test_weights_that_are_no_such_classifiers_are_named(change, message, tmp_path):
    state = {name: value for name, value in (classifier_weights() | change).items() if value is not None}
    with pytest.raises(ModelFileError, match=message) as raised:
        load_trunk_weights(make_trunk(Trunk.RESNET18), saved_as(tmp_path / "classifier", state, "new"))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_classifiers_may_be_of_other_precision(kind, tmp_path):
    state = {name: v.to(kind) if v.is_floating_point() else v for name, v in classifier_weights().items()}
    trunk = make_trunk(Trunk.RESNET18)
    load_trunk_weights(trunk, saved_as(tmp_path / "classifier", state, "safetensors"))
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, state[name].float() if value.is_floating_point() else state[name]), name


@pytest.mark.parametrize(("content", "message"), [
    (None, "is not there: it should hold the weights"), (b"", "is empty"), (b"<html>", "is a web page"),
    (b"\x10\0\0\0\0\0\0\0{", "is damaged, or no safetensors file"),
])  # fmt: skip
def test_files_that_are_no_weights_of_classifiers_are_named(content, message, tmp_path):
    path = tmp_path / "classifier"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        load_trunk_weights(make_trunk(Trunk.RESNET18), path)


@pytest.mark.parametrize(("kind", "channels", "parameters"), [
    (Trunk.RESNET50, 2048, 23_508_032), (Trunk.RESNET18, 512, 11_176_512),
    (Trunk.EFFICIENTNET_LITE0, 1280, 3_371_008), (Trunk.LANDMARKS, 1152, 2_500_000),
])  # fmt: skip
def test_trunks(kind, channels, parameters):
    trunk = make_trunk(kind).eval()
    assert trunk.channels == channels
    assert sum(p.numel() for p in trunk.parameters()) == pytest.approx(
        parameters, rel=0.08 if kind is Trunk.LANDMARKS else 0
    )
    assert trunk(torch.zeros(1, 3, 224, 224)).shape == (1, channels, 7, 7)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_published_file(full, tmp_path):
    extra = {
        "model.mano_r.mano.v_template": torch.zeros(778, 3),
        "mano_l.faces": torch.zeros(3),
        "model.head_o.x": torch.zeros(1),
    }
    path = published_file(tmp_path / "published.ckpt", full, extra)
    network, info = load_checkpoint(path)
    assert info.variant == Variant() and info.hand_model == "mano" and "NC" in info.licence
    with path.open("r+b") as file:  # the loaded network must not see what becomes of its file
        file.seek(path.stat().st_size // 3)
        file.write(bytes(1 << 24))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), full.state_dict().values(), strict=True)
    )
    assert not any(p.requires_grad for p in network.parameters()) and not network.training

    published_file(path, full, {"model.feature_conv.7.bias": torch.zeros(5)})
    with pytest.raises(ModelFileError, match=r"feature_conv.7.bias is \(5,\), expected \(2048,\)"):
        load_checkpoint(path)
    published_file(path, full, {"model.feature_conv.7.bias": torch.full((2048,), torch.nan)})
    with pytest.raises(ModelFileError, match=r"NaN or infinity in model.feature_conv.7.bias"):
        load_checkpoint(path)
    published_file(path, full, {"model.backbone.bn1.running_var": torch.full((64,), -1.0)})
    with pytest.raises(ModelFileError, match=r"variances below 0 in model.backbone.bn1.running_var"):
        load_checkpoint(path)
    published_file(path, full, {"model.feature_conv.7.bias": torch.zeros(2048, dtype=torch.int64)})
    with pytest.raises(ModelFileError, match=r"feature_conv.7.bias holds torch.int64, expected torch.float32"):
        load_checkpoint(path)
    grasp = {f"model.{name}": value for name, value in grasp_layers()}
    network, info = load_checkpoint(published_file(path, full, grasp))
    assert info.variant.grasp
    assert network(example_inputs(network, 1)).grasp.shape == (1, 9)


PUBLISHED_NAMES = {
    "head_r.decoders.shape.bias": "head_r.hmr_layer.decoders.shape.bias",
    "head_l.refine.0.weight": "head_l.hmr_layer.refine.0.weight",
    "head_r.cam_init.0.weight": "head_r.cam_init.0.weight",
    "feature_conv.7.bias": "feature_conv.7.bias",
}
"""How published files spell some of the network's names, after what they begin with."""


@pytest.mark.parametrize("wrapper", ["model.", "model.module.", ""])
def test_tensors_of_published_files_are_named_as_the_file_names_them(wrapper, full, tmp_path):
    path = tmp_path / "published.ckpt"
    published = [wrapper + name for name in PUBLISHED_NAMES.values()]
    published_file(path, full, leave_out=PUBLISHED_NAMES.values(), prefix=wrapper)
    with pytest.raises(ModelFileError, match=r"lacks 4 of the network's 673 tensors: ") as refused:
        load_checkpoint(path)
    assert set(re.search("tensors: (.*?)[.] It is", str(refused.value))[1].split(", ")) == set(published)
    published_file(path, full, {name: torch.zeros(7, 7) for name in published}, prefix=wrapper)
    with pytest.raises(ModelFileError, match="does not fit the network: ") as refused:
        load_checkpoint(path)
    misfits = str(refused.value).split("the network: ")[1]
    assert set(re.findall(r"(\S+) is \(7, 7\), expected \([\d, ]+\)", misfits)) == set(published)


def test_names_of_published_files_are_ours_and_back(full):
    for name in full.state_dict():
        published = checkpoint_module._published_name(name, "model.")
        assert (".hmr_layer." in published) == bool(re.match(r"head_[rl]\.(refine|decoders)\.", name))
        assert checkpoint_module._our_name(published) == name


def test_ten_names_are_listed_and_the_others_counted(full, tmp_path):
    path = published_file(tmp_path / "published.ckpt", full, leave_out=("hand_backbone.layer4",))
    named = [name for name in full.state_dict() if name.startswith("hand_backbone.layer4") and "num_b" not in name]
    with pytest.raises(ModelFileError) as refused:
        load_checkpoint(path)
    assert ", ".join(f"model.{name}" for name in named[:10]) + f" and {len(named) - 10} more. " in str(refused.value)


def test_a_broken_tensor_of_a_grasp_head_is_named_as_the_file_names_it(full, tmp_path):
    grasp = {f"model.{name}": value for name, value in grasp_layers()}
    grasp["model.grasp_classifier.layers.4.bias"] = torch.full((512,), torch.nan)
    path = published_file(tmp_path / "published.ckpt", full, grasp)
    with pytest.raises(ModelFileError, match=r"infinity in model\.grasp_classifier\.layers\.4\.bias"):
        load_checkpoint(path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model._orig_mod.", "model.module._orig_mod."])
def test_names_of_wrapped_networks_are_understood(prefix, full, tmp_path):
    network, _ = load_checkpoint(published_file(tmp_path / "wrapped.ckpt", full, prefix=prefix))
    assert torch.equal(network.head_l.refine[0].weight, full.head_l.refine[0].weight)


def test_names_of_parts_that_were_compiled_by_themselves_are_understood(full, tmp_path):
    path = published_file(tmp_path / "parts.ckpt", full)
    state = torch.load(path, weights_only=True)["state_dict"]
    torch.save({re.sub(r"(backbone|hmr_layer)\.", r"\1._orig_mod.", key): state[key] for key in state}, path)
    network, _ = load_checkpoint(path)
    for name in ("hand_backbone.conv1.weight", "backbone.conv1.weight", "head_l.refine.0.weight"):
        assert torch.equal(network.state_dict()[name], full.state_dict()[name])


def test_weights_of_two_networks_in_one_file_are_told_apart(full, tmp_path):
    """Such as a running average beside the weights: which of the two is meant, nobody could guess."""
    weight = full.hand_backbone.conv1.weight
    path = published_file(tmp_path / "two.ckpt", full, {"module.hand_backbone.conv1.weight": weight + 1})
    with pytest.raises(ModelFileError, match="more than one network .*model.hand_backbone.conv1.weight and module.han"):
        load_checkpoint(path)
    published_file(path, full, {"module.hand_backbone.conv1.weight": weight.clone()})  # the same under two names
    assert torch.equal(load_checkpoint(path)[0].hand_backbone.conv1.weight, weight)


def test_counters_of_training_steps_may_be_left_out(full, tmp_path):
    network, _ = load_checkpoint(published_file(tmp_path / "bare.ckpt", full, leave_out=("num_batches_tracked",)))
    assert not network.backbone.bn1.num_batches_tracked
    assert torch.equal(network.backbone.bn1.running_var, full.backbone.bn1.running_var)


def test_weights_that_are_no_tensors_are_named_as_that(full, tmp_path):
    """Not as missing: the file holds what its user sees in it."""
    array = np.zeros(2048, np.float32)
    path = published_file(tmp_path / "arrays.ckpt", full, {"model.feature_conv.7.bias": array})
    with pytest.raises(ModelFileError, match=r"holds 'model.feature_conv.7.bias' as something else than tensors"):
        load_checkpoint(path)
    torch.save({"model.backbone.conv1.weight": array, "model.backbone.bn1.bias": array}, path)
    with pytest.raises(ModelFileError, match="holds 'model.backbone.conv1.weight', 'model.backbone.bn1.bias' as"):
        load_checkpoint(path)
    counters = {name: 5 for name in full.state_dict() if name.endswith("num_batches_tracked")}
    network, _ = load_checkpoint(published_file(path, full, counters, prefix=""))  # these mean nothing, in any form
    assert torch.equal(network.backbone.conv1.weight, full.backbone.conv1.weight)


def test_files_from_before_they_were_archives_are_read(full, tmp_path):
    path = published_file(tmp_path / "old.ckpt", full)
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(path)[0].backbone.conv1.weight, full.backbone.conv1.weight)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"state_dict": {"encoder.a": torch.zeros(1), "b\x1b": torch.zeros(1)}}, r"'encoder\.a', 'b\\x1b'"),
        ({"epoch": 3, "ema": {"model.x": torch.zeros(1)}}, "'epoch', 'ema'"),
    ],
    ids=["another network", "elsewhere"],
)
def test_files_without_any_of_the_tensors_name_what_they_hold_and_what_is_expected(content, held, tmp_path):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ModelFileError, match=f"none of the network's 673 tensors, but {held}: .*model.hand_backbone"):
        load_checkpoint(tmp_path / "other.ckpt")


def doubled_tuples(count, end):
    """The pickle of a checkpoint with a tuple that holds another one twice, and so on: written out, 2^count. Then
    what `end` makes of it."""
    tuples = b"".join(b"r" + struct.pack("<I", 9 + i) + b"j" + struct.pack("<I", 9 + i) + b"\x86" for i in range(count))
    return b"\x80\x02}X\x0a\x00\x00\x00state_dict}" + b"K\x00\x85" + tuples + end + b"s."


def test_keys_without_end_are_refused(tmp_path):
    contents = {
        "large": doubled_tuples(10, b"K\x01s"),
        "endless": doubled_tuples(40, b"K\x01s"),
        "argument": doubled_tuples(40, b"K\x01\x86\x85r\1\0\0\0" + b"0ccollections\nOrderedDict\nj\1\0\0\0\x85R0"),
    }
    paths = []
    for kind, content in contents.items():
        zipped, plain = tmp_path / f"{kind}_zipped.ckpt", tmp_path / f"{kind}_plain.ckpt"
        with zipfile.ZipFile(zipped, "w") as archive:
            for name, part in (("data.pkl", content), ("version", "3\n"), ("byteorder", "little")):
                archive.writestr(f"a/{name}", part)
        numbers = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
        plain.write_bytes(numbers + b"\x80\x02}." + content + b"\x80\x02].")
        paths += [zipped, plain]
    said = run_bounded(  # one process for all: importing torch is what takes long
        """
import sys
from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.checkpoint import load_checkpoint
for path in sys.argv[1:]:
    try:
        load_checkpoint(path)
    except ModelFileError as error:
        print(repr(str(error)), flush=True)
    else:
        print(path, "was read", flush=True)
""",
        *map(str, paths),
    )
    for path, line in zip(paths, said.splitlines(), strict=True):
        assert path.name in line and "not a WildHands checkpoint" in line and len(line) < 500


def test_numbers_and_tuples_as_training_writes_them_are_read(full, tmp_path):
    path = published_file(tmp_path / "file.ckpt", full)
    content = torch.load(path, weights_only=True)
    content["optimizer_states"] = [{"state": {i: {"step": torch.zeros(1)} for i in range(2000)}}]
    content["random"] = (np.random.default_rng(0).random(1000), random.getstate())
    torch.save(content, path)
    assert torch.equal(load_checkpoint(path)[0].backbone.conv1.weight, full.backbone.conv1.weight)


def grasp_layers():
    """Names and tensors of a grasp head as published files may hold it."""
    widths = (10 + 144 + 2048, 1024, 512, 128, 9)
    for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        yield f"grasp_classifier.layers.{4 * i}.weight", torch.ones(b, a)
        yield f"grasp_classifier.layers.{4 * i}.bias", torch.ones(b)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda head: head, True),
        (lambda head: dict(sorted(head.items())), True),
        (lambda head: dict(reversed(head.items())), True),
        (lambda head: {name: value for name, value in head.items() if not name.endswith("12.bias")}, False),
        (lambda head: head | {"grasp_classifier.layers.12.bias": torch.zeros(8)}, False),
        (lambda head: head | {"grasp_classifier.layers.12.bias": torch.zeros(9, dtype=torch.int64)}, False),
        (lambda head: head | {"grasp_classifier.scale": torch.zeros(9)}, False),
    ],
    ids=["as made", "sorted", "reversed", "one missing", "other classes", "whole numbers", "one more"],
)
def test_grasp_heads_are_recognised_in_any_order_and_others_named(change, kept, caplog):
    head = change(dict(grasp_layers()))
    found = checkpoint_module._grasp_layers(Path("file.ckpt"), head | {"feature_conv.7.bias": torch.zeros(2048)})
    assert (found is not None) == kept
    if found is not None:
        assert list(found.values()) == [name for name, _ in grasp_layers()]
    assert ("file.ckpt: its grasp head" in caplog.text and "grasp_classifier.layers.0." in caplog.text) == (not kept)


def test_own_format_keeps_everything(small, tmp_path):
    path = tmp_path / "own.safetensors"
    errors = ExpectedErrors(0.11, 0.55, 0.39)
    written = save_checkpoint(path, small, CheckpointInfo(SMALL, "renders", "open", "Apache-2.0", errors=errors))
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode  # whoever may read other files may read this one
    network, info = load_checkpoint(path)
    assert info == written == CheckpointInfo(SMALL, "renders", "open", "Apache-2.0", written.sha256, errors)
    assert len(info.sha256) == 64
    inputs = example_inputs(small, 2)
    torch.testing.assert_close(network(inputs).pose, small(inputs).pose)


def test_half_of_a_checkpoint_keeps_numbers_that_float16_cannot_hold(tmp_path):
    network = made_up_network(replace(SMALL, trunk=Trunk.RESNET18, frame_trunk=False), 1)
    network.hand_backbone.bn1.running_var[3] = 7e4
    save_checkpoint(tmp_path / "half.safetensors", network, CheckpointInfo(), half=True)
    found = load_checkpoint(tmp_path / "half.safetensors")[0].hand_backbone
    assert torch.equal(found.bn1.running_var, network.hand_backbone.bn1.running_var)
    assert torch.equal(found.conv1.weight, network.hand_backbone.conv1.weight.half().float())


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(small, tmp_path):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "missing" / "own.safetensors", tmp_path / "there"):
        with pytest.raises(ModelFileError, match="cannot be written"):
            save_checkpoint(path, small, CheckpointInfo(SMALL))
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_variants_survive_json():
    for variant in VARIANTS:
        assert Variant.from_dict(json.loads(json.dumps(variant.to_dict()))) == variant


@pytest.mark.parametrize(
    "change", [{"trunk": "vit"}, {"fusion": [1, 2]}, {"fusion": "x"}, {"novel": 1}, {"grasp": 1}, {"features": 10**9}]
)
def test_variants_that_make_no_sense(change):
    with pytest.raises(ModelFileError):
        Variant.from_dict(Variant().to_dict() | change)


class Evil:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_a_few_bytes_that_announce_a_huge_tensor_are_refused(full, tmp_path):
    name = "model.backbone.conv1.weight"
    huge = torch.zeros(1).expand(1 << 42)  # 16 TiB, stored as one number
    path = published_file(tmp_path / "huge.ckpt", full, {name: huge})
    with pytest.raises(ModelFileError, match=r"backbone\.conv1\.weight is \(4398046511104,\)"):
        load_checkpoint(path)


def test_files_that_are_not_checkpoints(small, tmp_path):
    path, marker = tmp_path / "file.ckpt", tmp_path / "executed"
    torch.save({"state_dict": {"model.x": Evil(marker)}}, path)
    broken = {
        "evil torch": path.read_bytes(),
        "evil pickle": pickle.dumps(Evil(marker)),
        "empty": b"",
        "text": b"hello" * 100,
        "text that begins like a pickle": b"this is text",
        "zip": b"PK\x03\x04" + bytes(100),
        "huge header": struct.pack("<Q", 1 << 62) + b"{",
        "lying header": struct.pack("<Q", 1000) + b"{}",
        "bad json": struct.pack("<Q", 12) + b"{not json!!}",
    }
    torch.save([1, 2], path)
    broken["a list"] = path.read_bytes()
    torch.save({"state_dict": {}}, path)
    broken["no tensors"] = path.read_bytes()
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    broken["other tensors"] = path.read_bytes()
    save_checkpoint(path, small, CheckpointInfo(SMALL))
    whole = path.read_bytes()
    broken["cut short"] = whole[: len(whole) // 2]
    flipped = bytearray(whole)
    flipped[-5] ^= 0x55
    broken["changed"] = bytes(flipped)
    plain = {"state_dict": {"model.a": torch.ones(2, 3)}}
    torch.save(plain, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    broken |= {f"old torch, cut at {end}": old[:end] for end in range(1, len(old), 23)}
    broken |= {f"old torch, changed at {i}": old[:i] + b"\x52" + old[i + 1 :] for i in range(0, len(old), 11)}
    torch.save(plain, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for at in range(0, 60, 5):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                changed = content[:at] + b"\x52" + content[at + 1 :]
                archive.writestr(name, changed if name.endswith("data.pkl") else content)
        broken[f"zip, changed at {at}"] = path.read_bytes()
    huge = json.dumps({"format": 1, "variant": {"box_factor": 10**400}})
    save_file({"a": torch.ones(2)}, path, {"wildhands": huge})
    broken["a number without end"] = path.read_bytes()
    for name, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="file.ckpt"):
            load_checkpoint(path)
            pytest.fail(name)
    assert not marker.exists()


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nested tensors are a prototype
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


@pytest.mark.parametrize("name", ["feature_conv.7.bias", "grasp_classifier.layers.12.bias"])
@pytest.mark.parametrize(
    "make",
    [lambda: torch.zeros(2048).to_sparse(), lambda: torch.zeros(2048, device="meta"), nested],
    ids=["sparse", "without numbers", "nested"],
)
def test_tensors_of_special_forms_are_named(make, name, tmp_path):
    state = {"model.feature_conv.4.weight": torch.zeros(1), f"model.{name}": make()}
    torch.save({"state_dict": state}, tmp_path / "odd.ckpt")
    with pytest.raises(ModelFileError, match=f"model.{name} in a special form".replace(".", r"\.")):
        load_checkpoint(tmp_path / "odd.ckpt")


def test_compressed_files_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.ckpt"
    torch.save({"state_dict": {"model.x": torch.zeros(4)}}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: pytest.fail("it was unpacked"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(1 << 24))
    with pytest.raises(ModelFileError, match=r"bomb\.ckpt is compressed"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:  # one part that is said to be there many times over
        archive.writestr("a/data.pkl", bytes(1 << 16))
        archive.filelist *= 3
    with pytest.raises(ModelFileError, match=r"bomb\.ckpt is compressed"):
        load_checkpoint(path)


def test_an_archive_with_a_checkpoint_in_it_is_told_from_one(tmp_path):
    """Folders of web drives come as such archives, large files in them as they are."""
    path = tmp_path / "drive-download.zip"
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("weights/", b"")
            archive.writestr("weights/wildhands.ckpt", b"PK\x03\x04" + bytes(1000))
        with pytest.raises(ModelFileError, match=r"other files \('weights/wildhands\.ckpt'\): unpack it"):
            load_checkpoint(path)


def test_weights_that_are_not_those_that_were_written_are_refused(full, tmp_path):
    """Zeros, as broken downloads and copies leave them, would make another network that runs."""
    path = published_file(tmp_path / "model.ckpt", full)
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    with path.open("r+b") as file:
        file.seek(part.header_offset + part.file_size // 2)
        file.write(bytes(4096))
    with pytest.raises(ModelFileError, match=rf"model\.ckpt is damaged, at '{part.filename}': get it again"):
        load_checkpoint(path)


def test_weights_that_were_written_without_checksums_are_read(full, tmp_path):
    """As `torch.serialization.set_crc32_options(False)` has PyTorch write them, which older ones do not know."""
    path, bare = published_file(tmp_path / "model.ckpt", full), tmp_path / "bare.ckpt"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():  # in the directory at the end, which alone is read
            at = content.rindex(struct.pack("<I", part.CRC) + struct.pack("<I", part.compress_size))
            content[at : at + 4] = bytes(4)
    bare.write_bytes(content)
    with zipfile.ZipFile(bare) as archive:
        assert not any(part.CRC for part in archive.infolist()) and archive.testzip()
    found, expected = load_checkpoint(bare)[0].state_dict(), load_checkpoint(path)[0].state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_files_that_may_not_be_read_are_named(small, tmp_path, monkeypatch):
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, small, CheckpointInfo(SMALL))

    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for read in (load_checkpoint, checkpoint_module.is_own_format, file_sha256):
        with pytest.raises(ModelFileError, match=r"own\.safetensors cannot be read \(Permission denied\)"):
            read(path)
    assert checkpoint_module.hand_model_of(path) is None


def test_a_checkpoint_with_code_is_refused_by_the_name_of_what_it_asks_for(tmp_path):
    path, marker = tmp_path / "evil.ckpt", tmp_path / "executed"
    torch.save({"state_dict": {"model.x": Evil(marker)}}, path)
    with pytest.raises(ModelFileError, match=f"asks for '{os.name}.mkdir'") as refused:
        load_checkpoint(path)
    assert "holds more than weights" in str(refused.value)
    assert "weights_only" not in str(refused.value) and "safe_globals" not in str(refused.value)
    assert not marker.exists()


def test_a_file_of_mano_is_told_from_a_checkpoint(tmp_path):
    from scipy.sparse import csc_matrix

    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps({"J_regressor": csc_matrix(np.eye(3))}, protocol=2))
    with pytest.raises(ModelFileError, match=r"MANO_RIGHT.pkl is no checkpoint: .*scipy.*--mano-dir"):
        load_checkpoint(path)


def test_what_training_writes_beside_the_weights_is_passed_over(tmp_path):
    path = tmp_path / "lightning.ckpt"
    beside = {
        "hyper_parameters": argparse.Namespace(lr=1e-5, name="run"),
        "callbacks": {"best": np.float64(3), "kinds": [np.dtype("f4"), np.int64(2)], "scores": np.arange(3.0)},
        "folders": [Path("/data"), PurePosixPath("a"), PureWindowsPath("b")],
        "found": [defaultdict(kind, {"a": kind()}) for kind in (list, dict, int, float, str, bool, tuple, set)],
    }
    torch.save({"state_dict": {"model.feature_conv.7.bias": torch.zeros(2048)}, **beside}, path)
    with pytest.raises(ModelFileError, match=r"lacks 566 of the network's 673 tensors"):  # so the rest was read
        load_checkpoint(path)


def test_missing_files_say_where_to_get_them(tmp_path):
    for path in (None, tmp_path / "none.ckpt", "x" * 300, "~nobody-of-this-name/none.ckpt"):
        text = checkpoint_missing(path)
        assert "WildHands" in text and "mano.is.tue.mpg.de" in text and "--checkpoint" in text
        assert path is None or checkpoint_module.hand_model_of(path) is None
    with pytest.raises(ModelFileError, match="none.ckpt is missing"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_what_lies_in_place_of_a_checkpoint_is_named(tmp_path, recwarn):
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "link.ckpt").symlink_to(tmp_path / "gone.ckpt")
    assert "folder.ckpt is a folder: name the file itself" in checkpoint_missing(tmp_path / "folder.ckpt")
    assert "link.ckpt is no file, or a link that leads to none" in checkpoint_missing(tmp_path / "link.ckpt")
    path = tmp_path / "file.ckpt"
    for content, says in (
        (b"", "is empty"), (gzip.compress(b"x"), "compressed by gzip"), (b"<!DOCTYPE html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"weights", "is damaged, or not a PyTorch"),
        (b"\xef\xbb\xbf\n<html>", "is a web page"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=says):
            load_checkpoint(path)
    torch.save({"state_dict": {}}, path, pickle_protocol=4)
    with pytest.raises(ModelFileError, match="torch.save's own pickle protocol"):
        load_checkpoint(path)
    assert not [w for w in recwarn.list if "protocol" in str(w.message)]


def test_too_large_files_are_refused_unread(tmp_path):
    path = tmp_path / "large.ckpt"
    with path.open("wb") as file:
        file.truncate(5 << 30)  # sparse
    with pytest.raises(ModelFileError, match="too large"):
        load_checkpoint(path)


def test_training_starts_from_plausible_hands():
    network = WildHandsNetwork(SMALL)
    network.initialise()
    out = network.eval()(example_inputs(network, 2))
    assert out.pose.isfinite().all()
    assert (out.pose - torch.eye(3)).abs().max() < 0.5


def test_variants_and_runtimes_are_known_by_name_too() -> None:
    assert Variant(encoding="center", trunk="resnet18", perspective="correction") == Variant(
        encoding=Encoding.CENTER, trunk=Trunk.RESNET18, perspective=Perspective.CORRECTION
    )
    with pytest.raises(ModelFileError, match="must be 'sharp'"):
        Variant(perspective="crop", crops="published")
    with pytest.raises(ModelFileError, match="unknown encoding 'bogus': known are .*sparse"):
        Variant(encoding="bogus")
    assert RuntimeConfig(backend="torch", precision="int8").precision is Precision.INT8
    with pytest.raises(ConfigError, match="unknown backend 'bogus'"):
        RuntimeConfig(backend="bogus")
