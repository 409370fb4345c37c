"""A service with every alert."""

from pathlib import Path

import pytest

from tests import generator


@pytest.fixture(scope="session")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered service with all features, on one machine."""
    target = tmp_path_factory.mktemp("alerts") / "service"
    return generator.render(template, target, preset="everything", deploy="compose")
