"""The 21 landmarks of one hand: MediaPipe's hand landmark network on one turned square of the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.detection.runtime import LiteModel
from wildhands_ros.hands import FloatArray, Landmarks

INPUT_PIXELS = 224

# The joints that span the palm; the finger tips are left out, since they move most and would make the region shake.
_STEADY = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
_LOG_ODDS_LIMIT = 12.0


@dataclass(frozen=True)
class LandmarkResult:
    """What the network saw in one region.

    landmarks: places in the frame, and 3D in the axes of the picture.
    right: log-odds that it is the person's right hand, for a picture that is not mirrored.
    region: where it looked.
    mirrored: whether it was shown the mirror image.
    """

    landmarks: Landmarks
    right: float
    region: Region
    mirrored: bool = False

    @property
    def presence(self) -> float:
        return self.landmarks.presence


class LandmarkNetwork:
    """The landmark network. Not safe for calls from several threads at once."""

    def __init__(self, model: bytes, threads: int = 2) -> None:
        """model: the verified content of the model file (see `models.load_model`). threads: CPU threads per call.

        Raises ModelFileError where the content is not this network.
        """
        self._network = LiteModel(
            "the hand landmark model", model, INPUT_PIXELS, [(1, 63), (1, 1), (1, 1), (1, 63)], threads
        )

    def look(self, picture: Pyramid, region: Region, mirrored: bool = False) -> LandmarkResult | None:
        """What is in the region, or None where the network answers with something that is not a number.

        mirrored: show the network the region's mirror image, and mirror its answer back. The result means the same;
        its errors are other ones.
        """
        crop = picture.crop(region, INPUT_PIXELS, extend=True)
        if mirrored:
            crop = np.ascontiguousarray(crop[:, ::-1])
        screen, presence, right, world = (output.reshape(-1).astype(np.float64) for output in self._network(crop))
        places = screen.reshape(21, 3)[:, :2] / INPUT_PIXELS
        space: FloatArray = world.reshape(21, 3)
        log_odds = _log_odds(float(right[0]))
        if mirrored:
            places = np.stack([1 - places[:, 0], places[:, 1]], axis=1)
            space = space * (-1, 1, 1)
            log_odds = -log_odds
        if not (np.isfinite(places).all() and np.isfinite(space).all() and np.isfinite(presence[0])):
            return None
        turned = space.copy()
        turned[:, :2] = space[:, :2] @ region.rotation.T
        seen = Landmarks(region.to_frame(places), turned, float(np.clip(presence[0], 0, 1)))
        return LandmarkResult(seen, log_odds, region, mirrored)


def region_of_landmarks(places: FloatArray) -> Region:
    """The square to look at next, from landmarks (21, 2) in pixels of the frame: fingers up, twice the palm's span.

    The proportions are those that the landmark network was trained with.
    """
    knuckles = 0.25 * (places[6] + places[14]) + 0.5 * places[10]
    dx, dy = knuckles - places[0]
    angle = math.atan2(dx, -dy)
    upright = Region(0.0, 0.0, 1.0, angle)
    steady = places[_STEADY] @ upright.rotation  # in the region's axes
    low, high = steady.min(axis=0), steady.max(axis=0)
    span = float((high - low).max())
    center = upright.rotation @ ((low + high) / 2 - (0.0, 0.1 * (high - low)[1]))
    return Region(float(center[0]), float(center[1]), 2.0 * max(span, 1e-3), angle)


def tight_box(places: FloatArray, margin: float) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) around landmarks (21, 2), widened on every side by `margin` times its longer edge."""
    (x0, y0), (x1, y1) = places.min(axis=0), places.max(axis=0)
    extra = margin * max(x1 - x0, y1 - y0)
    return float(x0 - extra), float(y0 - extra), float(x1 + extra), float(y1 + extra)


def _log_odds(probability: float) -> float:
    if math.isnan(probability):
        return 0.0
    tiny = math.exp(-_LOG_ODDS_LIMIT)
    probability = min(max(probability, tiny), 1 - tiny)
    return math.log(probability / (1 - probability))
