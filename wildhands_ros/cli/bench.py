"""`wildhands bench`: speed and accuracy on this machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from wildhands_ros.camera import Camera
from wildhands_ros.cli.common import (
    add_pipeline,
    output_file,
    read_pipeline,
    require_writable,
    sigterm_interrupts,
)
from wildhands_ros.cli.light import has_ros
from wildhands_ros.drawing import draw_hands
from wildhands_ros.errors import WildHandsError
from wildhands_ros.evaluation import FrameTruth, SequenceScore, score_sequences
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Hand
from wildhands_ros.json_values import without_nan
from wildhands_ros.pipeline import EstimationConfig, Pipeline, PipelineConfig
from wildhands_ros.pipeline.pipeline import make_estimator, needs_torch
from wildhands_ros.processor import processor_name
from wildhands_ros.settings import config_to_dict
from wildhands_ros.synthetic import Lens, SequenceConfig, SyntheticSequence, demo_photos
from wildhands_ros.tables import table
from wildhands_ros.whole_files import write_whole

if TYPE_CHECKING:  # the network's torch takes seconds to import
    from wildhands_ros.estimation.wildhands.bench import BenchRow, StageTiming

_REPEATS = 15


@dataclass(frozen=True)
class Timing:
    """Milliseconds over repeated runs."""

    what: str
    median_ms: float
    p95_ms: float
    runs: int


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "bench",
        help=summary,
        description="Renders two-hand sequences whose poses are known (wide-angle and fisheye lens), finds the hands "
        "in them and compares; times every stage, and with --topics the live node as well.",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each rendered sequence (default: 10)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="sequences per lens (default: 2)")
    parser.add_argument(
        "--network",
        action="store_true",
        help="also time the open network stage by stage, and the WildHands network in every way that is installed, "
        "beside the way it was published (made-up weights of the same size, unless --checkpoint and --mano-dir are "
        "given)",
    )
    parser.add_argument(
        "--topics", action="store_true", help="also play a sequence at 30 Hz to the node in a process of its own"
    )
    parser.add_argument(
        "--node",
        action="store_true",
        help="instead measure what the node costs beside the pipeline (receive, decode, publish, TF, markers)",
    )
    parser.add_argument(
        "--work", type=float, default=0.0, metavar="MS", help="with --node: how long the pipeline works on an image"
    )
    parser.add_argument(
        "--json",
        type=output_file,
        metavar="FILE",
        help="also write the figures as JSON; '-': to standard output, with the tables on standard error",
    )
    add_pipeline(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.seconds <= 0 or args.seeds < 1:
        raise WildHandsError("--seconds must be positive and --seeds at least 1")
    if not 0 <= args.work <= 1000:
        raise WildHandsError(f"--work must lie between 0 and 1000 ms, not {args.work:g}")
    if args.json is not None:
        require_writable(args.json)
    machine = describe_machine()
    print(f"machine: {machine}\n")
    if args.node:
        _bench_node(args.seconds, args.work, machine, args.json)
        return 0
    config = replace(read_pipeline(args), upright_rotation=0)  # its own pictures are upright
    stages = _stage_rows(config.estimation) if args.network else []
    network = _network_rows(config.estimation) if args.network else []
    if args.network:
        print(f"{stage_table(stages)}\n\n{network_table(network)}\n")
    timings: list[Timing] = []
    scores: dict[str, SequenceScore] = {}
    # beside the baseline, so that estimators are compared in one table
    for estimator in dict.fromkeys(["landmarks", config.estimation.estimator]):
        chosen = replace(config, estimation=replace(config.estimation, estimator=estimator))
        for lens in Lens:
            name = f"{estimator}, {lens.value}"
            scores[name], frames = _accuracy(chosen, lens, args.seconds, args.seeds, name)
            timings += _stage_timings(f"{name}: ", frames)
    timings += _look_timings(config)
    timings += _empty_timings(config)
    print(timing_table(timings))
    print()
    print(score_table(scores))
    live = _over_topics(config, args.seconds) if args.topics else {}
    if args.topics:
        print(f"\n{live_table(live)}")
    if args.json is not None:
        _write_json(
            args.json,
            {
                "machine": machine,
                "open_network": [asdict(row) for row in stages],
                "network": [asdict(row) for row in network],
                "timings": [asdict(t) for t in timings],
                "scores": {name: asdict(score) for name, score in scores.items()},
                "over_topics": live,
            },
        )
    return 0


def _bench_node(seconds: float, work_ms: float, machine: str, path: Path | None) -> None:
    if not has_ros():
        raise WildHandsError("the node's own time needs ROS 2: make setup installs it from PyPI")
    from wildhands_ros.node.overhead import measure_overhead, overhead_table

    with sigterm_interrupts():
        rows = measure_overhead(seconds, work_ms=work_ms)
    print(overhead_table(rows))
    if path is not None:
        _write_json(path, {"machine": machine, "node": [asdict(row) for row in rows]})


def _write_json(path: Path, figures: dict[str, object]) -> None:
    """Raises WildHandsError. Values without a number are null."""
    try:
        write_whole(path, json.dumps(without_nan(figures), indent=2, allow_nan=False).encode())
    except OSError as error:
        raise WildHandsError(f"cannot write {path}: {error.strerror}") from error
    print(f"\nwrote {path}")


def _is_for_open_network(config: EstimationConfig) -> bool:
    """Whether the configured checkpoint, if any, is for the open network."""
    return config.estimator == "open" and config.mano_dir is None


def _stage_rows(config: EstimationConfig) -> list[StageTiming]:
    with needs_torch("wildhands bench --network"):
        from wildhands_ros.estimation.wildhands import OpenHands
        from wildhands_ros.estimation.wildhands.bench import bench_open

    checkpoint = config.checkpoint if _is_for_open_network(config) else None
    chosen = replace(config, estimator="open", mano_dir=None, checkpoint=checkpoint, hand_length=0.0)
    estimator = make_estimator(chosen, load_hand_model())
    assert isinstance(estimator, OpenHands)
    print(f"timing the open network, {estimator.network.runtime.name}")
    return bench_open(estimator)


def _network_rows(config: EstimationConfig) -> list[BenchRow]:
    with needs_torch("wildhands bench --network"):
        from wildhands_ros.estimation.wildhands import CheckpointInfo, Variant, save_checkpoint
        from wildhands_ros.estimation.wildhands.bench import bench_wildhands
        from wildhands_ros.estimation.wildhands.made_up import made_up_network

    model = load_hand_model(config.mano_dir)
    if config.checkpoint is not None and not _is_for_open_network(config):
        return bench_wildhands(config.checkpoint, model, progress=print)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "made_up.safetensors"
        save_checkpoint(path, made_up_network(Variant(), seed=1), CheckpointInfo(training_data="none: made up"))
        return bench_wildhands(path, model, progress=print)


def stage_table(timings: Sequence[StageTiming]) -> str:
    """The open network's stages as text, each hand's share of them."""
    counts = sorted({timing.hands for timing in timings})
    found = {(timing.stage, timing.hands): timing for timing in timings}
    head = [f"{'one hand' if n == 1 else f'each of {n} hands'}, {what}" for n in counts for what in ("ms", "CPU ms")]
    rows = []
    for stage in dict.fromkeys(timing.stage for timing in timings):
        here = [found[stage, count] for count in counts]
        rows.append([stage, *(f"{ms / t.hands:.1f}" for t in here for ms in (t.median_ms, t.cpu_ms))])
    return table(["open network, one 1280x720 picture", *head], rows)


def network_table(rows: Sequence[BenchRow]) -> str:
    """The ways to run the network as text."""
    return table(
        ["two hands, one 1280x720 picture", "median ms", "p95 ms", "times faster", "joints off by mm"],
        [
            [
                row.what, f"{row.median_ms:.1f}", f"{row.p95_ms:.1f}", "" if row.ratio is None else f"{row.ratio:.1f}",
                "" if row.distance_mm is None else f"{row.distance_mm:.3f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def live_table(live: Mapping[str, float]) -> str:
    """The live node's figures as text."""
    rows = [[what, str(value) if isinstance(value, int) else f"{value:.1f}"] for what, value in live.items()]
    return table(["over topics, 1280x720 raw at 30 Hz", ""], rows)


def _over_topics(config: PipelineConfig, seconds: float) -> dict[str, float]:
    """The live node's rate and latency, as a consumer of the hands sees them; NaN where nothing came."""
    from wildhands_ros.node.chain import LiveChain  # needs ROS
    from wildhands_ros.synthetic.demo_scenes import RenderedScene

    with sigterm_interrupts(), TemporaryDirectory() as folder, LiveChain() as chain:
        scene = RenderedScene(Path(folder), SequenceConfig(seconds=seconds))
        report = chain.measure(scene.open(), node_parameters(config))
    latency_ms = 1e3 * np.array(report.latencies_s or [np.nan])
    processing_ms = 1e3 * np.array(report.processing_s or [np.nan])
    return {
        "pictures published": report.published,
        "results": len(report.latencies_s),
        "results a second": len(report.latencies_s) / report.seconds,
        "latency, median (ms)": float(np.median(latency_ms)),
        "latency, p95 (ms)": float(np.percentile(latency_ms, 95)),
        "processing, median (ms)": float(np.median(processing_ms)),
        "processing, p95 (ms)": float(np.percentile(processing_ms, 95)),
        "latency beyond processing, median (ms)": float(np.median(latency_ms - processing_ms)),
        "latency beyond processing, p95 (ms)": float(np.percentile(latency_ms - processing_ms, 95)),
    }


def node_parameters(config: PipelineConfig) -> dict[str, object]:
    """The ROS parameters that let the node run this pipeline: the models' folder, and all that is not the default."""
    found: dict[str, object] = {"models_dir": str(config.models_dir)}

    def collect(values: dict[str, Any], usual: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                collect(value, usual[name], f"{prefix}{name}.")
            elif value != usual[name]:
                found[prefix + name] = value

    collect(config_to_dict(config), config_to_dict(PipelineConfig()), "")
    return found


def describe_machine() -> str:
    """Processor and cores, for the head of a table."""
    return f"{processor_name()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def timing_table(timings: Sequence[Timing]) -> str:
    """The timings as text."""
    rows = [[t.what, f"{t.median_ms:.1f}", f"{t.p95_ms:.1f}", str(t.runs)] for t in timings]
    return table(["what", "median ms", "p95 ms", "runs"], rows)


def score_table(scores: dict[str, SequenceScore]) -> str:
    """The estimators side by side."""
    rows = []
    for name, s in scores.items():
        rows.append(
            [
                name, f"{100 * s.recall:.1f}", str(s.false), f"{100 * s.side_accuracy:.1f}", str(s.id_changes),
                f"{s.keypoint_percent:.1f}", f"{s.mpjpe_mm:.1f}", f"{s.pa_mpjpe_mm:.1f}", f"{s.absolute_mm:.0f}",
                f"{s.wrist_mm:.0f} ({s.wrist_percent:.1f} %)", f"{s.mrrpe_mm:.0f}",
            ]
        )  # fmt: skip
    return table(
        [
            "estimator, sequence", "found %", "false", "side %", "id changes", "2D % of box", "MPJPE mm", "PA mm",
            "absolute mm", "wrist mm", "MRRPE mm",
        ],
        rows,
    )  # fmt: skip


def _accuracy(
    config: PipelineConfig, lens: Lens, seconds: float, seeds: int, name: str
) -> tuple[SequenceScore, list[dict[str, float]]]:
    """Score over `seeds` sequences, and the timings of every frame in which both hands were found."""
    pipeline = Pipeline.from_config(config)
    parts: list[tuple[list[Sequence[Hand]], list[FrameTruth]]] = []
    timings = []
    for seed in range(seeds):
        results: list[Sequence[Hand]] = []
        truths = []
        sequence = SyntheticSequence(SequenceConfig(seed=seed, seconds=seconds, lens=lens))
        pipeline.reset()
        for frame, truth in tqdm(sequence, desc=f"{name}, sequence {seed}", unit=" frames", disable=None):
            result = pipeline.process(replace(frame, stamp_ns=frame.stamp_ns + seed * 10**12))
            results.append(result.hands)
            truths.append(truth)
            if len(result.hands) == 2:
                start = time.perf_counter()
                draw_hands(frame.image, result.hands, frame.camera, pipeline.faces)
                timings.append({**result.timings, "draw": time.perf_counter() - start})
        parts.append((results, truths))
    return score_sequences(parts), timings


def _stage_timings(prefix: str, frames: Sequence[dict[str, float]]) -> list[Timing]:
    names = {
        "detect": "following two hands, 1280x720", "estimate": "estimating two hands with meshes",
        "track": "tracking", "total": "whole pipeline, two hands", "draw": "drawing the overlay",
    }  # fmt: skip
    return [_timing(prefix + text, [frame[stage] for frame in frames]) for stage, text in names.items() if frames]


def _look_timings(config: PipelineConfig) -> list[Timing]:
    """The first look at single pictures, which has nothing to follow."""
    pipeline = Pipeline.from_config(config)
    frames = [Frame(image, Camera.guess(image.shape[1], image.shape[0])) for _, image in demo_photos()]
    sequence = SyntheticSequence(SequenceConfig(seconds=2.0))
    frames += [sequence[i][0] for i in range(0, len(sequence), 10)]
    seconds = _repeat(lambda frame: pipeline.process_still(frame).timings["detect"], frames)
    return [_timing("first look at a single picture", seconds)]


def _empty_timings(config: PipelineConfig) -> list[Timing]:
    """A stream in which there is no hand to be found."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (9, 16, 3), np.uint8)
    image = np.kron(coarse, np.ones((80, 80, 1), np.uint8))
    pipeline = Pipeline.from_config(config)
    camera = Camera.guess(1280, 720)
    frames = [Frame(image, camera, stamp_ns=i * 33_333_333) for i in range(40)]
    seconds = [pipeline.process(frame).timings["total"] for frame in frames][5:]
    return [_timing("whole pipeline, no hand in view, 1280x720", seconds)]


def _repeat(measure: Callable[[Frame], float], frames: Sequence[Frame]) -> list[float]:
    for frame in frames:
        measure(frame)
    return [measure(frame) for _ in range(_REPEATS) for frame in frames]


def _timing(what: str, seconds: Iterable[float]) -> Timing:
    ms = 1e3 * np.array(list(seconds))
    return Timing(what, float(np.median(ms)), float(np.percentile(ms, 95)), len(ms))
