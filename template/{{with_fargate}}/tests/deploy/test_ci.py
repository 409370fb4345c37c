"""deploy/ci.sh, run against recorders instead of ``aws``, ``docker`` and ``curl``."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

IMAGE = "1.dkr.ecr.eu-west-1.amazonaws.com/service@sha256:feed"
BEFORE = "1.dkr.ecr.eu-west-1.amazonaws.com/service@sha256:beef"
# Records each call, and responds by the first rule whose words are all in the call.
RECORDER = f"""#!{sys.executable}
import json, os, sys
call = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
with open("calls", "a") as calls:
    calls.write(call + "\\n")
for words, output, code in json.load(open("rules")):
    if all(word in call for word in words):
        print(output, file=sys.stderr if code else sys.stdout)
        sys.exit(code)
"""
Rule = tuple[list[str], str, int]
AWS: list[Rule] = [
    (["describe-stacks", "'Subnets'"], "subnet-1,subnet-2", 0),
    (["describe-stacks", "'Url'"], "https://api.example.com", 0),
    (["describe-stacks", "'Image'"], BEFORE, 0),
    (["describe-stacks", "'LogGroup'"], "logs", 0),
    (["run-task"], "arn:aws:ecs:eu-west-1:1:task/cluster/42", 0),
    (["describe-tasks"], "0\tEssential container in task exited", 0),
    (["get-log-events"], "a line of the migrations", 0),
    (["describe-stack-events"], "ApiTask no such image", 0),
    (["get-caller-identity"], "1", 0),
    (["ecr describe-images"], "", 255),
]


class Release:
    """Runs of the script in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "deploy").mkdir()
        for name in ("ci.sh", "stack.yaml"):
            (folder / "deploy" / name).write_text((ROOT / "deploy" / name).read_text())
        (folder / "deploy/smoke.sh").write_text('curl smoke "$1"\n')
        self.parameters = folder / "deploy/parameters"
        self.parameters.write_text("# ours\nRepository=service\nDomain=api.example.com\n")
        for name in ("aws", "docker", "curl"):
            (folder / name).write_text(RECORDER)
            (folder / name).chmod(0o755)

    def run(self, *arguments: str, rules: list[Rule] | None = None, **variables: str) -> int:
        (self.folder / "rules").write_text(json.dumps([*(rules or []), *AWS]))
        given = {"DEPLOY_TARGET": "service", "AWS_REGION": "eu-west-1", "RELEASE_TIMEOUT": "0"}
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "deploy/ci.sh", *arguments],
            cwd=self.folder,
            env={"PATH": path, **given, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.stderr = done.stderr
        return done.returncode

    def calls(self, *words: str) -> list[str]:
        """Return the calls with one of these words, in order."""
        if not (self.folder / "calls").exists():
            return []
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if any(word in line for word in words)]

    def changes(self) -> list[str]:
        """Return the first parameter of each change of the stack."""
        given = [c.partition("--parameter-overrides ")[2] for c in self.calls("formation deploy")]
        return [parameters.split()[0] for parameters in given]

    def traffic(self) -> list[str]:
        """Return how each new image gets its requests."""
        return re.findall(r" TrafficShift=(\w+)", "\n".join(self.calls("formation deploy")))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def test_migrations_come_before_the_new_version(release: Release) -> None:
    assert release.run(IMAGE) == 0, release.stderr
    steps = release.calls("formation deploy", "run-task", "tasks-stopped", "curl")
    assert [step.split()[0] for step in steps] == ["aws", "aws", "aws", "aws", "curl", "curl"]
    assert release.changes() == [f"MigrationImage={IMAGE}", f"Image={IMAGE}"]
    assert "run-task" in steps[1]
    assert "subnets=[subnet-1,subnet-2]" in steps[1]
    assert steps[4].endswith("https://api.example.com/health/ready")
    assert steps[5] == "curl smoke https://api.example.com"
    assert "Domain=api.example.com" in steps[0]
    assert f"{IMAGE} serves" in release.stderr


def test_without_an_answer_to_what_serves_nothing_is_changed(release: Release) -> None:
    """It would be taken for a first release: with nothing to go back to."""
    assert release.run(IMAGE, rules=[(["describe-stacks"], "Rate exceeded", 254)]) == 1
    assert "Rate exceeded" in release.stderr
    assert release.changes() == []


def test_a_first_release_finds_no_stack(release: Release) -> None:
    missing = (["describe-stacks", "'Image'"], "Stack with id service does not exist", 254)
    assert release.run(IMAGE, rules=[missing]) == 0, release.stderr
    assert release.changes() == [f"MigrationImage={IMAGE}", f"Image={IMAGE}"]


@pytest.mark.parametrize("ended", ["1\tEssential container in task exited", "None\tno image"])
def test_failed_migrations_change_nothing_and_are_shown(release: Release, ended: str) -> None:
    assert release.run(IMAGE, rules=[(["describe-tasks"], ended, 0)]) == 1
    assert release.changes() == [f"MigrationImage={IMAGE}"]
    assert "a line of the migrations" in release.stderr
    assert f"nothing else was changed: {BEFORE} serves" in release.stderr


@pytest.mark.parametrize(("output", "code"), [("None", 0), ("", 255)])
def test_a_task_that_cannot_start_fails_the_migration(
    release: Release, output: str, code: int
) -> None:
    assert release.run(IMAGE, rules=[(["run-task"], output, code)]) == 1
    assert "could not be started" in release.stderr
    assert release.changes() == [f"MigrationImage={IMAGE}"]


def test_a_version_that_does_not_start_is_explained(release: Release) -> None:
    refused = (["formation deploy", f" Image={IMAGE}"], "", 255)
    assert release.run(IMAGE, rules=[refused]) == 1
    assert "ApiTask no such image" in release.stderr
    assert f"{IMAGE} did not get ready: {BEFORE} serves" in release.stderr
    assert not release.calls("curl")


@pytest.mark.parametrize("fails", [["curl"], ["curl smoke"]], ids=["readiness", "smoke test"])
def test_a_version_that_fails_from_outside_is_rolled_back(
    release: Release, fails: list[str]
) -> None:
    assert release.run(IMAGE, rules=[(fails, "", 22)]) == 1
    assert release.changes()[-2:] == [f"Image={IMAGE}", f"Image={BEFORE}"]
    assert release.traffic() == ["Gradual", "AllAtOnce"]
    assert f"{BEFORE} serves again" in release.stderr


def test_the_first_version_cannot_be_rolled_back(release: Release) -> None:
    rules: list[Rule] = [(["curl"], "", 22), (["describe-stacks", "'Image'"], "None", 0)]
    assert release.run(IMAGE, rules=rules) == 1
    assert release.changes()[-1] == f"Image={IMAGE}"


def test_a_rollback_runs_no_migrations(release: Release) -> None:
    assert release.run("--back", BEFORE) == 0, release.stderr
    assert release.changes() == [f"Image={BEFORE}"]
    assert release.traffic() == ["AllAtOnce"]
    assert not release.calls("run-task")


def test_an_image_from_another_registry_is_copied_first(release: Release) -> None:
    assert release.run("registry.example.com/name@sha256:cafe") == 0, release.stderr
    copy = "1.dkr.ecr.eu-west-1.amazonaws.com/service:cafe"
    assert [c.split()[1] for c in release.calls("docker ")] == ["login", "pull", "tag", "push"]
    assert release.changes() == [f"MigrationImage={copy}", f"Image={copy}"]


def test_an_image_that_was_copied_before_is_not_copied_again(release: Release) -> None:
    """The documented first deployment runs the script twice, and tags are immutable."""
    there = (["ecr describe-images", "imageTag=cafe"], "", 0)
    assert release.run("registry.example.com/name@sha256:cafe", rules=[there]) == 0, release.stderr
    assert release.calls("docker ") == []
    assert release.changes()[-1].endswith("/service:cafe")


def test_an_image_that_cannot_be_read_is_explained(release: Release) -> None:
    denied = (["docker pull"], "", 1)
    assert release.run("registry.example.com/name@sha256:cafe", rules=[denied]) == 1
    assert "docker login registry.example.com" in release.stderr
    assert release.changes() == []


def test_a_tag_that_can_move_is_refused(release: Release) -> None:
    assert release.run("registry.example.com/name:latest") == 2
    assert "by its digest" in release.stderr
    assert release.changes() == []


def test_parameters_may_have_spaces_and_no_final_newline(release: Release) -> None:
    release.parameters.write_text("Repository=service\nLoginLimitClient=60/15 minutes")
    assert release.run(IMAGE) == 0, release.stderr
    assert "LoginLimitClient=60/15 minutes" in release.calls("formation deploy")[0]


def test_another_stack_has_parameters_of_its_own(release: Release) -> None:
    name = "deploy/parameters.staging"
    staging = release.folder / name
    staging.write_text("Repository=service-staging\nEnvironment=staging\n")
    image = "registry.example.com/name@sha256:feed"
    assert release.run(image, DEPLOY_PARAMETERS=name) == 0, release.stderr
    for change in release.calls("formation deploy"):
        assert "Environment=staging" in change
        assert "api.example.com" not in change
    assert "amazonaws.com/service-staging:feed" in release.calls("docker push")[0]
    assert release.run(image, DEPLOY_PARAMETERS="deploy/none") == 2
    assert "deploy/none is missing" in release.stderr


@pytest.mark.parametrize("missing", ["DEPLOY_TARGET", "AWS_REGION"])
def test_what_is_missing_is_named(release: Release, missing: str) -> None:
    assert release.run(IMAGE, **{missing: ""}) == 2
    assert missing in release.stderr
    assert not release.calls("aws")


def test_an_image_has_to_be_named(release: Release) -> None:
    assert release.run() == 2
    release.parameters.unlink()
    assert release.run(IMAGE) == 2
    assert "docs/deploy.md" in release.stderr
