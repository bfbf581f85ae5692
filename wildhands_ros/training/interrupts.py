"""Ctrl-C while Lightning trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_as_such() -> Iterator[None]:
    """Around `Trainer.fit`, which makes of a KeyboardInterrupt an exit with the code of a failure."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
