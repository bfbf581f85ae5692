"""The node as a managed node: states, failures, other models without a restart, and what many cycles leave behind."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from domains import own_domain
from node_bench import Bench, Process, plain, raw_image
from node_fakes import fake_pipeline
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Empty
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node.input_watch import InputWatch
from wildhands_ros.node.wildhands_node import WildhandsNode


@pytest.fixture(scope="module")
def managed(start: Callable[..., Any]) -> Bench:
    """One node that waits to be told, left unconfigured by every test."""
    return start(Bench, "fake", "--ros-args", "-p", "autostart:=false")


def _frames(bench: Bench) -> HandPoseArray:
    if f"{bench.name}/hands" not in bench.received:
        bench.listen(HandPoseArray, f"{bench.name}/hands")
    bench.connect()
    return bench.send(raw_image(plain(), "rgb8", bench.stamp()))


def test_states_do_what_they_are_for_and_diagnostics_tell_them(managed: Bench) -> None:
    assert managed.state() == "unconfigured"
    managed.reaches(DiagnosticStatus.OK, "unconfigured")
    assert managed.node.count_publishers("/wildhands/hands") == 0
    assert managed.node.count_subscribers("/image") == 0

    assert managed.transition("configure") and managed.state() == "inactive"
    managed.reaches(DiagnosticStatus.OK, "inactive")
    managed.wait(lambda: managed.node.count_publishers("/wildhands/hands") == 1, "the topics are not announced")
    assert managed.node.count_subscribers("/image") == 0

    assert managed.transition("activate") and managed.state() == "active"
    assert len(_frames(managed).hands) == 2

    def lively() -> bool:  # in the last seconds
        managed.send(raw_image(plain(), "rgb8", managed.stamp()))
        status = managed.status()
        return status is not None and status.level == DiagnosticStatus.OK and "images a second" in status.message

    managed.wait(lively, "the rate is not told")

    assert managed.transition("deactivate") and managed.state() == "inactive"
    managed.reaches(DiagnosticStatus.OK, "inactive")
    managed.wait(lambda: managed.node.count_subscribers("/image") == 0, "it still listens")

    assert managed.transition("cleanup") and managed.state() == "unconfigured"
    managed.wait(lambda: managed.node.count_publishers("/wildhands/hands") == 0, "the topics are still announced")
    assert not managed.transition("activate")  # there is no such transition from here
    assert managed.state() == "unconfigured"


def test_what_is_set_while_nothing_is_worked_on_holds_afterwards(managed: Bench) -> None:
    assert managed.set_parameter("min_score", 0.4) == (True, "")
    assert managed.transition("configure")
    assert managed.set_parameter("min_score", 0.125) == (True, "")
    assert managed.transition("activate")
    assert _frames(managed).hands[0].mano_betas[6] == pytest.approx(0.125)
    assert managed.set_parameter("min_score", 0.5) == (True, "")  # and no image before the node rests
    assert managed.transition("deactivate") and managed.transition("activate")
    assert _frames(managed).hands[0].mano_betas[6] == pytest.approx(0.5)
    assert managed.transition("deactivate") and managed.transition("cleanup")


def test_a_configuration_that_fails_says_why_and_can_be_mended(managed: Bench, tmp_path: Path) -> None:
    checkpoint = tmp_path / "network.ckpt"
    assert managed.set_parameter("estimation.checkpoint", str(checkpoint)) == (True, "")
    assert not managed.transition("configure")
    assert managed.state() == "unconfigured"
    assert f"there is no checkpoint {checkpoint}" in managed.said("configure failed")
    managed.reaches(DiagnosticStatus.ERROR, "unconfigured: configure failed: there is no checkpoint")
    assert managed.diagnosed("problem: transition_failed") == "1"
    checkpoint.write_bytes(b"weights")
    assert managed.transition("configure")
    managed.reaches(DiagnosticStatus.OK, "inactive")
    assert f"sha256 {hashlib.sha256(b'weights').hexdigest()[:12]}" in managed.diagnosed("checkpoint")
    assert managed.transition("cleanup")
    assert managed.set_parameter("estimation.checkpoint", "") == (True, "")


def test_another_device_takes_a_cleanup_but_no_restart(managed: Bench) -> None:
    pid = managed.pid
    for device in ("cpu", "cuda:1"):
        assert managed.set_parameter("estimation.device", device) == (True, "")
        assert managed.transition("configure") and managed.transition("activate")
        accepted, reason = managed.set_parameter("estimation.device", "cuda:7")
        assert not accepted and "estimation.device can only be set while the node is unconfigured" in reason
        assert managed.set_parameter("estimation.device", device)[0]  # what it is already is no change
        assert _frames(managed).hands[0].hand_model == device
        assert managed.transition("deactivate")
        assert not managed.set_parameter("estimation.device", "cuda:7")[0]
        assert managed.transition("cleanup")
    assert managed.pid == pid and managed.running
    assert managed.set_parameter("estimation.device", "auto") == (True, "")


def _cycle(bench: Bench) -> None:
    for transition in ("configure", "activate", "deactivate", "cleanup"):
        image = raw_image(plain(), "rgb8", bench.stamp())  # images come at any moment
        bench.publish(image)
        assert bench.transition(transition), transition


def test_many_cycles_leak_nothing(managed: Bench) -> None:
    for _ in range(3):
        _cycle(managed)
    before = managed.occupied()
    before["threads"] += 3  # the pool for what takes long grows to its four when it is busy; a leak would be 20 threads
    for _ in range(20):
        _cycle(managed)

    def nothing_more() -> bool:  # the middleware ends its threads when it comes to it
        now = managed.occupied()
        return all(now[what] <= before[what] for what in before)

    managed.wait(nothing_more, f"after 20 cycles more than {before} is left")
    assert managed.transition("configure") and managed.transition("activate")
    listening = "it does not listen once"  # which is known here a while after the transition is over
    managed.wait(lambda: len(managed.node.get_subscriptions_info_by_topic("/image")) == 1, listening)
    assert len(_frames(managed).hands) == 2
    assert managed.transition("deactivate") and managed.transition("cleanup")


def test_a_node_that_is_shut_down_stays_so_until_it_is_ended(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake", "--ros-args", "-p", "autostart:=false")
    assert bench.transition("configure") and bench.transition("activate") and bench.transition("shutdown")
    assert bench.state() == "finalized"
    bench.reaches(DiagnosticStatus.WARN, "finalized")
    bench.wait(lambda: bench.node.count_publishers("/wildhands/hands") == 0, "the topics are still announced")
    assert bench.stop() == 0


def test_a_node_that_starts_by_itself_and_cannot_ends_with_the_reason(start: Callable[..., Any]) -> None:
    process = start(Process, "fake", "--ros-args", "-p", "estimation.checkpoint:=/nowhere/a.ckpt")
    assert process.ended() == 1
    assert "wildhands cannot start: configure failed: there is no checkpoint /nowhere/a.ckpt" in process.log
    assert "Traceback" not in process.log


def test_a_node_that_was_killed_and_started_again_goes_on_for_its_subscribers(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake")
    bench.connect()
    os.kill(bench.pid, signal.SIGKILL)
    bench.ended()
    successor = start(Process, "fake", domain=bench.domain)
    bench.watch(successor)
    bench.connect(black=True)
    bench.hands.clear()

    def goes_on() -> bool:  # the middleware still knows the dead reader too, and may lose a best-effort image over it
        bench.publish(raw_image(plain(), "rgb8", bench.stamp()))
        return any(len(message.hands) == 2 for message in bench.hands)

    bench.wait(goes_on, "no result with hands")
    assert bench.stop() == -signal.SIGKILL and successor.stop() == 0


def test_two_nodes_in_two_namespaces_hear_their_own_cameras(start: Callable[..., Any]) -> None:
    arguments = [("--ros-args", "-r", f"__ns:=/{side}", "-p", f"tf_prefix:={side}/") for side in ("left", "right")]
    left = start(Bench, "fake", *arguments[0], name="/left/wildhands")
    right = start(Bench, "fake", *arguments[1], name="/right/wildhands", domain=left.domain)
    left.connect()
    right.connect()
    result = left.send(raw_image(plain((10, 20, 30)), "rgb8", left.stamp()))
    assert result.hands[0].mano_translation[2] == pytest.approx(30, abs=1)
    stamps = {hands.header.stamp.sec for hands in left.hands}
    other = right.stamp()
    other.sec += 10_000
    right.send(raw_image(plain((1, 2, 3)), "rgb8", other))
    left.send(raw_image(plain(), "rgb8", left.stamp()))
    assert other.sec not in {hands.header.stamp.sec for hands in left.hands} | stamps
    expected = {"left/wildhands: hands", "right/wildhands: hands"}
    statuses = left.received["/diagnostics"]
    left.wait(lambda: {s.name for array in statuses for s in array.status} == expected, "not both diagnose themselves")

    tf: list[TFMessage] = left.listen(TFMessage, "/tf", 100)

    def both_came() -> bool:
        left.send(raw_image(plain(), "rgb8", left.stamp()))
        right.send(raw_image(plain(), "rgb8", right.stamp()))
        return {t.child_frame_id.partition("/")[0] for message in tf for t in message.transforms} >= {"left", "right"}

    left.wait(both_came, "not both send TF")
    for message in tf:
        assert len({t.child_frame_id.partition("/")[0] for t in message.transforms}) == 1  # nobody sends both

    assert left.call(SetBool, "enable", SetBool.Request(data=False)).success
    assert left.set_parameter("min_score", 0.875)[0]
    hand = right.send(raw_image(plain(), "rgb8", right.stamp())).hands[0]
    assert hand.mano_betas[6] == pytest.approx(0.5)
    assert left.call(SetBool, "enable", SetBool.Request(data=True)).success
    hand = left.send(raw_image(plain(), "rgb8", left.stamp())).hands[0]
    assert hand.mano_betas[6] == pytest.approx(0.875)
    assert left.transition("deactivate") and right.state() == "active"
    assert left.stop() == right.stop() == 0


# --- in this process ------------------------------------------------------------------------------------------------


@pytest.fixture
def node() -> Iterator[WildhandsNode]:
    rclpy.init(args=[], domain_id=own_domain())
    node = WildhandsNode(fake_pipeline, overrides=[Parameter("autostart", value=False)])
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_a_transition_that_raises_ends_unconfigured(node: WildhandsNode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    with monkeypatch.context() as patch:
        patch.setattr(node, "_callbacks", {**node._callbacks, 14: _raise})  # TRANSITION_STATE_DEACTIVATING
        assert node.trigger_deactivate() is TransitionCallbackReturn.ERROR
    assert node.statistics.summary().problems == {"transition_failed": 1}
    assert not [thread for thread in threading.enumerate() if thread.name == "wildhands"]
    for trigger in (node.trigger_configure, node.trigger_activate, node.trigger_shutdown):
        assert trigger() is TransitionCallbackReturn.SUCCESS


def _raise(_state: object) -> None:
    raise RuntimeError("the disk is on fire")


def test_an_activation_that_fails_goes_back_to_inactive(node: WildhandsNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no subscription today")

    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    with monkeypatch.context() as patch:
        patch.setattr(node, "create_subscription", refuse)
        assert node.trigger_activate() is TransitionCallbackReturn.FAILURE
    assert node.statistics.summary().last_problem == "activate failed: RuntimeError: no subscription today"
    assert not [thread for thread in threading.enumerate() if thread.name == "wildhands"]
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS


def test_a_bond_is_asked_for_only_where_there_is_bondpy(node: WildhandsNode) -> None:
    assert node.set_parameters([Parameter("bond_heartbeat_period", value=0.1)])[0].successful
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    assert "no_bond" in node.statistics.summary().problems
    assert "bondpy is not installed" in node.statistics.summary().last_problem


class FakeBond:
    """bondpy's Bond as ROS 2 has it: its arguments, and what it makes of the node."""

    made: ClassVar[list[FakeBond]] = []

    def __init__(self, node: Node, topic: str, bond_id: str) -> None:
        self.node, self.topic, self.id = node, topic, bond_id
        self.pub = node.create_publisher(Empty, topic, 1)
        self.alive = False
        FakeBond.made.append(self)

    def start(self) -> None:
        self.sub = self.node.create_subscription(Empty, self.topic, lambda _message: None, 1)
        self.alive = True

    def shutdown(self) -> None:
        self.pub.publish(Empty())  # that it ends
        self.sub.destroy()
        self.pub.destroy()
        self.alive = False


def test_a_bond_is_nav2s_and_leaves_nothing_behind(node: WildhandsNode, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("bondpy.bondpy")
    module.Bond = FakeBond  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bondpy", ModuleType("bondpy"))
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", module)
    monkeypatch.setattr(FakeBond, "made", [])
    assert node.set_parameters([Parameter("bond_heartbeat_period", value=0.1)])[0].successful
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    for cycle in range(2):
        before = len(list(node.publishers)), len(list(node.subscriptions))
        assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
        bond = FakeBond.made[cycle]
        assert (bond.topic, bond.id) == ("bond", node.get_name())  # relative: the manager's namespace is the node's
        assert bond.alive and bond.heartbeat_period == 0.1 and bond.heartbeat_timeout == 4.0
        assert node.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
        assert not bond.alive
        assert (len(list(node.publishers)), len(list(node.subscriptions))) == before


def test_a_node_with_a_bond_ends_in_order_after_ros_was_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("bondpy.bondpy")
    module.Bond = FakeBond  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bondpy", ModuleType("bondpy"))
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", module)
    rclpy.init(args=[], domain_id=own_domain())
    overrides = [Parameter("autostart", value=False), Parameter("bond_heartbeat_period", value=0.1)]
    node = WildhandsNode(fake_pipeline, overrides=overrides)
    try:
        assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    finally:
        rclpy.shutdown()  # as Ctrl-C does
        node.destroy_node()
    assert not [thread for thread in threading.enumerate() if thread.name == "wildhands"]


def test_nothing_is_said_of_a_clock_that_stands_before_anybody_could_play(node: WildhandsNode) -> None:
    early, late = (InputWatch(time.monotonic() - seconds) for seconds in (-1000, 6))
    assert early.is_early(time.monotonic()) and not late.is_early(time.monotonic())
    assert node.set_parameters([Parameter("use_sim_time", value=True)])[0].successful

    def said() -> set[str]:
        return {kind for kind, _ in node._complaints()}

    assert "no_clock" not in said()
    for watch, expected in ((early, False), (late, True)):
        node._watch = watch
        assert ("no_clock" in said()) is expected
    node._watch = None


def test_another_clock_is_not_said_to_be_ahead(node: WildhandsNode) -> None:
    assert node.trigger_configure() is node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    assert node.set_parameters([Parameter("use_sim_time", value=True)])[0].successful
    said = node.statistics.summary().last_of_kind["time_went_backwards"]
    assert said.startswith("the node's clock is another one (")


def test_rates_are_of_what_comes_since_work_began(node: WildhandsNode) -> None:
    def rate_of_before() -> float:
        node.statistics.image_received()
        before = node.statistics.summary().input_hz
        assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
        return before

    node.statistics.image_received()
    assert node.trigger_configure() is node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    assert node.statistics.summary().input_hz == 0
    assert rate_of_before() > 0 and node.statistics.summary().input_hz > 0  # it was enabled all the time
    assert node._on_enable(SetBool.Request(data=False), SetBool.Response()).success
    assert rate_of_before() > 0 and node.statistics.summary().input_hz == 0
    assert node.statistics.summary().received == 3


def test_qos_parameters_outlast_configurations(node: WildhandsNode) -> None:
    for _ in range(2):
        assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
        assert node.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() is TransitionCallbackReturn.SUCCESS
    outputs = ("/wildhands/hands.publisher.reliability", "/tf.publisher.depth", "/diagnostics.publisher.durability")
    for name in ("/image.subscription.depth", *outputs):
        assert node.has_parameter(f"qos_overrides.{name}")
