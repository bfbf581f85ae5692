"""`python -m wildhands_ros.node`: the same as `ros2 run wildhands_ros wildhands_node`."""

import signal
import sys

from wildhands_ros.libraries import missing_module


def main() -> int:
    """Runs the node; returns its exit code, see `wildhands_node.main`. Ctrl-C ends it while it is imported, too."""
    try:
        from wildhands_ros.node.wildhands_node import main as run_node

        return run_node()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ros2 launch and the terminal both send it
        return 0
    except ModuleNotFoundError as error:
        if (remedy := missing_module(error)) is None:
            raise
        print(f"wildhands cannot start: {remedy}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
