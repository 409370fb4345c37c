"""Generated services under fire: real processes, real signals, real outages.

Each file of ``inside`` runs as tests of a rendered service, with that service's own helpers. How
much was thrown at it, and what was lost, goes to ``build/figures.jsonl`` for ``make tables``. The
sizes are such that all of it takes minutes; ``make fire FULL=1`` takes hours.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import generator, suite

INSIDE = Path(__file__).parent / "inside"
FIGURES = generator.ROOT / "build" / "figures.jsonl"
SERVICES: dict[str, dict[str, object]] = {
    "celery": {},
    "arq": {"queue": "arq", "auth": "session", "tracing": "tempo"},
    "postgres": {"queue": "postgres", "auth": "session", "tracing": "none"},
    "taskiq": {"queue": "taskiq", "auth": "api_key", "tracing": "honeycomb"},
}
FULL = bool(os.environ.get("FULL"))
# What is different from queue to queue; the rest is tried on the default answers.
EVERYWHERE = {"jobs", "worker_stop"} | ({"redis"} if FULL else set())
CASES = [
    pytest.param(
        *(name, file),
        id=f"{file.stem}-{name}",
        marks=pytest.mark.rotates("failure tests", shares=3),
    )
    for name in SERVICES
    for file in sorted(INSIDE.glob("[!_]*.py"))
    if file.stem != "conftest" and (name == "celery" or file.stem in EVERYWHERE)
]


@pytest.fixture(scope="module")
def installed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Render and install a service, once."""

    @cache
    def install(name: str) -> Path:
        service = generator.render(
            template, tmp_path_factory.mktemp(name) / "service", **SERVICES[name]
        )
        suite.raise_limit_of_exports(service)
        fire = service / "tests" / "fire"
        fire.mkdir()
        for file in INSIDE.glob("*.py"):
            ours = file.stem == "conftest" or file.stem.startswith("_")
            shutil.copy(file, fire / (file.name if ours else f"test_{file.name}"))
        subprocess.run([*suite.UV, "sync", "--quiet"], cwd=service, check=True)
        return service

    return install


@pytest.mark.timeout(5400 if FULL else 1800)
@pytest.mark.parametrize(("name", "file"), CASES)
def test_it_holds(installed: Callable[[str], Path], name: str, file: Path) -> None:
    service = installed(name)
    FIGURES.parent.mkdir(exist_ok=True)
    where = {"FIGURES": str(FIGURES), "SERVICE": name}
    suite.run(service, f"tests/fire/test_{file.name}", options="-v -rs", **where)


def test_what_runs_inside_keeps_the_rules_of_a_service(installed: Callable[[str], Path]) -> None:
    service = installed("celery")
    for check in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        subprocess.run([*suite.UV, "run", *check, "tests/fire"], cwd=service, check=True)
