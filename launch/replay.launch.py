"""Plays a bag with its own clock and runs the node `wildhands` on it, from the first image on.

    ros2 launch wildhands_ros replay.launch.py bag:=recordings/kitchen image:=/head_camera/image_raw rviz:=true

The bag starts when the node is active, so no image is missed while models load. All arguments of wildhands.launch.py
and, with rviz:=true, of rviz.launch.py can be given too.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    TimerAction,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource, load_python_launch_file_as_module
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition

HERE = Path(__file__).resolve().parent

LAST_IMAGES_S = 2.0
IMAGE_TYPES = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}


def generate_launch_description() -> LaunchDescription:
    truth = ["true", "false"]
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bag", description="The recording: a folder with metadata.yaml, or a .mcap or .db3 file."
            ),
            DeclareLaunchArgument("rate", default_value="1.0", description="Speed of playing; 0.5 is half the speed."),
            DeclareLaunchArgument(
                "loop",
                default_value="false",
                description="Begin again at the end; hands are followed anew.",
                choices=truth,
            ),
            DeclareLaunchArgument(
                "topics",
                default_value="",
                description="Topics to play, separated by spaces. Empty: all but those that the node publishes itself.",
            ),
            DeclareLaunchArgument(
                "image",
                default_value="",
                description="Topic of the images. Empty: the bag's only one, if it has just one.",
            ),
            DeclareLaunchArgument(
                "at_end",
                default_value="shutdown",
                description="What happens after the last message: shutdown ends everything, stay leaves node and RViz.",
                choices=["shutdown", "stay"],
            ),
            DeclareLaunchArgument("rviz", default_value="false", description="Open RViz too.", choices=truth),
            OpaqueFunction(function=prepare),
            include("wildhands.launch.py", {"use_sim_time": "true"}),
            include("rviz.launch.py", {"use_sim_time": "true"}, IfCondition(LaunchConfiguration("rviz"))),
        ]
    )


def include(name: str, arguments: dict[str, str], condition: IfCondition | None = None) -> IncludeLaunchDescription:
    source = PythonLaunchDescriptionSource(str(HERE / name))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items(), condition=condition)


def prepare(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Looks into the bag, settles which images are used, and has the bag played once the node is active."""
    given = context.launch_configurations
    bag = checked_bag(given["bag"])
    types = topic_types(bag)
    node_file = load_python_launch_file_as_module(str(HERE / "wildhands.launch.py"))
    own = f"{node_file.whole_namespace(given)}/{given.get('name', 'wildhands')}/"
    entities: list[LaunchDescriptionEntity] = []
    image = given["image"]
    if image:
        image, transport = named_image(image, types, node_file.whole_namespace(given))
    else:
        image, transport = only_image({name: kind for name, kind in types.items() if not name.startswith(own)})
    entities.append(SetLaunchConfiguration("image", image))
    if transport and not given.get("image_transport"):
        entities.append(SetLaunchConfiguration("image_transport", transport))
    topics = given["topics"].split()
    left_out = sorted(name for name in types if name.startswith(own) or name == "/clock")
    if left_out and not topics:
        topics = [name for name in types if name not in left_out]
        entities.append(LogInfo(msg=f"not played, as they are published anew: {' '.join(left_out)}"))
    # who plays writes the images into the shared memory, so it is its profile that has to make room for them
    player = ExecuteProcess(
        cmd=play_command(bag, given, topics),
        name="bag",
        additional_env=node_file.fastdds_environment(given.get("fastdds_profile", "auto")),
        output="screen",
    )
    # any lifecycle node: there is one. Once: who deactivates and activates it goes on with the same playing
    ready = OnStateTransition(goal_state="active", entities=[player], handle_once=True)
    entities.append(RegisterEventHandler(ready))
    if given["at_end"] == "shutdown":
        entities.append(RegisterEventHandler(OnProcessExit(target_action=player, on_exit=after_playing)))
        for state in ("configuring", "errorprocessing"):
            failed = OnStateTransition(
                start_state=state, goal_state="unconfigured", entities=[OpaqueFunction(function=give_up)]
            )
            entities.append(RegisterEventHandler(failed))
        if given.get("respawn") != "true":
            entities.append(RegisterEventHandler(OnProcessExit(on_exit=after_the_node)))
    return entities


def after_playing(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Ends everything, once the last images have had the time that hands take."""
    if context.is_shutdown:
        return []
    if event.returncode != 0:
        raise RuntimeError(f"the bag was not played to its end (exit code {event.returncode}); why, is said above")
    return [TimerAction(period=LAST_IMAGES_S, actions=[EmitEvent(event=Shutdown(reason="the bag has ended"))])]


def give_up(context: LaunchContext) -> None:
    """Nobody would ever play the bag, and whoever waits for its end would wait for ever."""
    raise RuntimeError("the node could not be configured, so the bag is not played; why, is said above")


def after_the_node(event: ProcessExited, context: LaunchContext) -> None:
    """Without the node the bag is not played, or to nobody, whatever the node's exit code."""
    if isinstance(event.action, LifecycleNode) and not context.is_shutdown:
        raise RuntimeError(f"the node has ended (exit code {event.returncode}) before the bag; why, is said above")


def named_image(image: str, types: dict[str, str], namespace: str) -> tuple[str, str]:
    """The topic that somebody named, as the argument `image` wants it, and its transport; empty: not to be changed."""
    plain = image.removesuffix("/compressed")
    absolute = plain if plain.startswith("/") else f"{namespace}/{plain}"
    compressed = IMAGE_TYPES.get(types.get(f"{absolute}/compressed", "")) == "compressed"
    if compressed and (plain != image or absolute not in types):
        return plain, "compressed"
    return image, ""


def checked_bag(text: str) -> Path:
    bag = Path(text).expanduser()
    if not bag.exists():
        raise RuntimeError(f"bag:={text}: there is no such recording")
    if bag.is_dir() and not (bag / "metadata.yaml").is_file():
        raise RuntimeError(
            f"bag:={text} has no metadata.yaml: name the .mcap or .db3 file, or run `ros2 bag reindex {text}`"
        )
    if bag.is_file() and bag.suffix not in (".mcap", ".db3"):
        raise RuntimeError(f"bag:={text} is neither a folder nor a .mcap or .db3 file")
    return bag


def topic_types(bag: Path) -> dict[str, str]:
    """Topic → type of the messages, where there are any: as metadata.yaml says, or the file itself that has none."""
    if bag.is_file():
        return topics_of_file(bag)
    try:
        information = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        entries = [entry for entry in information["topics_with_message_count"] if entry["message_count"]]
        return {entry["topic_metadata"]["name"]: entry["topic_metadata"]["type"] for entry in entries}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:  # ValueError: no text, dates
        raise RuntimeError(
            f"{bag}/metadata.yaml cannot be understood ({error}): run `ros2 bag reindex {bag}`"
        ) from error


def topics_of_file(bag: Path) -> dict[str, str]:
    """The same of a .mcap or .db3 file; empty where what reads it is not installed, which playing does not need."""
    try:
        from wildhands_ros.errors import RecordingError
        from wildhands_ros.recordings import BagReader
    except ImportError:
        return {}
    try:
        with BagReader(bag) as reader:
            return {topic.name: topic.msgtype for topic in reader.topics.values() if topic.count}
    except RecordingError as error:
        raise RuntimeError(str(error)) from error


def only_image(types: dict[str, str]) -> tuple[str, str]:
    """The one topic with images, as the argument `image` wants it, and its transport."""
    images = {name: IMAGE_TYPES[kind] for name, kind in types.items() if kind in IMAGE_TYPES}
    for name in list(images):
        if name.endswith("/compressed") and name.removesuffix("/compressed") in images:
            del images[name]  # the same pictures, only worse
    if len(images) != 1:
        choice = f"it has {', '.join(sorted(images))}" if images else "none can be seen from outside"
        raise RuntimeError(f"say which images of the bag to use, with image:=/topic; {choice}")
    ((name, transport),) = images.items()
    return name.removesuffix("/compressed") if transport == "compressed" else name, transport


def play_command(bag: Path, given: dict[str, str], topics: list[str]) -> list[str]:
    try:
        rate = float(given["rate"])
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise RuntimeError(f"rate:={given['rate']} must be a number above 0")
    command = ["ros2", "bag", "play", str(bag), "--clock", "100", "--rate", str(rate), "--disable-keyboard-controls"]
    command += ["--loop"] if given["loop"] == "true" else []
    return command + (["--topics", *topics] if topics else [])
