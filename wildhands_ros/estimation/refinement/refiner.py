"""Moves a network's hand towards detected landmarks, and says how well the two agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.estimation.fitting.evidence import Evidence, gather
from wildhands_ros.estimation.fitting.freedom import NATURAL_ANGLES, full_kinematics
from wildhands_ros.estimation.fitting.kinematics import Kinematics, Posture
from wildhands_ros.estimation.fitting.minimise import minimise
from wildhands_ros.estimation.refinement.config import RefinementConfig
from wildhands_ros.estimation.refinement.objective import Objective
from wildhands_ros.hand_model import HandLayer, HandModel
from wildhands_ros.hands import Landmarks, Side

FloatArray = NDArray[np.float64]

_STAGES = ((3.0, 2), (1.0, 2))
"""How much wider outliers begin, and the most steps: at first all landmarks pull, then the near ones."""
_TOLERANCE = 0.1
_FEWEST = 8  # landmarks that must count; fewer say too little of a hand
_STIFF = math.radians(2)  # of angles that anatomy hardly leaves room for


@dataclass(frozen=True)
class Parameters:
    """A hand of the model: pose (16, 3, 3), betas (10,), translation (3,) metres, as a `Hand` has them."""

    pose: FloatArray
    betas: FloatArray
    translation: FloatArray


@dataclass(frozen=True)
class Agreement:
    """A hand beside its landmarks.

    parameters: the hand, moved where it was asked for. error: mean distance in pixels between the landmarks and where
    the hand has them. agrees: whether landmarks and the hand as it came can be of the same hand; True where the
    landmarks say nothing.
    """

    parameters: Parameters
    error: float
    agrees: bool


class Refiner:
    """Refines hands of one hand model. Each picture on its own; nothing is remembered.

    Raises ConfigError where the configuration makes no sense (from `RefinementConfig`).
    """

    def __init__(self, hand_model: HandModel, config: RefinementConfig | None = None) -> None:
        self.config = config or RefinementConfig()
        self._sides = {side: _Side(hand_model.layer(side), self.config) for side in Side}

    def compare(self, hand: Parameters, side: Side, landmarks: Landmarks, camera: Camera) -> Agreement | None:
        """How a hand agrees with landmarks in the pixels of this camera; None where they cannot be used."""
        return self._look(hand, side, landmarks, camera, move=False)

    def refine(self, hand: Parameters, side: Side, landmarks: Landmarks, camera: Camera) -> Agreement | None:
        """The same, after moving the hand towards the landmarks."""
        return self._look(hand, side, landmarks, camera, move=True)

    def landmarks(self, hand: Parameters, side: Side) -> FloatArray:
        """(21, 3) metres, camera frame: where the landmark network would see a hand's keypoints."""
        of_side = self._sides[side]
        return of_side.kinematics.landmarks(of_side.posture(hand))

    def _look(
        self, hand: Parameters, side: Side, landmarks: Landmarks, camera: Camera, *, move: bool
    ) -> Agreement | None:
        (evidence,) = gather([landmarks], camera)
        if isinstance(evidence, str):
            return None
        of_side = self._sides[side]
        start = of_side.posture(hand)
        weights = self._weights(evidence, landmarks.presence, camera)
        if np.count_nonzero(weights) < _FEWEST:
            distances = _distances(of_side.kinematics, start, evidence, camera)
            return Agreement(hand, float(np.mean(distances[evidence.seen > 0])), True)
        posture, strain = of_side.moved(start, evidence, weights)
        distances = _distances(of_side.kinematics, posture, evidence, camera)
        misses = float(np.median(distances[weights > 0])) / evidence.size
        agrees = misses <= self.config.largest_error and strain <= self.config.largest_strain
        if move:
            hand = of_side.parameters(posture)
        else:
            distances = _distances(of_side.kinematics, start, evidence, camera)
        return Agreement(hand, float(np.mean(distances[evidence.seen > 0])), agrees)

    def _weights(self, evidence: Evidence, presence: float, camera: Camera) -> FloatArray:
        """(21,) how much each landmark counts; those outside the picture are guesses and count nothing."""
        least = self.config.least_presence
        certain = min(max((presence - least) / (1 - least), 0.0), 1.0)
        u, v = evidence.pixels.T
        inside = (u > -0.5) & (v > -0.5) & (u < camera.width - 0.5) & (v < camera.height - 0.5)
        return certain * evidence.seen * inside


def _distances(kinematics: Kinematics, posture: Posture, evidence: Evidence, camera: Camera) -> FloatArray:
    """(21,) pixels between the landmarks and where the hand has them; NaN where no pixel sees that."""
    return np.asarray(np.linalg.norm(camera.project(kinematics.landmarks(posture)) - evidence.pixels, axis=1))


class _Side:
    """What refining one side's hands takes."""

    def __init__(self, layer: HandLayer, config: RefinementConfig) -> None:
        self._layer = layer
        self._config = config
        self.kinematics = full_kinematics(layer)
        natural = np.array([dof in NATURAL_ANGLES for dof in self.kinematics.dofs])
        self._bend = np.where(natural, math.radians(config.bend), _STIFF)
        self._lower, self._upper = np.moveaxis(layer.anatomy.limits.reshape(45, 2), -1, 0)

    def posture(self, hand: Parameters) -> Posture:
        angles = self._layer.anatomy.angles(self._layer.rotations_from_pose(hand.pose)[1:])
        rest = self.kinematics.root_template + self.kinematics.root_shapedirs @ hand.betas
        return Posture(hand.pose[0], hand.translation + rest, angles.ravel(), hand.betas)

    def parameters(self, posture: Posture) -> Parameters:
        kinematics = self.kinematics
        return Parameters(kinematics.mano_pose(posture), posture.betas, kinematics.translation(posture))

    def moved(self, start: Posture, evidence: Evidence, weights: FloatArray) -> tuple[Posture, float]:
        """The posture near the start that agrees best (the start itself where it is impossible), and its strain."""
        config = self._config
        distance = max(float(np.linalg.norm(start.wrist)), 1e-3)
        ray = start.wrist / distance
        across = np.cross(ray, np.eye(3)[np.argmin(np.abs(ray))])
        across /= np.linalg.norm(across)
        frame = np.stack([across, np.cross(ray, across), ray])
        per_radian = float(np.linalg.norm(evidence.across[weights > 0], axis=-1).mean())
        place = config.place * evidence.size / per_radian * distance
        sigmas = np.concatenate(
            [
                np.full(3, math.radians(config.turn)),
                (place, place, config.depth * distance),
                self._bend,
                np.full(len(start.betas), config.size),
            ]
        )
        # what the network says stays possible: limits only hold what the landmarks would bend further
        limits = np.minimum(self._lower, start.angles), np.maximum(self._upper, start.angles)
        objective = Objective(
            self.kinematics, start, sigmas**-2, frame, limits, evidence, weights, config.pixels * evidence.size,
            config.outlier,
        )  # fmt: skip
        posture = start
        for wider, steps in _STAGES:
            objective = objective.narrowed(wider * config.outlier)
            posture, _ = minimise(objective, posture, max_steps=steps, tolerance=_TOLERANCE)
        return posture, objective.strain(posture)
