"""A published template with two versions, a service made from the first, and what happens to it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import generator, suite

COPIER = [sys.executable, "-m", "copier"]
ROLES = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
ENVIRONMENT = {f"GIT_{role}": "test@example.com" for role in ROLES}
QUICK = {"PYTHONPATH": str(generator.ROOT / "tests" / "quick")}


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git in a folder; return what it says."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=check,
    )
    return done.stdout


def commit(folder: Path, message: str = "as it is") -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


def empty(folder: Path) -> None:
    """Remove all that is in a repository, but not the repository."""
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def publish(template: Path, version: str) -> None:
    """Commit what is in a template's repository, and tag it."""
    if not (template / ".git").exists():
        git(template, "init", "--quiet")
    commit(template, version)
    git(template, "repack", "-a", "-d", "--quiet")  # each update clones it three times
    git(template, "tag", version)


@dataclass(frozen=True)
class Service:
    """A service in a git repository, made from a published template."""

    folder: Path

    @classmethod
    def make(cls, template: Path, folder: Path, *, version: str, **given: str) -> "Service":
        copier("copy", "--vcs-ref", version, *_data(given), str(template), str(folder))
        git(folder, "init", "--quiet")
        commit(folder)
        git(folder, "repack", "-a", "-d", "--quiet")
        return cls(folder)

    def copy(self, to: Path) -> "Service":
        shutil.copytree(self.folder, to, symlinks=True)
        return Service(to)

    def within(self, repository: Path, name: str) -> Path:
        """Make it a folder of a repository with another file; return the repository."""
        shutil.rmtree(self.folder / ".git")
        shutil.copytree(self.folder, repository / name, symlinks=True)
        (repository / "notes.txt").write_text("<<<<<<< before updating\n")
        git(repository, "init", "--quiet")
        commit(repository)
        return repository

    def read(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, encoding="utf-8")

    def change(self, path: str, old: str, new: str) -> None:
        """Put ``new`` in the place of ``old``, which has to be there once."""
        text = self.read(path)
        assert text.count(old) == 1, (path, old)
        self.write(path, text.replace(old, new))

    def has(self, path: str) -> bool:
        return (self.folder / path).exists()

    def update(self, *options: str, **given: str) -> subprocess.CompletedProcess[str]:
        """Run ``copier update`` as people do; return its exit code and all that it wrote."""
        return copier("update", *_data(given), *options, cwd=self.folder, check=False)

    def holds(self, *tests: str) -> None:
        """Install it, lint it, check its types, and run those of these tests that it has."""
        # What mypy knows of the libraries is shared by the services that this process makes.
        process = os.environ.get("PYTEST_XDIST_WORKER", "alone")
        known = generator.ROOT / "build" / f"mypy-{process}-{self.answers().get('queue')}"
        for command in (
            ["sync", "--quiet"],
            ["run", "ruff", "check", "--quiet"],
            ["run", "ruff", "format", "--quiet", "--check"],
            ["run", "mypy", "--cache-dir", str(known)],
        ):
            subprocess.run([*suite.UV, *command], cwd=self.folder, check=True)
        suite.run(self.folder, *filter(self.has, tests), options="-q")

    def status(self) -> list[str]:
        return git(self.folder, "status", "--porcelain").splitlines()

    def answers(self) -> dict[str, Any]:
        answers: dict[str, Any] = yaml.safe_load(self.read(".copier-answers.yml"))
        return answers

    def tree(self) -> dict[str, bytes]:
        """Return what is in each file, except for the record of where it came from."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in generator.files(self.folder)
            if path.name != ".copier-answers.yml"
        }


def copier(
    *arguments: str, cwd: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    command = [*COPIER, arguments[0], "--trust", "--defaults", *arguments[1:]]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, **QUICK},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=check,
    )


def _data(given: dict[str, str]) -> Iterable[str]:
    for name, answer in given.items():
        yield from ("--data", f"{name}={answer}")
