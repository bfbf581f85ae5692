"""Builds the ROS messages for pip by running the CMake build that colcon uses, against the ROS 2 wheels.

Everything else about the package is in pyproject.toml. On a ROS 2 distribution use `colcon build` instead, which does
not come here; building against a sourced distribution with pip is refused, since mixing its libraries with the wheels'
gives crashes that nobody understands.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent


class BuildMessages(build_ext):
    """Generates and compiles the messages and ships CMake's install tree as data files, as the ROS 2 wheels do."""

    def run(self) -> None:
        refuse_sourced_distribution()
        work = Path(self.build_temp).resolve()
        staging = work / "install"
        shutil.rmtree(staging, ignore_errors=True)
        for source in interface_packages():
            self.announce(f"building the messages of {source}", level=2)
            build_interfaces(source, work / source.name, staging)
        self.distribution.data_files = list(data_files(staging))
        if self.editable_mode:  # an editable wheel leaves data files out unless asked for
            self.run_command("install_data")

    def get_source_files(self) -> list[str]:
        """What a source distribution needs beside the Python modules."""
        patterns = ("CMakeLists.txt", "package.xml", "cmake/*", "msg/*", "config/**/*", "launch/*", "scripts/*")
        files = [path for pattern in patterns for path in ROOT.glob(pattern)]
        files += (ROOT / "third_party").rglob("*")
        return [str(path.relative_to(ROOT)) for path in files if path.is_file() and "__pycache__" not in path.parts]

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def interface_packages() -> list[Path]:
    """The CMake projects to build: ours, and tf2_msgs where no other package brings it."""
    if not tf2_msgs_is_provided():
        return [ROOT, ROOT / "third_party" / "tf2_msgs"]
    return [ROOT]


def tf2_msgs_is_provided() -> bool:
    """Whether a prefix other than the one installed into, or a wheel of its own, has tf2_msgs."""
    prefixes = [prefix for prefix in ament_prefixes() if prefix != Path(sys.prefix).resolve()]
    if any((prefix / "share/tf2_msgs/package.xml").is_file() for prefix in prefixes):
        return True
    try:
        distribution("ros-tf2-msgs")
    except PackageNotFoundError:
        return False
    return True


def refuse_sourced_distribution() -> None:
    own = {Path(sys.prefix).resolve(), wheels_prefix()}
    sourced = [p for p in ament_prefixes() if p not in own and (p / "share/rclpy/package.xml").is_file()]
    if sourced:
        raise SetupError(
            f"A ROS 2 distribution is sourced ({sourced[0]}), and its libraries must not be mixed with the ROS 2 "
            "wheels from PyPI. Build with `colcon build` instead (docs/installation.md), or use a shell in which no "
            "setup.bash has been sourced."
        )


def ament_prefixes() -> list[Path]:
    return [Path(prefix).resolve() for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]


def wheels_prefix() -> Path:
    """The prefix into which pip put the ROS 2 wheels; under build isolation it is not sys.prefix."""
    spec = find_spec("rosidl_adapter")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            "The ROS 2 message generators are not installed: they are build requirements in pyproject.toml, so let pip "
            "install them (no --no-build-isolation), or install them first as the Makefile does."
        )
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    site_packages = Path("lib", f"python{sysconfig.get_python_version()}", "site-packages")
    if package.parent.parts[-3:] != site_packages.parts:
        raise SetupError(
            f"rosidl_adapter is in {package.parent}, not in a lib/python*/site-packages folder as the ROS 2 wheels put "
            "it. On a ROS 2 distribution build with `colcon build` (docs/installation.md)."
        )
    return package.parents[3]


def build_interfaces(source: Path, build: Path, staging: Path) -> None:
    prefix = wheels_prefix()
    libraries = [prefix / "lib", *package_folder_siblings(prefix)]
    environment = os.environ | {
        "AMENT_PREFIX_PATH": str(prefix),
        "PATH": os.pathsep.join([str(prefix / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join([*map(str, libraries), os.environ.get("LD_LIBRARY_PATH", "")]),
    }
    # CMake caches absolute paths of the interpreter and the wheels; isolated builds get new ones each time
    shutil.rmtree(build, ignore_errors=True)
    configure = [
        "cmake", "-S", source, "-B", build, "-G", "Ninja",
        f"-DCMAKE_INSTALL_PREFIX={staging}",
        f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'wheels.cmake'}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_TESTING=OFF",
        "-DWILDHANDS_ROS_PYTHON=OFF",
        "--no-warn-unused-cli",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", build], ["cmake", "--install", build]):
        run(command, environment)


def package_folder_siblings(prefix: Path) -> list[Path]:
    """Folders into which the wheels' vendored shared libraries were bundled."""
    return sorted((prefix / "lib").glob("python*/site-packages/ros_*.libs"))


def run(command: list[str | Path], environment: dict[str, str]) -> None:
    words = [str(word) for word in command]
    try:
        finished = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError as error:
        raise SetupError(f"`{words[0]}` was not found: install it with pip (it is a build requirement)") from error
    if finished.returncode != 0:
        raise SetupError(
            f"`{' '.join(words)}` failed with exit code {finished.returncode}. It needs a C and C++ compiler and "
            f"Python's headers (Debian, Ubuntu: apt install g++ python3-dev).\n{finished.stdout}"
        )


def data_files(staging: Path) -> Iterator[tuple[str, list[str]]]:
    """Pairs of a folder below the prefix and the files that go there."""
    for folder, _, names in os.walk(staging):
        relative = Path(folder).relative_to(staging)
        files = [str(Path(folder, name)) for name in sorted(names) if is_payload(relative / name)]
        if files:
            yield str(relative), files


def is_payload(path: Path) -> bool:
    """Leaves out bytecode, the metadata that pip writes itself, and the empty __init__.py rosidl makes for our name."""
    if "__pycache__" in path.parts or any(part.endswith(".egg-info") for part in path.parts):
        return False
    return path.parts[-3:] != ("site-packages", "wildhands_ros", "__init__.py")


# The extension stands for the messages, so that setuptools makes a wheel for this Python and platform.
setup(
    ext_modules=[Extension("wildhands_ros._messages", sources=[])],
    cmdclass={"build_ext": BuildMessages},
)
