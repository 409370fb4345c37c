"""Answers: what is refused and why, and what is awkward but fine."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier.errors import UserMessageError
from pytest_copier.plugin import CopierFixture

from extensions import answers, options
from tests import generator, matrix

REFUSED: list[tuple[str, Any, str]] = [
    ("project_name", "", "is not valid; write one like my-service: a to z"),
    (
        "project_name",
        "My Service",
        "is not valid; write my-service: a to z, digits, single hyphens",
    ),
    ("project_name", "-service", "is not valid; write service:"),
    ("project_name", "my_service", "is not valid; write my-service:"),
    ("project_name", "a--b", "is not valid; write a-b:"),
    ("project_name", "2fast", "is not valid; write fast:"),
    ("project_name", "größe", "is not valid; write gr-e:"),
    ("project_name", "../evil", "is not valid; write evil:"),
    ("project_name", "a'b\"c", "is not valid; write a-b-c:"),
    ("project_name", "{{ x }}", "is not valid; write x:"),
    ("project_name", "a" * 51, "has 51 characters; the maximum is 50"),
    ("project_name", "fastapi", "is taken: the service installs"),
    ("project_name", "pydantic-settings", "is taken: the service installs"),
    ("features", "[x]", "'x' is not a choice"),
    ("features", "[", "'[' is not a choice"),
    ("features", "!x", "'!x' is not a choice"),
    ("features", "2020-13-45", "'2020-13-45' is not a choice"),
    ("project_name", "rich", "is taken: the service installs"),
    ("project_name", "opentelemetry-util-http", "is taken: the service installs"),
    ("project_name", "asyncio", "is taken: the service installs"),
    ("project_name", "app", "is taken: the service installs"),
    ("project_name", "test", "is taken: the service installs"),
    ("project_name", "gateway", "is a namespace of Kubernetes clusters"),
    ("project_name", "monitoring", "is a namespace of Kubernetes clusters"),
    ("project_name", "kube-system", "is a namespace of Kubernetes clusters"),
    ("project_name", "null", "is a reserved word in YAML; choose another name"),
    ("project_name", ["a"], "['a'] is not text; put it in quotes"),
    ("project_name", None, "None is not text; put it in quotes"),
    ("description", "", "is empty; describe the service in one line"),
    ("description", "   ", "is empty"),
    ("description", "two\nlines", "contains the invisible character U+000A"),
    ("description", "bell \a", "contains the invisible character U+0007"),
    ("description", "del \x7f", "contains the invisible character U+007F"),
    ("description", "a\u2028b", "contains the invisible character U+2028"),
    ("description", "turned \u202e around", "contains the invisible character U+202E"),
    ("description", "half \ud83d", "contains the invisible character U+D83D"),
    ("description", "x" * 201, "has 201 characters; the maximum is 200"),
    ("description", True, "True is not text"),
    ("author", "Ada\tLovelace", "contains the invisible character U+0009"),
    ("author", "Lovelace, Ada", "remove the comma"),
    ("email", "ada", "'ada' is not an e-mail address; write one like ada@example.com"),
    ("email", "ada@example", "is not an e-mail address; write one like ada@example.com"),
    ("email", "ada@@example.com", "is not an e-mail address; write one like ada@example.com"),
    ("email", "ada@exa mple.com", "is not an e-mail address; write one like ada@example.com"),
    ("email", "a@b.c>\"'", "is not an e-mail address; write one like ada@example.com"),
    ("email", "ada@example..com", "is not an e-mail address; write one like ada@example.com"),
    ("queue", "rabbit", "'rabbit' is not a choice; choose "),
    ("queue", "", "'' is not a choice"),
    ("tracing", ["otlp"], "is not a choice"),
    ("preset", "huge", "'huge' is not a choice; choose standard, minimal or everything"),
    ("python", "3.10", "'3.10' is not a choice; choose 3.14, 3.13, 3.12 or 3.11"),
    ("example", "maybe", "'maybe' is not a yes or no"),
    ("qeue", "none", "`qeue` is not a question; the questions are preset, project_name"),
]


@pytest.mark.parametrize(("question", "answer", "said"), REFUSED)
def test_a_bad_answer_is_refused_with_its_reason(question: str, answer: Any, said: str) -> None:
    with pytest.raises(UserMessageError) as caught:
        answers.check({question: answer}, options.choices(options.load()))
    assert said in caught.value.message
    assert caught.value.message.count("\n") == 1


@pytest.mark.parametrize(("question", "answer", "said"), REFUSED[::6])
def test_nothing_is_written_then(
    copier: CopierFixture, tmp_path: Path, question: str, answer: Any, said: str
) -> None:
    with pytest.raises(UserMessageError) as caught:
        copier.copy(tmp_path / "service", **{question: answer})
    assert said in caught.value.message
    assert not (tmp_path / "service").exists()


def copy_by_command(template: Path, to: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "copier", "copy", "--trust", "--defaults", *arguments]
    return subprocess.run(
        [*command, template, to],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_the_command_names_every_mistake_at_once(template: Path, tmp_path: Path) -> None:
    given = tmp_path / "answers.yml"
    given.write_text("queue: rabbit\nemail: ada\npython: 3.13\n")
    service = tmp_path / "service"
    done = copy_by_command(template, service, "--data-file", str(given), "-d", "project_name=A B")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    mistakes = done.stderr.partition("These answers are not valid:\n")[2].splitlines()
    assert [line.split(":")[0].strip() for line in mistakes] == ["email", "project_name", "queue"]
    assert not service.exists()


def test_the_command_says_what_to_do_next(template: Path, tmp_path: Path) -> None:
    service = tmp_path / "my services" / "one"
    done = copy_by_command(template, service)
    assert done.returncode == 0, done.stderr
    assert f"cd '{service}'\n" in done.stderr
    assert "uv run app dev" in done.stderr
    assert "uv run pytest" in done.stderr


def test_every_question_has_a_check() -> None:
    """A question without one would let anything through."""
    for name, question in answers.questions().items():
        checked = question["type"] == "bool" or "choices" in question
        assert checked or "refusal" in question["validator"], name
        assert checked or name in answers.RULES, name


AWKWARD = {
    "description": 'It\'s "100%" {{ fine }} {% %} #1: $X \\n <b> |x| ünïcödé \u2013 \u2019 🚀 \\',
    "author": 'O\'Brien "Bob" #1: {{ Müller }} \\ 100% $x',
    "email": "o.brien+work@example.com",
}


@pytest.fixture(scope="module")
def awkward(session_copier: CopierFixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return session_copier.copy(tmp_path_factory.mktemp("awkward") / "service", **AWKWARD).path


def test_awkward_text_arrives_as_it_was_written(awkward: Path) -> None:
    project = tomllib.loads((awkward / "pyproject.toml").read_text())["project"]
    assert project["description"] == AWKWARD["description"]
    assert project["authors"] == [{"name": AWKWARD["author"], "email": AWKWARD["email"]}]
    kept = yaml.safe_load((awkward / ".copier-answers.yml").read_text())
    assert AWKWARD.items() <= kept.items()


def test_awkward_text_is_shown_by_markdown_as_it_is(awkward: Path) -> None:
    shown = (awkward / "README.md").read_text().split("\n\n")[1]
    assert not re.search(r"(?<!\\)[`*_<>$]", shown)
    assert re.sub(r"\\(.)", r"\1", shown) == AWKWARD["description"]


def test_awkward_text_leaves_every_document_readable(awkward: Path) -> None:
    for path in generator.files(awkward, ".yml", ".yaml"):
        list(yaml.compose_all(path.read_text(), Loader=yaml.SafeLoader))
    for path in generator.files(awkward, ".toml"):
        tomllib.loads(path.read_text())
    for path in generator.files(awkward, ".py"):
        compile(path.read_text(), path, "exec")


def test_awkward_text_reaches_the_package_metadata(awkward: Path, tmp_path: Path) -> None:
    """The service reads its description from there."""
    build = [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path)]
    subprocess.run(build, cwd=awkward, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path], check=True)
    (folder,) = tmp_path.glob("*.dist-info")
    assert PathDistribution(folder).metadata["Summary"] == AWKWARD["description"]


@pytest.mark.parametrize("person", [{"author": "Ada"}, {"email": "ada@example.com"}, {}])
def test_author_and_address_are_optional(
    copier: CopierFixture, tmp_path: Path, person: dict[str, str]
) -> None:
    service = copier.copy(tmp_path / "service", **person).path
    project = tomllib.loads((service / "pyproject.toml").read_text())["project"]
    told = {"name" if key == "author" else key: value for key, value in person.items()}
    assert project.get("authors", [{}]) == [told]


@pytest.mark.parametrize("preset", ["minimal", "standard", "everything"])
def test_a_preset_sets_the_defaults_and_nothing_else(
    copier: CopierFixture, tmp_path: Path, preset: str
) -> None:
    proposed = options.defaults(options.load(), preset)
    service = copier.copy(tmp_path / "one", preset=preset).path
    kept = yaml.safe_load((service / ".copier-answers.yml").read_text())
    assert {name: kept[name] for name in proposed if name in kept} == {
        name: answer for name, answer in proposed.items() if name in kept
    }
    other = next(each for each in matrix.choices()["queue"] if each != proposed["queue"])
    service = copier.copy(tmp_path / "two", preset=preset, queue=other).path
    changed = yaml.safe_load((service / ".copier-answers.yml").read_text())
    assert changed.pop("queue") == other
    assert changed.items() <= kept.items()


def test_choices_say_what_they_mean_and_cost() -> None:
    for option in options.load():
        if option.question != options.FACT:
            assert len(option.help.split()) > 3, option.variable
            assert len(f"{option.label}: {option.help}") <= 140, option.variable


def test_a_record_of_an_earlier_version_is_no_mistake(
    copier: CopierFixture, tmp_path: Path
) -> None:
    """Copier hands on every old answer in an update, those to questions that are gone too."""
    service = copier.copy(tmp_path / "one").path
    record = yaml.safe_load((service / ".copier-answers.yml").read_text())
    again = copier.copy(tmp_path / "two", **record, gone="yes").path
    old, new = ((each / "pyproject.toml").read_text() for each in (service, again))
    assert json.dumps(old) == json.dumps(new)
