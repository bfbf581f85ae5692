"""What the node counts and measures, and what it says about it: rates, drops, errors."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

_WINDOW_S = 5.0
_MOST_KEPT = 2000  # in a window, whatever comes: of 5 s it is 400 a second
_LONGEST_TEXT = 2000  # of a problem: more than any of ours has, tracebacks included
_NUMBER = re.compile(r"\d+(\.\d+)?")
_ODD = frozenset(
    [
        "no_frame_id", "bad_frame_id", "no_stamp", "stamps_stand_still", "clocks_differ", "images_out_of_order",
        "time_went_backwards", "no_transform", "skewed_camera",
    ]
)  # fmt: skip
"""Kinds of problems with images that give results all the same (with `no_transform`, those without hands do)."""
_SAID_ONCE = frozenset(["input_qos_mismatch", "output_qos_mismatch"])
"""Kinds that are not repeated until somebody changes something, and of which there are no more than topics."""


class Percentiles(NamedTuple):
    """Of one quantity, in its unit."""

    median: float
    p95: float
    p99: float


class _Result(NamedTuple):
    at: float
    latency_s: float
    capture_s: float
    timings: Mapping[str, float]


class State(str, Enum):
    """The node's primary lifecycle states."""

    UNCONFIGURED = "unconfigured"
    INACTIVE = "inactive"
    ACTIVE = "active"
    FINALIZED = "finalized"


class Drop(str, Enum):
    """Why an image was left out although nothing was wrong with it."""

    NEWER = "a newer one came"
    NO_CAMERA_INFO = "no camera_info"
    DISABLED = "disabled"
    NO_TRANSFORM = "no transform"


@dataclass(frozen=True)
class Summary:
    """The counters since the start and the measurements of the last seconds.

    measured_s: the length of those last seconds: since work began, at most five. dropped: counts by cause.
    failed_lately: images without a result. input_hz, output_hz: images received and results published a second.
    latency_ms: from reception to publication; capture_ms: from the image's stamp to publication; timings_ms: of each
    stage: medians, 95th and 99th percentiles, NaN where nothing was published lately. problems: counts by kind;
    last_of_kind: the text of the latest of each kind. last_problem_age_s: NaN where there was none. odd_lately: what
    was odd about images of the last seconds although results came, or empty.
    """

    received: int
    processed: int
    dropped: Mapping[Drop, int]
    failed: int
    failed_lately: int
    input_hz: float
    output_hz: float
    latency_ms: Percentiles
    capture_ms: Percentiles
    timings_ms: Mapping[str, Percentiles]
    hands: int
    problems: Mapping[str, int]
    last_of_kind: Mapping[str, str]
    last_problem: str
    last_problem_age_s: float
    odd_lately: str = ""
    measured_s: float = _WINDOW_S

    @property
    def is_early(self) -> bool:
        """Whether work has only begun, and nothing has gone wrong since."""
        return self.measured_s < _WINDOW_S and not self.last_problem_age_s <= self.measured_s


class Statistics:
    """Counts and measures. Thread-safe. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._start = clock()
        self._arrivals: deque[float] = deque(maxlen=_MOST_KEPT)
        self._failures: deque[float] = deque(maxlen=_MOST_KEPT)
        self._results: deque[_Result] = deque(maxlen=_MOST_KEPT)
        self._dropped = dict.fromkeys(Drop, 0)
        self._received = self._processed = self._failed = self._hands = 0
        self._problems: Counter[str] = Counter()
        self._last_of_kind: dict[str, str] = {}
        self._last_problem = ""
        self._last_problem_at = math.nan
        self._odd = ""
        self._odd_at = -math.inf

    def begin_anew(self) -> None:
        """Work begins: forgets measurements from before, when nothing was worked on. Counters go on."""
        with self._lock:
            self._start, self._odd_at = self._clock(), -math.inf
            for times in (self._arrivals, self._failures, self._results):
                times.clear()

    def image_received(self) -> None:
        """An image came."""
        with self._lock:
            self._received += 1
            _note(self._arrivals, self._clock())

    def image_dropped(self, cause: Drop) -> None:
        """A good image was left out."""
        with self._lock:
            self._dropped[cause] += 1

    def result_published(
        self, hands: int, latency_s: float, timings: Mapping[str, float], *, capture_s: float = math.nan
    ) -> None:
        """latency_s: from reception to the hands' publication; capture_s: from the image's stamp. timings: by stage."""
        with self._lock:
            self._processed += 1
            self._hands = hands
            now = self._clock()
            self._results.append(_Result(now, latency_s, capture_s, timings))
            while self._results[0].at < now - _WINDOW_S:
                self._results.popleft()

    def image_failed(self) -> None:
        """An image that no result came of."""
        with self._lock:
            self._failed += 1
            _note(self._failures, self._clock())

    def problem(self, kind: str, text: str) -> None:
        """Counts a problem that a person should know of, and keeps its text."""
        with self._lock:
            self._problems[kind] += 1
            self._last_of_kind[kind] = self._last_problem = text
            self._last_problem_at = self._clock()
            if kind in _ODD:
                self._odd, self._odd_at = text, self._last_problem_at

    def summary(self) -> Summary:
        with self._lock:
            now = self._clock()
            since = max(now - _WINDOW_S, self._start)
            span = max(now - since, 1e-3)
            recent = [result for result in self._results if result.at >= since]
            stages = list(recent[-1].timings) if recent else []
            return Summary(
                received=self._received,
                processed=self._processed,
                dropped=dict(self._dropped),
                failed=self._failed,
                failed_lately=sum(at >= since for at in self._failures),
                input_hz=sum(at >= since for at in self._arrivals) / span,
                output_hz=len(recent) / span,
                latency_ms=_percentiles(r.latency_s for r in recent),
                capture_ms=_percentiles(r.capture_s for r in recent),
                timings_ms={s: _percentiles(r.timings[s] for r in recent if s in r.timings) for s in stages},
                hands=self._hands,
                problems=dict(self._problems),
                last_of_kind=dict(self._last_of_kind),
                last_problem=self._last_problem,
                last_problem_age_s=now - self._last_problem_at,
                odd_lately=self._odd if self._odd_at >= now - _WINDOW_S else "",
                measured_s=now - since,
            )


def _note(times: deque[float], now: float) -> None:
    """Adds `now`, and forgets times that are no longer of the last seconds."""
    times.append(now)
    while times[0] < now - _WINDOW_S:
        times.popleft()


def shortened(text: str) -> str:
    """The text, without its middle where it is longer than 2000 characters: messages may hold any length of it."""
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]} […] {text[-half:]}"


class Throttle:
    """Lets a message through once a period, and only a few different ones of each kind. Thread-safe.

    period_s: between equal messages, which may differ in their numbers: counts and times change with every repetition.
    different: how many different texts of a kind pass within a period; of kinds that are said only once, all do.
    """

    def __init__(self, period_s: float = 10.0, different: int = 5, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s = period_s
        self._different = different
        self._clock = clock
        self._lock = threading.Lock()
        self._passed: dict[str, dict[str, float]] = {}
        self._held: Counter[str] = Counter()

    def __call__(self, kind: str, text: str) -> str | None:
        """The text to log now, with how many of its kind were held back; or None."""
        with self._lock:
            now = self._clock()
            recent = {t: at for t, at in self._passed.get(kind, {}).items() if now - at < self._period_s}
            self._passed[kind] = recent
            message = _NUMBER.sub("#", text)
            if message in recent or (len(recent) >= self._different and kind not in _SAID_ONCE):
                self._held[kind] += 1
                return None
            recent[message] = now
            held = self._held.pop(kind, 0)
            return f"{text} ({held} more of this kind in the meantime)" if held else text


@dataclass(frozen=True)
class Condition:
    """What the node is doing right now.

    enabled: False after ~/enable with false. failed_transition: why it is not in the state that it was told to go to,
    or empty. complaint: what is wrong with its inputs, or empty.
    """

    state: State = State.ACTIVE
    enabled: bool = True
    failed_transition: str = ""
    complaint: str = ""


def diagnostic_values(summary: Summary, condition: Condition, facts: Mapping[str, str]) -> dict[str, str]:
    """Everything that is known, by name. facts: models, topics, ..."""
    return {
        "state": condition.state.value,
        "enabled": str(condition.enabled).lower(),
        "images received": str(summary.received),
        "images processed": str(summary.processed),
        **{f"images dropped ({cause.value})": str(count) for cause, count in summary.dropped.items()},
        "images failed": str(summary.failed),
        "input rate (Hz)": f"{summary.input_hz:.1f}",
        "output rate (Hz)": f"{summary.output_hz:.1f}",
        **_latency_values("latency from reception", summary.latency_ms),
        **_latency_values("latency from capture", summary.capture_ms),
        **{
            f"{stage} (ms)": f"{values.median:.1f} (95 %: {values.p95:.1f})"
            for stage, values in summary.timings_ms.items()
        },
        "hands in the last image": str(summary.hands),
        **{f"problem: {kind}": str(count) for kind, count in sorted(summary.problems.items())},
        # complaints about the inputs come every second, and must not hide the last problem with an image
        **{f"last {kind}": text for kind, text in sorted(summary.last_of_kind.items())},
        "last problem": summary.last_problem,
        **(
            {}
            if math.isnan(summary.last_problem_age_s)
            else {"last problem (s ago)": f"{summary.last_problem_age_s:.0f}"}
        ),
        **facts,
    }


def diagnostic_array(
    stamp: Time, node_name: str, summary: Summary, condition: Condition, facts: Mapping[str, str]
) -> DiagnosticArray:
    """One status that says how the node is doing; what its levels mean: docs/node.md."""
    level, message = _verdict(summary, condition)
    values = diagnostic_values(summary, condition, facts)
    status = DiagnosticStatus(
        level=level,
        name=f"{node_name.lstrip('/')}: hands",
        message=message,
        hardware_id=facts.get("image topic", ""),
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array


def _verdict(summary: Summary, condition: Condition) -> tuple[bytes, str]:
    state = condition.state
    if state is not State.ACTIVE:
        if condition.failed_transition:
            return DiagnosticStatus.ERROR, f"{state.value}: {condition.failed_transition}"
        # somebody wanted it so: STALE, beside others that are not, would be an error to diagnostic_aggregator
        return DiagnosticStatus.WARN if state is State.FINALIZED else DiagnosticStatus.OK, state.value
    if not condition.enabled:  # checked first: then the camera may be switched off, too
        return DiagnosticStatus.OK, "active, but disabled: call ~/enable with true"
    if condition.complaint:  # a part of the images that gets through is still something
        works = summary.output_hz > 0
        return DiagnosticStatus.WARN if works else DiagnosticStatus.ERROR, condition.complaint
    if summary.output_hz == 0 and summary.input_hz > 0 and summary.is_early:
        return DiagnosticStatus.WARN, "waiting for the first result"
    if summary.output_hz == 0 and summary.input_hz > 0:
        if summary.last_problem_age_s <= _WINDOW_S:  # what was wrong before is not why
            return DiagnosticStatus.ERROR, summary.last_problem
        return DiagnosticStatus.ERROR, (
            f"images come but in the last {_WINDOW_S:.0f} s none was done with: is this machine too busy, or too slow?"
        )
    if summary.output_hz == 0:
        return DiagnosticStatus.WARN, "waiting for images"
    if summary.failed_lately:
        return DiagnosticStatus.WARN, f"{summary.failed_lately} images failed lately: {summary.last_problem}"
    if summary.odd_lately:
        return DiagnosticStatus.WARN, summary.odd_lately
    # where every second image is processed, the last seconds may hold one more or less
    if summary.output_hz + 1 / _WINDOW_S < 0.5 * summary.input_hz:
        return DiagnosticStatus.WARN, f"{summary.output_hz:.1f} of {summary.input_hz:.1f} images a second are processed"
    return DiagnosticStatus.OK, f"{summary.output_hz:.1f} images a second"


def _latency_values(name: str, values: Percentiles) -> dict[str, str]:
    return {
        f"{name}, median (ms)": f"{values.median:.1f}",
        f"{name}, 95 % (ms)": f"{values.p95:.1f}",
        f"{name}, 99 % (ms)": f"{values.p99:.1f}",
    }


def _percentiles(seconds: Iterable[float]) -> Percentiles:
    ascending = sorted(1e3 * value for value in seconds if not math.isnan(value))
    return Percentiles(*(_quantile(ascending, q) for q in (0.5, 0.95, 0.99)))


def _quantile(ascending: list[float], q: float) -> float:
    return ascending[min(int(q * len(ascending)), len(ascending) - 1)] if ascending else math.nan
