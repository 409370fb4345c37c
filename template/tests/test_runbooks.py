"""Each alert has a runbook, and what the runbooks name is there."""

import re
import shlex
from pathlib import Path
from uuid import uuid4

import click
import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.cli import add_commands, cli
from tests.conftest import ROOT

FOLDER = ROOT / "docs/runbooks"
RULES = sorted((ROOT / "compose/rules").glob("*.yml"))
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
SECTIONS = [
    "What it means",
    "What users notice",
    "First five minutes",
    "How to confirm",
    "How to reduce the impact",
    "Who decides",
]
EXTENSIONS = {"pg_stat_statements"}  # of Postgres: not in every server
PLACEHOLDER = re.compile(r"\b(?:PID|SOURCE|[A-Z]+_ID)\b")


def alerts() -> list[tuple[str, str, str]]:
    """Per alert: its name, its severity, and the path of its page."""
    found = []
    for rules in RULES:
        for rule in re.split(r"(?m)^ +- alert: ", rules.read_text())[1:]:
            severity = re.search(r"severity: (\w+)", rule)
            runbook = re.search(r"runbook(?:_url)?: (\S+)", rule)
            assert severity, f"{rule.split()[0]} has no severity"
            assert runbook, f"{rule.split()[0]} names no runbook"
            found.append((rule.split()[0], severity[1], runbook[1]))
    return found


def kebab(alert: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", alert).lower()


def code(page: Path) -> list[str]:
    """The code spans of a page, with each placeholder replaced."""
    spans = re.findall(r"`([^`]+)`", page.read_text())
    value = {"PID": "1", "SOURCE": "jobs"}
    return [PLACEHOLDER.sub(lambda word: value.get(word[0], str(uuid4())), span) for span in spans]


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest) -> Path:
    page: Path = request.param
    return page


def test_each_alert_names_its_page_and_each_page_has_its_alert() -> None:
    named = {(alert, runbook) for alert, _, runbook in alerts()}
    assert named == {(alert, f"docs/runbooks/{kebab(alert)}.md") for alert, _ in named}
    assert {ROOT / runbook for _, runbook in named} == set(PAGES)


def test_the_list_has_each_alert_with_its_severities() -> None:
    rows = re.findall(
        r"(?m)^\| \[(\w+)\]\((\S+)\) \| ([a-z, ]+) \|", (FOLDER / "README.md").read_text()
    )
    listed = {(name, word) for name, _, severities in rows for word in severities.split(", ")}
    assert listed == {(alert, severity) for alert, severity, _ in alerts()}
    assert {link for _, link, _ in rows} == {page.name for page in PAGES}


def test_a_page_is_short_and_has_its_title_and_sections(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert len(lines) <= 45
    assert kebab(lines[0].removeprefix("# ")) == page.stem
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == SECTIONS


def test_operations_has_what_the_commands_of_the_pages_need() -> None:
    _, _, operations = (ROOT / "docs/deploy.md").read_text().partition("## Operations")
    for need in ("`$API`", "psql ", "any `app` command", "logs "):
        assert need in operations, need


def test_the_commands_of_a_page_and_their_options_exist(page: Path) -> None:
    commands = click.Group(commands=dict(cli.commands))
    add_commands(commands)
    for span in code(page):
        if span.startswith("app "):
            command: click.Command = commands
            words = shlex.split(span)[1:]
            while isinstance(command, click.Group):
                assert words[0] in command.commands, span
                command = command.commands[words.pop(0)]
            command.make_context(span, words)  # raises for what it does not take
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    assert {span.split()[1] for span in code(page) if span.startswith("make ")} <= set(targets)


async def test_postgres_accepts_the_statements_of_a_page(page: Path, app: FastAPI) -> None:
    statements = [
        found[1]
        for span in code(page)
        if (found := re.fullmatch('psql -c "(.+)"', span, re.DOTALL))
    ]
    for statement in statements:
        if not any(name in statement for name in EXTENSIONS):
            # Planned, not run: some of them end sessions.
            plan = "" if statement.startswith("show ") else "EXPLAIN "
            async with app.state.db.transaction() as session:
                await session.execute(text(plan + statement))


async def test_the_service_reports_the_metrics_of_a_page(
    page: Path, client: httpx2.AsyncClient
) -> None:
    reported = (await client.get("/metrics")).text
    names = set(re.findall(r"(?m)^# TYPE (\w+) ", reported))
    topics = {name.partition("_")[0] for name in names if "_" in name}
    for span in code(page):
        if span.startswith("psql"):
            continue
        if grep := re.search(r"/metrics\" \| grep '?([^']+)", span):
            assert grep[1] in reported, span
        for word in re.findall(r"(?<![\w.])[a-z]+(?:_[a-z]+)+(?!\w)", span):
            metric = re.sub(r"_(count|sum|bucket|total)$", "", word)
            if word.partition("_")[0] in topics:
                assert any(name.startswith(metric) for name in names), word
