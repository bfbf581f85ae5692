"""Processes that share the work: they end with their parent, and their end is named."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wildhands_ros.errors import WildHandsError
from wildhands_ros.processes import worker_processes

PARENT = """
import sys
from wildhands_ros.processes import worker_processes
from test_processes import work_for_ever

if __name__ == "__main__":
    with worker_processes(2) as pool:
        list(pool.map(work_for_ever, 2 * [sys.argv[1]]))
"""
_PATIENCE = 120  # seconds, on a busy machine


def work_for_ever(fifo: str) -> None:
    with open(fifo, "wb", buffering=0) as say:
        say.write(b".")
        signal.pause()


def set_up() -> None:
    os.environ["SET_UP"] = "yes"


def what_was_set_up(_: int) -> str:
    return os.environ.get("SET_UP", "no")


def test_they_are_set_up() -> None:
    with worker_processes(2, set_up) as pool:
        assert list(pool.map(what_was_set_up, range(4))) == 4 * ["yes"]
    assert "SET_UP" not in os.environ


def test_the_end_of_one_is_named() -> None:
    with pytest.raises(WildHandsError, match="memory ran out.*same command again"), worker_processes(2) as pool:
        list(pool.map(os._exit, [1]))


def test_they_end_with_their_parent(tmp_path: Path) -> None:
    fifo, script = tmp_path / "fifo", tmp_path / "parent.py"
    os.mkfifo(fifo)
    script.write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, str(script), str(fifo)], env={**os.environ, "PYTHONPATH": path})
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        begun = b""
        while len(begun) < 2:
            assert parent.poll() is None and select.select([reader], [], [], _PATIENCE)[0], "the workers did not begin"
            begun += os.read(reader, 2)
        parent.kill()
        parent.wait()
        # the end of the file comes with the end of the last process that writes to it
        assert select.select([reader], [], [], _PATIENCE)[0] and os.read(reader, 1) == b""
    finally:
        parent.kill()
        parent.wait()
        os.close(reader)
