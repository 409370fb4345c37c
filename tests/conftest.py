"""What every layer needs: no configuration of this machine, and the template once per process.

What became of each row of the matrix is written to ``build/results.jsonl``, for ``make tables``.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_copier.plugin import CopierFixture

from extensions import options
from tests import generator, matrix, rotation
from tests.quick import sitecustomize as _quick  # noqa: F401 - it changes Copier for all tests


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep Copier's settings, Git's and a virtual environment's variables out of what is tested."""
    empty = tmp_path_factory.mktemp("settings")
    identity = empty / "gitconfig"
    identity.write_text("[user]\nname = Test\nemail = test@example.com\n[init]\ndefaultBranch=main")
    patch = pytest.MonkeyPatch()
    (empty / "copier.yml").write_text("trust: []")
    patch.setenv("COPIER_SETTINGS_PATH", str(empty / "copier.yml"))
    patch.setenv("GIT_CONFIG_GLOBAL", str(identity))
    for name in [*os.environ]:
        if name in {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "DATABASE_URL", "REDIS_URL"}:
            patch.delenv(name)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _no_options_of_another_test() -> Iterator[None]:
    options.load.cache_clear()
    yield
    options.load.cache_clear()


@pytest.fixture(scope="session")
def copier_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template as it stands in the working tree; not to be changed.

    It takes the place of pytest-copier's own, which is a Git repository: Copier would clone it for
    each render.
    """
    return generator.copy_of_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def template(copier_template: Path) -> Path:
    """The folder of the template, for tests that call Copier themselves."""
    return copier_template


@pytest.fixture(scope="session")
def session_copier(copier_template: Path) -> Iterator[CopierFixture]:
    """pytest-copier's ``copier``, for renders that several tests share."""
    patch = pytest.MonkeyPatch()
    yield CopierFixture(copier_template, {}, patch)
    patch.undo()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a process of xdist reports to the one that started it
        config.pluginmanager.register(Results())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rotation.select(config, items)


class Results:
    """Writes down what became of each row of the matrix, and how long it took."""

    def __init__(self) -> None:
        self._rows = {row.name for row in matrix.matrix()}
        self._file = generator.ROOT / "build" / "results.jsonl"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, row = report.nodeid.partition("[")
        row = row.partition("]")[0]
        if row in self._rows:
            result = {"row": row, "test": test, "when": report.when, "outcome": report.outcome}
            self._file.parent.mkdir(exist_ok=True)
            with self._file.open("a") as file:
                file.write(json.dumps(result | {"seconds": round(report.duration, 2)}) + "\n")
