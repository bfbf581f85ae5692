"""What several test files share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from wildhands_ros.detection import default_models_dir, models_missing
from wildhands_ros.telemetry import keep_backends_silent

if TYPE_CHECKING:  # needs ROS
    from node_bench import Process

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

keep_backends_silent()  # some tests import them by themselves

_ROOT = Path(__file__).resolve().parents[1]

# The same examples in every run, however slow the machine: a failure is the change's, and comes back when looked for.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


# What only the extras bring (rendering, training, the demo's photographs, faster runtimes, the reference for tests,
# another reader of bags): a robot needs none of it.
_EXTRAS = frozenset(
    (
        "deodr", "lightning", "matplotlib", "mcap", "mcap_ros2", "numba", "onnx", "onnxruntime", "openvino", "smplx",
        "tensorboard", "trimesh",
    )
)  # fmt: skip


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """On a ROS distribution (`colcon test`), files about what is not installed there are skipped, with the reason.

    On any other machine everything has to be there.
    """
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", str(report.longrepr or ""))
    if report.failed and missing and missing[1] in _EXTRAS and _on_a_distribution():
        report.outcome = "skipped"
        file = getattr(collector, "path", None) or collector.fspath  # pytest 6, of older distributions, has only this
        report.longrepr = (str(file), None, f"Skipped: needs {missing[1]}, which is not installed here")


def _on_a_distribution() -> bool:
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return any(Path(prefix, "share/rclpy/package.xml").is_file() and prefix != sys.prefix for prefix in prefixes)


# Where processes talk over topics, and are waited for: these tests stay with one worker of pytest-xdist, one after the
# other, beside those that only compute.
_LIVE = frozenset(
    f"test_{name}"
    for name in (
        "demo", "diagnostics", "install_tree", "launch", "lifecycle", "node", "node_executor", "node_overhead",
        "node_transforms", "packaging", "player_recorder", "services", "signals", "survival", "wildhands_live",
    )
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of every file all tests run in one worker, as they share what takes long to make; the largest are begun first."""
    if config.getvalue("dist") != "load":
        return None  # somebody wants another way
    from xdist.scheduler import LoadScopeScheduling  # which a distribution may lack

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.partition("::")[0]).stem
            return "live" if name in _LIVE else name

    return ByFile(config, log)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks run faster so."""
    import torch  # which takes seconds, and most tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder with the detector's models, verified."""
    directory = default_models_dir()
    missing = models_missing(directory)
    if missing:
        pytest.fail("\n".join(missing) + "\nthe tests need the detector's models: run `wildhands models fetch`")
    return directory


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has no home folder: as in a container that runs as a number for which there is no user."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts a `node_bench.Process` or `Bench` that is stopped after the module's tests."""
    started: list[Process] = []

    def start(kind: type[Process], *arguments: str, **options: Any) -> Process:
        log = tmp_path_factory.mktemp("node") / "log.txt"
        started.append(kind(log, *arguments, **options))
        return started[-1]

    yield start
    for process in reversed(started):  # guests before whose domain it is
        process.stop()


@pytest.fixture(scope="session")
def rig_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What colcon would install: the same CMake project, built with Python modules and executables."""
    folder = tmp_path_factory.mktemp("rig")
    # From 2.8.7 on, ament_cmake installs rosidl's Python package, with its empty __init__.py, after everything else
    # that CMakeLists.txt asks for; so does this, with any.
    project = folder / "project.cmake"
    (folder / "__init__.py").touch()
    project.write_text(
        f'include("{_ROOT / "cmake" / "wheels.cmake"}")\ncmake_language(DEFER CALL install FILES '
        f'"{folder / "__init__.py"}" DESTINATION "${{PYTHON_INSTALL_DIR}}/wildhands_ros")\n'
    )
    environment = {"AMENT_PREFIX_PATH": sys.prefix, **os.environ}  # a sourced distribution has set its own
    environment["PATH"] = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ["PATH"]])
    prefixes = environment["AMENT_PREFIX_PATH"].replace(os.pathsep, ";")  # CMake's lists
    configure = [
        "cmake", "-S", _ROOT, "-B", folder / "build",
        *(["-G", "Ninja"] if shutil.which("ninja", path=environment["PATH"]) else []),
        f"-DCMAKE_INSTALL_PREFIX={folder / 'install'}", f"-DCMAKE_PREFIX_PATH={prefixes}",
        f"-DCMAKE_PROJECT_INCLUDE={project}", f"-DPython3_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", folder / "build"], ["cmake", "--install", folder / "build"]):
        done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return folder / "install"
