"""How wrong a hand is likely to be, by how sure its network is of it.

Where a network does not know what it sees, its heat maps spread, and the hand that its heads make of them does not lie
where they point. Both come for nothing, and together they tell bad hands from good ones better than detected landmarks
do (docs/open_network.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from wildhands_ros.errors import ModelFileError

FloatArray = NDArray[np.float64]

FEWEST = 100
"""Hands of known error from which a law can be learned."""

_PAIRS = np.triu_indices(21, 1)
_LEAST = 1e-3  # half crops; nothing is surer than that


@dataclass(frozen=True)
class ExpectedErrors:
    """A power law: error = scale · spread^of_spread · disagreement^of_disagreement, in metres.

    The error is the mean distance of the joints from where they are, with the wrists on top of each other (MPJPE) in
    the middle: half of the hands that look so are better. scale: metres. Exponents are not negative.
    Raises ModelFileError for other numbers.
    """

    scale: float
    of_spread: float
    of_disagreement: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) not in (int, float) or not 0 <= value < 1e3:
                raise ModelFileError(f"expected errors: {field.name} must be a number from 0 to 1000, not {value!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, float] | None) -> ExpectedErrors | None:
        """The inverse of `dataclasses.asdict`, and None of None."""
        return None if values is None else cls(**values)

    @classmethod
    def learned(cls, spreads: FloatArray, disagreements: FloatArray, errors: FloatArray) -> ExpectedErrors | None:
        """The law that fits hands of known error best, in its logarithm; None for fewer than `FEWEST` of them, and
        where they differ too little to teach one.

        spreads, disagreements: (N,), see `__call__`. errors: (N,) metres; hands with NaN are left out.
        """
        known = np.isfinite(spreads) & np.isfinite(disagreements) & np.isfinite(errors) & (errors > 0)
        if np.count_nonzero(known) < FEWEST:
            return None
        causes, effect = _logarithms(spreads[known], disagreements[known]), np.log(errors[known])
        # the constant is whatever goes through the means, of either sign; the exponents must not be negative
        exponents, _ = nnls(causes - causes.mean(axis=0), effect - effect.mean())
        constant = float(effect.mean() - causes.mean(axis=0) @ exponents)
        try:
            return cls(math.exp(constant), float(exponents[0]), float(exponents[1]))
        except (ModelFileError, OverflowError):  # off noise alone exponents are of any size, also an impossible one
            return None

    def __call__(self, spreads: FloatArray, disagreements: FloatArray) -> FloatArray:
        """Metres, (N,). spreads: mean standard deviation of a hand's heat maps, in half crops. disagreements: see
        `disagreement`."""
        exponents = np.array([self.of_spread, self.of_disagreement])
        return np.asarray(self.scale * np.exp(_logarithms(spreads, disagreements) @ exponents))


def disagreement(keypoints: FloatArray, joints: FloatArray) -> FloatArray:
    """How differently a hand lies in the picture from where its heat maps have it: (N,), in half crops.

    keypoints, joints: (N, 21, 2), off the heat maps and of the posed hand, both in half crops from anywhere. It is the
    mean difference of the distances between any two of them, which is the same for a crop that was turned or mirrored.
    """
    return np.asarray(np.abs(_distances(keypoints) - _distances(joints)).mean(axis=-1))


def _distances(points: FloatArray) -> FloatArray:
    first, second = _PAIRS
    return np.asarray(np.linalg.norm(points[..., first, :] - points[..., second, :], axis=-1))


def _logarithms(spreads: FloatArray, disagreements: FloatArray) -> FloatArray:
    return np.log(np.maximum(np.stack([spreads, disagreements], axis=-1), _LEAST))
