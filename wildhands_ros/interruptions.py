"""Signals that have to wait until what was begun is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_held_back(patience: int | None = None) -> Iterator[None]:
    """What Python would do at SIGINT, SIGTERM and SIGHUP meanwhile (raise KeyboardInterrupt) it does at the end.

    patience: how many of them wait; the next one does not, for work that may never end. None: all of them wait.
    Processes that are started meanwhile have no part in it. In threads other than the main one, where Python does
    nothing at signals, neither does this.
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
