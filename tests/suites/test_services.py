"""A generated service passes its own tests, on the servers that it brings.

Run with ``-s``, this shows each service's tests as they go.
"""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests import generator, matrix, suite

# Rows with a new queue run everything. The tests of others, by the question that has a new answer;
# the rest of theirs is the core's, which ran three times by then. `make rows` leaves nothing out.
WHOLE = {"queue", "preset"}
TESTS = {
    "auth": ("auth", "items", "system/test_contract.py"),
    "deploy": ("deploy",),
    "tracing": ("platform/observability", "system/tracing"),
}
ANYWAY = ("test_documentation.py", "test_cli.py")
SERVICES = [
    pytest.param(row, id=row.name, marks=[pytest.mark.besides] * (not row.always))
    for row in matrix.matrix()
]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("row", SERVICES)
def test_the_service_passes_its_own_tests(template: Path, tmp_path: Path, row: matrix.Row) -> None:
    service = generator.render(template, tmp_path / "service", **row.given)
    subprocess.run([*suite.UV, "sync", "--quiet"], cwd=service, check=True)
    for tests in _tests(row, service):
        suite.run(service, *tests)
    _is_whole_without_the_tools(service)


def _tests(row: matrix.Row, service: Path) -> list[list[str]]:
    """Return which of a service's tests run, together; none is all of the fast ones."""
    if not row.always or row.new & WHOLE or os.environ.get("WHOLE"):
        return [[], ["tests/system"]]
    named = {name for question in row.new for name in TESTS.get(question, ())}
    paths = [f"tests/{name}" for name in sorted(named.union(ANYWAY))]
    return [[path for path in paths if (service / path).exists()]]


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
    generator.render(template, service)
    assert (service / "uv.lock").read_bytes() == locked
