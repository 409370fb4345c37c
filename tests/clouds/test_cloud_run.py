"""The documents for Cloud Run match Google's description of its API; the script is a clean one."""

from pathlib import Path

import pytest
import yaml

from tests import generator
from tests.clouds import validators

OTHERWISE = [{"queue": "celery", "tracing": "otlp"}, {"queue": "none", "tracing": "none"}]


@pytest.fixture(scope="module", params=OTHERWISE, ids=lambda answers: answers["queue"])
def project(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("cloud_run") / "service"
    return generator.render(template, folder, deploy="cloud_run", **request.param)


def test_nothing_is_found(project: Path) -> None:
    assert validators.yamllint(project) == ""
    assert validators.shellcheck(project) == ""
    assert validators.cloud_run_schema(project) == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("taskCount: 1", "tasks: 1", "there is no such field"),
        ("timeoutSeconds: 3600", "timeoutSeconds: soon", "is not of type integer"),
        ("cpu-throttling", "cpu-throttle", "there is no annotation"),
        ("run.googleapis.com/startup-cpu-boost", "run.googleapis.com/ingress", "Revision: there"),
    ],
)
def test_a_fault_is_found(template: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    broken = generator.render(template, tmp_path / "service", deploy="cloud_run")
    path = broken / "deploy/run.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert said in validators.cloud_run_schema(broken)


def test_a_fault_of_an_alerting_policy_is_found(template: Path, tmp_path: Path) -> None:
    broken = generator.render(template, tmp_path / "service", deploy="cloud_run")
    path = broken / "deploy/alerts/latency-page.yaml"
    path.write_text(path.read_text().replace("combiner: OR", "combiner: EITHER"))
    assert "latency-page.combiner: is none of" in validators.cloud_run_schema(broken)


def test_processes_beside_the_api_are_pools_where_there_are_some(project: Path) -> None:
    documents = yaml.safe_load_all((project / "deploy/run.yaml").read_text())
    kinds = [document["kind"] for document in documents]
    beside = "cronsim" in (project / "pyproject.toml").read_text()  # of the worker
    assert kinds == ["Job", "Service", *["WorkerPool"] * (1 if beside else 0)]
