"""The cost that the landmark fit minimises, with its gradient and Gauss–Newton matrix.

docs/landmark_fit.md gives the formulas. Every term is a sum of squares in units of its own standard deviation, so
that the weights are statements about how wrong each kind of evidence tends to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.fitting.evidence import Evidence
from wildhands_ros.estimation.fitting.kinematics import Kinematics, Posture, small_turn
from wildhands_ros.estimation.fitting.terms import (
    NEAREST,
    Linearised,
    Prior,
    add_limits,
    impossible,
    reprojection,
    small_log,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """Standard deviations of the evidence.

    pixels: of a 2D landmark, as a fraction of the landmarks' box. world: of a world landmark, metres.
    turn: of the world landmarks' orientation as a whole, radians. scale: of the logarithm of their scale.
    huber: residuals beyond this many standard deviations count linearly.
    """

    pixels: float = 0.02
    world: float = 0.040
    turn: float = 0.20
    scale: float = 0.10
    huber: float = 2.0


@dataclass(frozen=True)
class Estimate:
    """The unknowns: the hand, and how the world landmarks have to be turned (3, 3) and scaled to agree with it."""

    posture: Posture
    turn: FloatArray
    log_scale: float

    def moved(self, step: FloatArray) -> Estimate:
        """After a step: the posture's, then turn (3,) and log scale."""
        return Estimate(
            self.posture.moved(step[:-4]), small_turn(step[-4:-1]) @ self.turn, self.log_scale + float(step[-1])
        )


class Objective:
    """The cost of one hand's evidence."""

    def __init__(self, kinematics: Kinematics, prior: Prior, weights: Weights, evidence: Evidence) -> None:
        self._kinematics = kinematics
        self._prior = prior
        self._weights = weights
        self._evidence = evidence
        self._across = evidence.across / (weights.pixels * evidence.size)

    def __call__(self, estimate: Estimate) -> Linearised:
        """The cost is infinite where a seen landmark lies behind its ray."""
        n = self._kinematics.size + 4
        points, jacobian = self._kinematics.landmarks_and_jacobian(estimate.posture)
        depths = np.einsum("ki,ki->k", self._evidence.rays, points)
        if not np.all(depths[self._evidence.seen > 0] > NEAREST):
            return impossible(n)
        depths = np.maximum(depths, NEAREST)

        image, image_jacobian = reprojection(self._evidence.rays, self._across, points, jacobian, depths)
        world, world_jacobian = self._world(points, jacobian, estimate)
        image_cost, image_scale = _huber(image, self._weights.huber)
        world_cost, world_scale = _huber(world, self._weights.huber)
        image_rows = (image_jacobian * image_scale[:, None, None]).reshape(42, -1)
        world_rows = (world_jacobian * world_scale[:, None, None]).reshape(63, -1)
        gradient = (world * world_scale[:, None]).ravel() @ world_rows
        curvature = world_rows.T @ world_rows
        gradient[:-4] += (image * image_scale[:, None]).ravel() @ image_rows
        curvature[:-4, :-4] += image_rows.T @ image_rows

        cost = image_cost + world_cost + self._add_priors(estimate, gradient, curvature)
        return Linearised(cost, gradient, curvature)

    def _world(self, points: FloatArray, jacobian: FloatArray, estimate: Estimate) -> tuple[FloatArray, FloatArray]:
        """Residuals (21, 3) of the centred shape against the world landmarks, and derivatives (21, 3, n)."""
        sigma = self._weights.world
        target = (np.exp(estimate.log_scale) / sigma) * (self._evidence.world @ estimate.turn.T)
        residual = (points - points.mean(axis=0)) / sigma - target
        full = np.empty((21, 3, jacobian.shape[2] + 4))
        full[..., :-4] = (jacobian - jacobian.mean(axis=0)) / sigma
        x, y, z = target.T
        full[..., -4:-1] = 0  # −(ω × target)
        full[:, 0, -3], full[:, 0, -2] = -z, y
        full[:, 1, -4], full[:, 1, -2] = z, -x
        full[:, 2, -4], full[:, 2, -3] = -y, x
        full[..., -1] = -target
        return residual, full

    def _add_priors(self, estimate: Estimate, gradient: FloatArray, curvature: FloatArray) -> float:
        prior, weights = self._prior, self._weights
        angles = estimate.posture.angles

        offset = np.concatenate([angles, estimate.posture.betas]) - prior.mean
        slope = prior.precision @ offset
        gradient[6:-4] += slope
        curvature[6:-4, 6:-4] += prior.precision
        cost = 0.5 * float(offset @ slope)

        cost += add_limits(angles, prior.lower, prior.upper, prior.limit_sigma, gradient, curvature)

        turn = small_log(estimate.turn) / weights.turn
        gradient[-4:-1] += turn / weights.turn
        n = len(gradient)
        tail = np.arange(n - 4, n - 1)
        curvature[tail, tail] += 1 / weights.turn**2
        gradient[-1] += estimate.log_scale / weights.scale**2
        curvature[-1, -1] += 1 / weights.scale**2
        return cost + 0.5 * (float(turn @ turn) + (estimate.log_scale / weights.scale) ** 2)


def _huber(residuals: FloatArray, limit: float) -> tuple[float, FloatArray]:
    """The robust cost of vector residuals (K, ·), and the factor (K,) that scales each and its derivatives."""
    norm = np.sqrt(np.einsum("ki,ki->k", residuals, residuals))
    inside = norm <= limit
    cost = np.where(inside, 0.5 * norm * norm, limit * (norm - 0.5 * limit)).sum()
    return float(cost), np.where(inside, 1.0, np.sqrt(limit / np.maximum(norm, limit)))
