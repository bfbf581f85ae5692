"""Where in a picture the palm detector looks: the whole frame, large tiles, small tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wildhands_ros.detection.regions import Region

# Largest number of tiles along the picture's longer edge, however long and thin the picture is.
_LARGE_TILES_ALONG, _SMALL_TILES_ALONG = 3, 4


@dataclass(frozen=True)
class Views:
    """The views of one picture size.

    near: the whole frame, and large tiles (edge: the picture's shorter one, half overlapping), upright and turned by
        90°. They hold the hands of whoever wears the camera.
    far: small tiles (edge: 0.6 of the shorter one), for the smaller hands of others and for outstretched arms.
    """

    near: tuple[Region, ...]
    far: tuple[Region, ...]


def views_of(width: int, height: int) -> Views:
    """The views of a picture of this size, in pixels. 1280 × 720 gives 7 near ones and 8 far ones."""
    short, long = min(width, height), max(width, height)
    whole = Region((width - 1) / 2, (height - 1) / 2, long)
    if long > 1.05 * short:
        large = _tiles(width, height, max(short, long / _LARGE_TILES_ALONG), 0.5)
    else:
        large = [whole]
    upright = [whole, *(tile for tile in large if tile != whole)]
    turned = [Region(tile.x, tile.y, tile.size, math.pi / 2) for tile in large]
    small = _tiles(width, height, max(0.6 * short, long / _SMALL_TILES_ALONG), 0.75)
    return Views((*upright, *turned), tuple(small))


def _tiles(width: int, height: int, size: float, step: float) -> list[Region]:
    """Squares that cover the picture from edge to edge, at most `step` of their size apart."""

    def centers(length: int) -> list[float]:
        if size >= 0.95 * length:
            return [(length - 1) / 2]
        count = math.ceil((length - size) / (size * step) - 1e-9) + 1
        return [size / 2 - 0.5 + (length - size) * i / (count - 1) for i in range(count)]

    return [Region(x, y, size) for y in centers(height) for x in centers(width)]
