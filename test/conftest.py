"""What several test files share."""

from pathlib import Path

import pytest
from hypothesis import settings

from wildhands_ros.detection import default_models_dir, models_missing

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
