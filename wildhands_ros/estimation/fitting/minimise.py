"""Levenberg–Marquardt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.fitting.terms import Linearised

_SMALLEST_DAMPING = 1e-5


class _Movable(Protocol):
    def moved(self: _T, step: NDArray[np.float64]) -> _T: ...


_T = TypeVar("_T", bound=_Movable)


def minimise(objective: Callable[[_T], Linearised], start: _T, *, max_steps: int, tolerance: float) -> tuple[_T, float]:
    """The estimate near `start` with the smallest cost, and that cost (infinite if `start` is impossible).

    max_steps: evaluations of the objective after the first. tolerance: stops when a step is expected to improve, or
    has improved, the cost by less than this; the cost is in squared standard deviations, so that 1e-3 is nothing.
    Damping scales the diagonal (Marquardt 1963), so that units do not matter, and grows faster with every failure in a
    row (Nielsen 1999).
    """
    estimate, here = start, objective(start)
    if not np.isfinite(here.cost):
        return start, np.inf
    damping, factor = 1e-3, 10.0
    for _ in range(max_steps):
        damped = here.curvature.copy()
        diagonal = np.einsum("ii->i", damped)
        diagonal *= 1 + damping
        step = np.linalg.solve(damped, -here.gradient)
        expected = -0.5 * float(here.gradient @ step)
        if expected < tolerance:
            break
        candidate = estimate.moved(step)
        there = objective(candidate)
        gain = here.cost - there.cost
        if gain > 0:
            estimate, here = candidate, there
            damping, factor = max(damping / 5, _SMALLEST_DAMPING), 10.0
            if gain < tolerance:
                break
        else:
            damping, factor = damping * factor, 2 * factor
    return estimate, here.cost
