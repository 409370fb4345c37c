"""Rules of the code that no linter has. ``make lint`` checks those that one has."""

import ast
import gc
import inspect
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import iter_route_contexts

from app.settings import Settings
from tests.conftest import running_app

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src/app"
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

def refuse(event, arguments):
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise RuntimeError(f"{event}{arguments} at import: do that in the lifespan")
sys.addaudithook(refuse)

import app.cli, app.main
assert "app.platform.dev" not in sys.modules, "production imports app.platform.dev"
for module in pkgutil.walk_packages(app.__path__, "app."):
    if module.name != "app.__main__":
        importlib.import_module(module.name)
"""


def uses(*names: str) -> Iterator[str]:
    """Lines outside the data layer that use an attribute of one of these names."""
    for path in sorted(SRC.rglob("*.py")):
        if path.is_relative_to(SRC / "platform/data"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in names:
                yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_only_the_data_layer_commits() -> None:
    """``SessionDep`` commits when the route has ended; a job has ``context.transaction()``."""
    assert list(uses("commit", "rollback")) == []


def test_only_one_module_reads_the_path_of_a_request() -> None:
    """Compare ``route_path(scope)``: ``scope["path"]`` has the prefix of a proxy or a mount."""
    redacted = re.compile(r"redact_path\((\w+\.)?scope\[.path.\]\)")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(SRC.rglob("*.py"))
        if path.name != "paths.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"""scope(\[|\.get\()["'](raw_)?path["']""", redacted.sub("", line))
    ]
    assert found == []


def test_only_one_module_builds_the_audit_logger() -> None:
    """Import ``audit_logger``: a second one could differ in its level or its fields."""
    found = [
        str(path.relative_to(ROOT))
        for path in sorted(SRC.rglob("*.py"))
        if '"app.audit"' in path.read_text()
    ]
    assert found == ["src/app/platform/observability/logs.py"]


def test_an_import_inside_a_function_has_a_reason() -> None:
    """Give it: ``# noqa: PLC0415 (0.3 s at every start)``."""
    files = [*SRC.rglob("*.py"), *(ROOT / "migrations").rglob("*.py"), *ROOT.glob("*.py")]
    without = re.compile(r"noqa:.*PLC0415(?! \(.+\))")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if without.search(line)
    ]
    assert found == []


def test_nothing_connects_at_import() -> None:
    """Connect in the lifespan: an import needs neither settings nor a network."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING],
        cwd=ROOT,
        env={"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_no_route_keeps_its_app(settings: Settings) -> None:
    """FastAPI remembers the functions of routes: take the app from the request, not a closure."""
    async with running_app(settings) as app:
        kept = weakref.ref(app)
    del app
    gc.collect()
    assert kept() is None


async def test_each_route_of_the_api_is_serialized_on_the_fast_path(shared_app: FastAPI) -> None:
    """Give it a typed return: FastAPI then writes JSON in Rust. A stream has a response class."""
    slow = [
        route.path
        for route in iter_route_contexts(shared_app.routes)
        if (route.path or "").startswith("/api/")
        and isinstance(getattr(route, "response_class", None), DefaultPlaceholder)
        and route.response_field is None
        and inspect.signature(route.endpoint).return_annotation is not None
    ]
    assert slow == []
