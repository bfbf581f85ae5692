"""The paper's ablation on our own renders: the same network with every way of telling it where its crop lies.

Equal budgets: the same samples in the same order, the same steps, several seeds. `run_ablation` goes on where it was
interrupted; `ablation_table` puts its results beside the paper's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from wildhands_ros.errors import ConfigError, WildHandsError
from wildhands_ros.hand_model import HandModel
from wildhands_ros.training.config import NetworkConfig, SourceConfig, TrainingConfig
from wildhands_ros.training.module import variant_of
from wildhands_ros.training.pairs import MRRPE
from wildhands_ros.training.run import SAMPLE_ERRORS, check_settings, train, write_record

RESULT = "result.json"
BINS = (0.0, 15.0, 30.0, 45.0, 90.0)
"""Edges of the ranges of the angle between optical axis and crop, in degrees."""


@dataclass(frozen=True)
class PaperResult:
    """A row's results in the paper (Prakash et al., ECCV 2024).

    mpjpe: mm on H2O, AssemblyHands and Ego-Exo4D. mrrpe: mm on H2O and AssemblyHands. l2: px on EPIC-HandKps.
    """

    mpjpe: tuple[float, float, float]
    mrrpe: tuple[float, float]
    l2: float


@dataclass(frozen=True)
class AblationVariant:
    """encoding, perspective: of the network. paper: the row's results in the paper, if it has the row."""

    title: str
    encoding: str
    perspective: str = "none"
    paper: PaperResult | None = None


VARIANTS: Mapping[str, AblationVariant] = {
    "none": AblationVariant(
        "no KPE (crops only)", "none", paper=PaperResult((38.06, 109.88, 89.72), (141.06, 317.49), 31.62)
    ),
    "sparse": AblationVariant(
        "sparse KPE (centre and corners)", "sparse", paper=PaperResult((31.08, 84.91, 55.84), (49.49, 164.90), 11.05)
    ),
    "dense": AblationVariant(
        "dense KPE", "dense", paper=PaperResult((36.86, 95.34, 69.11), (80.54, 201.33), 11.24)
    ),
    "center": AblationVariant("centre only", "center"),
    "corners": AblationVariant("corners only", "corners"),
    "location": AblationVariant(
        "location without intrinsics", "location", paper=PaperResult((36.97, 92.12, 60.80), (61.98, 246.45), 11.63)
    ),
    "camconv": AblationVariant(
        "CamConv", "camconv", paper=PaperResult((36.86, 96.72, 60.69), (67.62, 180.73), 17.35)
    ),
    "correction": AblationVariant(
        "perspective correction", "none", "correction",
        paper=PaperResult((39.95, 59.10, 67.45), (159.13, 637.32), 28.68),
    ),
    "pcl": AblationVariant(
        "perspective crop layers (PCL)", "none", "crop",
        paper=PaperResult((36.82, 45.18, 63.65), (158.88, 483.92), 28.21),
    ),
    "input": AblationVariant(
        "KPE concatenated at the input", "input", paper=PaperResult((45.51, 94.45, 93.56), (80.96, 252.34), 17.30)
    ),
    "ours": AblationVariant("sparse KPE and perspective correction (shipped)", "sparse", "correction"),
}  # fmt: skip


@dataclass(frozen=True)
class AblationResult:
    """One run. means: errors by name over the validation samples; without MRRPE where none are a pair, or the run is of
    a version that did not measure it. by_angle: the same but MRRPE in each range of `BINS`, with the `count` of samples
    there (which is all that is known of a range without any)."""

    variant: str
    seed: int
    means: dict[str, float]
    by_angle: list[dict[str, float]]


def run_ablation(
    base: TrainingConfig, out: Path, hand_model: HandModel, landmark_weights: bytes | None, variants: Sequence[str],
    seeds: Sequence[int],
) -> Iterator[AblationResult]:  # fmt: skip
    """Trains every variant with every seed; what is there already is not trained again.

    Raises ConfigError where that was trained with other settings.
    """
    unknown = set(variants) - set(VARIANTS)
    if unknown:
        raise ConfigError(f"unknown variants {', '.join(sorted(unknown))}: known are {', '.join(VARIANTS)}")
    networks = {name: _network_of(base, name, hand_model) for name in variants}  # what cannot be, is said now
    for seed in seeds:
        for name, network in networks.items():
            config = replace(base, network=network, seed=seed)
            yield _run(config, out / f"{name}-{seed}", hand_model, landmark_weights, name)


def _network_of(base: TrainingConfig, name: str, hand_model: HandModel) -> NetworkConfig:
    """The network of `base` as a variant has it. Raises ConfigError where there is no such network."""
    try:
        variant = VARIANTS[name]
        network = replace(base.network, encoding=variant.encoding, perspective=variant.perspective)
        variant_of(network, hand_model)
    except WildHandsError as error:
        raise ConfigError(f"variant '{name}': {error}: leave it out with --variants") from error
    return network


def run_auxiliary(
    base: TrainingConfig, out: Path, hand_model: HandModel, landmark_weights: bytes | None, seeds: Sequence[int],
) -> Iterator[AblationResult]:  # fmt: skip
    """The paper's auxiliary supervision: the second source of `base` has no 3D labels, only masks and grasps.

    Trains with the first source alone; with masks; with grasps; with both; and, as the limit, with all labels.
    """
    if len(base.sources) != 2:
        raise ConfigError("auxiliary supervision needs two sources: one with 3D labels, one whose 3D labels are hidden")
    if not (base.losses.mask > 0 and base.losses.grasp > 0):
        raise ConfigError("auxiliary supervision is by masks and grasps: give losses.mask and losses.grasp a weight")
    labelled, other = base.sources
    ways: dict[str, tuple[SourceConfig, ...]] = {
        "3D part alone": (labelled,),
        "+ grasps": (labelled, replace(other, only=("grasp",))),
        "+ masks": (labelled, replace(other, only=("mask",))),
        "+ masks and grasps": (labelled, replace(other, only=("mask", "grasp"))),
        "all labels": (labelled, replace(other, only=())),
    }
    for seed in seeds:
        for name, sources in ways.items():
            # batches grow with the sources, so that the labelled part is seen equally often
            share = sum(s.weight for s in sources) / labelled.weight
            config = replace(base, sources=sources, seed=seed, batch=round(base.batch * share))
            folder = out / f"{name.replace(' ', '_').replace('+', 'with')}-{seed}"
            yield _run(config, folder, hand_model, landmark_weights, name)


def _run(
    config: TrainingConfig, folder: Path, hand_model: HandModel, landmark_weights: bytes | None, name: str
) -> AblationResult:
    """The result that is in a folder, or that comes to be there."""
    if (folder / RESULT).is_file():
        check_settings(folder, config)
    else:
        train(config, folder, hand_model, landmark_weights, progress=False)
        _write(folder, name, config.seed)
    return read_result(folder)


def ablation_table(results: Sequence[AblationResult]) -> str:
    """Markdown: mean ± standard deviation over the seeds, and the paper's numbers where it has one of the rows.

    '–' stands for what a seed's run has no figure for.
    """
    names = list(dict.fromkeys(r.variant for r in results))
    papers = {name: VARIANTS[name].paper for name in names if name in VARIANTS}
    compared = any(papers.values())
    heads = ["variant", "MPJPE mm", "beyond 30°", "PA mm", "wrist %", "beyond 30°", "MRRPE mm", "2D % of box"]
    if compared:
        heads += ["paper: H2O / Assembly / Ego-Exo4D mm / EPIC px", "paper's MRRPE: H2O / Assembly mm"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in names:
        runs = [r for r in results if r.variant == name]
        columns = [
            VARIANTS[name].title if name in VARIANTS else name,
            _spread([r.means["mpjpe_mm"] for r in runs]),
            _spread([_beyond(r, "mpjpe_mm") for r in runs]),
            _spread([r.means["pa_mpjpe_mm"] for r in runs]),
            _spread([r.means["wrist_percent"] for r in runs]),
            _spread([_beyond(r, "wrist_percent") for r in runs]),
            _spread([r.means.get(MRRPE, math.nan) for r in runs]),
            _spread([r.means["keypoint_percent"] for r in runs]),
        ]
        if compared:
            paper = papers.get(name)
            columns += ["", ""] if paper is None else [_row((*paper.mpjpe, paper.l2)), _row(paper.mrrpe)]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def read_result(folder: Path) -> AblationResult:
    """The result of one finished run. Raises WildHandsError where it cannot be read."""
    path = folder / RESULT
    again = "delete it, and the next run makes it again from what was trained"
    try:
        record = json.loads(path.read_text())
        result = AblationResult(record["variant"], record["seed"], record["means"], record["by_angle"])
        count = len(result.by_angle)
    except (ValueError, KeyError, TypeError) as error:
        raise WildHandsError(f"{path} is damaged ({error!r}): {again}") from error
    if count != len(BINS) - 1:  # of an earlier version, which left ranges without samples out
        raise WildHandsError(f"{path} does not tell which ranges of the angle its figures are for: {again}")
    return result


def _write(folder: Path, name: str, seed: int) -> None:
    errors = torch.load(folder / SAMPLE_ERRORS, weights_only=True)
    labelled = torch.isfinite(errors["mpjpe_mm"])
    errors = {name: values[labelled] for name, values in errors.items()}
    pairs = errors.pop(MRRPE, torch.empty(0))  # not in older files; NaN for hands that are no pair
    angle, names = errors.pop("angle").numpy(), list(errors)
    bins = np.digitize(angle, BINS[1:-1])
    by_angle = [
        {"count": float((bins == k).sum())}
        | {n: float(errors[n].numpy()[bins == k].mean()) for n in names if (bins == k).any()}
        for k in range(len(BINS) - 1)
    ]
    means = {n: float(errors[n].mean()) for n in names}
    if bool(pairs.isfinite().any()):
        means[MRRPE] = float(pairs.nanmean())
    record = {"variant": name, "seed": seed, "means": means, "by_angle": by_angle}
    write_record(folder / RESULT, record)


def _beyond(result: AblationResult, name: str) -> float:
    """The mean beyond 30°; NaN where there is no hand."""
    bins = [b for b in result.by_angle[2:] if b["count"]]
    return sum(b[name] * b["count"] for b in bins) / sum(b["count"] for b in bins) if bins else math.nan


def _row(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def _spread(values: Sequence[float]) -> str:
    if not np.isfinite(values).all():
        return "–"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"
