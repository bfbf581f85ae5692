"""A camera as sensor_msgs/CameraInfo; the inverse of `Camera.from_camera_info`."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from wildhands_ros.camera import Camera, Distortion


def camera_to_camera_info(camera: Camera, header: Header) -> CameraInfo:
    """The camera_info to publish beside raw pictures of this camera, with the picture's header.

    An undistorted camera is a plumb_bob one without coefficients. `P` is that of the picture undistorted with the same
    focal lengths and principal point.
    """
    info = CameraInfo(header=header, width=camera.width, height=camera.height)
    undistorted = camera.model is Distortion.NONE
    info.distortion_model = Distortion.PLUMB_BOB.value if undistorted else camera.model.value
    info.d = list(camera.coefficients)
    info.k = [float(v) for v in camera.matrix.ravel()]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info
