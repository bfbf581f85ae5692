"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with a home in place of its `~`.

    Unlike with `Path.expanduser`, the home of somebody who is not here (~nobody/x) is no error: it stays as it is, a
    file that is not there.
    """
    return Path(os.path.expanduser(path))
