"""YAML that users write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wildhands_ros.errors import WildHandsError


class _Loader(yaml.SafeLoader):
    """Refuses aliases: a kilobyte of them, each naming the one before twice, expands to more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor:.40} is not read here: write the value again", event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path, error_class: type[WildHandsError]) -> Any:
    """What a file holds: plain values alone, no objects, no aliases. Raises `error_class` where it cannot be read."""
    try:
        return _Loader(path.read_text()).get_single_data()
    except OSError as error:
        raise error_class(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or dates as 2024-02-31
        said = str(error).replace("\n", "\n  ")  # as `texts.printable` leaves line breaks
        raise error_class(f"{path} is not YAML: {said}") from error
    # what PyYAML lets through where a value is not of the type that its tag announces, or no machine's number
    except (ArithmeticError, AttributeError, LookupError) as error:
        raise error_class(f"{path} is not YAML: one of its values is not what it is marked as ({error!r})") from error
