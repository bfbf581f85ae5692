"""Processes that others start: they end with whoever started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wildhands_ros.errors import WildHandsError
from wildhands_ros.node.chain import child_processes

WAIT = "import signal, sys; print('ready', flush=True); signal.pause()"


INTERRUPTED = """
import json, os, signal, subprocess, sys
from wildhands_ros.cli.common import sigterm_interrupts
from wildhands_ros.node import chain

number, command = int(sys.argv[1]), sys.argv[2:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs tests may ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
started = []

class Interrupted(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        started.append(self.pid)
        signal.raise_signal(number)

chain.subprocess.Popen = Interrupted
try:
    with sigterm_interrupts(), chain.child_processes({"the first": command, "the second": command}, os.environ):
        print("not interrupted")
except KeyboardInterrupt:
    print(json.dumps(started))
"""


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_interrupts_a_start_leaves_no_process_behind(number: signal.Signals) -> None:
    """In a process of its own: pytest has signals handled on a stack that is too small for what AMX leaves on it."""
    command = [*_python(INTERRUPTED), str(int(number)), *_python(WAIT)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    started = json.loads(ended.stdout)
    assert len(started) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in started)


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
