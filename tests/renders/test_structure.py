"""Each rule of a service's structure is broken once, and the command that holds it says so.

What breaks a rule stands in files of its own, most of them in a feature that no configuration
names: the rules hold for what an owner adds, with nothing to edit.
"""

import configparser
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests import generator, toolbox

# A file below src/app, what is appended to it, and what `make lint` says.
LINTED = [
    # levels
    (
        "platform/settings/data.py",
        "from app.platform.http import cors",
        "app.platform.settings.data -> app.platform.http.cors",
    ),
    (
        "platform/observability/metrics.py",
        "from app.platform.data.database import Database",
        "app.platform.observability.metrics -> app.platform.data.database",
    ),
    (
        "platform/server/checks.py",
        "from app.platform.dev import lock",
        "app.platform.server.checks -> app.platform.dev.lock",
    ),
    ("platform/http/hosts.py", "from app import main", "app.platform.http.hosts -> app.main"),
    (
        "platform/http/audit.py",
        "from app.settings import Settings",
        "app.platform.http.audit -> app.settings",
    ),
    ("platform/cache/__init__.py", "", "- app.platform.cache"),
    ("auth/__init__.py", "from app import api", "app.auth -> app.api"),
    (
        "platform/auth/current.py",
        "from app.auth import User as Caller",
        "app.platform.auth.current -> app.auth",
    ),
    (
        "platform/jobs/store.py",
        "from app.platform.auth import current",
        "app.platform.jobs.store -> app.platform.auth.current",
    ),
    # features
    (
        "orders/service.py",
        "from app.items import models",
        "app.orders.service -> app.items.models",
    ),
    ("orders/router.py", "from app import main", "app.orders.router -> app.main"),
    ("auth/__init__.py", "from app.orders import models", "app.auth -> app.orders.models"),
    ("settings.py", "from app.orders import models", "app.settings -> app.orders.models"),
    (
        "platform/http/cors.py",
        "from app.orders import models",
        "app.platform.http.cors -> app.orders.models",
    ),
    # ports
    (
        "orders/callers.py",
        "from app.platform.auth.current import CurrentUser",
        "app.orders.callers -> app.platform.auth.current",
    ),
    (
        "orders/jobs.py",
        "from app.platform.jobs.transport import Transport",
        "app.orders.jobs -> app.platform.jobs.transport",
    ),
    (
        "orders/spans.py",
        "from app.platform.observability.tracing import provider",
        "app.orders.spans -> app.platform.observability.tracing.provider",
    ),
    (
        "orders/limits.py",
        "from app.platform.settings import PlatformSettings",
        "app.orders.limits -> app.platform.settings",
    ),
    (
        "orders/fixtures.py",
        "from app.platform.dev import plan",
        "app.orders.fixtures -> app.platform.dev.plan",
    ),
    ("orders/queues.py", "import celery", "app.orders.queues -> celery"),
    ("orders/caches.py", "from redis.asyncio import Redis", "app.orders.caches -> redis"),
    # cycles
    (
        "platform/http/one.py",
        "from app.platform.http import other",
        "No cycles are allowed in app.platform.http.",
    ),
    ("platform/http/other.py", "from app.platform.http import one", "No cycles are allowed in"),
    ("orders/first.py", "from app.orders import second", "No cycles are allowed in app.orders."),
    ("orders/second.py", "from app.orders import first", "No cycles are allowed in app.orders."),
    # banned names
    ("orders/errors.py", "from fastapi import HTTPException", "orders/errors.py:1:21: TID251"),
    (
        "orders/more.py",
        "import fastapi\n\n\ndef f() -> None:\n    raise fastapi.HTTPException(404)",
        "orders/more.py:5:11: TID251",
    ),
    (
        "platform/http/answer.py",
        "from starlette.exceptions import HTTPException",
        "platform/http/answer.py:1:34: TID251",
    ),
    ("orders/driver.py", "import asyncpg", "orders/driver.py:1:8: TID251"),
    # hidden imports
    ("orders/lazy.py", "def f() -> None:\n    import json", "orders/lazy.py:2:5: PLC0415"),
    # dependencies
    ("orders/numbers.py", "import numpy", "DEP001 'numpy' imported but missing"),
    ("orders/files.py", "import yaml", "orders/files.py:1:8: DEP003 'yaml' imported"),
    ("orders/tries.py", "import pytest", "orders/tries.py:1:8: DEP004 'pytest' imported"),
    ("../../other.py", "import yaml", "other.py:1:8: DEP003 'yaml' imported"),
    ("../../tests/test_more.py", "import mako", "tests/test_more.py:1:8: DEP003 'mako' imported"),
    ("../../pyproject.toml", "", "DEP002 'cowsay' defined as a dependency but not used"),
]

# A test of the service, what it forbids in a file below src/app, and what it says.
TESTED = [
    (
        "test_only_the_data_layer_commits",
        "orders/service.py",
        "async def save(session):\n    await session.commit()",
        "src/app/orders/service.py:2",
    ),
    (
        "test_only_the_data_layer_commits",
        "platform/jobs/undo.py",
        "async def undo(session):\n    await session.rollback()",
        "src/app/platform/jobs/undo.py:2",
    ),
    (
        "test_an_import_inside_a_function_has_a_reason",
        "orders/lazy.py",
        "def f():\n    import json  # noqa: PLC0415",
        "src/app/orders/lazy.py:2",
    ),
    (
        "test_nothing_connects_at_import",
        "orders/models.py",
        'import socket\n\nsocket.create_connection(("127.0.0.1", 9))',
        "at import: do that in the lifespan",
    ),
    (
        "test_nothing_connects_at_import",
        "cli.py",
        "from app.platform.dev import lock",
        "production imports app.platform.dev",
    ),
]


# As `app migration` writes it, but for a secret.
MIGRATION = '''"""add orders"""

revision: str = "547d5268e48c"
down_revision: str | Sequence[str] | None = "8a05f7c3d19e"
key = "547d5268e48c0a1b2c3d4e5f60718293"
'''


def append(service: Path, path: str, text: str) -> None:
    target = service / "src/app" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.read_text() if target.exists() else ""
    target.write_text(f"{old}{text}\n" if text else old)


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default service, and a feature that does nothing."""
    service = generator.render(template, tmp_path_factory.mktemp("structure") / "service")
    append(service, "orders/__init__.py", "")
    append(service, "orders/models.py", "")
    return service


@pytest.fixture(scope="module")
def linted(service: Path) -> tuple[str, str]:
    """What `make lint` and `make graph` say when everything in ``LINTED`` is broken."""
    broken = shutil.copytree(service, service.parent / "linted")
    for path, text, _ in LINTED:
        append(broken, path, text)
    pyproject = broken / "pyproject.toml"
    declared = pyproject.read_text().replace('    "click', '    "cowsay>=6",\n    "click')
    pyproject.write_text(declared)
    python = toolbox.python_for(service)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUFF_OUTPUT_FORMAT", "concise")
        said = [toolbox.make(python, broken, target) for target in ("lint", "graph")]
    lint, graph = (re.sub(r"\x1b\[\d*m", "", text) for text in said)
    return lint, graph


def test_a_new_feature_needs_no_configuration(service: Path) -> None:
    python = toolbox.python_for(service)
    assert toolbox.make(python, service, "lint") == ""
    assert toolbox.make(python, service, "graph") == ""


@pytest.mark.parametrize(("path", "text", "said"), LINTED, ids=[path for path, *_ in LINTED])
def test_lint_sees_the_rule_broken(
    linted: tuple[str, str], path: str, text: str, said: str
) -> None:
    assert said in linted[0]


def test_the_graph_names_cycles_and_imports_that_go_up(linted: tuple[str, str]) -> None:
    assert "a cycle: app.orders.first, app.orders.second" in linted[1]
    assert "up: platform.settings imports platform.http" in linted[1]
    assert "up: orders imports items" in linted[1]


def test_each_contract_says_how_to_mend_what_breaks_it(
    service: Path, linted: tuple[str, str]
) -> None:
    """The advice stands below the finding; so each contract was seen broken, too."""
    config = configparser.ConfigParser()
    config.read(service / ".importlinter")
    for contract in config.sections()[1:]:
        advice = config[contract]["broken_contract_guidance"].split()
        assert " ".join(advice) in " ".join(linted[0].split()), contract


@pytest.mark.parametrize(
    ("test", "path", "text", "said"), TESTED, ids=[path for _, path, *_ in TESTED]
)
def test_the_services_own_test_sees_the_rule_broken(
    service: Path, tmp_path: Path, test: str, path: str, text: str, said: str
) -> None:
    broken = shutil.copytree(service, tmp_path / "tested")
    append(broken, path, text)
    python = toolbox.python_for(service)
    assert said in toolbox.pytest(python, broken, f"tests/test_structure.py::{test}")


def test_the_hook_for_secrets_finds_one_in_a_migration(service: Path, tmp_path: Path) -> None:
    python = toolbox.python_for(service)
    files = {"migrations/versions/20260101_add_orders.py": MIGRATION}
    found = toolbox.hooks(python, service, tmp_path, "lint,format,openapi,lock,types", files)
    assert re.findall(r"Location: .*", found) == [
        "Location:    migrations/versions/20260101_add_orders.py:5"
    ]


@pytest.mark.parametrize("hook", ["imports", "dependencies", "dev-dependencies", "types"])
def test_a_hook_runs_a_command_of_the_makefile(service: Path, hook: str) -> None:
    """What `make lint types` passes, the first commit and the first pipeline pass, too."""
    [repository] = yaml.safe_load((service / ".pre-commit-config.yaml").read_text())["repos"]
    [entry] = [each["entry"] for each in repository["hooks"] if each["id"] == hook]
    commands = toolbox.commands(service, "lint") + toolbox.commands(service, "types")
    assert shlex.split(entry.removeprefix("uv run --quiet ")) in commands
