"""How long a person's hand is: a picture hardly tells, and distances follow from it where somebody measured it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.estimator import Estimates, Estimator, SideJudge
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandLayer, HandModel
from wildhands_ros.hands import FINGERS, Hand, HandBox, Side

FloatArray = NDArray[np.float64]

SHORTEST, LONGEST = 0.08, 0.3
"""Metres between which a hand's length must lie: with room to spare, a small child's and the longest on record."""

_CHAIN = [0, *FINGERS["middle"]]
_STEPS = 4  # of Newton's method: after three, the open hand is right to 1e-14 m


def hand_length(joints: FloatArray) -> FloatArray:
    """From the wrist along the middle finger to its tip, metres, (...,) of joints (..., 21, 3).

    The sum of the bones, so a bent finger is as long as a straight one. Anthropometry's "hand length", from the crease
    of the wrist to the tip of the middle finger of a flat hand, as nearly as joints have it.
    """
    return np.asarray(np.linalg.norm(np.diff(joints[..., _CHAIN, :], axis=-2), axis=-1).sum(axis=-1))


def betas_of_length(layer: HandLayer, betas: FloatArray, length: float) -> FloatArray:
    """The betas (10,) nearest to the given ones with which a hand is `length` metres long (Newton's method)."""
    betas = betas.copy()
    shapes = np.diff(layer.joint_shapedirs[_CHAIN], axis=0)  # of each bone (4, 3, 10)
    for _ in range(_STEPS):
        bones = np.diff(layer.rest_joints(betas)[_CHAIN], axis=0)
        lengths = np.linalg.norm(bones, axis=1)
        gradient = np.einsum("bi,bik->k", bones / lengths[:, None].clip(1e-9), shapes)
        betas += gradient * (length - lengths.sum()) / max(float(gradient @ gradient), 1e-12)
    return betas


def resized(hand: Hand, length: float, estimator: Estimator, camera: Camera) -> Hand:
    """The same hand in the picture, of another length: farther away by as much as it is longer.

    Everything is scaled about the camera's centre, which changes no pixel, and the shape coefficients are the nearest
    that make such a hand; as they know no plain scaling, a tenth of the length moves the mesh by 0.8 mm on average.
    estimator: whose hand it is, and who says how far away a valid one may be; one that was not valid before does not
    become so. Hands that cannot be scaled (not finite) are returned as they are.
    """
    layer = estimator.hand_model.layer(hand.side)
    betas = betas_of_length(layer, hand.betas, length)
    before, after = (hand_length(layer.rest_joints(shape)) for shape in (hand.betas, betas))
    wrist = hand.joints[0] * (after / before)
    if not (np.isfinite(betas).all() and np.isfinite(wrist).all()):
        return hand
    vertices, joints = estimator.pose_hand(hand.side, hand.pose, betas, np.zeros(3))
    translation = wrist - joints[0]
    joints = joints + translation
    return replace(
        hand,
        joints=joints,
        keypoints=camera.project(joints),
        betas=betas,
        translation=translation,
        vertices=None if hand.vertices is None else vertices + translation,
        valid=hand.valid and estimator.within_reach(joints),
    )


def of_length(estimator: Estimator, length: float) -> Estimator:
    """The estimator with hands of that length instead of whatever they were before; 0: of the length that it sees."""
    plain = estimator.inner if isinstance(estimator, KnownLength) else estimator
    return KnownLength(plain, length) if length else plain


class KnownLength:
    """An estimator whose hands are all of one known length, and lie as far away as hands of that length must.

    length: metres, see `hand_length`. inner: the estimator whose hands they are. Raises ConfigError for what no hand's
    length is.
    """

    def __init__(self, estimator: Estimator, length: float) -> None:
        require_length(length)
        self.length = length
        self.inner = estimator

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def hand_model(self) -> HandModel:
        return self.inner.hand_model

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        """The inner estimator's hands, resized."""
        found = self.inner.estimate(frame, boxes)
        hands = tuple(resized(hand, self.length, self.inner, frame.camera) for hand in found.hands)
        return Estimates(hands, found.skipped)

    def pose_hand(
        self, side: Side, pose: FloatArray, betas: FloatArray, translation: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """As the inner estimator poses its hands."""
        return self.inner.pose_hand(side, pose, betas, translation)

    def within_reach(self, joints: FloatArray) -> bool:
        """As the inner estimator sees it."""
        return self.inner.within_reach(joints)

    def side_log_odds(self, frame: Frame, boxes: Sequence[HandBox]) -> list[float]:
        """As the inner estimator sees it; 0 where it is no `SideJudge`."""
        return self.inner.side_log_odds(frame, boxes) if isinstance(self.inner, SideJudge) else [0.0] * len(boxes)

    def trust_up_to(self, largest_expected_error: float) -> None:
        """Passed on to the inner estimator."""
        self.inner.trust_up_to(largest_expected_error)

    def reset(self) -> None:
        """A new stream begins."""
        self.inner.reset()


def require_length(length: float) -> None:
    """Raises ConfigError for a number that is no hand's length in metres."""
    if not _possible(length):
        units = [(100, "centimetres"), (1000, "millimetres")]
        hint = [f" (given in {unit}? in metres {length / by:g})" for by, unit in units if _possible(length / by)]
        raise ConfigError(
            f"hand_length is the length of the person's hand in metres, from the crease of the wrist to the tip of the "
            f"middle finger, {SHORTEST} to {LONGEST}, or 0 where nobody knows it; not {length:g}{''.join(hint)}"
        )


def _possible(length: float) -> bool:
    return SHORTEST <= length <= LONGEST
