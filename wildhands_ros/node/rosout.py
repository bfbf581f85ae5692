"""Forwards the library's Python logging to the node's logger: to /rosout as well as the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.impl.rcutils_logger import RcutilsLogger

from wildhands_ros.texts import printable

_LIBRARY = "wildhands_ros"


@contextmanager
def library_messages_to(logger: RcutilsLogger) -> Iterator[None]:
    """In the block, the library's messages from INFO on go to this logger, and nowhere else."""
    library, handler = logging.getLogger(_LIBRARY), _Forwarder(logger)
    level, propagate = library.level, library.propagate
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    library.propagate = False  # else the terminal has everything twice
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)
        library.propagate = propagate


class _Forwarder(logging.Handler):
    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = printable(self.format(record))  # which may quote names of files, of any bytes
            # one line for each severity: rclpy lets a line of code have only one
            if record.levelno >= logging.ERROR:
                self._logger.error(text)
            elif record.levelno >= logging.WARNING:
                self._logger.warning(text)
            else:
                self._logger.info(text)
        except Exception:  # as logging's own handlers: a message must not break what it is about
            self.handleError(record)
