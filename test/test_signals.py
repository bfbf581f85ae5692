"""Processes that are told to stop, as often as anyone likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from domains import own_domain


def _environment() -> dict[str, str]:
    return {**os.environ, "ROS_DOMAIN_ID": str(own_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def _run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=120)


def _require_end(program: str) -> None:
    """Runs a program that prints 'ended' at its end."""
    ended = _run(program)
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr


def test_told_to_stop_twice_nothing_crashes() -> None:
    command = [sys.executable, str(Path(__file__).with_name("stopping.py")), "200"]
    found = subprocess.run(command, env=_environment(), capture_output=True, text=True)  # which ends what hangs
    codes = json.loads(found.stdout)
    assert len(codes) == 200 and set(codes) == {0}, (codes, found.stderr[-2000:])


def test_told_to_stop_amid_a_callback_that_publishes_nothing_fails() -> None:
    program = (
        "import rclpy; from std_msgs.msg import Empty; from wildhands_ros.node.signals import spin_until_stopped\n"
        "rclpy.init(); node = rclpy.create_node('told'); publisher = node.create_publisher(Empty, 'nothing', 1)\n"
        "def publish():\n"
        "    rclpy.get_default_context().handle.shutdown()  # as rclpy does at a signal, in a thread of its own\n"
        "    publisher.publish(Empty())\n"
        "    raise AssertionError('published')\n"
        "node.create_timer(0.0, publish); spin_until_stopped(node); print('ended')"
    )
    _require_end(program)


def test_told_to_stop_amid_nothing_it_ends() -> None:
    """Nobody wakes an executor that begins to wait just before ROS is shut down."""
    program = (
        "import rclpy, threading; from wildhands_ros.node.executor import NodeExecutor\n"
        "rclpy.init(); executor = NodeExecutor()\n"
        "wait = executor._wait_for_ready_callbacks\n"
        "def waits(*args, **options):\n"
        "    threading.Timer(0.2, rclpy.get_default_context().handle.shutdown).start()  # as rclpy does at a signal\n"
        "    return wait(*args, **options)\n"
        "executor._wait_for_ready_callbacks = waits; executor.spin(); executor.shutdown(); print('ended')"
    )
    _require_end(program)


def test_spinning_begins_without_waiting_for_a_thread() -> None:
    """Two signals in such a wait end it with a RuntimeError, which is no way to stop."""
    program = (
        "import rclpy, threading; from wildhands_ros.node.executor import NodeExecutor\n"
        "rclpy.init(); executor = NodeExecutor()\n"
        "wait = threading.Condition.wait\n"
        "def waits(condition, timeout=None):\n"
        "    if threading.current_thread() is threading.main_thread(): raise RuntimeError('release unlocked lock')\n"
        "    return wait(condition, timeout)\n"
        "ending = threading.Timer(0.2, rclpy.shutdown); ending.start()\n"
        "threading.Condition.wait = waits; executor.spin(); executor.shutdown(); print('ended')"
    )
    _require_end(program)


def test_told_to_stop_while_it_starts_the_node_just_ends() -> None:
    program = (
        "import rclpy, sys; from wildhands_ros.node.wildhands_node import main\n"
        "def half_made(config):\n"
        "    rclpy.get_default_context().handle.shutdown()  # as rclpy does at a signal, in a thread of its own\n"
        "    raise RuntimeError('half made')\n"
        "sys.exit(main([], half_made))"
    )
    ended = _run(program)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert not any(text in ended.stderr for text in ("half made", "Traceback", "cannot start")), ended.stderr


def test_told_to_stop_while_models_are_loaded_the_node_does_not_wait_for_them() -> None:
    """Exporting a network can take minutes, and signals that come later do nothing."""
    program = (
        "import os, signal, sys, threading; from wildhands_ros.node.wildhands_node import main\n"
        "def endless(config):\n"
        "    os.kill(os.getpid(), signal.SIGINT); threading.Event().wait()\n"
        "sys.exit(main([], endless))"
    )
    ended = _run(program)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert "was told to stop, and leaves what it had begun" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("module", "run", "code"),
    [
        ("wildhands_node", "module.NodeExecutor.spin = stopped; sys.exit(module.main([]))", 0),
        (
            "signals",
            "module.NodeExecutor.spin = stopped; rclpy.init(); module.spin_until_stopped(rclpy.create_node('told'))", 0,
        ),
        ("player", "module.open_source = stopped; sys.exit(module.main(['x.mcap']))", 130),
    ],
)  # fmt: skip
def test_told_to_stop_again_before_signals_are_ignored_it_just_ends(module: str, run: str, code: int) -> None:
    program = (
        f"import rclpy, signal, sys; from wildhands_ros.node import signals, {module} as module\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); ignore, told = signals._ignore, []\n"
        "def stopped(*_, **__): signal.raise_signal(signal.SIGINT)\n"
        "def told_again():\n"
        "    if not told: told.append(True); signal.raise_signal(signal.SIGINT)\n"
        "    ignore()\n"
        f"signals._ignore = told_again; {run}"
    )
    ended = _run(program)
    assert (ended.returncode, ended.stdout) == (code, "") and "Traceback" not in ended.stderr, ended


@pytest.mark.parametrize("module", ["player", "recorder"])
def test_told_to_stop_again_while_python_ends_the_exit_code_is_theirs(module: str, tmp_path: Path) -> None:
    (tmp_path / "x.mcap").touch()  # which neither a player nor a recorder can do anything with
    program = (
        f"import os, signal, sys; from wildhands_ros.node.{module} import main\n"
        "class Last:\n"
        "    def __del__(self, tell=os.kill, me=os.getpid(), how=(signal.SIGTERM, signal.SIGINT)):\n"
        "        for number in how: tell(me, number)\n"
        f"last = Last(); sys.exit(main([{str(tmp_path / 'x.mcap')!r}]))"
    )
    ended = _run(program)
    assert ended.returncode == 1 and "x.mcap" in ended.stderr, ended


@pytest.mark.parametrize(
    ("handler", "ends"), [("default_int_handler", "done, KeyboardInterrupt"), ("SIG_IGN", "done, nothing")]
)
def test_signals_that_are_held_back_come_afterwards(handler: str, ends: str) -> None:
    program = (
        "import signal; from wildhands_ros.interruptions import signals_held_back\n"
        f"handler = signal.{handler}; signal.signal(signal.SIGINT, handler); done, came = '', 'nothing'\n"
        "try:\n"
        "    with signals_held_back():\n"
        "        signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT); done = 'done'\n"
        "except KeyboardInterrupt:\n"
        "    came = 'KeyboardInterrupt'\n"
        "assert signal.getsignal(signal.SIGINT) is handler; print(done, came, sep=', ')"
    )
    found = _run(program)
    assert found.stdout == f"{ends}\n", found.stderr


def test_patience_with_signals_ends() -> None:
    program = (
        "import signal; from wildhands_ros.interruptions import signals_held_back\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); done = []\n"
        "try:\n"
        "    with signals_held_back(patience=1):\n"
        "        for _ in range(3): signal.raise_signal(signal.SIGINT); done.append('on')\n"
        "except KeyboardInterrupt:\n"
        "    done.append('KeyboardInterrupt')\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler; print(*done)"
    )
    found = _run(program)
    assert found.stdout == "on KeyboardInterrupt\n", found.stderr
