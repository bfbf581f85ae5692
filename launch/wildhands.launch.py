"""Runs the node `wildhands` on one camera: starts it, configures it (loads models) and activates it (listens).

    ros2 launch wildhands_ros wildhands.launch.py image:=/head_camera/image_raw
    ros2 launch wildhands_ros wildhands.launch.py --show-args

Arguments that are left empty change nothing: the parameter file decides. See docs/launch.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, RegisterEventHandler, TimerAction
from launch.event_handlers import OnProcessStart
from launch.launch_description_entity import LaunchDescriptionEntity
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client

# beside this folder in the source tree, in an install tree and behind the links of a symlink install
CONFIG = Path(__file__).resolve().parents[1] / "config"

FAST_DDS_2 = ("humble", "iron", "jazzy")

LOOK_AGAIN_S = 0.1

BOOLEANS = {"true": True, "false": False}
_UNSAID = {"image": "image", "camera_info": ""}  # values of arguments that leave a topic as it is


class Setting(NamedTuple):
    """A launch argument that sets the node's parameter `parameter`, unless it is empty."""

    argument: str
    parameter: str
    kind: type[bool] | type[str] | type[int] | type[float]
    description: str
    choices: tuple[str, ...] = ()


SETTINGS = (
    Setting(
        "image_transport", "image_transport", str,
        "raw: subscribe to the image topic itself; compressed: to <image>/compressed.", ("raw", "compressed"),
    ),
    Setting(
        "rectified", "rectified", str,
        "Whether the images are rectified, so that P of camera_info holds, or as the lens made them (K and D).",
        ("auto", "true", "false"),
    ),
    Setting(
        "upright_rotation", "upright_rotation", int,
        "Degrees clockwise by which images must be turned to be upright, of a camera mounted sideways or upside down.",
        ("0", "90", "180", "270"),
    ),
    Setting("models_dir", "models_dir", str, "Folder with the hand detector's models."),
    Setting(
        "estimator", "estimation.estimator", str,
        "open: this package's own network; landmarks: the baseline; wildhands: a checkpoint's, which you name.",
        ("open", "landmarks", "wildhands"),
    ),
    Setting("checkpoint", "estimation.checkpoint", str, "The network's weights; open has its own if none are named."),
    Setting(
        "mano_dir", "estimation.mano_dir", str,
        "Folder with your MANO_RIGHT.pkl and MANO_LEFT.pkl, for wildhands or landmarks.",
    ),
    Setting("device", "estimation.device", str, "Where the network runs: auto, cpu, cuda, cuda:1."),
    Setting(
        "backend", "estimation.backend", str, "What runs the network.",
        ("auto", "torch", "compile", "onnxruntime", "openvino"),
    ),
    Setting(
        "precision", "estimation.precision", str,
        "The network's arithmetic; auto: the fastest within estimation.tolerance_mm.",
        ("float32", "bfloat16", "float16", "int8", "auto"),
    ),
    Setting("min_score", "min_score", float, "Hands less probable than this are left out, 0 to 1."),
    Setting(
        "max_distance", "max_distance", float,
        "Hands whose wrist is farther away, in metres, are left out, such as other people's; 0: none.",
    ),
    Setting("max_hands", "detection.max_hands", int, "The most hands that are reported in one image."),
    Setting(
        "hand_length", "estimation.hand_length", float,
        "The person's hand in metres, crease of the wrist to tip of the middle finger, where somebody measured it.",
    ),
    Setting("smooth", "tracking.smooth", bool, "Filter the hands over time; ~/hands_raw stays as it is."),
    Setting(
        "target_frame", "target_frame", str,
        "TF frame in which the hands are given instead of the camera's, such as base_link.",
    ),
    Setting("publish_tf", "publish_tf", bool, "Send the frames of the hands on /tf."),
    Setting("tf_joints", "tf_joints", bool, "Send all 21 joints of a hand as frames, not the wrist alone."),
    Setting("tf_prefix", "tf_prefix", str, "Put before the names of the hands' frames, such as head/."),
    Setting("publish_markers", "publish_markers", bool, "Markers for RViz on ~/markers."),
    Setting("marker_mesh", "marker_mesh", bool, "Markers include the mesh of the hand."),
    Setting("publish_annotated", "publish_annotated", bool, "Pictures with the hands drawn in on ~/image_annotated."),
    Setting("publish_points", "publish_points", bool, "The vertices of the meshes as a point cloud on ~/points."),
    Setting("publish_vertices", "publish_vertices", bool, "Messages on ~/hands carry the vertices of the mesh."),
    Setting("capture_dir", "capture_dir", str, "Folder for what ~/capture keeps, absolute or ~/..."),
)  # fmt: skip


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared_arguments(), OpaqueFunction(function=start)])


def declared_arguments() -> list[DeclareLaunchArgument]:
    truth = list(BOOLEANS)
    place = [
        _argument("namespace", "", "ROS namespace of the node and of its relative topics, such as head."),
        _argument("name", "wildhands", "Name of the node; its results are on <namespace>/<name>/hands and so on."),
        _argument(
            "image", "image",
            "Topic of the camera's images; relative names are in the namespace. For compressed images the name "
            "without /compressed.",
        ),
        _argument("camera_info", "", "Topic of the calibration. Empty: camera_info beside the images."),
        _argument(
            "params_file", str(CONFIG / "wildhands.yaml"),
            "Parameter file. Arguments after this one win over it where they are given; empty ones change nothing.",
        ),
    ]  # fmt: skip
    run = [
        _argument(
            "use_sim_time", "false",
            "true: take the time from /clock, as for a bag played with --clock. false: as the parameter file says.",
            truth,
        ),
        _argument(
            "autostart", "true",
            "Configure and activate the node. false: it waits for a lifecycle manager, or for "
            "`ros2 lifecycle set /wildhands configure` and `... activate`.", truth,
        ),
        _argument("respawn", "false", "Start the node again when it dies.", truth),
        _argument("respawn_delay", "2.0", "Seconds to wait before that."),
        _argument(
            "fastdds_profile", "auto",
            "Fast DDS settings of the node, without which large images from other processes are lost (the camera "
            "driver needs them too, see docs/launch.md). auto: those of the environment, else config/fastdds.xml of "
            "this package; none: Fast DDS's own; or a file. Other middlewares take no notice.",
        ),
        _argument("enclave", "", "SROS 2 enclave of the node, such as /wildhands. See docs/security.md."),
        _argument("log_level", "info", "How much the node says.", ["debug", "info", "warn", "error", "fatal"]),
        _argument("output", "screen", "Where the node's output goes.", ["screen", "log", "both"]),
    ]  # fmt: skip
    settings = [_argument(s.argument, "", f"{s.description} Sets {s.parameter}.", _choices(s)) for s in SETTINGS]
    return [*place, *settings, *run]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node and what brings it into its states, now that all arguments are known."""
    given = context.launch_configurations
    parameter_file = Path(given["params_file"]).expanduser()
    if not parameter_file.is_file():
        raise RuntimeError(f"params_file:={given['params_file']}: there is no such file")
    itself = given["autostart"] == "true" and given["respawn"] == "true"
    node = LifecycleNode(
        package="wildhands_ros",
        executable="wildhands_node",
        name=given["name"],
        namespace=given["namespace"],
        parameters=[str(parameter_file), {**overrides(given), "autostart": itself}],
        remappings=remappings(given),
        ros_arguments=ros_arguments(given),
        additional_env={**fastdds_environment(given["fastdds_profile"]), **enclave_environment(given["enclave"])},
        output=given["output"],
        emulate_tty=True,  # colours, and lines that come when they are written
        respawn=BOOLEANS[given["respawn"]],
        respawn_delay=_seconds("respawn_delay", given["respawn_delay"]),
    )
    if given["autostart"] == "false" or itself:
        return [node]
    return [*autostart(node, given["name"]), node]


def overrides(given: dict[str, str]) -> dict[str, bool | int | float | ParameterValue]:
    """Parameters that the arguments set; text is marked as such, or YAML would make a number of `cuda:=0`."""
    values: dict[str, bool | int | float | ParameterValue] = {}
    # no empty default as the others have: launch files that are included later see the same argument
    if BOOLEANS[given["use_sim_time"]]:
        values["use_sim_time"] = True
    for setting in SETTINGS:
        text = given[setting.argument]
        if text:
            values[setting.parameter] = _value(setting, text)
    return values


def _value(setting: Setting, text: str) -> bool | int | float | ParameterValue:
    if setting.kind is bool:
        return BOOLEANS[text]
    if setting.kind is str:
        return ParameterValue(text, value_type=str)
    number = _number(setting.argument, text)
    if setting.kind is float:
        return number
    if not number.is_integer():
        raise RuntimeError(f"{setting.argument}:={text} is not a whole number")
    return int(number)


def remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """Only what was asked for: the node finds camera_info and image/compressed by the image's name.

    camera_info:=camera_info is asked for: not the one beside the image.
    """
    return [(topic, given[topic]) for topic in ("image", "camera_info") if given[topic] not in ("", _UNSAID[topic])]


def ros_arguments(given: dict[str, str]) -> list[str]:
    logger = ".".join([*whole_namespace(given).split("/")[1:], given["name"]])
    arguments = ["--log-level", f"{logger}:={given['log_level']}"]
    return arguments + (["--enclave", given["enclave"]] if given["enclave"] else [])


def whole_namespace(given: dict[str, str]) -> str:
    """The node's namespace from the root, "" for the root itself: a relative one goes on from PushRosNamespace's."""
    own = given.get("namespace", "")
    pushed = "" if own.startswith("/") else given.get("ros_namespace", "")
    return "".join(f"/{part}" for part in f"{pushed}/{own}".split("/") if part)


def fastdds_environment(choice: str) -> dict[str, str]:
    """Names the profile to Fast DDS, whose major version 2, in Humble to Jazzy, reads another variable than 3 does."""
    old = os.environ.get("ROS_DISTRO") in FAST_DDS_2
    variable = "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
    if choice == "none" or (choice == "auto" and os.environ.get(variable)):
        return {}
    profile = CONFIG / "fastdds.xml" if choice == "auto" else Path(choice).expanduser().absolute()
    if not profile.is_file():
        raise RuntimeError(f"fastdds_profile:={choice}: there is no such file; use a file, auto or none")
    return {variable: str(profile)}


def enclave_environment(enclave: str) -> dict[str, str]:
    """Lets the node have its own enclave where the variable has named another one, for the launching process."""
    return {"ROS_SECURITY_ENCLAVE_OVERRIDE": enclave} if enclave else {}


def autostart(node: LifecycleNode, name: str) -> list[LaunchDescriptionEntity]:
    """Asks for `configure` once the node answers and for `activate` once that has succeeded.

    Only the way from configuring to inactive activates: who deactivates the node by hand finds it inactive.
    """
    clients: list[Client] = []
    configure = OpaqueFunction(function=_configure_when_there, args=[node, clients])
    activate = OpaqueFunction(function=_ask, args=[clients, Transition.TRANSITION_ACTIVATE])
    return [
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[configure])),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="inactive",
                entities=[activate],
            )
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="unconfigured",
                entities=[
                    LogInfo(
                        msg=f"{name} could not be configured; its reason is above. It waits: mend the cause, then "
                        "configure it with `ros2 lifecycle set`; it is activated by itself."
                    )
                ],
            )
        ),
    ]


def _configure_when_there(
    context: LaunchContext, node: LifecycleNode, clients: list[Client]
) -> list[LaunchDescriptionEntity]:
    """Asks for `configure`, or looks again in a moment while the node is not there yet.

    launch_ros's own event, ChangeState, would wait for the service, and then for its answer: for ever if the process
    dies meanwhile, and in older versions with an exception instead of an exit code of 0 if launch is interrupted.

    clients: of the node's service; made here, since only now there is a context.
    """
    if context.is_shutdown or node.return_code is not None:
        return []
    if not clients:
        clients.append(get_ros_node(context).create_client(ChangeState, f"{node.node_name}/change_state"))
    if clients[0].service_is_ready() and get_ros_node(context).count_publishers(f"{node.node_name}/transition_event"):
        _ask(context, clients, Transition.TRANSITION_CONFIGURE)
        return []
    again = OpaqueFunction(function=_configure_when_there, args=[node, clients])
    # not cancelled: each timer that can be leaves an event handler behind for good, and launch asks them all
    return [TimerAction(period=LOOK_AGAIN_S, actions=[again], cancel_on_shutdown=False)]


def _ask(context: LaunchContext, clients: list[Client], transition: int) -> None:
    """Asks for a transition; what comes of it is told by the node's transition events."""
    if not context.is_shutdown:  # then ROS may be shut down as well, and asking would be an error
        clients[0].call_async(ChangeState.Request(transition=Transition(id=transition)))


def _argument(name: str, default: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


def _choices(setting: Setting) -> list[str] | None:
    choices = tuple(BOOLEANS) if setting.kind is bool else setting.choices
    return ["", *choices] if choices else None


def _seconds(argument: str, text: str) -> float:
    seconds = _number(argument, text)
    if not 0 <= seconds < float("inf"):
        raise RuntimeError(f"{argument}:={text} must be a number of seconds, 0 or more")
    return seconds


def _number(argument: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RuntimeError(f"{argument}:={text} is not a number") from None
