"""A virtual environment for each queue, with the dependencies of every other option in it.

So no render needs one of its own. Queues are kept apart because they disagree on the version of
redis-py. mypy and the services' modules run from there. An environment stays below ``build/`` until
what is required changes; test processes that come at the same time wait for the first to make it.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from extensions import options
from tests import generator

BUILD = generator.ROOT / "build"
UV = [sys.executable, "-m", "uv"]


def python_for(project: Path) -> Path:
    """Return a Python that has all that a rendered project needs, whatever else was answered."""
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))
    return _python_with(requirements(project, answers["queue"]), answers["queue"])


def requirements(project: Path, queue: str) -> list[str]:
    """Return what a project declares, and what every option would add, other queues excepted."""
    declared = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    named = {*declared["project"]["dependencies"], *declared["dependency-groups"]["dev"]}
    for option in options.load():
        if option.question != "queue" or option.choice == queue:
            named |= {*option.dependencies, *option.dev_dependencies}
    return sorted(named)


def _python_with(required: list[str], queue: str) -> Path:
    day = os.environ.get("UV_EXCLUDE_NEWER", "")
    key = hashlib.sha256("\n".join([*required, day]).encode()).hexdigest()[:12]
    home = BUILD / f"toolbox-{queue}-{key}"
    with lock(BUILD / f"toolbox-{queue}.lock"):
        if not (home / "complete").exists():
            for old in BUILD.glob(f"toolbox-{queue}-*"):
                shutil.rmtree(old)
            subprocess.run([*UV, "venv", "--quiet", home], check=True)
            install = [*UV, "pip", "install", "--quiet", "--python", str(home), *required]
            subprocess.run(install, check=True)
            (home / "complete").touch()
    return home / "bin" / "python"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one of several processes go on at a time."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(python: Path, project: Path, *arguments: str, **environment: str) -> str:
    """Run ``python`` in a project's folder; return what went wrong, or nothing."""
    done = subprocess.run(
        [python, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": "src", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}" or "failed"


def commands(project: Path, target: str) -> list[list[str]]:
    """Return the commands of a target of a project's Makefile, without ``uv run``."""
    makefile = (project / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe, f"there is no target {target}"
    return [shlex.split(line)[2:] for line in recipe[1].splitlines()]


def make(python: Path, project: Path, target: str) -> str:
    """Run the commands of a target of a project's Makefile; return what those say that fail."""
    found = (run(python.with_name(c[0]), project, *c[1:]) for c in commands(project, target))
    return "\n".join(filter(None, found))


def hooks(python: Path, project: Path, folder: Path, skip: str, added: Mapping[str, str]) -> str:
    """Run the hooks of a project's commits on all of its files; return what they find, or nothing.

    They run on a copy in ``folder``, which is a Git repository. ``skip``: hooks to leave out.
    ``added``: texts of more files, by their paths.
    """
    uv = folder / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f'#!/bin/sh\nshift 2\ncommand="$1"\nshift\nexec "{python.parent}/$command" "$@"\n'
    )
    uv.chmod(0o755)
    copy = shutil.copytree(project, folder / "service")
    for path, text in added.items():
        (copy / path).write_text(text, encoding="utf-8")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    search = f"{uv.parent}{os.pathsep}{os.environ['PATH']}"
    return run(python.with_name("prek"), copy, "run", "--all-files", PATH=search, SKIP=skip)


def pytest(python: Path, project: Path, *tests: str) -> str:
    """Run tests that need neither servers nor plugins; return what went wrong, or nothing."""
    options = ["-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-p", "anyio"]
    options += ["-o", "addopts="]  # of plugins that are not loaded
    return run(python, project, *options, *tests, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
