"""`wildhands demo`: the whole chain over ROS 2 topics, with measured errors."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wildhands_ros.cli.common import add_camera, read_camera, sigterm_interrupts, stem_of
from wildhands_ros.cli.light import add_models_dir, has_ros
from wildhands_ros.detection import models_missing
from wildhands_ros.drawing import TRUTH_STYLE, draw_hands, draw_status, fitted
from wildhands_ros.errors import ConfigError, ModelFileError, RecordingError, WildHandsError
from wildhands_ros.evaluation import FrameTruth, SequenceScore, score_sequence
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Side
from wildhands_ros.images import encode_jpeg
from wildhands_ros.pipeline import DEFAULT_ESTIMATOR, ESTIMATORS
from wildhands_ros.recordings import FrameSource, SourceKind, VideoWriter, open_source
from wildhands_ros.recordings.hands_reader import RecordedHands, read_hands
from wildhands_ros.recordings.video import require_utf8
from wildhands_ros.synthetic.demo_scenes import Held, RenderedScene, Slideshow
from wildhands_ros.tables import table
from wildhands_ros.whole_files import write_whole

if TYPE_CHECKING:  # needs ROS
    from wildhands_ros.node.chain import LiveChain

_STILLS = 4


@dataclass(frozen=True)
class Scene:
    """Something to play: its frames, and the truth of each where it is known."""

    name: str
    source: FrameSource
    truth: Sequence[FrameTruth] | None = None
    focal_is_guess: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one scene with one estimator.

    results: without meshes, as those of an hour would fill the memory; the bag has them.
    """

    scene: Scene
    estimator: str
    frames: int
    results: Sequence[RecordedHands]
    stamps: dict[int, int]
    seconds: float
    bag: Path
    video: Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "demo",
        help=summary,
        description="Plays photographs and a rendered two-hand sequence (or your own file) onto ROS 2 topics, runs the "
        "node on them in a second process, records everything in a third, and prints what was found: rate, latency "
        "and, where the truth is known, the errors. Writes a bag and an annotated video for each.",
    )
    parser.add_argument("--input", metavar="PATH", help="your own picture, folder, video or bag instead of ours")
    parser.add_argument("--topic", help="image topic of your bag (needed if it has several)")
    parser.add_argument(
        "--rectified", action=argparse.BooleanOptionalAction, default=None, help="your pictures are rectified, or not"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="default: out/demo")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the rendered sequence (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the rendered sequence: other hands, other motion")
    parser.add_argument("--lens", choices=("wide", "fisheye"), default="wide", help="of the rendered sequence")
    parser.add_argument(
        "--estimators",
        nargs="+",
        choices=ESTIMATORS,
        default=[DEFAULT_ESTIMATOR],
        help=f"to compare (default: {DEFAULT_ESTIMATOR})",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights of the network (estimators open, wildhands)"
    )
    parser.add_argument(
        "--mano-dir",
        type=Path,
        metavar="DIR",
        help="your MANO files (estimators wildhands, landmarks; default: the open hand model)",
    )
    add_camera(parser)
    add_models_dir(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not has_ros():
        raise WildHandsError("the demo needs ROS 2: make setup installs it from PyPI (or use 'wildhands run')")
    missing = models_missing(args.models_dir)
    if missing:
        raise ModelFileError("\n  ".join(missing))
    _require_own_pictures(args)
    from wildhands_ros.node.chain import LiveChain  # needs ROS

    started = time.monotonic()
    scenes = [_own_scene(args)] if args.input else _our_scenes(args)
    for scene in scenes:
        require_utf8(args.out / scene.name)  # now, rather than when its video is drawn
        for estimator in args.estimators:
            _require_other_than_input(args, _bag_of(scene, estimator, args))
    outcomes = []
    with sigterm_interrupts(), LiveChain() as chain:
        print(f"watch it live: export ROS_DOMAIN_ID={chain.domain}, then rviz2, Foxglove or ros2 topic echo\n")
        for scene in scenes:
            for estimator in args.estimators:
                outcomes.append(_play(chain, scene, estimator, args))
    _print_results(outcomes, time.monotonic() - started, own=bool(args.input))
    return 0 if all(o.results for o in outcomes) else 1


def _require_own_pictures(args: argparse.Namespace) -> None:
    """Raises ConfigError for what is said of pictures where none were named: of ours it is known."""
    of_pictures = ("focal", "camera", "topic", "rectified", "upright_rotation")
    given = [f"--{name.replace('_', '-')}" for name in of_pictures if getattr(args, name) is not None]
    if given and not args.input:
        raise ConfigError(f"{', '.join(given)} tells something of your own pictures: name them, too (--input PATH)")


def _own_scene(args: argparse.Namespace) -> Scene:
    source = open_source(
        args.input,
        camera=read_camera(args),
        focal=args.focal,
        topic=args.topic,
        rectified=args.rectified,
    )
    if source.kind is SourceKind.PICTURE:
        source = Held(source)
    return Scene(stem_of(args.input), source, focal_is_guess=source.camera_is_guess)


def _our_scenes(args: argparse.Namespace) -> list[Scene]:
    from wildhands_ros.synthetic import Lens, SequenceConfig

    config = SequenceConfig(seed=args.seed, seconds=args.seconds, lens=Lens(args.lens))
    rendered = RenderedScene(args.out / "input", config)
    return [
        Scene("photographs", Held(Slideshow()), focal_is_guess=True),
        Scene("rendered", rendered.open(), rendered.truth),
    ]


def _bag_of(scene: Scene, estimator: str, args: argparse.Namespace) -> Path:
    name = f"{scene.name}_{estimator}" if len(args.estimators) > 1 else scene.name
    return Path(args.out) / f"{name}.mcap"


def _require_other_than_input(args: argparse.Namespace, bag: Path) -> None:
    """Raises RecordingError where results would take the place of the user's own recording."""
    for path in (bag, *map(bag.with_suffix, (".mp4", ".jpg"))):
        if args.input and path.exists() and Path(args.input).exists() and path.samefile(args.input):
            raise RecordingError(f"{path}, which would be written, is the input itself: name another --out")


def _play(chain: LiveChain, scene: Scene, estimator: str, args: argparse.Namespace) -> Outcome:
    bag = _bag_of(scene, estimator, args)
    frames = scene.source.length or "?"
    print(f"{scene.name}: {frames} frames through the node, estimator '{estimator}' ...", flush=True)
    parameters: dict[str, object] = {
        "estimation.estimator": estimator, "models_dir": args.models_dir.resolve(), "publish_vertices": True,
    }  # fmt: skip
    for option, path in (("checkpoint", args.checkpoint), ("mano_dir", args.mano_dir)):
        if path is not None:
            parameters[f"estimation.{option}"] = path.resolve()
    if args.upright_rotation is not None:
        parameters["upright_rotation"] = args.upright_rotation
    report = chain.play(scene.source, bag, parameters)
    results = [
        replace(r, hands=tuple(replace(hand, vertices=None) for hand in r.hands))
        for r in read_hands(bag)
        if r.stamp_ns in report.stamps  # without the rehearsal's
    ]
    outcome = Outcome(
        scene, estimator, report.frames, results, dict(report.stamps), report.seconds, bag, bag.with_suffix(".mp4")
    )
    _draw_video(outcome, args.mano_dir)
    return outcome


# --- pictures ---------------------------------------------------------------------------------------------------------


def _draw_video(outcome: Outcome, mano_dir: Path | None) -> None:
    """The annotated video, and a sheet of a few of its pictures."""
    model = load_hand_model(mano_dir)
    faces = {side: model.layer(side).faces for side in Side}
    total = len({result.stamp_ns for result in outcome.results})
    sheet: list[NDArray[np.uint8]] = []
    picked = {int((i + 0.5) * total / _STILLS) for i in range(_STILLS)}
    with open_source(outcome.bag) as source, VideoWriter(outcome.video, outcome.scene.source.fps or 30.0) as video:
        first: NDArray[np.uint8] | None = None
        frames = tqdm(
            _with_results(source, outcome), total=total, desc="drawing the video", unit=" frames", disable=None
        )
        for index, (frame, result) in enumerate(frames):
            picture = _annotated(frame, result, outcome, faces)
            first = picture if first is None else first
            if picture.shape != first.shape:  # a folder of pictures of several sizes
                picture = fitted(picture, first.shape[1], first.shape[0])
            video.write(picture)
            if index in picked:
                sheet.append(picture)
    if sheet:
        half = [cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in sheet]
        columns = 2 if len(half) % 2 == 0 else 1
        rows = [np.concatenate(half[i : i + columns], axis=1) for i in range(0, len(half), columns)]
        write_whole(outcome.bag.with_suffix(".jpg"), encode_jpeg(np.concatenate(rows), 88))


def _with_results(source: FrameSource, outcome: Outcome) -> Iterator[tuple[Frame, RecordedHands]]:
    """The played frames that have a result, with it, in the order in which both were recorded."""
    results = (r for r in read_hands(outcome.bag) if r.stamp_ns in outcome.stamps)
    result = next(results, None)
    for frame in source:
        played = outcome.stamps.get(frame.stamp_ns)
        if played is None:
            continue
        while result is not None and outcome.stamps[result.stamp_ns] < played:
            result = next(results, None)
        if result is not None and result.stamp_ns == frame.stamp_ns:
            yield frame, result


def _annotated(
    frame: Frame, result: RecordedHands, outcome: Outcome, faces: dict[Side, NDArray[np.int32]]
) -> NDArray[np.uint8]:
    picture = draw_hands(frame.image, result.hands, frame.camera, faces)
    lines = [f"{outcome.estimator}, {1e3 * result.processing_s:.0f} ms"]
    truth = _truth_of(result, outcome)
    if truth is not None:
        shown = [hand for hand, seen in zip(truth.hands, truth.visible, strict=True) if seen]
        picture = draw_hands(picture, shown, frame.camera, faces, TRUTH_STYLE)
        lines.append("white: the true skeleton")
    return draw_status(picture, lines)


def _truth_of(result: RecordedHands, outcome: Outcome) -> FrameTruth | None:
    return None if outcome.scene.truth is None else outcome.scene.truth[outcome.stamps[result.stamp_ns]]


# --- the table --------------------------------------------------------------------------------------------------------


def _print_results(outcomes: Sequence[Outcome], seconds: float, *, own: bool) -> None:
    head = ["scene, estimator", "frames", "hands found", "frames/s", "latency ms (median, p95)", "processing ms"]
    print(f"\n{table(head, [_speed_row(o) for o in outcomes])}")
    scores = {f"{o.scene.name}, {o.estimator}": _score(o) for o in outcomes if o.scene.truth is not None}
    if scores:
        from wildhands_ros.cli.bench import score_table

        print(f"\nagainst the truth:\n{score_table(scores)}")
    if any(o.scene.focal_is_guess for o in outcomes):
        remedy = ": give --focal PX or --camera FILE (make demo: FOCAL=px)" if own else ""
        print(f"\nthe focal length of the pictures is a guess, and so is their depth{remedy}")
    print("\nwritten:")
    for path in _written(outcomes):
        print(f"  {path}")
    print(
        f"\nopen a .mcap in Foxglove (File > Open local file; add a 3D and an Image panel), in rerun, or on a ROS 2 "
        f"machine:\n  ros2 bag play {outcomes[0].bag} --clock   and   rviz2 (add MarkerArray /wildhands/markers, fixed "
        f"frame {outcomes[0].results[0].frame_id if outcomes[0].results else 'camera_optical_frame'})\n"
        f"{seconds:.0f} s in all"
    )


def _written(outcomes: Iterable[Outcome]) -> list[Path]:
    return [path for o in outcomes for path in (o.bag, o.video, o.bag.with_suffix(".jpg"))]


def _speed_row(outcome: Outcome) -> list[str]:
    latency = 1e3 * np.array([r.latency_s for r in outcome.results] or [np.nan])
    processing = 1e3 * np.array([r.processing_s for r in outcome.results] or [np.nan])
    hands = sum(len(r.hands) for r in outcome.results)
    return [
        f"{outcome.scene.name}, {outcome.estimator}", str(outcome.frames), str(hands),
        f"{outcome.frames / max(outcome.seconds, 1e-9):.1f}",
        f"{np.median(latency):.1f}, {np.percentile(latency, 95):.1f}", f"{np.median(processing):.1f}",
    ]  # fmt: skip


def _score(outcome: Outcome) -> SequenceScore:
    """Every played frame counts: one without a result has no hands."""
    assert outcome.scene.truth is not None
    by_index = {outcome.stamps[r.stamp_ns]: r.hands for r in outcome.results}
    indices = sorted(outcome.stamps.values())
    found = [by_index.get(i, ()) for i in indices]
    return score_sequence(found, [outcome.scene.truth[i] for i in indices])
