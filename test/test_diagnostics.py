"""What the node says about itself: levels that mean something, figures, models, device, faults."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from node_bench import Bench, plain, raw_image
from std_msgs.msg import Float64

from wildhands_ros.estimation import KnownLength
from wildhands_ros.estimation.wildhands import CheckpointInfo
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.node.diagnostics import Condition, Drop, State, Statistics, diagnostic_array
from wildhands_ros.node.machine import is_out_of_memory, memory_facts, model_facts, release_gpu_memory
from wildhands_ros.pipeline import EstimationConfig, PipelineConfig


class Watch:
    """Statistics under a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.statistics = Statistics(clock=lambda: self.now)

    def status(self, condition: Condition | None = None, **facts: str) -> DiagnosticStatus:
        summary = self.statistics.summary()
        message = diagnostic_array(Time(sec=3), "/robot/wildhands", summary, condition or Condition(), facts)
        assert message.header.stamp.sec == 3
        (status,) = message.status
        return status

    def images(self, received: int, published: int) -> None:
        for i in range(received):
            self.now += 1 / 30
            self.statistics.image_received()
            if i < published:
                self.statistics.result_published(1, 0.01, {"detect": 0.004}, capture_s=0.02)


# --- levels ---------------------------------------------------------------------------------------------------------


def test_levels_follow_the_work() -> None:
    watch = Watch()
    watch.now = 1.0
    assert (watch.status().level, watch.status().message) == (DiagnosticStatus.WARN, "waiting for images")
    watch.statistics.image_received()
    watch.statistics.problem("bad_image", "it is bad")
    assert (watch.status().level, watch.status().message) == (DiagnosticStatus.ERROR, "it is bad")
    watch.images(60, 60)
    assert watch.status().level == DiagnosticStatus.OK and "images a second" in watch.status().message
    watch.statistics.image_failed()
    assert (
        watch.status().level == DiagnosticStatus.WARN and "1 images failed lately: it is bad" in watch.status().message
    )
    watch.now += 10
    watch.images(60, 60)
    assert watch.status().level == DiagnosticStatus.OK  # the failure is long ago
    watch.now += 10
    watch.images(100, 30)
    assert watch.status().level == DiagnosticStatus.WARN and "are processed" in watch.status().message


def test_who_has_only_begun_is_waited_for_unless_something_is_wrong() -> None:
    watch = Watch()
    watch.statistics.problem("bad_image", "it was bad")
    watch.now += 60
    watch.statistics.problem("clocks_differ", "odd: clocks_differ")
    watch.images(60, 0)  # while nothing is worked on
    watch.statistics.begin_anew()
    watch.images(30, 0)
    assert (watch.status().level, watch.status().message) == (DiagnosticStatus.WARN, "waiting for the first result")
    watch.images(50, 45)
    assert watch.status().level == DiagnosticStatus.OK  # of the images before nobody wanted results
    watch.statistics.begin_anew()
    watch.images(3, 0)
    watch.statistics.problem("pipeline_failed", "it fails")
    assert (watch.status().level, watch.status().message) == (DiagnosticStatus.ERROR, "it fails")
    watch.now += 60
    watch.images(200, 0)
    assert watch.status().level == DiagnosticStatus.ERROR  # five seconds are long enough


def test_a_problem_of_long_ago_is_not_why_there_is_no_result() -> None:
    watch = Watch()
    watch.now = 60.0
    watch.statistics.problem("bad_image", "it is bad")
    watch.images(140, 0)
    assert (watch.status().level, watch.status().message) == (DiagnosticStatus.ERROR, "it is bad")
    watch.images(20, 0)
    assert watch.status().level == DiagnosticStatus.ERROR and "none was done with" in watch.status().message


@pytest.mark.parametrize(("every", "level"), [(2, DiagnosticStatus.OK), (3, DiagnosticStatus.WARN)])
def test_results_of_every_second_image_are_enough_at_whatever_moment(every: int, level: bytes) -> None:
    watch = Watch()
    for i in range(400):
        watch.now = i / 30
        watch.statistics.image_received()
        if i > 300:
            assert watch.status().level == level
        if i % every == 1:
            watch.now += 0.002
            watch.statistics.result_published(1, 0.06, {})


def test_odd_images_are_a_warning_as_long_as_they_come() -> None:
    watch = Watch()
    watch.images(60, 60)
    for kind in ("no_stamp", "bad_frame_id", "no_transform", "clocks_differ"):
        watch.statistics.problem(kind, f"odd: {kind}")
        status = watch.status()
        assert (status.level, status.message) == (DiagnosticStatus.WARN, f"odd: {kind}")
    watch.statistics.problem("capture_failed", "the disk is full")  # which says nothing of the images
    assert watch.status().message == "odd: clocks_differ"
    watch.now += 10
    watch.images(60, 60)
    assert watch.status().level == DiagnosticStatus.OK


def test_levels_follow_the_state() -> None:
    watch = Watch()
    watch.images(60, 60)
    ok, warn = DiagnosticStatus.OK, DiagnosticStatus.WARN  # as Nav2's; an aggregator makes an error of STALE
    for state, level in ((State.UNCONFIGURED, ok), (State.INACTIVE, ok), (State.FINALIZED, warn)):
        status = watch.status(Condition(state))
        assert (status.level, status.message) == (level, state.value)
    failed = watch.status(Condition(State.UNCONFIGURED, failed_transition="configure failed: no model"))
    assert (failed.level, failed.message) == (DiagnosticStatus.ERROR, "unconfigured: configure failed: no model")
    disabled = watch.status(Condition(enabled=False))
    assert disabled.level == DiagnosticStatus.OK and "~/enable" in disabled.message
    off = Watch().status(Condition(enabled=False, complaint="no image for 9 s"))  # the camera, too
    assert off.level == DiagnosticStatus.OK and "~/enable" in off.message
    odd = watch.status(Condition(complaint="images get lost"))
    assert (odd.level, odd.message) == (DiagnosticStatus.WARN, "images get lost")  # but results come
    wrong = Watch().status(Condition(complaint="no camera_info"))
    assert (wrong.level, wrong.message) == (DiagnosticStatus.ERROR, "no camera_info")


def test_values_hold_what_was_counted_and_measured() -> None:
    watch = Watch()
    watch.images(60, 60)
    for cause in (Drop.NEWER, Drop.NEWER, Drop.NO_TRANSFORM):
        watch.statistics.image_dropped(cause)
    watch.statistics.problem("no_transform", "TF is late")
    watch.now += 2.0
    status = watch.status(estimator="fake", **{"image topic": "/image"})
    assert (status.name, status.hardware_id) == ("robot/wildhands: hands", "/image")
    values = {v.key: v.value for v in status.values}
    assert values["images dropped (a newer one came)"] == "2" and values["images dropped (no transform)"] == "1"
    assert values["latency from capture, 95 % (ms)"] == "20.0" and values["latency from reception, 99 % (ms)"] == "10.0"
    assert values["detect (ms)"] == "4.0 (95 %: 4.0)" and values["estimator"] == "fake"
    assert (values["last problem"], values["last problem (s ago)"]) == ("TF is late", "2")
    assert values["problem: no_transform"] == "1" and values["last no_transform"] == "TF is late"
    watch.statistics.problem("images_stopped", "no image for 6 s")
    values = {v.key: v.value for v in watch.status().values}
    assert (values["last problem"], values["last no_transform"]) == ("no image for 6 s", "TF is late")


def test_latencies_that_are_not_known_do_not_count() -> None:
    watch = Watch()
    watch.statistics.result_published(0, 0.01, {})
    watch.statistics.result_published(0, 0.01, {}, capture_s=0.3)
    summary = watch.statistics.summary()
    assert summary.capture_ms == pytest.approx((300, 300, 300)) and math.isnan(summary.last_problem_age_s)


# --- models and memory ----------------------------------------------------------------------------------------------


def test_what_is_older_than_the_last_seconds_is_not_kept() -> None:
    class Timings(dict[str, float]):  # of which it can be known whether anybody has it still
        pass

    watch, kept = Watch(), []
    for second in range(20):
        watch.now = float(second)
        timings = Timings(detect=0.01)
        kept.append(weakref.ref(timings))
        watch.statistics.result_published(1, 0.02, timings)
    del timings
    assert [second for second, one in enumerate(kept) if one() is not None] == [14, 15, 16, 17, 18, 19]
    assert watch.statistics.summary().output_hz == pytest.approx(6 / 5)


def test_models_are_named_with_their_hashes(tmp_path: Path) -> None:
    class LoadedPipeline:
        hand_model = load_hand_model()

    checkpoint = tmp_path / "network.ckpt"
    checkpoint.write_bytes(b"")
    (tmp_path / "palm_detection_full.tflite").write_bytes(b"abc")
    config = PipelineConfig(
        models_dir=tmp_path, estimation=EstimationConfig(estimator="wildhands", checkpoint=checkpoint)
    )
    facts = model_facts(config, LoadedPipeline())
    assert facts["estimator"] == "wildhands" and facts["device"] == "cpu"
    assert facts["checkpoint"].endswith("(sha256 e3b0c44298fc)")  # of nothing
    assert "palm_detection_full.tflite (sha256 ba7816bf8f01)" in facts["detector models"]  # of abc
    assert "hand_landmark_full.tflite (No such file or directory)" in facts["detector models"]
    assert facts["hand model"] == f"open (open, sha256 {load_hand_model().sha256[:12]})"
    nobodys = PipelineConfig(
        estimation=EstimationConfig(estimator="wildhands", checkpoint=Path("~nobody-here/network.ckpt"))
    )
    assert model_facts(nobodys, LoadedPipeline())["checkpoint"].endswith("(No such file or directory)")


class TheEstimator:
    class network:
        class runtime:
            device, name = "cuda:0", "torch"

        info = CheckpointInfo(sha256="0123456789abcdef" * 4)


def test_the_networks_device_is_told() -> None:
    class LoadedPipeline:
        hand_model = None
        estimator = TheEstimator()

    facts = model_facts(PipelineConfig(), LoadedPipeline())
    assert facts["device"] == "cuda:0 (torch)"
    assert "0123456789ab" in facts["checkpoint"]


def test_the_network_is_told_also_where_hands_are_resized() -> None:
    class LoadedPipeline:
        hand_model = None
        estimator = KnownLength(TheEstimator(), 0.19)  # type: ignore[arg-type]

    assert model_facts(PipelineConfig(), LoadedPipeline())["device"] == "cuda:0 (torch)"


def test_memory_is_this_processs_own() -> None:
    resident = float(memory_facts()["memory (MB)"])
    assert 10 < resident < 100_000


def test_a_torch_that_is_just_being_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.cuda", ModuleType("torch.cuda"))
    assert set(memory_facts()) == {"memory (MB)"}
    release_gpu_memory()


def test_running_out_of_memory_is_recognised_however_it_is_raised() -> None:
    import torch

    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert "torch" in sys.modules
    release_gpu_memory()  # harmless where there is no GPU


# --- the node -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(start: Callable[..., Any]) -> Bench:
    bench = start(Bench, "fake")
    bench.connect()
    return bench


def test_a_gpu_that_is_full_costs_one_image(bench: Bench) -> None:
    bench.publish(raw_image(plain((0, 0, 255)), "rgb8", bench.stamp()))
    assert "estimation.device" in bench.said("out of memory on an image, which is left out: CUDA out of memory")
    assert len(bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands) == 2
    bench.wait(lambda: bench.diagnosed("problem: out_of_memory") == "1", "it is not counted")
    assert bench.diagnosed("images failed") == "1"
    assert "out of memory" in bench.diagnosed("last problem")

    def told() -> bool:  # what fails is told of for some seconds, as is what does not
        bench.send(raw_image(plain(), "rgb8", bench.stamp()))
        bench.publish(raw_image(plain((0, 0, 255)), "rgb8", bench.stamp()))
        status = bench.status()
        return status is not None and status.level == DiagnosticStatus.WARN and "images failed lately" in status.message

    bench.wait(told, "the level does not tell it")


def test_diagnostics_of_the_node_name_models_device_and_memory(bench: Bench) -> None:
    assert bench.diagnosed("state") == "active" and bench.diagnosed("enabled") == "true"
    assert bench.diagnosed("device") == "cpu" and bench.diagnosed("estimator") == "open"
    assert "palm_detection_full.tflite" in bench.diagnosed("detector models")
    assert float(bench.diagnosed("memory (MB)")) > 10
    wanted = {"convert (ms)", "publish (ms)", "transform (ms)", "latency from capture, 99 % (ms)"}

    def measured() -> bool:  # in the last seconds
        bench.send(raw_image(plain(), "rgb8", bench.stamp()))
        status = bench.status()
        return status is not None and wanted <= {value.key for value in status.values}

    bench.wait(measured, f"no {wanted} in the diagnostics")


def test_latency_can_be_plotted(bench: Bench) -> None:
    latencies = bench.listen(Float64, "/wildhands/latency")

    def came() -> bool:
        image = raw_image(plain(), "rgb8", bench.node.get_clock().now().to_msg())
        bench.send(image)
        return any(
            0 < latency.data < 60_000 for latency in latencies
        )  # milliseconds; that of 1970 before may come, too

    bench.wait(came, "no latency")
    nanoseconds = round(latencies[-1].data * 1e6)
    (hands,) = [h for h in bench.hands if h.latency.sec * 10**9 + h.latency.nanosec == nanoseconds][-1:]
    assert len(hands.hands) == 2
