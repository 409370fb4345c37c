"""Every answer becomes every other in a service that people have changed, and nothing is lost."""

import sys
from pathlib import Path

import pytest

from tests import generator, matrix, toolbox
from tests.updates import edits, world

SWITCHES = {
    question: choices
    for question, choices in matrix.choices().items()
    if question in ("queue", "tracing", "auth", "deploy", "ci", "example")
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = generator.copy_of_template(tmp_path_factory.mktemp("switches") / "template")
    world.publish(template, "1.0.0")
    return template


@pytest.fixture(scope="module")
def edited(template: Path, tmp_path_factory: pytest.TempPathFactory) -> world.Service:
    folder = tmp_path_factory.mktemp("edited") / "service"
    service = world.Service.make(template, folder, version="1.0.0")
    assert edits.edit(service) == edits.ADDED
    return service


@pytest.mark.parametrize("question", SWITCHES)
def test_every_answer_becomes_every_other_and_nothing_is_lost(
    edited: world.Service, template: Path, tmp_path: Path, question: str
) -> None:
    service = edited.copy(tmp_path / "service")
    default = service.answers()[question]
    others = [each for each in SWITCHES[question] if each != default]
    for answer in [*others, default]:
        given = {question: str(answer).lower()}
        done = service.update("--vcs-ref", ":current:", **given)
        assert done.returncode == 0, done.stdout
        assert "changed the same lines" not in done.stdout, done.stdout
        assert edits.lost(service, edits.ADDED) == [], answer
        _put_right_what_is_beside(service)
        fresh = world.Service.make(template, tmp_path / str(answer), version="1.0.0", **given)
        assert _differences(service, fresh) == set(), answer
        _holds(service)
        world.commit(service.folder, f"{question} is {answer}")
        if answer != default:
            service = _with_all_of_it(edited, service, tmp_path / f"from-{answer}")


def _put_right_what_is_beside(service: world.Service) -> None:
    """Do what the closing message asks for: look, and delete what is not wanted any more."""
    for path in service.folder.rglob("*.rej"):
        path.unlink()


def _differences(service: world.Service, fresh: world.Service) -> set[str]:
    """Return the files that differ from a new copy though nobody edited them."""
    mine, theirs = service.tree(), fresh.tree()
    touched = {*edits.FILES, *edits.OWN, *edits.DELETED, "src/app/parts.py"}
    return {path for path in {*mine, *theirs} - touched if mine.get(path) != theirs.get(path)}


def _holds(service: world.Service) -> None:
    """Lint and type-check it; its own tests run for the rows of the matrix."""
    ruff = ("-m", "ruff", "check", "--no-cache")
    assert toolbox.run(Path(sys.executable), service.folder, *ruff) == ""
    python = toolbox.python_for(service.folder)
    cache = python.parent.parent / "mypy-switches"
    assert toolbox.run(python, service.folder, "-m", "mypy", "--cache-dir", str(cache)) == ""


def _with_all_of_it(edited: world.Service, switched: world.Service, to: Path) -> world.Service:
    """Return the switched service, or, when edits had to leave with an answer, a new start."""
    return switched if all(map(switched.has, edits.FILES)) else edited.copy(to)
