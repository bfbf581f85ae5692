"""Shows in RViz what the node `wildhands` publishes: images, hands, TF.

ros2 launch wildhands_ros rviz.launch.py image:=/head_camera/image_raw fixed_frame:=head_camera_optical_frame
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_description_sources import load_python_launch_file_as_module
from launch_ros.actions import Node

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "config"

# as config/wildhands.rviz names them; RViz is told the real names by remapping
SHOWN_NODE = "/wildhands"
SHOWN_IMAGE = "/image"
SHOWN_INFO = "/camera_info"


def generate_launch_description() -> LaunchDescription:
    arguments = (
        ("namespace", "", "Namespace of the node that is looked at."),
        ("name", "wildhands", "Name of the node that is looked at."),
        ("image", "image", "Topic of the camera's images; relative names are in the namespace."),
        ("camera_info", "", "Topic of the calibration. Empty: camera_info beside the images."),
        (
            "fixed_frame",
            "",
            "Frame in which RViz draws: the camera's optical frame, or one of the robot. Empty: as saved.",
        ),
        ("rviz_config", str(CONFIG / "wildhands.rviz"), "RViz's configuration."),
    )
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in arguments),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                description="Take the time from /clock, as for a bag played with --clock.",
                choices=["true", "false"],
            ),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Node]:
    require_rviz()
    given = context.launch_configurations
    frame = given["fixed_frame"]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name=f"{given['name']}_rviz",
            arguments=["-d", given["rviz_config"], *(["-f", frame] if frame else [])],
            parameters=[{"use_sim_time": given["use_sim_time"] == "true"}],
            remappings=remappings(given),
        )
    ]


def require_rviz() -> None:
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        distribution = os.environ.get("ROS_DISTRO", "<distribution>")
        raise RuntimeError(f"RViz is not installed: sudo apt install ros-{distribution}-rviz2") from None


def remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """From the names in the configuration to the real ones."""
    namespace = whole_namespace(given)
    node = f"{namespace}/{given['name']}"
    image = absolute(given["image"] or "image", namespace)
    info = (
        absolute(given["camera_info"], namespace) if given["camera_info"] else f"{image.rpartition('/')[0]}/camera_info"
    )
    annotated = "image_annotated"
    names = [
        *(
            (f"{SHOWN_NODE}/{topic}", f"{node}/{topic}")
            for topic in ("markers", "points", annotated, f"{annotated}/compressed")
        ),
        (SHOWN_IMAGE, image),
        (f"{SHOWN_IMAGE}/compressed", f"{image}/compressed"),
        (SHOWN_INFO, info),
    ]
    return [(saved, real) for saved, real in names if saved != real]


def whole_namespace(given: dict[str, str]) -> str:
    namespace: str = load_python_launch_file_as_module(str(HERE / "wildhands.launch.py")).whole_namespace(given)
    return namespace


def absolute(topic: str, namespace: str) -> str:
    return topic if topic.startswith("/") else f"{namespace}/{topic}"
