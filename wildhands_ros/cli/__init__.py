"""The command `wildhands`: thin over the package, see `wildhands --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wildhands_ros.libraries import missing_module


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        from wildhands_ros.cli.commands import run_command  # takes seconds, in which somebody may press Ctrl-C

        return run_command(arguments)
    except KeyboardInterrupt:
        print("wildhands: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:  # before there are errors of ours: the commands' own imports
        if (remedy := missing_module(error)) is None:
            raise
        print(f"wildhands: {remedy}; wildhands doctor tells more", file=sys.stderr)
        return 1


__all__ = ["main"]
