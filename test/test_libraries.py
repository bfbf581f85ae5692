"""Libraries that are missing: what the commands, the doctor and the pipeline say then."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wildhands_ros import libraries
from wildhands_ros.errors import WildHandsError
from wildhands_ros.libraries import NEEDED, how_to_get, missing_module, needed_for

ROOT = Path(__file__).parents[1]


def without(folder: Path, modules: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`wildhands` where none of these modules is installed."""
    for module in modules:
        (folder / f"{module}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')"
        )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", "wildhands_ros.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("module", sorted(NEEDED.keys() - {"torch", "ai_edge_litert"}))  # those two: tests of their own
def test_without_a_library_doctor_names_it_and_checks_the_rest(module: str, tmp_path: Path) -> None:
    done = without(tmp_path, (module, "torch"), "doctor", "--no-topics", "--json")  # torch would take seconds
    findings = json.loads(done.stdout)
    failed = {
        finding["text"].partition(":")[0]: finding["remedy"] for finding in findings if finding["level"] == "fail"
    }
    assert done.returncode == 1 and {NEEDED[module], "torch"} <= failed.keys()
    assert "make setup" in failed[NEEDED[module]] and "docs/installation.md" in failed[NEEDED[module]]
    assert findings[-1]["area"] == "ROS 2"


def test_without_any_library_the_commands_are_listed_and_each_says_what_it_needs(tmp_path: Path) -> None:
    modules = tuple(NEEDED)
    listed = without(tmp_path, modules, "--help").stdout
    assert listed.count("\n    ") >= 10 and "measure an estimator on labelled samples" in listed
    done = without(tmp_path, modules, "run", "picture.jpg")
    assert done.returncode == 1 and re.fullmatch("wildhands: the library .* is missing: make setup, .*\n", done.stderr)


@pytest.mark.parametrize("command", ["demo", "run", "models", "doctor", "bench", "eval", "export", "render", "train"])
def test_every_command_that_is_listed_has_options_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from wildhands_ros.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["-v", command, "--help"])
    assert stop.value.code == 0 and f"usage: wildhands {command} " in capsys.readouterr().out


def test_only_what_users_can_mend_becomes_one_line() -> None:
    def of(name: str | None) -> str | None:
        return missing_module(ModuleNotFoundError("No module", name=name))

    assert of("wildhands_ros.no") is None and of("_sqlite3") is None and of(None) is None
    assert "messages are not built" in str(of("wildhands_ros.msg"))
    assert "sensor_msgs.msg is missing" in str(of("sensor_msgs.msg"))
    assert "opencv-python-headless is missing" in str(of("cv2"))


def test_what_not_every_user_has_is_said_with_what_it_is_for(tmp_path: Path) -> None:
    training = "training needs lightning: pip install lightning tensorboard matplotlib numba;"
    for arguments, purpose in (
        (("render", "out", "--samples", "1"), "rendering needs numba: pip install numba;"),
        (("train", "config.yaml", "out"), training),
        (("ablate", "config.yaml", "out"), training),
    ):
        done = without(tmp_path, ("numba", "lightning"), *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1) and done.stderr.startswith(f"wildhands: {purpose}")


@pytest.mark.parametrize(
    ("rclpy", "code", "said"),
    [
        (
            "import os, signal, sys\n"
            "class Last:\n"
            "    def __del__(self, tell=os.kill, me=os.getpid(), how=signal.SIGINT): tell(me, how)\n"
            "sys.modules['__main__'].last = Last()  # once more, while Python ends\n"
            "os.kill(os.getpid(), signal.SIGINT)\nsignal.pause()", 0, "",
        ),
        ("raise ModuleNotFoundError(name='rclpy')", 1, "wildhands cannot start: the module rclpy is missing: make "),
    ],
)  # fmt: skip
def test_a_node_whose_imports_end_says_why_in_a_line(rclpy: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "rclpy.py").write_text(rclpy)
    deaf_no_more = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # whoever runs tests may ignore it
    )
    script = f"{deaf_no_more}; import runpy; runpy.run_module('wildhands_ros.node', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == (1 if said else 0)


def test_imports_of_our_own_fail_as_they_are() -> None:
    with pytest.raises(ModuleNotFoundError), needed_for("nothing"):
        raise ModuleNotFoundError("No module", name="wildhands_ros.no")
    remedy = re.escape(how_to_get("torch"))
    with pytest.raises(WildHandsError, match=f"^much needs torch: {remedy}$"), needed_for("much", "others"):
        raise ModuleNotFoundError("No module", name="torch")


def test_beside_a_distribution_no_remedy_is_a_plain_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "on_distribution", lambda: True)
    lines = (ROOT / "requirements-rig.txt").read_text().splitlines()
    rig = {re.split("[<>=]", line)[0] for line in lines if not line.startswith("#")}
    assert rig
    for package in rig:
        assert how_to_get(package) == "python3 tools/setup_rig.py (docs/installation.md)"
    assert how_to_get("scipy") == "rosdep install (docs/installation.md)"
    assert how_to_get("onnxruntime") == "python3 tools/setup_rig.py onnxruntime (docs/installation.md)"


def test_where_no_distribution_is_sourced_both_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "on_distribution", lambda: False)
    for package in ("torch", "scipy", "onnxruntime"):
        remedy = how_to_get(package)
        assert f"pip install {package}" in remedy and "ROS 2 distribution" in remedy
