"""How fast the network runs here, stage by stage, beside the way in which it was published."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.refinement import Parameters
from wildhands_ros.estimation.wildhands import published
from wildhands_ros.estimation.wildhands.check_pictures import check_pictures
from wildhands_ros.estimation.wildhands.checkpoint import load_checkpoint
from wildhands_ros.estimation.wildhands.crops import CropMaker
from wildhands_ros.estimation.wildhands.decode import decode, in_camera
from wildhands_ros.estimation.wildhands.estimator import WildHands, WildHandsConfig
from wildhands_ros.estimation.wildhands.network import NetworkInputs, NetworkOutput, WildHandsNetwork
from wildhands_ros.estimation.wildhands.open_hands import OpenHands
from wildhands_ros.estimation.wildhands.runtime import Backend, Precision, RuntimeConfig, TorchRuntime
from wildhands_ros.estimation.wildhands.variant import Crops
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandModel
from wildhands_ros.hands import HandBox, Landmarks, Side
from wildhands_ros.synthetic import SequenceConfig, SyntheticSequence


@dataclass(frozen=True)
class BenchRow:
    """One line of the table.

    ratio: how many times faster than the reference way, medians of the same rounds; None for parts of an estimate.
    distance_mm: mean distance of the joints from the reference way's; None where joints are not the matter.
    """

    what: str
    median_ms: float
    p95_ms: float
    runs: int
    ratio: float | None = None
    distance_mm: float | None = None


BATCH = 64
"""Crops that a GPU is given at once."""


def bench_frame() -> tuple[Frame, list[HandBox]]:
    """The picture that is timed: 1280×720, rendered, with a right and a left hand's box."""
    (picture,) = check_pictures(1, 1)  # none of those that calibrate
    boxes = [HandBox(side, picture.boxes[side], 1.0) for side in (Side.RIGHT, Side.LEFT)]
    return Frame(picture.image, picture.camera), boxes


def default_runtimes() -> list[RuntimeConfig]:
    """What is worth timing here: on the CPU float32 through each backend and OpenVINO's coarser precisions; on a GPU,
    where torch sees one, each precision, and float16 compiled."""
    unlimited = 1e6  # the table says how far each strays
    wanted = [
        ("cpu", Backend.TORCH, Precision.FLOAT32), ("cpu", Backend.ONNXRUNTIME, Precision.FLOAT32),
        ("cpu", Backend.OPENVINO, Precision.FLOAT32), ("cpu", Backend.OPENVINO, Precision.BFLOAT16),
        ("cpu", Backend.OPENVINO, Precision.INT8),
    ]  # fmt: skip
    if torch.cuda.is_available():
        wanted += [
            ("cuda", Backend.TORCH, Precision.FLOAT32), ("cuda", Backend.TORCH, Precision.BFLOAT16),
            ("cuda", Backend.TORCH, Precision.FLOAT16), ("cuda", Backend.COMPILE, Precision.FLOAT16),
        ]  # fmt: skip
    return [RuntimeConfig(device, backend, precision, tolerance_mm=unlimited) for device, backend, precision in wanted]


def bench_wildhands(
    checkpoint: Path,
    hand_model: HandModel,
    runtimes: Sequence[RuntimeConfig] | None = None,
    *,
    rounds: int = 20,
    progress: Callable[[str], None] | None = None,
) -> list[BenchRow]:
    """Times one picture's whole estimate (crops to vertices) in several ways, and the stages of each.

    All ways are run once in every round, so that what else the machine does falls on all of them alike. Ways that are
    not installed are left out. The first row is the reference way (`reference_way`).
    """
    say = progress or (lambda _line: None)
    frame, boxes = bench_frame()
    network, _ = load_checkpoint(checkpoint)
    expected = reference_way(network, hand_model, frame, boxes)
    ways: dict[str, Callable[[], object]] = {"reference way": lambda: reference_way(network, hand_model, frame, boxes)}
    distances = {}
    for config in default_runtimes() if runtimes is None else runtimes:
        try:
            estimator = WildHands.load(WildHandsConfig(checkpoint, runtime=config), hand_model)
        except ConfigError as error:
            say(f"left out: {error}")
            continue
        name = estimator.network.runtime.name
        say(f"timing {name}")
        hands = estimator.estimate(frame, boxes).hands
        distances[name] = 1e3 * float(
            np.mean([np.linalg.norm(h.joints - e, axis=1).mean() for h, e in zip(hands, expected, strict=True)])
        )
        ways[name] = lambda e=estimator: e.estimate(frame, boxes)  # type: ignore[misc]
        parts = _stages(estimator, frame, boxes) | _batch_ways(estimator, frame, boxes)
        ways.update({f"{name}: {part}": run for part, run in parts.items()})
    times = {name: seconds[:, 0] for name, seconds in _interleaved(ways, rounds).items()}
    reference = float(np.median(times["reference way"]))
    rows = []
    for what, seconds in times.items():
        ms = 1e3 * seconds
        row = BenchRow(what, float(np.median(ms)), float(np.percentile(ms, 95)), len(ms))
        if what in distances:
            row = replace(row, ratio=reference / float(np.median(seconds)), distance_mm=distances[what])
        rows.append(row)
    return rows


def reference_way(
    network: WildHandsNetwork, hand_model: HandModel, frame: Frame, boxes: Sequence[HandBox]
) -> list[np.ndarray]:
    """Joints (21, 3) of each hand as the published demo goes about it: eager float32, every hand a sample of its own.

    Every sample holds the frame and the crops of both hands, so two hands take six passes through a trunk; both
    heads and both hand models run for every sample, and one side of each is used.
    """
    variant = network.variant
    if variant.crops is not Crops.PUBLISHED or variant.keypoints:
        raise ConfigError("the reference way exists for networks with the published crops and without keypoints only")
    maker = CropMaker(variant, variant.box_factor)
    by_side = {box.side: box for box in boxes}
    frames, crops, encodings = [], [], []
    for _ in boxes:
        places = [maker.place(frame.camera, by_side[side].xyxy) for side in (Side.RIGHT, Side.LEFT)]
        prepared = maker.prepare(frame.image, frame.camera, places, [True, False])  # type: ignore[arg-type]
        frames.append(prepared.inputs.frame)
        crops.append(prepared.inputs.crops)
        encodings.append(prepared.inputs.encoding)
    bare = {side: WildHands.bare_layer(hand_model.layer(side)) for side in Side}
    found: list[np.ndarray] = []
    with torch.inference_mode():
        pictures = torch.cat(frames)
        whole = network.backbone(pictures) if variant.frame_trunk else pictures
        outputs: dict[Side, tuple[NetworkOutput, torch.Tensor, torch.Tensor]] = {}
        for index, (side, head) in enumerate(((Side.RIGHT, network.head_r), (Side.LEFT, network.head_l))):
            encoding = torch.stack([e[index] for e in encodings])
            maps = network.hand_backbone(network.trunk_input(torch.stack([c[index] for c in crops]), encoding))
            output = head(network.look(maps, whole, encoding)[0])
            hand = slice(index, index + 1)
            turns = None if prepared.turns is None else prepared.turns[hand]
            pose, translation = in_camera(
                variant, output, prepared.frame.focal, prepared.rays[hand], prepared.extents[hand], turns
            )
            outputs[side] = (output, pose, translation)
        for sample, box in enumerate(boxes):
            for side, (output, pose, translation) in outputs.items():
                mean = hand_model.layer(side).data.hands_mean
                rotations = published.joint_rotations(pose[sample].double().numpy(), mean)
                _, joints = bare[side].numpy(rotations, output.betas[sample].numpy(), translation[sample].numpy())
                if side is box.side:
                    found.append(joints)
    return found


@dataclass(frozen=True)
class StageTiming:
    """One stage of the open network's estimate of a picture with `hands` hands; milliseconds for all of them together.

    cpu_ms: of all processors together, median. It is the figure to compare on a machine that does other things too.
    """

    stage: str
    hands: int
    median_ms: float
    p95_ms: float
    cpu_ms: float
    runs: int


WHOLE_ESTIMATE = "whole estimate"


def bench_open(estimator: OpenHands, *, rounds: int = 30) -> list[StageTiming]:
    """Times the open network on a rendered 1280×720 picture, with one hand and with two, stage by stage.

    Landmarks are the true keypoints, moved by 3 % of the hand's size, so that the refinement has something to do.
    """
    frame, boxes = rendered_frame()
    timings = []
    for count in range(1, len(boxes) + 1):
        ways = _open_stages(estimator, frame, boxes[:count])
        for name, seconds in _interleaved(ways, rounds).items():
            wall, processors = 1e3 * seconds.T
            timings.append(
                StageTiming(
                    name, count, float(np.median(wall)), float(np.percentile(wall, 95)), float(np.median(processors)),
                    len(wall),
                )
            )  # fmt: skip
    return timings


def rendered_frame() -> tuple[Frame, list[HandBox]]:
    """A rendered 1280×720 picture of two hands, and their boxes with landmarks."""
    frame, truth = SyntheticSequence(SequenceConfig(seed=1, seconds=1.0))[15]
    boxes = []
    for hand in truth.hands:
        away = 0.03 * np.ptp(hand.keypoints, axis=0).max()
        directions = np.random.default_rng(0).normal(size=(21, 2))
        landmarks = Landmarks(hand.keypoints + away * directions, hand.joints - hand.joints.mean(axis=0), 1.0)
        boxes.append(HandBox(hand.side, hand.box, 1.0, landmarks=landmarks))
    return frame, boxes


def _open_stages(estimator: OpenHands, frame: Frame, boxes: Sequence[HandBox]) -> dict[str, Callable[[], object]]:
    stages = _stages(estimator, frame, boxes)
    bare = estimator.estimate(frame, [replace(box, landmarks=None) for box in boxes]).hands
    hands = [(Parameters(hand.pose, hand.betas, hand.translation), hand.side) for hand in bare]

    def refine() -> None:
        for (hand, side), box in zip(hands, boxes, strict=True):
            if box.landmarks is not None:
                estimator.refiner.refine(hand, side, box.landmarks, frame.camera)

    return {**stages, "refinement": refine, WHOLE_ESTIMATE: lambda: estimator.estimate(frame, boxes)}


def _stages(estimator: WildHands, frame: Frame, boxes: Sequence[HandBox]) -> dict[str, Callable[[], object]]:
    """The parts of one estimate, each with what came before it already done."""
    prepared = estimator.prepare(frame, boxes)
    runtime, variant = estimator.network.runtime, estimator.network.info.variant
    decoded = decode(variant, prepared, runtime(prepared.inputs))
    return {
        "crops": _waited_for(lambda: estimator.prepare(frame, boxes), runtime.device),
        "network": lambda: decode(variant, prepared, runtime(prepared.inputs)),
        "hand model": lambda: [
            estimator.pose_hand(box.side, decoded.pose[i], decoded.betas[i], decoded.translation[i])
            for i, box in enumerate(boxes)
        ],
    }


def _batch_ways(estimator: WildHands, frame: Frame, boxes: Sequence[HandBox]) -> dict[str, Callable[[], object]]:
    """On a GPU: many crops at once, as offline work has them, through the whole network and through its trunk alone."""
    runtime = estimator.network.runtime
    if not isinstance(runtime, TorchRuntime) or runtime.device.type != "cuda":
        return {}
    few = estimator.prepare(frame, boxes).inputs
    times = BATCH // len(few.crops)
    crops, encoding, right = (torch.cat([part] * times) for part in (few.crops, few.encoding, few.right))
    many = NetworkInputs(few.frame, crops, encoding, right)
    return {
        f"{BATCH} crops, network": _waited_for(lambda: runtime(many), runtime.device),
        f"{BATCH} crops, trunk alone": _waited_for(lambda: runtime.hand_trunk(many.crops), runtime.device),
    }


def _waited_for(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The same with all that it started on a GPU done."""

    def done() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return done


def _interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds (rounds, 2) that each way took, on the clock and of all processors, after a round that wakes them up."""
    for run in ways.values():
        run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - start, time.process_time() - used))
    return {name: np.array(taken) for name, taken in times.items()}
