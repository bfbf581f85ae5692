"""Scores as pictures, drawn by matplotlib without a screen."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from wildhands_ros.errors import WildHandsError
from wildhands_ros.evaluation.facts import group_order
from wildhands_ros.evaluation.report import Report, short_names
from wildhands_ros.evaluation.sample_scores import MEASURES, SampleScores
from wildhands_ros.libraries import how_to_get
from wildhands_ros.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#16a5a0", "#f5862a", "#5a6fd6", "#8c8c8c", "#c2476f", "#7aa63c")
"""Teal and orange first, as hands are drawn."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".eps", ".tif", ".tiff", ".webp")
"""Of files that figures can be drawn into."""

_BREAKDOWNS = ("angle off the axis", "distance", "occlusion")
_MEASURES = ("mpjpe_mm", "wrist_percent", "keypoint_percent")
_CURVES = ("mpjpe_mm", "pa_mpjpe_mm", "wrist_percent", "keypoint_percent")
_TITLES = {measure.name: measure.title for measure in MEASURES}


def plot_breakdowns(reports: Sequence[Report], path: Path) -> bool:
    """Errors by angle, distance and occlusion, with 95 % confidence intervals, one colour an estimator.

    Returns whether there was anything to draw.
    """
    shown = [b for b in _BREAKDOWNS if any(b in report.breakdowns for report in reports)]
    if not shown:
        return False
    figure = new_figure(4.2 * len(shown), 2.9 * len(_MEASURES))
    axes = figure.subplots(len(_MEASURES), len(shown), squeeze=False, sharey="row")
    for row, measure in enumerate(_MEASURES):
        for column, breakdown in enumerate(shown):
            _draw_groups(axes[row][column], reports, measure, breakdown)
            if row == len(_MEASURES) - 1:
                axes[row][column].set_xlabel(breakdown)
            if column == 0:
                axes[row][column].set_ylabel(_TITLES[measure])
        axes[row][0].set_ylim(bottom=0)  # the whole row's; only now, since it ends the search for the top
    _add_legend(axes[0][0], axes.flat, "best")
    save_figure(figure, path)
    return True


def plot_curves(scores: Mapping[str, SampleScores], path: Path) -> None:
    """Share of hands whose error is at most x, for the main measures, of the hands that have the label.

    Hands without an estimate count as worse.
    """
    figure = new_figure(4.2 * len(_CURVES), 3.2)
    axes = figure.subplots(1, len(_CURVES), squeeze=False)[0]
    for axis, measure in zip(axes, _CURVES, strict=True):
        ends = []
        for color, (name, found) in zip(cycle(COLORS), scores.items()):
            values = np.sort(found.values[measure][np.isfinite(found.values[measure])])
            if not len(values):
                continue
            share = 100 * np.arange(1, len(values) + 1) / np.count_nonzero(found.labelled[measure])
            axis.plot(values, share, color=color, label=name, linewidth=2)
            ends.append(float(np.percentile(values, 95)))
        axis.set_xlim(0, max(ends, default=1.0))
        axis.set_ylim(0, 100)
        axis.set_xlabel(_TITLES[measure])
    axes[0].set_ylabel("hands %")
    _add_legend(axes[0], axes, "lower right")
    save_figure(figure, path)


def _add_legend(axis: Axes, axes: Iterable[Axes], place: Literal["best", "lower right"]) -> None:
    """Of what is drawn on any of them: some measures are known of some estimators only."""
    drawn = {label: line for other in axes for line, label in zip(*other.get_legend_handles_labels(), strict=True)}
    if drawn:
        legend = axis.legend(list(drawn.values()), list(drawn), frameon=False, loc=place)
        for text in legend.get_texts():
            text.set_parse_math(False)  # names of files may have dollars


def _draw_groups(axis: Axes, reports: Sequence[Report], measure: str, breakdown: str) -> None:
    groups = group_order([g for report in reports for g in report.breakdowns.get(breakdown, {})])
    for number, (color, report, name) in enumerate(zip(cycle(COLORS), reports, short_names(reports))):
        found = report.breakdowns.get(breakdown, {})
        points = [(groups.index(g), v[measure]) for g, v in found.items() if measure in v]
        if not points:
            continue
        x = [place + 0.08 * (number - (len(reports) - 1) / 2) for place, _ in points]
        mean = np.array([value.mean for _, value in points])
        whole = [math.isfinite(value.low) for _, value in points]
        # of equal errors the mean can lie outside the interval by rounding
        below = [max(value.mean - value.low, 0.0) if w else 0.0 for w, (_, value) in zip(whole, points, strict=True)]
        above = [max(value.high - value.mean, 0.0) if w else 0.0 for w, (_, value) in zip(whole, points, strict=True)]
        axis.errorbar(x, mean, yerr=[below, above], color=color, marker="o", capsize=3, label=name)
    axis.set_xticks(range(len(groups)), groups, fontsize=8)
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.grid(axis="y", alpha=0.3)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches. Raises WildHandsError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise WildHandsError(
            f"plots need matplotlib, which cannot be imported ({error}): {how_to_get('matplotlib')}"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_figure_name(path: Path) -> None:
    """Raises WildHandsError for a file that `save_figure` could not write."""
    if path.suffix.lower() not in SUFFIXES:
        raise WildHandsError(f"cannot draw into '{path.name}': its name must end in one of {', '.join(SUFFIXES)}")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; its folder is made. Raises WildHandsError."""
    check_figure_name(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=110)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, drawn.getvalue())
    except OSError as error:
        raise WildHandsError(f"cannot write {path}: {error.strerror}") from error
