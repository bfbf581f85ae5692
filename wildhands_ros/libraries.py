"""The libraries that live estimation needs, and how to get one that is missing. Imports none of them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator

from wildhands_ros.errors import WildHandsError

NEEDED = {
    "numpy": "numpy", "scipy": "scipy", "cv2": "opencv-python-headless", "torch": "torch", "yaml": "PyYAML",
    "ai_edge_litert": "ai-edge-litert", "safetensors": "safetensors", "tqdm": "tqdm",
    "rosbags": "rosbags", "apsw": "apsw", "lz4": "lz4",
}  # fmt: skip
"""Module → the package on PyPI that has it."""

TRAINING = "lightning tensorboard matplotlib numba"
"""What training needs besides."""

_FROM_ROSDEP = frozenset({"numpy", "scipy", "opencv-python-headless", "PyYAML", "tqdm"})  # package.xml


def on_distribution() -> bool:
    """Whether ROS 2 is here, and not from PyPI."""
    return importlib.util.find_spec("rclpy") is not None and version_of("ros-rclpy") is None


def version_of(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def how_to_get(package: str) -> str:
    """How to install missing packages from PyPI: never with plain pip beside a ROS 2 distribution.

    pip would put newer versions in front of the distribution's own packages. Where no distribution is sourced, one may
    be installed all the same, so both ways are named. package: one name, or several separated by spaces.
    """
    needed = package in NEEDED.values()
    if package in _FROM_ROSDEP:
        rig = "rosdep install"
    else:  # with requirements-rig.txt it installs what it is told beside them
        rig = "python3 tools/setup_rig.py" + ("" if needed or package.startswith("smplx") else f" {package}")
    if on_distribution():
        return f"{rig} (docs/installation.md)"
    plain = (
        f"make setup, or pip install {package} in an environment of your own" if needed else f"pip install {package}"
    )
    return f"{plain}; on a ROS 2 distribution {rig} (docs/installation.md)"


@contextlib.contextmanager
def needed_for(purpose: str, packages: str = "") -> Iterator[None]:
    """For imports of optional libraries: where a third-party module is missing, WildHandsError says how to get it.

    purpose: what it is needed for, the beginning of the sentence. packages: to install, where the module is not among
    those that live estimation needs; by default one of the module's name.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = error.name or ""
        if missing_module(error) is None:
            raise
        wanted = NEEDED.get(name) or packages or name
        raise WildHandsError(f"{purpose} needs {name}: {how_to_get(wanted)}") from error


def missing_module(error: ModuleNotFoundError) -> str | None:
    """One line that names a missing module and the remedy; None where it is a bug of ours that it is missing."""
    module = (error.name or "").partition(".")[0]
    if (error.name or "").startswith("wildhands_ros.msg"):
        return "the ROS messages are not built: make setup, or colcon build and source install/setup.bash"
    if module in ("", "wildhands_ros") or module in sys.stdlib_module_names:
        return None
    if module in NEEDED:
        return f"the library {NEEDED[module]} is missing: {how_to_get(NEEDED[module])}"
    return (
        f"the module {error.name} is missing: make setup installs all that is needed; on a ROS 2 distribution rosdep "
        "install and tools/setup_rig.py do (docs/installation.md)"
    )
