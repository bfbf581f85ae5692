"""Hands as pictures: the crop and a view from the side, the estimate in colour and the truth in white over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.drawing.skeleton import draw_skeleton
from wildhands_ros.drawing.style import FINGER_COLORS, SIDE_COLORS, TRUTH_STYLE, Color
from wildhands_ros.errors import WildHandsError
from wildhands_ros.evaluation.facts import UNKNOWN, describe, off_axis_angle
from wildhands_ros.evaluation.sample_scores import MEASURES, SampleScores, crop_pixels
from wildhands_ros.hands import Side
from wildhands_ros.images import encoded
from wildhands_ros.samples import CROP_SIZE, Sample, SampleSource
from wildhands_ros.whole_files import write_whole

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

COLUMNS = 4
LEGEND = "colour: estimate, white: truth; right of each crop: from the side, wrists together, camera to the left"
SUFFIXES = (".png", ".jpg", ".jpeg")

_ORDERED_BY = ("mpjpe_mm", "keypoint_percent")  # the first that any sample has
_NUMBERS = {
    "mpjpe_mm": "MPJPE {:.0f} mm",
    "pa_mpjpe_mm": "PA {:.0f} mm",
    "wrist_mm": "wrist {:.0f} mm",
    "keypoint_percent": "2D {:.1f} %",
}
_SIDE_VIEW = (220.0, 600.0)  # millimetres across the view from the side: at least, at most
_BAR = 50.0  # millimetres
_PAPER: Color = (250, 250, 250)
_INK: Color = (28, 32, 38)
_DARK: Color = (34, 38, 46)
_FAINT: Color = (120, 126, 136)
_DOT: Color = (255, 70, 220)
_GAP = 8
_FONT = cv2.FONT_HERSHEY_SIMPLEX  # ASCII only
_TEXT = 0.42
_LINE = 17  # pixels from one line of text to the next


@dataclass(frozen=True)
class Panel:
    """One hand of a sheet; what is NaN is not drawn.

    image: (S, S, 3) uint8 RGB, its crop.
    seen, truth: (21, 2) keypoints of estimate and label in the crop, −1 to 1 from edge to edge.
    seen_aside, truth_aside: (21, 2) millimetres, see `from_the_side`.
    side: decides the estimate's colour. lines: of text below, ASCII.
    dots: (N, 2) further places in the crop, or None.
    """

    image: Image
    seen: FloatArray
    truth: FloatArray
    seen_aside: FloatArray
    truth_aside: FloatArray
    side: Side
    lines: tuple[str, ...] = ()
    dots: FloatArray | None = None


@dataclass(frozen=True)
class Section:
    """Panels under a title."""

    title: str
    panels: Sequence[Panel]


def from_the_side(joints: FloatArray, ray: FloatArray) -> FloatArray:
    """Joints (21, 3) metres → (21, 2) millimetres from the wrist: away from the camera along `ray`, and down.

    ray: (3,) towards the hand, of any length: depth is what a crop hides, and off the axis it is not z.
    """
    away = ray / np.linalg.norm(ray)
    down = np.array([0.0, 1.0, 0.0]) - away[1] * away
    axes = np.stack([away, down / max(float(np.linalg.norm(down)), 1e-9)], axis=1)
    return np.asarray(1e3 * (joints - joints[0]) @ axes)


# --- drawing --------------------------------------------------------------------------------------------------------


def draw_panel(panel: Panel, edge: int) -> Image:
    """Crop and view from the side, `edge` pixels each, side by side, with the text below."""
    text = np.full((_LINE * len(panel.lines) + 6, 2 * edge, 3), _PAPER, np.uint8)
    for number, line in enumerate(panel.lines):
        _write(text, line, 2, _LINE * number + 13, _INK)
    return np.concatenate([np.concatenate([_crop_view(panel, edge), _side_view(panel, edge)], axis=1), text])


def draw_sheet(sections: Sequence[Section], *, edge: int = 256, columns: int = COLUMNS) -> Image:
    """All panels as one picture (H, W, 3) RGB, each section in rows of `columns` under its title."""
    width = columns * (2 * edge + _GAP) + _GAP
    rows: list[Image] = []
    for section in sections:
        title = np.full((30, width, 3), _PAPER, np.uint8)
        _write(title, section.title, _GAP + 2, 21, _INK, scale=0.55)
        rows.append(title)
        for start in range(0, len(section.panels), columns):
            drawn = [draw_panel(panel, edge) for panel in section.panels[start : start + columns]]
            row = np.full((max(len(picture) for picture in drawn) + _GAP, width, 3), _PAPER, np.uint8)
            for column, picture in enumerate(drawn):
                x = _GAP + column * (2 * edge + _GAP)
                row[: len(picture), x : x + 2 * edge] = picture
            rows.append(row)
    return np.concatenate(rows) if rows else np.full((1, width, 3), _PAPER, np.uint8)


def _crop_view(panel: Panel, edge: int) -> Image:
    how = cv2.INTER_AREA if edge < len(panel.image) else cv2.INTER_CUBIC
    picture = np.ascontiguousarray(cv2.resize(panel.image, (edge, edge), interpolation=how), dtype=np.uint8)
    _draw_both(picture, _in_pixels(panel.seen, edge), _in_pixels(panel.truth, edge), panel)
    if panel.dots is not None:
        for x, y in _in_pixels(panel.dots, edge):
            if np.isfinite([x, y]).all() and max(abs(x), abs(y)) < 4 * edge:
                cv2.drawMarker(picture, (round(x), round(y)), _DOT, cv2.MARKER_TILTED_CROSS, 7, 1, cv2.LINE_AA)
    return picture


def _side_view(panel: Panel, edge: int) -> Image:
    view = np.full((edge, edge, 3), _DARK, np.uint8)
    known = np.concatenate([panel.truth_aside, panel.seen_aside])
    known = known[np.isfinite(known).all(axis=1)]
    if not len(known):
        return view
    low, high = known.min(axis=0), known.max(axis=0)
    scale = edge / float(np.clip(1.1 * (high - low).max(), *_SIDE_VIEW))
    seen, truth = (
        (points - (low + high) / 2) * scale + (edge - 1) / 2 for points in (panel.seen_aside, panel.truth_aside)
    )
    _draw_both(view, seen, truth, panel)
    bar = round(_BAR * scale)
    cv2.line(view, (10, edge - 10), (10 + bar, edge - 10), _FAINT, 2)
    _write(view, f"{_BAR:.0f} mm", 16 + bar, edge - 6, _FAINT, scale=0.36)
    return view


def _draw_both(picture: Image, seen: FloatArray, truth: FloatArray, panel: Panel) -> None:
    """Both skeletons, in pixels; the truth, which is thin, over the estimate."""
    draw_skeleton(
        picture, seen, FINGER_COLORS[panel.side], palm_color=SIDE_COLORS[panel.side], depths=panel.seen_aside[:, 0],
        width=0.02 * len(picture),
    )  # fmt: skip
    white = TRUTH_STYLE
    draw_skeleton(
        picture, truth, white.finger_colors[panel.side], palm_color=white.side_colors[panel.side],
        width=0.006 * len(picture),
    )  # fmt: skip


def _in_pixels(points: FloatArray, edge: int) -> FloatArray:
    return np.asarray((points + 1) * (edge / 2) - 0.5)


def _write(picture: Image, text: str, x: int, y: int, color: Color, *, scale: float = _TEXT) -> None:
    cv2.putText(picture, text, (x, y), _FONT, scale, color, 1, cv2.LINE_AA)


# --- the samples of an evaluation -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Numbers of samples. measure: by which they were ordered. worst: largest error first. typical: nearest the median,
    smallest first, none of the worst. missing: without an estimate, spread over all of those."""

    measure: str
    worst: tuple[int, ...]
    typical: tuple[int, ...]
    missing: tuple[int, ...]


def choose(scores: SampleScores, worst: int, *, typical: int = COLUMNS, missing: int = COLUMNS) -> Choice:
    """At most so many samples of each kind. Where samples are few, the worst come first, and typical ones may lack."""
    measure = next((m for m in _ORDERED_BY if np.isfinite(scores.values[m]).any()), _ORDERED_BY[0])
    errors = scores.values[measure]
    order = np.argsort(errors, kind="stable")[: np.count_nonzero(np.isfinite(errors))]  # NaN sorts last
    largest, rest = order[::-1][:worst], order[: max(len(order) - worst, 0)]
    off = np.abs(errors[rest] - np.median(errors[order])) if len(rest) else errors[rest]
    near = np.sort(np.argsort(off, kind="stable")[:typical])
    without = np.flatnonzero(scores.values["estimated_percent"] == 0)
    spread = without[np.linspace(0, len(without) - 1, min(missing, len(without))).astype(int)]
    return Choice(measure, tuple(largest.tolist()), tuple(rest[near].tolist()), tuple(spread.tolist()))


def gallery_sections(
    source: SampleSource, scores: SampleScores, joints: FloatArray, name: str, *, worst: int = 12
) -> list[Section]:
    """The largest errors, a row of typical ones, and a row without an estimate, those that there are.

    scores: of the source's first N samples, in order. joints: (N, 21, 3) metres, what the estimator `name` said, NaN
    where nothing. Raises ValueError where numbers differ, WildHandsError where nothing can be compared.
    """
    if len(joints) != len(scores) or len(source) < len(scores):
        raise ValueError(f"{len(joints)} estimates for {len(scores)} scores of {len(source)} samples")
    chosen = choose(scores, worst)
    if not chosen.worst and not chosen.missing:
        raise WildHandsError(
            f"no pictures: the samples of {source.name} have no labels that tell how large an error is"
        )
    title = next(measure.title for measure in MEASURES if measure.name == chosen.measure)
    errors = scores.values[chosen.measure]
    count = int(np.isfinite(errors).sum())
    missing = int(np.count_nonzero(scores.values["estimated_percent"] == 0))

    def panels(indices: Sequence[int]) -> list[Panel]:
        return [sample_panel(source[i], joints[i], {m: float(scores.values[m][i]) for m in _NUMBERS}) for i in indices]

    sections = []
    if chosen.worst:
        heading = f"{name} on {source.name}: the largest errors of {count} ({title})   [{LEGEND}]"
        sections.append(Section(_ascii(heading), panels(chosen.worst)))
    if chosen.typical:
        heading = f"typical: about the median, {np.nanmedian(errors):.1f} ({title})"
        sections.append(Section(_ascii(heading), panels(chosen.typical)))
    if chosen.missing:
        heading = f"no estimate: {len(chosen.missing)} of {missing} ({len(scores)} hands in all)"
        sections.append(Section(heading, panels(chosen.missing)))
    return sections


def write_gallery(sections: Sequence[Section], path: Path, *, edge: int = 256) -> None:
    """Draws a sheet into a file; its folder is made. Raises WildHandsError, also for more than one picture can hold."""
    check_picture_name(path)
    content = _encoded(draw_sheet(sections, edge=edge), path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise WildHandsError(f"cannot write {path}: {error.strerror}") from error


def _encoded(sheet: Image, path: Path) -> bytes:
    """As the file's ending says. JPEG ends at 65,500 pixels, PNG far beyond."""
    data = encoded(path.suffix, sheet[..., ::-1])
    if data is None:
        remedy = "a smaller --worst" if path.suffix.lower() == ".png" else "a smaller --worst, or a name ending in .png"
        raise WildHandsError(
            f"cannot write {path}: {sheet.shape[0]} rows of pixels are too many for one picture: give {remedy}"
        )
    return data


def check_picture_name(path: Path) -> None:
    """Raises WildHandsError for a file that `write_gallery` could not write."""
    if path.suffix.lower() not in SUFFIXES:
        raise WildHandsError(f"cannot write pictures as '{path.name}': its name must end in {' or '.join(SUFFIXES)}")


def sample_panel(sample: Sample, joints: FloatArray, numbers: Mapping[str, float]) -> Panel:
    """A sample with an estimate (21, 3), NaN for none. numbers: measure's name → value, for the text."""
    unknown = np.full((21, 2), np.nan)
    ray = sample.camera.unproject(np.array(sample.center))
    truth = unknown
    if sample.keypoints is not None and sample.keypoint_weights is not None:
        truth = np.where(sample.keypoint_weights[:, None] > 0, _crop_places(sample, sample.keypoints), np.nan)
    errors = number_line(numbers) if np.isfinite(joints).all() else "no estimate"
    return Panel(
        image=sample.image,
        seen=_crop_places(sample, sample.camera.project(joints)),
        truth=truth,
        seen_aside=from_the_side(joints, ray),
        truth_aside=unknown if sample.joints is None else from_the_side(sample.joints, ray),
        side=sample.side,
        lines=tuple(_ascii(line) for line in (errors, *_facts(sample))),
    )


def number_line(numbers: Mapping[str, float]) -> str:
    """The errors among `numbers` (measure's name → value) in words, those that are NaN left out."""
    known = {name: value for name, value in numbers.items() if name in _NUMBERS and np.isfinite(value)}
    return ", ".join(text.format(known[name]) for name, text in _NUMBERS.items() if name in known)


def _crop_places(sample: Sample, pixels: FloatArray) -> FloatArray:
    """Pixels of the picture → −1 to 1 from edge to edge of the crop."""
    return np.asarray((crop_pixels(sample, pixels) + 0.5) * (2 / CROP_SIZE) - 1)


def _facts(sample: Sample) -> tuple[str, str]:
    """What may explain an error, in two lines."""
    known = {name: group for name, group in describe(sample).items() if group != UNKNOWN}
    words = [known.get("pose", ""), f"holds {known['object']}" if "object" in known else ""]
    if "occlusion" in known:
        words.append(f"hidden {known['occlusion']}")
    more = [sample.side.value, f"{off_axis_angle(sample):.0f}° off axis"]
    for name, text in (("distance", "{}"), ("light", "light {}"), ("skin", "skin {}")):
        if name in known:
            more.append(text.format(known[name]))
    if known.get("glove", "bare") not in ("bare", "none"):
        more.append(f"glove {known['glove']}")
    return ", ".join(filter(None, [*words, sample.key])), ", ".join(more)


def _ascii(text: str) -> str:
    """What OpenCV's fonts can draw."""
    return text.replace("°", " deg").replace("–", "-").replace("−", "-").encode("ascii", "replace").decode()
