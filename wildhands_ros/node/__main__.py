"""`python -m wildhands_ros.node`: the same as `ros2 run wildhands_ros wildhands_node`."""

import sys

from wildhands_ros.node.wildhands_node import main

if __name__ == "__main__":
    sys.exit(main())
