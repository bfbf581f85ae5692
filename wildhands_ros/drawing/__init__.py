"""Pictures for people to look at: hands drawn over the picture they were found in."""

from wildhands_ros.drawing.hands import draw_hands
from wildhands_ros.drawing.panels import draw_status, fitted
from wildhands_ros.drawing.skeleton import draw_skeleton
from wildhands_ros.drawing.style import FINGER_COLORS, SIDE_COLORS, TRUTH_STYLE, Color, DrawingStyle

__all__ = [
    "FINGER_COLORS", "SIDE_COLORS", "TRUTH_STYLE", "Color", "DrawingStyle", "draw_hands", "draw_skeleton",
    "draw_status", "fitted",
]  # fmt: skip
