"""Hands drawn over the picture in which they were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.drawing.mesh import composite, draw_outline, mesh_layer
from wildhands_ros.drawing.panels import draw_plate, plate_size, text_scale
from wildhands_ros.drawing.skeleton import draw_skeleton
from wildhands_ros.drawing.style import DrawingStyle
from wildhands_ros.hands import Hand, Side

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]
_Box = tuple[float, float, float, float]

_DEFAULT_STYLE = DrawingStyle()


def draw_hands(
    image: Image,
    hands: Sequence[Hand],
    camera: Camera,
    faces: Mapping[Side, NDArray[np.integer]],
    style: DrawingStyle = _DEFAULT_STYLE,
) -> Image:
    """The picture with each hand's mesh, skeleton and label drawn over it. Returns a new picture.

    image: (H, W, 3) uint8 RGB. camera: of this picture; meshes and skeletons are projected by it, so every lens is
    right. faces: triangles (F, 3) of each side's mesh, counter-clockwise from outside. Farther hands are drawn first.
    Points that are NaN or that no pixel sees are left out; hands without vertices get the skeleton only; hands that
    are not valid are drawn as dashed outlines.
    """
    image = np.array(image, dtype=np.uint8, order="C")  # a copy, also of pictures that cannot be written to
    ordered = sorted(hands, key=lambda hand: -float(np.nan_to_num(np.linalg.norm(hand.joints[0]))))
    for hand in ordered:
        _draw_hand(image, hand, camera, faces.get(hand.side), style)
    if style.labels:
        plates: list[_Box] = []
        for hand in ordered:
            _draw_label(image, hand, camera, style, plates)
    return image


def bounding_region(hand: Hand, camera: Camera) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 in pixels around everything of the hand that can be projected; None if nothing can."""
    points = hand.joints if hand.vertices is None else np.concatenate([hand.joints, hand.vertices])
    pixels = camera.project(points)
    pixels = pixels[np.isfinite(pixels).all(axis=1)]
    if not len(pixels):
        return None
    (x0, y0), (x1, y1) = pixels.min(axis=0), pixels.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _draw_hand(
    image: Image, hand: Hand, camera: Camera, faces: NDArray[np.integer] | None, style: DrawingStyle
) -> None:
    dashed = style.dashed or not hand.valid
    color = style.side_colors[hand.side]
    keypoints = camera.project(hand.joints)
    width = _bone_width(keypoints, style)
    if style.mesh and hand.vertices is not None and faces is not None:
        # an outline is drawn around the opaque part of its layer
        layer = mesh_layer(hand.vertices, faces, camera, color, 1.0 if dashed else style.opacity)
        if layer is not None and dashed:
            draw_outline(image, layer, color, max(round(width / 3), 1))
        elif layer is not None:
            composite(image, layer)
    if style.skeleton:
        depths = np.linalg.norm(hand.joints, axis=1)
        fingers = style.finger_colors[hand.side]
        draw_skeleton(image, keypoints, fingers, palm_color=color, depths=depths, width=width, dashed=dashed)
    if style.boxes and np.isfinite(hand.box).all():
        farthest = 2 * max(image.shape[:2])  # OpenCV refuses numbers of more than 32 bits
        x0, y0, x1, y1 = np.clip(hand.box, -farthest, farthest).round().astype(int).tolist()
        cv2.rectangle(image, (x0, y0), (x1, y1), color, max(round(width / 3), 1), cv2.LINE_AA)


def _bone_width(keypoints: FloatArray, style: DrawingStyle) -> float:
    finite = keypoints[np.isfinite(keypoints).all(axis=1)]
    size = float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
    return float(np.clip(style.line_width * size, 1.6, 14))


def _draw_label(image: Image, hand: Hand, camera: Camera, style: DrawingStyle, plates: list[_Box]) -> None:
    """Writes the plate above the hand, or below where there is no room; `plates` holds the rectangles already taken."""
    region = bounding_region(hand, camera)
    if region is None:
        return
    x0, y0, x1, y1 = region
    height, width = image.shape[:2]
    if x1 < 0 or y1 < 0 or x0 >= width or y0 >= height:
        return
    scale, text = text_scale(image), label_text(hand)
    w, h = plate_size(text, scale)
    if w > width or 4 * h > height:
        return  # a picture so small would be hidden by it
    x = float(np.clip((max(x0, 0) + min(x1, width) - w) / 2, 0, max(width - w, 0)))
    above, below = y0 - h - 6, y1 + 6
    places = [y for y in (above, above - h - 4, below, below + h + 4) if 0 <= y <= height - h]
    free = [y for y in places if not any(_overlap((x, y, x + w, y + h), plate) for plate in plates)]
    y = (free or places or [max(height - h, 0)])[0]
    plates.append((x, y, x + w, y + h))
    draw_plate(image, text, round(x), round(y), style.side_colors[hand.side], scale)


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def label_text(hand: Hand) -> str:
    """Side, score, the wrist's depth in metres and the track, as in 'R 0.97  0.42 m  #3'; '?' where not valid."""
    side = "L" if hand.side is Side.LEFT else "R"
    parts = [f"{side}{'' if hand.valid else '?'} {hand.score:.2f}"]
    depth = float(hand.joints[0, 2])
    if np.isfinite(depth):
        parts.append(f"{depth:.2f} m")
    if hand.track_id >= 0:
        parts.append(f"#{hand.track_id}")
    return "  ".join(parts)
