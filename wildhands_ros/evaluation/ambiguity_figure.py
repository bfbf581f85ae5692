"""The ambiguity of crops as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wildhands_ros.evaluation.ambiguity import Pair, Unexplained, Views
from wildhands_ros.evaluation.plots import COLORS, new_figure, save_figure
from wildhands_ros.hands import SKELETON, Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS = 2  # pairs in a row


def draw_ambiguity(
    views: Views, shown: Sequence[Pair], pairs: Sequence[Pair], rows: Sequence[Unexplained], path: Path
) -> None:
    """shown: pairs drawn with their crops. pairs: all that were found, for the scatter. rows: of `unexplained`.

    Left hands' crops are mirrored. Raises WildHandsError without matplotlib, or where the file cannot be written.
    """
    lines = -(-len(shown) // _ACROSS)
    figure = new_figure(12.5, 2.5 * lines + 3.8)
    grid = figure.add_gridspec(2, 1, height_ratios=[2.5 * max(lines, 0.1), 3.8])
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    if shown:
        axes = top.subplots(lines, 3 * _ACROSS, squeeze=False).reshape(-1, 3)
        for axis in axes.ravel():
            axis.set_axis_off()
        for number, (pair, cells) in enumerate(zip(shown, axes, strict=False)):
            _draw_pair(views, pair, cells.tolist(), with_legend=number == 0)
    scatter, bars = bottom.subplots(1, 2)
    _draw_scatter(scatter, pairs)
    _draw_bars(bars, rows)
    save_figure(figure, path)


def _draw_pair(views: Views, pair: Pair, cells: Sequence[Axes], *, with_legend: bool) -> None:
    for cell, index, color in zip(cells, (pair.first, pair.second), COLORS, strict=False):
        sample = views.samples[index]
        cell.imshow(sample.image[:, ::-1] if sample.side is Side.LEFT else sample.image)
        x, y, z = views.rays[index]
        across, down = np.degrees([np.arctan2(x, z), np.arctan2(y, z)])
        cell.set_title(f"seen {across:+.0f}° across, {down:+.0f}° down", fontsize=8, color=color)
    axis = cells[2]
    for index, color in zip((pair.first, pair.second), COLORS, strict=False):
        joints = 100 * views.joints[index]
        for a, b in SKELETON:
            axis.plot(joints[[a, b], 0], joints[[a, b], 2], color=color, linewidth=1.6, solid_capstyle="round")
    axis.set_aspect("equal")
    axis.set_title(
        f"from above: {pair.orientation_degrees:.0f}° and {pair.joints_mm:.0f} mm apart\n"
        f"(in the crops {pair.apart_percent:.1f} % on average, mask IoU {pair.mask_iou:.2f})",
        fontsize=8,
    )
    if with_legend:
        axis.annotate("camera ↓", (0.02, 0.02), xycoords="axes fraction", fontsize=7, color="#666666")


def _draw_scatter(axis: Axes, pairs: Sequence[Pair]) -> None:
    rays, turns = [pair.ray_degrees for pair in pairs], [pair.orientation_degrees for pair in pairs]
    right, top = max([75.0, *rays]), max([90.0, *turns])  # all pairs that the title counts
    axis.plot([0, right], [0, right], color="#bbbbbb", linewidth=1, zorder=0)
    axis.scatter(rays, turns, s=9, color=COLORS[0], alpha=0.7)
    axis.set_xlabel("angle between the directions in which the two are seen, °")
    axis.set_ylabel("angle between the two hands, °")
    axis.set_title(f"{len(pairs)} pairs of hands that look the same in their crops", fontsize=9)
    axis.set_xlim(0, right)
    axis.set_ylim(0, top)


def _draw_bars(axis: Axes, rows: Sequence[Unexplained]) -> None:
    places = np.arange(len(rows))
    for offset, color, name, values in (
        (-0.2, COLORS[3], "the crop's keypoints alone", [row.crop_percent for row in rows]),
        (0.2, COLORS[0], "with the viewing angles", [row.kpe_percent for row in rows]),
    ):
        axis.bar(places + offset, values, 0.38, color=color, label=name)
    errors = [(row.crop_mpjpe_mm, row.kpe_mpjpe_mm) for row in rows]
    for place, row, (crop, kpe) in zip(places, rows, errors, strict=True):
        axis.annotate(f"{crop:.0f} mm", (place - 0.2, row.crop_percent), ha="center", va="bottom", fontsize=8)
        axis.annotate(f"{kpe:.0f} mm", (place + 0.2, row.kpe_percent), ha="center", va="bottom", fontsize=8)
    axis.set_xticks(places, [f"{row.angles}\n{row.hands} hands" for row in rows], fontsize=8)
    axis.set_ylabel("variance of 3D joints left, %")
    axis.set_title("what is left unexplained, by angle off the axis (on the bars: MPJPE)", fontsize=9)
    axis.legend(frameon=False, fontsize=8)
