"""A generated service passes its own tests, on the servers that it brings.

Run with ``-s``, this shows each service's tests as they go.
"""

import os
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import copier
import pytest

from tests import generator, matrix, suite

# Rows with a new queue run all fast tests. The tests of others, by the question that has a new
# answer: the rest is the core's, which ran three times by then. `make rows` leaves nothing out. The
# presets, and every row of `make rows`, also keep the minimum of coverage.
WHOLE = {"queue", "preset"}
TESTS = {
    "auth": ("auth", "items"),
    "deploy": ("deploy",),
    "tracing": ("platform/observability",),
}
ANYWAY = ("test_documentation.py", "test_cli.py")
# Tests of processes, signals and outages, by the question whose answers they depend on.
SYSTEM = {
    "preset": ("system",),
    "queue": ("system/jobs",),
    "auth": ("system/test_contract.py",),
    "tracing": ("system/tracing",),
}
SERVICES = [
    pytest.param(row, id=row.name, marks=[pytest.mark.besides] * (not row.always))
    for row in matrix.matrix()
]
Installed = Callable[[matrix.Row], Path]


@pytest.fixture(scope="session")
def installed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Render and install the service of a row, once."""

    @cache
    def install(name: str) -> Path:
        row = next(row for row in matrix.matrix() if row.name == name)
        service = generator.render(template, tmp_path_factory.mktemp("s") / "service", **row.given)
        subprocess.run([*suite.UV, "sync", "--quiet"], cwd=service, check=True)
        return service

    return lambda row: install(row.name)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", SERVICES)
def test_the_service_passes_its_fast_tests(installed: Installed, row: matrix.Row) -> None:
    service = installed(row)
    named = () if _whole(row) else (*_of(row, TESTS), *ANYWAY)
    measured = _everything(row) or "preset" in row.new
    suite.run(service, *_there(service, named), options="-q --cov" if measured else "-q")
    _is_whole_without_the_tools(service)


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("row", SERVICES)
def test_the_service_passes_its_system_tests(installed: Installed, row: matrix.Row) -> None:
    service = installed(row)
    named = ("system",) if _everything(row) else _of(row, SYSTEM)
    if tests := _there(service, named):
        suite.run(service, *tests)


def _everything(row: matrix.Row) -> bool:
    return not row.always or bool(os.environ.get("WHOLE"))


def _whole(row: matrix.Row) -> bool:
    return _everything(row) or bool(row.new & WHOLE)


def _of(row: matrix.Row, tests: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The tests that have to do with a row's new answers, each once."""
    named = {name for question in row.new for name in tests.get(question, ())}
    covered = {name for name in named if any(name.startswith(f"{other}/") for other in named)}
    return tuple(sorted(named - covered))


def _there(service: Path, names: tuple[str, ...]) -> list[str]:
    return [f"tests/{name}" for name in names if (service / "tests" / name).exists()]


def _is_whole_without_the_tools(service: Path) -> None:
    """Import every module with nothing but the run-time requirements, as the image does."""
    sync = [*suite.UV, "sync", "--quiet", "--locked", "--no-dev"]
    subprocess.run(sync, cwd=service, check=True)
    modules = [
        ".".join(path.relative_to(service / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in (service / "src").rglob("*.py")
        if "dev" not in path.parts and path.name != "__main__.py"
    ]
    script = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    python = service / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", script, *modules], cwd=service, check=True)


def test_the_lock_file_of_a_service_stays_its_own(template: Path, tmp_path: Path) -> None:
    """The template never writes ``uv.lock``; what a service has is not replaced by a new copy."""
    service = generator.render(template, tmp_path / "service")
    assert not (service / "uv.lock").exists()
    subprocess.run([*suite.UV, "lock", "--quiet"], cwd=service, check=True)
    locked = (service / "uv.lock").read_bytes()
    assert tomllib.loads(locked.decode())["version"] == 1
    copier.run_copy(str(template), service, defaults=True, unsafe=True, quiet=True, overwrite=True)
    assert (service / "uv.lock").read_bytes() == locked
