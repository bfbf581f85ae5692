"""What several test files share."""

from pathlib import Path

import pytest

from wildhands_ros.detection import default_models_dir, models_missing


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder with the detector's models, verified."""
    directory = default_models_dir()
    missing = models_missing(directory)
    if missing:
        pytest.fail("\n".join(missing) + "\nthe tests need the detector's models: run `wildhands models fetch`")
    return directory
