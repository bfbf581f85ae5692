"""Dark and flat pictures, made as bright as those that the networks learned from."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

_LOW, _HIGH = 0.01, 0.99  # quantiles of the values, which become nearly black and nearly white: _BLACK and _WHITE
_BLACK, _WHITE = 5.0, 240.0
# Grey levels between both quantiles: from _WIDE on a picture stays as it is, up to _FLAT it is stretched in full, and
# between them in part, so that nothing jumps in a stream.
_WIDE, _FLAT = 150.0, 75.0
_LEAST = 6.0  # grey levels: less is the noise of a covered lens
_VALUES = 30_000  # about so many of the picture's are sampled


def well_exposed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: the picture itself, or a stretched copy where its values fill only a part of the scale.

    All colours are stretched alike. What a picture becomes depends on nothing but itself.
    """
    step = max(math.isqrt(image.size // _VALUES), 1)
    shares = np.cumsum(np.bincount(image[::step, ::step].ravel(), minlength=256))
    low, high = (float(np.searchsorted(shares, share * shares[-1])) for share in (_LOW, _HIGH))
    amount = min(max((_WIDE - (high - low)) / (_WIDE - _FLAT), 0.0), 1.0)
    if amount == 0:
        return image
    values = np.arange(256.0)
    full = _BLACK + (values - low) * ((_WHITE - _BLACK) / max(high - low, _LEAST))
    table = np.clip(values + amount * (full - values), 0, 255).round().astype(np.uint8)
    return np.asarray(cv2.LUT(image, table), np.uint8)
