"""More images than the node can work on: `python survival_overload.py [--seconds 60]`.

The pipeline takes 200 ms an image, and images come at four times that rate. Results must stay fresh meanwhile, and the
first image after it must be worked on as if nothing had been.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from node_bench import Bench, camera_info, plain, raw_image

from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.messages import duration_s, stamp_ns

PROCESSING_S = 0.2
SLACK_S = 0.05


@dataclass(frozen=True)
class OverloadReport:
    """Ages are those of results when they come here, in seconds since their image was published.

    processing_s: the longest that one image took, by the node's own account. calm_ages: of the images after the
    overload, which come at half the rate that the node can work at, in order; None for one without a result.
    """

    seconds: float
    sent: int
    results: int
    dropped: int
    processing_s: float
    age_median_s: float
    age_worst_s: float
    calm_ages: list[float | None]

    def failures(self) -> list[str]:
        """What did not hold."""
        fresh, calm = 2 * self.processing_s + SLACK_S, self.processing_s + SLACK_S
        late = [age for age in self.calm_ages[1:] if age is None or age > calm]
        return [
            *([f"a result was {self.age_worst_s:.3f} s old, bound {fresh:.3f}"] if self.age_worst_s > fresh else []),
            *(["the first image after the overload was lost"] if self.calm_ages[0] is None else []),
            *([f"after the overload results were late: {self.calm_ages}, bound {calm:.3f}"] if late else []),
        ]


def overload(bench: Bench, seconds: float, factor: float = 4.0, calm: int = 6) -> OverloadReport:
    """bench: of a `slow` node that is connected."""
    hands = bench.hands
    bench.wait(lambda: bench.diagnosed("images dropped (a newer one came)"), "no diagnostics")
    dropped = int(bench.diagnosed("images dropped (a newer one came)"))
    hands.clear()
    ages: dict[int, float] = {}
    image = raw_image(plain(), "rgb8", bench.stamp())
    stamps: list[int] = []
    for pause in [PROCESSING_S / factor] * round(seconds * factor / PROCESSING_S) + [2 * PROCESSING_S] * calm:
        image.header.stamp = bench.node.get_clock().now().to_msg()
        stamps.append(stamp_ns(image.header.stamp))
        bench.publish(image, info=camera_info())
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            bench.step(left)
            now = bench.node.get_clock().now().nanoseconds
            ages |= {stamp: (now - stamp) * 1e-9 for stamp in _stamps(hands) if stamp not in ages}
    during = [ages[stamp] for stamp in stamps[:-calm] if stamp in ages]
    last_calm = [ages.get(stamp) for stamp in stamps[-calm:]]
    processing = [duration_s(h.processing_time) for h in hands]
    name = "images dropped (a newer one came)"
    bench.wait(lambda: int(bench.diagnosed(name)) >= dropped + len(stamps) / 2, "drops are not counted")
    return OverloadReport(
        seconds, len(stamps), len(during), int(bench.diagnosed(name)) - dropped, max(processing),
        float(np.median(during)), max(during), last_calm,
    )  # fmt: skip


def _stamps(hands: list[HandPoseArray]) -> Iterator[int]:
    return (stamp_ns(h.header.stamp) for h in hands)


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
