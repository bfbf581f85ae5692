"""Scores of one or several estimators as tables and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wildhands_ros.errors import WildHandsError
from wildhands_ros.evaluation.facts import BREAKDOWNS, OF_ESTIMATES
from wildhands_ros.evaluation.sample_scores import MEASURES, Measure, SampleScores
from wildhands_ros.evaluation.statistics import Estimate, by_group, overall
from wildhands_ros.json_values import without_nan
from wildhands_ros.tables import table
from wildhands_ros.whole_files import write_whole

_IN_BREAKDOWNS = ("mpjpe_mm", "pa_mpjpe_mm", "wrist_percent", "keypoint_percent", "mrrpe_mm", "mask_iou_percent")
_LEAST = 2  # groups that a breakdown needs to be worth a table


@dataclass(frozen=True)
class Report:
    """What one estimator reached on one source of samples.

    overall: measure → value. breakdowns: breakdown → group → measure → value.
    """

    estimator: str
    source: str
    samples: int
    overall: Mapping[str, Estimate]
    breakdowns: Mapping[str, Mapping[str, Mapping[str, Estimate]]]


def make_report(scores: SampleScores, estimator: str, source: str) -> Report:
    """estimator, source: names for the tables' heads."""
    breakdowns: dict[str, dict[str, dict[str, Estimate]]] = {}
    for breakdown in (*BREAKDOWNS, *OF_ESTIMATES):
        groups: dict[str, dict[str, Estimate]] = {}
        for measure in ("estimated_percent", *_IN_BREAKDOWNS):
            for group, found in by_group(scores, measure, breakdown).items():
                groups.setdefault(group, {})[measure] = found
        if len(groups) >= _LEAST:
            breakdowns[breakdown] = groups
    return Report(estimator, source, len(scores), overall(scores), breakdowns)


def overall_table(reports: Sequence[Report]) -> str:
    """All measures, a row each; for each estimator means with 95 % confidence intervals, and medians. '–' stands for
    what nobody could measure: without such labels, or answers.

    Reports on other samples than the first's, as far as source and number tell, are marked; a line below says so.
    """
    rows = []
    for measure in MEASURES:
        found = (report.overall.get(measure.name) for report in reports)
        cells = ((_cell(f, measure, interval=True), f"{f.median:.{measure.decimals}f}" if f else "–") for f in found)
        rows.append([measure.title, *(cell for pair in cells for cell in pair)])
    differs = [(r.source, r.samples) != (reports[0].source, reports[0].samples) for r in reports]
    names = (f"{name}{' *' if other else ''}" for name, other in zip(_full_names(reports), differs, strict=True))
    heads = (head for name in names for head in (name, "median"))
    text = table(["mean (95 % interval)", *heads], rows)
    return f"{text}\n\nColumns with * are of other samples than the first." if any(differs) else text


def short_names(reports: Sequence[Report]) -> list[str]:
    """What to call each report in a plot: its estimator; where several have the same, with the number of hands and the
    source too. No two are alike."""
    estimators = [report.estimator for report in reports]
    full = _full_names(reports)
    return [name if estimators.count(name) == 1 else long for name, long in zip(estimators, full, strict=True)]


def _full_names(reports: Sequence[Report]) -> list[str]:
    """Estimator, number of hands and source; numbered from the second on, where all of these are the same."""
    names: list[str] = []
    for report in reports:
        name = plain = f"{report.estimator}, {report.samples} hands of {report.source}"
        number = 1
        while name in names:
            number += 1
            name = f"{plain} ({number})"
        names.append(name)
    return names


def breakdown_table(report: Report, breakdown: str) -> str:
    """One breakdown of one estimator: a row a group, a column a measure."""
    groups = report.breakdowns[breakdown]
    measures = [m for m in MEASURES if m.name in _IN_BREAKDOWNS and any(m.name in g for g in groups.values())]
    rows = [
        [
            group, str(values["estimated_percent"].count), f"{values['estimated_percent'].mean:.0f}",
            *(_cell(values.get(measure.name), measure, interval=measure.name == "mpjpe_mm") for measure in measures),
        ]
        for group, values in groups.items()
    ]  # fmt: skip
    return table([breakdown, "hands", "estimated %", *(measure.title for measure in measures)], rows)


def write_json(reports: Sequence[Report], path: Path) -> None:
    """Raises WildHandsError where the file cannot be written. Values without a number are null."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(without_nan([asdict(report) for report in reports]), indent=1, ensure_ascii=False)
        write_whole(path, f"{text}\n".encode())
    except OSError as error:
        raise WildHandsError(f"cannot write {path}: {error.strerror}") from error


def read_json(path: Path) -> list[Report]:
    """Reports that `write_json` wrote. Raises WildHandsError for any other file."""
    try:
        return [
            Report(
                str(record["estimator"]), str(record["source"]), int(record["samples"]),
                _estimates(record["overall"]),
                {b: {g: _estimates(v) for g, v in groups.items()} for b, groups in record["breakdowns"].items()},
            )
            for record in json.loads(path.read_text())
        ]  # fmt: skip
    except OSError as error:
        raise WildHandsError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WildHandsError(f"{path} was not written by 'wildhands eval --json' ({error})") from error


def _cell(found: Estimate | None, measure: Measure, *, interval: bool) -> str:
    if found is None:
        return "–"
    text = f"{found.mean:.{measure.decimals}f}"
    if interval and math.isfinite(found.low):
        text += f" ({found.low:.{measure.decimals}f}–{found.high:.{measure.decimals}f})"
    return text


def _estimates(record: Mapping[str, Any]) -> dict[str, Estimate]:
    def number(value: float | None) -> float:
        return math.nan if value is None else float(value)

    return {
        measure: Estimate(number(f["mean"]), number(f["median"]), number(f["low"]), number(f["high"]), int(f["count"]))
        for measure, f in record.items()
    }
