"""Writes constraints.txt: the newest versions that fit together, for each Python that is supported.

    tools/setup_constraints.py python3.10 python3.11 python3.12 python3.13 > constraints.txt

Run the demo and the tests on the result before committing it: it is the list of versions that were tried.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from setup_requirements import requirements

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# The exact versions that the demo and the tests were run with. `make` installs these; the ranges that the package
# itself asks for are in pyproject.toml. Written by tools/setup_constraints.py.
"""


def main(interpreters: list[str]) -> int:
    resolved = dict(resolve(interpreter) for interpreter in interpreters)
    print(HEADER + "\n".join(constraint_lines(resolved)))
    return 0


def resolve(interpreter: str) -> tuple[str, dict[str, str]]:
    """The Python version, and the version of every package that pip would install for it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "--quiet"]
        subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
        wanted = requirements(ROOT / "pyproject.toml")
        report = Path(folder, "report.json")
        subprocess.run([*pip, "install", "--dry-run", "--ignore-installed", "--report", report, *wanted], check=True)
        found = json.loads(report.read_text())
    packages = [entry["metadata"] for entry in found["install"]]
    return found["environment"]["python_version"], {p["name"].lower().replace("_", "-"): p["version"] for p in packages}


def constraint_lines(resolved: dict[str, dict[str, str]]) -> list[str]:
    """One line a package, or one for each Python where they differ. A local version (+cpu) stands for its release."""
    lines: list[str] = []
    for name in sorted({name for packages in resolved.values() for name in packages}):
        versions = {python: packages[name].split("+")[0] for python, packages in resolved.items() if name in packages}
        if len(set(versions.values())) == 1:
            lines.append(f"{name}=={next(iter(versions.values()))}")
        else:
            lines += [f'{name}=={version} ; python_version == "{python}"' for python, version in versions.items()]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
