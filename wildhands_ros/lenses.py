"""What lenses do to directions: the distortion models of ROS and OpenCV, and their inverses.

In normalised image coordinates, pixels from the principal point over the focal length. Arrays of any shape, float64;
NaN where a lens shows nothing.

Sources of the formulas: the plumb_bob and rational_polynomial models are those of OpenCV's calib3d documentation
("Detailed Description", radial, tangential and thin-prism terms); the equidistant model is that of OpenCV's fisheye
module (Kannala and Brandt 2006).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_NEWTON_STEPS = 30
_CONVERGED = 1e-12  # normalised units: 1e-9 px at a focal length of 1000 px


class PolynomialLens:
    """plumb_bob and rational_polynomial lenses: coefficients k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4]]].

    With r² = x² + y²:
        radial = (1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶)
        x' = x·radial + 2 p1 x y + p2 (r² + 2x²) + s1 r² + s2 r⁴
        y' = y·radial + p1 (r² + 2y²) + 2 p2 x y + s3 r² + s4 r⁴

    limit: the radius r at which the radial part turns back or has a pole; there the lens ends.
    """

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        k1, k2, self.p1, self.p2, *rest = coefficients
        k3, k4, k5, k6, *prism = [*rest, *[0.0] * (8 - len(rest))]
        self.numerator = _without_dust(1.0, k1, k2, k3)
        self.denominator = _without_dust(1.0, k4, k5, k6)
        self.s1, self.s2, self.s3, self.s4 = prism
        self.limit = self._turning_radius()

    def radial(self, r2: FloatArray) -> tuple[FloatArray, FloatArray]:
        """radial and its derivative by r²."""
        n, d = _horner(self.numerator, r2), _horner(self.denominator, r2)
        dn, dd = _horner(_derivative(self.numerator), r2), _horner(_derivative(self.denominator), r2)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # at a pole, where the lens ends
            return n / d, (dn * d - n * dd) / (d * d)

    def _turning_radius(self) -> float:
        """The smallest radius at which r·radial(r²) stops growing (infinity if it never does)."""
        # d/dr [r n/d] = 0  <=>  (n + 2 r² n') d - 2 r² n d' = 0, a polynomial in r²
        n, d = np.poly1d(self.numerator[::-1]), np.poly1d(self.denominator[::-1])
        t = np.poly1d([1.0, 0.0])
        roots = ((n + 2 * t * n.deriv()) * d - 2 * t * n * d.deriv()).roots
        poles = d.roots
        candidates = [z.real for z in (*roots, *poles) if abs(z.imag) < 1e-9 * max(1.0, abs(z.real)) and z.real > 0]
        return math.sqrt(min(candidates)) if candidates else math.inf

    def distort(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, tuple[FloatArray, ...]]:
        """Distorted x', y' and the Jacobian entries (∂x'/∂x, ∂x'/∂y, ∂y'/∂x, ∂y'/∂y)."""
        r2 = x * x + y * y
        radial, slope = self.radial(r2)
        xd = x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x) + self.s1 * r2 + self.s2 * r2 * r2
        yd = y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y + self.s3 * r2 + self.s4 * r2 * r2
        prism_x = 2 * self.s1 + 4 * self.s2 * r2
        prism_y = 2 * self.s3 + 4 * self.s4 * r2
        cross = 2 * slope * x * y + 2 * self.p1 * x + 2 * self.p2 * y
        jacobian = (
            radial + 2 * slope * x * x + 2 * self.p1 * y + 6 * self.p2 * x + prism_x * x,
            cross + prism_x * y,
            cross + prism_y * x,
            radial + 2 * slope * y * y + 6 * self.p1 * y + 2 * self.p2 * x + prism_y * y,
        )
        return xd, yd, jacobian

    def undistort(self, xd: FloatArray, yd: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The inverse of `distort` by Newton's method, started from the inverse of the radial part alone."""
        rd = np.hypot(xd, yd)
        r = _invert_monotone(lambda t: t * self.radial(t * t)[0], rd, self.limit)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            scale = np.where(rd > 0, r / rd, 1.0)
            # a tangential shift may carry a pixel past the radial limit: start at the limit and let Newton decide
            scale = np.where(np.isfinite(scale), scale, min(self.limit, 1e6) / rd)
            x, y = xd * scale, yd * scale
            for _ in range(_NEWTON_STEPS):
                fx, fy, (a, b, c, d) = self.distort(x, y)
                ex, ey = fx - xd, fy - yd
                det = a * d - b * c
                dx, dy = (d * ex - b * ey) / det, (a * ey - c * ex) / det
                x, y = x - dx, y - dy
                if not np.any(np.abs(dx) + np.abs(dy) >= _CONVERGED):  # pixels without a ray do not count
                    break
            fx, fy, _ = self.distort(x, y)
            good = (np.hypot(fx - xd, fy - yd) < 1e-9 * (1 + rd)) & (np.hypot(x, y) <= self.limit)
        return np.where(good, x, np.nan), np.where(good, y, np.nan)


class FisheyeLens:
    """The equidistant lens: radius(θ) = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸), θ radians from the optical axis.

    limit: the angle θ at which the radius turns back, at most π; there the lens ends.
    """

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        self.polynomial = _without_dust(1.0, *coefficients)
        slope = self.polynomial * np.array([1, 3, 5, 7, 9])  # d radius / dθ, in θ²
        roots = np.poly1d(slope[::-1]).roots
        turning = [z.real for z in roots if abs(z.imag) < 1e-9 * max(1.0, abs(z.real)) and z.real > 0]
        self.limit = min([math.pi, *[math.sqrt(t) for t in turning]])

    def radius(self, theta: FloatArray) -> FloatArray:
        return theta * _horner(self.polynomial, theta * theta)

    def angle(self, radius: FloatArray) -> FloatArray:
        """The inverse of `radius`; NaN past its largest value."""
        return _invert_monotone(self.radius, radius, self.limit)


def _invert_monotone(function: Callable[[FloatArray], FloatArray], values: FloatArray, limit: float) -> FloatArray:
    """Solves function(t) = value for t in [0, limit], function growing from 0; NaN where there is no solution."""
    values = np.asarray(values, dtype=np.float64)
    if math.isinf(limit):
        limit = 1.0
        largest = np.nanmax(values, initial=0.0)
        while limit < 1e6 and function(np.float64(limit)) < largest:
            limit *= 2
    top = float(function(np.float64(limit)))
    # a pole or a turning point may lie exactly at the limit: stay on its near side
    if not math.isfinite(top) or top <= 0:
        limit *= 1 - 1e-9
        top = float(function(np.float64(limit)))
    low, high = np.zeros_like(values), np.full_like(values, limit)
    t = np.clip(values, 0, limit)
    for _ in range(80):
        f = function(t)
        low, high = np.where(f < values, t, low), np.where(f < values, high, t)
        h = 1e-7 * (1 + t)
        slope = (function(t + h) - function(t - h)) / (2 * h)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = t - (f - values) / slope
        inside = np.isfinite(step) & (step >= low) & (step <= high)
        new = np.where(inside, step, (low + high) / 2)
        if np.all(np.abs(new - t) <= 1e-14 * (1 + np.abs(t))):
            t = new
            break
        t = new
    return np.where((values <= top) & (values >= 0), t, np.nan)


def _without_dust(*coefficients: float) -> FloatArray:
    """Coefficients too small to move any pixel set to zero: they would overflow the search for roots."""
    return np.array([c if abs(c) > 1e-15 else 0.0 for c in coefficients])


def _horner(ascending: FloatArray, t: FloatArray) -> FloatArray:
    result = np.zeros_like(t)
    for c in ascending[::-1]:
        result = result * t + c
    return result


def _derivative(ascending: FloatArray) -> FloatArray:
    return ascending[1:] * np.arange(1, len(ascending))
