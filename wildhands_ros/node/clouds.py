"""The vertices of hands as a point cloud.

sensor_msgs_py makes the message where a ROS distribution provides it; the stand-in fills the same bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from wildhands_ros.hands import Hand

try:
    from sensor_msgs_py.point_cloud2 import create_cloud_xyz32 as _create_cloud
except ImportError:
    _create_cloud = None

_BYTES_OF_A_FLOAT = 4
_AXES = "xyz"


def hand_cloud(hands: Sequence[Hand], header: Header) -> PointCloud2:
    """The vertices of all valid hands with a mesh, x, y, z in metres as float32; without any, a cloud of no points.

    A cloud cannot carry a warning: hands that are not valid, and vertices that are not finite, are left out.
    """
    meshes = [h.vertices for h in hands if h.valid and h.vertices is not None and np.isfinite(h.vertices).all()]
    points = np.concatenate(meshes).astype(np.float32) if meshes else np.zeros((0, 3), np.float32)
    return _xyz_cloud(header, points) if _create_cloud is None else _create_cloud(header, points)


def _xyz_cloud(header: Header, points: NDArray[np.float32]) -> PointCloud2:
    """What sensor_msgs_py.point_cloud2.create_cloud_xyz32 makes of points (N, 3)."""
    step = _BYTES_OF_A_FLOAT * len(_AXES)
    message = PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=[
            PointField(name=name, offset=_BYTES_OF_A_FLOAT * place, datatype=PointField.FLOAT32, count=1)
            for place, name in enumerate(_AXES)
        ],
        is_bigendian=False,
        point_step=step,
        row_step=step * len(points),
        is_dense=False,
    )
    message.data = array("B")
    message.data.frombytes(points.astype("<f4").tobytes())
    return message
