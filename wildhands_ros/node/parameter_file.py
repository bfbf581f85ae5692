"""The documented parameter file: `python -m wildhands_ros.node.parameter_file > config/wildhands.yaml`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator

from wildhands_ros.node.parameters import Parameter, parameter_table

_HEAD = """\
# Every parameter of the node `wildhands` with its default; written by `python -m wildhands_ros.node.parameter_file`.
# Use: --ros-args --params-file wildhands.yaml
# Those marked (start) are read once, when the node starts; the others can be set while it runs.
# ROS parameters know no null: empty text stands for "not set".

/**:
  ros__parameters:"""

_OF_THIS_MACHINE = ("models_dir",)  # defaults that hold a user's folder


def parameter_file(rows: Iterable[Parameter] | None = None) -> str:
    """YAML that names every parameter with its description and default."""
    lines = [_HEAD]
    section = None
    for row in parameter_table() if rows is None else rows:
        folder, _, name = row.name.rpartition(".")
        if folder != section:
            section = folder
            lines += ["", f"    {folder}:"] if folder else []
        indent = " " * (6 if folder else 4)
        lines += [f"{indent}# {line}" for line in _comment(row)]
        if row.name in _OF_THIS_MACHINE:
            lines.append(f'{indent}# {name}: "/where/they/are"')
        else:
            lines.append(f"{indent}{name}: {json.dumps(row.default)}")
    return "\n".join(lines) + "\n"


def _comment(row: Parameter) -> Iterator[str]:
    text = row.description.replace("`", "")
    if row.choices:
        text += f" One of: {', '.join(row.choices)}."
    if not row.live:
        text += " (start)"
    yield from textwrap.wrap(text, 110)


if __name__ == "__main__":
    print(parameter_file(), end="")
