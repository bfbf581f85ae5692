"""Prints what the Makefile installs from PyPI: the dependencies of pyproject.toml and all of its extras.

They are installed before the package itself, so that rebuilding the messages needs neither the network nor pip's
resolver.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib  # pip is in every virtual environment, tomllib only from 3.11 on


def requirements(pyproject: Path) -> list[str]:
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"].values()
    return sorted({*project["dependencies"], *(line for extra in extras for line in extra)})


if __name__ == "__main__":
    print("\n".join(requirements(Path(__file__).resolve().parents[1] / "pyproject.toml")))
