"""A service that nobody changed is, after an update, what a new one would be."""

import os
from itertools import cycle, pairwise
from pathlib import Path

import pytest

from tests.updates import edits, releases, world

FULL = os.environ.get("FULL") == "1"
VERSIONS = [*releases.kept(), releases.NOW]


STEPS = [*pairwise(VERSIONS)]


def _rotating(*parameters: object) -> object:
    """An older version: one of several that have much in common."""
    return pytest.param(*parameters, marks=pytest.mark.rotates("older versions", shares=4))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases") / "template"
    try:
        releases.publish_all(folder)
    except releases.Missing as error:
        pytest.skip(str(error))
    return folder


@pytest.mark.parametrize(
    ("preset", "old", "new"),
    [
        *(_rotating("standard", *pair) for pair in STEPS[:-1]),
        *(_rotating("minimal", *pair) for pair in STEPS[:-1] if FULL),
        *(pytest.param(preset, *STEPS[-1]) for preset in ("standard", "minimal")),
    ],
)
def test_an_update_to_the_next_version_gives_what_a_new_copy_gives(
    template: Path, tmp_path: Path, preset: str, old: str, new: str
) -> None:
    given = {"preset": preset}
    service = world.Service.make(template, tmp_path / "service", version=old, **given)
    done = service.update("--vcs-ref", new)
    assert done.returncode == 0, done.stdout
    fresh = world.Service.make(template, tmp_path / "fresh", version=new, **given)
    assert service.tree() == fresh.tree()


@pytest.mark.parametrize("old", VERSIONS[:-2] if FULL else VERSIONS[:1])
def test_an_update_over_several_versions_gives_what_a_new_copy_gives(
    template: Path, tmp_path: Path, old: str
) -> None:
    service = world.Service.make(template, tmp_path / "service", version=old)
    done = service.update()
    assert done.returncode == 0, done.stdout
    assert service.answers()["_commit"] == releases.NOW
    fresh = world.Service.make(template, tmp_path / "fresh", version=releases.NOW)
    assert service.tree() == fresh.tree()


# Where a change of everything meets what people wrote; FULL=1: all the tests that a service has.
TESTS = ["orders", "items", "test_documentation.py", "platform/data/test_migrations.py"]


@pytest.mark.timeout(3600 if FULL else 1800)
@pytest.mark.parametrize(
    ("old", "example"),
    [
        *(_rotating(*each) for each in zip(VERSIONS[:-2], cycle([False, True]), strict=False)),
        pytest.param(VERSIONS[-2], True),
    ],
)
def test_an_update_from_any_version_keeps_every_line_of_people(
    template: Path, tmp_path: Path, old: str, example: bool
) -> None:
    service = world.Service.make(template, tmp_path / "service", version=old)
    own = edits.own_when_flat() if old in releases.BEFORE_TAGS else edits.OWN
    changes = edits.edit(service, example=example, own=own)
    assert len(changes) > 10
    done = service.update()
    assert done.returncode == 0, done.stdout
    assert edits.lost(service, changes, own=own, moved=edits.moved(done.stdout)) == []
    for path in edits.resolve(service):
        assert f"\n    {path}\n" in done.stdout
    assert {line[:2] for line in service.status()} <= {" M", "??", " D", "UU"}
    edits.adopt(service)
    list(edits.redo(service))  # for what had no place in that version, too
    service.holds(*([] if FULL else [f"tests/{name}" for name in TESTS]))
