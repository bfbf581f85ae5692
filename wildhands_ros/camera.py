"""Camera models: where a 3D point lands in the picture, and which way a pixel looks.

Conventions: optical frame (x right, y down, z forward), pixel centres at integer coordinates, arrays of points with
the coordinate last. Everything is float64 and vectorised.

`CameraInfo` semantics follow sensor_msgs/CameraInfo and image_geometry; the lenses' formulas are in `lenses`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wildhands_ros.errors import CameraError
from wildhands_ros.lenses import FisheyeLens, PolynomialLens
from wildhands_ros.yaml_files import read_yaml

FloatArray = NDArray[np.float64]

_LARGEST = 1e9  # of intrinsics and coefficients: what is larger overflows in the polynomials
_SHORTEST = 1e-3  # pixels of focal length
_LARGEST_SKEW = 1e-3  # of the focal length: a twentieth of a degree where the picture's edge is at 45°
_UNCALIBRATED = (
    "the camera is uncalibrated (K[0] is 0): calibrate it (ros2 run camera_calibration cameracalibrator), or give a "
    "focal length in pixels"
)
_RECTIFIED = re.compile(r"(?<![a-z])rect[^/]*$|/rect(ified)?/image$")


def is_rectified_topic(image: str) -> bool:
    """Whether an image topic has the name of a rectified one, as image_proc gives it.

    That is one whose last name is image_rect or the like ("/camera/image_rect_color/compressed": yes;
    "/direct_camera/image_raw": no), or "image" in a namespace called rect ("/camera/rect/image").
    """
    return _RECTIFIED.search(image.removesuffix("/compressed")) is not None


def ignored_skew(info: CameraInfoLike, *, rectified: bool = False) -> str:
    """What a camera made of this sensor_msgs/CameraInfo leaves out, in words: K[1], where that matters; else empty.

    rectified: as for `Camera.from_camera_info`.
    """
    skew = float(info.k[1]) if len(info.k) == 9 else 0.0
    if rectified or not abs(skew) > _LARGEST_SKEW * abs(info.k[0]):
        return ""
    return (
        f"K of camera_info has a skew of {skew:g} pixels (K[1]), which is ignored, so that hands are a little beside "
        "where they are: calibrate the camera without skew, as ROS's camera_calibration does"
    )


class Distortion(str, Enum):
    """Lens distortion models, by their names in sensor_msgs/CameraInfo."""

    NONE = "none"
    PLUMB_BOB = "plumb_bob"
    RATIONAL_POLYNOMIAL = "rational_polynomial"
    EQUIDISTANT = "equidistant"


_MODEL_NAMES = {
    "": Distortion.PLUMB_BOB,
    "none": Distortion.NONE,
    "plumb_bob": Distortion.PLUMB_BOB,
    "radtan": Distortion.PLUMB_BOB,
    "rational_polynomial": Distortion.RATIONAL_POLYNOMIAL,
    "thin_prism": Distortion.RATIONAL_POLYNOMIAL,
    "equidistant": Distortion.EQUIDISTANT,
    "fisheye": Distortion.EQUIDISTANT,
    "kannala_brandt4": Distortion.EQUIDISTANT,
}
_COEFFICIENT_COUNTS = {
    Distortion.NONE: (0,),
    Distortion.PLUMB_BOB: (4, 5),
    Distortion.RATIONAL_POLYNOMIAL: (8, 12),
    Distortion.EQUIDISTANT: (4,),
}


class RegionLike(Protocol):
    """The fields of sensor_msgs/RegionOfInterest that are read here."""

    x_offset: int
    y_offset: int
    height: int
    width: int


class CameraInfoLike(Protocol):
    """The fields of sensor_msgs/CameraInfo that are read here (so that no ROS types are needed)."""

    height: int
    width: int
    distortion_model: str
    d: Any
    k: Any
    p: Any
    binning_x: int
    binning_y: int
    roi: RegionLike


@dataclass(frozen=True)
class Camera:
    """Intrinsics and lens distortion of one picture.

    width, height: size of the picture in pixels.
    fx, fy, cx, cy: focal lengths and principal point in pixels.
    model, coefficients: the distortion. plumb_bob: k1 k2 p1 p2 [k3]; rational_polynomial: k1 k2 p1 p2 k3 k4 k5 k6
        [s1 s2 s3 s4]; equidistant: k1 k2 k3 k4; none: empty.

    Raises CameraError for values no camera can have.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: Distortion = Distortion.NONE
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Accepts what calibrations give: models by name, coefficients as arrays, numbers of numpy and OpenCV."""
        object.__setattr__(self, "model", _model_of(self.model))
        object.__setattr__(self, "coefficients", tuple(float(c) for c in np.ravel(self.coefficients)))
        for name in ("fx", "fy", "cx", "cy"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("width", "height"):
            size = getattr(self, name)
            if not (size > 0 and float(size).is_integer()):
                raise CameraError(
                    f"camera size {self.width}x{self.height}: width and height must be positive whole numbers"
                )
            object.__setattr__(self, name, int(size))
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.coefficients)
        if not all(math.isfinite(n) for n in numbers):
            raise CameraError("camera intrinsics contain NaN or infinity: calibrate the camera again")
        if any(abs(n) > _LARGEST for n in numbers) or any(0 < abs(f) < _SHORTEST for f in (self.fx, self.fy)):
            raise CameraError(
                f"camera intrinsics that no camera has (fx={self.fx:g}, fy={self.fy:g}, cx={self.cx:g}, "
                f"cy={self.cy:g}, "
                f"coefficients {', '.join(f'{c:g}' for c in self.coefficients) or 'none'}): calibrate the camera again"
            )
        if self.fx == 0 or self.fy == 0:
            raise CameraError(_UNCALIBRATED)
        if self.fx < 0 or self.fy < 0:
            raise CameraError(f"focal lengths must be positive, not fx={self.fx}, fy={self.fy}")
        if len(self.coefficients) not in _COEFFICIENT_COUNTS[self.model]:
            allowed = " or ".join(str(n) for n in _COEFFICIENT_COUNTS[self.model])
            raise CameraError(
                f"distortion model '{self.model.value}' takes {allowed} coefficients, not {len(self.coefficients)}"
            )

    # --- making one -------------------------------------------------------------------------------------------------

    @classmethod
    def pinhole(cls, width: int, height: int, focal: float) -> Camera:
        """An undistorted camera with square pixels and the principal point in the middle of the picture."""
        return cls(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)

    @classmethod
    def guess(cls, width: int, height: int) -> Camera:
        """A guess for a head-mounted camera of unknown focal length: about 86° across the longer edge.

        Depth is proportional to the focal length, so whoever uses this must say that metric results are a guess.
        """
        return cls.pinhole(width, height, 0.535 * max(width, height))

    @classmethod
    def from_camera_info(cls, info: CameraInfoLike, *, rectified: bool = False) -> Camera:
        """The camera of a picture published beside this sensor_msgs/CameraInfo.

        info: any object with that message's fields; `K`, `D` and `P` describe the full resolution, `roi` is cut from
            it first (in full-resolution pixels), then `binning` shrinks it. Scaling by the binning follows
            image_geometry (principal point divided by the binning), so that all ROS nodes agree.
        rectified: True for pictures of an `image_rect` topic (uses `P`, no distortion), False for raw pictures (uses
            `K` and `D`). The message does not tell: a driver sets `roi.do_rectify` beside raw pictures of a window.

        With a `P` of a stereo pair's second camera the results are relative to that camera's own optical centre (the
        baseline term P[3] is not used). Raises CameraError if uncalibrated, NaN, or of unknown model.
        """
        roi = info.roi
        use_p = rectified
        k = [float(v) for v in info.k]
        p = [float(v) for v in info.p]
        if len(k) != 9 or len(p) != 12:
            raise CameraError(f"camera_info has {len(k)} values in K and {len(p)} in P, expected 9 and 12")
        if k[0] == p[0] == 0:  # drivers without a calibration leave everything else at 0 too
            raise CameraError(_UNCALIBRATED)
        if not (info.width and info.height):
            raise CameraError(
                f"camera_info has the size {info.width}x{info.height}: the camera driver must set width and height, "
                "those at which the camera was calibrated"
            )
        if use_p and p[0] == 0 and k[0] != 0:
            model, coefficients = _distortion(info.distortion_model, info.d)
            if model is Distortion.EQUIDISTANT or any(coefficients):  # a fisheye is one also without coefficients
                raise CameraError(
                    "camera_info has no P (P[0] is 0), and of a distorted camera's rectified pictures nothing else "
                    "tells the focal length: calibrate the camera, or take its raw pictures (rectified false)"
                )
            use_p = False  # an undistorted camera whose driver left P empty: K says the same
        if use_p:
            fx, fy, cx, cy = p[0], p[5], p[2], p[6]
            model, coefficients = _distortion("none", ())
        else:
            if any(abs(v) > 0 for v in k[6:8]):  # column by column
                raise CameraError(f"K of camera_info must be fx 0 cx, 0 fy cy, 0 0 1, row by row, not {k}")
            fx, fy, cx, cy = k[0], k[4], k[2], k[5]
            model, coefficients = _distortion(info.distortion_model, info.d)

        width, height = int(info.width), int(info.height)
        if roi.width or roi.height:  # all zero stands for the whole picture
            if not (0 < roi.width <= width - roi.x_offset and 0 < roi.height <= height - roi.y_offset):
                raise CameraError(
                    f"camera_info roi {roi.width}x{roi.height} at ({roi.x_offset}, {roi.y_offset}) does not lie in "
                    f"its {width}x{height} picture"
                )
            cx, cy = cx - roi.x_offset, cy - roi.y_offset
            width, height = int(roi.width), int(roi.height)
        binning_x, binning_y = max(int(info.binning_x), 1), max(int(info.binning_y), 1)
        return cls(
            width // binning_x, height // binning_y,
            fx / binning_x, fy / binning_y, cx / binning_x, cy / binning_y,
            model, coefficients,
        )  # fmt: skip

    @classmethod
    def from_yaml(cls, path: str | Path, *, rectified: bool = False) -> Camera:
        """Reads the YAML that ROS's camera_calibration writes (and camera_info_manager reads).

        rectified: for pictures that were rectified with it: uses its `projection_matrix`, no distortion. Raises
        CameraError for files that are not such a calibration.
        """
        path = Path(path)
        data = read_yaml(path, CameraError)
        try:
            k = [_number(v) for v in data["camera_matrix"]["data"]]
            p = [_number(v) for v in (data.get("projection_matrix") or {}).get("data", [])] if rectified else []
            d = [_number(v) for v in data.get("distortion_coefficients", {}).get("data", [])]
            width, height = _pixels(data["image_width"]), _pixels(data["image_height"])
            name = str(data.get("distortion_model") or "")  # YAML takes a name left empty for null
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, KeyError):
                problem = f"{error.args[0]} is missing"
            else:
                problem = str(error) if isinstance(error, _Unfit) else "it is built differently"
            raise CameraError(
                f"{path} is not a ROS camera calibration ({problem}): needs image_width, image_height, "
                "camera_matrix.data (9 numbers) and distortion_coefficients.data, as in docs/recordings.md"
            ) from error
        if len(k) != 9:
            raise CameraError(f"{path}: camera_matrix.data has {len(k)} numbers, expected 9")
        if any(abs(v) > 0 for v in (k[3], k[6], k[7])) or abs(k[8] - 1) > 1e-6:
            raise CameraError(
                f"{path}: camera_matrix.data must be fx 0 cx, 0 fy cy, 0 0 1, row by row, not {k} (column by column?)"
            )
        with _naming(path):
            if len(p) == 12 and p[0] != 0:  # whatever lens it was
                return cls(width, height, p[0], p[5], p[2], p[6])
            model, coefficients = _distortion(name, d)
        if rectified and (model is Distortion.EQUIDISTANT or any(coefficients)):  # of other cameras K says the same
            raise CameraError(
                f"{path} has no projection_matrix.data of 12 numbers, and nothing else tells the focal length of "
                "rectified pictures: calibrate the camera anew, or give --focal"
            )
        if abs(k[1]) > _LARGEST_SKEW * abs(k[0]):
            raise CameraError(
                f"{path}: camera_matrix.data has a skew of {k[1]:g} pixels (its second number), which nothing here "
                "knows: calibrate the camera without skew, as ROS's camera_calibration does, or set it to 0"
            )
        with _naming(path):
            camera = cls(width, height, k[0], k[4], k[2], k[5], model, coefficients)
        return camera

    # --- looking through it -----------------------------------------------------------------------------------------

    @property
    def matrix(self) -> FloatArray:
        """K, (3, 3)."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    @property
    def projection_matrix(self) -> FloatArray:
        """P, (3, 4): of the picture undistorted with the same focal lengths and principal point."""
        return np.hstack([self.matrix, np.zeros((3, 1))])

    @property
    def ros_model(self) -> str:
        """The name of its distortion in ROS, where an undistorted camera is a plumb_bob one without coefficients."""
        return (Distortion.PLUMB_BOB if self.model is Distortion.NONE else self.model).value

    @property
    def has_distortion(self) -> bool:
        """True where rays are not those of the pinhole with the same K."""
        return self.model is Distortion.EQUIDISTANT or any(c != 0 for c in self.coefficients)

    def project(self, points: ArrayLike) -> FloatArray:
        """Camera-frame points (..., 3) in any unit → pixels (..., 2).

        NaN for points that no pixel sees: behind the camera (pinhole models), at its centre, or so far out that the
        distortion polynomial has turned back on itself.
        """
        points = np.asarray(points, dtype=np.float64)
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.model is Distortion.EQUIDISTANT:
                r = np.hypot(x, y)
                theta = np.arctan2(r, z)
                fisheye = FisheyeLens(self.coefficients)
                radius = np.where(theta <= fisheye.limit, fisheye.radius(theta), np.nan)
                scale = np.where(r > 0, radius / r, np.where(z > 0, 0.0, np.nan))
                xd, yd = x * scale, y * scale
            else:
                z = np.where(z > 0, z, np.nan)
                xd, yd = x / z, y / z
                if self.has_distortion:
                    lens = PolynomialLens(self.coefficients)
                    inside = np.hypot(xd, yd) <= lens.limit
                    xd, yd = (np.where(inside, v, np.nan) for v in lens.distort(xd, yd)[:2])
        return np.stack([self.fx * xd + self.cx, self.fy * yd + self.cy], axis=-1)

    def unproject(self, pixels: ArrayLike) -> FloatArray:
        """Pixels (..., 2) → unit vectors (..., 3) along which they look; the inverse of `project`.

        NaN for pixels outside what the distortion model can produce.
        """
        pixels = np.asarray(pixels, dtype=np.float64)
        xd = (pixels[..., 0] - self.cx) / self.fx
        yd = (pixels[..., 1] - self.cy) / self.fy
        if self.model is Distortion.EQUIDISTANT:
            rd = np.hypot(xd, yd)
            theta = FisheyeLens(self.coefficients).angle(rd)
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = np.where(rd == 0, 1.0, np.sin(theta) / rd)
            return np.stack([xd * scale, yd * scale, np.cos(theta)], axis=-1)
        if self.has_distortion:
            xd, yd = PolynomialLens(self.coefficients).undistort(xd, yd)
        ray = np.stack([xd, yd, np.ones_like(xd)], axis=-1)
        return ray / np.linalg.norm(ray, axis=-1, keepdims=True)

    def angles(self, pixels: ArrayLike) -> FloatArray:
        """Pixels (..., 2) → viewing angles (θx, θy) (..., 2) in radians from the optical axis.

        θx = atan2(X, Z), θy = atan2(Y, Z) of the pixel's ray; for a pinhole that is atan2(px − cx, fx) and
        atan2(py − cy, fy), the angles that KPE encodes (WildHands, arXiv 2312.06583).
        """
        ray = self.unproject(pixels)
        return np.stack([np.arctan2(ray[..., 0], ray[..., 2]), np.arctan2(ray[..., 1], ray[..., 2])], axis=-1)

    # --- derived cameras --------------------------------------------------------------------------------------------

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same picture resized (pixel centres at integers, edges kept: cv2.resize's convention)."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5, cy=(self.cy + 0.5) * sy - 0.5,
        )  # fmt: skip

    def cropped(self, x0: int, y0: int, width: int, height: int) -> Camera:
        """The camera of the window of `width` × `height` pixels at (x0, y0); the window may reach outside."""
        return replace(self, width=width, height=height, cx=self.cx - x0, cy=self.cy - y0)

    def mirrored(self) -> Camera:
        """The camera of the picture flipped left to right."""
        coefficients = list(self.coefficients)
        if self.model in (Distortion.PLUMB_BOB, Distortion.RATIONAL_POLYNOMIAL):
            coefficients[3] = -coefficients[3]  # p2 shifts along x
            if len(coefficients) == 12:
                coefficients[8], coefficients[9] = -coefficients[8], -coefficients[9]  # s1, s2 too
        return replace(self, cx=self.width - 1 - self.cx, coefficients=tuple(coefficients))

    def turned(self) -> Camera:
        """The camera of the picture turned clockwise by a quarter: (x, y) of its frame are (-y, x) of this one's."""
        coefficients = self.coefficients
        if self.model in (Distortion.PLUMB_BOB, Distortion.RATIONAL_POLYNOMIAL):
            k1, k2, p1, p2, *radial = coefficients
            prism = radial[4:]
            if prism:
                s1, s2, s3, s4 = prism
                prism = [-s3, -s4, s1, s2]
            coefficients = (k1, k2, p2, -p1, *radial[:4], *prism)
        return replace(
            self, width=self.height, height=self.width, fx=self.fy, fy=self.fx,
            cx=self.height - 1 - self.cy, cy=self.cx, coefficients=coefficients,
        )  # fmt: skip

    def undistorted(self) -> Camera:
        """The pinhole camera with the same size, focal lengths and principal point."""
        return replace(self, model=Distortion.NONE, coefficients=())

    def rectification_maps(self, target: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps for `cv2.remap` that turn a picture of this camera into one of `target` (same place and direction).

        Returns x and y maps, (target.height, target.width) float32; -1 where this camera sees nothing.
        """
        v, u = np.mgrid[0 : target.height, 0 : target.width].astype(np.float64)
        pixels = self.project(target.unproject(np.stack([u, v], axis=-1)))
        pixels = np.where(np.isfinite(pixels), pixels, -1).astype(np.float32)
        return np.ascontiguousarray(pixels[..., 0]), np.ascontiguousarray(pixels[..., 1])

    def to_dict(self) -> dict[str, Any]:
        """The camera of the JSON lines: model, K (9 numbers, row by row) and D."""
        model = "pinhole" if self.model is Distortion.NONE else self.model.value
        return {"model": model, "K": [float(v) for v in self.matrix.ravel()], "D": list(self.coefficients)}

    def to_calibration(self, name: str) -> dict[str, Any]:
        """The values of a calibration file, which `from_yaml` reads. name: the camera's."""

        def values(matrix: FloatArray) -> dict[str, Any]:
            rows, columns = matrix.shape
            return {"rows": rows, "cols": columns, "data": matrix.ravel().tolist()}

        return {
            "image_width": self.width,
            "image_height": self.height,
            "camera_name": name,
            "camera_matrix": values(self.matrix),
            "distortion_model": self.ros_model,
            "distortion_coefficients": values(np.array([self.coefficients])),
            "rectification_matrix": values(np.eye(3)),
            "projection_matrix": values(self.projection_matrix),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], width: int, height: int) -> Camera:
        """The inverse of `to_dict`."""
        name = "none" if data["model"] == "pinhole" else str(data["model"])
        k = data["K"]
        model, coefficients = _distortion(name, data["D"])
        return cls(width, height, k[0], k[4], k[2], k[5], model, coefficients)


class _Unfit(ValueError):
    """What is wrong with a value of a calibration file, in words for whoever wrote it."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file before what is wrong with its numbers."""
    try:
        yield
    except CameraError as error:
        raise CameraError(f"{path}: {error}") from error


def _number(value: object) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):  # YAML takes yes for a truth
            raise ValueError
        return float(value)
    except ValueError:
        raise _Unfit(f"{value!r} is no number") from None


def _pixels(value: object) -> int:
    number = _number(value)
    if not number.is_integer():
        raise _Unfit(f"{value!r} is no number of pixels")
    return int(number)


def _model_of(name: str) -> Distortion:
    """The distortion model of this name, in ROS or elsewhere. Raises CameraError where there is none."""
    if isinstance(name, Distortion):
        return name
    model = _MODEL_NAMES.get(str(name).strip().lower())
    if model is None:
        raise CameraError(f"unknown distortion model '{name}': known are {', '.join(m.value for m in Distortion)}")
    return model


def _distortion(name: str, values: Any) -> tuple[Distortion, tuple[float, ...]]:
    """Model and coefficients from CameraInfo's fields, with the shorthand that drivers use (empty or longer D)."""
    coefficients = tuple(float(v) for v in values)
    model = _model_of(name)
    if not coefficients or model is Distortion.NONE:
        if model is Distortion.EQUIDISTANT:  # an ideal fisheye still is one
            return model, (0.0, 0.0, 0.0, 0.0)
        return Distortion.NONE, ()
    if model is Distortion.PLUMB_BOB and len(coefficients) in (8, 12, 14):
        model = Distortion.RATIONAL_POLYNOMIAL  # what OpenCV makes of that many coefficients
    if model is Distortion.RATIONAL_POLYNOMIAL:
        if len(coefficients) in (4, 5):
            model = Distortion.PLUMB_BOB
        elif len(coefficients) == 14 and coefficients[12] == coefficients[13] == 0:
            coefficients = coefficients[:12]  # OpenCV's tilted sensor, not tilted
    if model is Distortion.EQUIDISTANT and len(coefficients) > 4 and not any(coefficients[4:]):
        coefficients = coefficients[:4]
    return model, coefficients
