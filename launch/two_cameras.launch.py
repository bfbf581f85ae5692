"""An example: two cameras, each with a node of its own in a namespace of its own.

    ros2 launch wildhands_ros two_cameras.launch.py first:=head second:=chest image:=camera/image_raw

runs /head/wildhands on /head/camera/image_raw and /chest/wildhands on /chest/camera/image_raw, whose frames begin with
head/ and chest/. Other arguments of wildhands.launch.py hold for both.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

NODE = Path(__file__).resolve().parent / "wildhands.launch.py"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("first", default_value="head", description="Namespace and TF prefix of one camera."),
            DeclareLaunchArgument("second", default_value="chest", description="The same of the other camera."),
            camera("first"),
            camera("second"),
        ]
    )


def camera(argument: str) -> GroupAction:
    """A node for the camera that the argument names; what is set for it stays in its group."""
    name = LaunchConfiguration(argument)
    arguments = {"namespace": name, "tf_prefix": [name, "/"]}
    source = PythonLaunchDescriptionSource(str(NODE))
    return GroupAction([IncludeLaunchDescription(source, launch_arguments=arguments.items())])
