"""Rendered pictures of two hands, in the package: what networks are held to their reference, calibrated and timed with.

What rounding does to a trained network has to be seen on hands. Where there are none its answers mean nothing, and
follow the smallest changes: bfloat16 moves the joints of the open network by 2 mm on these pictures, and by 10 mm on
noise with the statistics of natural pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.hands import Side
from wildhands_ros.images import decode_compressed

FOLDER, LIST = Path(__file__).parent / "data" / "hands", "hands.json"
"""Where they lie, and the file that describes them; `tools/draw_check_pictures.py` makes both."""

COUNT = 28
WIDTH, HEIGHT = 1280, 720


@dataclass(frozen=True)
class CheckPicture:
    """image: (720, 1280, 3) uint8 RGB. camera: a pinhole. boxes: (x0, y0, x1, y1) in pixels, of the right and the left
    hand; keypoints: (21, 2) pixels. Hands may reach over the picture's edge, hold things and be partly hidden."""

    image: NDArray[np.uint8]
    camera: Camera
    boxes: Mapping[Side, tuple[float, float, float, float]]
    keypoints: Mapping[Side, NDArray[np.float64]]


def check_pictures(first: int, count: int) -> list[CheckPicture]:
    """Some of the `COUNT` pictures."""
    pictures = []
    for described in json.loads((FOLDER / LIST).read_text())[first : first + count]:
        image = decode_compressed((FOLDER / described["file"]).read_bytes())
        hands = {Side(side): hand for side, hand in described["hands"].items()}
        boxes = {side: tuple(hand["box"]) for side, hand in hands.items()}
        keypoints = {side: np.array(hand["keypoints"]) for side, hand in hands.items()}
        camera = Camera(WIDTH, HEIGHT, *described["intrinsics"])
        pictures.append(CheckPicture(image, camera, boxes, keypoints))
    return pictures
