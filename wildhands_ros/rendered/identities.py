"""Whose hand: shape coefficients of the open hand, spread as hands of people are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# One unit of the open hand's first coefficient makes the hand 5.70 % longer; the others change its length by less than
# 0.2 %. Adult hand lengths, women and men together, spread by 6 to 7 % (Pheasant & Haslegrave, "Bodyspace", 2005).
_SIZE_PER_UNIT = 0.057
_ADULTS_SPREAD = 0.06
_SIZE_LIMITS = (0.70, 1.22)
_CHILDREN = 0.06  # part of all hands
_CHILDREN_SIZE = (0.72, 0.92)
_OTHER_SPREAD = 0.8
_OTHER_LIMIT = 2.0


def sample_identity(rng: np.random.Generator, spread: float = 1.0) -> FloatArray:
    """Betas (10,) of a random person's hand, for the open hand.

    Mostly adults, whose hand lengths are about 189 mm (from the wrist's joint to the tip of the middle finger) with a
    standard deviation of 6 %; a few children, down to 72 % of that. spread: 0 gives the average hand, 1 everyday
    variety.
    """
    size = 1 + _ADULTS_SPREAD * rng.standard_normal()
    if rng.random() < _CHILDREN:
        size = rng.uniform(*_CHILDREN_SIZE)
    size = 1 + spread * (float(np.clip(size, *_SIZE_LIMITS)) - 1)
    others = np.clip(_OTHER_SPREAD * rng.standard_normal(9), -_OTHER_LIMIT, _OTHER_LIMIT)
    return np.concatenate([[(size - 1) / _SIZE_PER_UNIT], spread * others])
