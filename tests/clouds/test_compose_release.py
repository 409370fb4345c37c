"""Releases on one machine that end half-way, or at the same time, on a stand-in of Docker.

Real containers are in tests/live/containers.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import generator
from tests.updates import world

# Writes down which image serves. With a file `hold`, it waits in the middle, as a slow start does.
DOCKER = """\
#!/bin/sh
case $* in
"compose config --services") echo api; echo migrate ;;
"compose up "*)
    echo starting
    touch ../up
    while [ -f ../hold ]; do sleep 0.05; done
    echo started
    echo "$IMAGE" >../serving
    ;;
esac
"""
# As sshd does, it runs the command in a session of its own, which a broken connection does not end.
SSH = """\
#!/bin/bash
set -o pipefail
for command; do :; done
cd "$MACHINE" && setsid sh -c "$command" 2>&1 | cat
"""


@dataclass(frozen=True)
class Machine:
    """A machine with the service's repository."""

    folder: Path
    programs: Path

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["sh", *command],
            cwd=self.folder,
            env={
                "PATH": f"{self.programs}:/usr/bin:/bin",
                "SMOKE_URL": "none",
                "MACHINE": str(self.folder.parent),
                "DEPLOY_TARGET": "app@example.com",
                "DEPLOY_KEY": "key",
                "DEPLOY_HOST_KEY": "host",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def release(self, image: str) -> str:
        return self.start("deploy/release.sh", image).communicate(timeout=60)[0]

    def starts(self, *command: str) -> "subprocess.Popen[str]":
        """A release that is held while it starts containers."""
        (self.folder.parent / "hold").touch()
        (self.folder.parent / "up").unlink(missing_ok=True)
        running = self.start(*command)
        until((self.folder.parent / "up").exists)
        return running

    def goes_on(self) -> None:
        (self.folder.parent / "hold").unlink()

    def serving(self) -> str:
        return (self.folder.parent / "serving").read_text().strip()

    def releases(self) -> list[str]:
        return (self.folder / ".releases").read_text().split()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = generator.render(
        template, tmp_path_factory.mktemp("made") / "service", deploy="compose", preset="minimal"
    )
    (folder / ".env").write_text("COMPOSE_FILE=compose.yaml:compose.production.yaml\n")
    world.git(folder, "init", "--quiet")
    world.commit(folder)
    world.git(folder, "remote", "add", "origin", str(folder / ".git"))
    return folder


@pytest.fixture
def machine(project: Path, tmp_path: Path) -> Machine:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in (("docker", DOCKER), ("ssh", SSH)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    return Machine(shutil.copytree(project, tmp_path / "service"), programs)


def test_a_release_goes_on_when_its_pipeline_is_cancelled(machine: Machine) -> None:
    machine.release("one")
    pipeline = machine.starts("deploy/ci.sh", "two")
    os.killpg(pipeline.pid, signal.SIGKILL)
    pipeline.communicate(timeout=60)
    machine.goes_on()
    until(lambda: machine.serving() == "two")
    until(lambda: "is running" not in machine.release("two"))
    assert machine.releases() == ["one", "two"]


def test_a_pipeline_shows_the_release_and_fails_with_it(machine: Machine) -> None:
    said, _ = (done := machine.start("deploy/ci.sh", "one")).communicate(timeout=60)
    assert "starting\nstarted\nrelease: one serves" in said
    assert done.returncode == 0
    (machine.programs / "docker").write_text("#!/bin/sh\nexit 1\n")
    said, _ = (done := machine.start("deploy/ci.sh", "two")).communicate(timeout=60)
    assert "the migrations failed" in said
    assert done.returncode == 1


def test_two_releases_at_once_are_refused(machine: Machine) -> None:
    first = machine.starts("deploy/release.sh", "one")
    assert "another release is running" in machine.release("two")
    machine.goes_on()
    assert "one serves" in first.communicate(timeout=60)[0]
    assert machine.releases() == ["one"]


def test_what_was_killed_half_way_can_be_taken_back(machine: Machine) -> None:
    for image in ("one", "two"):
        machine.release(image)
    killed = machine.starts("deploy/release.sh", "three")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    machine.goes_on()
    assert "two serves again" in machine.release("--back")
    assert machine.serving() == "two"
    assert machine.releases() == ["one", "two"]


def test_a_version_that_fails_is_not_listed(machine: Machine) -> None:
    fails = DOCKER.replace("touch ../up", '[ "$IMAGE" != bad ] || exit 1')
    (machine.programs / "docker").write_text(fails)
    assert "did not get ready" in machine.release("bad")
    assert machine.releases() == []
    machine.release("one")
    assert "one serves again" in machine.release("bad")
    assert machine.releases() == ["one"]
