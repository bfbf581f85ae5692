"""Turned squares of a picture, and cutting them out quickly and without aliasing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import ImageError
from wildhands_ros.exposure import well_exposed
from wildhands_ros.hands import FloatArray

RgbImage = NDArray[np.uint8]


@dataclass(frozen=True)
class Region:
    """A square of the picture, turned about its centre.

    x, y: the centre, in pixels of the frame.
    size: length of an edge, in pixels of the frame.
    angle: radians from the picture's axes to the region's, clockwise as one looks at the picture (x right, y down).
        The region's "up" is the direction (sin angle, -cos angle) of the frame.
    """

    x: float
    y: float
    size: float
    angle: float = 0.0

    @property
    def rotation(self) -> FloatArray:
        """(2, 2): turns vectors of the region's axes into the frame's axes."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.array([[c, -s], [s, c]])

    def to_frame(self, points: FloatArray) -> FloatArray:
        """(..., 2) places in the region, 0 to 1 along its edges, as pixels of the frame."""
        return (points - 0.5) @ (self.size * self.rotation.T) + (self.x, self.y)

    def from_frame(self, points: FloatArray) -> FloatArray:
        """(..., 2) pixels of the frame as places in the region, 0 to 1 along its edges: undoes `to_frame`."""
        return (points - (self.x, self.y)) @ self.rotation / self.size + 0.5

    def frame_from_crop(self, pixels: int) -> FloatArray:
        """(2, 3) affine map from the pixels of a `pixels` × `pixels` crop to pixels of the frame."""
        linear = self.rotation * (self.size / pixels)
        corner = self.to_frame(np.array([0.5 / pixels, 0.5 / pixels]))  # the centre of the crop's first pixel
        return np.concatenate([linear, corner[:, None]], axis=1)


class Pyramid:
    """A picture with its halvings, made when first needed: any region is cut from the level that suits its size."""

    def __init__(self, image: RgbImage, *, exposed: bool = False) -> None:
        """image: (H, W, 3) uint8 RGB. exposed: dark and flat pictures are stretched (`exposure.well_exposed`).

        Raises ImageError where it is anything else, or empty.
        """
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            what = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ImageError(f"hands are sought in an RGB image of shape (H, W, 3) and type uint8, not in {what}")
        if image.size == 0:
            raise ImageError("the image is empty (zero width or height): check the camera driver or the file")
        self._levels = [well_exposed(image) if exposed else image]

    @property
    def width(self) -> int:
        return self._levels[0].shape[1]

    @property
    def height(self) -> int:
        return self._levels[0].shape[0]

    def crop(self, region: Region, pixels: int, extend: bool) -> RgbImage:
        """(pixels, pixels, 3): the region, upright. Outside the picture: its edge, drawn out, or else black."""
        level = max(0, math.floor(math.log2(max(region.size / pixels, 1.0))))
        image, level = self._level(level)
        # The pixel i of a halved picture covers the pixels 2i and 2i + 1: its centre lies at 2i + 0.5.
        shrink = 0.5**level
        affine = region.frame_from_crop(pixels)
        affine[:, 2] = (affine[:, 2] + 0.5) * shrink - 0.5
        affine[:, :2] *= shrink
        border = cv2.BORDER_REPLICATE if extend else cv2.BORDER_CONSTANT
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, affine, (pixels, pixels), flags=flags, borderMode=border)  # type: ignore[return-value]

    def _level(self, wanted: int) -> tuple[RgbImage, int]:
        while len(self._levels) <= wanted:
            image = self._levels[-1]
            height, width = image.shape[0] // 2, image.shape[1] // 2
            if height < 1 or width < 1:
                break
            # An odd last row or column is left out, so that every level keeps the exact factor of two.
            even = image[: 2 * height, : 2 * width]
            self._levels.append(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA))  # type: ignore[arg-type]
        level = min(wanted, len(self._levels) - 1)
        return self._levels[level], level
