"""The One-Euro filter (Casiez, Roussel and Vogel, CHI 2012): steady when still, quick when moving."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import ConfigError
from wildhands_ros.rotations import exp_so3, log_so3

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class OneEuroConfig:
    """min_cutoff: Hz, lower is steadier at rest. beta: Hz per unit of speed, higher lags less in motion.

    derivative_cutoff: Hz, smooths the speed estimate.
    """

    min_cutoff: float = 1.5
    beta: float = 6.0
    derivative_cutoff: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.min_cutoff < math.inf and 0 <= self.beta < math.inf and 0 < self.derivative_cutoff < math.inf):
            raise ConfigError(
                "One-Euro: min_cutoff and derivative_cutoff must be positive and beta not negative, and none infinite "
                "(to filter nothing, leave smooth false)"
            )


def smoothing_factor(cutoff: float, dt: float) -> float:
    """Weight of the new sample in a first-order low-pass of `cutoff` Hz after `dt` seconds, 0 to 1."""
    r = 2 * math.pi * cutoff * dt
    return 1 - 1 / (r + 1)


class OneEuro:
    """Filters vectors. One cutoff for the whole vector, from the length of its velocity, so that it keeps its shape."""

    def __init__(self, config: OneEuroConfig) -> None:
        self._config = config
        self._value: FloatArray | None = None
        self._velocity = np.zeros(1)
        self._stamp_ns = 0
        self._first_ns = 0

    def __call__(self, value: FloatArray, stamp_ns: int) -> FloatArray:
        """The filtered value at this time.

        The first value passes unchanged, and so does an earlier one, with which it begins anew. For the same time as
        before there is the same value as before.
        """
        dt = (stamp_ns - self._stamp_ns) * 1e-9
        if self._value is not None and dt == 0 and stamp_ns > self._first_ns:
            return self._value.copy()
        if self._value is None or dt <= 0:
            self._value, self._velocity = value.copy(), np.zeros_like(value)
            self._stamp_ns = self._first_ns = stamp_ns
            return value
        a = smoothing_factor(self._config.derivative_cutoff, dt)
        self._velocity = self._velocity + a * ((value - self._value) / dt - self._velocity)
        cutoff = self._config.min_cutoff + self._config.beta * float(np.linalg.norm(self._velocity))
        self._value = self._value + smoothing_factor(cutoff, dt) * (value - self._value)
        self._stamp_ns = stamp_ns
        return self._value.copy()


class PlaceOneEuro:
    """Filters a place seen from the origin: the direction in which it lies and, steadier, how far away it is.

    One camera knows the direction many times better than the distance, whose noise would otherwise count as speed and
    open the filter for both. Speeds are radians per second, and shares of the distance per second.
    """

    _CALMER = 3.0
    """How much less the distance's filter opens with speed."""

    def __init__(self, config: OneEuroConfig) -> None:
        self._direction = OneEuro(config)
        self._distance = OneEuro(replace(config, beta=config.beta / self._CALMER))

    def __call__(self, place: FloatArray, stamp_ns: int) -> FloatArray:
        """The filtered place (3,) at this time; the first passes unchanged, see `OneEuro`."""
        distance = max(float(np.linalg.norm(place)), 1e-6)
        direction = self._direction(place / distance, stamp_ns)
        direction /= max(float(np.linalg.norm(direction)), 1e-6)
        return direction * math.exp(self._distance(np.array([math.log(distance)]), stamp_ns)[0])


class RotationOneEuro:
    """Filters rotations (N, 3, 3), each on its own, along the shortest way; speeds are in radians per second."""

    def __init__(self, config: OneEuroConfig) -> None:
        self._config = config
        self._value: FloatArray | None = None
        self._velocity = np.zeros((0, 3))
        self._stamp_ns = 0
        self._first_ns = 0

    def __call__(self, value: FloatArray, stamp_ns: int) -> FloatArray:
        """The filtered rotations at this time; the first pass unchanged, see `OneEuro`."""
        dt = (stamp_ns - self._stamp_ns) * 1e-9
        if self._value is not None and dt == 0 and stamp_ns > self._first_ns:
            return self._value.copy()
        if self._value is None or dt <= 0:
            self._value, self._velocity = value.copy(), np.zeros(value.shape[:-1])
            self._stamp_ns = self._first_ns = stamp_ns
            return value
        step = log_so3(np.swapaxes(self._value, -1, -2) @ value)
        a = smoothing_factor(self._config.derivative_cutoff, dt)
        self._velocity = self._velocity + a * (step / dt - self._velocity)
        cutoffs = self._config.min_cutoff + self._config.beta * np.linalg.norm(self._velocity, axis=-1)
        weights = np.array([smoothing_factor(c, dt) for c in np.atleast_1d(cutoffs)]).reshape(cutoffs.shape)
        self._value = self._value @ exp_so3(weights[..., None] * step)
        self._stamp_ns = stamp_ns
        return self._value.copy()
