"""A service that nobody changed is, after an update, what a new one would be."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.updates import edits, releases, world

VERSIONS = [*releases.kept(), releases.NOW]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases") / "template"
    try:
        releases.publish_all(folder)
    except releases.Missing as error:
        pytest.skip(str(error))
    return folder


@pytest.mark.parametrize("given", [{}, {"preset": "minimal"}], ids=["standard", "minimal"])
@pytest.mark.parametrize(("old", "new"), [*pairwise(VERSIONS)])
def test_an_update_to_the_next_version_gives_what_a_new_copy_gives(
    template: Path, tmp_path: Path, old: str, new: str, given: dict[str, str]
) -> None:
    service = world.Service.make(template, tmp_path / "service", version=old, **given)
    done = service.update("--vcs-ref", new)
    assert done.returncode == 0, done.stdout
    fresh = world.Service.make(template, tmp_path / "fresh", version=new, **given)
    assert service.tree() == fresh.tree()


@pytest.mark.parametrize("old", VERSIONS[:-1])
def test_an_update_from_any_version_to_now_gives_what_a_new_copy_gives(
    template: Path, tmp_path: Path, old: str
) -> None:
    service = world.Service.make(template, tmp_path / "service", version=old)
    done = service.update()
    assert done.returncode == 0, done.stdout
    assert service.answers()["_commit"] == releases.NOW
    fresh = world.Service.make(template, tmp_path / "fresh", version=releases.NOW)
    assert service.tree() == fresh.tree()


@pytest.mark.parametrize("old", VERSIONS[:-1])
def test_an_update_from_any_version_to_now_keeps_every_line_of_people(
    template: Path, tmp_path: Path, old: str
) -> None:
    service = world.Service.make(template, tmp_path / "service", version=old)
    added = edits.edit(service)
    assert len(added) > 5
    done = service.update()
    assert done.returncode == 0, done.stdout
    assert edits.lost(service, added) == []
    listed = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    surprises = {line for line in service.status() if not line.startswith((" M", "??", " D"))}
    assert {line.split()[-1] for line in surprises} <= set(listed)
