"""deploy/ci.sh, run against recorders instead of ``gcloud``, ``docker`` and ``curl``."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.platform import jobs
from tests.conftest import ROOT
from tests.deploy.test_cloud_run import spec_of

IMAGE = "europe-west1-docker.pkg.dev/project/images/service@sha256:feed"
BEFORE = "europe-west1-docker.pkg.dev/project/images/service@sha256:beef"
URL = "https://service-abc.a.run.app"
PARAMETERS = """PROJECT=project
REGION=europe-west1
REPOSITORY=europe-west1-docker.pkg.dev/project/images
ACCOUNT=service@project.iam.gserviceaccount.com
NETWORK=default
SUBNETWORK=default
DOMAIN=api.example.com
"""
# Records each call and the documents passed to it, and responds by the first rule whose words are
# all in the call.
RECORDER = f"""#!{sys.executable}
import json, os, sys
call = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
passed = [open(path).read() for path in sys.argv[1:] if path.endswith(".yaml")]
with open("calls", "a") as calls:
    calls.write(json.dumps([call, *passed]) + "\\n")
with open("credentials", "a") as used:
    used.write(os.environ.get("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", "-") + "\\n")
for words, output, code in json.load(open("rules")):
    if all(word in call + "".join(passed) for word in words):
        print(output)
        sys.exit(code)
"""
Rule = tuple[list[str], str, int]
GCLOUD: list[Rule] = [
    (["artifacts docker images describe"], "", 1),
    (["services list --region europe-west1", "metadata.name=service"], "service", 0),
    (["describe", "status.url"], URL, 0),
    # What a release left behind that was interrupted: the last revision is not the one that serves.
    (["describe", "status.traffic"], "10\tservice-00003\n90\tservice-00002\n\tservice-00001", 0),
    (["describe", "latestCreated"], "service-00004", 0),
    (["revisions describe service-00002", "image"], BEFORE, 0),
    (["logging read", "cloud_run_job"], "a line of the migrations", 0),
]
NOTHING_SERVES: Rule = (["services list"], "", 0)


class Release:
    """Runs of the script in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "deploy").mkdir()
        for name in ("ci.sh", "run.yaml"):
            (folder / "deploy" / name).write_text((ROOT / "deploy" / name).read_text())
        (folder / "deploy/smoke.sh").write_text('curl smoke "$1"\n')
        self.parameters = folder / "deploy/parameters"
        self.parameters.write_text(PARAMETERS)
        for name in ("gcloud", "docker", "curl"):
            (folder / name).write_text(RECORDER)
            (folder / name).chmod(0o755)

    def run(self, *arguments: str, rules: list[Rule] | None = None, **variables: str) -> int:
        (self.folder / "rules").write_text(json.dumps([*(rules or []), *GCLOUD]))
        given = {"DEPLOY_TARGET": "service", "RELEASE_TIMEOUT": "0"}
        given |= {"CANARY_SECONDS": "15", "RELEASE_POLL": "0"}
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

    def calls(self) -> list[list[str]]:
        """Return each call with the documents passed to it."""
        if not (self.folder / "calls").exists():
            return []
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def steps(self) -> list[str]:
        """Return the calls that change something."""
        calls = [" ".join(call.split()[:4]) for call, *_ in self.calls()]
        reads = ("describe", "list", "logging")
        return [call for call in calls if not any(word in call for word in reads)]

    def traffic(self) -> list[Any]:
        """Return how the requests are distributed, in order: by a document, or by a call."""
        found: list[Any] = []
        for call, *passed in self.calls():
            if "update-traffic" in call:
                found.append(call.split("--to-")[1])
            documents = map(yaml.safe_load, passed)
            found += [each["spec"]["traffic"] for each in documents if "traffic" in each["spec"]]
        return found

    def images(self) -> list[str]:
        """Return the images in the passed documents, in order."""
        return [
            line.split('"')[1]
            for _, *passed in self.calls()
            for document in passed
            for line in document.splitlines()
            if "image: " in line
        ]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


@pytest.mark.parametrize("call", ["services list", "status.traffic", "revisions describe"])
def test_without_an_answer_to_what_serves_nothing_is_changed(release: Release, call: str) -> None:
    """It would be taken for a first release: all at once, and with nothing to go back to."""
    assert release.run(IMAGE, rules=[([call], "", 1)]) != 0
    assert release.steps() == []


def test_migrations_come_before_the_new_version(release: Release) -> None:
    assert release.run(IMAGE) == 0, release.stderr
    pools = ["gcloud run worker-pools replace"] * len(jobs.BACKGROUND_PROCESSES)
    assert release.steps() == [
        "gcloud run jobs replace",
        "gcloud run jobs execute",
        "gcloud run services replace",
        "curl --fail --silent --show-error",
        "curl smoke https://next---service-abc.a.run.app",
        "gcloud run services update-traffic",
        "gcloud run services replace",
        *pools,
        "curl --fail --silent --show-error",
        f"curl smoke {URL}",
    ]
    assert set(release.images()) == {IMAGE}
    assert f"{URL}/health/ready" in release.calls()[-2][0]


ALL = [{"latestRevision": True, "percent": 100}]


def test_a_new_version_has_no_requests_then_a_tenth_then_all(release: Release) -> None:
    assert release.run(IMAGE) == 0, release.stderr
    nothing = [
        {"revisionName": "service-00002", "percent": 100},
        {"latestRevision": True, "tag": "next"},
    ]
    assert release.traffic() == [nothing, "tags next=10", ALL]


def test_a_version_that_fails_a_tenth_of_the_requests_gets_no_more(release: Release) -> None:
    failures = (["logging read", "revision_name=service-00004"], "\n".join("abcdefghij"), 0)
    assert release.run(IMAGE, rules=[failures]) == 1
    assert release.traffic()[1:] == ["tags next=10", "revisions service-00002=100", ALL]
    assert release.images()[-1] == BEFORE
    assert "too many of its first requests failed" in release.stderr


def test_failed_requests_that_cannot_be_counted_are_too_many(release: Release) -> None:
    denied = (["logging read", "cloud_run_revision"], "", 1)
    assert release.run(IMAGE, rules=[denied]) == 1
    assert release.images()[-1] == BEFORE


def test_a_few_failed_requests_stop_no_release(release: Release) -> None:
    failures = (["logging read", "cloud_run_revision"], "\n".join("abcdefghi"), 0)
    assert release.run(IMAGE, rules=[failures]) == 0, release.stderr


def test_the_canary_can_be_left_out(release: Release) -> None:
    assert release.run(IMAGE, CANARY_SECONDS="0") == 0, release.stderr
    assert release.traffic() == [ALL]


def test_passed_documents_are_complete(release: Release) -> None:
    assert release.run(IMAGE) == 0, release.stderr
    passed = [yaml.safe_load(each) for _, *documents in release.calls() for each in documents]
    names = [document["metadata"]["name"] for document in passed]
    beside = [f"service-{name}" for name in jobs.BACKGROUND_PROCESSES]
    assert names == ["service-migrate", "service", "service", *sorted(beside, key=names.index)]
    assert "${" not in json.dumps(passed)
    assert "api.example.com,*.run.app" in json.dumps(passed)
    assert environments(passed) == {"production"}


def environments(passed: list[dict[str, Any]]) -> set[str]:
    containers = [spec_of(document)["containers"][0] for document in passed]
    return {v["value"] for each in containers for v in each["env"] if v["name"] == "ENVIRONMENT"}


def test_another_service_has_parameters_of_its_own(release: Release) -> None:
    name = "deploy/parameters.staging"
    (release.folder / name).write_text(f"{PARAMETERS}ENVIRONMENT=staging\n")
    assert release.run(IMAGE, DEPLOY_PARAMETERS=name) == 0, release.stderr
    passed = [yaml.safe_load(each) for _, *documents in release.calls() for each in documents]
    assert environments(passed) == {"staging"}


def test_failed_migrations_change_nothing_and_are_shown(release: Release) -> None:
    assert release.run(IMAGE, rules=[(["jobs execute"], "", 1)]) == 1
    assert release.steps() == ["gcloud run jobs replace", "gcloud run jobs execute"]
    assert "a line of the migrations" in release.stderr
    assert f"nothing else was changed: {BEFORE} serves" in release.stderr


@pytest.mark.parametrize("kind", ["services", "curl", "curl smoke", URL, f"smoke {URL}"])
def test_a_version_that_does_not_become_ready_is_rolled_back(release: Release, kind: str) -> None:
    words = ["services replace", IMAGE] if kind == "services" else ["curl", kind]
    assert release.run(IMAGE, rules=[(words, "", 1)]) == 1
    assert release.images()[-1] == BEFORE
    assert release.traffic()[-2:] == ["revisions service-00002=100", ALL]
    assert f"{BEFORE} serves again" in release.stderr


def test_the_first_version_cannot_be_rolled_back(release: Release) -> None:
    assert release.run(IMAGE, rules=[NOTHING_SERVES, (["curl"], "", 22)]) == 1
    assert set(release.images()) == {IMAGE}
    assert release.traffic() == [ALL]


def test_a_rollback_runs_no_migrations(release: Release) -> None:
    assert release.run("--back", BEFORE) == 0, release.stderr
    assert not any("jobs" in step for step in release.steps())
    assert set(release.images()) == {BEFORE}
    assert release.traffic() == [ALL]


def test_an_image_from_another_registry_is_copied_first(release: Release) -> None:
    assert release.run("registry.example.com/name@sha256:cafe") == 0, release.stderr
    docker = [call.split()[1] for call, *_ in release.calls() if call.startswith("docker")]
    assert sorted(docker) == ["login", "pull", "push", "tag"]
    assert set(release.images()) == {"europe-west1-docker.pkg.dev/project/images/service:cafe"}


def test_an_image_that_was_copied_before_is_not_copied_again(release: Release) -> None:
    there = (["artifacts docker images describe", "images/service:cafe"], "", 0)
    assert release.run("registry.example.com/name@sha256:cafe", rules=[there]) == 0, release.stderr
    assert not any(call.startswith("docker ") for call, *_ in release.calls())
    assert set(release.images()) == {"europe-west1-docker.pkg.dev/project/images/service:cafe"}


def test_an_image_that_cannot_be_read_is_explained(release: Release) -> None:
    denied = (["docker pull"], "", 1)
    assert release.run("registry.example.com/name@sha256:cafe", rules=[denied]) == 1
    assert "docker login registry.example.com" in release.stderr
    assert release.images() == []


def test_what_is_missing_is_named(release: Release) -> None:
    assert release.run() == 2
    assert release.run(IMAGE, DEPLOY_TARGET="") == 2
    assert "DEPLOY_TARGET" in release.stderr
    release.parameters.write_text(PARAMETERS.replace("NETWORK=default\n", "", 1))
    assert release.run(IMAGE) == 2
    assert "has no line NETWORK=" in release.stderr
    assert not any("replace" in step for step in release.steps())
    release.parameters.unlink()
    assert release.run(IMAGE) == 2
    assert "docs/deploy.md" in release.stderr


def test_a_pipeline_exchanges_its_token_for_credentials(release: Release, tmp_path: Path) -> None:
    given = {
        "GOOGLE_TOKEN_FILE": str(tmp_path / "token"),
        "GOOGLE_IDENTITY_PROVIDER": "projects/1/locations/global/providers/ci",
        "GOOGLE_SERVICE_ACCOUNT": "deployer@project.iam.gserviceaccount.com",
    }
    assert release.run(IMAGE, **given) == 0, release.stderr
    first = release.calls()[0][0]
    assert first.startswith("gcloud iam workload-identity-pools create-cred-config projects/1/")
    assert f"--credential-source-file {tmp_path / 'token'}" in first
    [without, *used] = (tmp_path / "credentials").read_text().splitlines()
    assert (without, {*used}) == ("-", {first.split("--output-file ")[1]})
    assert not Path(used[0]).exists()


def test_a_missing_account_of_a_pipeline_is_named(release: Release, tmp_path: Path) -> None:
    assert release.run(IMAGE, GOOGLE_TOKEN_FILE=str(tmp_path), GOOGLE_IDENTITY_PROVIDER="p") != 0
    assert "GOOGLE_SERVICE_ACCOUNT" in release.stderr
    assert release.calls() == []
