"""deploy/release.sh, against a kubectl that plays the cluster: there is none here.

So these tests hold what is asked in which order and what is made of the answers, not the answers.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import generator
from tests.kubernetes import tools
from tests.kubernetes.conftest import IMAGE

STAND_IN = Path(__file__).parent / "kubectl_stand_in.py"
WELL = {
    "asked": [],
    "running": "",
    "migration": "SuccessCriteriaMet Complete",
    "revisions": {"api": 3, "scheduler": 5, "worker": 4},
    "broken": [],
    "refuses": "",
    "fails": [],
    "generation": "7",
    "canary": "7 Healthy",
}


@dataclass
class Cluster:
    """A service's repository, and the cluster that its scripts talk to."""

    folder: Path
    bin: Path

    def is_(self, **state: Any) -> None:
        (self.bin / "cluster.json").write_text(json.dumps({**WELL, **state}))

    def run(
        self, script: str, *arguments: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "REAL_KUBECTL": str(tools.kubectl()),
            "RELEASE_POLL": "0",
            **variables,
        }
        environment.pop("KUBECONFIG", None)
        return subprocess.run(
            ["sh", f"deploy/{script}", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @property
    def asked(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.bin / "cluster.json").read_text())["asked"]
        return found

    def lines(self, *start: str) -> list[str]:
        """Return what was asked and begins with these words."""
        words = (each["words"] for each in self.asked)
        return [" ".join(each) for each in words if tuple(each[: len(start)]) == start]

    @property
    def applied(self) -> list[list[str]]:
        return [each["objects"] for each in self.asked if "objects" in each]


@pytest.fixture(scope="module")
def repository(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("release") / "service"
    return generator.render(template, to, deploy="kubernetes")


@pytest.fixture
def cluster(repository: Path, tmp_path: Path) -> Cluster:
    shutil.copy(STAND_IN, tmp_path)
    command = tmp_path / "kubectl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / STAND_IN.name}" "$@"\n')
    command.chmod(0o755)
    # It answers each request with a status; the default service's smoke test asks for readiness.
    (tmp_path / "curl").write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/requests\ncat {tmp_path}/status\n'
    )
    (tmp_path / "curl").chmod(0o755)
    (tmp_path / "status").write_text("200")
    found = Cluster(repository, tmp_path)
    found.is_()
    return found


def test_a_release_migrates_first_and_then_applies_all_the_rest(cluster: Cluster) -> None:
    done = cluster.run("release.sh", "production", IMAGE)
    assert done.returncode == 0, done.stderr
    before, migration, rest = cluster.applied
    assert {each.partition("/")[0] for each in before} == {
        *("ConfigMap", "NetworkPolicy", "PrometheusRule", "ServiceAccount")
    }
    assert migration == ["Job/migrate"]
    assert {"Deployment/api", "Deployment/worker", "Rollout/api", "ScaledObject/worker"} <= {*rest}
    built = tools.kustomize(cluster.folder / "deploy/kubernetes/overlays/production")
    assert len(before + migration + rest) == built.count("\nkind: ")
    assert "the log of the migration" in done.stdout
    assert f"{IMAGE} serves production" in done.stderr
    assert {each["namespace"] for each in cluster.asked} == {"my-service"}
    assert not cluster.lines("rollout", "undo")


def test_the_old_migration_is_gone_before_the_new_one_starts(cluster: Cluster) -> None:
    cluster.run("release.sh", "staging", IMAGE)
    words = [each["words"][:2] for each in cluster.asked]
    second = [n for n, each in enumerate(cluster.asked) if "objects" in each][1]
    assert ["delete", "job"] in words[:second]
    assert {each["namespace"] for each in cluster.asked} == {"my-service-staging"}


def test_a_migration_that_fails_changes_nothing_and_is_shown(cluster: Cluster) -> None:
    cluster.is_(migration="FailureTarget Failed")
    done = cluster.run("release.sh", "production", IMAGE)
    assert done.returncode == 1
    assert "the log of the migration" in done.stdout
    assert "so nothing was changed" in done.stderr
    assert len(cluster.applied) == 2
    assert not cluster.lines("rollout", "undo")


def test_a_migration_that_runs_is_not_cut_off(cluster: Cluster) -> None:
    cluster.is_(running="1")
    done = cluster.run("release.sh", "production", IMAGE)
    assert done.returncode == 1
    assert "a migration is running" in done.stderr
    assert not cluster.lines("delete")


@pytest.mark.parametrize(
    "trouble",
    [{"broken": ["worker"]}, {"canary": "7 Degraded"}, {"refuses": "Deployment/worker"}],
    ids=["a pod does not get ready", "the canary breaks an objective", "the cluster refuses"],
)
def test_a_version_that_does_not_get_ready_is_taken_back(
    cluster: Cluster, trouble: dict[str, Any]
) -> None:
    cluster.is_(**trouble)
    done = cluster.run("release.sh", "production", IMAGE)
    assert done.returncode == 1
    assert f"{IMAGE} did not get ready" in done.stderr
    assert "the last lines of a pod" in done.stderr
    assert cluster.lines("rollout", "undo") == [
        f"rollout undo deployment/{name} --to-revision {revision}"
        for name, revision in {"api": 3, "scheduler": 5, "worker": 4}.items()
    ]
    assert "the version before it serves again" in done.stderr


def test_a_release_that_fails_its_smoke_test_is_taken_back(cluster: Cluster) -> None:
    (cluster.bin / "status").write_text("503")
    done = cluster.run("release.sh", "production", IMAGE, SMOKE_TIMEOUT="0")
    assert done.returncode == 1
    assert "https://api.example.com/health/ready does not answer with 200" in done.stderr
    assert len(cluster.lines("rollout", "undo")) == 3


@pytest.mark.parametrize(
    ("overlay", "given", "asked"),
    [
        ("production", {}, "https://api.example.com/health/ready"),
        ("staging", {}, "https://staging.api.example.com/health/ready"),
        ("staging", {"SMOKE_URL": "http://10.0.0.1"}, "http://10.0.0.1/health/ready"),
        ("staging", {"SMOKE_URL": "none"}, ""),
    ],
)
def test_the_smoke_test_calls_the_host_of_the_route_or_another_address(
    cluster: Cluster, overlay: str, given: dict[str, str], asked: str
) -> None:
    done = cluster.run("release.sh", overlay, IMAGE, **given)
    assert done.returncode == 0, done.stderr
    requests = cluster.bin / "requests"
    assert (requests.read_text() if requests.exists() else "").strip().endswith(asked)
    assert requests.exists() == bool(asked)


def test_a_canary_that_speaks_of_the_version_before_is_waited_for(cluster: Cluster) -> None:
    cluster.is_(canary="6 Healthy")
    done = cluster.run("release.sh", "production", IMAGE, RELEASE_TIMEOUT="15")
    assert done.returncode == 1
    assert len(cluster.lines("get", "rollout", "api")) > 3


def test_a_rollback_that_fails_is_not_said_to_have_worked(cluster: Cluster) -> None:
    (cluster.bin / "status").write_text("503")
    cluster.is_(fails=["rollout undo deployment/api"])
    done = cluster.run("release.sh", "production", IMAGE, SMOKE_TIMEOUT="0")
    assert done.returncode == 1
    assert "did not come back either" in done.stderr
    assert len(cluster.lines("rollout", "undo")) == 3


def test_a_cluster_that_stops_answering_ends_the_release(cluster: Cluster) -> None:
    cluster.is_(fails=["get job migrate --output jsonpath={.status.conditions"])
    done = cluster.run("release.sh", "production", IMAGE)
    assert done.returncode == 1
    assert "does not say what became of the migration" in done.stderr
    assert len(cluster.applied) == 2


def test_the_first_release_has_nothing_to_go_back_to(cluster: Cluster) -> None:
    cluster.is_(revisions={}, refuses="Deployment/api")
    done = cluster.run("release.sh", "production", IMAGE)
    assert done.returncode == 1
    assert "no version before it" in done.stderr
    assert not cluster.lines("rollout", "undo")


def test_going_back_takes_every_process_back_and_leaves_the_database(cluster: Cluster) -> None:
    done = cluster.run("release.sh", "production", "--back")
    assert done.returncode == 0, done.stderr
    undone = {line.rpartition("/")[2] for line in cluster.lines("rollout", "undo")}
    assert undone == {"api", "scheduler", "worker"}
    assert cluster.applied == []


def test_going_back_leaves_a_process_that_has_no_version_before(cluster: Cluster) -> None:
    cluster.is_(revisions={"aid": 1, "api": 3}, fails=["rollout undo deployment/aid"])
    done = cluster.run("release.sh", "production", "--back")
    assert done.returncode == 0, done.stderr
    assert cluster.lines("rollout", "undo") == ["rollout undo deployment/api"]
    assert "aid is new: it stays" in done.stderr


def test_going_back_half_way_is_said(cluster: Cluster) -> None:
    cluster.is_(fails=["rollout undo deployment/api"])
    done = cluster.run("release.sh", "production", "--back")
    assert done.returncode == 1
    assert "did not get ready" in done.stderr
    assert len(cluster.lines("rollout", "undo")) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of production staging"),
        (["nowhere", IMAGE], "one of production staging"),
        (["production"], "by its digest"),
        (["production", "registry.example.com/service:latest"], "by its digest"),
    ],
)
def test_what_cannot_be_released_is_refused(
    cluster: Cluster, arguments: list[str], said: str
) -> None:
    done = cluster.run("release.sh", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert cluster.asked == []


def test_ci_hands_its_key_to_kubectl_and_leaves_none_behind(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    key = {"DEPLOY_KUBECONFIG": "the key", "TMPDIR": str(tmp_path / "tmp")}
    done = cluster.run("ci.sh", IMAGE, DEPLOY_TARGET="staging", **key)
    assert done.returncode == 0, done.stderr
    assert {each["config"] for each in cluster.asked} == {"600 the key\n"}
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not list((cluster.folder / "deploy/kubernetes").glob("release.*"))


@pytest.mark.parametrize("missing", ["DEPLOY_TARGET", "DEPLOY_KUBECONFIG"])
def test_ci_says_what_is_not_set(cluster: Cluster, missing: str) -> None:
    given = {"DEPLOY_TARGET": "staging", "DEPLOY_KUBECONFIG": "x"}
    del given[missing]
    done = cluster.run("ci.sh", IMAGE, **given)
    assert done.returncode != 0
    assert f"{missing}: is not set" in done.stderr
