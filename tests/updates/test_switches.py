"""Every answer becomes every other in a service that people have changed, and nothing is lost.

The same service walks from answers to answers, several questions at once, so that each step is an
update of a service that was edited and updated before. After each, it is what a new copy would be
but for the edits, and its own tests of what was switched are green, and so are the people's.
``FULL=1``: not only each answer in turn, but every ordered pair of them.
"""

import os
import shutil
from collections.abc import Iterator
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import generator, matrix, suite
from tests.updates import edits, world

FULL = os.environ.get("FULL") == "1"
# What is switched together, with the tests of a service that have to do with it. Those of hanging
# jobs and of traces between processes run for each answer in tests/suites.
WALKS = {
    "jobs": {
        "queue": [
            "tests/platform/jobs",
            "tests/system/jobs" if FULL else "tests/system/jobs/test_processes.py",
        ],
        "example": ["tests/items"],
        "ci": ["tests/test_documentation.py"],
    },
    "callers": {
        "auth": ["tests/platform/auth", "tests/platform/data/test_migrations.py"],
        "deploy": ["tests/deploy", *["tests/system/test_serve.py"] * FULL],
        "tracing": ["tests/platform/observability", *["tests/system/tracing"] * FULL],
    },
}
OWN_TESTS = "tests/orders"
MIGRATIONS = "tests/platform/data/test_migrations.py"


def test_every_question_that_changes_a_service_is_walked() -> None:
    walked = {question for questions in WALKS.values() for question in questions}
    features = {each for each in matrix.choices() if each.startswith(matrix.FEATURE)}
    assert walked | features == set(matrix.choices()) - {"preset", "python"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published template, which has a feature more: a toy."""
    template = generator.copy_of_template(tmp_path_factory.mktemp("switches") / "template")
    toy = "{{feature_tides}}"
    shutil.copytree(generator.ROOT / "tests" / "toys" / toy, template / "template" / toy)
    world.publish(template, "1.0.0")
    return template


def walk(choices: list[Any]) -> list[Any]:
    """Return what is answered, one after the other: the first of ``choices`` at both ends."""
    if not FULL:
        return [*choices, choices[0]]
    steps = [choices[0]]
    for n, one in enumerate(choices):
        steps += [one] * (steps[-1] != one)
        for other in choices[n + 1 :]:
            steps += [other, one]
    return steps


def test_two_halves_of_a_walk_visit_every_answer() -> None:
    choices: dict[str, list[Any]] = {"auth": [1, 2, 3, 4], "example": [True, False]}
    halves = [list(steps(choices, {"auth": 1, "example": True}, half)) for half in (0, 1)]
    assert [[step["auth"] for step in half] for half in halves] == [[2, 4, 1], [3, 1]]
    assert all({step["example"] for step in half} == {True, False} for half in halves)


def test_a_full_walk_takes_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FULL", True)
    taken = {*pairwise(walk([1, 2, 3, 4]))}
    assert taken == {(a, b) for a in range(1, 5) for b in range(1, 5) if a != b}


def steps(
    choices: dict[str, list[Any]], first: dict[str, Any], half: int
) -> Iterator[dict[str, Any]]:
    """Yield the answers after the first; short walks begin again when they are at their end.

    Each half visits every other answer, unless the walks are full.
    """
    walks = {}
    for question, answer in first.items():
        others = [each for each in choices[question] if each != answer]
        if not FULL and len(others) > 1:
            others = others[half::2]
        walks[question] = walk([answer, *others])[1:]
    longest = max(map(len, walks.values()))
    for row in islice(zip(*map(cycle, walks.values()), strict=False), longest):
        yield dict(zip(walks, row, strict=True))


@pytest.mark.timeout(24 * 3600 if FULL else 3600)
@pytest.mark.rotates("walks through answers", shares=4)
@pytest.mark.parametrize("half", [0] if FULL else [0, 1])
@pytest.mark.parametrize("name", WALKS)
def test_every_answer_becomes_another_and_nothing_is_lost(
    template: Path, tmp_path: Path, name: str, half: int
) -> None:
    choices = matrix.choices(template / "template")
    service = world.Service.make(template, tmp_path / "service", version="1.0.0")
    changes = edits.edit(service, example=name == "jobs")
    features = _features(choices, template / "template")
    tests = WALKS[name] | (features if name == "jobs" else {})
    answers = {question: service.answers().get(question, False) for question in tests}
    tried: set[tuple[str, Any]] = set()
    # First the answer for the example that was deleted by hand: together with another auth style,
    # both sides change the same line of api.py.
    for number, step in enumerate([answers, *steps(choices, answers, half)]):
        done = service.update("--vcs-ref", ":current:", **_given(step))
        assert done.returncode == 0, done.stdout
        assert "changed the same lines" not in done.stdout, done.stdout
        assert edits.lost(service, changes) == [], step
        _look_at_what_is_beside(service)
        changes = [change for change in changes if service.has(change.path)]
        changes += edits.redo(service)
        fresh = world.Service.make(
            template, tmp_path / f"{number}", version="1.0.0", **_given(step)
        )
        assert _differences(service, fresh) == set(), step
        switched = [each for each in step if step[each] != answers[each]]
        if not FULL:  # the tests of an answer run when the walk first comes to it
            switched = [each for each in switched if (each, step[each]) not in tried]
            tried |= step.items()
        service.holds(OWN_TESTS, *(test for question in switched for test in tests[question]))
        world.commit(service.folder, f"{step}")
        answers = step


def _features(choices: dict[str, list[Any]], template: Path) -> dict[str, list[str]]:
    """Return the fast tests that each feature brings, and that of the tables."""
    names = [each for each in choices if each.startswith(matrix.FEATURE)]
    return {
        name: [
            *_fast(suite.files_of_feature(name.removeprefix(matrix.FEATURE), template)),
            MIGRATIONS,
        ]
        for name in names
    }


def _fast(files: list[str]) -> list[str]:
    return [each for each in files if not each.startswith("tests/system/")]


def _given(step: dict[str, Any]) -> dict[str, str]:
    """Return the answers as the command line takes them."""
    row = matrix.Row("", {"example": False, **step}, always=True, new=frozenset())
    return {question: str(answer).lower() for question, answer in row.given.items()}


def _look_at_what_is_beside(service: world.Service) -> None:
    """Do what the closing message asks for: look, and delete what is not wanted any more."""
    for path in service.folder.rglob("*.rej"):
        path.unlink()


def _differences(service: world.Service, fresh: world.Service) -> set[str]:
    """Return the files that differ from a new copy though nobody edited them."""
    mine, theirs = service.tree(), fresh.tree()
    touched = {*edits.FILES, *edits.OWN, *edits.DELETED, "uv.lock"}
    return {path for path in {*mine, *theirs} - touched if mine.get(path) != theirs.get(path)}
