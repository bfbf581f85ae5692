"""Where the fit starts when nothing is known from an earlier picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.fitting.evidence import Evidence
from wildhands_ros.estimation.fitting.kinematics import Kinematics, Posture
from wildhands_ros.estimation.fitting.terms import Prior
from wildhands_ros.estimation.landmark_fit.objective import Estimate
from wildhands_ros.hands import SKELETON
from wildhands_ros.rotations import nearest_rotation

FloatArray = NDArray[np.float64]

_PALM = [0, 1, 5, 9, 13, 17]  # keypoints that move little against each other
_USUAL_DISTANCE = 0.4  # metres, of a wearer's hand; only where the picture gives no answer


def of_model_size(evidence: Evidence, kinematics: Kinematics, prior: Prior) -> Evidence:
    """The evidence with its world landmarks scaled so that their bones are, in sum, as long as the model's.

    The landmark network's own metres are a guess from one picture, like ours; only the shape is kept.
    """
    parents, children = np.array(SKELETON).T
    model = kinematics.rest_landmarks(prior.mean[len(kinematics.dofs) :])
    ours = np.linalg.norm(model[children] - model[parents], axis=1).sum()
    theirs = np.linalg.norm(evidence.world[children] - evidence.world[parents], axis=1).sum()
    return replace(evidence, world=evidence.world * (ours / theirs))


def first_estimate(kinematics: Kinematics, prior: Prior, evidence: Evidence) -> Estimate:
    """A hand of the prior's shape: turned like the world landmarks' palm, fingers bent like theirs, and placed where
    the picture's rays want it."""
    d = len(kinematics.dofs)
    betas = prior.mean[d:]
    orientation = _rotation_between(kinematics.rest_landmarks(betas)[_PALM], evidence.world[_PALM])
    angles = np.clip(kinematics.bent_like(evidence.world, orientation), prior.lower, prior.upper)
    posture = Posture(orientation, np.zeros(3), angles, betas)
    posture = replace(posture, wrist=place(kinematics.landmarks(posture), evidence))
    return Estimate(posture, np.eye(3), 0.0)


def moved_into_view(last: Estimate, kinematics: Kinematics, evidence: Evidence) -> Estimate:
    """An earlier picture's hand, shifted to where this picture wants it."""
    centred = replace(last.posture, wrist=np.zeros(3))
    return replace(last, posture=replace(centred, wrist=place(kinematics.landmarks(centred), evidence)))


def place(points: FloatArray, evidence: Evidence) -> FloatArray:
    """The shift (3,) that brings points (21, 3), of known orientation and size, onto the evidence's rays.

    Perspective-n-point with known rotation is linear: the part of point + shift across its ray is zero. Weighted by
    the inverse of the depths of the first solution, the second minimises angles instead of distances.
    """
    weights = np.ones(21)
    shift = np.array([0.0, 0.0, _USUAL_DISTANCE])
    for _ in range(2):
        weighted = evidence.across * weights[:, None, None]
        a = weighted.reshape(42, 3)
        b = -np.matmul(weighted, points[..., None]).reshape(42)
        shift = np.linalg.solve(a.T @ a, a.T @ b)
        depths = np.einsum("ki,ki->k", evidence.rays, points + shift)
        if not np.all(depths[evidence.seen > 0] > 0.01):
            center = evidence.rays[evidence.seen > 0].mean(axis=0)
            return _USUAL_DISTANCE * center / np.linalg.norm(center) - points.mean(axis=0)
        weights = 1 / np.maximum(depths, 0.01)
    return shift


def _rotation_between(source: FloatArray, target: FloatArray) -> FloatArray:
    """The rotation (3, 3) that turns centred source points onto centred target points best."""
    return nearest_rotation((target - target.mean(axis=0)).T @ (source - source.mean(axis=0)))
