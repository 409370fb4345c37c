"""``copier update`` moves a service along, and keeps what its people wrote."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copier
import plumbum
import pytest
import yaml

from tests import generator, matrix


@pytest.fixture(autouse=True)
def _identity_for_git() -> Iterator[None]:
    """Give Copier's git an identity: it keeps the environment from when it was imported."""
    roles = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    with plumbum.local.env(**{f"GIT_{role}": "test@example.com" for role in roles}):
        yield


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def release(template: Path, tag: str) -> None:
    git(template, "add", "--all")
    git(template, "commit", "--quiet", "--message", tag)
    git(template, "tag", tag)


def commit(service: Path) -> None:
    git(service, "add", "--all")
    git(service, "commit", "--quiet", "--message", "as it is")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The template as its first version, with a question that the next one won't have."""
    template = generator.copy_of_template(tmp_path / "published")
    git(template, "init", "--quiet")
    questions = (template / "copier.yml").read_text()
    old = "\nnickname:\n  type: str\n  default: none\n  when: true\n"
    (template / "copier.yml").write_text(questions + old)
    release(template, "1.0.0")
    (template / "copier.yml").write_text(questions)
    return template


def made_from(template: Path, service: Path, **given: Any) -> Path:
    copier.run_copy(str(template), service, data=given, defaults=True, unsafe=True, quiet=True)
    git(service, "init", "--quiet")
    commit(service)
    return service


def update(service: Path, **given: Any) -> None:
    copier.run_update(service, data=given, defaults=True, unsafe=True, overwrite=True, quiet=True)


def kept(service: Path) -> dict[str, Any]:
    record: dict[str, Any] = yaml.safe_load((service / ".copier-answers.yml").read_text())
    return record


def test_an_update_merges_and_forgets_a_question_that_is_gone(
    published: Path, tmp_path: Path
) -> None:
    service = made_from(published, tmp_path / "service", nickname="shoppy", preset="minimal")
    mine = (service / "src/app/main.py").read_text() + "\n# Mine.\n"
    (service / "src/app/main.py").write_text(mine)
    commit(service)
    (published / "template/src/app/news.py").write_text('"""New in this version."""\n')
    release(published, "1.1.0")
    update(service)
    assert (service / "src/app/news.py").exists()
    assert (service / "src/app/main.py").read_text() == mine
    assert "nickname" not in kept(service)
    assert kept(service)["_commit"] == "1.1.0"
    assert kept(service)["queue"] == "none"


def test_an_answer_can_change_in_a_service_that_exists(published: Path, tmp_path: Path) -> None:
    service = made_from(published, tmp_path / "service", preset="minimal")
    release(published, "1.1.0")
    update(service)
    commit(service)
    for question in ("queue", "auth", "tracing"):
        other = matrix.choices()[question]
        update(service, **{question: next(each for each in other if each != "none")})
        commit(service)
    assert kept(service)["preset"] == "minimal"
    wanted = {name: answer for name, answer in kept(service).items() if name[0] != "_"}
    fresh = generator.render(published, tmp_path / "fresh", **wanted)
    for path in generator.files(fresh):
        inside = path.relative_to(fresh)
        assert (service / inside).read_bytes() == path.read_bytes(), inside
    there = {path.relative_to(service) for path in generator.files(service)}
    assert there == {path.relative_to(fresh) for path in generator.files(fresh)}
