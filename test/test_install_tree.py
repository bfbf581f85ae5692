"""What `ros2 run`, `ros2 launch` and `ros2 interface` look for, in a tree installed the way colcon does it."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from domains import own_domain
from repository import ROOT, files_below, package_xml

# packages of the launch files' modules whose names differ
PACKAGES = {"yaml": "python3-yaml"}


@pytest.fixture(scope="module")
def share(rig_install: Path) -> Path:
    return rig_install / "share" / "wildhands_ros"


@pytest.mark.parametrize("folder", ["config", "launch"])
def test_folders_are_installed_whole(share: Path, folder: str) -> None:
    assert files_below(ROOT / folder) == files_below(share / folder)
    for name in files_below(ROOT / folder):
        assert (share / folder / name).read_bytes() == (ROOT / folder / name).read_bytes()


def test_nothing_compiled_is_installed_with_the_launch_files(share: Path) -> None:
    assert not list((share / "launch").rglob("__pycache__"))


def test_ros2_launch_finds_the_launch_files(share: Path) -> None:
    """It takes files that end so, anywhere below share/<package>."""
    names = {path.name for path in share.rglob("*launch.py")}
    assert names >= {"wildhands.launch.py", "replay.launch.py", "rviz.launch.py", "two_cameras.launch.py"}


def test_ros2_run_finds_the_executables(rig_install: Path) -> None:
    """Files that may be executed in lib/<package>, whose interpreter is found on the PATH."""
    found = {path.name for path in (rig_install / "lib/wildhands_ros").iterdir() if path.stat().st_mode & stat.S_IXUSR}
    assert found == {"wildhands", "wildhands_node"}
    for name in found:
        first = (rig_install / "lib/wildhands_ros" / name).read_text().splitlines()[0]
        assert first == "#!/usr/bin/env python3"


def test_the_installed_package_is_this_one(rig_install: Path) -> None:
    """Not the empty one that rosidl makes for the messages, whose folder it shares."""
    package = next(rig_install.glob("lib/python3*/*-packages")) / "wildhands_ros"
    assert files_below(package) >= files_below(ROOT / "wildhands_ros") | {Path("msg/__init__.py")}
    assert (package / "__init__.py").read_text() == (ROOT / "wildhands_ros/__init__.py").read_text()


def test_the_installed_node_starts(rig_install: Path) -> None:
    """As `ros2 run` starts it; without a camera it is asked for nothing but its usage of ROS arguments."""
    site_packages = next(rig_install.glob("lib/python3*/*-packages"))
    path = [str(site_packages), *filter(None, [os.environ.get("PYTHONPATH")])]  # a distribution's rclpy is found by it
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "ROS_DOMAIN_ID": str(own_domain())}
    command = [sys.executable, rig_install / "lib/wildhands_ros/wildhands_node", "--ros-args", "-p", "min_score:=7.0"]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "min_score" in done.stderr, done.stderr


@pytest.mark.parametrize("marker", ["packages", "package_run_dependencies", "rosidl_interfaces", "parent_prefix_path"])
def test_ament_index_has_the_markers(rig_install: Path, marker: str) -> None:
    assert (rig_install / "share/ament_index/resource_index" / marker / "wildhands_ros").is_file()


def test_ros2_interface_finds_the_messages(rig_install: Path, share: Path) -> None:
    """The index lists them, and each one's definition and type description are there."""
    listed = (rig_install / "share/ament_index/resource_index/rosidl_interfaces/wildhands_ros").read_text().split()
    messages = {path.stem for path in (ROOT / "msg").glob("*.msg")}
    assert {f"msg/{name}.msg" for name in messages} <= set(listed)
    for name in messages:
        assert (share / "msg" / f"{name}.msg").read_text() == (ROOT / "msg" / f"{name}.msg").read_text()
        described = json.loads((share / "msg" / f"{name}.json").read_text())
        assert described["type_description_msg"]["type_description"]["type_name"] == f"wildhands_ros/msg/{name}"


def test_every_type_in_the_messages_is_of_a_declared_package(share: Path) -> None:
    declared = {element.text for element in package_xml() if element.tag == "depend"}
    for path in (ROOT / "msg").glob("*.msg"):
        described = json.loads((share / "msg" / f"{path.stem}.json").read_text())["type_description_msg"]
        used = {kind["type_name"].partition("/")[0] for kind in described["referenced_type_descriptions"]}
        assert used <= declared | {"wildhands_ros"}, path.name


def test_package_xml_declares_what_the_launch_files_use() -> None:
    declared = {element.text for element in package_xml() if element.tag in ("depend", "exec_depend")}
    used = {"ros2launch", "rosbag2"}  # `ros2 launch` itself, and `ros2 bag play` in replay.launch.py
    for path in (ROOT / "launch").glob("*.py"):
        used |= {PACKAGES.get(name, name) for name in imported(path)}
    assert used - sys.stdlib_module_names - {"wildhands_ros"} <= declared


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
