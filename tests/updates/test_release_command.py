"""The command that makes a version: what it refuses, and what it leaves."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import generator
from tests.updates import world

CHANGELOG = """# Changelog

## Unreleased

- Ships have names.

### When you update

- Give your ships names.

## 0.1.0 (2026-01-01)

- Ships.
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    world.git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    world.commit(tmp_path)
    world.git(tmp_path, "tag", "0.1.0")
    return tmp_path


def release(repository: Path, version: str) -> subprocess.CompletedProcess[str]:
    script = generator.ROOT / ".ci" / "release.py"
    command = [sys.executable, str(script), version]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_a_version_is_a_tag_with_its_notes_and_a_section_with_a_date(repository: Path) -> None:
    done = release(repository, "0.2.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("git push --atomic origin main 0.2.0\n")
    notes = world.git(repository, "tag", "--list", "0.2.0", "--format=%(contents)")
    assert "- Ships have names.\n\n### When you update\n\n- Give your ships names.\n" in notes
    assert "- Ships.\n" not in notes
    text = (repository / "CHANGELOG.md").read_text()
    today = datetime.now(UTC).date()
    assert f"## Unreleased\n\nNothing yet.\n\n## 0.2.0 ({today})\n\n- Ships have names." in text
    assert world.git(repository, "status", "--porcelain") == ""
    assert world.git(repository, "describe", "--exact-match").strip() == "0.2.0"


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("", "a version is written like 1.2.3"),
        ("v0.2", "a version is written like 1.2.3"),
        ("0.1.0", "it has to come after 0.1.0"),
        ("0.0.9", "it has to come after 0.1.0"),
    ],
)
def test_what_is_no_next_version_is_refused(repository: Path, version: str, reason: str) -> None:
    done = release(repository, version)
    assert done.returncode == 1
    assert reason in done.stderr
    assert world.git(repository, "tag").split() == ["0.1.0"]


def _nothing_new(repository: Path) -> None:
    text = CHANGELOG.split("- Ships have")[0] + "Nothing yet.\n\n## 0.1.0 (2026-01-01)\n"
    (repository / "CHANGELOG.md").write_text(text)
    world.commit(repository)


def _no_advice(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text(CHANGELOG.replace("### When you update", "### More"))
    world.commit(repository)


def _not_committed(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text(CHANGELOG + "More.\n")


def _elsewhere(repository: Path) -> None:
    world.git(repository, "switch", "--quiet", "--create", "idea")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_nothing_new, "CHANGELOG.md has nothing under `## Unreleased`"),
        (_no_advice, "does not say what updaters do, under `### When you update`"),
        (_not_committed, "there are changes that are not committed"),
        (_elsewhere, "versions are made on main"),
    ],
)
def test_what_is_not_ready_is_not_released(repository: Path, spoil: object, reason: str) -> None:
    assert callable(spoil)
    spoil(repository)
    before = world.git(repository, "rev-parse", "HEAD")
    done = release(repository, "0.2.0")
    assert done.returncode == 1
    assert reason in done.stderr
    assert world.git(repository, "rev-parse", "HEAD") == before
    assert world.git(repository, "tag").split() == ["0.1.0"]
