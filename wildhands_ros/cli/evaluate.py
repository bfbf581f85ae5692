"""`wildhands eval`: how far an estimator is from labelled samples."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wildhands_ros.cli.common import (
    add_pipeline,
    add_table,
    make_room,
    name_unused_on_samples,
    output_file,
    read_pipeline,
    refuse_unused,
    write_table,
)
from wildhands_ros.errors import WildHandsError
from wildhands_ros.evaluation.readable import ReadableSamples
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.libraries import needed_for
from wildhands_ros.pipeline import EstimationConfig, PipelineConfig
from wildhands_ros.pipeline.pipeline import make_estimator
from wildhands_ros.samples import Sample, SampleSource, ShardReader
from wildhands_ros.tables import table

if TYPE_CHECKING:
    from wildhands_ros.estimation import Estimator
    from wildhands_ros.evaluation.ambiguity import Pair
    from wildhands_ros.evaluation.report import Report
    from wildhands_ros.evaluation.running import LandmarkFinder
    from wildhands_ros.evaluation.sample_scores import SampleScores

FloatArray = NDArray[np.float64]

_BREAKDOWNS, _CURVES = "breakdowns.png", "curves.png"  # of --plots

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "eval",
        help=summary,
        description="Runs an estimator on the samples of tar shards, or on EPIC-HandKps, told each hand's side and "
        "box, and compares with the labels: 3D, 2D, masks and grasps, by angle off the axis, distance, occlusion and "
        "more. docs/evaluation.md defines every number.",
    )
    parser.add_argument(
        "shards", type=Path, nargs="?", help="a shard, or a folder of shards ('wildhands render' makes some)"
    )
    parser.add_argument("--max", type=int, metavar="N", help="only the first N samples")
    parser.add_argument(
        "--baseline", action="store_true", help="the landmark fit beside the chosen estimator, in the same tables"
    )
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="FILE", help="figures of earlier runs (--json) beside it"
    )
    parser.add_argument(
        "--known-length",
        action="store_true",
        help="tell the estimator how long each person's hand is, as the labels have it (see --hand-length)",
    )
    parser.add_argument("--name", help="what to call the estimator in tables and plots (default: its own name)")
    parser.add_argument(
        "--json",
        type=output_file,
        metavar="FILE",
        help="also write all figures as JSON; '-': to standard output, with the tables on standard error",
    )
    add_table(parser)
    parser.add_argument(
        "--ambiguity",
        type=Path,
        metavar="FILE",
        help="run no estimator: find different hands that look the same in their crops, measure what knowing the "
        "viewing angle is worth, and draw both into this picture",
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also draw plots into this folder")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FILE",
        help="also draw the hands with the largest errors, and a row of typical ones, into this picture (.png or .jpg)",
    )
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="how many of those (default: 12)")
    _add_epic_hand_kps(parser)
    add_pipeline(parser)
    parser.set_defaults(run=run)


def _add_epic_hand_kps(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("EPIC-HandKps instead of shards (2D labels, on whole pictures)")
    group.add_argument(
        "--epic-hand-kps", type=Path, metavar="FILE", help="its annotations: hands_5000.pkl, or one of the same layout"
    )
    group.add_argument(
        "--frames", type=Path, metavar="DIR", help="folder that holds VISOR's pictures (rgb_frames), at any depth"
    )
    group.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="boxes of the paper's detector (grasp_visor_val.pkl): only the hands that it found, with its boxes "
        "(default: all hands, with boxes about their visible joints)",
    )
    group.add_argument(
        "--min-visible",
        type=int,
        metavar="N",
        help="leave out hands with fewer visible joints (default: 3, as the paper says; its code asks for 4)",
    )


def run(args: argparse.Namespace) -> int:
    if args.max is not None and args.max < 1:
        raise WildHandsError("--max must be at least 1")
    if args.worst < 1:
        raise WildHandsError("--worst must be at least 1")
    _require_one_source(args)
    _refuse_beside_ambiguity(args)
    from wildhands_ros.evaluation.gallery import check_picture_name
    from wildhands_ros.evaluation.plots import new_figure
    from wildhands_ros.evaluation.report import make_report, read_json

    plots = [] if args.plots is None else [args.plots / _BREAKDOWNS, args.plots / _CURVES]
    make_room(args.ambiguity, args.json, args.table, args.pictures, *plots)
    if plots or args.ambiguity is not None:
        new_figure(1, 1)  # without matplotlib it is said now, rather than after the work
    if args.ambiguity is not None:
        return _ambiguity(ShardReader(args.shards), args.max, args.ambiguity)
    earlier = [report for path in args.compare for report in read_json(path)]
    source = ShardReader(args.shards) if args.epic_hand_kps is None else _epic_hand_kps(args)
    config = read_pipeline(args)
    refuse_unused(args, config)
    name_unused_on_samples(args)
    if args.known_length and config.estimation.hand_length:
        raise WildHandsError("--known-length takes each person's own hand length: leave out --hand-length, or it")
    if args.pictures is not None:
        check_picture_name(args.pictures)  # now, rather than after the work
    scores: dict[str, SampleScores] = {}
    joints: dict[str, FloatArray] = {}
    for name, chosen in _estimators(config, args.name, args.baseline).items():
        scores[name], joints[name] = _score(name, chosen, source, args.max, known_lengths=args.known_length)
    reports = [make_report(found, name, source.name) for name, found in scores.items()]
    _write_figures(args, reports, earlier)
    if args.plots is not None:
        _write_plots(args.plots, [*reports, *earlier], scores)
    if args.pictures is not None:
        first = next(iter(scores))
        _write_pictures(args.pictures, source, scores[first], joints[first], first, worst=args.worst)
    return 0


def _write_figures(args: argparse.Namespace, reports: Sequence[Report], earlier: Sequence[Report]) -> None:
    """Prints the tables; also writes them to `--table`, and the reports to `--json`. earlier: compared, not written."""
    from wildhands_ros.evaluation.report import breakdown_table, overall_table, write_json

    tables = [overall_table([*reports, *earlier])]
    tables += [f"{report.estimator}\n\n{breakdown_table(report, b)}" for report in reports for b in report.breakdowns]
    text = "\n\n".join(tables)
    print(f"\n{text}")
    if args.table is not None:
        write_table(text, args.table)
        print(f"\nwrote {args.table}")
    if args.json is not None:
        write_json(reports, args.json)
        print(f"\nwrote {args.json}")


def _write_plots(folder: Path, reports: Sequence[Report], scores: Mapping[str, SampleScores]) -> None:
    from wildhands_ros.evaluation.plots import plot_breakdowns, plot_curves

    drawn = plot_breakdowns(reports, folder / _BREAKDOWNS)
    plot_curves(scores, folder / _CURVES)
    print(f"\nwrote {folder / _BREAKDOWNS} and" if drawn else "\nwrote", folder / _CURVES)


def _write_pictures(
    path: Path, source: SampleSource, scores: SampleScores, joints: FloatArray, estimator: str, *, worst: int
) -> None:
    from wildhands_ros.evaluation.gallery import gallery_sections, write_gallery

    write_gallery(gallery_sections(source, scores, joints, estimator, worst=worst), path)
    print(f"\nwrote {path}")


def _require_one_source(args: argparse.Namespace) -> None:
    """Raises WildHandsError unless exactly one source of samples is named that has the labels all options need."""
    epic = args.epic_hand_kps
    if epic is None:
        own = {"--frames": args.frames, "--boxes": args.boxes, "--min-visible": args.min_visible}
        if given := [option for option, value in own.items() if value is not None]:
            raise WildHandsError(f"{', '.join(given)}: of no use without --epic-hand-kps")
        if args.shards is None:
            raise WildHandsError("nothing to run on: name shards, or --epic-hand-kps and --frames")
        return
    if args.shards is not None:
        raise WildHandsError(f"shards or EPIC-HandKps, one at a time: leave out {args.shards}, or --epic-hand-kps")
    if args.frames is None:
        raise WildHandsError(f"{epic} holds labels only: name the folder with VISOR's pictures with --frames")
    if args.min_visible is not None and not 1 <= args.min_visible <= 21:
        raise WildHandsError(f"--min-visible must lie between 1 and 21, not {args.min_visible}")
    for option, asked in (("--known-length", args.known_length), ("--ambiguity", args.ambiguity is not None)):
        if asked:
            raise WildHandsError(f"{option} needs 3D labels, which EPIC-HandKps does not have: leave it out")


def _epic_hand_kps(args: argparse.Namespace) -> SampleSource:
    """Its samples with their whole pictures. Warnings say how many pictures are missing, and which cannot be read."""
    with needed_for("--epic-hand-kps"):
        from wildhands_ros.training.sources import EpicHandKps
    least = {} if args.min_visible is None else {"min_visible": args.min_visible}
    source = EpicHandKps(args.epic_hand_kps, args.frames, boxes=args.boxes, whole=True, **least)
    source.warn_of_missing_frames()
    return ReadableSamples(source)


def _refuse_beside_ambiguity(args: argparse.Namespace) -> None:
    asked = {
        "--json": args.json, "--table": args.table, "--plots": args.plots, "--pictures": args.pictures,
        "--compare": args.compare, "--baseline": args.baseline, "--known-length": args.known_length,
    }  # fmt: skip
    if args.ambiguity is not None and (given := [option for option, value in asked.items() if value]):
        raise WildHandsError(
            f"--ambiguity runs no estimator, so nothing would come of {', '.join(given)}: leave one or the other out"
        )


def _ambiguity(source: SampleSource, limit: int | None, path: Path) -> int:
    from wildhands_ros.evaluation.ambiguity import find_pairs, gather_views, telling_pairs, unexplained
    from wildhands_ros.evaluation.ambiguity_figure import draw_ambiguity
    from wildhands_ros.evaluation.plots import check_figure_name

    check_figure_name(path)
    views = gather_views(_with_progress(source, limit, source.name))
    rows = unexplained(views)
    pairs = find_pairs(views)
    shown = telling_pairs(views, pairs)
    head = [
        "angle off the axis",
        "hands",
        "crop: MPJPE mm",
        "with angles: MPJPE mm",
        "crop: left %",
        "with angles: left %",
    ]
    cells = [
        [r.angles, str(r.hands), f"{r.crop_mpjpe_mm:.1f}", f"{r.kpe_mpjpe_mm:.1f}", f"{r.crop_percent:.1f}",
         f"{r.kpe_percent:.1f}"]
        for r in rows
    ]  # fmt: skip
    print(f"\n{len(views)} hands, {len(pairs)} pairs that look the same\n\n{table(head, cells)}\n")
    head = ["pairs seen in directions", "pairs", "hands turned by °", "joints apart by mm"]
    print(table(head, [_pair_row(pairs, low, high) for low, high in ((0, 10), (10, 20), (20, 40), (40, 180))]))
    draw_ambiguity(views, shown, pairs, rows, path)
    print(f"\nwrote {path}")
    return 0


def _pair_row(pairs: Sequence[Pair], low: float, high: float) -> list[str]:
    """Medians over the pairs whose viewing directions differ by low … high degrees."""
    here = [pair for pair in pairs if low <= pair.ray_degrees < high]
    if not here:
        return [f"{low:g}–{high:g}° apart", "0", "", ""]
    turned, apart = (
        median(values) for values in zip(*((p.orientation_degrees, p.joints_mm) for p in here), strict=True)
    )
    return [f"{low:g}–{high:g}° apart", str(len(here)), f"{turned:.0f}", f"{apart:.0f}"]


def _estimators(config: PipelineConfig, name: str | None, baseline: bool) -> dict[str, PipelineConfig]:
    """Name in the tables → its configuration."""
    chosen = {name or config.estimation.estimator: _every_hand(config)}
    if baseline and config.estimation.estimator != "landmarks":
        if name == "landmarks":
            raise WildHandsError("with --baseline, 'landmarks' is the baseline: give another --name")
        plain = EstimationConfig(estimator="landmarks", mano_dir=config.estimation.mano_dir)
        chosen["landmarks"] = replace(config, estimation=plain)
    return chosen


def _every_hand(config: PipelineConfig) -> PipelineConfig:
    return replace(config, estimation=replace(config.estimation, all_hands=True))


def _score(
    name: str, config: PipelineConfig, source: SampleSource, limit: int | None, *, known_lengths: bool
) -> tuple[SampleScores, FloatArray]:  # fmt: skip
    from wildhands_ros.evaluation.running import evaluate_estimator

    if not len(source):
        raise WildHandsError(f"{source.name} holds no samples")
    estimator: Estimator = make_estimator(config.estimation, load_hand_model(config.estimation.mano_dir))
    chosen = config.estimation
    from_landmarks = chosen.estimator == "landmarks" or (chosen.estimator == "open" and chosen.refine)
    landmarks = _landmark_finder(config) if from_landmarks else None
    samples = _with_progress(source, limit, name)
    return evaluate_estimator(estimator, samples, landmarks=landmarks, known_lengths=known_lengths)


def _landmark_finder(config: PipelineConfig) -> LandmarkFinder:
    from wildhands_ros.detection.landmarks import LandmarkNetwork
    from wildhands_ros.detection.models import LANDMARK_MODEL, load_model
    from wildhands_ros.evaluation.running import LandmarkFinder

    return LandmarkFinder(LandmarkNetwork(load_model(LANDMARK_MODEL, config.models_dir), config.detection.threads))


def _with_progress(source: SampleSource, limit: int | None, name: str) -> Iterator[Sample]:
    count = len(source) if limit is None else min(limit, len(source))
    return iter(tqdm(islice(source, count), desc=name, total=count, unit=" hands", disable=None))
