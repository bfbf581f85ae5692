"""The command `wildhands`: thin over the package, see `wildhands --help`."""

from wildhands_ros.cli.main import main

__all__ = ["main"]
