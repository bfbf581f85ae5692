"""Colours and choices shared by everything that draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wildhands_ros.hands import Side

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

SIDE_COLORS: Mapping[Side, Color] = {Side.LEFT: (22, 178, 170), Side.RIGHT: (245, 134, 40)}
"""Teal and orange: told apart with every common kind of colour blindness, and from skin."""

FINGER_COLORS: Mapping[Side, Mapping[str, Color]] = {
    Side.LEFT: {
        "thumb": (150, 226, 120),
        "index": (74, 212, 156),
        "middle": (30, 192, 186),
        "ring": (40, 160, 214),
        "pinky": (84, 128, 232),
    },
    Side.RIGHT: {
        "thumb": (255, 222, 92),
        "index": (255, 184, 64),
        "middle": (250, 142, 48),
        "ring": (240, 98, 64),
        "pinky": (226, 70, 108),
    },
}
"""Shades of the side's colour, thumb to little finger, for skeletons (and markers in RViz)."""


@dataclass(frozen=True)
class DrawingStyle:
    """How hands are drawn.

    mesh, skeleton, labels, boxes: which parts to draw.
    opacity: of the mesh where it faces the viewer, 0 to 1; its rim is always more solid.
    side_colors, finger_colors: red, green, blue.
    line_width: thickness of bones as a fraction of the hand's size in the picture.
    dashed: draw skeletons dashed, and meshes as outlines only. Hands that are not valid are always drawn so.
    """

    mesh: bool = True
    skeleton: bool = True
    labels: bool = True
    boxes: bool = False
    opacity: float = 0.72
    side_colors: Mapping[Side, Color] = field(default_factory=lambda: SIDE_COLORS)
    finger_colors: Mapping[Side, Mapping[str, Color]] = field(default_factory=lambda: FINGER_COLORS)
    line_width: float = 0.022
    dashed: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"opacity must lie between 0 and 1, not {self.opacity}")
        if not self.line_width > 0:
            raise ValueError(f"line_width must be positive, not {self.line_width}")


_WHITE: Color = (255, 255, 255)

TRUTH_STYLE = DrawingStyle(
    mesh=False,
    labels=False,
    line_width=0.012,
    side_colors={side: _WHITE for side in Side},
    finger_colors={side: dict.fromkeys(FINGER_COLORS[side], _WHITE) for side in Side},
)
"""Thin white skeletons without labels: the truth, drawn over or under an estimate."""
