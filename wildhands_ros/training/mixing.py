"""Sources put together, drawn from in an order that depends on nothing but the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from wildhands_ros.errors import ConfigError
from wildhands_ros.training.batch import collate
from wildhands_ros.training.cache import CachedDataset
from wildhands_ros.training.dataset import Drawn, SampleDataset

_PERIOD = 1000


class MixedDataset(Dataset[Drawn]):
    """Several sources one after the other; items are asked for by lists of indices."""

    def __init__(self, parts: Sequence[SampleDataset | CachedDataset]) -> None:
        self.parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, indices: list[int]) -> Drawn:
        asked = np.asarray(indices)
        which = np.searchsorted(self._starts, asked, side="right") - 1
        drawn = [
            part.take((asked[which == k] - self._starts[k]).tolist())
            for k, part in enumerate(self.parts)
            if (which == k).any()
        ]
        maps = [d.maps for d in drawn]
        known = [m for m in maps if m is not None]
        return Drawn(collate([d.batch for d in drawn]), torch.cat(known) if len(known) == len(maps) else None)


class MixingSampler(Sampler[list[int]]):
    """Batches of indices into a `MixedDataset`, each source by its weight, each of its samples equally often.

    Batch k depends on the seed and on k alone, so that an interrupted run goes on with the batches that it would have
    had. first: the step to begin with. share: (rank, count) where several processes share every batch.
    """

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], batch: int, steps: int, seed: int, first: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        if not lengths or min(lengths) < 1:
            which = f"source {np.argmin(lengths) + 1}" if lengths else "a source"
            raise ConfigError(f"{which} holds no samples: render some, or take it out of the configuration")
        self._lengths, self._batch, self._steps, self._seed, self._first = list(lengths), batch, steps, seed, first
        # which source each position of a period draws from, and the how-manieth of that source's it is there
        self._which = _spread(np.array(weights) / np.sum(weights))
        self._counts = np.bincount(self._which, minlength=len(lengths))
        if not self._counts.all():
            raise ConfigError(
                f"the weight of source {int(self._counts.argmin()) + 1} is too small beside the others': none of "
                f"{_PERIOD} samples would come from it; give it more, or take it out of the configuration"
            )
        self._ranks_in_period = np.zeros(_PERIOD, np.int64)
        for source, count in enumerate(self._counts):
            self._ranks_in_period[self._which == source] = np.arange(count)
        self._starts = np.cumsum([0, *lengths])
        self._rank, self._ranks = share
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self._steps  # also of a run that goes on: whoever counts batches counts the earlier ones too

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(step) for step in range(self._first, self._steps))

    def batch(self, step: int) -> list[int]:
        """The indices of one step (this process's share of them)."""
        found = []
        for number in range(step * self._batch, (step + 1) * self._batch):
            period, position = divmod(number, _PERIOD)
            source = int(self._which[position])
            turn, place = divmod(
                int(period * self._counts[source] + self._ranks_in_period[position]), self._lengths[source]
            )
            found.append(int(self._starts[source] + self._order(source, turn)[place]))
        # in one piece: every n-th would be those of one source where sources take turns
        return found[len(found) * self._rank // self._ranks : len(found) * (self._rank + 1) // self._ranks]

    def _order(self, source: int, turn: int) -> NDArray[np.int64]:
        key = (source, turn)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != source or k[1] >= turn - 1}
            rng = np.random.default_rng((self._seed, source, turn))
            self._orders[key] = rng.permutation(self._lengths[source])
        return self._orders[key]


def _spread(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """(_PERIOD,) sources by their shares, as evenly as can be: always the one that lags furthest behind."""
    given, order = np.zeros(len(shares)), np.empty(_PERIOD, np.int64)
    for position in range(_PERIOD):
        order[position] = np.argmax(shares * (position + 1) - given)
        given[order[position]] += 1
    return order
