"""Texts for people that may quote what others wrote: messages, bags, names of files."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence

_LISTED = 10  # names in a message
_LINE_BREAK = re.compile(r"(\n(?=  )|\n\Z)")  # as our own texts and tracebacks have them: before an indented line


def printable(text: str) -> str:
    r"""The text with control characters as escapes (\n, \x1b), for terminals and logs.

    So it can neither forge a line of a log nor colour, hide or overwrite others. Line breaks stay before lines that are
    indented by two spaces, and at the end.
    """
    parts = _LINE_BREAK.split(text)  # every other one is a line break
    return "".join(part if i % 2 else "".join(map(_printable, part)) for i, part in enumerate(parts))


def _printable(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":  # spaces of all kinds are harmless
        return character
    return character.encode("unicode_escape").decode("ascii")


def listed(names: Sequence[str]) -> str:
    """The first ten names with commas, and how many more there are."""
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def log_to_terminal(level: int) -> None:
    """Python's logging to standard error, one line a message, from this level on; for programs, once."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # without the traceback
        return printable(super().formatMessage(record))
