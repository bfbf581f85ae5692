"""The package as it is built, described and installed, by pip and the way colcon does it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from repository import ROOT, files_below, package_xml

import wildhands_ros
from wildhands_ros.cli import doctor

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

# of tf2_msgs/msg/TFMessage in every ROS 2 distribution that has type hashes
TF_MESSAGE_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"

# Python modules whose ROS package has another name
PACKAGE_OF_MODULE = {"cv2": "python3-opencv", "tf2_ros": "tf2_ros_py", "yaml": "python3-yaml"}

# what requirements-rig.txt brings: no rosdep key that works on every distribution
RIG_REQUIREMENTS = {"torch", "smplx", "safetensors", "ai-edge-litert", "rosbags"}
RIG_MODULES = {"torch", "smplx", "safetensors", "ai_edge_litert", "rosbags"}
RIG_MODULES |= {"lz4", "backports", "compression"}  # the codecs that rosbags requires itself

# imported only where somebody asks for them: the extras `demo` and `fast`
OPTIONAL_MODULES = {"deodr", "trimesh", "onnx", "onnxruntime", "openvino"}
OPTIONAL_MODULES |= {"bondpy"}  # for those who use a lifecycle manager with bonds
OPTIONAL_MODULES |= {"filelock", "lightning", "matplotlib", "numba"}  # the extra `train`


@pytest.fixture(scope="module")
def package() -> ElementTree.Element:
    return package_xml()


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


# --- package.xml --------------------------------------------------------------------------------------------------


def test_package_xml_is_valid_format_3(package: ElementTree.Element) -> None:
    from catkin_pkg.package import parse_package

    parsed = parse_package(str(ROOT / "package.xml"))  # raises for anything that REP-149 forbids
    assert parsed.package_format == 3
    assert parsed.get_build_type() == "ament_cmake"
    assert parsed.licenses == ["Apache-2.0"]
    assert "rosidl_interface_packages" in {group.text for group in package.findall("member_of_group")}


def test_versions_agree(package: ElementTree.Element) -> None:
    assert package.findtext("version") == wildhands_ros.__version__


def test_package_xml_declares_what_the_code_imports(package: ElementTree.Element) -> None:
    declared = {element.text for element in package if element.tag in ("depend", "exec_depend")}
    declared_or_provided = declared | RIG_MODULES | OPTIONAL_MODULES
    missing = {
        module: str(path.relative_to(ROOT))
        for path in sorted((ROOT / "wildhands_ros").rglob("*.py"))
        for module in imported_modules(path)
        if not ({module, PACKAGE_OF_MODULE.get(module), f"python3-{module}"} & declared_or_provided)
    }
    assert missing == {}


def test_no_comment_of_a_message_ends_in_what_rosidl_takes_for_a_unit() -> None:
    """Brackets at the end of a comment, without a comma in them: it moves them into an annotation."""
    comments = [
        line.partition("#")[2] for path in (ROOT / "msg").glob("*.msg") for line in path.read_text().splitlines()
    ]
    assert not [comment for comment in comments if re.search(r"\[[^,\]]*\]\s*$", comment)]


def test_core_does_not_import_ros() -> None:
    ros = re.compile(r"(rclpy|tf2_\w+|cv_bridge|tf_transformations|launch\w*|\w+_interfaces|\w+_msgs|\w+_srvs)$")
    offenders = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / "wildhands_ros").rglob("*.py")
        if "node" not in path.relative_to(ROOT).parts[1:-1]
        for module in imported_modules(path)
        if ros.match(module)
    }
    assert offenders == set()


def imported_modules(path: Path) -> set[str]:
    """Top-level names that a file imports, without the standard library and this package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"wildhands_ros"}


# --- messages -----------------------------------------------------------------------------------------------------


def test_every_message_is_in_the_build() -> None:
    listed = set(re.findall(r"^\s*msg/(\w+\.msg)$", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "msg").glob("*.msg")}


def test_messages_and_modules_form_one_package() -> None:
    """In a process of its own, as a user has it, started outside of the source tree."""
    program = (
        "import rclpy\n"
        "from wildhands_ros.msg import HandPose, HandPoseArray\n"
        "from wildhands_ros.camera import Camera\n"
        "from tf2_msgs.msg import TFMessage\n"
        "assert len(HandPose().joints) == HandPose.JOINT_COUNT == 21\n"
        "assert HandPoseArray().hands == [] and TFMessage().transforms == []\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_generated_messages_are_those_of_the_source_tree() -> None:
    """Fails where a .msg file was changed after the last build: run `make setup`."""
    built = share_folder("wildhands_ros") / "msg"
    for source in (ROOT / "msg").glob("*.msg"):
        assert (built / source.name).read_text() == source.read_text(), f"{source.name} is newer than its build"


def test_tf_message_has_the_real_type_hash() -> None:
    """DDS peers compare these: with another one, real ROS 2 nodes would not take our transforms."""
    description = json.loads((share_folder("tf2_msgs") / "msg/TFMessage.json").read_text())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in description["type_hashes"]}
    assert hashes["tf2_msgs/msg/TFMessage"] == TF_MESSAGE_HASH


def share_folder(package: str) -> Path:
    """Where a ROS package is installed: in a sourced prefix, or in the environment's, which needs no sourcing."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    return next(Path(p, "share", package) for p in prefixes if p and Path(p, "share", package).is_dir())


# --- the way colcon does it ---------------------------------------------------------------------------------------


def test_rig_install_has_what_ros_looks_for(rig_install: Path) -> None:
    share = rig_install / "share"
    assert (share / "wildhands_ros/package.xml").is_file()
    assert (share / "ament_index/resource_index/packages/wildhands_ros").is_file()
    for folder in ("msg", "launch", "config"):
        expected = {path.name for path in (ROOT / folder).iterdir() if not path.name.startswith((".", "__"))}
        assert expected <= {path.name for path in (share / "wildhands_ros" / folder).iterdir()}
    for name in ("wildhands", "wildhands_node"):
        assert (rig_install / "lib/wildhands_ros" / name).stat().st_mode & stat.S_IXUSR


def test_rig_install_has_every_file_of_the_package(rig_install: Path) -> None:
    """Modules and data alike: a model file that is not installed is only missed on the robot."""
    installed = next(rig_install.glob("lib/python3*/*-packages/wildhands_ros"))
    assert files_below(ROOT / "wildhands_ros") <= files_below(installed)
    assert (installed / "__init__.py").read_text() == (ROOT / "wildhands_ros/__init__.py").read_text()


def test_rig_install_is_complete_without_the_source_tree(rig_install: Path) -> None:
    site_packages = next(rig_install.glob("lib/python3*/*-packages"))
    program = (
        "import sys\n"
        f"sys.path = [{str(site_packages)!r}] + [p for p in sys.path if p != {str(ROOT)!r}]\n"
        "import wildhands_ros, wildhands_ros.camera\n"
        "from wildhands_ros.msg import HandPoseArray\n"
        "HandPoseArray()\n"
        "print(wildhands_ros.__file__, wildhands_ros.camera.__file__, sys.modules['wildhands_ros.msg'].__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(Path(path).is_relative_to(site_packages) for path in done.stdout.split()), done.stdout


def test_rig_install_brings_no_tf2_msgs(rig_install: Path) -> None:
    """The distribution's own must not be shadowed."""
    assert not list(rig_install.rglob("*tf2_msgs*"))


def test_rig_requirements_hold_nothing_that_a_distribution_provides() -> None:
    lines = (ROOT / "requirements-rig.txt").read_text().splitlines()
    names = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    assert names == RIG_REQUIREMENTS


def test_rig_set_up_pins_what_is_installed(tmp_path: Path) -> None:
    from importlib.metadata import version

    provided = load_script("tools/setup_rig.py").provided()
    assert provided["numpy"] == version("numpy")
    assert provided["setuptools"] == version("setuptools")
    assert not RIG_REQUIREMENTS & provided.keys()


# --- pip ----------------------------------------------------------------------------------------------------------


def test_build_requirements_are_those_of_the_extra(project: dict) -> None:
    """The Makefile installs the extra, pip the build requirements: they must build the same."""
    assert project["build-system"]["requires"] == project["project"]["optional-dependencies"]["build"]


def test_rig_and_pip_ask_for_the_same_versions(project: dict) -> None:
    declared = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["smplx"]]
    wanted = {Requirement(line).name: Requirement(line) for line in declared}
    lines = [line for line in (ROOT / "requirements-rig.txt").read_text().splitlines() if not line.startswith("#")]
    for line in filter(None, lines):
        assert Requirement(line) == wanted[Requirement(line).name]


def test_doctor_knows_every_library_of_the_extras(project: dict) -> None:
    """But those of ROS, which it examines apart, and those of developers."""
    extras = project["project"]["optional-dependencies"]
    wanted = {
        (Requirement(line).name, extra) for extra in extras.keys() - {"ros", "build", "test"} for line in extras[extra]
    }
    assert {(module, extra) for module, extra, _ in doctor._OPTIONAL} == wanted


def test_constraints_pin_everything_the_makefile_installs(project: dict) -> None:
    lines = load_script("tools/setup_requirements.py").requirements(ROOT / "pyproject.toml")
    text = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = [Requirement(line) for line in text if line and not line.startswith("#")]
    for python in ("3.10", "3.11", "3.12", "3.13"):
        pinned = {
            canonicalize_name(c.name): next(iter(c.specifier)).version
            for c in constraints
            if c.marker is None or c.marker.evaluate({"python_version": python})
        }
        for requirement in map(Requirement, lines):
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, (python, requirement)


def test_pip_refuses_to_mix_with_a_sourced_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from setuptools.errors import SetupError

    setup = load_setup(monkeypatch)
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    setup.refuse_sourced_distribution()

    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))  # a workspace without ROS itself is no reason to refuse
    setup.refuse_sourced_distribution()

    (tmp_path / "share/rclpy").mkdir(parents=True)
    (tmp_path / "share/rclpy/package.xml").touch()
    with pytest.raises(SetupError, match="colcon build"):
        setup.refuse_sourced_distribution()


def test_tf2_msgs_is_built_only_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = load_setup(monkeypatch)
    monkeypatch.setenv("AMENT_PREFIX_PATH", sys.prefix)  # our own does not count: reinstalling removes it
    assert ROOT / "third_party/tf2_msgs" in setup.interface_packages()

    (tmp_path / "share/tf2_msgs").mkdir(parents=True)
    (tmp_path / "share/tf2_msgs/package.xml").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join([str(tmp_path), sys.prefix]))
    assert setup.interface_packages() == [ROOT]


@pytest.mark.skipif(
    Version(setuptools.__version__) < Version("77"), reason="pip gets its own setuptools, this is the distribution's"
)
def test_pip_installs_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert files_below(tmp_path / "wildhands_ros") == files_below(ROOT / "wildhands_ros")


def test_console_script_leads_to_the_command_line(project: dict) -> None:
    module, _, function = project["project"]["scripts"]["wildhands"].partition(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    done = subprocess.run([sys.executable, "-c", program, "--help"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def load_setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, without running setup()."""
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    return load_script("setup.py")


def load_script(path: str) -> ModuleType:
    spec = spec_from_file_location(Path(path).stem + "_under_test", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the set-up's own checks --------------------------------------------------------------------------------------


def check_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {name: os.environ[name] for name in ("HOME",) if name in os.environ}
    script = ["/bin/sh", str(ROOT / "tools/setup_python.sh"), *arguments]
    return subprocess.run(script, env=keep | environment, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder to be the whole PATH, with only what a set-up may count on."""
    folder = tmp_path / "bin"
    folder.mkdir()
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    executable(folder / "python3", f'exec "{base}" "$@"')
    for compiler in ("cc", "c++"):
        executable(folder / compiler, "exit 0")
    return folder


def executable(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_set_up_finds_a_python(tools: Path) -> None:
    done = check_python(PATH=str(tools))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).exists()


def test_set_up_names_a_python_that_is_too_new(tools: Path) -> None:
    executable(tools / "python3", 'case "$*" in *version_info*) exit 1 ;; *) echo Python 3.14.1 ;; esac')
    done = check_python(PATH=str(tools))
    assert done.returncode == 1 and "3.14.1" in done.stderr and "make PYTHON=" in done.stderr


def test_set_up_does_not_replace_the_python_that_was_asked_for(tools: Path) -> None:
    done = check_python("/no/such/python", PATH=str(tools))
    assert done.returncode == 1 and "/no/such/python" in done.stderr


def test_set_up_asks_for_a_compiler(tools: Path) -> None:
    (tools / "c++").unlink()
    done = check_python(PATH=str(tools))
    assert done.returncode == 1 and "apt install g++" in done.stderr


def test_set_up_asks_for_venv(tools: Path) -> None:
    (tools / "python3").rename(tools / "real")
    executable(tools / "python3", f'case "$*" in *ensurepip*) exit 1 ;; *) exec {tools}/real "$@" ;; esac')
    executable(tools / "python", f'exec {tools}/python3 "$@"')
    done = check_python(str(tools / "python3"), PATH=str(tools))
    assert done.returncode == 1 and "python3-venv" in done.stderr


def test_set_up_refuses_a_sourced_distribution(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "ros/share/rclpy").mkdir(parents=True)
    (tmp_path / "ros/share/rclpy/package.xml").touch()
    done = check_python(PATH=str(tools), AMENT_PREFIX_PATH=f"/nowhere:{tmp_path / 'ros'}")
    assert done.returncode == 1 and "colcon build" in done.stderr


@pytest.mark.parametrize("target", ["help", "setup", "demo", "test", "bench", "lint", "clean"])
def test_makefile_has_the_commands(target: str) -> None:
    make = shutil.which("make")
    assert make is not None, "make is one of the three things that the set-up needs"
    done = subprocess.run([make, "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("on_a_distribution", "says", "code"), [(True, "1 skipped", 5), (False, "1 error", 2)])
def test_only_on_a_distribution_may_the_extras_be_missing(
    tmp_path: Path, on_a_distribution: bool, says: str, code: int
) -> None:
    (tmp_path / "numba.py").write_text("raise ModuleNotFoundError(\"No module named 'numba'\")")
    (tmp_path / "share/rclpy").mkdir(parents=True)
    (tmp_path / "share/rclpy/package.xml").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    environment["AMENT_PREFIX_PATH"] = str(tmp_path) if on_a_distribution else ""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rs",
        "-p",
        "no:cacheprovider",
        str(ROOT / "test/test_rendered_poses.py"),
    ]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert says in result.stdout and "numba" in result.stdout and result.returncode == code
