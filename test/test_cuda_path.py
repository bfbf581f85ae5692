"""What a GPU would be asked to do, on a pretended one: the same hands, in one upload and one answer, in half precision.

No substitute for a GPU: kernels, their speed and their rounding are not tested, nor memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pretend_cuda import Copy, PretendedGpu, pretended_gpu

from wildhands_ros.estimation.estimator import Estimates
from wildhands_ros.estimation.wildhands import (
    Backend,
    CheckpointInfo,
    Crops,
    Encoding,
    OpenHands,
    Perspective,
    Precision,
    RuntimeConfig,
    Translation,
    Trunk,
    Variant,
    WildHands,
    WildHandsConfig,
    agreement,
    bench,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.bench import bench_frame
from wildhands_ros.estimation.wildhands.check_pictures import check_pictures
from wildhands_ros.estimation.wildhands.crops import CropMaker
from wildhands_ros.estimation.wildhands.decode import decode
from wildhands_ros.estimation.wildhands.devices import whole_float32
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.runtime import TorchRuntime
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandModel, load_hand_model
from wildhands_ros.hands import HandBox, Side

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = Variant(trunk=Trunk.RESNET18, fusion=(32, 24, 16), features=64, hidden=32, grasp=True)
SMALL = replace(PUBLISHED, trunk=Trunk.LANDMARKS)
OURS = Variant(
    trunk=Trunk.LANDMARKS, frame_trunk=False, fusion=(32, 24, 16), features=64, hidden=32, crops=Crops.SHARP,
    perspective=Perspective.CORRECTION, translation=Translation.CROP, mirror=True,
)  # fmt: skip
BOXES = [
    HandBox(Side.RIGHT, (700.0, 330.0, 930.0, 560.0), 0.9),
    HandBox(Side.LEFT, (330.0, 350.0, 560.0, 550.0), 0.8),
]
PICTURE = (720, 1280, 3)
MOST_ELSE = 50_000  # values that else go up: where crops lie, and what each of their pixels is made of

FloatArray = NDArray[np.float64]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    with pretended_gpu(monkeypatch) as pretended:
        yield pretended


@pytest.fixture(autouse=True)
def fewer_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture instead of eight when a network is loaded: here convolutions are slow."""
    monkeypatch.setattr(agreement, "CHECKS", 1)


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model()


@pytest.fixture(scope="module")
def frames() -> tuple[Frame, Frame]:
    """Two pictures of one camera."""
    first = bench_frame()[0]
    second = Frame(first.image[:, ::-1].copy(), first.camera, first.stamp_ns + 1)
    return first, second


def stored(variant: Variant, folder: Path) -> Path:
    path = folder / "network.safetensors"
    save_checkpoint(path, made_up_network(variant, 3), CheckpointInfo(variant))
    return path


def config(checkpoint: Path | None, device: str, precision: Precision = Precision.FLOAT32) -> WildHandsConfig:
    return WildHandsConfig(checkpoint, runtime=RuntimeConfig(device, Backend.TORCH, precision, 1, tolerance_mm=50.0))


def joints(estimates: Estimates) -> FloatArray:
    return np.stack([hand.joints for hand in estimates.hands])


def test_the_pretended_gpu_has_rules(gpu: PretendedGpu) -> None:
    there = torch.ones(3).to("cuda")
    assert there.device.type == "cuda" and gpu.copies == [Copy(True, (3,), waits=True)]
    there[1:].mul_(2)
    assert there.cpu().tolist() == [1, 2, 2]
    assert gpu.waits == [] and there.sum().item() == 5 and len(gpu.waits) == 1
    with pytest.raises(RuntimeError, match=r"of the GPU and of the CPU \(\(3,\)\)"):
        there + torch.ones(3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = torch.zeros(3, device="cuda") + 2 * there
    there.copy_(torch.full((3,), 5.0))
    graph.replay()
    assert doubled.cpu().tolist() == [10, 10, 10]
    for forbidden in (lambda: torch.ones(3).to("cuda"), lambda: there[0].item()):
        with pytest.raises(RuntimeError, match="cannot be recorded"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            forbidden()


@pytest.mark.parametrize("variant", [PUBLISHED, OURS], ids=["published", "ours"])
def test_a_gpu_finds_the_same_hands_and_keeps_nobody_waiting(
    variant: Variant, gpu: PretendedGpu, model: HandModel, frames: tuple[Frame, Frame], tmp_path: Path
) -> None:
    checkpoint = stored(variant, tmp_path)
    here, there = (WildHands.load(config(checkpoint, device), model) for device in ("cpu", "cuda"))
    for frame in frames:  # through one graph, which was recorded with other pictures
        gpu.forget()
        found = there.estimate(frame, BOXES)
        assert_one_upload_one_answer(gpu, answers=1)
        np.testing.assert_allclose(joints(found), joints(here.estimate(frame, BOXES)), atol=2e-4)


def assert_one_upload_one_answer(gpu: PretendedGpu, answers: int) -> None:
    """The picture goes up once, little else does, and the host waits for the answers alone."""
    assert [copy for copy in gpu.copies if copy.shape == PICTURE] == [Copy(True, PICTURE, waits=False)]
    assert sum(np.prod(copy.shape) for copy in gpu.copies if copy.shape != PICTURE) < MOST_ELSE
    assert [copy.up for copy in gpu.copies if copy.waits] == [False] * answers
    assert gpu.waits == []


@pytest.mark.parametrize(
    "changes",
    [{"encoding": encoding} for encoding in Encoding]
    + [{"perspective": Perspective.CROP}, {"perspective": Perspective.NONE}, {"frame_trunk": True, "mirror": False}]
    + [{"trunk": Trunk.LANDMARKS_FINE, "upright": True, "perspective": perspective} for perspective in Perspective],
    ids=str,
)
def test_every_variant_is_the_same_on_a_gpu(
    changes: dict[str, object], gpu: PretendedGpu, frames: tuple[Frame, Frame]
) -> None:
    variant = replace(OURS, **changes)  # type: ignore[arg-type]
    camera, image = frames[0].camera, frames[0].image
    found = []
    for device in ("cpu", "cuda"):
        maker = CropMaker(variant, variant.box_factor, device)
        places = [maker.place(camera, box.xyxy) for box in BOXES]
        prepared = maker.prepare(image, camera, places, [True, False])  # type: ignore[arg-type]
        runtime = TorchRuntime(made_up_network(variant, 3), device)
        found.append(decode(variant, prepared, runtime(prepared.inputs)))
    assert gpu.waits == []
    for name in ("pose", "betas", "translation"):
        here, there = (getattr(decoded, name) for decoded in found)
        np.testing.assert_allclose(there, here, atol=1e-3, err_msg=name)


def test_looks_at_the_same_picture_need_one_upload(
    gpu: PretendedGpu, model: HandModel, frames: tuple[Frame, Frame]
) -> None:
    here, there = (
        OpenHands.load(replace(config(None, device), looks=3), model) for device in ("cpu", "cuda")
    )  # fmt: skip
    upside_down = Frame(frames[0].image[::-1].copy(), frames[0].camera)  # so that hands are looked at again
    boxes = [  # followed, so that one more look is all
        replace(box, xyxy=(x0, 719 - y1, x1, 719 - y0), follow_id=i)
        for i, box in enumerate(BOXES)
        for x0, y0, x1, y1 in [box.xyxy]
    ]
    gpu.forget()
    found = there.estimate(upside_down, boxes)
    assert_one_upload_one_answer(gpu, answers=3)
    exact = int(cv2.__version__.partition(".")[0]) >= 5  # those before turn pictures in steps of a 32nd of a pixel
    expected = joints(here.estimate(upside_down, boxes))
    np.testing.assert_allclose(joints(found), expected, atol=1e-3 if exact else 3e-3)


def test_hands_that_do_not_fit_their_boxes_and_their_sides_are_the_same_on_a_gpu(
    gpu: PretendedGpu, model: HandModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (OpenHands.load(config(None, device), model) for device in ("cpu", "cuda"))
    (picture,) = check_pictures(3, 1)
    frame = Frame(picture.image, picture.camera)
    boxes = []
    for side, (x0, y0, x1, y1) in picture.boxes.items():
        less = 0.28 * (x1 - x0)
        boxes.append(HandBox(side, (x0 + less, y0 + less, x1 - less, y1 - less), 1.0))
    looks, look = [], there._look
    monkeypatch.setattr(there, "_look", lambda *arguments: looks.append(arguments) or look(*arguments))
    for ask, at_least in (
        (lambda estimator: joints(estimator.estimate(frame, boxes)), 3),
        (lambda estimator: estimator.side_log_odds(frame, boxes), 1),
    ):
        gpu.forget()
        looks.clear()
        found = ask(there)
        assert len(looks) >= at_least
        assert_one_upload_one_answer(gpu, answers=len(looks))
        np.testing.assert_allclose(found, ask(here), atol=3e-3)


def test_trunks_alone_are_in_half_precision_with_channels_last(
    gpu: PretendedGpu, model: HandModel, frames: tuple[Frame, Frame], tmp_path: Path
) -> None:
    there = WildHands.load(config(stored(PUBLISHED, tmp_path), "cuda", Precision.AUTO), model)
    assert {kind for kind, _ in gpu.convolutions} == {torch.float16, torch.float32}
    trunks = [channels_last for kind, channels_last in gpu.convolutions if kind == torch.float16]
    # graphs for two hands and for one, each run three times and then recorded; two trunks of ResNet-18
    assert len(trunks) == 2 * (3 + 1) * 2 * 20 and all(trunks)
    gpu.forget()
    there.estimate(frames[0], BOXES[:1])
    there.estimate(frames[0], BOXES)
    assert gpu.convolutions == []  # they are in the graphs


def test_the_benchmark_times_the_gpu_where_there_is_one(
    gpu: PretendedGpu, model: HandModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = [config for config in bench.default_runtimes() if config.device == "cuda"]
    assert {config.precision for config in on_gpu} == {Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16}
    monkeypatch.setattr(bench, "BATCH", 6)
    rows = bench.bench_wildhands(stored(SMALL, tmp_path), model, on_gpu[:1], rounds=1)
    name = "torch float32 on cuda"
    stages = ["crops", "network", "hand model", "6 crops, network", "6 crops, trunk alone"]
    assert [row.what for row in rows] == ["reference way", name, *(f"{name}: {stage}" for stage in stages)]
    assert rows[1].distance_mm is not None and rows[1].distance_mm < 0.2  # as with every encoding, above
    # what ends on the GPU is waited for, once in a round to wake it and once in one that counts
    assert len(gpu.synchronized) == 2 * 3


def test_float32_stays_whole_until_the_last_of_several_threads_has_left() -> None:
    gpu, cudnn = torch.device("cuda"), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    with contextlib.ExitStack() as outer:
        inner = contextlib.ExitStack()
        inner.enter_context(whole_float32(gpu))
        outer.enter_context(whole_float32(gpu))
        inner.close()  # who came first leaves first
        assert not cudnn.allow_tf32
    assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == before
    with whole_float32(torch.device("cpu")):
        assert cudnn.allow_tf32 == before[0]
