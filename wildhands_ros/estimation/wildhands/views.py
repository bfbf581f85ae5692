"""Distorted pictures as an undistorted camera would have seen them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import CameraError
from wildhands_ros.estimation.wildhands.places import Box

WIDEST_HALF_ANGLE = math.radians(60)
"""Half the field of view, along each axis, that a rectified view is made to keep at most: towards 90° a flat picture
stretches without end, and the network's angles were learned below this. Pixels are square, so the view reaches further
along the longer edge of a picture whose shorter one shows as much."""

_PER_EDGE = 9  # points along each edge of a box
_SQUARE = 0.01  # how far fx / fy of a calibrated camera may be from 1: its pixels are square all the same
_PER_SIDE = 129  # points along each side of a picture
_LONGEST = 32766  # pixels of a picture that OpenCV can undistort


@dataclass(frozen=True)
class RectifiedView:
    """A pinhole picture of the same size that sees what a distorted camera sees, from the same place and direction.

    Its focal length lets it see everything that the distorted picture shows, up to `WIDEST_HALF_ANGLE` to each side;
    what its edges leave out is cut off. Hands found in it are in the same camera frame.
    """

    source: Camera
    camera: Camera
    maps: tuple[NDArray[np.int16], NDArray[np.uint16]]

    @classmethod
    def of(cls, source: Camera) -> RectifiedView:
        """Raises CameraError for pictures too large to be undistorted."""
        if max(source.width, source.height) > _LONGEST:
            raise CameraError(
                f"pictures of {source.width}x{source.height} cannot be rectified, only such of up to {_LONGEST} "
                "pixels along each edge: make them smaller, or rectify them beforehand"
            )
        camera = rectified_camera(source)
        maps = cv2.convertMaps(*source.rectification_maps(camera), cv2.CV_16SC2)
        return cls(source, camera, (np.asarray(maps[0], np.int16), np.asarray(maps[1], np.uint16)))

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The rectified picture (H, W, 3), black where the source shows nothing."""
        seen = cv2.remap(image, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return np.asarray(seen, dtype=np.uint8)

    def box(self, box: Box) -> Box | None:
        """The box of the view that holds a box of the source; None where the view does not see it."""
        # what lies over the picture's edge may have no ray: the part within decides
        x0, x1 = np.clip([box[0], box[2]], -0.5, self.source.width - 0.5)
        y0, y1 = np.clip([box[1], box[3]], -0.5, self.source.height - 0.5)
        x, y = np.meshgrid(np.linspace(x0, x1, _PER_EDGE), np.linspace(y0, y1, _PER_EDGE))
        rays = self.source.unproject(np.stack([x, y], axis=-1).reshape(-1, 2))
        angle = np.arctan2(np.abs(rays[:, :2]).max(axis=1), rays[:, 2])
        seen = self.camera.project(rays[angle < math.radians(85)])
        if len(seen) == 0:
            return None
        (left, top), (right, bottom) = seen.min(axis=0), seen.max(axis=0)
        if right <= 0 or bottom <= 0 or left >= self.camera.width - 0.5 or top >= self.camera.height - 0.5:
            return None
        left, right = np.clip([left, right], -0.5, self.camera.width - 0.5)
        top, bottom = np.clip([top, bottom], -0.5, self.camera.height - 0.5)
        return float(left), float(top), float(right), float(bottom)


def needs_view(camera: Camera) -> bool:
    """Whether networks that learned from pinholes with square pixels are shown a `RectifiedView` of its pictures."""
    return camera.has_distortion or abs(camera.fx / camera.fy - 1) > _SQUARE


def rectified_camera(source: Camera) -> Camera:
    """The pinhole of a `RectifiedView`: same size, principal point in the middle, square pixels."""
    x, y = np.linspace(0, source.width - 1, _PER_SIDE), np.linspace(0, source.height - 1, _PER_SIDE)
    # the whole picture, not its border alone, which may lie past what the lens model can show
    angles = np.abs(source.angles(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)))
    seen = angles[np.isfinite(angles).all(axis=1)]
    widest = np.minimum(seen.max(axis=0), WIDEST_HALF_ANGLE) if len(seen) else [WIDEST_HALF_ANGLE] * 2
    halves = (source.width - 1) / 2, (source.height - 1) / 2
    # A picture one pixel wide or high has no field of view along that edge, and the other decides
    edges = [(half, angle) for half, angle in zip(halves, widest, strict=True) if half > 0 < angle]
    focal = min((half / math.tan(angle) for half, angle in edges), default=(source.fx + source.fy) / 2)
    return Camera.pinhole(source.width, source.height, focal)
