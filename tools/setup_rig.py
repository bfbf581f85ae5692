#!/usr/bin/env python3
"""Installs requirements-rig.txt beside a ROS 2 distribution, without replacing anything the distribution provides.

pip would happily put a newer numpy or setuptools in front of the distribution's, which breaks cv_bridge and colcon.
Here every package that is already there is pinned to the version it has, so that pip picks fitting versions of the
rest, or refuses. Further arguments go to `pip install`, for example --user, --dry-run or --break-system-packages.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

# Debian's own additions ("1.1build1") are none that pip accepts as a constraint
_PLAIN_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*(\+[a-zA-Z0-9.]+)?$")
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements-rig.txt"


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "provided.txt")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(provided().items())))
        command = [sys.executable, "-m", "pip", "install", "-r", str(REQUIREMENTS), "-c", str(constraints), *arguments]
        return subprocess.run(command).returncode


def provided() -> dict[str, str]:
    """Name and version of every installed package; the first on the path is the one that Python imports."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version and _PLAIN_VERSION.match(version) and not is_required(name):
            found.setdefault(name.lower().replace("_", "-"), version)
    return found


def is_required(name: str) -> bool:
    """Whether our requirements name the package themselves: then they decide, so that it can be upgraded."""
    lines = REQUIREMENTS.read_text().splitlines()
    names = {line.split("=")[0].split(">")[0].strip() for line in lines if line and not line.startswith("#")}
    return name.lower().replace("_", "-") in names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
