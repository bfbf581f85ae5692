"""Finds joint angles at which given places of a hand's skin meet each other, a given distance apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.rendered.spheres import FIRST_ROW, THUMB, BallHand, _forward
from wildhands_ros.rendered.vectors import cross

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Residuals are divided by these, so that they compare: a gap, how skins face each other, and how far angles may stray
_GAP_SPREAD = 0.0005
_FACING_SPREAD = 0.35
_MAX_STEPS = 20
_DONE = 0.0004


@dataclass(frozen=True)
class Touch:
    """Two balls of a hand whose skins shall meet (gap metres between them), each facing the other with its direction,
    (3,) unit vectors in rest-pose coordinates, carried along by the balls' joints."""

    ball: int
    facing: FloatArray
    other_ball: int
    other_facing: FloatArray
    gap: float = 0.0


def pad_facing(hand: BallHand, digit: int, towards_tip: float) -> FloatArray:
    """Outward direction (3,) of the skin of a finger's end: 0 the middle of the pad, π/2 the very tip; radians."""
    row = FIRST_ROW[digit] + 2
    palmar, bone = -hand.axes[row, 1], _bone(hand, row)
    return np.asarray(np.cos(towards_tip) * palmar + np.sin(towards_tip) * bone)


def side_facing(hand: BallHand, digit: int, segment: int, thumb_side: bool) -> FloatArray:
    """Outward direction (3,) of the side of a finger's segment."""
    return np.asarray(hand.axes[FIRST_ROW[digit] + segment, 0] * (1 if thumb_side else -1))


def _bone(hand: BallHand, row: int) -> FloatArray:
    return cross(hand.axes[row, 0], hand.axes[row, 1])


def digit_freedoms(digits: Sequence[int], end_per_middle: float = 0.6) -> tuple[FloatArray, FloatArray]:
    """Which angles may change: (45, K) directions and their usual spreads (K,) in radians.

    The thumb's base moves freely, its knuckle and end bend; a finger's base bends and spreads, its middle joint bends
    and its end by `end_per_middle` as much (they share a tendon).
    """
    columns, spreads = [], []
    for digit in digits:
        row = FIRST_ROW[digit]
        if digit == THUMB:
            moves = [({(row, 0): 1.0}, 0.3), ({(row, 1): 1.0}, 0.3), ({(row, 2): 1.0}, 0.2),
                     ({(row + 1, 0): 1.0}, 0.3), ({(row + 2, 0): 1.0}, 0.3)]  # fmt: skip
        else:
            moves = [({(row, 0): 1.0}, 0.3), ({(row, 1): 1.0}, 0.1),
                     ({(row + 1, 0): 1.0, (row + 2, 0): end_per_middle}, 0.3)]  # fmt: skip
        for entries, spread in moves:
            column = np.zeros((15, 3))
            for place, value in entries.items():
                column[place] = value
            columns.append(column.ravel())
            spreads.append(spread)
    return np.stack(columns, axis=1), np.array(spreads)


def solve_touches(
    hand: BallHand, angles: FloatArray, touches: Sequence[Touch], freedoms: tuple[FloatArray, FloatArray],
    limits: FloatArray,
) -> tuple[FloatArray, float]:  # fmt: skip
    """Angles (15, 3) near the given ones at which the touches hold, and the largest gap error left (metres).

    Levenberg–Marquardt with numerical derivatives over `freedoms` (`digit_freedoms`); limits (15, 3, 2) hold.
    """
    directions, spreads = freedoms
    solved, error = _solve(
        np.ascontiguousarray(angles), directions, spreads, limits,
        np.array([[t.ball, t.other_ball] for t in touches]),
        np.array([[t.facing, t.other_facing] for t in touches]),
        np.array([t.gap for t in touches]),
        hand.axes, hand.joints, hand.joint, hand.offset, hand.radius,
    )  # fmt: skip
    return solved, float(error)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _residuals(
    angles: FloatArray, x: FloatArray, spreads: FloatArray, balls: IntArray, facings: FloatArray, gaps: FloatArray,
    axes: FloatArray, joints: FloatArray, joint: IntArray, offset: FloatArray, radius: FloatArray, out: FloatArray,
) -> float:  # fmt: skip
    turned, placed = _forward(angles, axes, joints)
    worst = 0.0
    for p in range(len(balls)):
        a, b = balls[p, 0], balls[p, 1]
        ja, jb = joint[a], joint[b]
        gap_vector = (placed[jb] + turned[jb] @ offset[b]) - (placed[ja] + turned[ja] @ offset[a])
        distance = np.sqrt(np.sum(gap_vector**2)) + 1e-9
        error = distance - radius[a] - radius[b] - gaps[p]
        worst = max(worst, abs(error))
        out[7 * p] = error / _GAP_SPREAD
        out[7 * p + 1 : 7 * p + 4] = (turned[ja] @ facings[p, 0] - gap_vector / distance) / _FACING_SPREAD
        out[7 * p + 4 : 7 * p + 7] = (turned[jb] @ facings[p, 1] + gap_vector / distance) / _FACING_SPREAD
    out[7 * len(balls) :] = x / spreads
    return worst


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _posed(start: FloatArray, directions: FloatArray, x: FloatArray, limits: FloatArray) -> FloatArray:
    flat = start.copy().reshape(45)
    low, high = limits.copy().reshape(45, 2)[:, 0], limits.copy().reshape(45, 2)[:, 1]
    for i in range(45):
        for k in range(len(x)):
            flat[i] += directions[i, k] * x[k]
        flat[i] = min(max(flat[i], low[i]), high[i])
    return flat.reshape(15, 3)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _solve(
    start: FloatArray, directions: FloatArray, spreads: FloatArray, limits: FloatArray, balls: IntArray,
    facings: FloatArray, gaps: FloatArray, axes: FloatArray, joints: FloatArray, joint: IntArray, offset: FloatArray,
    radius: FloatArray,
) -> tuple[FloatArray, float]:  # fmt: skip
    count, rows = len(spreads), 7 * len(balls) + len(spreads)
    x = np.zeros(count)
    angles = _posed(start, directions, x, limits)
    r, trial, column = np.empty(rows), np.empty(rows), np.empty(rows)
    jacobian = np.empty((rows, count))
    worst = _residuals(angles, x, spreads, balls, facings, gaps, axes, joints, joint, offset, radius, r)
    damping = 0.1
    for _ in range(_MAX_STEPS):
        for k in range(count):
            x[k] += 1e-5
            moved = _posed(start, directions, x, limits)
            _residuals(moved, x, spreads, balls, facings, gaps, axes, joints, joint, offset, radius, column)
            x[k] -= 1e-5
            jacobian[:, k] = (column - r) / 1e-5
        normal = jacobian.T @ jacobian
        gradient = jacobian.T @ r
        for k in range(count):
            normal[k, k] *= 1 + damping
        step = np.linalg.solve(normal, -gradient)
        tried = x + step
        moved = _posed(start, directions, tried, limits)
        tried_worst = _residuals(
            moved, tried, spreads, balls, facings, gaps, axes, joints, joint, offset, radius, trial
        )
        before, after = np.sum(r * r), np.sum(trial * trial)
        if after < before:
            x, angles, worst = tried, moved, tried_worst
            r[:] = trial
            damping = max(damping / 5, 1e-4)
            if before - after < 1e-3 * before and worst < _DONE:
                break
        else:
            damping *= 5
            if damping > 1e4:
                break
    return angles, worst
