"""Palms in a picture: MediaPipe's single-shot palm detector on square views of the frame.

The network looks at 192 × 192 pixels and finds palms of about a tenth of that and more, best where the fingers point
up. Hence the views: the whole frame and square tiles of it, upright and turned.

Layout of the network's numbers: "MediaPipe Hands: On-device Real-time Hand Tracking", Zhang et al. 2020,
arXiv:2006.10214, and the model card of MediaPipe Hands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.detection.runtime import FloatTensor, LiteModel
from wildhands_ros.hands import FloatArray

INPUT_PIXELS = 192
ANCHOR_COUNT = 2016
WRIST, INDEX, MIDDLE, RING, PINKY, THUMB_CMC, THUMB_MCP = range(7)
"""The palm's seven keypoints: the wrist, four knuckles (mcp), and the thumb's lower joints."""

# Feature maps as (stride, anchors per cell): every anchor is a point, so a cell's anchors coincide.
_FEATURE_MAPS = ((8, 2), (16, 6))
_MOST_PALMS = 200  # of a view, before they are merged: a very low threshold would otherwise take seconds


@dataclass(frozen=True)
class Palm:
    """One palm, in pixels of the frame.

    center: (2,) of its square box; the box has the axes of the view that it was found in.
    size: edge of that box.
    keypoints: (7, 2); see `WRIST` and following.
    score: the network's confidence, 0 to 1.
    """

    center: FloatArray
    size: float
    keypoints: FloatArray
    score: float

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The box, taken as upright."""
        x, y, half = float(self.center[0]), float(self.center[1]), self.size / 2
        return x - half, y - half, x + half, y + half

    def hand_region(self) -> Region:
        """The square that the landmark network should look at: fingers up, palm in its lower half.

        The proportions are those that the landmark network was trained with: 2.6 palms wide, moved by half a palm
        towards the fingers.
        """
        dx, dy = self.keypoints[MIDDLE] - self.keypoints[WRIST]
        angle = math.atan2(dx, -dy)
        shift = 0.5 * self.size
        x, y = self.center
        return Region(x + shift * math.sin(angle), y - shift * math.cos(angle), 2.6 * self.size, angle)


class PalmDetector:
    """The palm network. Not safe for calls from several threads at once."""

    def __init__(self, model: bytes, threads: int = 2) -> None:
        """model: the verified content of the model file (see `models.load_model`). threads: CPU threads per call.

        Raises ModelFileError where the content is not this network.
        """
        shapes = [(1, ANCHOR_COUNT, 18), (1, ANCHOR_COUNT, 1)]
        self._network = LiteModel("the palm model", model, INPUT_PIXELS, shapes, threads)

    def find(self, picture: Pyramid, view: Region, threshold: float) -> list[Palm]:
        """Palms of at least this score (0 to 1) in one view of the picture, best first, overlaps merged."""
        values, logits = self._network(picture.crop(view, INPUT_PIXELS, extend=False))
        return merge_palms(decode_palms(values[0], logits[0, :, 0], view, threshold))


@lru_cache(maxsize=1)
def anchors() -> FloatArray:
    """(2016, 2): the x and y of the network's anchor points, 0 to 1 across its input."""
    rows = []
    for stride, count in _FEATURE_MAPS:
        cells = INPUT_PIXELS // stride
        axis = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        rows.append(np.repeat(grid, count, axis=0))
    table = np.concatenate(rows)
    table.flags.writeable = False
    return table


def decode_palms(values: FloatTensor, logits: FloatTensor, view: Region, threshold: float) -> list[Palm]:
    """The palms of at least this score in one output of the network, in pixels of the frame, best first.

    Of more than 200 the best.

    values: (2016, 18): centre, width and height of the box, then x and y of 7 keypoints, in pixels of the network's
        input and relative to the anchor (for the width and height: absolute). logits: (2016,).
    """
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))
    best_first = np.argsort(-scores, kind="stable")
    palms = []
    for i in best_first[: min(np.count_nonzero(scores >= threshold), _MOST_PALMS)]:
        row = values[i].astype(np.float64) / INPUT_PIXELS
        places = view.to_frame(np.concatenate([row[:2], row[4:]]).reshape(8, 2) + anchors()[i])
        size = float(max(row[2], row[3]) * view.size)
        if size > 0 and np.isfinite(places).all():
            palms.append(Palm(places[0], size, places[1:], float(scores[i])))
    return palms


def merge_palms(palms: Sequence[Palm], overlap: float = 0.3) -> list[Palm]:
    """One palm for each group that overlaps by more than `overlap` (intersection over union) with its best palm.

    It is the group's mean, weighted by score, with the best score: the weighted suppression of MediaPipe, which
    jumps less than the best palm alone. Best first.
    """
    rest = sorted(palms, key=lambda palm: -palm.score)
    merged = []
    while rest:
        best = rest[0]
        group = [palm for palm in rest if palm is best or box_overlap(palm.xyxy, best.xyxy) > overlap]
        rest = [palm for palm in rest[1:] if not any(palm is other for other in group)]
        weights = np.array([palm.score for palm in group])
        weights /= weights.sum()
        merged.append(
            Palm(
                np.tensordot(weights, [palm.center for palm in group], 1),
                float(weights @ [palm.size for palm in group]),
                np.tensordot(weights, [palm.keypoints for palm in group], 1),
                best.score,
            )
        )
    return merged


def box_overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1); 0 where one has no area."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    both = width * height
    if both <= 0:  # also where tiny sides have no product
        return 0.0
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
