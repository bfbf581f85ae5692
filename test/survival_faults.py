"""Faults at random, the same for the same seed: `python survival_faults.py [--minutes 5] [--seed 0]`.

In each round several things go wrong at once: malformed messages, other resolutions and encodings, camera_info that
vanishes or is another, stamps of the past and the future, publishers that start anew, parameters and services by the
dozen, lifecycle transitions at any moment. Then one fault is looked at: it must be in the diagnostics, with its
reason, and the next good image must be processed.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_bench import Bench, camera_info, plain, raw_image
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool, Trigger
from survival_fuzz import NUMBERS, TEXTS, Fuzzer

from wildhands_ros.node import parameters

_TRANSITIONS = ("configure", "activate", "deactivate", "cleanup")
_TO_ACTIVE = {"unconfigured": "configure", "inactive": "activate"}
_CAPTURE_TIMEOUT_S = 0.5  # in storms nobody waits long for an image that may never come
_CALM = {"min_score": 0.5, "publish_tf": True, "publish_markers": True, "tf_prefix": ""}
_DISK = 1 << 20  # bytes that a file may have while the disk is "full"


@dataclass(frozen=True)
class FaultReport:
    """faults: how often each was done. problems: what the node said of them. Memory in MB, after the first tenth of
    the rounds and at the end."""

    seed: int
    seconds: float
    rounds: int
    faults: dict[str, int]
    problems: dict[str, str]
    memory_mb: tuple[float, float]
    threads: tuple[int, int]
    files: tuple[int, int]


class Chaos:
    """Does things to a node that nobody should. bench: of a `fake` node that is connected."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self._bench = bench
        self._rng = random.Random(seed)
        self._fuzzer = Fuzzer(seed)
        self._seed = seed
        self._clients: dict[str, Client] = {}
        self._pending: list[tuple[str, Future]] = []
        self._faults: Counter[str] = Counter()
        self._live = [
            row for row in parameters.parameter_table()
            if row.when is parameters.When.LIVE and not row.name.startswith("capture")
        ]  # fmt: skip

    def run(self, seconds: float, least: int = 1) -> FaultReport:
        """Rounds for so long, and at least so many. Raises AssertionError for what does not hold."""
        began, rounds = time.monotonic(), 0
        early: tuple[float, dict[str, int]] | None = None
        while (elapsed := time.monotonic() - began) < seconds or rounds < least:
            self.round()
            rounds += 1
            if early is None and elapsed > seconds / 10:
                early = self._bench.resident_mb(), self._bench.occupied()
        memory, occupied = early or (self._bench.resident_mb(), self._bench.occupied())
        now = self._bench.occupied()
        status = self._bench.status()
        assert status is not None
        return FaultReport(
            self._seed, time.monotonic() - began, rounds, dict(self._faults),
            {v.key: v.value for v in status.values if v.key.startswith(("problem", "images", "last"))},
            (memory, self._bench.resident_mb()), (occupied["threads"], now["threads"]),
            (occupied["files"], now["files"]),
        )  # fmt: skip

    def round(self) -> None:
        """Several faults at once, then peace, then one fault and what the node makes of it."""
        storms = (
            self._malformed, self._wrong_bytes, self._other_pictures, self._no_info, self._other_times,
            self._new_publishers, self._parameter_storm, self._service_storm, self._transitions,
        )  # fmt: skip
        for storm in self._rng.sample(storms, self._rng.randint(2, 5)):
            self._count(storm)
            storm()
        self._make_peace()
        checks = (self._a_bad_image, self._a_bad_camera, self._a_failing_pipeline, self._a_full_gpu, self._a_full_disk)
        check = self._rng.choice(checks)
        self._count(check)
        check()
        good = raw_image(plain(), "rgb8", self._bench.stamp())
        assert len(self._bench.send(good).hands) == 2

    def _count(self, fault: Callable[[], None]) -> None:
        self._faults[fault.__name__.strip("_").replace("_", " ")] += 1

    # --- storms -----------------------------------------------------------------------------------------------------

    def _malformed(self) -> None:
        for _ in range(self._rng.randint(3, 12)):
            image, info = self._fuzzer.pair(compressed=False)
            self._bench.infos.publish(info)
            self._bench.images.publish(image)
            self._bench.step(0.002)

    def _wrong_bytes(self) -> None:
        for _ in range(self._rng.randint(3, 12)):
            image, info = self._fuzzer.good_pair() if self._rng.random() < 0.3 else self._fuzzer.pair(compressed=False)
            self._bench.infos.publish(self._fuzzer.bytes_of(info))
            self._bench.images.publish(self._fuzzer.bytes_of(image))
            self._bench.step(0.002)

    def _other_pictures(self) -> None:
        for _ in range(self._rng.randint(2, 8)):
            image, info = self._fuzzer.good_pair()
            image.header.stamp = self._bench.stamp()
            self._bench.publish(image, info=info)
            self._bench.step(0.005)

    def _no_info(self) -> None:
        for _ in range(self._rng.randint(1, 5)):
            self._bench.images.publish(raw_image(plain(), "rgb8", self._bench.stamp()))
            self._bench.step(0.005)
        other = camera_info(width=self._rng.randint(1, 4000), focal=self._rng.uniform(0, 1000))
        other.header.stamp = self._bench.stamp()
        self._bench.infos.publish(other)

    def _other_times(self) -> None:
        for _ in range(self._rng.randint(2, 8)):
            self._bench.publish(raw_image(plain(), "rgb8", self._fuzzer.stamp()))
            self._bench.step(0.005)

    def _new_publishers(self) -> None:
        node, bench = self._bench.node, self._bench
        for name, kind in (("images", Image), ("infos", CameraInfo)):
            if self._rng.random() < 0.7:
                old = getattr(bench, name)
                topic = old.topic_name
                profile = old.qos_profile
                node.destroy_publisher(old)
                setattr(bench, name, node.create_publisher(kind, topic, profile))

    def _parameter_storm(self) -> None:
        for _ in range(self._rng.randint(5, 30)):
            rows = self._rng.sample(self._live, self._rng.randint(1, 3))
            changes = [Parameter(name=row.name, value=self._value(row)) for row in rows]
            if self._rng.random() < 0.03:  # there is no such type: rclpy raises, and nobody answers
                self._client("set_parameters", SetParameters).call_async(
                    SetParameters.Request(parameters=[Parameter(name="min_score", value=ParameterValue(type=200))])
                )
            self._ask("set_parameters", SetParameters, SetParameters.Request(parameters=changes))

    def _value(self, row: parameters.Parameter) -> ParameterValue:
        """Often one that fits, else a number, a text or a type that does not."""
        rng = self._rng
        kind = type(row.default) if rng.random() < 0.7 else rng.choice((bool, int, float, str))
        if rng.random() < 0.05:
            return ParameterValue(type=rng.choice((0, 5, 9)))  # nothing, and lists of nothing
        low, high = row.minimum or 0.0, row.maximum if row.maximum is not None else 100.0
        if kind is bool:
            return ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=rng.random() < 0.5)
        if kind is int:
            value = rng.choice((rng.randint(int(low), int(high)), -(2**63), 2**63 - 1, 0))
            return ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        if kind is float:
            number = rng.choice((rng.uniform(low, high), rng.choice(NUMBERS)))
            return ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=number)
        return ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=rng.choice(TEXTS))

    def _service_storm(self) -> None:
        for _ in range(self._rng.randint(2, 10)):
            name = self._rng.choice(("enable", "reset", "capture", "get_state"))
            if name == "enable":
                self._ask(name, SetBool, SetBool.Request(data=self._rng.random() < 0.5))
            elif name == "get_state":
                self._ask(name, GetState, GetState.Request())
            else:
                self._ask(name, Trigger, Trigger.Request())
            self._bench.publish(raw_image(plain(), "rgb8", self._bench.stamp()))

    def _transitions(self) -> None:
        for _ in range(self._rng.randint(1, 6)):
            transition = Transition(label=self._rng.choice(_TRANSITIONS))
            self._ask("change_state", ChangeState, ChangeState.Request(transition=transition))
            self._bench.publish(raw_image(plain(), "rgb8", self._bench.stamp()))
            self._bench.step(self._rng.choice((0.0, 0.01, 0.05)))

    def _ask(self, service: str, kind: type, request: Any) -> None:
        # a service keeps ten requests, and forgets older ones that it has not come to
        asked = [future for name, future in self._pending if name == service]
        self._bench.wait(lambda: sum(not future.done() for future in asked) < 6, f"no answer from {service}")
        self._pending.append((service, self._client(service, kind).call_async(request)))

    def _client(self, service: str, kind: type) -> Client:
        if service not in self._clients:
            client = self._bench.node.create_client(kind, f"{self._bench.name}/{service}")
            self._bench.wait(client.service_is_ready, f"no service {service}")
            self._clients[service] = client
        return self._clients[service]

    def _make_peace(self) -> None:
        """All services have answered; the node is active, enabled, with sensible parameters, and works."""
        bench = self._bench
        for service, future in self._pending:
            bench.wait(future.done, f"no answer from {service}")
        self._pending.clear()
        while (state := bench.state()) != "active":
            assert bench.transition(_TO_ACTIVE[state]), f"{_TO_ACTIVE[state]} failed"
        assert bench.call(SetBool, "enable", SetBool.Request(data=True)).success
        for name, value in _CALM.items():
            assert bench.set_parameter(name, value)[0], name
        bench.connect()

    # --- faults that are looked at ----------------------------------------------------------------------------------

    def _a_bad_image(self) -> None:
        name = f"fault-{self._rng.randrange(10**9)}"
        self._is_diagnosed(raw_image(plain(), name, self._bench.stamp()), "bad_image", name)

    def _a_bad_camera(self) -> None:
        focal = -1.0 - self._rng.randrange(10**6)
        image = raw_image(plain(), "rgb8", self._bench.stamp())
        self._is_diagnosed(image, "bad_camera_info", f"not fx={focal}", camera_info(focal=focal))

    def _a_failing_pipeline(self) -> None:
        image = raw_image(plain((255, 0, 0)), "rgb8", self._bench.stamp())
        self._is_diagnosed(image, "pipeline_failed", "RuntimeError: red")

    def _a_full_gpu(self) -> None:
        image = raw_image(plain((0, 0, 255)), "rgb8", self._bench.stamp())
        self._is_diagnosed(image, "out_of_memory", "CUDA out of memory")

    def _a_full_disk(self) -> None:
        """No file of the node may become larger than a megabyte, and a picture of noise would."""
        bench, noise = self._bench, np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
        before = self._problems("capture_failed")
        image = Image(width=800, height=800, encoding="rgb8", step=2400)
        image.data.frombytes(noise.tobytes())
        image.header.frame_id = "camera_optical_frame"
        client = bench.node.create_client(Trigger, f"{bench.name}/capture")
        bench.wait(client.service_is_ready, "no service capture")
        assert bench.set_parameter("capture_timeout", 20.0)[0]  # on a busy machine too it is the disk that fails it
        with _files_no_larger_than(bench.pid, _DISK):
            future = client.call_async(Trigger.Request())

            def answered() -> bool:
                image.header.stamp = bench.stamp()
                bench.publish(image, info=camera_info(width=800, height=800))
                return future.done()

            bench.wait(answered, "no answer from capture")
        assert bench.set_parameter("capture_timeout", _CAPTURE_TIMEOUT_S)[0]
        bench.node.destroy_client(client)
        answer = future.result()
        assert answer is not None and not answer.success and "cannot write the capture" in answer.message, answer
        bench.wait(lambda: self._problems("capture_failed") > before, "the full disk is not in the diagnostics")

    def _is_diagnosed(self, image: Image, kind: str, reason: str, info: CameraInfo | None = None) -> None:
        before = self._problems(kind)
        self._bench.publish(image, info=info)
        self._bench.wait(
            lambda: self._problems(kind) > before and reason in self._bench.diagnosed(f"last {kind}"),
            f"'{reason}' is not in the diagnostics",
        )

    def _problems(self, kind: str) -> int:
        status = self._bench.status()
        values = {v.key: v.value for v in status.values} if status else {}
        return int(values.get(f"problem: {kind}", 0))


@contextmanager
def _files_no_larger_than(pid: int, size: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wildhands_faults_"))
    bench = Bench(folder / "log.txt", *fault_arguments(folder))
    try:
        bench.connect()
        report = Chaos(bench, args.seed).run(60 * args.minutes)
    finally:
        code = bench.stop()
    print(json.dumps(asdict(report), indent=2))
    print(f"exit code {code}, log: {folder}")
    return code


def fault_arguments(folder: Path) -> list[str]:
    """Of the node that `Chaos` is let at; captures go into `folder`."""
    parameters_ = ("-p", f"capture_dir:={folder / 'captures'}", "-p", f"capture_timeout:={_CAPTURE_TIMEOUT_S}")
    return ["fake", "--ros-args", "--log-level", "wildhands:=error", *parameters_]


if __name__ == "__main__":
    sys.exit(main())
