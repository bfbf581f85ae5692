"""What is generated from the table of parameters: the documented parameter file and the documentation's table.

python -m wildhands_ros.node.parameter_file > config/wildhands.yaml
python -m wildhands_ros.node.parameter_file --markdown > docs/parameters.md
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator

from wildhands_ros.node.parameters import Parameter, When, parameter_table
from wildhands_ros.tables import table

_HEAD = """\
# Every parameter of the node `wildhands` with its default; written by `python -m wildhands_ros.node.parameter_file`.
# Use: --ros-args --params-file wildhands.yaml
# Those marked (configure) may be changed while the node is unconfigured, those marked (start) only here; the others can
# be set at any time.
# ROS parameters know no null: empty text stands for "not set".

/**:
  ros__parameters:"""

_MARKDOWN_HEAD = """\
# Parameters of the node `wildhands`

Written by `python -m wildhands_ros.node.parameter_file --markdown`, from the table that declares them
([parameters.py](../wildhands_ros/node/parameters.py)); a file with all of them to start from is
[config/wildhands.yaml](../config/wildhands.yaml).

When they may be set:

- **live**: at any time (`ros2 param set /wildhands min_score 0.7`), in effect from the next image on.
- **configure**: while the node is unconfigured, in effect when it is configured. To change one on a running node:

      ros2 lifecycle set /wildhands deactivate
      ros2 lifecycle set /wildhands cleanup
      ros2 param set /wildhands estimation.device cuda:1
      ros2 lifecycle set /wildhands configure
      ros2 lifecycle set /wildhands activate     # unless wildhands.launch.py does, which has started it (autostart)

- **start**: read-only, only with the node's start.

Values that make no sense are refused with the reason. ROS parameters know no null: empty text stands for "not set".
"""

_MARKDOWN_TAIL = """
## Quality of service

Of every input and output, by ROS 2's own parameters, which exist once the topic does (the inputs' when the node is
first activated, the outputs' when it is first configured, those of `/diagnostics` from the start) and are read-only:

| parameter | values |
|---|---|
| `qos_overrides.<topic>.subscription.reliability` | `reliable`, `best_effort` |
| `qos_overrides.<topic>.subscription.durability` | `volatile`, `transient_local` |
| `qos_overrides.<topic>.subscription.depth` | messages |
| `qos_overrides.<topic>.publisher.reliability`, `durability`, `depth` | the same |

`<topic>` is the resolved name, such as `/head_camera/image_raw` or `/wildhands/hands`:

    /wildhands:
      ros__parameters:
        qos_overrides:
          /head_camera/image_raw: {subscription: {reliability: reliable}}
          /wildhands/hands: {publisher: {reliability: best_effort, depth: 1}}
"""

_OF_THIS_MACHINE = {"models_dir": "~/.cache/wildhands_ros/models"}  # defaults that hold a user's folder


def parameter_file() -> str:
    """YAML that names every parameter with its description and default."""
    lines = [_HEAD]
    section = None
    for row in parameter_table():
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


def parameter_table_in_markdown() -> str:
    """The documentation's page of all parameters."""
    sections: dict[str, list[list[str]]] = {}
    for row in parameter_table():
        sections.setdefault(row.name.rpartition(".")[0], []).append(
            [f"`{row.name}`", _type_name(row), _default(row), _limits(row), row.when.value, row.description]
        )
    head = ["parameter", "type", "default", "allowed", "when", "meaning"]
    parts = [_MARKDOWN_HEAD]
    for folder, cells in sections.items():
        parts.append(f"## {f'`{folder}.*`' if folder else 'The node'}\n\n{table(head, cells)}\n")
    return "\n".join(parts) + _MARKDOWN_TAIL


def _comment(row: Parameter) -> Iterator[str]:
    text = row.description.replace("`", "")
    if row.choices:
        text += f" One of: {', '.join(row.choices)}."
    elif _limits(row):
        text += f" {_limits(row)}."
    if row.when is not When.LIVE:
        text += f" ({row.when.value})"
    yield from textwrap.wrap(text, 110)


def _type_name(row: Parameter) -> str:
    names = {bool: "bool", int: "int", float: "double", str: "string", list: "double[]"}
    return names[type(row.default)]


def _default(row: Parameter) -> str:
    return f"`{_OF_THIS_MACHINE.get(row.name, json.dumps(row.default))}`"


def _limits(row: Parameter) -> str:
    if row.choices:
        return ", ".join(f"`{choice}`" for choice in row.choices)
    if row.minimum is None and row.maximum is None:
        return ""
    if row.maximum is None:
        return f"{row.minimum:g} or more"
    if row.step and row.minimum is not None:
        return ", ".join(f"{value:g}" for value in range(int(row.minimum), int(row.maximum) + 1, row.step))
    return f"{row.minimum:g} to {row.maximum:g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m wildhands_ros.node.parameter_file",
        description="Prints every parameter of the node, documented.",
    )
    parser.add_argument("--markdown", action="store_true", help="the documentation's table instead of the YAML file")
    print(parameter_table_in_markdown() if parser.parse_args().markdown else parameter_file(), end="")


if __name__ == "__main__":
    main()
