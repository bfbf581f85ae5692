"""What can be read of samples, where one of many thousand files may be damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from wildhands_ros.errors import WildHandsError
from wildhands_ros.samples import Sample, SampleError, SampleSource

logger = logging.getLogger(__name__)

_NAMED = 10  # pictures that are not there or damaged, each in a warning of its own; all are counted


class ReadableSamples:
    """The samples of a source that can be read, as a source. Those that cannot are named in warnings and left out, when
    they are come to."""

    def __init__(self, source: SampleSource) -> None:
        self.name = source.name
        self._source = source
        self._indices = list(range(len(source)))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._source[self._indices[index]]

    def __iter__(self) -> Iterator[Sample]:
        """Afterwards the samples that came are the first of this source, in the same order; a warning says how many
        were left out. Raises WildHandsError where none can be read."""
        named: list[str] = []
        left_out = came = 0
        try:
            while came < len(self):
                try:
                    sample = self[came]
                except SampleError as error:
                    del self._indices[came]
                    left_out += 1
                    if str(error) not in named and len(named) < _NAMED:  # both hands of a picture are left out
                        named.append(str(error))
                        logger.warning("left out: %s", error)
                    continue
                came += 1
                yield sample
        finally:
            if left_out:
                logger.warning("%d hands of %s cannot be read and are left out", left_out, self.name)
        if not came:
            raise WildHandsError(f"none of the hands of {self.name} can be read")
