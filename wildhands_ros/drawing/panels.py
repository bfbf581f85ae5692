"""Text plates, status lines, and pictures fitted into a size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.drawing.style import Color

Image = NDArray[np.uint8]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK: Color = (250, 250, 250)
_PLATE: Color = (18, 22, 28)
_PLATE_OPACITY = 0.72


def text_scale(image: Image) -> float:
    """Font scale that reads well at this size of picture."""
    return float(np.clip(image.shape[0] / 1250, 0.38, 1.6))


def plate_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height of `draw_plate` in pixels."""
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    pad = round(14 * scale)
    return width + 3 * pad, height + base + pad


def draw_plate(image: Image, text: str, x: int, y: int, color: Color, scale: float) -> None:
    """A dark translucent plate with a bar of `color` and one line of text, its top left at (x, y); in place."""
    width, height = plate_size(text, scale)
    _, base = cv2.getTextSize(text, _FONT, scale, 1)
    pad = round(14 * scale)
    _shade(image, x, y, x + width, y + height)
    bar = max(round(8 * scale), 2)
    _fill(image, x, y, x + bar, y + height, color)
    origin = (x + bar + pad, y + height - base // 2 - pad // 2 - 1)
    cv2.putText(image, text, origin, _FONT, scale, _INK, max(round(1.6 * scale), 1), cv2.LINE_AA)


def draw_status(image: Image, lines: Sequence[str]) -> Image:
    """The picture with lines of text on a plate in its top left corner; no lines, no plate. Returns a new picture."""
    image = image.copy()
    if not lines:
        return image
    scale = text_scale(image)
    sizes = [cv2.getTextSize(line, _FONT, scale, 1)[0] for line in lines]
    step, pad = round(34 * scale), round(16 * scale)
    margin = pad // 2
    width = max(w for w, _ in sizes) + 2 * pad
    _shade(image, margin, margin, margin + width, margin + step * len(lines) + pad)
    for i, line in enumerate(lines):
        origin = (margin + pad, margin + pad // 2 + round(step * (i + 0.74)))
        cv2.putText(image, line, origin, _FONT, scale, _INK, max(round(1.6 * scale), 1), cv2.LINE_AA)
    return image


def fitted(image: Image, width: int, height: int, *, grey: int = 0) -> Image:
    """The whole picture scaled to fit into this size, centred on black or grey."""
    factor = min(width / image.shape[1], height / image.shape[0])
    w, h = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    x, y = (width - w) // 2, (height - h) // 2
    result = np.full((height, width, 3), grey, np.uint8)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    result[y : y + h, x : x + w] = cv2.resize(image, (w, h), interpolation=how)
    return result


def _shade(image: Image, x0: int, y0: int, x1: int, y1: int) -> None:
    x0, y0 = max(x0, 0), max(y0, 0)
    part = image[y0 : max(y1, 0), x0 : max(x1, 0)]
    if part.size:
        plate = np.empty_like(part)
        plate[:] = _PLATE
        cv2.addWeighted(part, 1 - _PLATE_OPACITY, plate, _PLATE_OPACITY, 0, dst=part)


def _fill(image: Image, x0: int, y0: int, x1: int, y1: int, color: Color) -> None:
    image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = color
