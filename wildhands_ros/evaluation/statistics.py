"""Means with confidence intervals, over all samples and over groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.evaluation.facts import UNKNOWN, group_order
from wildhands_ros.evaluation.sample_scores import SampleScores

FloatArray = NDArray[np.float64]

_RESAMPLES = 1000
_BLOCK = 1 << 18  # scenes drawn at a time, so that they fit a processor's cache
_COVERAGE = 95.0  # per cent


@dataclass(frozen=True)
class Estimate:
    """mean of `count` values, their median, and the interval low … high that holds the mean with 95 % confidence.

    The interval is NaN where fewer than two scenes were measured.
    """

    mean: float
    median: float
    low: float
    high: float
    count: int


def estimate_mean(values: FloatArray, scenes: Sequence[str], *, seed: int = 0) -> Estimate:
    """Mean of the finite values (N,), with the percentile bootstrap's interval (Efron and Tibshirani 1993, ch. 13).

    scenes: (N) whole scenes are drawn, since two hands of one picture are not independent. seed: of the drawing.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return Estimate(*(float("nan"),) * 4, count=0)
    chosen = values[finite]
    _, scene = np.unique(np.asarray(scenes)[finite], return_inverse=True)
    mean, median = float(chosen.mean()), float(np.median(chosen))
    counts = np.bincount(scene)
    if len(counts) < 2:
        return Estimate(mean, median, float("nan"), float("nan"), len(chosen))
    sums = np.bincount(scene, weights=chosen)
    rng = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < _RESAMPLES:
        rows = min(max(_BLOCK // len(counts), 1), _RESAMPLES - len(means))
        draws = rng.integers(0, len(counts), (rows, len(counts)))
        means += (sums[draws].sum(axis=1) / counts[draws].sum(axis=1)).tolist()
    low, high = np.percentile(means, [50 - _COVERAGE / 2, 50 + _COVERAGE / 2])
    return Estimate(mean, median, float(low), float(high), len(chosen))


def by_group(scores: SampleScores, measure: str, breakdown: str) -> dict[str, Estimate]:
    """The measure in each group of a breakdown (`SampleScores.groups`), in the groups' order; unknown ones left out."""
    groups = np.array(scores.groups[breakdown])
    result = {}
    for group in group_order([g for g in scores.groups[breakdown] if g != UNKNOWN]):
        chosen = groups == group
        found = estimate_mean(scores.values[measure][chosen], [scores.scenes[i] for i in np.flatnonzero(chosen)])
        if found.count:
            result[group] = found
    return result


def overall(scores: SampleScores) -> dict[str, Estimate]:
    """Every measure over all samples; those without any value left out."""
    every = {name: estimate_mean(values, scores.scenes) for name, values in scores.values.items()}
    return {name: found for name, found in every.items() if found.count}
