"""Cameras that are mounted sideways or upside down: turns their pictures upright, and the hands found in them back.

A picture turned by a quarter is what the same camera, turned about its optical axis, would see: nothing is lost, and
hands only get other coordinates. What is learned about a wearer's hands (where forearms come from, which hand is the
left one, how hands mostly look) holds for upright pictures only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand, HandBox
from wildhands_ros.rigid import RigidTransform, moved_hand

FloatArray = NDArray[np.float64]

ROTATIONS = (0, 90, 180, 270)
"""Degrees by which pictures can be turned."""

_CLOCKWISE = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}
_QUARTER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # clockwise as one sees the picture


def require_rotation(degrees: int) -> None:
    """Raises ConfigError for degrees that are not in `ROTATIONS`."""
    if degrees not in ROTATIONS:
        raise ConfigError(
            "upright_rotation is by how many degrees clockwise pictures must be turned to be upright: "
            f"{', '.join(map(str, ROTATIONS))}; not {degrees}"
        )


@dataclass(frozen=True)
class Turn:
    """Pictures of width × height pixels turned clockwise by `quarters` quarter turns."""

    quarters: int
    width: int
    height: int

    @property
    def back(self) -> Turn:
        """The inverse."""
        width, height = (self.height, self.width) if self.quarters % 2 else (self.width, self.height)
        return Turn(-self.quarters % 4, width, height)

    @property
    def matrix(self) -> FloatArray:
        """Rotation (3, 3) of the camera's optical frame: points before to points after."""
        return np.linalg.matrix_power(_QUARTER, self.quarters)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture (H, W, 3), turned."""
        return np.asarray(cv2.rotate(image, _CLOCKWISE[self.quarters]), np.uint8) if self.quarters else image

    def camera(self, camera: Camera) -> Camera:
        """The camera that sees the turned picture."""
        for _ in range(self.quarters):
            camera = camera.turned()
        return camera

    def pixels(self, pixels: FloatArray) -> FloatArray:
        """Places in the picture (..., 2)."""
        x, y = pixels[..., 0], pixels[..., 1]
        right, bottom = self.width - 1, self.height - 1
        places = [(x, y), (bottom - y, x), (right - x, bottom - y), (y, right - x)]
        return np.stack(places[self.quarters], axis=-1)

    def box(self, box: HandBox) -> HandBox:
        """A hand found in the picture."""
        landmarks = box.landmarks
        if landmarks is not None:
            landmarks = replace(landmarks, image=self.pixels(landmarks.image), world=landmarks.world @ self.matrix.T)
        return replace(box, xyxy=self._xyxy(box.xyxy), landmarks=landmarks)

    def hand(self, hand: Hand) -> Hand:
        """A hand in the camera's frame."""
        turned = moved_hand(hand, RigidTransform(self.matrix, np.zeros(3)))
        return replace(turned, box=self._xyxy(hand.box), keypoints=self.pixels(hand.keypoints))

    def frame(self, frame: Frame) -> Frame:
        """A picture with its camera."""
        if not self.quarters:
            return frame
        return replace(frame, image=self.image(frame.image), camera=self.camera(frame.camera))

    def boxes(self, boxes: Sequence[HandBox]) -> list[HandBox]:
        """Hands found in the picture; the same where nothing turns."""
        return [self.box(box) for box in boxes] if self.quarters else list(boxes)

    def hands(self, hands: Sequence[Hand]) -> list[Hand]:
        """Hands in the camera's frame; the same where nothing turns."""
        return [self.hand(hand) for hand in hands] if self.quarters else list(hands)

    def _xyxy(self, xyxy: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        (x0, y0), (x1, y1) = self.pixels(np.reshape(xyxy, (2, 2))).tolist()
        if self.quarters in (1, 2):  # the upper or the left edge has become the right one
            x0, x1 = x1, x0
        if self.quarters in (2, 3):
            y0, y1 = y1, y0
        return x0, y0, x1, y1
