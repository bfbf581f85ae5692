"""Head cameras: lenses of all widths, and where in their view a hand is held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.estimation.wildhands.views import rectified_camera
from wildhands_ros.rendered.vectors import cross, turn

FloatArray = NDArray[np.float64]

_SIZES = ((640, 480), (848, 480), (960, 540), (1280, 720), (1280, 960), (1408, 1408), (1440, 1080), (1920, 1080),
          (720, 720), (1024, 768))  # fmt: skip
_FISHEYE_SHARE = 0.2


@dataclass(frozen=True)
class View:
    """A picture's camera, and how a head holds it.

    camera: undistorted; for a fisheye that of the rectified view. source: the fisheye itself, or None. fov: horizontal
    field of view of the lens in degrees. down, ahead: unit vectors of the camera's frame, where gravity pulls and where
    the body faces (level).
    """

    camera: Camera
    source: Camera | None
    fov: float
    down: FloatArray
    ahead: FloatArray

    @property
    def lens(self) -> str:
        return "pinhole" if self.source is None else "fisheye"

    @cached_property
    def right(self) -> FloatArray:
        """The body's right, level."""
        return cross(self.down, self.ahead)

    def stretch(self, angle: float) -> float:
        """Pixels of the rectified view to one of the lens, at an angle from the axis in radians (1 for pinholes)."""
        if self.source is None:
            return 1.0
        ratio = (self.camera.fx + self.camera.fy) / (self.source.fx + self.source.fy)
        return max(1.0, ratio / math.cos(angle) ** 1.5)  # between the stretch across (1) and along (2) the radius


def sample_view(rng: np.random.Generator) -> View:
    """A camera of a person's head, looking ahead and down."""
    width, height = _SIZES[int(rng.integers(len(_SIZES)))]
    if rng.random() < 0.06:
        width, height = height, width
    cx, cy = np.array([width - 1, height - 1]) / 2 + rng.uniform(-0.03, 0.03, 2) * (width, height)
    center = float(cx), float(cy)
    squeeze = 1 + (rng.uniform(-0.01, 0.01) if rng.random() < 0.3 else 0.0)
    source = None
    if rng.random() < _FISHEYE_SHARE:
        fov = rng.uniform(110, 190)
        focal = width / 2 / math.radians(fov / 2)
        bend = (float(rng.normal(0, 0.012)), float(rng.normal(0, 0.004)), 0.0, 0.0)
        source = Camera(width, height, focal, focal * squeeze, *center, Distortion.EQUIDISTANT, bend)
        camera = rectified_camera(source)
    else:
        fov = rng.uniform(55, 120)
        focal = width / 2 / math.tan(math.radians(fov / 2))
        camera = Camera(width, height, focal, focal * squeeze, *center)
    pitch = math.radians(rng.uniform(10, 45))
    tilt = turn(2, math.radians(rng.normal(0, 5))) @ turn(1, math.radians(rng.normal(0, 8)))
    down = tilt @ np.array([0, math.cos(pitch), math.sin(pitch)])
    ahead = tilt @ np.array([0, -math.sin(pitch), math.cos(pitch)])
    return View(camera, source, fov, down, ahead)


def sample_distance(rng: np.random.Generator) -> float:
    """Metres from the camera to a hand: mostly around 0.4, 0.18 to 1.2."""
    distance = math.exp(rng.normal(math.log(0.42), 0.34))
    if rng.random() < 0.06:
        distance = rng.uniform(0.7, 1.2)
    return float(np.clip(distance, 0.18, 1.2))


def sample_place(rng: np.random.Generator, view: View, lean: float) -> FloatArray:
    """Unit vector from the camera to a hand's middle: anywhere in the view, more often in its lower part.

    lean: -1 for a left hand, 1 for a right one: hands stay on their own side more often than not.
    """
    camera = view.camera
    if rng.random() < 0.5:  # where people work
        u = 0.5 + 0.13 * lean + rng.normal(0, 0.19)
        v = 0.62 + rng.normal(0, 0.19)
    elif rng.random() < 0.6:  # anywhere
        u, v = rng.uniform(0.02, 0.98, 2)
    else:  # towards the edges
        u, v = rng.beta(0.8, 0.8, 2)
    pixel = np.clip([u, v], 0.02, 0.98) * (camera.width, camera.height)
    return camera.unproject(pixel)
