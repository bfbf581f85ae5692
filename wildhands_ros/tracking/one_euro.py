"""The One-Euro filter (Casiez, Roussel and Vogel, CHI 2012): steady when still, quick when moving."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import ConfigError
from wildhands_ros.rotations import exp_so3, log_so3

FloatArray = NDArray[np.float64]
_Number = TypeVar("_Number", float, FloatArray)


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


def smoothing_factor(cutoff: _Number, dt: float) -> _Number:
    """Weight of the new sample in a first-order low-pass of `cutoff` Hz after `dt` seconds, 0 to 1."""
    r = 2 * math.pi * cutoff * dt
    return 1 - 1 / (r + 1)


class _Clock:
    """The times of one filter's values."""

    def __init__(self) -> None:
        self._first_ns: int | None = None
        self._last_ns = 0

    def step(self, stamp_ns: int) -> float | None:
        """Seconds since the last value, 0 for the same time again; None for a value with which the filter begins.

        It begins with the first one, anew with an earlier one, and with every one until time moves on.
        """
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if self._first_ns is None or stamp_ns < last_ns or stamp_ns == self._first_ns:
            self._first_ns = stamp_ns
            return None
        return (stamp_ns - last_ns) * 1e-9


class OneEuro:
    """Filters vectors. One cutoff for the whole vector, from the length of its velocity, so that it keeps its shape."""

    def __init__(self, config: OneEuroConfig) -> None:
        self._config = config
        self._clock = _Clock()
        self._value = self._velocity = np.zeros(1)

    def __call__(self, value: FloatArray, stamp_ns: int) -> FloatArray:
        """The filtered value at this time.

        The first value passes unchanged, and so does an earlier one, with which it begins anew. For the same time as
        before there is the same value as before.
        """
        dt = self._clock.step(stamp_ns)
        if dt is None:
            self._value, self._velocity = value.copy(), np.zeros_like(value)
            return value
        if dt == 0:
            return self._value.copy()
        a = smoothing_factor(self._config.derivative_cutoff, dt)
        self._velocity = self._velocity + a * ((value - self._value) / dt - self._velocity)
        cutoff = self._config.min_cutoff + self._config.beta * float(np.linalg.norm(self._velocity))
        self._value = self._value + smoothing_factor(cutoff, dt) * (value - self._value)
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
        self._clock = _Clock()
        self._value, self._velocity = np.zeros((0, 3, 3)), np.zeros((0, 3))

    def __call__(self, value: FloatArray, stamp_ns: int) -> FloatArray:
        """The filtered rotations at this time; the first pass unchanged, see `OneEuro`."""
        dt = self._clock.step(stamp_ns)
        if dt is None:
            self._value, self._velocity = value.copy(), np.zeros(value.shape[:-1])
            return value
        if dt == 0:
            return self._value.copy()
        step = log_so3(np.swapaxes(self._value, -1, -2) @ value)
        a = smoothing_factor(self._config.derivative_cutoff, dt)
        self._velocity = self._velocity + a * (step / dt - self._velocity)
        cutoffs = self._config.min_cutoff + self._config.beta * np.linalg.norm(self._velocity, axis=-1, keepdims=True)
        self._value = self._value @ exp_so3(smoothing_factor(cutoffs, dt) * step)
        return self._value.copy()
