"""Processes that share the work of this one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread

from wildhands_ros.errors import WildHandsError


@contextmanager
def worker_processes(count: int, setup: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes, which end with this one, even where it is killed.

    setup: called in each of them first. Raises WildHandsError where the system ends one of them while it works.
    """
    try:
        with ProcessPoolExecutor(count, get_context("spawn"), _begin, (setup,)) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise WildHandsError(
            "the system ended a process that shared the work, likely because memory ran out: end other programs, or "
            "let fewer processes work, and give the same command again, which goes on with what is missing"
        ) from error


def _begin(setup: Callable[[], None] | None) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if setup is not None:
        setup()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a parent that was killed takes no results, and a pool's processes would wait for ever
