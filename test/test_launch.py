"""Launch files, RViz configuration, Foxglove layout and SROS 2 policy: against the node, and against launch itself.

Tests that take the fixture `built` need `launch` and `launch_ros`, which a ROS 2 distribution has and PyPI has not.
Elsewhere they count as expected failures, so that the summary says that they could not run.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from domains import own_domain
from node_bench import Bench
from rclpy.node import Node

from wildhands_ros.msg import HandPose, HandPoseArray
from wildhands_ros.node import qos
from wildhands_ros.node.markers import hand_markers
from wildhands_ros.node.parameters import parameter_table
from wildhands_ros.recordings import BagWriter

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
CONFIG = ROOT / "config"
FILES = ("wildhands.launch.py", "replay.launch.py", "rviz.launch.py", "two_cameras.launch.py")

# What the launch files may use: all of it is in launch 1.0 and launch_ros 0.19 (Humble) up to 3.7 and 0.28.
LAUNCH_NAMES = {
    "ament_index_python.packages": {"PackageNotFoundError", "get_package_prefix"},
    "launch": {"LaunchContext", "LaunchDescription"},
    "launch.actions": {
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "GroupAction", "IncludeLaunchDescription", "LogInfo",
        "OpaqueFunction", "RegisterEventHandler", "SetLaunchConfiguration", "TimerAction",
    },
    "launch.conditions": {"IfCondition"},
    "launch.event_handlers": {"OnProcessExit", "OnProcessStart"},
    "launch.events": {"Shutdown", "matches_action"},
    "launch.events.process": {"ProcessExited"},
    "launch.launch_description_entity": {"LaunchDescriptionEntity"},
    "launch.launch_description_sources": {"PythonLaunchDescriptionSource", "load_python_launch_file_as_module"},
    "launch.substitutions": {"LaunchConfiguration"},
    "launch_ros.actions": {"LifecycleNode", "Node"},
    "launch_ros.event_handlers": {"OnStateTransition"},
    "launch_ros.parameter_descriptions": {"ParameterValue"},
    "launch_ros.ros_adapters": {"get_ros_node"},
    "lifecycle_msgs.msg": {"Transition"},
    "lifecycle_msgs.srv": {"ChangeState"},
    "rclpy.client": {"Client"},
}  # fmt: skip

# of rviz_default_plugins and rviz_common, in Humble and later
RVIZ_CLASSES = {
    "rviz_common/Displays", "rviz_common/Time", "rviz_common/Views",
    "rviz_default_plugins/Axes", "rviz_default_plugins/Camera", "rviz_default_plugins/FocusCamera",
    "rviz_default_plugins/Grid", "rviz_default_plugins/Image", "rviz_default_plugins/Interact",
    "rviz_default_plugins/MarkerArray", "rviz_default_plugins/Measure", "rviz_default_plugins/MoveCamera",
    "rviz_default_plugins/Orbit", "rviz_default_plugins/PointCloud2", "rviz_default_plugins/Select",
    "rviz_default_plugins/TF",
}  # fmt: skip

FOXGLOVE_PANELS = {"3D", "DiagnosticSummary", "Image", "Plot"}

CAMERA_TOPICS = {"/image", "/image/compressed", "/camera_info"}


@pytest.fixture
def built() -> None:
    try:
        import launch_ros.actions  # noqa: F401
    except ImportError as error:
        pytest.xfail(f"could not run: launch_ros is not installed here ({error})")


# --- the launch files as text -------------------------------------------------------------------------------------


def tree(name: str) -> ast.Module:
    return ast.parse((LAUNCH / name).read_text())


def calls(name: str, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            yield node


def settings() -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    """Argument, parameter, type, description and choices of everything that sets a parameter of the node."""
    rows = []
    for call in calls("wildhands.launch.py", "Setting"):
        argument, parameter, kind, description, *choices = call.args
        assert isinstance(kind, ast.Name)
        literal = [ast.literal_eval(node) for node in (argument, parameter, description)]
        rows.append((*literal[:2], kind.id, literal[2], ast.literal_eval(choices[0]) if choices else ()))
    return rows


def arguments(name: str) -> set[str]:
    """Names of the launch arguments that a file declares itself."""
    declared = [*calls(name, "DeclareLaunchArgument"), *calls(name, "_argument")]
    names = {call.args[0].value for call in declared if isinstance(call.args[0], ast.Constant)}
    if name == "wildhands.launch.py":
        names |= {row[0] for row in settings()}
    if name == "rviz.launch.py":  # declared in a loop over rows of name, default and description
        rows = (node for node in ast.walk(tree(name)) if isinstance(node, ast.Tuple) and len(node.elts) == 3)
        names |= {row.elts[0].value for row in rows if isinstance(row.elts[0], ast.Constant)}
    return names


@pytest.mark.parametrize("name", FILES)
def test_launch_files_use_only_names_that_every_distribution_has(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module in LAUNCH_NAMES:
            assert {alias.name for alias in node.names} <= LAUNCH_NAMES[node.module]
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).partition(".")[0] in {*sys.stdlib_module_names, "wildhands_ros"}
        elif isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= {"os", "yaml"}


def test_launch_names_exist(built: None) -> None:
    for module, names in LAUNCH_NAMES.items():
        loaded = __import__(module, fromlist=sorted(names))
        assert all(hasattr(loaded, name) for name in names), module


def test_all_launch_files_are_tested() -> None:
    assert {path.name for path in LAUNCH.glob("*.py")} == set(FILES)


def test_arguments_set_parameters_that_the_node_has() -> None:
    table = {row.name: row for row in parameter_table()}
    for argument, parameter, kind, description, choices in settings():
        row = table[parameter]
        assert kind == type(row.default).__name__, argument
        assert not row.choices or set(choices) == set(row.choices), argument
        assert description.endswith("."), argument


def test_arguments_are_documented() -> None:
    """docs/launch.md has a row for each, as | `argument` | ..."""
    text = (ROOT / "docs/launch.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert documented == set().union(*map(arguments, FILES))


def test_choices_of_network_settings_are_documented_ones() -> None:
    """The descriptions in the table of parameters name what these may be."""
    described = {row.name: row.description for row in parameter_table()}
    for argument, parameter, _, _, choices in settings():
        if argument in ("backend", "precision"):
            assert choices and all(f"'{choice}'" in described[parameter] for choice in choices), argument


# --- the launch files, built --------------------------------------------------------------------------------------


def load(name: str) -> ModuleType:
    from launch.launch_description_sources.python_launch_file_utilities import load_python_launch_file_as_module

    return load_python_launch_file_as_module(str(LAUNCH / name))


def given(name: str, /, **chosen: str) -> Any:
    """A launch context in which the file's arguments have their defaults or what was chosen."""
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument

    context = LaunchContext()
    context.launch_configurations.update(chosen)
    for entity in load(name).generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    return context


@pytest.mark.parametrize("name", FILES)
def test_descriptions_are_built(built: None, name: str) -> None:
    found = load(name).generate_launch_description().get_launch_arguments()
    assert arguments(name) <= {argument.name for argument in found}
    for argument in found:
        own = argument.description.partition(" Valid choices are")[0]
        assert len(own) > 10 and own.endswith("."), argument.name


def test_arguments_left_empty_change_no_parameter(built: None) -> None:
    configurations = given("wildhands.launch.py").launch_configurations
    assert load("wildhands.launch.py").overrides(configurations) == {}
    assert load("wildhands.launch.py").remappings(configurations) == []


def test_arguments_become_parameters_of_their_type(built: None) -> None:
    chosen = {"marker_mesh": "false", "device": "0", "estimator": "wildhands", "use_sim_time": "true"}
    chosen |= {"min_score": "1", "max_hands": "2"}
    values = load("wildhands.launch.py").overrides(given("wildhands.launch.py", **chosen).launch_configurations)
    assert values["marker_mesh"] is False and values["use_sim_time"] is True
    assert values["estimation.device"].value_type is str
    assert (values.pop("min_score"), values.pop("detection.max_hands")) == (pytest.approx(1.0), 2)
    assert set(values) == {"use_sim_time", "marker_mesh", "estimation.device", "estimation.estimator"}


def test_arguments_become_remappings_and_ros_arguments(built: None) -> None:
    file = load("wildhands.launch.py")
    chosen = {"image": "cam/image", "camera_info": "/info", "namespace": "a/b", "log_level": "debug", "enclave": "/e"}
    configurations = given("wildhands.launch.py", **chosen).launch_configurations
    assert file.remappings(configurations) == [("image", "cam/image"), ("camera_info", "/info")]
    assert file.ros_arguments(configurations) == ["--log-level", "a.b.wildhands:=debug", "--enclave", "/e"]
    own_name = {"image": "image", "camera_info": "camera_info"}  # of camera_info it says: not the one beside the image
    configurations = given("wildhands.launch.py", **own_name).launch_configurations
    assert file.remappings(configurations) == [("camera_info", "camera_info")]


def test_a_groups_namespace_comes_before_a_relative_one(built: None) -> None:
    """PushRosNamespace, in a launch file that includes these: launch_ros puts it before the node's own namespace."""
    namespace = load("wildhands.launch.py").whole_namespace
    assert namespace({}) == namespace({"namespace": "/"}) == ""
    assert namespace({"namespace": "/a//b/", "ros_namespace": "/robot"}) == "/a/b"
    assert namespace({"namespace": "a", "ros_namespace": "/robot"}) == "/robot/a"
    assert namespace({"namespace": "", "ros_namespace": "robot"}) == "/robot"
    pushed = given("wildhands.launch.py").launch_configurations | {"ros_namespace": "/robot"}
    assert load("wildhands.launch.py").ros_arguments(pushed) == ["--log-level", "robot.wildhands:=info"]
    shown = given("rviz.launch.py").launch_configurations | {"ros_namespace": "/robot"}
    names = dict(load("rviz.launch.py").remappings(shown))
    assert names["/wildhands/markers"] == "/robot/wildhands/markers" and names["/image"] == "/robot/image"


def test_fastdds_profile_is_the_environments_or_ours(built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    file = load("wildhands.launch.py")
    new, old = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
    for name in (new, old, "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    assert file.fastdds_environment("auto") == {new: str(qos.fastdds_profile())}
    assert file.fastdds_environment("none") == {}
    assert file.fastdds_environment(__file__) == {new: __file__}
    with pytest.raises(RuntimeError, match="no/such"):
        file.fastdds_environment("no/such")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv(new, "mine.xml")  # which Jazzy's Fast DDS does not read
    assert list(file.fastdds_environment("auto")) == [old] == [qos.profile_variable()]
    monkeypatch.setenv(old, "mine.xml")
    assert file.fastdds_environment("auto") == {}


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"params_file": "/no/such"}, "params_file:=/no/such"),
        ({"fastdds_profile": "/no/such"}, "fastdds_profile:=/no/such"),
        ({"respawn_delay": "soon"}, "respawn_delay:=soon"),
        ({"respawn_delay": "-1"}, "respawn_delay:=-1 must be a number of seconds"),
        ({"respawn_delay": "nan"}, "respawn_delay:=nan must be a number of seconds"),
        ({"min_score": "high"}, "min_score:=high"),
        ({"max_hands": "1.5"}, "max_hands:=1.5 is not a whole number"),
    ],
)
def test_wrong_arguments_are_refused_by_name(built: None, chosen: dict[str, str], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        load("wildhands.launch.py").start(given("wildhands.launch.py", **chosen))


def test_autostart_is_launchs_and_with_respawn_the_nodes(built: None) -> None:
    """A process that is started again must come up by itself: requests might go to the one that has died."""

    def kinds(**chosen: str) -> list[str]:
        entities = load("wildhands.launch.py").start(given("wildhands.launch.py", **chosen))
        return [type(entity).__name__ for entity in entities]

    assert kinds() == ["RegisterEventHandler"] * 3 + ["LifecycleNode"]
    assert kinds(autostart="false") == ["LifecycleNode"]
    assert kinds(respawn="true") == ["LifecycleNode"]


def test_rviz_is_told_the_real_topics(built: None) -> None:
    file = load("rviz.launch.py")
    assert file.remappings(given("rviz.launch.py").launch_configurations) == []
    chosen = {"namespace": "/head/", "name": "hands", "image": "cam/image_rect"}
    names = dict(file.remappings(given("rviz.launch.py", **chosen).launch_configurations))
    assert names["/wildhands/markers"] == "/head/hands/markers"
    assert names["/image"] == "/head/cam/image_rect" and names["/camera_info"] == "/head/cam/camera_info"
    saved = {topic for _, topic, _ in rviz_topics()}
    assert saved <= names.keys()


def write_bag(folder: Path, topics: dict[str, str]) -> Path:
    entries = [{"topic_metadata": {"name": name, "type": kind}, "message_count": 1} for name, kind in topics.items()]
    content = {"rosbag2_bagfile_information": {"topics_with_message_count": entries}}
    folder.mkdir()
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_replay_takes_the_bags_only_images(built: None, tmp_path: Path) -> None:
    file = load("replay.launch.py")
    topics = {
        "/head/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
        "/head/camera_info": "sensor_msgs/msg/CameraInfo",
        "/wildhands/image_annotated": "sensor_msgs/msg/Image",
        "/clock": "rosgraph_msgs/msg/Clock",
    }
    context = given("replay.launch.py", bag=str(write_bag(tmp_path / "bag", topics)))
    entities = file.prepare(context)
    for entity in entities[:2]:
        entity.visit(context)
    assert context.launch_configurations["image"] == "/head/image_raw"
    assert context.launch_configurations["image_transport"] == "compressed"
    named = given("replay.launch.py", bag=str(tmp_path / "bag"), image="/head/image_raw")
    entities = file.prepare(named)
    for entity in entities[:2]:
        entity.visit(named)
    assert named.launch_configurations["image_transport"] == "compressed"  # the bag has no other one of that name
    types = file.topic_types(tmp_path / "bag")
    for name in ("/head/image_raw/compressed", "head/image_raw"):  # as the bag has it; as seen from the namespace
        assert file.named_image(name, types, "") == (name.removesuffix("/compressed"), "compressed")
    assert file.named_image("image_raw", types, "/head") == ("image_raw", "compressed")
    assert file.named_image("image_raw", types, "") == ("image_raw", "")
    assert file.named_image("/wildhands/image_annotated", types, "") == ("/wildhands/image_annotated", "")
    two = {"/a": "sensor_msgs/msg/Image", "/b": "sensor_msgs/msg/Image"}
    with pytest.raises(RuntimeError, match="image:=/topic; it has /a, /b"):
        file.prepare(given("replay.launch.py", bag=str(write_bag(tmp_path / "two", two))))


def test_replay_takes_what_has_messages(built: None, tmp_path: Path) -> None:
    """Large raw images may all have been lost on the way to the recorder; where they were not, they are better."""
    file = load("replay.launch.py")
    pair = {"/c/image": "sensor_msgs/msg/Image", "/c/image/compressed": "sensor_msgs/msg/CompressedImage"}
    bag = write_bag(tmp_path / "bag", pair)
    assert file.only_image(file.topic_types(bag)) == ("/c/image", "raw")
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 1", "message_count: 0", 1))
    assert file.only_image(file.topic_types(bag)) == ("/c/image", "compressed")


def test_replay_looks_into_a_single_file(built: None, tmp_path: Path) -> None:
    path = tmp_path / "clip_hands.mcap"
    kinds = {
        "/camera/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
        "/wildhands/hands": "wildhands_ros/msg/HandPoseArray",
    }
    with BagWriter(path) as bag:
        for topic, kind in kinds.items():
            bag.add_topic(topic, kind)
            bag.write_serialized(topic, bytes(12), 1)
    context = given("replay.launch.py", bag=str(path))
    for entity in load("replay.launch.py").prepare(context)[:2]:
        entity.visit(context)
    assert context.launch_configurations["image"] == "/camera/image_raw"
    assert context.launch_configurations["image_transport"] == "compressed"
    path.write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="is no bag"):
        load("replay.launch.py").topic_types(path)


def test_replay_plays_with_the_bags_clock(built: None, tmp_path: Path) -> None:
    file = load("replay.launch.py")
    command = file.play_command(tmp_path, {"rate": "0.5", "loop": "true"}, ["/a", "/b"])
    assert command[:4] == ["ros2", "bag", "play", str(tmp_path)]
    assert {"--clock", "--loop"} <= set(command) and command[command.index("--rate") + 1] == "0.5"
    assert command[-3:] == ["--topics", "/a", "/b"]
    for rate in ("0", "-1", "nan", "inf", "fast"):
        with pytest.raises(RuntimeError, match=f"rate:={rate}"):
            file.play_command(tmp_path, {"rate": rate, "loop": "false"}, [])


def test_replay_refuses_what_is_no_bag(built: None, tmp_path: Path) -> None:
    file = load("replay.launch.py")
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "bag").mkdir()
    for name, said in (("none", "no such recording"), ("clip.mp4", "neither"), ("bag", "ros2 bag reindex")):
        with pytest.raises(RuntimeError, match=said):
            file.checked_bag(str(tmp_path / name))
    for content in (b"- nonsense", b"\xff\xfe\xfd", b"day: 2023-45-67", b"[" * 100_000):
        (tmp_path / "bag" / "metadata.yaml").write_bytes(content)
        with pytest.raises(RuntimeError, match=r"metadata\.yaml cannot be understood"):
            file.topic_types(tmp_path / "bag")


# Runs a launch file as `ros2 launch` does, and ends it with Ctrl-C's signal once `wanted` nodes are active; 0: once a
# process has been started.
RUN = """
import os, signal, sys, threading
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessStart
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.event_handlers import OnStateTransition

path, wanted, *arguments = sys.argv[1:]
active = []

def on_active(context):
    active.append(context.locals.event.action.node_name)
    if len(active) == int(wanted):
        os.kill(os.getpid(), signal.SIGINT)

def on_start(event, context):
    if wanted == "0":
        os.kill(os.getpid(), signal.SIGINT)

threading.Timer(50, os.kill, (os.getpid(), signal.SIGINT)).start()
service = LaunchService(noninteractive=True)
source = PythonLaunchDescriptionSource(path)
service.include_launch_description(LaunchDescription([
    RegisterEventHandler(OnStateTransition(goal_state="active", entities=[OpaqueFunction(function=on_active)])),
    RegisterEventHandler(OnProcessStart(on_start=on_start)),
    IncludeLaunchDescription(source, launch_arguments=[tuple(a.split(":=")) for a in arguments]),
]))
code = service.run()
print("ACTIVE", sorted(active), "CODE", code, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("name", "nodes"),
    [("wildhands.launch.py", ["/wildhands"]), ("two_cameras.launch.py", ["/chest/wildhands", "/head/wildhands"])],
)
def test_nodes_are_launched_activated_and_stopped(
    built: None, rig_install: Path, models_dir: Path, tmp_path: Path, name: str, nodes: list[str]
) -> None:
    """The real thing: processes, the life cycle over services, and Ctrl-C."""
    said = launched(rig_install, tmp_path, name, len(nodes), f"models_dir:={models_dir}")
    assert f"ACTIVE {nodes}" in said, said
    assert said.count("process has finished cleanly") == len(nodes), said


def test_launch_ends_with_a_node_that_cannot_start(built: None, rig_install: Path, tmp_path: Path) -> None:
    """Nothing waits for the services of a process that is gone."""
    said = launched(rig_install, tmp_path, "wildhands.launch.py", 99, "image:=//")
    assert "process has died" in said and "interrupted" not in said, said


def test_launch_ends_with_a_node_that_dies_while_it_is_configured(
    built: None, rig_install: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for the answer of a process that is gone."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'wildhands_node' in str(sys.orig_argv):\n"
        "    from wildhands_ros.pipeline import Pipeline\n"
        "    Pipeline.from_config = lambda config: os.kill(os.getpid(), 9)\n"  # for lack of memory, say
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    said = launched(rig_install, tmp_path, "wildhands.launch.py", 99)
    assert "process has died" in said and "exit code -9" in said and "interrupted" not in said, said


def test_launch_is_interrupted_while_the_node_starts(built: None, rig_install: Path, tmp_path: Path) -> None:
    said = launched(rig_install, tmp_path, "wildhands.launch.py", 0)
    assert "ACTIVE [] CODE 0" in said, said


def test_looking_for_the_node_leaves_nothing_behind(built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times a second, for as long as the node takes; launch asks every event handler about every event."""
    file, context = load("wildhands.launch.py"), given("wildhands.launch.py")
    clients: list[object] = []
    ros_node = SimpleNamespace(
        create_client=lambda *_: SimpleNamespace(service_is_ready=lambda: True), count_publishers=lambda topic: 0
    )
    context.extend_globals({"ros_adapter": SimpleNamespace(ros_node=ros_node)})
    handlers: list[object] = []
    monkeypatch.setattr(context, "register_event_handler", handlers.append)

    async def look() -> None:
        context._set_asyncio_loop(asyncio.get_running_loop())
        for _ in range(5):
            node = SimpleNamespace(return_code=None, node_name="/wildhands")
            (timer,) = file._configure_when_there(context, node, clients)
            timer.execute(context)

    asyncio.run(look())
    assert len(handlers) == 1 and len(clients) == 1  # of all timers together


def test_nothing_is_asked_of_the_node_while_launch_ends(built: None) -> None:
    asked: list[int] = []
    client = SimpleNamespace(call_async=lambda request: asked.append(request.transition.id))
    for ends in (True, False):
        load("wildhands.launch.py")._ask(SimpleNamespace(is_shutdown=ends), [client], 3)
    assert asked == [3]


@pytest.mark.parametrize(
    ("chosen", "player_code", "code", "reason"),
    [
        ((), 0, 0, "[bag-2]: process has finished cleanly"),
        ((), 3, 1, "the bag was not played to its end (exit code 3)"),
        (("estimator:=open", "checkpoint:=/nowhere.safetensors"), 0, 1, "the node could not be configured"),
        (("camera_info:=//",), 0, 1, "the node has ended (exit code 1)"),
    ],
    ids=["played", "not played", "not configured", "not started"],
)
def test_a_replay_ends_and_says_whether_it_went_well(
    built: None, rig_install: Path, models_dir: Path, tmp_path: Path,
    chosen: tuple[str, ...], player_code: int, code: int, reason: str,
) -> None:  # fmt: skip
    bag = write_bag(tmp_path / "bag", {"/image": "sensor_msgs/msg/Image"})
    player = tmp_path / "bin" / "ros2"
    player.parent.mkdir()
    player.write_text(f"#!/bin/sh\nexit {player_code}\n")
    player.chmod(0o755)
    said = launched(rig_install, tmp_path, "replay.launch.py", 99, f"models_dir:={models_dir}", f"bag:={bag}", *chosen)
    assert reason in said and f"CODE {code}" in said, said


def launched(rig_install: Path, folder: Path, name: str, wanted: int, *arguments: str) -> str:
    """What a launch file of the installed package says until it has ended. folder/bin: programs found first."""
    prefixes = [str(rig_install), *filter(None, [os.environ.get("AMENT_PREFIX_PATH"), sys.prefix])]
    site_packages = next(rig_install.glob("lib/python3*/*-packages"))
    environment = os.environ | {
        "AMENT_PREFIX_PATH": os.pathsep.join(prefixes),
        "PYTHONPATH": os.pathsep.join([str(site_packages), os.environ.get("PYTHONPATH", "")]),
        "PATH": os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "ROS_DOMAIN_ID": str(own_domain()),
        "ROS_LOG_DIR": str(folder),
    }
    file = rig_install / "share/wildhands_ros/launch" / name
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(file), str(wanted), *arguments]
    process = subprocess.Popen(
        command, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"launch does not end:\n{process.communicate()[0]}") from None
    return said


# --- RViz, Foxglove and SROS 2 against the node that runs -----------------------------------------------------------


@pytest.fixture(scope="module")
def bench(start: Callable[..., Any]) -> Bench:
    """A node that waits for TF too, and is known with all its services."""
    bench = start(Bench, "fake", "--ros-args", "-p", "target_frame:=base")

    def services() -> set[str]:
        if ("wildhands", "/") not in bench.node.get_node_names_and_namespaces():
            return set()
        return {name for name, _ in bench.node.get_service_names_and_types_by_node("wildhands", "/")}

    bench.wait(lambda: bench.state() == "active", "it does not become active")
    bench.wait(lambda: services() >= policy("service", "reply"), "it lacks services that the policy names")
    return bench


@pytest.fixture(scope="module")
def publishes(bench: Bench) -> dict[str, str]:
    """Topic → type."""
    return {name: kinds[0] for name, kinds in bench.node.get_publisher_names_and_types_by_node("wildhands", "/")}


def rviz() -> dict[str, Any]:
    return yaml.safe_load((CONFIG / "wildhands.rviz").read_text())


def rviz_topics() -> list[tuple[str, str, dict[str, Any]]]:
    """Class of the display, topic, and QoS."""
    displays = rviz()["Visualization Manager"]["Displays"]
    return [(d["Class"], d["Topic"]["Value"], d["Topic"]) for d in displays if "Topic" in d]


def classes(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("Class"):
            yield value["Class"]
        for part in value.values():
            yield from classes(part)
    elif isinstance(value, list):
        for part in value:
            yield from classes(part)


def test_rviz_knows_the_classes() -> None:
    assert set(classes(rviz())) == RVIZ_CLASSES


def test_rviz_shows_what_the_node_publishes(publishes: dict[str, str]) -> None:
    kinds = {"Image": "Image", "MarkerArray": "MarkerArray", "PointCloud2": "PointCloud2", "Camera": "Image"}
    shown = rviz_topics()
    for display, topic, _ in shown:
        kind = kinds[display.partition("/")[2]]
        assert publishes.get(topic, "sensor_msgs/msg/Image" if topic == "/image" else None).endswith(f"/{kind}"), topic
    assert {"/image", "/wildhands/image_annotated", "/wildhands/markers"} <= {topic for _, topic, _ in shown}


def test_rviz_asks_for_qos_that_is_offered(bench: Bench) -> None:
    """Best effort of cameras, which offer whatever they like; of the node what it offers."""
    for _, topic, asked in rviz_topics():
        assert asked["Durability Policy"] == "Volatile"
        if topic in CAMERA_TOPICS:
            assert asked["Reliability Policy"] == "Best Effort"
        else:
            offered = bench.node.get_publishers_info_by_topic(topic)[0].qos_profile
            assert asked["Reliability Policy"] == offered.reliability.name.title().replace("_", " ")


def test_rviz_names_the_marker_namespaces() -> None:
    from node_fakes import FACES, make_hand
    from std_msgs.msg import Header

    from wildhands_ros.hands import Side

    hands = [make_hand(side) for side in Side]
    _, keys = hand_markers(hands, Header(), dict.fromkeys(Side, FACES))
    saved = next(d for d in rviz()["Visualization Manager"]["Displays"] if "Namespaces" in d)
    assert set(saved["Namespaces"]) == {namespace for namespace, _ in keys}


def foxglove() -> dict[str, Any]:
    return json.loads((CONFIG / "foxglove_layout.json").read_text())


def leaves(layout: object) -> Iterator[str]:
    if isinstance(layout, dict):
        assert layout["direction"] in ("row", "column") and 0 < layout["splitPercentage"] < 100
        yield from leaves(layout["first"])
        yield from leaves(layout["second"])
    else:
        assert isinstance(layout, str)
        yield layout


def test_foxglove_layout_places_every_panel_once() -> None:
    layout = foxglove()
    placed = list(leaves(layout["layout"]))
    assert sorted(placed) == sorted(layout["configById"])
    assert {panel.partition("!")[0] for panel in placed} == FOXGLOVE_PANELS


def test_foxglove_shows_what_the_node_publishes(publishes: dict[str, str]) -> None:
    known = publishes.keys() | CAMERA_TOPICS
    for name, panel in foxglove()["configById"].items():
        modes = panel.get("imageMode", {})
        used = {*panel.get("topics", {}), *modes.values(), *filter(None, [panel.get("topicToRender")])}
        assert used <= known, name


def test_foxglove_plots_fields_that_exist(publishes: dict[str, str]) -> None:
    paths = [path["value"] for panel in foxglove()["configById"].values() for path in panel.get("paths", [])]
    assert {path.partition(".")[0] for path in paths} == {"/wildhands/latency", "/wildhands/hands"}
    for path in paths:
        topic, _, field = path.partition(".")
        if topic == "/wildhands/latency":
            assert publishes[topic] == "std_msgs/msg/Float64" and field == "data"
            continue
        first, _, rest = field.partition(".")
        assert first.removesuffix("[0]") in HandPoseArray.get_fields_and_field_types()
        assert not rest or rest in HandPose.get_fields_and_field_types()


def policy(kind: str, rule: str, enclave: str = "/wildhands") -> set[str]:
    """Full names that the policy lets the enclave use so; kind: topic or service."""
    root = ElementTree.parse(CONFIG / "sros2/wildhands_policy.xml").getroot()
    names = set()
    for profile in root.findall(f"./enclaves/enclave[@path='{enclave}']/profiles/profile"):
        space, node = profile.attrib["ns"].rstrip("/"), profile.attrib["node"]
        for group in profile.findall(f"{kind}s[@{rule}='ALLOW']"):
            for element in group:
                text = str(element.text).replace("~", f"{space}/{node}")
                names.add(text if text.startswith("/") else f"{space}/{text}")
    return names


def test_policy_allows_what_the_node_does_and_no_more(bench: Bench, publishes: dict[str, str]) -> None:
    def names(found: list[tuple[str, list[str]]]) -> set[str]:
        return {name for name, _ in found}

    node = bench.node
    optional = {"/image/compressed", "/bond", "/clock", "/parameter_events"}
    assert publishes.keys() - policy("topic", "publish") == set()
    assert policy("topic", "publish") - publishes.keys() <= optional
    subscribes = names(node.get_subscriber_names_and_types_by_node("wildhands", "/"))
    assert subscribes >= {"/tf", "/tf_static", "/image"}
    assert subscribes - policy("topic", "subscribe") == set()
    assert policy("topic", "subscribe") - subscribes <= optional
    assert policy("service", "reply") == names(node.get_service_names_and_types_by_node("wildhands", "/"))
    assert policy("service", "request") == set()


def test_operator_may_ask_for_every_service(bench: Bench) -> None:
    assert policy("service", "request", "/wildhands_operator") == policy("service", "reply")
    assert policy("topic", "subscribe", "/wildhands_operator") >= {"/wildhands/transition_event", "/diagnostics"}


def test_operator_may_launch(bench: Bench) -> None:
    """`ros2 launch` makes a node of its own, which offers what every node does."""
    node = Node("launch_ros_123", context=bench.node.context)
    own = {f"/launch_ros_123/{name.rpartition('/')[2]}" for name in policy("service", "reply", "/wildhands_operator")}
    try:
        found: set[str] = set()

        def services() -> bool:
            nonlocal found
            found = {name for name, _ in bench.node.get_service_names_and_types_by_node("launch_ros_123", "/")}
            return found >= own

        bench.wait(services, "launch's node lacks services that the policy names")
    finally:
        node.destroy_node()
    assert found == own


# --- what docs/security.md promises -------------------------------------------------------------------------------


def test_no_code_comes_from_data() -> None:
    """No eval, exec or shell; of pickle only the readers that build nothing but arrays (see hand_model/pickles.py)."""
    found = set()
    for path in (ROOT / "wildhands_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= {(path.relative_to(ROOT).as_posix(), danger) for danger in dangers(node)}
    assert found == set()


def dangers(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"):
        yield name
    if name in ("pickle.load", "pickle.loads", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "marshal.loads"):
        yield name
    if options.get("shell", "False") != "False":
        yield "shell"
    if options.get("allow_pickle", "False") != "False":
        yield "allow_pickle"
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only"
