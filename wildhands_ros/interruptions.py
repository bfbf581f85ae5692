"""Signals that have to wait until the work in progress is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_held_back(patience: int | None = None) -> Iterator[None]:
    """Defers SIGINT, SIGTERM and SIGHUP: their Python handlers (which raise KeyboardInterrupt) run when the block ends.

    patience: how many signals are deferred; the next one is handled at once, for work that may never end. None: all of
    them are deferred. Processes that are started in the block are not affected. In threads other than the main one,
    where Python handles no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    over = False
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    held_back = {number: handler for number, handler in handlers.items() if callable(handler)}

    def note(number: int, frame: FrameType | None) -> None:
        if over or len(came) == patience:  # over: it came while the handlers were put back
            came.clear()
            held_back[signal.Signals(number)](number, frame)
        else:
            came.append(number)

    try:
        for number in held_back:
            signal.signal(number, note)
        yield
    finally:
        over = True
        for number, handler in held_back.items():
            signal.signal(number, handler)
        if came:
            held_back[signal.Signals(came[0])](came[0], None)
