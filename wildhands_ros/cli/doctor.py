"""`wildhands doctor`: what is installed, what works, what is missing and how to get it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wildhands_ros.cache_folders import default_cache_dir
from wildhands_ros.cli.light import add_models_dir
from wildhands_ros.errors import ModelFileError, WildHandsError
from wildhands_ros.libraries import NEEDED, how_to_get, on_distribution, version_of
from wildhands_ros.paths import is_homeless
from wildhands_ros.telemetry import keep_backends_silent

_MARKS = {"ok": "✓", "note": "·", "warn": "!", "fail": "✗"}
_PATIENCE_S = 60

_OPTIONAL = (
    ("onnxruntime", "fast", "a network twice as fast on a CPU"),
    ("openvino", "fast", "the same, or faster still in bfloat16 or int8"),
    ("onnx", "fast", "'wildhands export', and handing the network to ONNX Runtime or OpenVINO"),
    ("deodr", "demo", "the rendered hands and photographs of demo and bench"),
    ("trimesh", "demo", "deodr, which imports it"),
    ("numba", "train", "'wildhands render', which makes samples to train and evaluate with"),
    ("lightning", "train", "'wildhands train' and 'wildhands ablate'"),
    ("tensorboard", "train", "the curves and pictures that training writes"),
    ("filelock", "train", "training, whose processes share what they prepare"),
    ("matplotlib", "train", "'wildhands eval' with --plots or --ambiguity"),
    ("smplx", "smplx", "tests, which compare the hand model with it; non-commercial licence"),
)
"""Libraries that some commands need: the module, which is also the package's name, the extra that brings it, and what
it is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. level: ok, note (optional and absent), warn (works, but) or fail (does not work)."""

    area: str
    level: str
    text: str
    remedy: str = ""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help=summary,
        description="Checks this installation piece by piece and says how to get what is missing. "
        "Exit code 0: everything that is needed works; 1: something that is needed does not.",
    )
    add_models_dir(parser)
    parser.add_argument("--mano-dir", type=Path, help="also check your MANO_RIGHT.pkl and MANO_LEFT.pkl in this folder")
    parser.add_argument("--checkpoint", type=Path, help="also check these weights of the WildHands network")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--no-topics", action="store_true", help="leave out the test of images between two processes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings = []
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():  # libraries print, too
        for finding in _examine(args):
            findings.append(finding)
            if not args.json:
                _print(finding, first=len(findings) == 1 or findings[-2].area != finding.area)
    failed = [f for f in findings if f.level == "fail"]
    if args.json:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        print(f"\n{len(failed)} problem(s) that need mending" if failed else "\nEverything that is needed works.")
    return 1 if failed else 0


def _print(finding: Finding, *, first: bool) -> None:
    if first:
        print(f"\n{finding.area}")
    print(f"  {_MARKS[finding.level]} {finding.text}")
    if finding.remedy:
        print(f"      → {finding.remedy}")


def _examine(args: argparse.Namespace) -> Iterator[Finding]:
    yield from _python()
    yield from _libraries()
    yield from _detector(args.models_dir)
    yield from _hand_model(None)
    if args.mano_dir is not None:
        yield from _hand_model(args.mano_dir)
    else:
        yield Finding(
            "Hand model", "note", "MANO: not asked for (the open hand model is used)",
            "with files from https://mano.is.tue.mpg.de: wildhands doctor --mano-dir DIR",
        )  # fmt: skip
    yield _open_network()
    yield _cache(default_cache_dir())
    yield _network(args.checkpoint)
    has_ros = False
    for finding in _ros():
        has_ros = has_ros or finding.text.startswith("rclpy")
        yield finding
    if has_ros and not args.no_topics:
        yield from _topics()


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    text = f"Python {version} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    newest = (3, 14) if on_distribution() else (3, 13)  # what ROS 2 comes for from PyPI; a distribution brings its own
    if (3, 10) <= sys.version_info[:2] <= newest:
        yield Finding("System", "ok", text)
    else:
        yield Finding("System", "fail", text, f"use Python 3.10 to 3.{newest[1]}")


def _libraries() -> Iterator[Finding]:
    keep_backends_silent()
    for module, package in NEEDED.items():
        yield _library("Libraries", module, package, needed=True)
    for module, extra, use in _OPTIONAL:
        finding = _library("Libraries", module, module, needed=False)
        purpose = f", for {use}" if finding.level == "ok" else f"; only needed for {use}"
        yield replace(finding, text=f"{finding.text}{purpose} (extra '{extra}')")
    yield from _gpu()


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except Exception:  # which was said among the libraries
        return
    if torch.cuda.is_available():
        yield Finding("Libraries", "ok", f"CUDA: {torch.cuda.get_device_name(0)}")
    else:
        yield Finding("Libraries", "note", "CUDA: no GPU that torch can use; everything runs on the CPU")


def _library(area: str, module: str, package: str, *, needed: bool) -> Finding:
    remedy = how_to_get(package)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a library whose own libraries are missing may raise an OSError, or anything
        return Finding(area, "fail" if needed else "note", f"{package}: {error}", remedy)
    version = getattr(found, "__version__", None) or version_of(package) or "present"
    return Finding(area, "ok", f"{package} {version}")


def _detector(models_dir: Path) -> Iterator[Finding]:
    def works() -> str:
        import numpy as np

        from wildhands_ros.detection import DetectorConfig, HandDetector

        detector = HandDetector.from_directory(models_dir, DetectorConfig())
        detector.detect(np.zeros((240, 320, 3), np.uint8))
        return f"models in {models_dir}: checksums right, both networks run"

    yield _attempt("Detector", works)


def _hand_model(path: Path | None) -> Iterator[Finding]:
    def works() -> str:
        import numpy as np

        from wildhands_ros.hand_model import load_hand_model
        from wildhands_ros.hands import Side

        model = load_hand_model(path)
        pose, zeros = np.tile(np.eye(3), (16, 1, 1)), np.zeros(10)
        for side in Side:
            vertices, _ = model.layer(side).numpy(pose, zeros, np.zeros(3))
            if not np.isfinite(vertices).all():
                raise WildHandsError(f"the {side.value} hand's mesh is not finite")
        where = "the package" if path is None else str(path)
        return f"'{model.name}' from {where}: {len(vertices)} vertices a hand, sha256 {model.sha256[:12]}…"

    yield _attempt("Hand model", works)


def _open_network() -> Finding:
    def works() -> str:
        from wildhands_ros.estimation.wildhands import SHIPPED_CHECKPOINT, load_checkpoint, open_checkpoint_missing

        if missing := open_checkpoint_missing():
            raise ModelFileError(missing)
        _, info = load_checkpoint(SHIPPED_CHECKPOINT)
        size = SHIPPED_CHECKPOINT.stat().st_size / 1e6
        return f"the open network, from the package: {size:.0f} MB, {info.licence}, sha256 {info.sha256[:12]}…"

    return _attempt("Network", works)


def _cache(folder: Path) -> Finding:
    """Whether networks can be kept there, or in what will be made there."""
    # not Path.exists, which raises PermissionError behind closed doors
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not is_homeless(folder) and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Finding("Network", "ok", f"prepared for this machine in {folder}, the first time that it is used")
    return Finding(
        "Network", "warn", f"{folder} cannot be written: a network that is not there yet is prepared at every start",
        "name another folder, as estimation.cache_dir (in --config FILE, or the node's parameter) or by XDG_CACHE_HOME",
    )  # fmt: skip


def _network(checkpoint: Path | None) -> Finding:
    if checkpoint is None:
        return Finding("Network", "note", "WildHands weights: not asked for", _how_to_get_weights())

    def works() -> str:
        from wildhands_ros.estimation.wildhands import load_checkpoint

        _, info = load_checkpoint(checkpoint)
        return f"{checkpoint}: {info.variant.trunk.value}, encoding '{info.variant.encoding.value}', {info.licence}"

    return _attempt("Network", works)


def _how_to_get_weights() -> str:
    try:
        from wildhands_ros.estimation.wildhands import checkpoint_missing
    except Exception:  # without torch, which was said among the libraries
        return ""
    return checkpoint_missing(None) or ""


def _attempt(area: str, works: Callable[[], str]) -> Finding:
    try:
        return Finding(area, "ok", works())
    except WildHandsError as error:
        return Finding(area, "fail", str(error))
    except Exception as error:  # of a library, such as one whose own libraries are missing
        return Finding(area, "fail", f"cannot be tried: {type(error).__name__}: {error}")


def _ros() -> Iterator[Finding]:
    install = "make setup installs ROS 2 from PyPI; on a ROS distribution: source /opt/ros/<distro>/setup.bash"
    if importlib.util.find_spec("rclpy") is None:
        yield Finding("ROS 2", "note", "no ROS here: pictures, videos and bags work, live topics do not", install)
        return
    distro = os.environ.get("ROS_DISTRO")
    wheel = version_of("ros-rclpy")
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        yield Finding("ROS 2", "fail", f"no ROS: rclpy does not load ({error})", install)
        return
    yield Finding("ROS 2", "ok", f"rclpy, from {f'PyPI ({wheel})' if wheel else f'the distribution {distro}'}")
    for module, remedy in (
        ("wildhands_ros.msg", "make setup, or colcon build and source install/setup.bash"),
        ("tf2_msgs.msg", "make setup, or apt install ros-$ROS_DISTRO-tf2-msgs"),
    ):
        try:
            importlib.import_module(module)
            yield Finding("ROS 2", "ok", f"messages of {module.removesuffix('.msg')}")
        except ImportError as error:
            yield Finding("ROS 2", "fail", f"messages of {module.removesuffix('.msg')}: {error}", remedy)
    for module in ("cv_bridge", "tf2_ros", "tf_transformations"):
        if module == "cv_bridge" and (reason := _broken_bridge()):
            yield Finding(
                "ROS 2",
                "note",
                f"cv_bridge is installed but does not work ({reason}); this package decodes images itself",
            )
        elif importlib.util.find_spec(module):
            yield Finding("ROS 2", "ok", f"{module}, from the distribution")
        else:
            yield Finding("ROS 2", "note", f"{module}: not on PyPI; this package's own stand-in does its work")
    rmw = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp (default)")
    yield Finding("ROS 2", "ok", f"middleware {rmw}, domain {os.environ.get('ROS_DOMAIN_ID', '0')}")
    shm = Path("/dev/shm")
    if shm.exists() and (free := shutil.disk_usage(shm).free) < 256 << 20:
        yield Finding(
            "ROS 2", "warn", f"/dev/shm has {free >> 20} MB free: image topics use shared memory",
            "free some, or start the container with --shm-size=1g",
        )  # fmt: skip


def _broken_bridge() -> str:
    """Why a cv_bridge that is installed does not work; empty where it does, or where there is none."""
    reasons: list[str] = []
    with contextlib.suppress(ImportError):  # without a library of ours, which was said among them
        from wildhands_ros.node.images import find_bridge

        find_bridge(reasons.append)
    return "".join(reasons)


def _profile_line() -> str:
    """The command that names this package's Fast DDS profile to what a shell starts."""
    from wildhands_ros.node.qos import profile_environment

    return "\n        ".join(f"export {name}={shlex.quote(path)}" for name, path in profile_environment().items())


def _topics() -> Iterator[Finding]:
    """Sends 1280×720 images between two processes the way cameras do (best effort)."""
    command = [sys.executable, "-m", "wildhands_ros.node.transport_check"]
    for profile, label in ((False, "as this shell is set up"), (True, "with this package's Fast DDS profile")):
        arguments = command + (["--profile"] if profile else [])
        try:
            result = subprocess.run(arguments, capture_output=True, text=True, timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            yield Finding(
                "Images over topics", "fail", f"{label}: the test did not end within {_PATIENCE_S} s",
                "the middleware hangs: look for leftovers in /dev/shm (fastrtps_*), a firewall, or another "
                "RMW_IMPLEMENTATION",
            )  # fmt: skip
            continue
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or ["no message"]
            yield Finding("Images over topics", "fail", f"{label}: the test failed: {lines[-1]}")
            continue
        sent, received, median_ms = json.loads(result.stdout.strip().splitlines()[-1])
        text = f"{label}: {received} of {sent} best-effort 1280x720 images arrived"
        if received >= 0.8 * sent:
            yield Finding("Images over topics", "ok", f"{text}, median {median_ms:.1f} ms")
        elif profile:
            yield Finding(
                "Images over topics", "fail", text,
                "end what else keeps this machine busy, and try again; if they still get lost, let the camera send "
                "fewer or smaller images, or compressed ones (image_transport)",
            )  # fmt: skip
        else:
            yield Finding(
                "Images over topics", "warn", text,
                f"start camera and node from shells in which you did this (docs/node.md):\n        {_profile_line()}",
            )  # fmt: skip
