"""Metric 3D hand poses from a head-mounted camera, for ROS 2 and without it.

The ROS messages are generated into a Python package of the same name (`wildhands_ros.msg`). When this package is
imported from the source tree, that generated package may lie elsewhere on the path; extending `__path__` makes both
`wildhands_ros.pipeline` and `wildhands_ros.msg` resolve wherever they are.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
