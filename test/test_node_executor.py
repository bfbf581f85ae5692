"""The executor: quick callbacks go on beside slow ones, and what a callback raises comes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from domains import give_back, take_domain
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Empty

from wildhands_ros.node.executor import NodeExecutor, SlowCallbackGroup, SpinningThread


@pytest.fixture
def node() -> Iterator[Node]:
    context = Context()
    domain = take_domain()
    rclpy.init(args=[], context=context, domain_id=domain)
    node = Node("spun", context=context, enable_rosout=False)
    yield node
    node.destroy_node()
    if context.ok():
        rclpy.shutdown(context=context)
    give_back(domain)


@pytest.fixture
def executor(node: Node) -> Iterator[NodeExecutor]:
    executor = NodeExecutor(context=node.context)
    executor.add_node(node)
    yield executor
    executor.shutdown()


def _spin(executor: NodeExecutor, until: Callable[[], bool]) -> None:
    for _ in range(1000):
        executor.spin_once(timeout_sec=0.05)
        if until():
            return
    raise AssertionError("it does not happen")


def test_quick_callbacks_go_on_while_a_slow_one_runs(node: Node, executor: NodeExecutor) -> None:
    begun, may_end, ended, ticks = threading.Event(), threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert may_end.wait(30)
        ended.set()

    timer = node.create_timer(0.0, slow, callback_group=SlowCallbackGroup())
    node.create_timer(0.001, lambda: ticks.append(begun.is_set()))
    _spin(executor, lambda: ticks.count(True) >= 20)
    assert not ended.is_set()
    node.destroy_timer(timer)
    may_end.set()
    _spin(executor, ended.is_set)


def test_slow_callbacks_of_one_group_run_one_after_the_other(node: Node, executor: NodeExecutor) -> None:
    group, running, most, count = SlowCallbackGroup(), [], [0], [0]

    def slow() -> None:
        running.append(1)
        most[0] = max(most[0], len(running))
        threading.Event().wait(0.001)
        running.pop()
        count[0] += 1

    for _ in range(3):
        node.create_timer(0.0, slow, callback_group=group)
    _spin(executor, lambda: count[0] >= 30)
    assert most[0] == 1


@pytest.mark.parametrize("group", [None, SlowCallbackGroup()], ids=["quick", "slow"])
def test_what_a_callback_raises_comes_out(node: Node, executor: NodeExecutor, group: SlowCallbackGroup | None) -> None:
    def fail() -> None:
        raise ValueError("told so")

    node.create_timer(0.0, fail, callback_group=group)
    with pytest.raises(ValueError, match="told so"):
        _spin(executor, lambda: False)


def test_spinning_goes_on_after_something_was_destroyed_under_it(
    executor: NodeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def spin_once(_self: NodeExecutor) -> None:
        rounds.append(1)
        if len(rounds) == 3:
            executor.shutdown()
        raise InvalidHandle("cannot use Destroyable because destruction was requested")

    monkeypatch.setattr(NodeExecutor, "spin_once", spin_once)
    executor.spin()
    assert len(rounds) == 3


def test_a_context_that_ends_just_before_waiting_ends_spinning(
    node: Node, executor: NodeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = executor.wait_for_ready_callbacks

    def wait(**arguments: object) -> object:
        assert node.context.ok()
        rclpy.shutdown(context=node.context)  # as a signal may, after the loop has looked
        return waiting(**arguments)

    monkeypatch.setattr(executor, "wait_for_ready_callbacks", wait)
    executor.spin()
    assert not node.context.ok()


def test_spinning_does_not_depend_on_how_rclpy_spins(
    node: Node, executor: NodeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclpy's loop calls `spin_once` in some releases and `_spin_once_impl` in others."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("rclpy's own way")

    monkeypatch.setattr(SingleThreadedExecutor, "spin", refuse)
    monkeypatch.setattr(SingleThreadedExecutor, "_spin_once_impl", refuse)
    begun, enough, ticks = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert enough.wait(30)

    def tick() -> None:
        ticks.append(begun.is_set())
        if ticks.count(True) == 20:
            enough.set()
            executor.shutdown(0.0)

    node.create_timer(0.0, slow, callback_group=SlowCallbackGroup())
    node.create_timer(0.001, tick)
    executor.spin()
    assert ticks.count(True) >= 20


def test_what_a_request_makes_raise_is_reported_and_the_next_one_is_answered(node: Node) -> None:
    failures: list[Exception] = []
    executor = NodeExecutor(context=node.context, on_failure=failures.append)
    executor.add_node(node)
    client = node.create_client(SetParameters, "/spun/set_parameters")

    def ask(kind: int) -> Future:
        value = ParameterValue(type=kind, bool_value=True)
        return client.call_async(SetParameters.Request(parameters=[ParameterMessage(name="use_sim_time", value=value)]))

    def fail(_message: Empty) -> None:
        raise RuntimeError("slow and wrong")

    try:
        _spin(executor, client.service_is_ready)
        ask(200)  # there is no such type, and rclpy raises
        _spin(executor, lambda: bool(failures))
        assert isinstance(failures[0], ValueError)
        answer = ask(ParameterType.PARAMETER_BOOL)
        _spin(executor, answer.done)
        assert answer.result().results[0].successful

        node.create_subscription(Empty, "/empty", fail, 1, callback_group=SlowCallbackGroup())
        publisher = node.create_publisher(Empty, "/empty", 1)
        _spin(executor, lambda: publisher.publish(Empty()) is None and len(failures) > 1)
        assert str(failures[1]) == "slow and wrong"
    finally:
        executor.shutdown()


# --- a thread of its own ----------------------------------------------------------------------------------------------


def test_what_a_spinning_thread_has_begun_is_done_before_anything_is_destroyed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end, destroyed = threading.Event(), threading.Event(), threading.Event()
    happened, failures = [], []
    shutdown = SingleThreadedExecutor.shutdown

    def observed(executor: SingleThreadedExecutor) -> bool:
        happened.append("destroyed")
        destroyed.set()
        return shutdown(executor)

    def callback() -> None:
        begun.set()
        assert may_end.wait(30)
        happened.append("handled")
        node.destroy_timer(timer)

    monkeypatch.setattr(SingleThreadedExecutor, "shutdown", observed)
    timer = node.create_timer(0.0, callback)
    spinning = SpinningThread(node, "spun", failures.append)
    assert begun.wait(30)
    stopper = threading.Thread(target=spinning.stop)
    stopper.start()
    assert not destroyed.wait(0.1)
    may_end.set()
    stopper.join(30)
    assert happened == ["handled", "destroyed"] and not failures
    spinning.stop()  # does no harm


def test_a_spinning_thread_that_waits_is_stopped_at_once(node: Node) -> None:
    failures: list[Exception] = []
    for _ in range(20):
        SpinningThread(node, "spun", failures.append).stop()
    assert not failures


def test_what_has_come_is_handled_before_a_spinning_thread_ends(node: Node) -> None:
    """Where it is asked for: a recorder that lags behind its disk loses nothing when it is told to stop."""
    count, all_sent, told, stoppers, heard = 50, threading.Event(), threading.Event(), [], []
    publisher = node.create_publisher(Empty, "work", count)

    def take(message: Empty) -> None:
        if not heard:  # told to stop amid the first one
            stoppers.append(threading.Thread(target=spinning.stop, args=(60.0,)))
            stoppers[0].start()
            told.set()
            assert all_sent.wait(30)
        heard.append(message)

    node.create_subscription(Empty, "work", take, count)
    spinning = SpinningThread(node, "spun")
    while not publisher.get_subscription_count():
        time.sleep(0.01)
    for _ in range(count):
        publisher.publish(Empty())
    assert publisher.wait_for_all_acked()
    all_sent.set()
    assert told.wait(30)
    stoppers[0].join(60)
    assert len(heard) == count


def test_what_a_callback_raises_in_a_spinning_thread_is_told(node: Node) -> None:
    failed, failures = threading.Event(), []

    def fail() -> None:
        raise ValueError("told so")

    def take(error: Exception) -> None:
        failures.append(error)
        failed.set()

    node.create_timer(0.0, fail)
    spinning = SpinningThread(node, "spun", take)
    assert failed.wait(30)
    spinning.stop()
    assert [str(error) for error in failures] == ["told so"]


@pytest.mark.parametrize("when", ["while it waits", "just before it waits"])
def test_a_context_that_ends_ends_its_spinning_threads(node: Node, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    failures: list[Exception] = []
    ticked = threading.Event()
    waiting = SingleThreadedExecutor.wait_for_ready_callbacks

    def wait(executor: SingleThreadedExecutor, *arguments: object) -> object:
        if ticked.is_set() and node.context.ok():
            rclpy.shutdown(context=node.context)
        return waiting(executor, *arguments)

    if when == "just before it waits":
        monkeypatch.setattr(SingleThreadedExecutor, "wait_for_ready_callbacks", wait)
    node.create_timer(0.001, ticked.set)
    spinning = SpinningThread(node, "spun", failures.append)
    assert ticked.wait(30)
    if when == "while it waits":
        rclpy.shutdown(context=node.context)
    spinning.stop()
    assert not failures and not node.context.ok()
