"""Paths as users write them."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with a home in place of its `~`.

    Unlike with `Path.expanduser`, the home of somebody who is not here (~nobody/x) is no error: it stays as it is, a
    file that is not there. So does one's own where HOME is not set and the user is unknown, as in a container that
    runs as some number; and that of a name that nobody can have, as with NUL in it.
    """
    try:
        return Path(os.path.expanduser(path))
    except ValueError:
        return Path(path)


def is_homeless(path: Path) -> bool:
    """Whether nobody knows the home that a `~` stands for, of a path that was expanded."""
    return str(path).startswith("~")


def require_home(path: Path) -> None:
    """Before a folder is made: raises OSError where nobody knows the home that its `~` stands for.

    Else a folder called `~` would be made, wherever the process happens to be.
    """
    if is_homeless(path):
        raise FileNotFoundError(errno.ENOENT, "nobody knows that home folder (is HOME set?)", str(path))
