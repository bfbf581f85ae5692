"""ROS domains that nobody else's tests use at the same time."""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import tempfile
from pathlib import Path
from typing import IO

# 1 to 101: of those above, the ports lie among the ones that Linux gives to whoever asks for any
_LARGEST = 101
_FOLDER = Path(tempfile.gettempdir(), f"wildhands_ros_test_domains_{os.getuid()}")
_ORDER = itertools.islice(itertools.cycle(range(1, _LARGEST + 1)), os.getpid() * 13 % _LARGEST, None)
_held: dict[int, IO[str]] = {}


def take_domain() -> int:
    """A domain of one's own, until it is given back or this process ends.

    Not soon the same again: what has just ended there may still be heard of for a while.
    """
    _FOLDER.mkdir(exist_ok=True)
    for domain in itertools.islice(_ORDER, _LARGEST):
        lock = (_FOLDER / str(domain)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _held[domain] = lock
        return domain
    raise RuntimeError(f"all ROS domains up to {_LARGEST} are in use by tests")


@functools.cache
def own_domain() -> int:
    """The one in which this process does what it does itself."""
    return take_domain()


def give_back(domain: int) -> None:
    """Others may take it."""
    _held.pop(domain).close()
