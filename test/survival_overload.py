"""More images than the node can work on: `python survival_overload.py [--seconds 60]`.

The pipeline takes 200 ms an image, and images come at four times that rate. Results must stay fresh meanwhile, and the
first image after it must be worked on as if nothing had been.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from node_bench import Bench, Stream

from wildhands_ros.node.messages import duration_s, stamp_ns

PROCESSING_S = 0.2
DROPPED = "images dropped (a newer one came)"


@dataclass(frozen=True)
class OverloadReport:
    """Ages are those of results when they come here, in seconds since their image was published.

    processing_s: the longest that one image took, by the node's own account. behind_median, behind_worst: how many
    newer images had been published when work on one began, and behind_bound how many may be: a machine that is slow
    makes ages large, but not this; one that lets only the node wait does. calm_ages: of the images after the overload,
    each published when the one before it has its result.
    """

    seconds: float
    sent: int
    results: int
    dropped: int
    processing_s: float
    age_median_s: float
    age_worst_s: float
    behind_median: float
    behind_worst: int
    behind_bound: int
    calm_ages: list[float]

    def failures(self) -> list[str]:
        """What did not hold."""
        if self.behind_worst <= self.behind_bound:
            return []
        return [f"work began on an image behind {self.behind_worst} newer ones, bound {self.behind_bound}"]


def overload(bench: Bench, seconds: float, factor: int = 4, calm: int = 6) -> OverloadReport:
    """bench: of a `slow` node that is connected. Fails where an image after the overload has no result."""
    bench.wait(lambda: bench.diagnosed(DROPPED), "no diagnostics")
    dropped = int(bench.diagnosed(DROPPED))
    stream = Stream(bench)
    stream.run(factor / PROCESSING_S, seconds)
    during = len(stream.stamps)

    def answered(stamp: int) -> bool:
        stream.collect()
        return stamp in (stamp_ns(h.header.stamp) for h in bench.hands)

    for number in range(calm):
        stamp = stream.publish()
        bench.wait(lambda stamp=stamp: answered(stamp), f"image {number + 1} after the overload was lost")
    bench.wait(lambda: int(bench.diagnosed(DROPPED)) >= dropped + during / 2, "drops are not counted")
    loaded = [age for index, age in zip(stream.results, stream.ages, strict=True) if index < during]
    return OverloadReport(
        seconds, during, len(loaded), int(bench.diagnosed(DROPPED)) - dropped,
        max(duration_s(h.processing_time) for h in bench.hands), float(np.median(loaded)), max(loaded),
        float(np.median(stream.behind)), max(stream.behind), factor, stream.ages[-calm:],
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    bench = Bench(Path(tempfile.mkdtemp(prefix="wildhands_overload_"), "log.txt"), "slow")
    try:
        bench.connect()
        report = overload(bench, args.seconds)
    finally:
        bench.stop()
    print(json.dumps(asdict(report), indent=2))
    print("; ".join(report.failures()) or "fresh all the time")
    return 1 if report.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
