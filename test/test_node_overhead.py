"""The measurement of what the node costs beside the pipeline; here only that there are figures."""

from __future__ import annotations

import math

import pytest
from domains import own_domain

from wildhands_ros.node.overhead import NodeOverhead, measure_overhead, overhead_table


def test_the_overhead_is_measured_over_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))
    (row,) = measure_overhead(seconds=1.0, transports=("compressed",), work_ms=5.0)
    assert row.transport == "compressed" and 0 < row.results and row.images >= 30
    assert row.processor_ms > 0 and all(0 < value < math.inf for value in row.latency_ms)
    median, p95, least = row.latency_ms
    assert row.work_ms == 5 < least <= median <= p95  # the work is part of the latency
    text = overhead_table([row])
    assert "1280x720 at 30 Hz" in text and f"{median:.1f}" in text


def test_the_table_has_a_column_for_each_transport() -> None:
    rows = [NodeOverhead(name, 300, 299, 4.0, 0.2, 2.5, (3.0, 5.0, 2.0)) for name in ("raw", "compressed")]
    head, rule, first, *_ = overhead_table(rows).splitlines()
    assert "raw" in head and "compressed" in head and first.count("4.0") == 2
