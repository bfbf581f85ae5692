"""A camera as sensor_msgs/CameraInfo; the inverse of `Camera.from_camera_info`."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from wildhands_ros.camera import Camera


def camera_to_camera_info(camera: Camera, header: Header) -> CameraInfo:
    """The camera_info to publish beside raw pictures of this camera, with the picture's header.

    An undistorted camera is a plumb_bob one without coefficients. `P` is that of the picture undistorted with the same
    focal lengths and principal point.
    """
    info = CameraInfo(header=header, width=camera.width, height=camera.height)
    info.distortion_model = camera.ros_model
    info.d = list(camera.coefficients)
    info.k = camera.matrix.ravel()
    info.r = np.eye(3).ravel()
    info.p = camera.projection_matrix.ravel()
    return info
