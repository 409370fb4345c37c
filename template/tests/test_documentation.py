"""What the documentation names is there: files, tests, settings, commands."""

import re
from pathlib import Path

import click
import pytest

from app.cli import add_commands, cli
from app.settings import Settings
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


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
    for name in named(r"`(tests/[^`]+)`", page):
        file, _, test = name.partition("::")
        assert (ROOT / file).exists(), name
        assert not test or f"def {test}(" in (ROOT / file).read_text(), name


def test_variables_exist(page: Path) -> None:
    files = [*ROOT.glob("compose*.yaml"), *ROOT.glob("*/*.sh")]
    known = {field.upper() for field in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known}
    known |= {name for file in files for name in named(r"\b[A-Z]+_[A-Z_]+\b", file)}
    assert named(r"`([A-Z]+_[A-Z_]+)[`=]", page) - known == set()


def test_commands_exist(page: Path) -> None:
    commands = click.Group(commands=dict(cli.commands))
    add_commands(commands)
    words = named(r"(?m)(?:`|^|uv run |\[)app ([a-z]+)\b", page)
    assert words - set(commands.commands) == set()


def test_the_map_shows_what_is_there() -> None:
    cells = named(r"(?m)^\| (`[^|]+`) \|", ROOT / "docs/architecture.md")
    files = set(re.findall(r"`([a-z_]+(?:\.py|/))`", " ".join(cells)))
    assert len(files) > 10
    assert {file for file in files if not (ROOT / "src/app" / file).exists()} == set()
