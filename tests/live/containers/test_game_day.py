"""The game day of a service, with one of its faults: the stack, the rules and the table work."""

import os
import subprocess
from pathlib import Path

import pytest

from .engine import Engine


@pytest.mark.rotates("slow live tests", shares=2)
def test_a_fault_fires_its_alert_and_the_runbooks_step_resolves_it(
    docker: Engine, project: Path, image: str
) -> None:
    command = ["uv", "run", "--frozen", "python", "tools/game_day.py", "Redis down"]
    environment = {**os.environ, **docker.environment, "IMAGE": image}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| Redis down | DependencyDown | " in done.stdout
    left = docker.docker(
        "ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=game-day"
    )
    assert not left
