"""The dev container: its command prepares the service for its user, and tests with servers pass."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from . import images
from .engine import Engine

TESTS = "tests/platform/data/test_pool.py tests/platform/data/test_redis.py"
USER = 1000  # of Microsoft's images, "vscode"


@pytest.mark.rotates("slow live tests", shares=2)
def test_the_service_is_ready_after_the_command_of_the_container(
    docker: Engine, project: Path, tmp_path: Path
) -> None:
    folder, access = tmp_path / "service", tmp_path / "access"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".env", ".secrets"))
    access.mkdir()
    described = json.loads((folder / ".devcontainer/devcontainer.json").read_text())
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)
    workspace = f"/workspaces/{described['name']}"
    said = docker.docker(
        *(
            "run",
            "--rm",
            "--init",
            "--network",
            "host",
            "--user",
            str(USER),
            "--env",
            "HOME=/home/vscode",
        ),
        *(f"--env={name}={value}" for name, value in described["containerEnv"].items()),
        *(images.mounts(access) if docker.own else ()),
        *(f"--volume={folder}:{workspace}", "--workdir", workspace, described["image"]),
        *("sh", "-ec", f"{described['postCreateCommand']}\nuv run pytest -q -n 0 {TESTS}"),
    )
    assert " passed" in said.splitlines()[-1]
    assert (folder / ".git/hooks/pre-commit").exists()
