"""`python -m wildhands_ros.cli`: the same as `wildhands`."""

import sys

from wildhands_ros.cli import main

if __name__ == "__main__":
    sys.exit(main())
