"""The template keeps each rule, and each guard sees its rule broken."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import generator
from tests.rules import guards

Guard = Callable[[Path], list[str]]
APP = Path("src/app")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the template, to break."""
    return generator.copy_of_template(tmp_path)


@pytest.mark.parametrize("guard", guards.ALL, ids=lambda guard: guard.__name__)
def test_the_template_keeps_the_rule(guard: Guard) -> None:
    assert guard(generator.ROOT) == []


def _append(path: str, text: str) -> Callable[[Path], None]:
    def change(template: Path) -> None:
        target = template / path
        target.parent.mkdir(parents=True, exist_ok=True)
        old = target.read_text(encoding="utf-8") if target.exists() else ""
        target.write_text(old + text, encoding="utf-8")

    return change


BROKEN: list[tuple[Guard, Callable[[Path], None], str]] = [
    (
        guards.python_parses,
        _append("src/app/platform/data/database.py", "def broken(:\n"),
        "database.py",
    ),
    (guards.python_parses, _append("src/app/api.py.jinja", "{% if x %}\n"), "api.py.jinja"),
    (
        guards.python_has_no_tags,
        _append("src/app/platform/data/database.py", "# {% if x %}\n"),
        "database.py",
    ),
    (
        guards.python_has_no_tags,
        _append("src/app/platform/data/database.py", "# {{ names }}\n"),
        "database.py",
    ),
    (guards.python_has_no_tags, _append("src/app/api.py.jinja", "# {% if x %}\n"), "a Jinja tag"),
    (guards.python_has_no_tags, _append("src/app/api.py.jinja", "x = {{ y }}\n"), "neither a slot"),
    (
        guards.expressions_do_not_backtrack,
        _append("src/app/platform/data/database.py", 're.compile(r"(.+?)(?:[^a-z]*\\1)+")\n'),
        "(.+?)",
    ),
    (guards.python_is_linted, _append("src/app/platform/data/database.py", "import os\n"), "F401"),
    (
        guards.python_is_linted,
        _append("src/app/platform/data/database.py", "x = {  }\n"),
        "database.py",
    ),
    (guards.python_is_linted, _append("{{queue_none}}/src/app/new.py", "import os\n"), "F401"),
    (
        guards.core_names_no_option,
        _append("src/app/platform/data/database.py", "# as with Celery\n"),
        "'Celery'",
    ),
    (
        guards.core_names_no_option,
        _append("pyproject.toml.jinja", '{% if queue == "x" %}\n{% endif %}\n'),
        "asks for an answer",
    ),
    (
        guards.documents_parse,
        _append("compose/grafana/dashboards/service.yml", "a: [\n"),
        "service.yml",
    ),
    (guards.documents_parse, _append("new.toml", "a = \n"), "new.toml"),
    (guards.documents_parse, _append(".vscode/settings.json", "{"), "settings.json"),
    (guards.images_can_be_read, _append("Dockerfile.jinja", "COPY more .\n"), "COPY more"),
    (
        guards.facts_can_be_chosen,
        _append("{{with_orphan}}/option.yml", "label: Orphan\nhelp: nobody asks for it\n"),
        "with_orphan",
    ),
    (
        guards.options_can_be_asked_for,
        _append("{{colour_red}}/option.yml", "label: Red\nhelp: a colour\n"),
        "no question `colour`",
    ),
    (
        guards.migrations_say_whose_they_are,
        _append("{{feature_x}}/migrations/versions/x_0001.py", 'revision = "ab12cd34ef56"\n'),
        "x_0001.py",
    ),
    (
        guards.migrations_say_whose_they_are,
        _append("{{feature_x}}/migrations/versions/first.py", 'revision = "x_0001"\n'),
        "first.py",
    ),
    (
        guards.tests_leave_names_to_the_owner,
        _append("tests/platform/data/test_database.py", '# text("CREATE TABLE notes ()")\n'),
        "name it notes_of_a_test",
    ),
]


@pytest.mark.parametrize(("guard", "break_it", "said"), BROKEN)
def test_the_guard_sees_its_rule_broken(
    copy: Path, guard: Guard, break_it: Callable[[Path], None], said: str
) -> None:
    before = guard(copy)
    break_it(copy / "template")
    found = "\n".join(set(guard(copy)) - set(before))
    assert said in found
