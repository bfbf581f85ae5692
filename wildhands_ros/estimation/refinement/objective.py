"""The cost of a refinement: what the landmarks say against what the network said.

docs/open_network.md gives the formulas.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.fitting.evidence import Evidence
from wildhands_ros.estimation.fitting.freedom import LIMIT_SIGMA
from wildhands_ros.estimation.fitting.kinematics import Kinematics, Posture
from wildhands_ros.estimation.fitting.terms import (
    NEAREST,
    Linearised,
    add_limits,
    impossible,
    reprojection,
    small_log,
)

FloatArray = NDArray[np.float64]


class Objective:
    """The cost near one hand of a network.

    start: the network's hand. precision: (6 + D + B,) of turn, place along the axes of `frame`, angles and betas.
    frame: (3, 3) rows: two directions across the view, and that of the hand. lower, upper: (D,) limits of the angles,
    which contain the start's. weights: (21,) of the landmarks. sigma: pixels. outlier: in units of sigma.
    """

    def __init__(
        self,
        kinematics: Kinematics,
        start: Posture,
        precision: FloatArray,
        frame: FloatArray,
        limits: tuple[FloatArray, FloatArray],
        evidence: Evidence,
        weights: FloatArray,
        sigma: float,
        outlier: float,
    ) -> None:
        self._kinematics = kinematics
        self._start = start
        self._precision = np.diag(precision)
        self._precision[3:6, 3:6] = frame.T @ np.diag(precision[3:6]) @ frame
        self._limits = limits
        self._rays = evidence.rays
        self._across = evidence.across / sigma
        self._weights = weights
        self._limit2 = outlier * outlier
        self._last: tuple[Posture, FloatArray, FloatArray] | None = None

    def narrowed(self, outlier: float) -> Objective:
        """The same with another `outlier`; what is known of the last posture is kept."""
        other = copy.copy(self)
        other._limit2 = outlier * outlier
        return other

    def __call__(self, posture: Posture) -> Linearised:
        """The cost is infinite where a landmark that counts lies behind its ray."""
        if self._last is None or self._last[0] is not posture:
            self._last = (posture, *self._kinematics.landmarks_and_jacobian(posture))
        _, points, jacobian = self._last
        depths = np.einsum("ki,ki->k", self._rays, points)
        if not np.all(depths[self._weights > 0] > NEAREST):
            return impossible(self._kinematics.size)
        residual, slope = reprojection(self._rays, self._across, points, jacobian, np.maximum(depths, NEAREST))
        # Geman and McClure: ½ c² r² / (c² + r²), whose weight is (c² / (c² + r²))²
        squared = np.einsum("ki,ki->k", residual, residual)
        share = self._limit2 / (self._limit2 + squared)
        scale = np.sqrt(self._weights) * share
        rows = (slope * scale[:, None, None]).reshape(42, -1)
        gradient = (residual * scale[:, None]).ravel() @ rows
        curvature = rows.T @ rows
        cost = 0.5 * float(self._weights @ (squared * share))

        offset = self._offset(posture)
        pull = self._precision @ offset
        gradient += pull
        curvature += self._precision
        cost += 0.5 * float(offset @ pull)
        cost += add_limits(posture.angles, *self._limits, LIMIT_SIGMA, gradient, curvature)
        return Linearised(cost, gradient, curvature)

    def strain(self, posture: Posture) -> float:
        """How far a posture is from the start, in standard deviations."""
        offset = self._offset(posture)
        return float(np.sqrt(offset @ self._precision @ offset))

    def _offset(self, posture: Posture) -> FloatArray:
        """The step (6 + D + B,) that leads from the start to a posture."""
        start = self._start
        return np.concatenate(
            [
                small_log(posture.orientation @ start.orientation.T),
                posture.wrist - start.wrist,
                posture.angles - start.angles,
                posture.betas - start.betas,
            ]
        )
