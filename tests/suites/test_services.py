"""A generated service passes its own tests, on the servers that it brings.

Run with ``-s``, this shows each service's tests as they go.
"""

import os
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import copier
import pytest

from extensions import options
from tests import generator, matrix, suite

# The presets run all fast tests: standard in `make test`, minimal without any option, everything
# with all features. Minimal keeps the minimum of coverage, and so does standard in `make rows`:
# measuring it doubles the time. With all features, so many threads end that Python 3.11 hung: while
# it traces, a pending call within a pending call is an endless loop. Other rows run the tests of
# what is new in them, by the question that has a new answer, and those of their features: the rest
# is the core's, which ran three times by then. `make rows` leaves nothing out.
TESTS = {
    "queue": ("items", "platform/jobs", "platform/server", "platform/settings"),
    "auth": ("platform/auth", "items"),
    "deploy": ("deploy",),
    "tracing": ("platform/observability",),
}
MET_BY_FEATURES = {"auth", "queue"}  # where these are new, a row runs the tests of its features
ANYWAY = ("test_documentation.py", "test_cli.py")
# Tests of processes, signals and outages, by the question whose answers they depend on. A feature's
# run in `everything`.
SYSTEM = {
    "queue": ("system/jobs", "system/tracing"),
    "auth": ("system/test_contract.py",),
}
SYSTEM_OF_PRESETS = {
    "standard": ("system",),
    # What serves is the same without options; what `app dev` starts and migrates is not.
    "minimal": ("system/dev", "system/test_commands.py", "system/test_contract.py"),
    "everything": ("system/test_contract.py",),
}
ROTATES = pytest.mark.rotates("services", shares=2)


def _marks(row: matrix.Row) -> list[pytest.MarkDecorator]:
    if row.name in matrix.PRESETS:
        return []
    return [ROTATES if row.always else pytest.mark.besides]


SERVICES = [pytest.param(row, id=row.name, marks=_marks(row)) for row in matrix.matrix()]
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
    whole = _everything(row) or row.name in matrix.PRESETS
    named = [] if whole else [*_of(row, TESTS), *ANYWAY]
    if named and row.new & MET_BY_FEATURES:
        named += _of_features(row, system=False)
    covered = row.name == "minimal" or (row.name == "standard" and _everything(row))
    # What a developer has set for `app dev` is nothing to the tests.
    (service / ".env").write_text("RATE_LIMIT=1/minute\n")
    flags = "-q --cov" if covered else "-q"
    suite.run(service, *_there(service, named), options=flags, ROOT_PATH="/developer")
    (service / ".env").unlink()
    _is_whole_without_the_tools(service)


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("row", SERVICES)
def test_the_service_passes_its_system_tests(installed: Installed, row: matrix.Row) -> None:
    service = installed(row)
    few = {} if _everything(row) or row.name == "standard" else {"SCHEMATHESIS_EXAMPLES": "5"}
    if tests := _there(service, _system(row)):
        suite.run(service, *tests, **few)


def _everything(row: matrix.Row) -> bool:
    return not row.always or bool(os.environ.get("WHOLE"))


def _system(row: matrix.Row) -> list[str]:
    if _everything(row):
        return ["system"]
    if row.name not in matrix.PRESETS:
        return _of(row, SYSTEM)
    return [*SYSTEM_OF_PRESETS[row.name], *_of_features(row, system=True)]


def _of(row: matrix.Row, tests: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The tests that have to do with a row's new answers, each once."""
    named = {name for question in row.new for name in tests.get(question, ())}
    covered = {name for name in named if any(name.startswith(f"{other}/") for other in named)}
    return sorted(named - covered)


def _of_features(row: matrix.Row, *, system: bool) -> list[str]:
    """The fast tests of a row's features, or those of processes, signals and outages."""
    chosen = row.given.get("features", [])
    files = (each for name in chosen for each in suite.files_of_feature(name, options.TEMPLATE))
    names = {each.removeprefix("tests/") for each in files}
    return sorted(name for name in names if name.startswith("system/") == system)


def _there(service: Path, names: Iterable[str]) -> list[str]:
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
