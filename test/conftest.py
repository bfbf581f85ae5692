"""What several test files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from wildhands_ros.detection import default_models_dir, models_missing

if TYPE_CHECKING:  # needs ROS
    from node_bench import Process

# The same examples in every run, however slow the machine: a failure is the change's, and comes back when looked for.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder with the detector's models, verified."""
    directory = default_models_dir()
    missing = models_missing(directory)
    if missing:
        pytest.fail("\n".join(missing) + "\nthe tests need the detector's models: run `wildhands models fetch`")
    return directory


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts a `node_bench.Process` or `Bench` that is stopped after the module's tests."""
    started: list[Process] = []

    def start(kind: type[Process], *arguments: str, **options: Any) -> Process:
        log = tmp_path_factory.mktemp("node") / "log.txt"
        started.append(kind(log, *arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()
