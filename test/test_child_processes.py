"""Processes that others start: they end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wildhands_ros.cli.common import sigterm_interrupts
from wildhands_ros.errors import WildHandsError
from wildhands_ros.node import chain
from wildhands_ros.node.chain import child_processes

WAIT = "import signal, sys; print('ready', flush=True); signal.pause()"


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Whoever runs tests may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_interrupts_a_start_leaves_no_process_behind(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            started.append(self.pid)
            signal.raise_signal(number)

    monkeypatch.setattr(chain.subprocess, "Popen", Interrupted)
    commands = {"the first": _python(WAIT), "the second": _python(WAIT)}
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt), child_processes(commands, os.environ):
        raise AssertionError("it was interrupted before")
    assert len(started) == 2 and not any(map(_is_there, started))


def test_a_process_that_does_not_hear_ctrl_c_is_stopped_too() -> None:
    deaf = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {WAIT}"
    with child_processes({"the deaf one": _python(deaf)}, os.environ) as (child,):
        assert child.said("ready", 60)


def test_a_process_that_ends_early_is_named_with_its_last_words() -> None:
    commands = {"the short one": _python("import sys; print('no such lens'); sys.exit(3)")}
    with pytest.raises(WildHandsError, match="the short one ended with code 3: no such lens"):
        with child_processes(commands, os.environ) as (child,):
            while True:
                child.check()
                child.said("never", 0.05)
