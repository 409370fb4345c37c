"""What the documentation names is there: files, tests, settings, commands."""

import ast
import builtins
import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import asyncpg
import click
import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from app import asgi
from app.cli import add_commands, cli
from app.settings import Settings
from tests.conftest import ROOT

APP = ROOT / "src/app"
LISTED_ROOMS = {"auth", "platform"}  # their modules are all listed
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(pattern: str, page: Path) -> set[str]:
    return set(re.findall(pattern, page.read_text()))


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    page: Path = request.param
    return page


def test_links_lead_somewhere(page: Path) -> None:
    links = named(r"\]\(([^)#:]+)\)", page)
    assert {link for link in links if not (page.parent / link).exists()} == set()


def test_tests_that_hold_a_promise_are_there(page: Path) -> None:
    """``::test_name`` alone is a test of the file that was named last."""
    file = ""
    for named_file, test in re.findall(r"`(tests/[^`<:]+)?(?:::(\w+))?`", page.read_text()):
        file = named_file or file
        if named_file or test:
            assert (ROOT / file).exists(), file
            assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_variables_exist(page: Path) -> None:
    files = [*ROOT.glob("compose*.yaml"), *ROOT.glob("*/*.sh"), *ROOT.glob("*.yml")]
    files += ROOT.glob("deploy/*.yaml")
    files += ROOT.glob("tools/*.py")
    known = {field.upper() for field in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known}
    known |= {name for _, name in platform_page()}
    known |= {name for file in files for name in named(r"\b[A-Z]+_[A-Z_]+\b", file)}
    assert named(r"`([A-Z]+_[A-Z_]+)[`=]", page) - known == set()


def test_commands_exist(page: Path) -> None:
    commands = click.Group(commands=dict(cli.commands))
    add_commands(commands)
    words = named(r"(?m)(?:`|^|uv run |\[)app ([a-z]+)\b", page)
    assert words - set(commands.commands) == set()


ATTRIBUTES_OF_COOKIES = {"HttpOnly", "SameSite"}


@cache
def code() -> str:
    """The source, the tests, the alerts, and everything that deploys them."""
    folders = [ROOT / folder for folder in ("src", "tests", "compose", "deploy", "benchmarks")]
    files = [file for folder in folders for file in folder.rglob("*.*") if file.suffix != ".pyc"]
    return "\n".join(file.read_text(errors="ignore") for file in files if file.is_file())


def test_classes_and_alerts_exist(page: Path) -> None:
    prose = re.sub(r"(?s)```.*?```", "", page.read_text())
    of_others = {*dir(builtins), *dir(asyncpg), "TestClient", *ATTRIBUTES_OF_COOKIES}
    words = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)\b", prose)) - of_others
    assert {word for word in words if not re.search(rf"\b{word}\b", code())} == set()


def modules_on_page() -> set[str]:
    """The modules that ``docs/architecture.md`` lists, below ``src/app``."""
    text = (ROOT / "docs/architecture.md").read_text()
    listed = set()
    for section in text.split("### `src/app")[1:]:
        folder = section.partition("`")[0].strip("/")
        names = re.findall(r"(?m)^\| `([a-z_]+\.py)` \|", section)
        listed |= {f"{folder}/{name}".lstrip("/") for name in names}
    return listed


def modules() -> set[str]:
    """The modules of the platform, of ``auth``, and the entry points."""
    paths = [path.relative_to(APP) for path in APP.rglob("*.py")]
    return {
        path.as_posix()
        for path in paths
        if len(path.parts) == 1 or path.parts[0] in LISTED_ROOMS
        if path.name != "__init__.py" or path.parent.name == "tracing"
    } - {"__init__.py"}


def test_the_architecture_page_lists_every_module() -> None:
    """The platform's: an owner's own modules need no row."""
    platform = {module for module in modules() if module.startswith("platform/")}
    assert platform - modules_on_page() == set()


def test_the_architecture_page_lists_no_module_that_is_gone() -> None:
    """A feature's rows may stay behind when the feature is deleted."""
    listed = {
        name
        for name in modules_on_page()
        if name.count("/") == 0 or name.partition("/")[0] in LISTED_ROOMS
    }
    assert listed - modules() == set()


def imports(source: str) -> set[tuple[str, str]]:
    """The names that ``source`` imports from the app, each with its module."""
    return {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("app.")
        for alias in node.names
        if node.module
    }


def platform_page() -> set[tuple[str, str]]:
    examples = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/platform.md").read_text(), re.DOTALL
    )
    assert len(examples) > 10
    return set().union(*map(imports, examples))


@pytest.mark.parametrize(("module", "name"), sorted(platform_page()))
def test_what_the_platform_page_imports_is_there(module: str, name: str) -> None:
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}")


def test_features_import_from_the_platform_what_its_page_lists() -> None:
    """A module on the page covers each of its names. ``auth`` is the port of ``platform.auth``."""
    page = platform_page()
    folders = [path for path in APP.iterdir() if path.is_dir() and path.name not in LISTED_ROOMS]
    used = {
        each
        for folder in folders
        for path in folder.rglob("*.py")
        for each in imports(path.read_text())
        if each[0].startswith("app.platform")
    }
    missing = {each for each in used if tuple(each[0].rsplit(".", 1)) not in page} - page
    assert missing == set(), "import what docs/platform.md lists, or add it to that page"


def test_agents_md_is_short_and_its_targets_are_there() -> None:
    text = (ROOT / "AGENTS.md").read_text()
    assert len(text.splitlines()) < 150
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named_targets = {
        word for line in re.findall(r"`make ([a-z -]+)`", text) for word in line.split()
    }
    assert named_targets - targets == set()
    paths = set(re.findall(r"`((?:src|docs|tests|migrations)/[\w./]+)(?:::\w+)?`", text))
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_each_check_that_agents_md_names_is_configured() -> None:
    """Each rule has a test, or a tool that is configured."""
    rules = (ROOT / "AGENTS.md").read_text().partition("## Rules")[2].partition("## Pitfalls")[0]
    checks = [row.rsplit("|", 2)[1] for row in re.findall(r"(?m)^\| .*\|$", rules)[1:]]
    configured = {
        "TID251": "pyproject.toml",
        "deptry": "Makefile",
        "detect-secrets": ".pre-commit-config.yaml",
        "importlinter": ".importlinter",
    }
    for check in checks:
        tools = [word for word in configured if word in check]
        assert tools or "`tests/" in check, check
        for tool in tools:
            assert tool in (ROOT / configured[tool]).read_text(), check


def test_each_command_that_agents_md_names_explains_itself() -> None:
    commands = click.Group(commands=dict(cli.commands))
    add_commands(commands)
    for name in named(r"`uv run app ([a-z]+)", ROOT / "AGENTS.md"):
        done = CliRunner().invoke(commands, [name, "--help"])
        assert (done.exit_code, "Usage:" in done.output) == (0, True), name


def test_tools_find_the_app_by_the_entrypoint() -> None:
    """``fastapi dev`` and editors take a variable, and look for it by ``dir()``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["tool"]["fastapi"]["entrypoint"].partition(":")
    assert name in dir(importlib.import_module(module))


def test_the_entrypoint_creates_the_app_when_it_is_first_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    created = [FastAPI()]
    monkeypatch.setattr(asgi, "_create_once", cache(created.pop))
    assert asgi.app is asgi.app
    with pytest.raises(AttributeError):
        _ = asgi.other
